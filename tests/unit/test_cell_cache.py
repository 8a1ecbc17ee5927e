"""The cell cache: what it admits, serves, removes, and never serves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiary_df.config import Settings
from apiary_df.errors import QueryCancelled
from apiary_df.machine import cache_folder
from apiary_df.model import CellUse, ScanFile, ScanInput
from apiary_df.plan import codec
from apiary_df.plan.stages import EXCHANGE_STORE_URL
from apiary_df.store import Store, open_store
from apiary_df.worker.cell_cache import PIECE_BYTES, CellCache, Localized, QueryCells

BUCKET = "s3://bucket"
FRAGMENT = codec.arrow_scan(b"", f"{BUCKET}/")
"""A leaf whose format is kept in whole objects."""

LIMIT_BYTES = 100_000


class OfMemory(CellCache):
    """A cache of cells in memory, whose requests can be counted."""

    def __init__(self, folder: Path, *, limit_bytes: int | None = LIMIT_BYTES, at_first_use: bool = True) -> None:
        super().__init__(folder, limit_bytes=limit_bytes, at_first_use=at_first_use)
        self.bucket: Store = open_store(f"memory://{uuid.uuid4().hex}", environ={})

    def store_of(self, store_url: str) -> Store:
        assert store_url == BUCKET
        return self.bucket

    def again(self) -> OfMemory:
        """Return another process's way to the same folder."""
        other = OfMemory(self.folder, limit_bytes=self._limit_bytes, at_first_use=self.at_first_use)
        other.bucket = self.bucket
        return other

    def gets(self) -> int:
        return self.bucket.counts.snapshot()["get"]


@pytest.fixture
def cache(tmp_path: Path) -> OfMemory:
    return OfMemory(tmp_path / "cells")


def data_of(key: str, size: int = 1_000, version: int = 0) -> bytes:
    return (f"{key} {version} ".encode() * size)[:size]


def put(cache: OfMemory, *keys: str, size: int = 1_000, version: int = 0) -> None:
    for key in keys:
        cache.bucket.put(key, data_of(key, size, version))


def scan(*keys: str, size: int = 1_000) -> tuple[ScanInput, ...]:
    return (ScanInput(leaf=0, files=tuple(ScanFile(path=key, size_bytes=size) for key in keys), ordered=False),)


def contents(found: Localized) -> list[bytes]:
    assert found.stores == {0: EXCHANGE_STORE_URL}
    return [Path("/" + file.path).read_bytes() for file in found.scans[0].files]


def ask(cache: CellCache, scans: Sequence[ScanInput], query: str = "") -> tuple[Localized, CellUse]:
    """Ask for a scan by itself, and let go of it."""
    with cache.for_query(query or uuid.uuid4().hex, threading.Event()) as cells:
        found = cells.localized(scans, FRAGMENT)
        if found.stores:
            contents(found)
        return found, cells.use


def serve(cache: CellCache, *keys: str, size: int = 1_000) -> list[bytes]:
    with cache.for_query(uuid.uuid4().hex, threading.Event()) as cells:
        return contents(cells.localized(scan(*keys, size=size), FRAGMENT))


# -- admission ---------------------------------------------------------------------------------------------------------


def test_what_a_second_query_reads_is_kept_and_a_third_one_fetches_nothing(tmp_path: Path) -> None:
    cache = OfMemory(tmp_path / "cells", at_first_use=False)
    put(cache, "a", "b")
    wanted = scan("a", "b")
    found, use = ask(cache, wanted)
    assert (found.scans, found.stores, use) == (wanted, {}, CellUse(misses=2))
    assert cache.gets() == cache.bucket.counts.snapshot()["head"] == 0
    _, use = ask(cache, wanted)
    assert use == CellUse(misses=2, fetched_bytes=2_000, requests=4)
    _, use = ask(cache, wanted)
    assert use == CellUse(hits=2, hit_bytes=2_000, requests=2)
    assert serve(cache, "b", "a") == [data_of("b"), data_of("a")]


