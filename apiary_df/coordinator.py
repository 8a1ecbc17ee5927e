"""Running one query on the swarm: a thin shell around the schedule.

What is decided (which stage, which task, which node, again or not) is decided by :mod:`apiary_df.schedule` and
:mod:`apiary_df.tasks`. This module turns what it sees in storage into events, carries commands out, streams the result
and, however the query ends, leaves nothing of it in storage.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timezone

import pyarrow as pa

from apiary_df.config import Settings
from apiary_df.errors import ApiaryError, ErrorInfo, QueryCancelled, StorageError, StorageTransient
from apiary_df.footers import FooterCache, row_group_starts
from apiary_df.history import History, ending_of
from apiary_df.host import SYSTEM, Host
from apiary_df.model import NodeInfo, NodeState, TaskKey, TaskSpec
from apiary_df.plan.fold import can_fold, fold, remaining_bytes
from apiary_df.plan.functions import PythonFunction
from apiary_df.plan.sinks import find_sink, target_of
from apiary_df.plan.stages import StageGraph
from apiary_df.protocol import keys
from apiary_df.protocol.arrow import conform_result
from apiary_df.protocol.messages import CommitRecord
from apiary_df.protocol.partial import read_partial
from apiary_df.publish import ROOT_FOLDER, Write, written
from apiary_df.query_objects import QueryObjects
from apiary_df.report import QueryEnd, QueryReport
from apiary_df.schedule import (
    AllNodesLost,
    Cancelled,
    Command,
    Event,
    NodeLost,
    PlanStage,
    QueryState,
    RestIsSmall,
    RootErred,
    RootFinished,
    RunRoot,
    Schedule,
    SendTasks,
    StagePlanned,
    Started,
    TaskCommitted,
    TaskErred,
    TimedOut,
)
from apiary_df.tasks import TaskOptions, is_plain_gather, plan_in_session, plan_root, plan_stage
from apiary_df.view import SwarmView
from apiary_df.worker.bee import Bench, batches_of, prepare_plan, run_attempt, workbench
from apiary_df.worker.engine import Engine
from apiary_df.writes import attempt_folder

logger = logging.getLogger("apiary_df")

POLL_GROWTH = 1.5
"""Factor by which the wait between two looks grows while nothing happens."""

ROOT_MEMORY_BYTES = 1 << 30
"""Memory of the engine that runs root stages in the session's process; what exceeds it spills."""

OnProgress = Callable[[int, int, str], None]
"""Told how many tasks are committed, how many are known, and what goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query that was planned for the swarm.

    Attributes:
        sql: Its text, for reports; None if it came as a DataFrame.
        graph: Its stages.
        settings: DataFusion options under which every task runs.
        schema: Schema of the result.
        reason: Why it is distributed.
        functions: The Python functions that its tasks run: only nodes that allow them are given any.
    """

    sql: str | None
    graph: StageGraph
    settings: Mapping[str, str]
    schema: pa.Schema
    reason: str
    functions: tuple[PythonFunction, ...] = ()


