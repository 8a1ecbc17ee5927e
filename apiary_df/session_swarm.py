"""What stands behind a session: its swarm, its planner, and the decision where each of its queries runs.

What belongs here: what a DataFrame of the session asks for (:class:`~apiary_df.dataframe.QueryRunner`). What users
call is in :mod:`apiary_df.session`, how a run streams its rows in :mod:`apiary_df.runs`.
"""

from __future__ import annotations

import functools
import re
import secrets
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import datafusion
import pyarrow as pa

from apiary_df.config import Settings
from apiary_df.coordinator import QueryRun
from apiary_df.costs import ShufflePlanning
from apiary_df.dataframe import PHASES, DataFrame, QueryRunner, ResultStream, ours
from apiary_df.errors import ConfigError, FunctionsRefused, RootsRefused, SqlError
from apiary_df.explain import Explanation, is_explain, logical_of_explain, render
from apiary_df.footers import FooterCache, row_group_starts
from apiary_df.machine import load_settings
from apiary_df.model import CellInfo, NodeInfo, NodeState, TaskSpec
from apiary_df.objects import is_registered
from apiary_df.permits import places_of
from apiary_df.plan.gather import early_gather
from apiary_df.plan.operators import source_bytes
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.scans import scan_cells
from apiary_df.plan.stages import ScanLeaf, Stage, StageGraph
from apiary_df.planner import Local, extract_alive_nodes, plan_query
from apiary_df.planning import MAX_PARTITIONS, MIN_PARTITIONS, RunsHere, RunsOnSwarm, SwarmPlanner, batch_schema
from apiary_df.progress import QueryProgress
from apiary_df.protocol.heartbeat import NodeView
from apiary_df.query import Query
from apiary_df.report import QueryReport, Verification
from apiary_df.runs import Rows, Run, local_run, swarm_run
from apiary_df.session_cells import CachedStage, buckets_of
from apiary_df.session_writes import (
    bound_to,
    created_from_rows,
    fed_run,
    forget_inserted,
    rows_fed,
    staged_here,
    writes,
)
from apiary_df.statements import creates_table_as
from apiary_df.store import open_store
from apiary_df.store_options import StoreOptions
from apiary_df.swarm import LocalSwarm
from apiary_df.tables.damage import damaged_file
from apiary_df.tasks import TaskOptions, cell_target_bytes, plan_stage
from apiary_df.verify.run import ENDED_HERE, verified_run, with_time_put_in
from apiary_df.verify.shape import why_not_twice
from apiary_df.view import SwarmView

_QUERY_WORDS = frozenset(
    {"select", "with", "values", "explain", "execute", "describe", "desc", "show", "table", "from", "("}
)
"""First words of statements that leave the session's settings as they are."""

