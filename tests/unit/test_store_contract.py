"""What every kind of store must do, on a folder, in memory and on S3 over HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from apiary_df.errors import ObjectDamaged, ObjectMissing, StorageError
from apiary_df.store import Store, open_store


@pytest.fixture(params=["folder", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Open the same root once more, as another process (or thread) of the swarm would."""
    if request.param == "s3":
        url, options = request.getfixturevalue("s3_url"), request.getfixturevalue("s3_endpoint")
        return lambda: open_store(url, options, environ={})
    url = str(tmp_path / "a root") if request.param == "folder" else f"memory://{uuid.uuid4().hex}/below"
    return lambda: open_store(url, environ={})


@pytest.fixture
def store(reopen: Callable[[], Store]) -> Store:
    return reopen()


def test_what_was_put_is_read_by_another_opening(reopen: Callable[[], Store]) -> None:
    reopen().put("a/b.bin", b"abc")
    assert reopen().get("a/b.bin") == b"abc"


def test_put_replaces(store: Store) -> None:
    store.put("k", b"old and long")
    store.put("k", b"new")
    assert store.get("k") == b"new"


@pytest.mark.parametrize("data", [b"", b"xyz", bytearray(b"xyz"), memoryview(b"xyz"), pa.py_buffer(b"xyz")])
def test_put_takes_any_buffer(store: Store, data: Any) -> None:
    store.put("k", data)
    assert store.get("k") == bytes(memoryview(data))


def test_put_takes_a_file_and_leaves_it(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"from a file")
    store.put("deep/er/k", source)
    source.unlink()
    assert store.get("deep/er/k") == b"from a file"


def test_put_of_a_file_replaces(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"second")
    store.put("k", b"first")
    store.put("k", source)
    assert store.get("k") == b"second"


def test_put_of_an_object_in_several_parts_keeps_every_byte(store: Store) -> None:
    data = bytes(range(256)) * 4 * 1024 * 18  # 18 MiB: more than two parts
    store.put("big", data)
    assert store.get("big") == data


def test_absent_objects_are_missing_in_every_reading_call(store: Store) -> None:
    for read in (store.get, store.head, lambda k: store.get_range(k, 0, 1)):
        with pytest.raises(ObjectMissing, match="no/such"):
            read("no/such")
    assert store.get_or_none("no/such") is None


def test_ranges_are_exact_and_in_the_order_asked_for(store: Store) -> None:
    store.put("k", b"0123456789")
    assert store.get_range("k", 2, 3) == b"234"
    assert store.get_ranges("k", [7, 0, 4], [3, 2, 0]) == [b"789", b"01", b""]


@pytest.mark.parametrize(("size", "read"), [(0, 0), (3, 3), (7, 7), (8, 7), (3_000_000, 7)])
def test_the_start_of_an_object_comes_with_its_size(store: Store, size: int, read: int) -> None:
    data = bytes(range(1, 8)) * (size // 7 + 1)
    store.put("k", data[:size])
    assert store.get_start("k", 7) == (data[:read], size)


def test_an_absent_object_has_no_start(store: Store) -> None:
    before = store.counts.snapshot().get("get", 0)
    assert store.get_start("no/such", 7) is None
    assert store.counts.snapshot()["get"] == before + 1


def test_far_ranges_are_exact_too(store: Store) -> None:
    data = bytes(3_000_000)
    store.put("k", data + b"end")
    assert store.get_ranges("k", [3_000_000, 0], [3, 1]) == [b"end", b"\0"]


@pytest.mark.parametrize(("start", "length"), [(0, 11), (8, 3), (10, 1), (50, 5)])
def test_a_range_past_the_end_is_damage_not_less_data(store: Store, start: int, length: int) -> None:
    store.put("k", b"0123456789")
    with pytest.raises(ObjectDamaged, match="ends at 10"):
        store.get_range("k", start, length)


@pytest.mark.parametrize("start", [8, 10, 300])
def test_a_later_range_past_the_end_is_damage_like_the_first(store: Store, start: int) -> None:
    store.put("k", b"0123456789")
    with pytest.raises(ObjectDamaged, match="ends at 10"):
        store.get_ranges("k", [0, start], [4, 5])


def test_a_far_range_past_the_end_is_damage_too(store: Store) -> None:
    store.put("k", b"0123456789")
    with pytest.raises(ObjectDamaged, match="ends at 10"):
        store.get_ranges("k", [5_000_000, 0], [4, 5])


def test_overlapping_ranges_are_each_whole(store: Store) -> None:
    store.put("k", b"0123456789")
    assert store.get_ranges("k", [3, 0, 0], [7, 10, 3]) == [b"3456789", b"0123456789", b"012"]


def test_only_the_range_past_the_end_is_needed_for_damage_among_several(store: Store) -> None:
    store.put("k", b"0123456789")
    with pytest.raises(ObjectDamaged, match="ends at 10"):
        store.get_ranges("k", [0, 5], [2, 20])


def test_a_negative_range_is_refused(store: Store) -> None:
    with pytest.raises(StorageError, match="make no sense"):
        store.get_range("k", -1, 5)


def test_create_wins_once(reopen: Callable[[], Store]) -> None:
    assert reopen().create("claim", b"I am one", "one") is True
    assert reopen().create("claim", b"I am two", "two") is False
    assert reopen().get("claim") == b"I am one"


def test_create_of_what_is_there_already_with_our_token_is_ours(store: Store) -> None:
    store.put("claim", b"token 4711")  # the first try arrived, its reply did not
    assert store.create("claim", b"token 4711", "4711") is True


def test_create_without_its_token_in_the_data_is_refused(store: Store) -> None:
    with pytest.raises(StorageError, match="token"):
        store.create("claim", b"data", "4711")
    assert store.get_or_none("claim") is None


def test_of_many_concurrent_creators_exactly_one_wins(reopen: Callable[[], Store]) -> None:
    stores = [reopen() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: stores[i].create("claim", b"writer-%d" % i, f"writer-{i}"), range(8)))
    assert won.count(True) == 1
    assert stores[0].get("claim") == b"writer-%d" % won.index(True)


