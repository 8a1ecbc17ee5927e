"""The session: datafusion's ``SessionContext``, with a swarm behind it.

What belongs here: what users import, and the decision where a query runs. How a plan is made is
:mod:`apiary_df.planning`'s business, how it runs on the swarm :mod:`apiary_df.coordinator`'s.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import datafusion
import pyarrow as pa
from datafusion import RuntimeEnvBuilder, SessionConfig

from apiary_df.config import Settings
from apiary_df.coordinator import Query, QueryRun, conform, row_group_starts
from apiary_df.dataframe import (
    PHASES,
    DataFrame,
    ResultStream,
    giving_ours,
    methods_giving_frames,
    ours,
)
from apiary_df.errors import ApiaryError, ConfigError, QueryCancelled, SqlError
from apiary_df.explain import Explanation, is_explain, logical_of_explain, render
from apiary_df.footers import FooterCache
from apiary_df.machine import load_settings
from apiary_df.model import CellInfo, NodeInfo, NodeState, TaskSpec
from apiary_df.objects import register_object_store_for
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.scans import scan_cells
from apiary_df.plan.stages import ScanLeaf, Stage, StageGraph
from apiary_df.planner import Local, extract_alive_nodes, plan_query
from apiary_df.planning import MAX_PARTITIONS, MIN_PARTITIONS, RunsHere, RunsOnSwarm, SwarmPlanner
from apiary_df.progress import QueryProgress
from apiary_df.protocol.heartbeat import NodeView
from apiary_df.report import QueryReport
from apiary_df.store import open_store
from apiary_df.store_options import StoreOptions
from apiary_df.swarm import LocalSwarm
from apiary_df.tables import install
from apiary_df.tables.damage import damaged_file
from apiary_df.tasks import TaskOptions, cell_target_bytes, plan_stage
from apiary_df.view import SwarmView
from apiary_df.worker.bee import execution_error

logger = logging.getLogger("apiary_df")

_QUERY_WORDS = frozenset({"select", "with", "values", "explain", "describe", "desc", "show", "table", "from", "("})
"""First words of statements that leave the session's settings as they are."""

_BUCKET_URL = re.compile(r"(?:s3|gs|az)://")
_LOCATION = re.compile(r"\blocation\s+'((?:s3|gs|az)://[^']+)'", re.IGNORECASE)
"""Where a ``CREATE EXTERNAL TABLE`` statement says that its files are."""

