"""What a query leaves in storage when it ends: nothing of its own, and everything of others."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pyarrow as pa
import pytest

from apiary_df.errors import StorageTransient
from apiary_df.model import ExchangeInput, Segment, SegmentRef, TaskKey, TaskSpec
from apiary_df.plan import codec
from apiary_df.plan.schema import ExchangeSchema
from apiary_df.plan.stages import Stage
from apiary_df.protocol import keys
from apiary_df.protocol.inbox import Inbox
from apiary_df.protocol.messages import ErrorReport, StageFragment
from apiary_df.protocol.storage import read_bytes, write_message
from apiary_df.query_objects import MAIL_CARRIES_BYTES, REFERENCE_BYTES, QueryObjects, parcels
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


def carrying(task: int, size_bytes: int) -> Dispatch:
    """Return an attempt at a task that comes with so many bytes of a partial."""
    segment = Segment(partition=0, offset=0, length=size_bytes, rows=1, checksum="")
    ref = SegmentRef(
        key="k",
        object_length=size_bytes,
        footer_offset=size_bytes,
        footer_checksum="",
        segment=segment,
        data=b"x" * size_bytes,
    )
    spec = TaskSpec(
        stage=0, task=task, node_id=NODE, output_partitions=1, exchanges=(ExchangeInput(leaf=0, segments=(ref,)),)
    )
    return Dispatch(spec=spec, attempt=0)


def test_tasks_go_in_one_mail_unless_they_carry_too_much() -> None:
    assert [len(mail) for mail in parcels([first(task) for task in range(1000)])] == [1000]
    third = MAIL_CARRIES_BYTES // 3 - REFERENCE_BYTES
    sizes = [third, third, third, third, MAIL_CARRIES_BYTES + 1, 1]
    mails = list(parcels(carrying(task, size) for task, size in enumerate(sizes)))
    assert [[dispatch.spec.task for dispatch in mail] for mail in mails] == [[0, 1, 2], [3], [4], [5]]
    assert list(parcels([])) == []


def test_tasks_that_name_many_segments_go_in_several_mails() -> None:
    (exchange,) = carrying(0, 1).spec.exchanges
    (ref,) = exchange.segments
    many = replace(exchange, segments=(replace(ref, data=None),) * (MAIL_CARRIES_BYTES // REFERENCE_BYTES // 3))
    tasks = [replace(first(task), spec=replace(first(task).spec, task=task, exchanges=(many,))) for task in range(4)]
    assert [len(mail) for mail in parcels(tasks)] == [3, 1]


# -- fragments that were changed while the query runs ----------------------------------------------------------------

ROWS = pa.schema([pa.field("k", pa.int64())])


def stage(version: int) -> Stage:
    """Return a stage, each version of which reads other files."""
    return Stage(
        stage=0,
        fragment=codec.build("placeholder_row", schema=b"\x0a" * version),
        output="gather",
        partitions=1,
        leaves=(),
        variants=(),
        unions=0,
        schema=ExchangeSchema(arrow=ROWS, encoded=b"", names=("k",)),
        version=version,
    )


@pytest.mark.parametrize("enclosed_bytes", [0, 1 << 20])
def test_mail_encloses_the_fragment_that_its_tasks_are_shares_of(store: Store, enclosed_bytes: int) -> None:
    mine = QueryObjects("q1", store, "s1", enclosed_bytes=enclosed_bytes)
    mine.announce([stage(0)], sql=None, settings={}, timeout_s=None, write=None)
    mine.announce_fragment(stage(2), None)
    # What goes with the mail is not waited for before.
    assert (store.get_or_none(keys.manifest("q1")) is None) == bool(enclosed_bytes)
    mine.write()
    assert store.get_or_none(keys.manifest("q1")) is not None
    assert mine.unwritten() == []
    for version in (2, 0):
        mine.send(NODE, 0, [replace(first(0), spec=replace(first(0).spec, version=version))])
        assert read_bytes(store, keys.plan("q1", 0, version)) == codec.encode(stage(version).fragment)
    sent = [mail.fragments for mail in Inbox(store, NODE).poll()]
    expected = [
        (StageFragment(stage=0, version=version, plan=codec.encode(stage(version).fragment)),) for version in (2, 0)
    ]
    assert sent == (expected if enclosed_bytes else [(), ()])
