"""Which queries run on a swarm, told by their objects alone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from swarm.planted import manifest

from apiary_df.protocol import keys
from apiary_df.protocol.kept import Outcome
from apiary_df.protocol.messages import Lease
from apiary_df.protocol.storage import write_message
from apiary_df.replay.running import running_queries
from apiary_df.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def announce(store: Store, query_id: str, sql: str | None = "SELECT 1") -> None:
    write_message(store, keys.lease(query_id), Lease(query_id=query_id, coordinator="session-1", seq=0))
    announced = manifest(query_id, coordinator="session-1", sql=sql, created_at="2026-01-02T03:04:05+00:00", stages=())
    write_message(store, keys.manifest(query_id), announced)


def end(store: Store, query_id: str) -> None:
    outcome = Outcome(
        query_id=query_id,
        coordinator="session-1",
        state="done",
        error=None,
        sql=None,
        reason="",
        started_at="",
        seconds=1.0,
        rows=0,
        root=1,
        attempts=(),
    )
    write_message(store, keys.outcome(query_id), outcome)


def test_a_query_is_as_old_as_its_manifest_by_the_stores_clock(store: Store) -> None:
    announce(store, "q1")
    store.put(keys.commit("q1", 0, 0, 0), b"")
    store.put(keys.commit("q1", 0, 1, 0), b"")
    store.put(keys.error("q1", 0, 1, 0), b"")
    now = store.head(keys.manifest("q1")).last_modified + timedelta(seconds=9)
    (query,) = running_queries(store, now)
    assert (query.query_id, query.coordinator, query.sql) == ("q1", "session-1", "SELECT 1")
    assert (query.committed, query.failed) == (2, 1)
    assert query.age_s == pytest.approx(9)
    assert query.silent_s >= query.age_s


def test_a_query_with_an_outcome_does_not_run(store: Store) -> None:
    announce(store, "q1")
    end(store, "q1")
    announce(store, "q2")
    assert [query.query_id for query in running_queries(store, store.check_writable())] == ["q2"]


def test_a_query_whose_manifest_cannot_be_read_is_there_all_the_same(store: Store) -> None:
    announce(store, "q1")
    store.put(keys.manifest("q1"), b"nothing of ours")
    (query,) = running_queries(store, store.check_writable())
    assert (query.query_id, query.coordinator, query.sql) == ("q1", "", None)


def test_of_nothing_nothing_runs(store: Store) -> None:
    assert running_queries(store, store.check_writable()) == []