def test_head_tells_size_time_and_a_version_that_changes(store: Store) -> None:
    store.put("k", b"one")
    first = store.head("k")
    store.put("k", b"other")
    second = store.head("k")
    assert (first.key, first.size_bytes, second.size_bytes) == ("k", 3, 5)
    assert first.last_modified.utcoffset() == timedelta(0)
    assert first.e_tag != second.e_tag


def test_list_gives_whole_segments_below_the_prefix_sorted(store: Store) -> None:
    for key in ("q/b", "q/a", "q/c/d", "qq/a", "z"):
        store.put(key, b"12")
    assert [m.key for m in store.list("q")] == ["q/a", "q/b", "q/c/d"]
    assert [m.key for m in store.list("q/")] == ["q/a", "q/b", "q/c/d"]
    assert {m.size_bytes for m in store.list("q")} == {2}
    assert [m.key for m in store.list("")] == ["q/a", "q/b", "q/c/d", "qq/a", "z"]


def test_list_of_nothing_is_empty(store: Store) -> None:
    assert store.list("") == []
    assert store.list("no/such") == []


def test_delete_takes_absent_keys(store: Store) -> None:
    store.put("a", b"1")
    store.put("b", b"1")
    store.delete(["no/such", "a", "nor/such", "b"])
    assert store.list("") == []
    store.delete([])


def test_delete_prefix_deletes_just_that(store: Store) -> None:
    for key in ("q/1/a", "q/1/b/c", "q/10/a"):
        store.put(key, b"1")
    assert store.delete_prefix("q/1/") == 2
    assert [m.key for m in store.list("")] == ["q/10/a"]
    assert store.delete_prefix("q/1") == 0


@pytest.mark.parametrize("key", ["", "/a", "a//b", "a/../b", ".", "a/"])
def test_a_malformed_key_is_refused(store: Store, key: str) -> None:
    with pytest.raises(StorageError, match="not a key"):
        store.put(key, b"1")


def test_the_root_itself_is_never_deleted(store: Store) -> None:
    store.put("k", b"1")
    with pytest.raises(StorageError, match="not a key"):
        store.delete_prefix("")
    assert store.get("k") == b"1"


def test_check_writable_tells_the_clock_and_leaves_nothing(store: Store) -> None:
    clock = store.check_writable()
    store.put("k", b"1")
    assert timedelta(0) <= store.head("k").last_modified - clock < timedelta(minutes=1)
    assert [m.key for m in store.list("")] == ["k"]


def test_requests_and_bytes_are_counted(store: Store) -> None:
    # Both ranges come in one request, with the two bytes between them.
    store.put("a", b"12345")
    store.create("b", b"token", "token")
    store.get("a")
    store.get_ranges("a", [0, 3], [1, 2])
    store.head("a")
    store.list("")
    store.delete(["a", "b"])
    assert store.counts.snapshot() == {
        "get": 2,
        "put": 2,
        "list": 1,
        "delete": 2,
        "head": 1,
        "hedged": 0,
        "bytes_in": 10,
        "bytes_out": 10,
    }


def test_counts_from_many_threads_add_up(store: Store) -> None:
    store.put("k", b"x")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.get("k"), range(64)))
    assert store.counts.snapshot()["get"] == 64
