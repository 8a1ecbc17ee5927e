"""Running one query on the swarm: a thin shell around the schedule.

What is decided (which stage, which task, which node, again or not) is decided by :mod:`apiary_df.schedule` and
:mod:`apiary_df.tasks`. This module turns what it sees in storage into events, carries commands out, streams the result
and, however the query ends, leaves nothing of it in storage.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence

import pyarrow as pa

from apiary_df.adapt.broadcasts import Joined
from apiary_df.adapt.key_filters import Hold
from apiary_df.bell import Bell
from apiary_df.config import Settings
from apiary_df.costs import Prices, dollars
from apiary_df.errors import (
    ApiaryError,
    ErrorInfo,
    QueryCancelled,
    QueryLost,
    QueryTimeout,
    StorageError,
    WriteUndone,
)
from apiary_df.footers import FooterCache
from apiary_df.history import History
from apiary_df.host import SYSTEM, Host
from apiary_df.mailing import Mailing
from apiary_df.model import CellUse, NodeInfo, NodeState
from apiary_df.own_tasks import OwnTasks
from apiary_df.pace import Pace
from apiary_df.patience import Patience
from apiary_df.protocol import keys
from apiary_df.protocol.arrow import conform_result
from apiary_df.protocol.messages import CommitRecord
from apiary_df.publish import planned_write
from apiary_df.query import Query, new_query_id
from apiary_df.query_objects import QueryObjects
from apiary_df.report import QueryReport
from apiary_df.root import HandingOver, Root, Workbench
from apiary_df.schedule import (
    AllNodesLost,
    Cancelled,
    Command,
    EnoughRows,
    Event,
    NodeSight,
    NodesSeen,
    PlanStage,
    Policy,
    QueryState,
    RecordDamaged,
    RestIsSmall,
    RootErred,
    RootFinished,
    RunRoot,
    Schedule,
    SendTasks,
    StageChanged,
    StageHeld,
    StagePlanned,
    Started,
    Stop,
    StopTasks,
    TaskCommitted,
    TaskErred,
    TaskForgotten,
    Tick,
    TimedOut,
)
from apiary_df.stage_planning import StagePlanning
from apiary_df.standing import Cancelling, Standing
from apiary_df.view import GivenWork, SwarmView

logger = logging.getLogger("apiary_df")

_PLAIN_ENDS = (QueryCancelled, QueryTimeout, WriteUndone)
"""Errors that say themselves why a query ended, whatever has become of its objects."""

OnProgress = Callable[[int, int, str], None]
"""Told how many tasks are committed, how many are known, and what goes on."""


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

    root_type: type[Root] = Root
    """What runs the stage that makes the result."""

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
        self._query = query
        self._view = view
        self._store = view.store.counting()
        self._host = host
        patience = Patience(settings.dead_after_s or 0.0, host.now_s)
        self._objects = QueryObjects(
            self.query_id,
            self._store,
            view.node_id,
            patience,
            enclosed_bytes=settings.enclosed_bytes,
            host=host,
        )
        self._settings = settings
        self._standing = Standing(settings.timeout_s, host.now_s)
        self._planning = StagePlanning(query.graph, settings, footers, view.store_options)
        self._on_progress = on_progress
        gather = self._planning.early
        self._schedule = Schedule(
            self.query_id,
            query.graph,
            max_attempts=settings.max_attempts,
            retry_after_s=settings.retry_after_s,
            policy=Policy(
                enabled=settings.speculate, factor=settings.speculate_factor, after_s=settings.speculate_after_s
            ),
            hand_over=None if gather is None else gather.stage,
        )
        self._given = GivenWork(view, self.query_id)
        self._history = History(self.query_id, view.node_id, query.graph.root.stage)
        self._mailing = Mailing(
            self.query_id,
            self._objects,
            view=view,
            given=self._given,
            history=self._history,
            remaining_s=self._standing.remaining_s,
            host=host,
        )
        self._reading = 0
        self._put_off: list[PlanStage] = []
        self._kept = False
        self._announced = False
        self._cancelling = Cancelling(host)
        self._pace = Pace(settings, host.now_s())
        self._bell = Bell()
        self._write = planned_write(
            query.graph,
            self.query_id,
            view.node_id,
            options=view.store_options,
            settings=settings,
            root=view.store,
            host=host,
        )
        self._cells = None if view.cells is None else view.cells.for_query(self.query_id, self._cancelling.flag)
        bench: Workbench = functools.partial(view.workbenches.lend, query.settings, cells=self._cells)
        schemas = {s.stage: s.schema.arrow for s in query.graph.stages if s.schema is not None}
        self.root = self.root_type(
            self._store, view.node_id, self._write, bench, schemas=schemas, scratch=view.workbenches.scratch
        )
        self._own = OwnTasks(
            self.query_id,
            query,
            view.node_id,
            bench,
            schemas=schemas,
            history=self._history,
            cancelled=self._cancelling.flag,
            now_s=host.now_s,
        )
        self._handing = (
            None if gather is None else HandingOver(gather, query.graph.stages[gather.stage], self._schedule, self.root)
        )
        self._batches = self._run()

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """Schema of the result.

        Raises:
            SqlError: If DataFusion cannot tell it after all.
        """
        return self._query.schema()

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
        self._cancelling.flag.set()

    def is_settled(self) -> bool:
        """Whether it is too late to cancel: files that it wrote are being published."""
        return self._cancelling.is_settled()

    def report(self) -> QueryReport:
        """Return what the query has done so far."""
        standing = self._standing
        requests = Counter(self._store.counts.snapshot())
        for commit in self._history.commits():
            requests.update(commit.metrics.requests)
        attempts = self._history.attempts(self._schedule, standing.started_s, over=standing.is_over)
        return QueryReport(
            query_id=self.query_id,
            sql=self._query.sql,
            distributed=True,
            reason=self._query.reason,
            stages=len(self._query.graph.stages),
            tasks=len(self._commits()),
            rows=standing.rows,
            first_row_s=standing.first_row_s,
            bytes_through_storage=self._history.stored_bytes(),
            elapsed_s=standing.elapsed_s(),
            requests={kind: count for kind, count in requests.items() if count},
            dollars=dollars(requests, Prices.of(self._settings)) if self._store.kind == "bucket" else 0.0,
            folded_stages=self._planning.folded,
            folded_how=self._planning.folded_how,
            changes=self._planning.changes,
            state=standing.state,
            error=standing.error,
            attempts=attempts,
            kept=self._kept,
            cache=functools.reduce(CellUse.plus, (attempt.cache for attempt in attempts), CellUse()),
        )

    def _commits(self) -> list[CommitRecord]:
        """Return the commit records that count."""
        return [
            commit
            for commit in self._history.commits()
            if self._schedule.counted(commit.stage, commit.task) == commit.attempt
        ]

    # -- the run ------------------------------------------------------------------------------------------------------

    def _run(self) -> Generator[pa.RecordBatch, None, None]:
        self._standing.begin()
        self._view.query_started(self.query_id)
        try:
            self._announce()
            yield from self._drive()
            self._end(None)
        except ApiaryError as error:
            lost = None if isinstance(error, _PLAIN_ENDS) else self._lost()
            self._end(lost or error)
            if lost is None:
                raise
            raise lost from error
        except BaseException as error:
            self._end(error)
            raise
        finally:
            self._given.settle(())
            self._view.query_ended(self.query_id)
            self._clean_up()

    def _end(self, failure: BaseException | None) -> None:
        """Note how the query ended, for its report."""
        standing = self._standing
        standing.end(failure)
        if self._cells is not None:
            self._history.root_read(self._cells.use)
        outcome = {"done": "committed", "failed": "failed"}.get(standing.state, "stopped")
        self._root_ended(outcome, standing.error)

    def _root_ended(self, outcome: str, error: ErrorInfo | None) -> None:
        self._history.root_ended(self._standing.at_s(), self._standing.rows, outcome, error)

    def _announce(self) -> None:
        if self._write is not None:
            self._write.begin()
        # Renewed from the first moment: on a slow store, announcing takes longer than others wait for a sign of life.
        self._objects.take_lease()
        self._view.leases.hold(self.query_id)
        self._announced = True
        self._bell = self._view.take_bell(keys.query_prefix(self.query_id), keys.OUTCOMES)
        self._objects.announce(
            self._query.graph.stages[:-1],
            sql=self._query.sql,
            settings=self._query.settings,
            timeout_s=self._settings.timeout_s,
            write=self._write,
        )

    def _lost(self) -> QueryLost | None:
        """Return an error if others have removed the query: whatever else failed, failed because of that."""
        if not self._announced:
            return None
        try:
            if not self._view.leases.is_lost(self.query_id) and not self._objects.is_gone():
                return None
        except StorageError as error:
            logger.warning("cannot find out whether query %s is still there: %s", self.query_id, error)
            return None
        return QueryLost(
            f"query {self.query_id}: what it had in {self._store.url} was removed by another process, which had not "
            "heard of this session for so long that it took it for dead; run the query again",
            query=self.query_id,
        )

    def _drive(self) -> Generator[pa.RecordBatch, None, None]:
        commands: deque[Command] = deque(self._handle(Started(deadline_s=self._standing.deadline_s)))
        while True:
            while commands:
                command = commands.popleft()
                if isinstance(command, RunRoot):
                    # What is handed over task by task goes on as before.
                    commands.extend(() if self._hands_over() else (yield from self._root()))
                elif isinstance(command, SendTasks) and command.node_id != self._view.node_id:
                    self._mailing.send([command, *self._mailing.leading(commands)])
                    self._pace.news(self._host.now_s())
                elif not isinstance(command, Stop):
                    commands.extend(self._carry_out(command))
                elif command.error is not None:
                    raise command.error
                else:
                    return
            if self._handing is not None and self._hands_over():
                commands.extend((yield from self._hand_over(self._handing)))
            else:
                commands.extend(self._wait_for_news())

    def _carry_out(self, command: PlanStage | SendTasks | StopTasks) -> Sequence[Command]:
        """Do what the schedule says; returns what it says then."""
        if isinstance(command, PlanStage):
            return self._plan(command)
        if isinstance(command, StopTasks):
            self._mailing.stop(command)
        else:
            self._own.add(command)
        return ()

    def _wait_for_news(self, wait_s: float | None = None) -> list[Command]:
        """Do the session's own tasks or, if there are none, wait, for so long; returns what the schedule says then."""
        if self._own.are_waiting():
            # Once the nodes have what they can do meanwhile.
            self._tell("storing in-memory tables")
            self._objects.write()
            return list(self._handle(self._own.do_next()))
        commands: list[Command] = [*self._put_off]
        self._put_off.clear()
        for event in self._look(wait_s):
            commands += self._handle(event)
        if self._schedule.is_stranded():
            commands += self._finish_alone()
        return commands

    def _handle(self, event: Event) -> tuple[Command, ...]:
        return self._schedule.handle(event, self._host.now_s())

    def _plan(self, command: PlanStage) -> Sequence[Command]:
        """Have a stage planned, or all that is left done here; puts it off if it has to wait for a node.

        Raises:
            NoAliveNodes: If there is no node for it, nor one that may come back.
        """
        if not self._schedule.wants(command.stage):
            return ()
        partials = self._schedule.partials()
        if not self._schedule.open_tasks() and self._planning.rest_is_small(partials):
            self._planning.fold(partials)
            return self._handle(RestIsSmall())
        stage = self._planning.next(command.stage, self._schedule.graph, partials, self._schedule.held, self._nodes())
        if isinstance(stage, Hold):
            return self._handle(StageHeld(stage=command.stage, until=stage.until))
        if isinstance(stage, Joined):
            changed = (StageChanged(stage=stage.stage), StageChanged(stage=stage.left_out))
            return [then for event in changed for then in self._handle(event)]
        if stage.in_session:
            own = self._planning.task_of_session(stage, self._view.node_id)
            return self._handle(StagePlanned(stage=stage.stage, specs=own))
        seen = self._handle(NodesSeen(nodes=self._sights()))
        if not self._schedule.wants(command.stage):
            return seen
        # Who has just ended a task is idle, and must not be passed over for it.
        self._given.settle(key for key, _ in self._schedule.pending())
        nodes = self._nodes()
        if not any(node.bees_total and node.state is NodeState.ALIVE for node in nodes):
            if not self._schedule.is_alone() or self._schedule.pending():
                self._put_off.append(command)
                return seen
            if self._planning.can_fold(self._schedule.partials()):
                return (*seen, *self._finish_alone())
        self._objects.announce_fragment(stage, self._write)
        if stage.version != self._schedule.graph.stages[stage.stage].version:
            seen += self._handle(StageChanged(stage=stage))
        specs = self._planning.tasks(stage, nodes, self._schedule.partials(), self._schedule.underway())
        return (*seen, *self._handle(StagePlanned(stage=stage.stage, specs=specs)))

    def _sights(self) -> tuple[NodeSight, ...]:
        """Return the nodes that live, as this query's schedule may know them."""
        self._reading = self._view.reading()
        return self._view.sights(functions=bool(self._query.functions), places=self._query.places)

    def _finish_alone(self) -> tuple[Command, ...]:
        """Do all that is left here, if it can be done here; if not, the query ends."""
        if self._schedule.has_handed_over():
            # What is left of a stage whose rows went out already is done task by task.
            return self._handle(AllNodesLost())
        partials = self._schedule.partials()
        if not self._planning.can_fold(partials):
            return self._handle(AllNodesLost(can_finish=False))
        self._planning.fold(partials)
        return self._handle(AllNodesLost())

    def _nodes(self) -> tuple[NodeInfo, ...]:
        """Return the nodes that may be given tasks of this query."""
        return self._view.node_infos(functions=bool(self._query.functions), places=self._query.places)

    # -- what happened ------------------------------------------------------------------------------------------------

    def _look(self, wait_s: float | None) -> list[Event]:
        """Wait so long, or for as long as is due, and return what has happened meanwhile."""
        self._tell("running")
        # Now that nodes have something to do.
        _ = self.schema
        due_s = self._pace.wait_s(self._host.now_s()) if wait_s is None else wait_s
        if self._bell.wait(self._cancelling.flag, due_s):
            return [Cancelled()]
        if self._view.leases.is_lost(self.query_id) and (lost := self._lost()) is not None:
            raise lost
        if (late := self._timed_out()) is not None:
            return [late]
        self._given.settle(key for key, _ in self._schedule.pending())
        # Heartbeats first: what a node did before it left, or forgot, is then known from its records.
        new_sights = None if self._view.reading() == self._reading else self._sights()
        events: list[Event] = [self._noted(event) for event in self._objects.news(self._schedule.open_tasks())]
        if events:
            self._pace.news(self._host.now_s())
        if new_sights is not None:
            events += [NodesSeen(nodes=new_sights), *(TaskForgotten(key=key) for key in self._given.forgotten())]
        return [*events, Tick()]

    def _noted(self, event: TaskCommitted | TaskErred | RecordDamaged) -> Event:
        """Return an event, once it is noted for reports."""
        if isinstance(event, TaskCommitted):
            self._history.committed(self._objects.commits[event.key])
        elif isinstance(event, TaskErred):
            self._history.failed(event.key, event.seconds)
        return event

    def _timed_out(self) -> Event | None:
        return TimedOut(timeout_s=self._standing.timeout_s or 0.0) if self._standing.is_overdue() else None

    def _tell(self, doing: str) -> None:
        if self._on_progress is not None and not self._standing.rows:
            done, known = self._schedule.progress()
            self._on_progress(done, known, doing)

    # -- the result ---------------------------------------------------------------------------------------------------

    def _root(self) -> Generator[pa.RecordBatch, None, tuple[Command, ...]]:
        """Run the root stage here and yield its batches.

        Returns:
            The schedule's commands after it (a generator's return value).
        """
        self._tell("gathering the result")
        self._history.root_began(self._standing.at_s(), "the result is gathered here")
        try:
            batches = self.root.batches(self._planning.root, self._schedule.partials())
            if self._write is not None:
                # The row that tells how much was written is kept back until it is true.
                batches = iter(list(batches))
                if (stop := self._stopped()) is not None or not self._cancelling.settle():
                    return self._handle(stop or Cancelled())
                self._write.publish_stage(self._planning.root, self._commits())
            for batch in batches:
                if batch.num_rows:
                    yield self._counted(batch)
                # What is published is done, whatever comes after.
                if self._write is None and (stop := self._stopped()) is not None:
                    return self._handle(stop)
        except ApiaryError as error:
            commands = self._handle(RootErred(error=error, untouched=not self._standing.rows))
            again = self._schedule.state is QueryState.RUNNING
            if again:
                self._planning.unfold()
            outcome = "superseded" if again else "failed"
            self._root_ended(outcome, error.to_info())
            return commands
        return self._handle(RootFinished())

    def _counted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return rows of the result as the user gets them, and count them."""
        self._standing.handed_over(batch.num_rows)
        return conform_result(batch, self.schema)

    def _hands_over(self) -> bool:
        """Whether rows are handed over task by task, and some are to be now."""
        return self._handing is not None and not self._planning.folded and self._handing.has_work()

    def _hand_over(self, handing: HandingOver) -> Generator[pa.RecordBatch, None, Sequence[Command]]:
        """Yield rows of tasks that are committed, for as long as there are any and no news may have come.

        Returns:
            The schedule's commands after it (a generator's return value).
        """
        look_at_s = self._host.now_s() + (self._settings.poll_max_s or self._settings.poll_min_s)
        if not self._schedule.has_handed_over():
            self._history.root_began(self._standing.at_s(), "rows are handed over here as tasks commit")
        try:
            while not handing.is_satisfied:
                running = self._schedule.state is QueryState.RUNNING
                if not handing.is_open and not handing.open_next(self._host.now_s()):
                    return () if running else self._handle(RootFinished())
                batch = handing.next()
                if batch is not None and batch.num_rows:
                    yield self._counted(batch)
                if (stop := self._stopped()) is not None:
                    return self._handle(stop)
                if running and self._host.now_s() >= look_at_s:
                    break
        except ApiaryError as error:
            commands = self._handle(RootErred(error=error, untouched=not handing.is_open))
            if self._schedule.state is QueryState.RUNNING and not self._schedule.has_handed_over():
                self._root_ended("superseded", error.to_info())
            return commands
        return self._handle(EnoughRows()) if handing.is_satisfied else self._wait_for_news(0.0)

    def _stopped(self) -> Event | None:
        """Return why the query must not go on; None if it may."""
        return Cancelled() if self._cancelling.flag.is_set() else self._timed_out()

    # -- the end ------------------------------------------------------------------------------------------------------

    def _clean_up(self) -> None:
        """Remove all that the query left, the lease first if nodes may be at work: who does not find it cleans up."""
        if self._handing is not None:
            self._handing.close()
        self._view.leases.release(self.query_id)
        self._view.give_back(self._bell)
        keep = self._settings.keep or (self._settings.keep_failed and self._standing.state == "failed")
        stop = bool(self._schedule.pending()) or self._standing.state != "done"
        if keep or stop or self._write is not None:
            self._try("withdraw", functools.partial(self._objects.withdraw, keep=keep, stop=stop))
        else:
            # No node has anything to do for it: its lease goes with the rest.
            self._try("take back the mail of", self._objects.take_mail_back)
        if self._write is not None:
            # Whatever becomes of the rest: a write that is not ended keeps saying that it is under way.
            self._try("end the write of", self._write.end)
        if keep:
            self._try("keep", self._keep)
        else:
            self._try("remove", self._objects.remove)

    def _try(self, doing: str, act: Callable[[], None]) -> None:
        """Do a part of cleaning up. If that fails, the query's answer or error stands, and nodes collect the rest."""
        try:
            act()
        except StorageError as error:
            logger.warning("could not %s query %s in %s: %s", doing, self.query_id, self._store.url, error)

    def _keep(self) -> None:
        """Leave the query's objects, and beside them how it ended."""
        self._objects.write()
        graph = self._query.graph
        partials = self._schedule.partials()
        tasks = {stage: specs for stage in range(graph.root.stage) if (specs := self._schedule.specs(stage))}
        # What writes files must not be run once more, and what misses an input cannot be.
        root = self._planning.root
        can_run_again = self._write is None and partials.keys() >= set(root.inputs)
        if can_run_again:
            tasks[graph.root.stage] = (self.root.task(root, partials),)
        self._objects.keep(
            self._history.outcome(self.report(), self._standing.made_at), tasks, root if can_run_again else None
        )
        self._kept = True
        logger.info("query %s is kept: apiary replay %s %s", self.query_id, self._store.url, self.query_id)
