"""Collection in a bucket: ages and signs of life as S3 tells them, and what a look costs."""

from __future__ import annotations

import pytest

from apiary_df.collect import Limits
from apiary_df.collector import Collector, collect_now
from apiary_df.leases import Lapse, LeaseWatch
from apiary_df.protocol import keys
from apiary_df.protocol.messages import Lease, Mail
from apiary_df.protocol.storage import write_message
from apiary_df.store import Store, StoreOptions, open_store

pytestmark = pytest.mark.s3

LIMITS = Limits(grace_s=10.0, node_gc_s=1000.0)


@pytest.fixture
def store(s3_url: str, s3_endpoint: StoreOptions) -> Store:
    store = open_store(s3_url, s3_endpoint, environ={})
    renew(store, 0)
    for key in (keys.manifest("q1"), keys.plan("q1", 0), keys.partial("q1", 0, 0, 0)):
        store.put(key, b"x")
    write_message(store, keys.inbox("n1", 0), Mail(token="t0", query_id="q1", sender="s1", tasks=()))
    return store


def renew(store: Store, seq: int) -> None:
    write_message(store, keys.lease("q1"), Lease(query_id="q1", coordinator="s1", seq=seq))


def test_query_stays_while_its_lease_is_renewed_and_goes_when_it_is_not(store: Store) -> None:
    collector = Collector(store, LIMITS, "node n2")
    for second in range(30):
        if second % 5 == 0:
            renew(store, second)
        assert collector.look(float(second)) == 1
    before = store.counts.snapshot()
    assert [collector.look(float(second)) for second in range(30, 35)] == [1] * 5
    after = store.counts.snapshot()
    assert {name: after[name] - before[name] for name in ("get", "put", "list", "head", "delete")} == {
        "get": 0,
        "put": 0,
        "list": 5,
        "head": 0,
        "delete": 0,
    }
    assert collector.look(35.0) == 0
    assert store.list("") == []


def test_by_hand_ages_are_those_of_the_stores_clock(store: Store) -> None:
    young = collect_now(store, LIMITS, options=store.options, dead_after_s=5.0, dry_run=False)
    assert [verdict.group.name for verdict in young.removed] == []
    assert len(store.list(keys.QUERIES)) == 4
    at_once = Limits(grace_s=0.0, node_gc_s=1000.0)
    old = collect_now(store, at_once, options=store.options, dead_after_s=5.0, dry_run=False)
    assert {verdict.group.name for verdict in old.removed} == {"q1", keys.inbox("n1", 0)}
    assert store.list("") == []


def test_a_node_sees_a_lease_renewed_gone_and_silent(store: Store) -> None:
    watch = LeaseWatch(store, dead_after_s=3.0, most_gap_s=1.0)
    assert watch.look(["q1"], 0.0) == {}
    renew(store, 1)
    assert [watch.look(["q1"], float(now)) for now in range(1, 5)] == [{}, {}, {}, {"q1": Lapse.SILENT}]
    store.delete([keys.lease("q1")])
    assert watch.look(["q1"], 5.0) == {"q1": Lapse.OVER}