def test_a_query_that_reads_a_cell_twice_uses_it_once(tmp_path: Path) -> None:
    cache = OfMemory(tmp_path / "cells", at_first_use=False)
    put(cache, "a")
    for _ in range(3):
        assert not ask(cache, scan("a"), query="q1")[0].stores
    assert ask(cache, scan("a"), query="q2")[0].stores


def test_a_scan_that_reads_mostly_new_cells_stays_as_it_is(tmp_path: Path) -> None:
    cache = OfMemory(tmp_path / "cells", at_first_use=False)
    put(cache, "a", "b", "c")
    ask(cache, scan("a"))
    assert not ask(cache, scan("a", "b", "c"))[0].stores
    _, use = ask(cache, scan("a", "b"))
    assert use.fetched_bytes == 2_000


def test_one_query_asks_once_for_the_version_of_an_object(cache: OfMemory) -> None:
    put(cache, "a")
    for _ in range(3):
        ask(cache, scan("a"), query="q1")
    assert cache.bucket.counts.snapshot()["head"] == 1


def test_scans_of_files_are_nobodys_business(cache: OfMemory) -> None:
    wanted = (ScanInput(leaf=0, files=(ScanFile(path="etc/hosts", size_bytes=5),), ordered=False),)
    with cache.for_query("q", threading.Event()) as cells:
        found = cells.localized(wanted, codec.arrow_scan(b"", "file:///"))
        assert (found.scans, found.stores, cells.use) == (wanted, {}, CellUse())
    assert not cache.folder.exists()


def test_an_object_of_several_pieces_comes_whole(tmp_path: Path) -> None:
    cache = OfMemory(tmp_path / "cells", limit_bytes=None)
    size = 2 * PIECE_BYTES + 17
    put(cache, "large", size=size)
    assert serve(cache, "large", size=size) == [data_of("large", size)]
    assert cache.gets() == 3


# -- what is never served ----------------------------------------------------------------------------------------------


def test_a_changed_object_is_not_served_though_its_size_is_the_same(cache: OfMemory) -> None:
    put(cache, "a")
    assert serve(cache, "a") == [data_of("a")]
    put(cache, "a", version=1)
    assert serve(cache, "a") == [data_of("a", version=1)]
    assert len(list((cache.folder / "objects").iterdir())) == 1


def test_an_object_of_another_size_than_was_planned_is_left_to_the_scan(cache: OfMemory) -> None:
    put(cache, "a")
    serve(cache, "a")
    put(cache, "a", size=999)
    assert not ask(cache, scan("a"))[0].stores


def test_an_object_that_changes_while_it_is_fetched_is_left_to_the_scan(
    cache: OfMemory, caplog: pytest.LogCaptureFixture
) -> None:
    put(cache, "a")
    cells = cache.for_query("q", threading.Event())
    version = cells._version(cache.bucket, BUCKET, "a", scan("a")[0].files[0])
    assert version is not None
    put(cache, "a", version=1)
    assert not ask(cache, scan("a"), query="q")[0].stores
    assert "without the cell cache" in caplog.text
    assert serve(cache, "a") == [data_of("a", version=1)]


def test_a_vanished_object_is_left_to_the_scan_which_says_so(cache: OfMemory) -> None:
    put(cache, "a", "b")
    serve(cache, "a", "b")
    cache.bucket.delete(["a"])
    found, use = ask(cache, scan("a", "b"))
    assert not found.stores
    assert use.misses == 2