_FIRST_WORD = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(\(|\w+)", re.DOTALL)


SPARK_FUNCTIONS = "this session has Spark's functions, and nodes would run DataFusion's own of the same names"
"""Why a session with them does not distribute: a plan tells functions by their names."""


@dataclass(frozen=True, slots=True)
class _Decision:
    """Where a query runs."""

    plan: RunsHere | RunsOnSwarm
    reason: str
    nodes: tuple[NodeInfo, ...] = ()
    notes: tuple[str, ...] = ()
    refusal: FunctionsRefused | RootsRefused | None = None

    @property
    def on_swarm(self) -> bool:
        return isinstance(self.plan, RunsOnSwarm) and bool(self.nodes)


class SessionSwarm:
    """What stands behind a session: settings, planner, view of the swarm; it runs the session's DataFrames."""

    def __init__(
        self,
        session: datafusion.SessionContext,
        *,
        storage: str | None,
        nodes: int | None,
        options: StoreOptions | None,
        settings: Settings | None,
        overrides: dict[str, object],
    ) -> None:
        if nodes is not None and nodes < 1:
            raise ConfigError(f"nodes={nodes}: a session starts at least one node, or none at all (leave it out)")
        loaded = (
            settings.with_overrides(**overrides) if settings is not None else load_settings(None, None, **overrides)
        )
        self._session = weakref.ref(session)
        self.store_options = options
        self._object_stores: list[tuple[str, Any, str | None]] = []
        self._sql: weakref.WeakKeyDictionary[DataFrame, str] = weakref.WeakKeyDictionary()
        self._single_files: weakref.WeakSet[datafusion.DataFrame] = weakref.WeakSet()
        self._footers = FooterCache()
        self._local: LocalSwarm | None = None
        self._own_node: LocalSwarm | None = None
        self._view: SwarmView | None = None
        self._lock = threading.Lock()
        self._has_spark_functions = False
        self.last_query: QueryReport | None = None
        self.settings = loaded
        if nodes is not None:
            self._local = LocalSwarm(nodes, storage=storage, options=options, settings=loaded)
            storage = self._local.storage
        self.storage = storage
        try:
            if storage is not None:
                store = open_store(storage, options)
                self.storage = store.url
                self.settings = loaded.for_store(store.kind)
                self._view = SwarmView(store, f"session-{secrets.token_hex(4)}", self.settings, options)
                if loaded.local_bees:
                    self._own_node = LocalSwarm(
                        1, loaded.local_bees, storage=storage, options=options, settings=loaded, in_process=True
                    )
        except BaseException:
            self.close()
            raise
        self._planners: weakref.WeakKeyDictionary[datafusion.SessionContext, SwarmPlanner] = weakref.WeakKeyDictionary()

    def close(self) -> None:
        """Stop the nodes that were started here; closing twice does nothing."""
        for swarm in (self._own_node, self._local):
            if swarm is not None:
                swarm.close()
        self._own_node = self._local = None
        if self._view is not None:
            self._view.close()

    def nodes(self) -> list[NodeView]:
        """Return the nodes as they are now; none without a swarm."""
        return [] if self._view is None else list(self._view.refresh())

    def refused(self) -> dict[str, int]:
        """Return how many objects below the root were not taken here, by reason."""
        return {} if self._view is None else self._view.store.refusals.snapshot()

    # -- what the session tells ---------------------------------------------------------------------------------------

    def statement_ran(self, session: datafusion.SessionContext, query: str) -> None:
        """Plan the session's next queries anew, if the statement may have changed settings."""
        match = _FIRST_WORD.match(query)
        if match is None or match.group(1).lower() not in _QUERY_WORDS:
            self._planners.pop(session, None)

    def runner(self, session: datafusion.SessionContext) -> QueryRunner:
        """Return what runs the frames that a session (or a handle on it) makes now, under its settings of now."""
        return _Runner(self, self._planner_of(session))

    def _planner_of(self, session: datafusion.SessionContext) -> SwarmPlanner:
        planner = self._planners.get(session)
        if planner is None:
            planner = self._planners[session] = SwarmPlanner(session, self._prepare_twin)
        return planner

    def remember_sql(self, frame: DataFrame, query: str) -> None:
        """Note the SQL that a frame came from, for its report."""
        self._sql[frame] = query

    def object_store_registered(self, schema: str, store: Any, host: str | None) -> None:
        """Make an object store of the session known to planning as well."""
        self._object_stores.append((schema, store, host))
        for planner in self._planners.values():
            planner.forget()

    def spark_functions_enabled(self) -> None:
        """Keep the session's queries in this process: its functions are not those that nodes know by their names."""
        self._has_spark_functions = True

    def _prepare_twin(self, twin: datafusion.SessionContext) -> None:
        for schema, store, host in self._object_stores:
            twin.register_object_store(schema, store, host)

    # -- what a DataFrame asks ----------------------------------------------------------------------------------------

    def run(self, df: datafusion.DataFrame, planner: SwarmPlanner) -> ResultStream:
        """Start a query where it belongs."""
        explained = self._explained(df, planner)
        if explained is not None:
            return explained
        if self._view is None:
            return self._here(df, planner, "this session has no swarm: no storage was given")
        session = self._session()
        query = df if session is None else with_time_put_in(session, df)
        decision = self._decide(query, planner)
        if decision.refusal is not None:
            raise decision.refusal
        if not decision.on_swarm or not isinstance(decision.plan, RunsOnSwarm):
            return self._here(df, planner, decision.reason, decision.plan)
        start = functools.partial(self._on_swarm, df, decision.plan, decision.reason)
        why_not = why_not_twice(query.logical_plan())
        if session is None or not self.settings.verify or why_not is not None:
            return start(functools.partial(self._ended, unverified=why_not))
        return verified_run(session, query, df.schema(), start, self._ended)

    def _here(
        self, df: datafusion.DataFrame, planner: SwarmPlanner, reason: str, plan: RunsHere | RunsOnSwarm | None = None
    ) -> Run:
        session = self._session()
        sql = self._sql_of(df)
        ended = self._ending(df, functools.partial(self._ended, unverified=ENDED_HERE))
        if session is None or not writes(df):
            limit_s = self.settings.timeout_s
            cached = self._cached(df, plan) if isinstance(plan, RunsHere) else None
            if cached is not None:
                return local_run(df, sql, reason, ended, source=cached, timeout_s=limit_s, cache=cached.use)
            return local_run(df, sql, reason, ended, timeout_s=limit_s)
        staged = staged_here(
            session,
            planner,
            df.logical_plan(),
            self.settings,
            self.store_options,
            single_file=df in self._single_files,
            is_users_own=functools.partial(self._is_users_own, session),
        )
        start = functools.partial(self._start_on_swarm, planner=planner)
        fed = None if staged is not None else fed_run(session, sql, df, start, self._forget_listings)
        return fed or local_run(df, sql, reason, ended, source=staged)

    def _cached(self, df: datafusion.DataFrame, plan: RunsHere) -> CachedStage | None:
        """Return what runs a query here with cells from the cell cache, if it reads any that may be there."""
        session, view = self._session(), self._view
        buckets = buckets_of(plan)
        if session is None or view is None or view.cells is None or not buckets:
            return None
        if any(self._is_users_own(session, url) for url in buckets):
            return None
        return CachedStage(plan, view.cells, view, self.settings, batch_schema(session, df))

    def _start_on_swarm(self, df: datafusion.DataFrame, planner: SwarmPlanner) -> ResultStream | None:
        """Start a query if it is to run on nodes."""
        frame = ours(df, _Runner(self, planner))
        return self.run(frame, planner) if self._view is not None and self._decide(frame, planner).on_swarm else None

    def _ending(self, df: datafusion.DataFrame, ended: Callable[[QueryReport], None]) -> Callable[[QueryReport], None]:
        """Return what is to be done at the end of a query: after a write, listings of files are out of date."""
        if not writes(df):
            return ended

        def wrote(report: QueryReport) -> None:
            self._forget_listings()
            forget_inserted(df)
            ended(report)

        return wrote

    def _forget_listings(self) -> None:
        for planner in self._planners.values():
            planner.forget()

    def _is_users_own(self, session: datafusion.SessionContext, url: str) -> bool:
        given = (scheme.removesuffix("://") for scheme, _, _ in self._object_stores)
        return url.partition("://")[0] in given and not is_registered(session, url)

    def write(
        self, df: datafusion.DataFrame, planner: SwarmPlanner, statement: Callable[[str], str], *, single_file: bool
    ) -> None:
        """Run a statement that writes the rows of a DataFrame, named by the statement's maker."""
        session = self._session()
        if session is None:
            raise ConfigError("the session of this DataFrame is gone; keep it for as long as its DataFrames are used")
        bound, text = bound_to(session, df, statement)
        frame: DataFrame = ours(bound, _Runner(self, planner))
        self.remember_sql(frame, text)
        if single_file:
            self._single_files.add(frame)
        for _ in self.run(frame, planner):
            continue

    def table_schema(self, name: str) -> pa.Schema | None:
        """Return the schema of a registered table; None if there is no such table."""
        session = self._session()
        if session is None or not session.table_exist(name):
            return None
        schema: pa.Schema = session.table(name).schema()
        return schema

    def feeding(self, session: datafusion.SessionContext, query: str) -> AbstractContextManager[str]:
        """Return what runs the query of a CREATE TABLE AS on the swarm, and gives a statement over its rows."""
        if self._view is None or not creates_table_as(query):
            return nullcontext(query)
        start = functools.partial(self._start_on_swarm, planner=self._planner_of(session))
        return created_from_rows(session, query, start)

    def _on_swarm(
        self,
        df: datafusion.DataFrame,
        plan: RunsOnSwarm,
        reason: str,
        ended: Callable[[QueryReport], None],
    ) -> Run:
        assert self._view is not None
        session = self._session()
        query = Query(
            sql=self._sql_of(df),
            graph=plan.graph,
            settings=plan.settings,
            schema=df.schema if session is None else functools.partial(batch_schema, session, df),
            reason=reason,
            functions=plan.functions,
            places=places_of(plan.graph),
        )
        progress = QueryProgress(self.settings)
        run = QueryRun(query, self._view, self.settings, self._footers, progress)
        return swarm_run(run, df.schema(), progress, self._ending(df, ended), self.settings.timeout_s)

    def _ended(self, report: QueryReport, *, unverified: str | None = None) -> None:
        if self.settings.verify and unverified is not None:
            report = replace(report, verified=Verification(compared=(), open=(unverified,)))
        self.last_query = report

    def _sql_of(self, df: datafusion.DataFrame) -> str | None:
        return self._sql.get(df) if isinstance(df, DataFrame) else None

    def native_frame(self, table: pa.Table) -> datafusion.DataFrame:
        """Return a table as a plain DataFrame of the session, under no name."""
        session = self._session() or datafusion.SessionContext()
        batches = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
        return datafusion.SessionContext.read_batches(session, batches)

    def _decide(self, df: datafusion.DataFrame, planner: SwarmPlanner) -> _Decision:
        assert self._view is not None
        nodes = self._view.node_infos()
        workers = [node for node in extract_alive_nodes(nodes) if node.bees_total]
        if not workers:
            return _Decision(RunsHere(reason=""), _why_no_node(self._view.nodes()))
        if self._has_spark_functions:
            return _Decision(RunsHere(reason=SPARK_FUNCTIONS), SPARK_FUNCTIONS)
        bees = sum(node.bees_total for node in workers)
        options = RewriteOptions(
            partitions=min(max(MIN_PARTITIONS, bees), MAX_PARTITIONS),
            small_bytes=self.settings.small_bytes,
            bee_bytes=min(node.memory_per_bee for node in workers),
            reuse_from_values=self.settings.reuse_from_values,
            shuffles=None if self._view.store.kind == "folder" else ShufflePlanning.of(self.settings, bees),
        )
        plan = self._plan(df, planner, options)
        if isinstance(plan, RunsHere):
            return _Decision(plan, plan.reason)
        cells = self._cells(plan.graph, nodes)
        placed = plan_query(cells, [*nodes, self._self_info()], self._view.node_id)
        if isinstance(placed, Local):
            return _Decision(plan, placed.reason)
        places = places_of(plan.graph)
        readers = self._view.readers_of(places)
        notes = (readers.note,) if readers.note else ()
        if readers.refusal is not None or not plan.functions:
            return _Decision(plan, placed.reason, readers.nodes, notes, readers.refusal)
        runners = self._view.runners_of(plan.functions, places)
        return _Decision(plan, placed.reason, runners.nodes, (runners.note, *notes), runners.refusal)

    def _plan(self, df: datafusion.DataFrame, planner: SwarmPlanner, options: RewriteOptions) -> RunsHere | RunsOnSwarm:
        logical = df.logical_plan()
        try:
            return planner.plan(logical, options, single_file=df in self._single_files)
        except SqlError as error:
            # DataFusion reads footers while it plans, and says of a damaged one everything but its name.
            session = self._session()
            damaged = None if session is None else damaged_file(session, logical, self.store_options)
            raise (damaged or error) from error.__cause__

    def _cells(self, graph: StageGraph, nodes: Sequence[NodeInfo]) -> list[CellInfo]:
        """Return every cell that a query scans, once: they decide whether it is worth distributing."""
        cells: dict[CellInfo, None] = {}
        for stage in graph.stages:
            starts = self._row_group_starts(stage, nodes)
            if stage.in_session:
                size_bytes = source_bytes(stage.fragment) // stage.partitions
                parts = (f"memory:{stage.stage}/{part}" for part in range(stage.partitions))
                cells.update((CellInfo(storage_key=key, bytes=size_bytes), None) for key in parts)
            for leaf in stage.leaves:
                if isinstance(leaf, ScanLeaf):
                    total_bytes = sum(file.size_bytes for file in leaf.files)
                    target_bytes = cell_target_bytes(total_bytes, nodes, self.settings.min_cell_bytes)
                    cells.update(dict.fromkeys(scan_cells(leaf, starts, target_bytes)))
        return list(cells)

    def _row_group_starts(self, stage: Stage, nodes: Sequence[NodeInfo]) -> dict[str, tuple[int, ...]]:
        return row_group_starts(
            stage, nodes, self._footers, self.store_options, min_cell_bytes=self.settings.min_cell_bytes
        )

    def _self_info(self) -> NodeInfo:
        """Return this session as a node without bees: it coordinates, and takes no cells."""
        assert self._view is not None
        return NodeInfo(
            node_id=self._view.node_id,
            state=NodeState.ALIVE,
            cores=0,
            memory_bytes=0,
            memory_per_bee=0,
            target_cell_size=self.settings.target_cell_bytes,
            bees_total=0,
            bees_busy=0,
            idle_bees=0,
        )

    # -- explaining ---------------------------------------------------------------------------------------------------

    def _explained(self, df: datafusion.DataFrame, planner: SwarmPlanner) -> ResultStream | None:
        """Return the answer to an EXPLAIN statement, or None if it is another statement or datafusion's to explain."""
        sql = self._sql_of(df)
        if self._view is None or sql is None or not is_explain(sql):
            return None
        plan = df.logical_plan()
        inner = logical_of_explain(plan)
        session = self._session()
        if inner is None or session is None:
            return None
        frame = session.create_dataframe_from_logical_plan(inner.plan)
        text = self.explain_text(frame, planner, until=None, analyze=inner.analyze, verbose=inner.verbose)
        label = "distributed_plan_with_metrics" if inner.analyze else "distributed_plan"
        table = pa.table({"plan_type": [label], "plan": [text]}).cast(df.schema())
        return Rows(table)

    def explain_text(
        self, df: datafusion.DataFrame, planner: SwarmPlanner, *, until: str | None, analyze: bool, verbose: bool
    ) -> str:
        """Return how a query is (or was) run."""
        if until is not None and until not in PHASES:
            raise ConfigError(f"explain(until={until!r}): until is one of {', '.join(PHASES)}")
        if self._view is None:
            reason = "this session has no swarm: no storage was given"
            plan = RunsHere(reason=reason, physical=df.execution_plan().display_indent())
            return render(Explanation(plan=plan, reason=reason), planner.display, lambda _: ())
        session = self._session()
        rows = None if analyze or session is None else rows_fed(session, planner, df)
        if rows is not None:
            text = self.explain_text(rows, planner, until=until, analyze=False, verbose=verbose)
            return f"the statement is carried out in this process, over the rows of this query:\n{text}"
        decision = self._decide(df, planner)
        report: QueryReport | None = None
        if analyze:
            if decision.refusal is not None:
                raise decision.refusal
            if decision.on_swarm and isinstance(decision.plan, RunsOnSwarm):
                run: ResultStream = self._on_swarm(df, decision.plan, decision.reason, self._ended)
            else:
                run = self._here(df, planner, decision.reason, decision.plan)
            for _ in run:
                continue
            report = self.last_query
        explanation = Explanation(
            plan=decision.plan if decision.plan.physical else RunsHere(reason=decision.reason),
            reason=decision.reason,
            nodes=decision.nodes,
            notes=decision.notes,
            refusal=decision.refusal.message if decision.refusal is not None else "",
            report=report,
            streams=self.settings.stream_result,
            until=until or "assignment",
            verbose=verbose,
        )
        return render(explanation, planner.display, functools.partial(self._plan_tasks, decision.nodes, decision.plan))

    def _plan_tasks(
        self, nodes: tuple[NodeInfo, ...], plan: RunsHere | RunsOnSwarm, stage: Stage
    ) -> tuple[TaskSpec, ...]:
        assert isinstance(plan, RunsOnSwarm)
        gather = early_gather(plan.graph, enabled=self.settings.stream_result)
        early = gather is not None and gather.stage == stage.stage
        starts = self._row_group_starts(stage, nodes)
        return plan_stage(stage, nodes, {}, starts, TaskOptions.of(self.settings, early=early))


@dataclass(frozen=True, slots=True)
class _Runner:
    """Runs frames under the settings that their session had when they were made."""

    swarm: SessionSwarm
    planner: SwarmPlanner

    def run(self, df: datafusion.DataFrame) -> ResultStream:
        return self.swarm.run(df, self.planner)

    def explain_text(self, df: datafusion.DataFrame, *, until: str | None, analyze: bool, verbose: bool) -> str:
        return self.swarm.explain_text(df, self.planner, until=until, analyze=analyze, verbose=verbose)

    def native_frame(self, table: pa.Table) -> datafusion.DataFrame:
        return self.swarm.native_frame(table)

    def write(self, df: datafusion.DataFrame, statement: Callable[[str], str], *, single_file: bool = False) -> None:
        self.swarm.write(df, self.planner, statement, single_file=single_file)

    def table_schema(self, name: str) -> pa.Schema | None:
        return self.swarm.table_schema(name)


def _why_no_node(views: Sequence[NodeView], most: int = 3) -> str:
    """Return why no node of a swarm can take work, with the reasons of the first few that are there."""
    reasons = [f"{view.info.node_id} ({view.reason})" for view in views if view.reason]
    if not reasons:
        return "no node of the swarm is alive"
    more = f" and {len(reasons) - most} more" if len(reasons) > most else ""
    return f"no node of the swarm is alive and fit for work: {', '.join(reasons[:most])}{more}"
