"""Collection on a real folder: what goes, what stays, and that it may be done twice, or by two at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apiary_df.collect import Kind, Limits
from apiary_df.collector import Collection, Collector, collect_now
from apiary_df.protocol import keys
from apiary_df.protocol.messages import Lease, Mail, WriteJournal, WriteNote
from apiary_df.protocol.storage import write_message
from apiary_df.store import Store, open_store
from apiary_df.writes import JOURNAL, staging_folder

LIMITS = Limits(grace_s=10.0, node_gc_s=100.0)
LOOK_S = 1.0
OLD_S = 1_000.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def store(root: Path) -> Store:
    return open_store(str(root))


def put_query(store: Store, query_id: str) -> None:
    store.put(keys.plan(query_id, 0), b"plan")
    write_message(store, keys.lease(query_id), Lease(query_id=query_id, coordinator="s1", seq=0))
    store.put(keys.manifest(query_id), b"{}")
    store.put(keys.partial(query_id, 0, 0, 0), b"rows")


def put_mail(store: Store, node_id: str, number: int, query_id: str) -> str:
    mail = Mail(token=f"t{number}", query_id=query_id, sender="s1", tasks=())
    write_message(store, keys.inbox(node_id, number), mail)
    return keys.inbox(node_id, number)


def make_old(root: Path, *parts: str, age_s: float = OLD_S) -> None:
    for path in (path for part in parts for path in [root / part, *(root / part).rglob("*")]):
        then_s = path.stat().st_mtime - age_s
        os.utime(path, (then_s, then_s))


def everything(store: Store) -> set[str]:
    return {meta.key for meta in store.list("")}


def by_hand(store: Store, *, dry_run: bool = False, kept: bool = False) -> Collection:
    limits = Limits(grace_s=LIMITS.grace_s, node_gc_s=LIMITS.node_gc_s, kept=kept)
    return collect_now(store, limits, options=None, dead_after_s=5.0, dry_run=dry_run)


def looks(collector: Collector, seconds: float, start_s: float = 0.0) -> int:
    left = 0
    for step in range(int(seconds / LOOK_S) + 1):
        left = collector.look(start_s + step * LOOK_S)
    return left


class TestOfANode:
    def test_query_that_does_not_change_goes_after_the_grace_and_not_before(self, root: Path, store: Store) -> None:
        put_query(store, "q1")
        kept_mail = put_mail(store, "n1", 0, "q2")
        put_mail(store, "n1", 1, "q1")
        make_old(root, "_queries")  # what the store's clock says is nothing to a node
        collector = Collector(store, LIMITS, "node n2")
        assert looks(collector, 9.0) == 1
        assert keys.manifest("q1") in everything(store)
        assert looks(collector, 1.0, start_s=10.0) == 0
        assert everything(store) == {kept_mail}
        assert not (root / "_queries" / "q1").exists()

    def test_query_whose_lease_is_renewed_stays(self, store: Store) -> None:
        put_query(store, "q1")
        collector = Collector(store, LIMITS, "node n2")
        for step in range(40):
            if step % 8 == 0:
                write_message(store, keys.lease("q1"), Lease(query_id="q1", coordinator="s1", seq=step))
            collector.look(float(step))
        assert keys.manifest("q1") in everything(store)

    def test_query_whose_lease_is_newer_than_the_listing_stays(self, store: Store, root: Path) -> None:
        put_query(store, "q1")

        class Lagging(Store):
            """Lists what was there at first."""

        first = store.list(keys.QUERIES)
        lagging = Lagging(store.site, store.options)
        lagging.list = lambda prefix: first if prefix == keys.QUERIES else []  # type: ignore[method-assign]
        collector = Collector(lagging, LIMITS, "node n2")
        looks(collector, 9.0)
        make_old(root, keys.lease("q1"), age_s=-LIMITS.grace_s)
        looks(collector, 5.0, start_s=10.0)
        assert keys.manifest("q1") in everything(store)

    def test_two_collectors_do_no_harm(self, store: Store) -> None:
        for query_id in ("q1", "q2"):
            put_query(store, query_id)
        one, other = (Collector(store, LIMITS, name) for name in ("node n1", "node n2"))
        for step in range(12):
            one.look(float(step))
            other.look(step + 100.0)
        assert everything(store) == set()

    def test_kept_query_stays(self, store: Store) -> None:
        put_query(store, "q1")
        store.put(keys.outcome("q1"), b"{}")
        assert looks(Collector(store, LIMITS, "node n1"), 30.0) == 0
        assert keys.manifest("q1") in everything(store)

    def test_query_whose_files_are_not_taken_back_yet_stays(self, store: Store) -> None:
        put_query(store, "q1")
        store.put(keys.write("q1"), b"{}")
        collector = Collector(store, LIMITS, "node n1")
        assert looks(collector, 15.0) == 1
        store.delete([keys.write("q1")])
        assert looks(collector, 1.0, start_s=16.0) == 0
        assert everything(store) == set()

    def test_dead_node_goes_after_its_own_time_with_its_mail(self, store: Store) -> None:
        store.put(keys.heartbeat("n1"), b"{}")
        put_mail(store, "n1", 0, "q1")
        put_mail(store, "gone", 0, "q1")
        collector = Collector(store, LIMITS, "node n2")
        looks(collector, 90.0)
        assert len(everything(store)) == 3
        looks(collector, 30.0, start_s=91.0)
        assert everything(store) == set()

    def test_foreign_objects_are_never_touched(self, store: Store) -> None:
        for key in ("_queries/README.md", "_queries/mine/data.parquet", "table/part.parquet", "_swarm/nodes/x.txt"):
            store.put(key, b"mine")
        before = everything(store)
        looks(Collector(store, LIMITS, "node n2"), 300.0)
        assert everything(store) == before


class TestByHand:
    def test_dry_run_says_what_would_go_and_removes_nothing(self, root: Path, store: Store) -> None:
        put_query(store, "q1")
        put_query(store, "q2")
        make_old(root, "_queries/q1")
        before = everything(store)
        found = by_hand(store, dry_run=True)
        assert everything(store) == before
        assert [verdict.group.name for verdict in found.removed] == ["q1"]
        assert [verdict.group.name for verdict in found.left] == ["q2"]

    def test_what_is_old_goes_and_what_is_young_stays(self, root: Path, store: Store) -> None:
        put_query(store, "q1")
        put_query(store, "q2")
        store.put(keys.heartbeat("dead"), b"{}")
        store.put("_probe/0123456789abcdef", b"probe")
        make_old(root, "_queries/q1", "_swarm", "_probe")
        store.put(keys.heartbeat("alive"), b"{}")
        old_mail, young_mail = put_mail(store, "alive", 0, "q1"), put_mail(store, "alive", 1, "q1")
        make_old(root, old_mail, age_s=20.0)
        by_hand(store)
        in_q2 = {meta.key for meta in store.list(keys.query_prefix("q2"))}
        assert len(in_q2) == 4
        assert everything(store) == in_q2 | {keys.heartbeat("alive"), young_mail}
        assert by_hand(store).removed == ()

    def test_one_young_object_keeps_a_query(self, root: Path, store: Store) -> None:
        put_query(store, "q1")
        make_old(root, "_queries")
        write_message(store, keys.lease("q1"), Lease(query_id="q1", coordinator="s1", seq=1))
        assert by_hand(store).removed == ()

    def test_kept_queries_go_only_when_asked_for(self, root: Path, store: Store) -> None:
        put_query(store, "q1")
        store.put(keys.outcome("q1"), b"{}")
        make_old(root, "_queries")
        assert by_hand(store).removed == ()
        assert [verdict.why for verdict in by_hand(store, kept=True).removed] == ["kept on purpose"]
        assert everything(store) == set()

    def test_files_of_a_lost_write_are_taken_back_first(self, root: Path, store: Store, tmp_path: Path) -> None:
        put_query(store, "q1")
        target = open_store(str(tmp_path / "out"))
        folder = staging_folder("q1")
        journal = WriteJournal(
            query_id="q1", coordinator="s1", seq=1, dead_after_s=5.0, published=("q1_0_0_0.parquet",)
        )
        write_message(store, keys.write("q1"), WriteNote(query_id="q1", coordinator="s1", base=target.url))
        write_message(target, f"{folder}/{JOURNAL}", journal)
        target.put("q1_0_0_0.parquet", b"half of it")
        target.put("mine.parquet", b"mine")
        make_old(root, "_queries")
        found = by_hand(store)
        assert [(verdict.group.kind, verdict.remove) for verdict in found.left] == [(Kind.QUERY, False)]
        assert "taken back first" in found.left[0].why
        make_old(tmp_path / "out", folder)
        assert [verdict.group.name for verdict in by_hand(store).removed] == ["q1"]
        assert everything(store) == set()
        assert everything(target) == {"mine.parquet"}
