"""Nodes that come, leave and die while queries run: answers stay exact, or the error says what happened."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import datafusion
import pyarrow as pa
import pytest

from apiary_df import LocalSwarm, SessionContext
from apiary_df.errors import QueryTimeout, TaskFailed
from swarm.helpers import LATE_S, Held, check_nothing_left, check_same, kill_and_bury, wait_until
from swarm.test_endings import SLOW

pytestmark = pytest.mark.processes

SHUFFLED = (
    "SELECT o_orderpriority, count(*) AS n, sum(l_quantity) AS quantity FROM lineitem JOIN orders "
    "ON l_orderkey = o_orderkey GROUP BY o_orderpriority ORDER BY o_orderpriority"
)
QUICK = {"heartbeat_s": 0.1, "suspect_after_s": 0.6, "dead_after_s": 1.0, "timeout_s": 60.0}
"""Signs of life that are frequent, so that death is noticed soon."""

ENDS_S = 100.0
"""A query that has not ended by then hangs."""

Start = Callable[..., tuple[LocalSwarm, SessionContext]]


class _Loop:
    """The same query over and over in a thread, each answer checked."""

    def __init__(self, ctx: SessionContext, expected: pa.Table) -> None:
        self.answers = 0
        self.nodes: set[str] = set()
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._ctx, self._expected = ctx, expected
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                check_same(self._expected, self._ctx.sql(SHUFFLED).to_arrow_table())
                report = self._ctx.last_query
                assert report is not None
                assert report.distributed, report.reason
                self.nodes = {task.node_id for task in report.task_reports}
                self.answers += 1
        except BaseException as error:  # noqa: BLE001 - the test's own thread raises it
            self.errors.append(error)

    def wait_for_answers(self, more: int) -> None:
        """Wait for so many more answers, or the first error."""
        target = self.answers + more
        wait_until(lambda: self.errors or self.answers >= target, f"{more} more answers", LATE_S)
        if self.errors:
            raise self.errors[0]

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(60)
        if self.errors:
            raise self.errors[0]


@pytest.fixture(scope="module")
def expected(plain: datafusion.SessionContext) -> pa.Table:
    return plain.sql(SHUFFLED).to_arrow_table()


def test_node_that_comes_while_queries_run_takes_work(own_swarm: Start, expected: pa.Table) -> None:
    swarm, ctx = own_swarm(1, heartbeat_s=0.1)
    loop = _Loop(ctx, expected)
    with loop.running():
        loop.wait_for_answers(2)
        added = swarm.add_node()
        wait_until(lambda: loop.errors or added in loop.nodes, "the new node at work", LATE_S)
    check_nothing_left(swarm.storage)


def test_node_that_gets_sigterm_leaves_without_any_query_noticing(own_swarm: Start, expected: pa.Table) -> None:
    swarm, ctx = own_swarm(3, heartbeat_s=0.1)
    loop = _Loop(ctx, expected)
    with loop.running():
        loop.wait_for_answers(2)
        leaving = swarm.node_ids[0]
        swarm.processes[leaving].send_signal(signal.SIGTERM)
        assert swarm.processes[leaving].wait(LATE_S) == 0
        loop.wait_for_answers(3)
        assert leaving not in loop.nodes
        assert leaving not in {view.info.node_id for view in ctx.nodes()}
    check_nothing_left(swarm.storage)


def test_tasks_of_a_node_that_leaves_in_their_midst_are_finished_by_it(
    own_swarm: Start, plain: datafusion.SessionContext, tmp_path: Path
) -> None:
    swarm, ctx = own_swarm(2, heartbeat_s=0.1, speculate=False)
    leaving = swarm.node_ids[0]
    held = Held(tmp_path, ctx)
    answer = _in_thread(lambda: ctx.sql(Held.SQL).to_arrow_table())
    wait_until(lambda: _at_work(ctx, leaving), "the node at work")
    swarm.processes[leaving].send_signal(signal.SIGTERM)
    wait_until(lambda: not _usable(ctx, leaving), "the node says that it leaves")
    held.let_go()
    check_same(plain.sql(Held.PLAIN).to_arrow_table(), answer.result(ENDS_S))
    report = ctx.last_query
    assert report is not None
    assert leaving in {task.node_id for task in report.task_reports}
    assert not any(task.attempt for task in report.task_reports)
    assert swarm.processes[leaving].wait(LATE_S) == 0
    check_nothing_left(swarm.storage)


def test_tasks_of_a_killed_node_are_done_by_another(
    own_swarm: Start, plain: datafusion.SessionContext, tmp_path: Path
) -> None:
    swarm, ctx = own_swarm(2, heartbeat_s=0.1)
    killed, other = swarm.node_ids
    held = Held(tmp_path, ctx)
    answer = _in_thread(lambda: ctx.sql(Held.SQL).to_arrow_table())
    wait_until(lambda: _at_work(ctx, killed), "the node at work")
    kill_and_bury(swarm, killed)
    held.let_go()
    check_same(plain.sql(Held.PLAIN).to_arrow_table(), answer.result(ENDS_S))
    report = ctx.last_query
    assert report is not None
    redone = [task for task in report.task_reports if task.attempt]
    assert redone
    assert {task.node_id for task in redone} == {other}
    check_nothing_left(swarm.storage)


def test_queries_after_a_killed_node_go_to_the_others(own_swarm: Start, expected: pa.Table) -> None:
    swarm, ctx = own_swarm(2, **QUICK)
    killed = swarm.node_ids[0]
    check_same(expected, ctx.sql(SHUFFLED).to_arrow_table())
    swarm.processes[killed].kill()
    swarm.processes[killed].wait()
    wait_until(lambda: not _usable(ctx, killed), "the death noticed")
    check_same(expected, ctx.sql(SHUFFLED).to_arrow_table())
    report = ctx.last_query
    assert report is not None
    assert killed not in {task.node_id for task in report.task_reports}
    check_nothing_left(swarm.storage)


def test_query_whose_nodes_are_all_killed_is_finished_in_this_process(
    own_swarm: Start, plain: datafusion.SessionContext, tmp_path: Path
) -> None:
    swarm, ctx = own_swarm(2, **QUICK)
    held = Held(tmp_path, ctx)
    answer = _in_thread(lambda: ctx.sql(Held.SQL).to_arrow_table())
    wait_until(lambda: any(_at_work(ctx, node) for node in swarm.node_ids), "a node at work")
    for process in swarm.processes.values():
        process.kill()
    held.let_go()
    check_same(plain.sql(Held.PLAIN).to_arrow_table(), answer.result(ENDS_S))
    report = ctx.last_query
    assert report is not None
    assert report.folded_stages
    check_nothing_left(swarm.storage)


def test_query_that_outlives_its_nodes_still_has_its_deadline(own_swarm: Start) -> None:
    swarm, ctx = own_swarm(2, **{**QUICK, "timeout_s": 3})
    answer = _in_thread(lambda: ctx.sql(SLOW).to_arrow_table())
    # On a busy machine its time may be up before anybody is at work.
    wait_until(lambda: answer.done() or any(_at_work(ctx, node) for node in swarm.node_ids), "a node at work")
    for process in swarm.processes.values():
        process.kill()
    with pytest.raises(QueryTimeout):
        answer.result(ENDS_S)
    check_nothing_left(swarm.storage)


def test_query_that_runs_nowhere_else_fails_with_the_node_that_was_lost(own_swarm: Start) -> None:
    """One attempt is all that it gets, so the loss of its node is the end of it."""
    swarm, ctx = own_swarm(2, heartbeat_s=0.1, max_attempts=1, speculate=False)
    killed = swarm.node_ids[0]
    answer = _in_thread(lambda: ctx.sql(SLOW).to_arrow_table())
    wait_until(lambda: _at_work(ctx, killed), "the node at work")
    kill_and_bury(swarm, killed)
    with pytest.raises(TaskFailed, match=f"node {killed} was lost while it had the task") as caught:
        answer.result(ENDS_S)
    assert caught.value.details["cause"] == "no_alive_nodes"
    assert caught.value.details["node"] == killed
    check_nothing_left(swarm.storage)


def test_query_without_any_node_left_runs_in_this_process(own_swarm: Start, expected: pa.Table) -> None:
    swarm, ctx = own_swarm(1, **QUICK)
    swarm.processes[swarm.node_ids[0]].kill()
    wait_until(lambda: not _usable(ctx, swarm.node_ids[0]), "the death noticed")
    check_same(expected, ctx.sql(SHUFFLED).to_arrow_table())
    report = ctx.last_query
    assert report is not None
    assert not report.distributed
    assert report.reason.startswith("no node of the swarm is alive")


def _at_work(ctx: SessionContext, node_id: str) -> bool:
    return any(view.info.node_id == node_id and view.heartbeat.queries for view in ctx.nodes())


def _usable(ctx: SessionContext, node_id: str) -> bool:
    return any(view.info.node_id == node_id and view.usable for view in ctx.nodes())


def _in_thread(work: Callable[[], pa.Table]) -> Future[pa.Table]:
    """Start work in a thread of its own."""
    pool = ThreadPoolExecutor(1)
    answer = pool.submit(work)
    pool.shutdown(wait=False)
    return answer
