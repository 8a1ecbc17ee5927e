"""What a query leaves in storage when it ends: nothing of its own, and everything of others."""

from __future__ import annotations

import uuid

import pytest

from apiary_df.errors import StorageTransient
from apiary_df.model import TaskKey, TaskSpec
from apiary_df.protocol import keys
from apiary_df.protocol.inbox import Inbox
from apiary_df.protocol.messages import ErrorReport
from apiary_df.protocol.storage import write_message
from apiary_df.query_objects import QueryObjects
from apiary_df.schedule import Dispatch, OpenTask, TaskErred
from apiary_df.store import Store, open_store

NODE = "n1"


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}", environ={})


def query(store: Store, name: str) -> QueryObjects:
    return QueryObjects(name, store, "s1")


def first(task: int) -> Dispatch:
    """Return the first attempt at a task."""
    return Dispatch(spec=TaskSpec(stage=0, task=task, node_id=NODE, output_partitions=1), attempt=0)


def inbox_of(store: Store) -> list[str]:
    return [meta.key for meta in store.list(keys.inbox_prefix(NODE))]


def test_mail_that_no_node_has_read_goes_with_its_query(store: Store) -> None:
    mine = query(store, "q1")
    mine.send(NODE, 0, [first(0)])
    mine.withdraw()
    assert inbox_of(store) == []


def test_mail_of_another_session_under_a_number_that_was_read_stays(store: Store) -> None:
    mine, others = query(store, "q1"), query(store, "q2")
    assert mine.send(NODE, 0, [first(0)]) == 0
    assert len(list(Inbox(store, NODE).poll())) == 1
    # Its idea of the next number is older than the node's.
    assert others.send(NODE, 0, [first(0)]) == 0
    mine.withdraw()
    assert inbox_of(store) == [keys.inbox(NODE, 0)]


def test_mail_whose_task_has_an_outcome_is_not_asked_for_again(store: Store) -> None:
    mine = query(store, "q1")
    mine.send(NODE, 0, [first(0), first(1)])
    list(Inbox(store, NODE).poll())
    key = TaskKey(query_id="q1", stage=0, task=1, attempt=0)
    report = ErrorReport(
        query_id="q1",
        stage=0,
        task=1,
        attempt=0,
        node_id=NODE,
        error=StorageTransient("503").to_info(),
        seconds=0.0,
    )
    write_message(store, keys.error("q1", 0, 1, 0), report)
    (told,) = mine.news([OpenTask(stage=0, task=1, epoch=0, attempts=1, running=((0, NODE),))])
    assert isinstance(told, TaskErred)
    assert told.key == key
    before = store.counts.snapshot()["get"]
    mine.withdraw()
    assert store.counts.snapshot()["get"] == before
