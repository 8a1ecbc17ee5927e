"""What a node leaves of an attempt that it could not even begin."""

from __future__ import annotations

import uuid

import pytest

from apiary_df.host import SYSTEM
from apiary_df.model import TaskSpec
from apiary_df.protocol import keys
from apiary_df.protocol.messages import Lease, TaskMail
from apiary_df.protocol.storage import write_message
from apiary_df.roots import Roots
from apiary_df.store import Store, open_store
from apiary_df.worker.attempts import Attempts
from apiary_df.worker.bee import Work
from apiary_df.worker.desk import Order
from apiary_df.worker.executor import Executor, Job

QUERY = "q1"


class _Idle(Executor):
    def run(self, job: Job) -> Work:
        raise AssertionError("there is nothing to run")

    def close(self) -> None:
        return


@pytest.fixture
def store() -> Store:
    made = open_store(f"memory://{uuid.uuid4().hex}", environ={})
    made.put(keys.manifest(QUERY), b"this is no manifest")
    return made


def run_one(store: Store) -> list[str]:
    """Let a node find out about a query whose manifest is damaged; return what is there then."""
    spec = TaskSpec(
        stage=0,
        task=0,
        node_id="n1",
        output_partitions=1,
        scans=(),
        exchanges=(),
        branches=(),
        input_bytes=0,
        why="",
    )
    order = Order(query_id=QUERY, sender="s1", mail=TaskMail(spec=spec, attempt=0), received_s=0.0)
    attempts = Attempts(store, "n1", None, bee_bytes=1 << 24, roots=Roots(places=(), urls=()), host=SYSTEM)
    attempts.run(order, _Idle())
    return [meta.key for meta in store.list(keys.QUERIES)]


def test_an_attempt_that_cannot_begin_is_reported_while_the_query_lives(store: Store) -> None:
    write_message(store, keys.lease(QUERY), Lease(query_id=QUERY, coordinator="s1", seq=0))
    assert keys.error(QUERY, 0, 0, 0) in run_one(store)


def test_no_report_of_it_stays_once_the_query_is_over(store: Store) -> None:
    assert run_one(store) == []
