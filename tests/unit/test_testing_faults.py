"""A faulty store strikes exactly the request that a fault names, before or after its effect, and no other."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest

from apiary_df.errors import ObjectDamaged, ObjectMissing, StorageError, StorageTransient
from apiary_df.store import Store, open_store
from apiary_df.testing.faults import Fault, Faults, FaultyStore, Killed, disk_full, for_good, forbidden, panic


@pytest.fixture(params=["folder", "memory"])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(str(tmp_path) if request.param == "folder" else f"memory://{uuid.uuid4().hex}", environ={})


def faulty(real: Store, *faults: Fault, process: str = "p") -> FaultyStore:
    return FaultyStore(real, Faults(faults), process)


def test_without_faults_it_is_the_store(real: Store) -> None:
    store = faulty(real)
    store.put("a/k", b"12345")
    assert store.create("a/c", b"token", "token")
    assert (store.get("a/k"), store.get_range("a/k", 1, 3), store.get_or_none("a/x")) == (b"12345", b"234", None)
    assert [meta.key for meta in store.list("a")] == ["a/c", "a/k"]
    assert store.head("a/k").size_bytes == 5
    store.move("a/k", "a/m")
    store.delete(["a/c"])
    assert store.delete_prefix("a") == 1
    store.check_writable()
    assert real.list("") == []
    assert {made.request for made in store.faults.made} >= {"put", "create", "get", "ranges", "list", "head", "move"}


def test_what_comes_between_a_faults_look_and_the_request_is_not_found_past_the_fault(tmp_path: Path) -> None:
    real = open_store(str(tmp_path), environ={})
    fault = Fault(what="fail", request="get", key="k", found=True)
    look = Store.get_or_none

    store = FaultyStore(real, Faults([fault]), "p")

    def look_and_write(self: Store, key: str, limit_bytes: int | None = None) -> bytes | None:
        found = look(self, key, limit_bytes)
        real.put(key, b"there")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "get_or_none", look_and_write)
        assert store.get_or_none("k") is None
    assert store.faults.fired() == 0
    with pytest.raises(StorageTransient):
        store.get("k")


def test_only_the_nth_request_of_that_process_and_key_is_struck(real: Store) -> None:
    faults = Faults([Fault(what="fail", request="put", key="q/*.json", process="b", nth=2, times=2)])
    a, b = FaultyStore(real, faults, "a"), FaultyStore(real, faults, "b")
    outcomes = []
    for store, key in [
        (a, "q/1.json"),
        *((b, key) for key in ("q/1.json", "q/2.bin", "q/3.json", "q/4.json", "q/5.json")),
    ]:
        try:
            store.put(key, b"x")
            outcomes.append("kept")
        except StorageTransient as error:
            assert "503 Slow Down" in error.message
            outcomes.append("failed")
    assert outcomes == ["kept", "kept", "kept", "failed", "failed", "kept"]
    assert faults.fired() == 2
    assert [meta.key for meta in real.list("q")] == ["q/1.json", "q/2.bin", "q/5.json"]


def test_a_lost_reply_has_had_its_effect(real: Store) -> None:
    store = faulty(real, *(Fault(what="lost_reply", request=kind) for kind in ("put", "delete", "move")))
    with pytest.raises(StorageTransient):
        store.put("k", b"1")
    with pytest.raises(StorageTransient):
        store.move("k", "m")
    assert real.get("m") == b"1"
    with pytest.raises(StorageTransient):
        store.delete(["m"])
    assert real.list("") == []


def test_a_create_whose_reply_is_lost_is_found_to_be_ours(real: Store) -> None:
    store = faulty(real, Fault(what="lost_reply", request="create"))
    assert store.create("k", b"token", "token")
    assert [made.request for made in store.faults.made] == ["create", "get"]


def test_a_create_that_failed_is_tried_again_and_no_more_than_that(real: Store) -> None:
    store = faulty(real, Fault(what="fail", request="create"))
    assert store.create("k", b"token", "token")
    assert [made.request for made in store.faults.made] == ["create", "get", "create"]


def test_what_is_read_may_be_damaged_once_and_what_is_written_for_good(real: Store) -> None:
    store = faulty(
        real,
        Fault(what="flipped", request="get", key="k"),
        Fault(what="truncated", request="get", key="k", nth=2),
        Fault(what="flipped", request="put", key="f", at=0),
        Fault(what="truncated", request="put", key="t"),
    )
    store.put("k", b"0000")
    assert [store.get("k") for _ in range(3)] == [b"00 0", b"00", b"0000"]
    store.put("f", b"0000")
    store.put("t", b"0000")
    assert (real.get("f"), real.get("t")) == (b" 000", b"00")


def test_ranges_that_come_short_are_damage(real: Store) -> None:
    store = faulty(real, Fault(what="truncated", request="ranges"), Fault(what="flipped", request="ranges", nth=2))
    store.put("k", b"0000")
    with pytest.raises(ObjectDamaged):
        store.get_range("k", 0, 4)
    assert store.get_range("k", 0, 4) == b"00 0"


def test_missing_hides_objects_from_reads_and_listings_and_swallows_writes(real: Store) -> None:
    real.put("q/k", b"1")
    store = faulty(
        real,
        *(Fault(what="missing", request=kind) for kind in ("get", "head", "put")),
        Fault(what="missing", request="list", key="q"),
    )
    assert store.get_or_none("q/k") is None
    with pytest.raises(ObjectMissing):
        store.head("q/k")
    store.put("q/n", b"1")
    assert real.get_or_none("q/n") is None
    assert store.get("q/k") == b"1"


def test_a_listing_that_lags_leaves_out_what_a_pattern_says(real: Store) -> None:
    real.put("q/old", b"1")
    real.put("q/new", b"1")
    store = faulty(real)
    store.faults.lag(["q/new"])
    assert [meta.key for meta in store.list("q")] == ["q/old"]
    store.faults.lag([])
    assert [meta.key for meta in store.list("q")] == ["q/new", "q/old"]


@pytest.mark.parametrize(
    ("error", "kind"), [(disk_full, StorageTransient), (forbidden, StorageError), (panic, StorageTransient)]
)
def test_errors_go_the_way_of_real_ones(real: Store, error: object, kind: type[StorageError]) -> None:
    store = faulty(real, *(Fault(what="fail", request=r, error=error) for r in ("get", "put", "list", "delete")))  # type: ignore[arg-type]
    for act in (lambda: store.get("k"), lambda: store.put("k", b""), lambda: store.list(""), lambda: store.delete("k")):
        with pytest.raises(StorageError) as caught:
            act()
        assert type(caught.value) is kind


def test_a_probe_that_fails_says_that_the_root_cannot_be_used(real: Store) -> None:
    with pytest.raises(StorageError):
        faulty(real, Fault(what="fail", request="probe")).check_writable()


def test_acts_come_before_or_after_the_effect(real: Store) -> None:
    seen: list[tuple[str, str, bool]] = []

    def look(process: str, key: str) -> None:
        seen.append((process, key, real.get_or_none(key) is not None))

    store = faulty(
        real, Fault(what="act", request="put", act=look), Fault(what="act_after", request="put", act=look), process="n"
    )
    store.put("k", b"")
    assert seen == [("n", "k", False), ("n", "k", True)]


def test_looks_that_find_nothing_are_not_counted_if_so_told(real: Store) -> None:
    store = faulty(real, Fault(what="flipped", request="get", nth=2, found=True))
    assert store.get_or_none("k") is None
    real.put("k", b"0")
    assert [store.get_or_none("x"), store.get_or_none("k"), store.get_or_none("k")] == [None, b"0", b" "]


def test_nothing_that_a_killed_process_asks_for_has_an_effect(real: Store) -> None:
    faults = Faults()
    faults.add(for_good(Fault(what="act", request="put", process="a", act=lambda process, _: faults.kill(process))))
    a, b = FaultyStore(real, faults, "a"), FaultyStore(real, faults, "b")
    with pytest.raises(Killed):
        a.put("k", b"1")
    with pytest.raises(Killed):
        a.delete_prefix("q")
    assert faults.is_dead("a")
    b.put("k", b"2")
    assert real.get("k") == b"2"


def test_a_paused_process_waits_and_goes_on(real: Store) -> None:
    faults = Faults()
    store = FaultyStore(real, faults, "a")
    faults.pause("a")
    writer = threading.Thread(target=store.put, args=("k", b"1"))
    writer.start()
    assert real.get_or_none("k") is None
    faults.resume("a")
    writer.join(60)
    assert real.get("k") == b"1"
