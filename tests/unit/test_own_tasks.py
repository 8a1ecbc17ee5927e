"""Tasks that a session does itself: one at a time, whatever comes of those before."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from dataclasses import replace

import pyarrow as pa
from plan.schedules import CHAIN, QUERY, key, spec

from apiary_df.errors import QueryCancelled, StorageTransient
from apiary_df.history import History
from apiary_df.own_tasks import OwnTasks
from apiary_df.plan.schema import ExchangeSchema
from apiary_df.plan.stages import StageGraph
from apiary_df.query import Query
from apiary_df.schedule import Cancelled, Dispatch, SendTasks, TaskErred
from apiary_df.worker.bee import Bench
from apiary_df.worker.engine import Engine

SCHEMA = pa.schema([("x", pa.int64())])


def own_tasks(failure: Exception) -> OwnTasks:
    """Return the tasks of a session that has no engine to spare: asking for one raises."""

    def workbench() -> AbstractContextManager[tuple[Engine, Bench]]:
        raise failure

    exchange = ExchangeSchema(arrow=SCHEMA, encoded=b"", names=("x",))
    graph = StageGraph(stages=tuple(replace(stage, schema=exchange) for stage in CHAIN.stages))
    query = Query(sql=None, graph=graph, settings={}, schema=SCHEMA, reason="")
    return OwnTasks(
        QUERY,
        query,
        "session",
        workbench,
        schemas={},
        history=History(QUERY, "session", 1),
        cancelled=threading.Event(),
        now_s=lambda: 0.0,
    )


def send(*tasks: int) -> SendTasks:
    return SendTasks(node_id="session", tasks=tuple(Dispatch(spec=spec(0, task), attempt=0) for task in tasks))


def test_a_task_that_fails_does_not_keep_those_sent_with_it_from_being_done() -> None:
    own = own_tasks(StorageTransient("no"))
    own.add(send(0, 1))
    own.add(send(2))
    done = []
    while own.are_waiting():
        event = own.do_next()
        assert isinstance(event, TaskErred)
        done.append(event.key)
    assert done == [key(0, 0), key(0, 1), key(0, 2)]


def test_a_query_that_is_cancelled_meanwhile_says_so() -> None:
    own = own_tasks(QueryCancelled("over"))
    own.add(send(0))
    assert own.do_next() == Cancelled()