@pytest.mark.parametrize("harm", ["flipped", "flipped unseen", "cut short", "grown", "emptied", "removed"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_damaged_or_lost_file_is_not_served_and_fetched_anew(cache: OfMemory, harm: str, elsewhere: bool) -> None:
    put(cache, "a")
    serve(cache, "a")
    (path,) = (cache.folder / "objects").iterdir()
    stat = path.stat()
    if harm.startswith("flipped"):
        with path.open("r+b") as file:
            file.seek(500)
            file.write(b"#")
    elif harm == "removed":
        path.unlink()
    else:
        os.truncate(path, {"cut short": 400, "grown": 2_000, "emptied": 0}[harm])
    if harm == "flipped unseen":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    asking = cache.again() if elsewhere else cache
    first, _ = ask(asking, scan("a"))
    assert not first.stores or harm == "grown"
    assert serve(asking, "a") == [data_of("a")]


def test_the_same_url_at_another_service_is_another_object(tmp_path: Path) -> None:
    from apiary_df.store import StoreOptions

    places = {
        CellCache(tmp_path, limit_bytes=None, options=StoreOptions(endpoint=endpoint)).place("s3://b/x")
        for endpoint in ("http://one:1", "http://two:2")
    }
    assert len(places) == 2


# -- room --------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(asked=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), max_size=12), limit=st.integers(1, 9))
def test_what_was_not_used_for_longest_goes_first(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[int, int]], limit: int
) -> None:
    cache = OfMemory(tmp_path_factory.mktemp("lru") / "cells", limit_bytes=limit * 100)
    sizes = {f"k{number}": 100 * (1 + number % 4) for number in range(6)}
    for key, size in sizes.items():
        put(cache, key, size=size)
    model: list[str] = []
    for number, _ in asked:
        key = f"k{number}"
        served = bool(ask(cache, scan(key, size=sizes[key]))[0].stores)
        if key not in model and sizes[key] <= limit * 100:
            while sum(sizes[held] for held in model) + sizes[key] > limit * 100:
                model.pop(0)
        if served:
            model = [held for held in model if held != key] + [key]
        assert served == (sizes[key] <= limit * 100)
        assert list(cache.announced()) == [f"{BUCKET}/{held}" for held in model]
        assert cache.index.held_bytes() == sum(sizes[held] for held in model) <= limit * 100
    cache.close()


def test_what_a_scan_reads_does_not_go_away_under_it(tmp_path: Path) -> None:
    cache = OfMemory(tmp_path / "cells", limit_bytes=1_500)
    put(cache, "a", "b")
    with cache.for_query("q1", threading.Event()) as cells:
        found = cells.localized(scan("a"), FRAGMENT)
        assert not ask(cache.again(), scan("b"))[0].stores
        assert contents(found) == [data_of("a")]
    assert serve(cache, "b") == [data_of("b")]
    assert list(cache.announced()) == [f"{BUCKET}/b"]


def test_what_cannot_fit_pushes_nothing_out(tmp_path: Path) -> None:
    cache = OfMemory(tmp_path / "cells", limit_bytes=1_500)
    put(cache, "a")
    put(cache, "large", size=2_000)
    serve(cache, "a")
    assert not ask(cache, scan("large", size=2_000))[0].stores
    assert list(cache.announced()) == [f"{BUCKET}/a"]


def test_a_heartbeat_names_what_was_used_last(cache: OfMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.announced() == {}
    assert not cache.folder.exists()
    put(cache, "a", "b", "c")
    for key in ("a", "b", "c", "a"):
        serve(cache, key)
    monkeypatch.setattr("apiary_df.worker.cell_cache.ANNOUNCED_CELLS", 2)
    assert cache.announced() == {f"{BUCKET}/c": 1_000, f"{BUCKET}/a": 1_000}


# -- processes, and their ends -----------------------------------------------------------------------------------------


def test_a_new_process_finds_what_others_have_kept(cache: OfMemory) -> None:
    put(cache, "a")
    serve(cache, "a")
    cache.close()
    fetched = cache.gets()
    again = cache.again()
    assert serve(again, "a") == [data_of("a")]
    assert cache.gets() == fetched


def test_of_many_that_want_a_cell_one_fetches_it(cache: OfMemory) -> None:
    size = 50_000
    put(cache, "a", size=size)
    others = [cache.again() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        served = list(pool.map(lambda other: serve(other, "a", size=size), others))
    assert served == [[data_of("a", size)]] * 6
    assert cache.gets() == 1


def test_a_process_that_ended_in_the_middle_of_a_fetch_leaves_nothing_that_is_served(cache: OfMemory) -> None:
    put(cache, "a")
    cells = cache.for_query("q", threading.Event())
    cache.open()
    version = cells._version(cache.bucket, BUCKET, "a", scan("a")[0].files[0])
    assert version is not None
    pinned = cache.files.pin(version)
    pinned.write(0, b"half of it, and of another version")
    pinned.release()
    assert serve(cache.again(), "a") == [data_of("a")]


def test_files_of_which_the_index_says_nothing_are_removed(cache: OfMemory) -> None:
    put(cache, "a")
    serve(cache, "a")
    cache.close()
    orphan = cache.folder / "objects" / "orphan"
    orphan.write_bytes(b"?")
    again = cache.again()
    again.open()
    assert not orphan.exists()
    assert serve(again, "a") == [data_of("a")]


def test_a_damaged_index_is_made_anew(cache: OfMemory, caplog: pytest.LogCaptureFixture) -> None:
    put(cache, "a")
    serve(cache, "a")
    cache.close()
    (cache.folder / "index.sqlite").write_bytes(b"this is no database at all" * 1_000)
    again = cache.again()
    assert serve(again, "a") == [data_of("a")]
    assert "made anew" in caplog.text


def test_a_fork_uses_a_connection_of_its_own(cache: OfMemory) -> None:
    put(cache, "a")
    serve(cache, "a")
    child = os.fork()
    if child == 0:
        os._exit(0 if list(cache.announced()) == [f"{BUCKET}/a"] and cache.index._inherited else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert serve(cache, "a") == [data_of("a")]


def test_a_query_that_is_over_fetches_nothing_more(cache: OfMemory) -> None:
    put(cache, "a")
    over = threading.Event()
    over.set()
    with cache.for_query("q", over) as cells, pytest.raises(QueryCancelled):
        cells.localized(scan("a"), FRAGMENT)
    assert cache.gets() == 0


def test_a_query_that_ends_while_it_waits_for_anothers_fetch_stops_waiting(cache: OfMemory) -> None:
    put(cache, "a")
    cache.open()
    over = threading.Event()
    waiting = QueryCells(cache, "q", over)
    version = waiting._version(cache.bucket, BUCKET, "a", scan("a")[0].files[0])
    assert version is not None
    with cache.files.turn(f"{version.name} ((0, 1000),)", lambda: None), ThreadPoolExecutor(1) as pool:
        running = pool.submit(waiting.localized, scan("a"), FRAGMENT)
        over.set()
        with pytest.raises(QueryCancelled):
            running.result(timeout=60)


# -- the disk ----------------------------------------------------------------------------------------------------------

FULL = """
import logging, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_cell_cache as t
logging.basicConfig()

cache = t.OfMemory(Path(sys.argv[1]), limit_bytes=None)
t.put(cache, "a", size=900_000)
t.put(cache, "small", size=100)
t.serve(cache, "small", size=100)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
found, use = t.ask(cache, t.scan("a", size=900_000))
assert not found.stores and use.misses == 1, (found, use)
assert t.serve(cache, "small", size=100) == [t.data_of("small", 100)]
"""


def test_a_full_disk_is_a_miss(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "cells"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "read without the cell cache" in done.stderr


def test_another_users_folder_is_not_used(cache: OfMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cache, "a")
    cache.folder.mkdir()
    monkeypatch.setattr("os.getuid", lambda: 54_321)
    assert not ask(cache, scan("a"))[0].stores


def test_a_folder_that_cannot_be_made_is_a_miss(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = OfMemory(tmp_path / "file" / "cells")
    put(cache, "a")
    assert not ask(cache, scan("a"))[0].stores


def test_the_folder_is_where_settings_or_the_user_say(tmp_path: Path) -> None:
    assert cache_folder(Settings(cache_dir="/fast/cells")) == Path("/fast/cells")
    assert cache_folder(Settings(), {"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "apiary_df" / "cells"
    assert CellCache.of(Settings(cache_bytes=0), None) is None