class QueryRun:
    """One run of a query: an iterator over the record batches of its result.

    Nothing happens before the first batch is asked for. Closing it, dropping it or an error ends the query and removes
    all that it left in storage.

    Args:
        query: What to run.
        view: The swarm.
        settings: Settings, filled in for the swarm's store.
        footers: Parquet footers that were read before.
        on_progress: Told about progress.
        host: The machine.
    """

    def __init__(
        self,
        query: Query,
        view: SwarmView,
        settings: Settings,
        footers: FooterCache,
        on_progress: OnProgress | None = None,
        *,
        host: Host = SYSTEM,
    ) -> None:
        self.query_id = new_query_id()
        self.schema = query.schema
        self._query = query
        self._view = view
        self._store = view.store
        self._host = host
        self._objects = QueryObjects(self.query_id, view.store, view.node_id)
        self._settings = settings
        self._footers = footers
        self._on_progress = on_progress
        self._schedule = Schedule(self.query_id, query.graph, max_attempts=settings.max_attempts)
        self._root_stage = query.graph.root
        self._folded: tuple[int, ...] = ()
        self._history = History(self.query_id, view.node_id, query.graph.root.stage)
        self._sent_s: dict[TaskKey, float] = {}
        self._given: dict[TaskKey, str] = {}
        self._doubts: set[TaskKey] = set()
        self._rows = 0
        self._started_s = 0.0
        self._ended_s: float | None = None
        self._started_at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self._state: QueryEnd = "running"
        self._error: ErrorInfo | None = None
        self._kept = False
        self._cancelled = host.event()
        self._wait_s = settings.poll_min_s
        self._requests_before = view.store.counts.snapshot()
        self._write = self._planned_write()
        self._batches = self._run()
        view.query_started(self.query_id)

    # -- as an iterator -----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        return next(self._batches)

    def close(self) -> None:
        """End the query now, if it still runs; what it left in storage goes away."""
        self._batches.close()

    def cancel(self) -> None:
        """Ask the query to end; whoever iterates gets :class:`~apiary_df.errors.QueryCancelled`. Thread-safe."""
        self._cancelled.set()

    def report(self) -> QueryReport:
        """Return what the query has done so far."""
        ended_s = self._ended_s if self._ended_s is not None else self._host.now_s()
        requests = _difference(self._store.counts.snapshot(), self._requests_before)
        commits = self._history.commits()
        for commit in commits:
            for kind, count in commit.metrics.requests.items():
                requests[kind] = requests.get(kind, 0) + count
        return QueryReport(
            query_id=self.query_id,
            sql=self._query.sql,
            distributed=True,
            reason=self._query.reason,
            stages=len(self._query.graph.stages),
            tasks=len(commits),
            rows=self._rows,
            bytes_through_storage=self._history.stored_bytes(),
            elapsed_s=ended_s - self._started_s if self._started_s else 0.0,
            requests=requests,
            folded_stages=self._folded,
            state=self._state,
            error=self._error,
            attempts=self._history.attempts(self._schedule, over=self._ended_s is not None),
            kept=self._kept,
        )

    def _at_s(self) -> float:
        """Return how long the query has run."""
        return self._host.now_s() - self._started_s

    # -- the run ------------------------------------------------------------------------------------------------------

    def _run(self) -> Generator[pa.RecordBatch, None, None]:
        self._started_s = self._host.now_s()
        try:
            self._announce()
            yield from self._drive()
            self._end(None)
        except BaseException as error:
            self._end(error)
            raise
        finally:
            self._clean_up()

    def _end(self, failure: BaseException | None) -> None:
        """Note how the query ended, for its report."""
        self._ended_s = self._host.now_s()
        self._state, self._error = ending_of(failure)
        outcome = {"done": "committed", "failed": "failed"}.get(self._state, "stopped")
        self._history.root_ended(self._at_s(), self._rows, outcome, self._error)

    def _planned_write(self) -> Write | None:
        """Return the files that the query is to write; None if it writes none."""
        sinks = (find_sink(stage.fragment) for stage in self._query.graph.stages)
        sink = next((sink for sink in sinks if sink is not None), None)
        if sink is None:
            return None
        return Write(
            target_of(sink),
            self.query_id,
            self._view.node_id,
            options=self._view.store_options,
            settings=self._settings,
            root=self._store,
            host=self._host,
        )

    def _announce(self) -> None:
        if self._write is not None:
            self._write.begin()
        self._objects.announce(
            self._query.graph.stages[:-1],
            sql=self._query.sql,
            settings=self._query.settings,
            timeout_s=self._settings.timeout_s,
            write=self._write,
        )

    def _drive(self) -> Generator[pa.RecordBatch, None, None]:
        commands: deque[Command] = deque(self._schedule.handle(Started()))
        own: deque[SendTasks] = deque()
        while True:
            while commands:
                command = commands.popleft()
                if isinstance(command, PlanStage):
                    if self._rest_is_small():
                        self._fold_rest()
                        commands = deque(self._schedule.handle(RestIsSmall()))
                        continue
                    if self._is_alone() and can_fold(self._query.graph, self._schedule.partials()):
                        self._fold_rest()
                        commands = deque(self._schedule.handle(AllNodesLost()))
                        continue
                    planned = StagePlanned(stage=command.stage, specs=self._plan_stage(command.stage))
                    commands.extend(self._schedule.handle(planned))
                elif isinstance(command, SendTasks) and command.node_id == self._view.node_id:
                    own.append(command)
                elif isinstance(command, SendTasks):
                    self._send(command)
                elif isinstance(command, RunRoot):
                    commands.extend((yield from self._root()))
                elif command.error is not None:
                    raise command.error
                else:
                    return
            if own:
                # Once the nodes have what they can do meanwhile.
                commands.extend(self._store_tables(own.popleft()))
                continue
            for event in self._look():
                commands.extend(self._schedule.handle(event))

    def _nodes(self) -> tuple[NodeInfo, ...]:
        """Return the nodes that may be given tasks of this query."""
        return self._view.node_infos(functions=bool(self._query.functions))

    def _rest_is_small(self) -> bool:
        """Whether all that is left runs here sooner than as stages; if so, the root becomes all of it."""
        partials = self._schedule.partials()
        started = any(not self._query.graph.stages[stage].in_session for stage in partials)
        if not started or self._schedule.pending() or not can_fold(self._query.graph, partials):
            return False
        return remaining_bytes(self._query.graph, partials) <= self._settings.finish_here_bytes

    def _is_alone(self) -> bool:
        """Whether no node is left that could take a task."""
        return not any(node.bees_total and node.state is NodeState.ALIVE for node in self._nodes())

    def _fold_rest(self) -> None:
        """Make the root do all that is left."""
        partials = self._schedule.partials()
        self._root_stage = fold(self._query.graph, partials)
        self._folded = tuple(s.stage for s in self._query.graph.stages[:-1] if s.stage not in partials)

    def _plan_stage(self, number: int) -> tuple[TaskSpec, ...]:
        stage = self._query.graph.stages[number]
        if stage.in_session:
            return (plan_in_session(stage, self._view.node_id),)
        nodes = self._nodes()
        starts = row_group_starts(
            stage, nodes, self._footers, self._view.store_options, min_cell_bytes=self._settings.min_cell_bytes
        )
        options = TaskOptions.of(self._settings)
        return plan_stage(stage, nodes, self._schedule.partials(), starts, options)

    def _send(self, command: SendTasks) -> None:
        number = self._objects.send(command.node_id, self._view.next_mail(command.node_id), command.tasks)
        self._view.mail_sent(command.node_id, number, len(command.tasks))
        now_s = self._host.now_s()
        for spec, attempt in command.tasks:
            key = TaskKey(query_id=self.query_id, stage=spec.stage, task=spec.task, attempt=attempt)
            self._sent_s[key] = now_s
            self._given[key] = command.node_id
            self._history.sent(key, spec.why, now_s - self._started_s)
        self._wait_s = self._settings.poll_min_s

    def _store_tables(self, command: SendTasks) -> tuple[Command, ...]:
        """Put in-memory tables into storage, as partials like any other; returns the schedule's commands after it."""
        self._tell("storing in-memory tables")
        commands: tuple[Command, ...] = ()
        for spec, attempt in command.tasks:
            key = TaskKey(query_id=self.query_id, stage=spec.stage, task=spec.task, attempt=attempt)
            stage = self._query.graph.stages[spec.stage]
            assert stage.schema is not None
            self._history.sent(key, spec.why, self._at_s(), here=True)
            try:
                with self._workbench() as (engine, bench):
                    work = run_attempt(
                        task=spec,
                        fragment=stage.fragment,
                        schema=stage.schema.arrow,
                        partial_key=keys.partial(self.query_id, key.stage, key.task, key.attempt),
                        engine=engine,
                        bench=bench,
                        cancelled=self._cancelled,
                    )
            except QueryCancelled:
                return self._schedule.handle(Cancelled())
            except ApiaryError as error:
                erred = TaskErred(key=key, node_id=self._view.node_id, error=error)
                return (*commands, *self._schedule.handle(erred))
            self._history.stored(key, work.partial, self._at_s())
            commands += self._schedule.handle(TaskCommitted(key=key, partial=work.partial))
        return commands

    def _workbench(self) -> AbstractContextManager[tuple[Engine, Bench]]:
        return workbench(
            self._store, self._settings, self._query.settings, self._view.store_options, memory_bytes=ROOT_MEMORY_BYTES
        )

    # -- what happened ------------------------------------------------------------------------------------------------

    def _look(self) -> list[Event]:
        """Wait a moment, and return what has happened meanwhile."""
        self._tell("running")
        if self._cancelled.wait(self._wait_s):
            return [Cancelled()]
        if self._overdue():
            return [self._timed_out()]
        events = self._news()
        if events:
            self._wait_s = self._settings.poll_min_s
            return events
        ceiling_s = self._settings.poll_max_s or self._settings.poll_min_s
        self._wait_s = min(self._wait_s * POLL_GROWTH, ceiling_s)
        return self._lost_work()

    def _overdue(self) -> bool:
        timeout_s = self._settings.timeout_s
        return timeout_s is not None and self._at_s() > timeout_s

    def _timed_out(self) -> Event:
        return TimedOut(timeout_s=self._settings.timeout_s or 0.0)

    def _news(self) -> list[Event]:
        events: list[Event] = []
        for key, record in self._objects.news(key for key, _ in self._schedule.pending()):
            self._attempt_over(key)
            if isinstance(record, CommitRecord):
                self._history.committed(record, self._at_s())
                events.append(TaskCommitted(key=record.key, partial=record.partial))
            else:
                self._history.ended(key, self._at_s(), record.seconds)
                events.append(self._erred(key, record.node_id, ApiaryError.from_info(record.error)))
        return events

    def _attempt_over(self, key: TaskKey) -> None:
        """Count an attempt no longer among what its node has to do; every attempt that was sent, exactly once."""
        node_id = self._given.pop(key, None)
        if node_id is not None:
            self._view.task_ended(node_id)

    def _erred(self, key: TaskKey, node_id: str, error: ApiaryError) -> TaskErred:
        alternatives = tuple(sorted(info.node_id for info in self._nodes() if info.bees_total))
        return TaskErred(key=key, node_id=node_id, error=error, alternatives=alternatives)

    def _lost_work(self) -> list[Event]:
        """Look at the heartbeats when it is time to, and return what they say of tasks that will not come back."""
        if not self._view.refresh_if_due():
            return []
        pending = self._schedule.pending()
        waiting_for = sorted({node_id for _, node_id in pending})
        lost = [node_id for node_id in waiting_for if self._view.is_dead(node_id)]
        if not lost:
            return self._forgotten(pending)
        for key, node_id in pending:
            if node_id in lost:
                self._history.ended(key, self._at_s())
        survivors = tuple(sorted(info.node_id for info in self._nodes() if info.bees_total))
        if not survivors and len(lost) < len(waiting_for):
            # The others are silent or leaving: they end their tasks, or come back, or are lost as well.
            return []
        if not survivors and can_fold(self._query.graph, self._schedule.partials()):
            self._fold_rest()
            return [AllNodesLost()]
        return [NodeLost(node_id=node_id, survivors=survivors) for node_id in lost]

    def _forgotten(self, pending: Sequence[tuple[TaskKey, str]]) -> list[Event]:
        """Return tasks that live nodes know nothing of, though they were sent a while ago: they would never end.

        A node forgets a task by throwing away damaged mail, or when it could not record how the task went.
        """
        events: list[Event] = []
        for key, node_id in pending:
            if self._view.works_on(node_id, self.query_id, since_s=self._sent_s[key]):
                self._doubts.discard(key)
            elif key not in self._doubts:
                # It may have been committed since the last look at commit records: judge at the next heartbeat.
                self._doubts.add(key)
            else:
                self._attempt_over(key)
                self._history.ended(key, self._at_s())
                error = StorageTransient(f"node {node_id} knows nothing of task {key}", node=node_id, task=key)
                events.append(self._erred(key, node_id, error))
        return events

    def _tell(self, doing: str) -> None:
        if self._on_progress is not None:
            done, known = self._schedule.progress()
            self._on_progress(done, known, doing)

    # -- the result ---------------------------------------------------------------------------------------------------

    def _root(self) -> Generator[pa.RecordBatch, None, tuple[Command, ...]]:
        """Run the root stage here and yield its batches.

        Returns:
            The schedule's commands after it (a generator's return value).
        """
        self._tell("gathering the result")
        self._history.root_began(self._at_s(), "the result is gathered here")
        try:
            batches = self._root_batches()
            if self._write is not None:
                # The row that tells how much was written is kept back until it is true.
                batches = iter(list(batches))
                if (stop := self._stopped()) is not None:
                    return self._schedule.handle(stop)
                self._publish(self._write)
            for batch in batches:
                if batch.num_rows:
                    self._rows += batch.num_rows
                    yield conform_result(batch, self.schema)
                # What is published is done, whatever comes after.
                if self._write is None and (stop := self._stopped()) is not None:
                    return self._schedule.handle(stop)
        except ApiaryError as error:
            self._history.root_ended(self._at_s(), self._rows, "failed", error.to_info())
            return self._schedule.handle(RootErred(error=error))
        return self._schedule.handle(RootFinished())

    def _root_batches(self) -> Iterator[pa.RecordBatch]:
        root = self._root_stage
        partials = self._schedule.partials()
        if is_plain_gather(root):
            for partial in partials[root.inputs[0]]:
                yield from read_partial(self._store, partial, 0)
            return
        yield from self._root_executed(plan_root(root, partials, self._view.node_id))

    def _root_executed(self, task: TaskSpec) -> Iterator[pa.RecordBatch]:
        """Have DataFusion run the root stage in this process."""
        root = self._root_stage
        fragment = root.fragment if self._write is None else self._write.staged(root.fragment, ROOT_FOLDER)
        with self._workbench() as (engine, bench):
            yield from batches_of(engine, prepare_plan(task, fragment, engine, bench), root.fragment)

    def _stopped(self) -> Event | None:
        """Return why the query must not go on; None if it may."""
        if self._cancelled.is_set():
            return Cancelled()
        return self._timed_out() if self._overdue() else None

    def _publish(self, write: Write) -> None:
        """Let the files of the attempts that count be seen."""
        if find_sink(self._root_stage.fragment) is None:
            counting = self._root_stage.inputs
            commits = [commit for commit in self._history.commits() if commit.stage in counting]
            write.publish((attempt_folder(c.stage, c.task, c.attempt), c.files) for c in commits)
        else:
            staged = write.staged(self._root_stage.fragment, ROOT_FOLDER)
            write.publish([(ROOT_FOLDER, written(staged, self._view.store_options))])

    # -- the end ------------------------------------------------------------------------------------------------------

    def _clean_up(self) -> None:
        """Remove all that the query left, the manifest first: a node that does not find it cleans up after itself."""
        for key in list(self._given):
            self._attempt_over(key)
        keep = self._settings.keep or (self._settings.keep_failed and self._state == "failed")
        try:
            try:
                self._objects.withdraw(keep=keep)
            finally:
                # Whatever becomes of the rest: a write that is not ended keeps saying that it is under way.
                if self._write is not None:
                    self._write.end()
            if keep:
                self._keep()
            else:
                self._objects.remove()
        except StorageError as error:
            undone = "keep" if keep else "remove"
            logger.warning("could not %s query %s in %s: %s", undone, self.query_id, self._store.url, error)
            if self._schedule.state is QueryState.DONE:
                raise

    def _keep(self) -> None:
        """Leave the query's objects, and beside them how it ended."""
        graph = self._query.graph
        partials = self._schedule.partials()
        tasks = {stage: specs for stage in range(graph.root.stage) if (specs := self._schedule.specs(stage))}
        # What writes files must not be run once more, and what misses an input cannot be.
        root = self._root_stage if self._write is None and partials.keys() >= set(self._root_stage.inputs) else None
        if root is not None:
            tasks[graph.root.stage] = (plan_root(root, partials, self._view.node_id),)
        self._objects.keep(self._history.outcome(self.report(), self._started_at), tasks, root)
        self._kept = True
        logger.info("query %s is kept: apiary replay %s %s", self.query_id, self._store.url, self.query_id)


def new_query_id() -> str:
    """Return a new query id; ids sort by time of start."""
    return f"q{int(time.time() * 1000):011x}-{secrets.token_hex(4)}"


def _difference(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}
