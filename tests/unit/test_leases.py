"""Sessions renew leases while their queries run, and not longer; nodes notice when one lapses."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator

import pytest
from swarm.helpers import LATE_S, wait_until

from apiary_df import leases
from apiary_df.errors import StorageTransient
from apiary_df.leases import Lapse, LeaseKeeper, LeaseWatch
from apiary_df.protocol import keys
from apiary_df.protocol.messages import Lease
from apiary_df.protocol.storage import read_message, write_message
from apiary_df.store import Data, Store, open_store

BEAT_S = 0.01


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://{secrets.token_hex(4)}")


def no_renewals() -> bool:
    return not any(thread.name == "leases" for thread in threading.enumerate())


def keeper_of(store: Store, *, doubt_after_s: float = 60.0) -> LeaseKeeper:
    return LeaseKeeper(store, "s1", beat_s=BEAT_S, doubt_after_s=doubt_after_s)


def seq_of(store: Store, query_id: str) -> int:
    lease = read_message(store, keys.lease(query_id), Lease)
    return -1 if lease is None else lease.seq


def put_lease(store: Store, query_id: str, seq: int = 0) -> None:
    write_message(store, keys.lease(query_id), Lease(query_id=query_id, coordinator="s1", seq=seq))


class Held(Store):
    """A store whose puts wait until they are let through, and then fail if they are to."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner.site, inner.options)
        self.arrived = threading.Event()
        self.let = threading.Event()
        self.fails = False

    def put(self, key: str, data: Data) -> None:
        self.arrived.set()
        assert self.let.wait(LATE_S)
        if self.fails:
            raise StorageTransient("no")
        super().put(key, data)


class TestKeeper:
    def test_leases_of_all_queries_are_renewed_until_they_are_released(self, store: Store) -> None:
        keeper = keeper_of(store)
        for query_id in ("q1", "q2"):
            keeper.hold(query_id)
        wait_until(lambda: min(seq_of(store, "q1"), seq_of(store, "q2")) > 2, "both are renewed")
        keeper.release("q1")
        ended = seq_of(store, "q1")
        moved = seq_of(store, "q2")
        wait_until(lambda: seq_of(store, "q2") > moved + 2, "the other is renewed")
        assert seq_of(store, "q1") == ended
        keeper.release("q2")
        wait_until(no_renewals, "the keeper rests")

    def test_it_goes_on_when_a_query_comes_after_a_pause(self, store: Store) -> None:
        keeper = keeper_of(store)
        for query_id in ("q1", "q2"):
            keeper.hold(query_id)
            wait_until(lambda query_id=query_id: seq_of(store, query_id) > 1, "it is renewed")  # type: ignore[misc]
            keeper.release(query_id)
            wait_until(no_renewals, "the keeper rests")

    @pytest.mark.parametrize("fails", [False, True])
    def test_release_waits_for_a_renewal_and_leaves_the_lease_to_its_caller(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, fails: bool
    ) -> None:
        monkeypatch.setattr(leases, "RELEASE_WAIT_S", LATE_S)
        held = Held(store)
        held.fails = fails
        keeper = keeper_of(held)
        keeper.hold("q1")
        assert held.arrived.wait(LATE_S)
        releasing = threading.Thread(target=keeper.release, args=("q1",))
        releasing.start()
        held.let.set()
        releasing.join(LATE_S)
        assert not releasing.is_alive()
        assert seq_of(store, "q1") == (-1 if fails else 1)
        wait_until(no_renewals, "the keeper rests")
        assert held.counts.snapshot().get("delete", 0) == 0

    def test_renewal_that_outlasts_the_release_leaves_nothing(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(leases, "RELEASE_WAIT_S", 0.05)
        held = Held(store)
        keeper = keeper_of(held)
        keeper.hold("q1")
        assert held.arrived.wait(LATE_S)
        keeper.release("q1")
        assert seq_of(store, "q1") == -1
        held.let.set()
        wait_until(no_renewals, "the keeper rests")
        assert seq_of(store, "q1") == -1
        assert held.counts.snapshot()["delete"] == 1

    def test_lease_that_others_removed_is_not_written_again(self, store: Store) -> None:
        keeper = keeper_of(store, doubt_after_s=0.0)
        put_lease(store, "q1")
        keeper.hold("q1")
        keeper.hold("q2")  # its lease is gone before the first renewal
        wait_until(lambda: keeper.is_lost("q2") and seq_of(store, "q1") > 1, "one is lost and the other renewed")
        assert not keeper.is_lost("q1")
        assert seq_of(store, "q2") == -1
        keeper.release("q1")
        keeper.release("q2")


class TestWatch:
    @pytest.fixture
    def watch(self, store: Store) -> Iterator[LeaseWatch]:
        yield LeaseWatch(store, dead_after_s=5.0, most_gap_s=1.0)

    def test_query_without_lease_is_over(self, store: Store, watch: LeaseWatch) -> None:
        put_lease(store, "q1")
        assert watch.look(["q1", "q2"], 0.0) == {"q2": Lapse.OVER}

    def test_lease_that_does_not_change_lapses(self, store: Store, watch: LeaseWatch) -> None:
        put_lease(store, "q1")
        assert [watch.look(["q1"], float(now)) for now in range(6)] == [{}] * 5 + [{"q1": Lapse.SILENT}]
        put_lease(store, "q1", seq=1)
        assert watch.look(["q1"], 6.0) == {}

    def test_node_that_was_stopped_itself_gives_the_session_time(self, store: Store, watch: LeaseWatch) -> None:
        put_lease(store, "q1")
        watch.look(["q1"], 0.0)
        assert watch.look(["q1"], 1_000.0) == {}

    def test_a_look_costs_one_get_a_query(self, store: Store, watch: LeaseWatch) -> None:
        put_lease(store, "q1")
        before = store.counts.snapshot()
        watch.look(["q1", "q2"], 0.0)
        after = store.counts.snapshot()
        assert {name: after[name] - before[name] for name in ("get", "put", "list", "head")} == {
            "get": 2,
            "put": 0,
            "list": 0,
            "head": 0,
        }

    def test_store_that_fails_says_nothing(self, store: Store) -> None:
        class Failing(Store):
            def get_or_none(self, key: str, limit_bytes: int | None = None) -> bytes | None:
                raise StorageTransient("no")

        failing = Failing(store.site, store.options)
        watch = LeaseWatch(failing, dead_after_s=1.0, most_gap_s=10.0)
        assert [watch.look(["q1"], now * 5.0) for now in range(3)] == [{}, {}, {}]