_FIRST_WORD = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(\(|\w+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Decision:
    """Where a query runs."""

    plan: RunsHere | RunsOnSwarm
    reason: str
    nodes: tuple[NodeInfo, ...] = ()

    @property
    def on_swarm(self) -> bool:
        return isinstance(self.plan, RunsOnSwarm) and bool(self.nodes)


class SessionContext(datafusion.SessionContext):
    """A drop-in for ``datafusion.SessionContext`` whose queries run on a swarm.

    Without ``storage`` and ``nodes``, queries run in this process: a swarm of one. Everything that datafusion's session
    does still works; registrations, settings and DDL stay in this process.

    Args:
        config: datafusion's session configuration.
        runtime: datafusion's runtime configuration, for what runs in this process.
        storage: Folder or URL (``s3://bucket/prefix``) of the swarm to join.
        nodes: Start so many node processes of one bee each on this machine, on a temporary folder or under
            ``storage``; they stop when the session is closed.
        storage_options: How ``storage`` and cells are reached; unset ones come from the environment (``AWS_*``).
            They are never written to storage.
        settings: Settings as one value; file, environment and ``overrides`` are not looked at for what it fixes.
        **overrides: Single settings by name (``timeout_s=10``); see :class:`apiary_df.config.Settings`.

    Raises:
        ConfigError: If an option is unknown or makes no sense, or the URL's scheme is not known.
        StorageUnreachable: If ``storage`` cannot be reached or written.
        NodeStartFailed: If a node process does not come up.

    Example:
        >>> ctx = SessionContext()
        >>> ctx.sql("SELECT 1 + 1 AS two").to_pydict()
        {'two': [2]}
    """

    def __init__(
        self,
        config: SessionConfig | None = None,
        runtime: RuntimeEnvBuilder | None = None,
        *,
        storage: str | None = None,
        nodes: int | None = None,
        storage_options: StoreOptions | None = None,
        settings: Settings | None = None,
        **overrides: object,
    ) -> None:
        super().__init__(config, runtime)
        self._swarm = _SessionSwarm(
            self,
            storage=storage,
            nodes=nodes,
            options=storage_options,
            settings=settings,
            overrides=overrides,
        )
        self._cells_factory = install(self, storage_options)

    # -- life ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the nodes that this session started. Queries that still run fail; closing twice does nothing."""
        self._swarm.close()

    def __enter__(self) -> SessionContext:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the swarm ----------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._swarm.settings

    @property
    def storage(self) -> str | None:
        """URL of the swarm's root; None if queries run in this process."""
        return self._swarm.storage

    @property
    def last_query(self) -> QueryReport | None:
        """What the newest query of this session did; None before the first."""
        return self._swarm.last_query

    def nodes(self) -> list[NodeView]:
        """Return the nodes of the swarm as they are now; none if queries run in this process.

        Raises:
            StorageError: If the heartbeats cannot be read.
        """
        return self._swarm.nodes()

    # -- queries ------------------------------------------------------------------------------------------------------

    def sql(self, query: str, options: Any = None, param_values: Any = None, **named_params: Any) -> DataFrame:
        """Return a query of SQL; DDL and settings take effect at once, as with datafusion.

        Args:
            query: One SQL statement.
            options: Which kinds of statement are allowed.
            param_values: Values of ``$name`` placeholders.
            **named_params: Values or tables of ``$name`` placeholders.

        Raises:
            SqlError: If it does not parse or bind; the message says where.
        """
        for url in _LOCATION.findall(query):
            register_object_store_for(self, url, self._swarm.store_options)
        try:
            with self._cells_factory.statement(query):
                frame = super().sql(query, options, param_values, **named_params)
        except ApiaryError:
            raise
        except Exception as error:
            raise SqlError(f"{error}; in: {_abbreviated(query)}", sql=_abbreviated(query)) from error
        self._swarm.statement_ran(query)
        result: DataFrame = ours(frame, self._swarm)
        self._swarm.remember_sql(result, query)
        return result

    def sql_with_options(self, query: str, options: Any, param_values: Any = None, **named_params: Any) -> DataFrame:
        """As :meth:`sql`, with the options required."""
        return self.sql(query, options, param_values, **named_params)

    def register_object_store(self, schema: str, store: Any, host: str | None = None) -> None:
        """Add an object store, for this process and for planning. Nodes reach cells by their own options."""
        super().register_object_store(schema, store, host)
        self._swarm.object_store_registered(schema, store, host)


class _SessionSwarm:
    """What stands behind a session: settings, planner, view of the swarm; it runs the session's DataFrames."""

    def __init__(
        self,
        session: SessionContext,
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
        self._footers = FooterCache()
        self._local: LocalSwarm | None = None
        self._own_node: LocalSwarm | None = None
        self._view: SwarmView | None = None
        self._lock = threading.Lock()
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
        self._planner = SwarmPlanner(session, self._prepare_twin)

    def close(self) -> None:
        for swarm in (self._own_node, self._local):
            if swarm is not None:
                swarm.close()
        self._own_node = self._local = None

    def nodes(self) -> list[NodeView]:
        return [] if self._view is None else list(self._view.refresh())

    # -- what the session tells ---------------------------------------------------------------------------------------

    def statement_ran(self, query: str) -> None:
        match = _FIRST_WORD.match(query)
        if match is None or match.group(1).lower() not in _QUERY_WORDS:
            self._planner.forget()

    def remember_sql(self, frame: DataFrame, query: str) -> None:
        self._sql[frame] = query

    def object_store_registered(self, schema: str, store: Any, host: str | None) -> None:
        self._object_stores.append((schema, store, host))
        self._planner.forget()

    def _prepare_twin(self, twin: datafusion.SessionContext) -> None:
        for schema, store, host in self._object_stores:
            twin.register_object_store(schema, store, host)

    # -- what a DataFrame asks ----------------------------------------------------------------------------------------

    def run(self, df: datafusion.DataFrame) -> ResultStream:
        """Start a query where it belongs."""
        explained = self._explained(df)
        if explained is not None:
            return explained
        if self._view is None:
            return self._here(df, "this session has no swarm: no storage was given")
        decision = self._decide(df)
        if not decision.on_swarm or not isinstance(decision.plan, RunsOnSwarm):
            return self._here(df, decision.reason)
        return self._on_swarm(df, decision.plan, decision.reason)

    def _here(self, df: datafusion.DataFrame, reason: str) -> _Run:
        return _local_run(df, self._sql_of(df), reason, self._ended)

    def _on_swarm(self, df: datafusion.DataFrame, plan: RunsOnSwarm, reason: str) -> _Run:
        assert self._view is not None
        query = Query(sql=self._sql_of(df), graph=plan.graph, settings=plan.settings, schema=df.schema(), reason=reason)
        progress = QueryProgress(self.settings)
        run = QueryRun(query, self._view, self.settings, self._footers, progress)
        return _swarm_run(run, progress, self._ended)

    def _ended(self, report: QueryReport) -> None:
        self.last_query = report

    def _sql_of(self, df: datafusion.DataFrame) -> str | None:
        return self._sql.get(df) if isinstance(df, DataFrame) else None

    def native_frame(self, table: pa.Table) -> datafusion.DataFrame:
        """Return a table as a plain DataFrame of a session of its own."""
        return datafusion.SessionContext().create_dataframe([table.to_batches()], schema=table.schema)

    def _decide(self, df: datafusion.DataFrame) -> _Decision:
        assert self._view is not None
        nodes = self._view.node_infos()
        workers = [node for node in extract_alive_nodes(nodes) if node.bees_total]
        if not workers:
            return _Decision(RunsHere(reason=""), _why_no_node(self._view.nodes()))
        bees = sum(node.bees_total for node in workers)
        options = RewriteOptions(
            partitions=min(max(MIN_PARTITIONS, bees), MAX_PARTITIONS), small_bytes=self.settings.small_bytes
        )
        plan = self._plan(df, options)
        if isinstance(plan, RunsHere):
            return _Decision(plan, plan.reason)
        cells = self._cells(plan.graph, nodes)
        placed = plan_query(cells, [*nodes, self._self_info()], self._view.node_id)
        return _Decision(plan, placed.reason, () if isinstance(placed, Local) else nodes)

    def _plan(self, df: datafusion.DataFrame, options: RewriteOptions) -> RunsHere | RunsOnSwarm:
        logical = df.logical_plan()
        try:
            return self._planner.plan(logical, options)
        except SqlError as error:
            # DataFusion reads footers while it plans, and says of a damaged one everything but its name.
            session = self._session()
            damaged = None if session is None else damaged_file(session, logical, self.store_options)
            raise (damaged or error) from error.__cause__

    def _cells(self, graph: StageGraph, nodes: Sequence[NodeInfo]) -> list[CellInfo]:
        """Return every cell that a query scans, once: they decide whether it is worth distributing."""
        cells: dict[CellInfo, None] = {}
        for stage in graph.stages:
            starts = row_group_starts(stage, nodes, self._footers, self.store_options)
            for leaf in stage.leaves:
                if isinstance(leaf, ScanLeaf):
                    target_bytes = cell_target_bytes(sum(file.size_bytes for file in leaf.files), nodes)
                    cells.update(dict.fromkeys(scan_cells(leaf, starts, target_bytes)))
        return list(cells)

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

    def _explained(self, df: datafusion.DataFrame) -> ResultStream | None:
        """Return the answer to an EXPLAIN statement, or None if it is another statement or datafusion's to explain."""
        sql = self._sql_of(df)
        if self._view is None or sql is None or not is_explain(sql):
            return None
        plan = df.logical_plan()
        inner = logical_of_explain(plan)
        session = self._session()
        if inner is None or session is None:
            return None
        frame = ours(session.create_dataframe_from_logical_plan(inner.plan), self)
        text = self.explain_text(frame, until=None, analyze=inner.analyze, verbose=inner.verbose)
        label = "distributed_plan_with_metrics" if inner.analyze else "distributed_plan"
        table = pa.table({"plan_type": [label], "plan": [text]}).cast(df.schema())
        return _Rows(table)

    def explain_text(self, df: datafusion.DataFrame, *, until: str | None, analyze: bool, verbose: bool) -> str:
        """Return how a query is (or was) run."""
        if until is not None and until not in PHASES:
            raise ConfigError(f"explain(until={until!r}): until is one of {', '.join(PHASES)}")
        if self._view is None:
            reason = "this session has no swarm: no storage was given"
            plan = RunsHere(reason=reason, physical=df.execution_plan().display_indent())
            return render(Explanation(plan=plan, reason=reason), self._planner.display, lambda _: ())
        decision = self._decide(df)
        report: QueryReport | None = None
        if analyze:
            if decision.on_swarm and isinstance(decision.plan, RunsOnSwarm):
                run: ResultStream = self._on_swarm(df, decision.plan, decision.reason)
            else:
                run = self._here(df, decision.reason)
            for _ in run:
                continue
            report = self.last_query
        explanation = Explanation(
            plan=decision.plan if decision.plan.physical else RunsHere(reason=decision.reason),
            reason=decision.reason,
            nodes=decision.nodes,
            report=report,
            until=until or "assignment",
            verbose=verbose,
        )
        return render(explanation, self._planner.display, functools.partial(self._plan_tasks, decision.nodes))

    def _plan_tasks(self, nodes: tuple[NodeInfo, ...], stage: Stage) -> tuple[TaskSpec, ...]:
        starts = row_group_starts(stage, nodes, self._footers, self.store_options)
        return plan_stage(stage, nodes, {}, starts, TaskOptions(min_task_bytes=self.settings.min_task_bytes))


def _why_no_node(views: Sequence[NodeView], most: int = 3) -> str:
    """Return why no node of a swarm can take work, with the reasons of the first few that are there."""
    reasons = [f"{view.info.node_id} ({view.reason})" for view in views if view.reason]
    if not reasons:
        return "no node of the swarm is alive"
    more = f" and {len(reasons) - most} more" if len(reasons) > most else ""
    return f"no node of the swarm is alive and fit for work: {', '.join(reasons[:most])}{more}"


class _Rows:
    """A result that is at hand already."""

    def __init__(self, table: pa.Table) -> None:
        self.schema: pa.Schema = table.schema
        self._batches = iter(table.to_batches())

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        return next(self._batches)

    def cancel(self) -> None:
        """Do nothing: there is nothing under way."""

    def close(self) -> None:
        """Forget the rest."""
        self._batches = iter(())


class _Run:
    """A query under way, for one reader at a time; others may cancel or close it.

    It holds nothing that refers back to it: a stream that is dropped half-read ends its query there and then.

    Args:
        schema: Schema of the result.
        batches: The result; what must happen at the end is in its ``finally``.
        cancel: Asks ``batches`` to end; called from any thread.
    """

    def __init__(
        self, schema: pa.Schema, batches: Generator[pa.RecordBatch, None, None], cancel: Callable[[], None]
    ) -> None:
        self.schema = schema
        self._batches = batches
        self._cancel = cancel
        self._stepping = threading.RLock()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        with self._stepping:
            return next(self._batches)

    def cancel(self) -> None:
        """Ask the query to end, from any thread; whoever reads gets QueryCancelled."""
        self._cancel()

    def close(self) -> None:
        """End the query, if it still runs, and remove what it left in storage. For any thread."""
        self._cancel()
        with self._stepping:
            # A signal handler may interrupt this very thread in its step; the step ends by itself, it was cancelled.
            if inspect.getgeneratorstate(self._batches) != inspect.GEN_RUNNING:
                self._batches.close()


def _local_run(df: datafusion.DataFrame, sql: str | None, reason: str, ended: Callable[[QueryReport], None]) -> _Run:
    """Return a run of a query by datafusion in this process."""
    cancelled = threading.Event()
    schema: pa.Schema = df.schema()

    def batches() -> Generator[pa.RecordBatch, None, None]:
        started_s = time.monotonic()
        rows = 0
        try:
            for batch in datafusion.RecordBatchStream(df.df.execute_stream()):
                if cancelled.is_set():
                    raise QueryCancelled("the query, which ran in this process, was cancelled")
                arrow = batch.to_pyarrow()
                rows += arrow.num_rows
                # The plan knows more of NULLs than the query says, and says it only where there is a batch.
                yield conform(arrow, schema)
        except ApiaryError:
            raise
        except Exception as error:
            raise execution_error(error) from error
        finally:
            ended(
                QueryReport(
                    query_id="",
                    sql=sql,
                    distributed=False,
                    reason=reason,
                    stages=0,
                    tasks=0,
                    rows=rows,
                    bytes_through_storage=0,
                    elapsed_s=time.monotonic() - started_s,
                )
            )

    return _Run(schema, batches(), cancelled.set)


def _swarm_run(run: QueryRun, progress: QueryProgress, ended: Callable[[QueryReport], None]) -> _Run:
    """Return a run of a query on the swarm, with its progress display and its report."""

    def batches() -> Generator[pa.RecordBatch, None, None]:
        try:
            with progress:
                for batch in run:
                    # Rows are on their way to the user: the terminal is theirs.
                    progress.close()
                    yield batch
        finally:
            run.close()
            ended(run.report())

    return _Run(run.schema, batches(), run.cancel)


def _abbreviated(sql: str, most: int = 200) -> str:
    line = " ".join(sql.split())
    return line if len(line) <= most else line[:most] + " …"


def _keep_swarm(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method that returns another handle on the same session, so that the handle keeps the swarm."""

    @functools.wraps(method)
    def wrapper(self: SessionContext, *args: Any, **kwargs: Any) -> Any:
        handle = method(self, *args, **kwargs)
        if not isinstance(handle, SessionContext):
            # Some of datafusion's methods make a session of their own class, whatever they are called on.
            handle, internal = type(self).__new__(type(self)), handle.ctx
            handle.ctx = internal
        handle._swarm = self._swarm
        handle._cells_factory = self._cells_factory
        return handle

    return wrapper


def _reaching(method: Callable[..., Any], position: int) -> Callable[..., Any]:
    """Wrap a method that takes a path, so that a bucket's URL is reached by the session's own storage options."""

    @functools.wraps(method)
    def wrapper(self: SessionContext, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("path", args[position] if len(args) > position else None)
        for path in given if isinstance(given, (list, tuple)) else [given]:
            if _BUCKET_URL.match(str(path)):
                register_object_store_for(self, str(path), self._swarm.store_options)
        return method(self, *args, **kwargs)

    return wrapper


for _name, _method in methods_giving_frames(datafusion.SessionContext, SessionContext):
    setattr(SessionContext, _name, giving_ours(_method, lambda self: self._swarm))
for _format in ("parquet", "csv", "json", "avro", "arrow"):
    for _name, _position in ((f"register_{_format}", 1), (f"read_{_format}", 0)):
        setattr(SessionContext, _name, _reaching(getattr(SessionContext, _name), _position))
SessionContext.register_listing_table = _reaching(  # type: ignore[method-assign]
    SessionContext.register_listing_table, 1
)
for _name in (
    "enable_url_table",
    "with_extensions",
    "with_logical_extension_codec",
    "with_physical_extension_codec",
    "with_python_udf_inlining",
):
    setattr(SessionContext, _name, _keep_swarm(getattr(datafusion.SessionContext, _name)))
