"""From a DataFrame to a stage graph: DataFusion's physical plan, rewritten and cut.

Plans for the swarm are made by a *twin* of the user's session: the same settings, except for the few that make a plan
divisible (:data:`TWIN_OPTIONS`). The user's session stays as it is, so whatever runs in this process runs exactly as
plain DataFusion would run it.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import datafusion
import pyarrow as pa
from datafusion import SessionConfig
from datafusion.expr import RecursiveQuery, TableScan
from datafusion.plan import ExecutionPlan, LogicalPlan

from apiary_df.errors import PlanError, SqlError
from apiary_df.plan import codec
from apiary_df.plan.classes import coordinator_only_reason, reason_in_text
from apiary_df.plan.functions import PythonFunction, python_functions
from apiary_df.plan.loss import lost_format, lost_in_plan_format, lost_in_scan, may_lose_scans
from apiary_df.plan.opaque import isolate_unknown
from apiary_df.plan.rules import Phase, RewriteOptions, rewrite
from apiary_df.plan.schema import ExchangeSchemas
from apiary_df.plan.sinks import as_single_file, find_sink
from apiary_df.plan.stages import StageGraph, cut
from apiary_df.plan.tree import PlanNode
from apiary_df.worker.engine import NODES_OWN

logger = logging.getLogger("apiary_df")

TWIN_OPTIONS: Mapping[str, str] = {
    # A filter that is filled by an operator of another stage would never be filled.
    "datafusion.optimizer.enable_dynamic_filter_pushdown": "false",
    # A subquery expression decodes only below the operator that owns it; as a join it can be cut.
    "datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery": "false",
    # Every scan that can be read in parts is planned in parts; what is too small to be is decided by a rule.
    "datafusion.optimizer.repartition_file_min_size": "0",
    # Groups that carry a partitioning could not be regrouped by cells.
    "datafusion.optimizer.preserve_file_partitions": "0",
    # One file group, one stream: stealing across partitions reads a file twice when tasks run apart.
    "datafusion.execution.enable_file_stream_work_stealing": "false",
    # A join or a window that rests on an order sorts, instead of resting on shuffles that keep it.
    "datafusion.optimizer.prefer_existing_sort": "false",
    # Operators that cannot be encoded, which other operators can stand in for.
    "datafusion.optimizer.enable_piecewise_merge_join": "false",
    "datafusion.optimizer.enable_window_topn": "false",
    # The settings are read back from here.
    "datafusion.catalog.information_schema": "true",
    # Schemas are asked for by way of small tables, which need a place.
    "datafusion.catalog.create_default_catalog_and_schema": "true",
}
"""Options of the session that plans for the swarm."""

MIN_PARTITIONS = 2
"""With fewer, DataFusion plans no exchange, and there would be nothing to cut."""

BROADCAST_TOTAL_BYTES = 64 << 20
"""What the copies of one build side may add up to over all bees.

Shuffling the other side of a join through storage costs more than as many bytes of copies do. DataFusion's own limit (a
megabyte) is made for threads, between which a shuffle costs nothing.
"""

BROADCAST_BEE_SHARE = 0.125
"""Share of a bee's memory that a copy of a build side may take: its hash table, and the rest, need room as well."""

MIN_BROADCAST_BYTES = 1 << 20
"""Build side that is broadcast however many bees there are: DataFusion's own limit."""

BROADCAST_ROW_BYTES = 32
"""Bytes of a row where DataFusion knows only the number of rows: a key and three more columns."""

MIN_KEY_DENSITY = 0.05
"""From which density on joins look the keys of their build side up by place in an array, and not in a hash table.

DataFusion takes 0.15, where an array has as much memory as a hash table or less. But a task has only some
of a shuffle's keys, which lie as far apart as all of them do: it would make a hash table of keys that are dense as a
whole, and that takes far longer to look up. At this density an array has 80 bytes a row, where a hash table has 34.
"""

_SPLIT_BYTES_OPTION = "datafusion.optimizer.repartition_file_min_size"
_BROADCAST_BYTES_OPTION = "datafusion.optimizer.hash_join_single_partition_threshold"
_BROADCAST_ROWS_OPTION = "datafusion.optimizer.hash_join_single_partition_threshold_rows"
_KEY_DENSITY_OPTION = "datafusion.execution.perfect_hash_join_min_key_density"

MAX_PARTITIONS = 1_024
"""Most partitions of a shuffle, whatever number of bees the heartbeats tell of: a task holds a thread for each."""

INSERTING_PLAN = "Dml:"
"""What the text of a logical plan begins with if its statement changes a table."""

WRITING_PLANS = ("CopyTo:", INSERTING_PLAN)
"""What the text of a logical plan begins with if its statement may write files."""

FOREIGN = (
    "only this process can read table {}: {}; to have queries on it distributed, register files that it is made of as "
    "Parquet (CREATE EXTERNAL TABLE, register_parquet) or a copy of its rows (df.cache())"
)
"""Why a query over tables of other providers runs here, and what to do about it."""

LOST = (
    "table {}: {} is not carried by DataFusion's plan format; to have queries on it distributed, write its files anew "
    "(as Parquet, or plain) or register a copy of its rows (df.cache())"
)
"""Why a query over files that a task would read wrongly runs here, and what to do about it."""

_SYSTEM_TABLES = "information_schema."

_SETTINGS_SQL = "SELECT name, value FROM information_schema.df_settings WHERE value IS NOT NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsHere:
    """The query runs in this process, as plain DataFusion runs it.

    Attributes:
        reason: Why it is not distributed.
        physical: Text of the physical plan, if it came to one.
        phases: The plan after each rule, as far as it came.
        graph: Its single stage, if it was cut and came out as one.
        settings: With the stage: DataFusion options that differ from their defaults.
    """

    reason: str
    physical: str = ""
    phases: tuple[Phase, ...] = ()
    graph: StageGraph | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsOnSwarm:
    """The query is cut into stages.

    Attributes:
        physical: Text of the physical plan that was cut.
        phases: The plan after each rule.
        graph: The stages.
        settings: DataFusion options that differ from their defaults; every task runs under them.
        functions: The Python functions in the stages that nodes run.
    """

    physical: str
    phases: tuple[Phase, ...]
    graph: StageGraph
    settings: Mapping[str, str]
    functions: tuple[PythonFunction, ...] = ()


class SwarmPlanner:
    """Plans queries for the swarm, under the settings that a session has when this is made.

    As with datafusion, a query keeps the settings under which it was bound: who changes them makes a new planner.

    Args:
        session: The user's session.
        prepare: Called with every new twin, to register what plans may need (object stores).
    """

    def __init__(
        self, session: datafusion.SessionContext, prepare: Callable[[datafusion.SessionContext], None]
    ) -> None:
        self._config = session.copied_config()
        self._prepare = prepare
        self._twin: datafusion.SessionContext | None = None
        self._twin_partitions = 0
        self._twin_limits: dict[str, str] = {}
        self._settings: dict[str, str] = {}
        self._split_text_bytes = 0
        self._schemas = ExchangeSchemas()

    def forget(self) -> None:
        """Drop the twin: the session has other object stores."""
        self._twin = None
        self._schemas.forget()

    def plan(
        self, logical: LogicalPlan, options: RewriteOptions, *, single_file: bool = False
    ) -> RunsHere | RunsOnSwarm:
        """Plan a query.

        Args:
            logical: The query, as the user's session bound it.
            options: Settings of the rewrite; its partition count is also the plan's.
            single_file: If it writes files: it writes one, whatever its path looks like.

        Raises:
            SqlError: If DataFusion cannot plan the query at all.
        """
        twin = self._twin_for(options.partitions, options.bee_bytes)
        try:
            frame = twin.create_dataframe_from_logical_plan(logical)
            physical = frame.execution_plan()
        except Exception as error:  # noqa: BLE001 - DataFusion raises bare Exception
            return self._undivided(logical, error)
        text = physical.display_indent()
        lost = _lost_when_encoded(twin, frame, text)
        if lost is not None:
            return RunsHere(reason=lost, physical=text)
        try:
            encoded = physical.to_bytes(twin)
        except Exception as error:  # noqa: BLE001 - DataFusion raises bare Exception
            tables = foreign_tables(twin, frame.optimized_logical_plan())
            return RunsHere(reason=_why_not_encoded(tables, reason_in_text(text) or str(error)), physical=text)
        try:
            tree = codec.decode(encoded)
            return self._cut(twin, physical, encoded, as_single_file(tree) if single_file else tree, options)
        except PlanError as error:
            logger.warning("a plan could not be cut and runs in this process: %s", error)
            return RunsHere(reason=error.message, physical=text)

    def _undivided(self, logical: LogicalPlan, error: Exception) -> RunsHere:
        """Return why a query that cannot be planned for the swarm runs here.

        Some scalar subqueries (in an aggregate, a sort key, an outer join's condition) have no form as a join.

        Raises:
            SqlError: If it cannot be planned with the user's settings either.
        """
        plain = datafusion.SessionContext(copy.copy(self._config))
        self._prepare(plain)
        try:
            text = plain.create_dataframe_from_logical_plan(logical).execution_plan().display_indent()
        except Exception:  # noqa: BLE001 - DataFusion raises bare Exception
            raise SqlError(f"DataFusion cannot plan the query: {error}") from error
        reason = f"DataFusion cannot plan the query for division: {reason_in_text(text) or error}"
        return RunsHere(reason=reason, physical=text)

    def plan_write(self, logical: LogicalPlan, partitions: int, *, single_file: bool = False) -> PlanNode | None:
        """Plan a statement that writes files, undivided; None if it writes none, or not by operators that are known.

        Args:
            logical: The statement, as the user's session bound it.
            partitions: How many of its parts may run side by side, if nothing has been planned yet.
            single_file: It writes one file, whatever its path looks like.
        """
        if not logical.display().startswith(WRITING_PLANS):
            return None
        twin = self._twin or self._twin_for(partitions)
        try:
            frame = twin.create_dataframe_from_logical_plan(logical)
            physical = frame.execution_plan()
            lost = _lost_when_encoded(twin, frame, physical.display_indent())
            if lost is not None:
                logger.debug("a write is left to DataFusion: %s", lost)
                return None
            tree = codec.decode(physical.to_bytes(twin))
        except Exception as error:  # noqa: BLE001 - DataFusion raises bare Exception
            logger.debug("a write is left to DataFusion, since it cannot be planned or encoded here: %s", error)
            return None
        if find_sink(tree) is None:
            return None
        return as_single_file(tree) if single_file else tree

    def _cut(
        self,
        twin: datafusion.SessionContext,
        physical: ExecutionPlan,
        encoded: bytes,
        tree: PlanNode,
        options: RewriteOptions,
    ) -> RunsHere | RunsOnSwarm:
        text = physical.display_indent()
        reason = coordinator_only_reason(tree)
        if reason is not None:
            return RunsHere(reason=reason, physical=text)
        tree = isolate_unknown(tree, lambda node: ExecutionPlan.from_bytes(twin, codec.encode(node)).partition_count)
        phases = rewrite(tree, options)
        graph = cut(
            phases[-1].plan,
            functools.partial(self._schemas.of, twin),
            embed_bytes=options.embed_bytes,
            split_text_bytes=self._split_text_bytes,
        )
        if not graph.is_divided:
            reason = "nothing to distribute: every part of the plan has a single partition"
            return RunsHere(reason=reason, physical=text, phases=phases, graph=graph, settings=self._settings)
        functions = python_functions(stage.fragment for stage in graph.stages[:-1] if not stage.in_session)
        if functions and not _carries_functions(twin, physical, encoded):
            functions = ()
        return RunsOnSwarm(physical=text, phases=phases, graph=graph, settings=self._settings, functions=functions)

    def display(self, node: PlanNode) -> str:
        """Return a plan as DataFusion displays it.

        Raises:
            PlanError: If DataFusion cannot decode it.
        """
        twin = self._twin or self._twin_for(MIN_PARTITIONS)
        return display_plan(twin, node)

    def _twin_for(self, partitions: int, bee_bytes: int | None = None) -> datafusion.SessionContext:
        partitions = min(max(MIN_PARTITIONS, partitions), MAX_PARTITIONS)
        limits = join_limits(partitions, bee_bytes)
        if self._twin is None or (self._twin_partitions, self._twin_limits) != (partitions, limits):
            # Setting an option changes the object that it is set on.
            config = copy.copy(self._config)
            config = config.set("datafusion.catalog.information_schema", "true")
            told = _read_settings(datafusion.SessionContext(copy.copy(config)))
            self._split_text_bytes = int(told[_SPLIT_BYTES_OPTION])
            for name, value in TWIN_OPTIONS.items():
                config = config.set(name, value)
            chosen = changed_settings(datafusion.SessionContext(config))
            for name, value in limits.items():
                # Who has set a limit of their own means it.
                config = config if name in chosen else config.set(name, value)
            config = config.with_target_partitions(partitions)
            twin = datafusion.SessionContext(config)
            self._prepare(twin)
            self._twin, self._twin_partitions, self._twin_limits = twin, partitions, limits
            self._settings = changed_settings(twin)
        return self._twin


def _carries_functions(twin: datafusion.SessionContext, physical: ExecutionPlan, encoded: bytes) -> bool:
    """Whether an encoded plan really holds pickled functions: without them it is shorter."""
    return len(physical.to_bytes(twin.with_python_udf_inlining(enabled=False))) < len(encoded)


def foreign_tables(ctx: datafusion.SessionContext, logical: LogicalPlan) -> tuple[str, ...]:
    """Return the tables of a query whose scans DataFusion cannot encode: only this process can read them.

    Args:
        ctx: A session that can plan the query.
        logical: The query, optimized: subqueries are part of the tree then.
    """
    return tuple(dict.fromkeys(name for name, scan in _table_scans(logical) if not _is_encodable(ctx, scan)))


def _table_scans(logical: LogicalPlan) -> Iterator[tuple[str, LogicalPlan]]:
    """Yield name and scan of every table that a query reads, but not of those that a recursive part makes itself."""
    variant = logical.to_variant()
    if isinstance(variant, TableScan):
        yield variant.table_name(), logical
    if not isinstance(variant, RecursiveQuery):
        for child in logical.inputs():
            yield from _table_scans(child)


def _lost_when_encoded(ctx: datafusion.SessionContext, frame: datafusion.DataFrame, physical: str) -> str | None:
    """Return what of a query its plan's bytes would not tell, so that tasks would answer something else.

    Args:
        ctx: A session that can plan the query.
        frame: The query.
        physical: Text of its physical plan.
    """
    if "WindowAgg" in physical:
        lost = lost_in_plan_format(frame.optimized_logical_plan().display_indent())
        if lost is not None:
            return lost
    return _lost_in_scans(ctx, frame.optimized_logical_plan()) if may_lose_scans(physical) else None


def _lost_in_scans(ctx: datafusion.SessionContext, logical: LogicalPlan) -> str | None:
    """Return what the plan format would not tell of a table's files, with the table's name; None if it tells all."""
    for name, scan in _table_scans(logical):
        lost = lost_format(ctx.create_dataframe_from_logical_plan(scan).execution_plan().display_indent())
        if lost is None:
            try:
                encoded = scan.to_bytes(ctx)
            except Exception:  # noqa: BLE001 - DataFusion raises bare Exception for scans of what are no files
                continue
            lost = lost_in_scan(encoded)
        if lost is not None:
            return LOST.format(name, lost)
    return None


def _why_not_encoded(tables: Sequence[str], why: str) -> str:
    """Return why a plan that DataFusion cannot encode runs here.

    Args:
        tables: Tables that only this process can read.
        why: What is in the way of the encoding.
    """
    others = [table for table in tables if not table.startswith(_SYSTEM_TABLES)]
    if others:
        return FOREIGN.format(", ".join(others), why)
    return f"DataFusion cannot encode the plan: {why}"


def _is_encodable(ctx: datafusion.SessionContext, plan: LogicalPlan) -> bool:
    try:
        ctx.create_dataframe_from_logical_plan(plan).execution_plan().to_bytes(ctx)
    except Exception:  # noqa: BLE001 - DataFusion raises bare Exception; what it says is said of the whole plan
        return False
    return True


def join_limits(partitions: int, bee_bytes: int | None = None) -> dict[str, str]:
    """Return the options that say up to what size a build side is broadcast, and which are looked up in an array.

    Args:
        partitions: Partitions of the plan.
        bee_bytes: Memory of the smallest bee, each of which is to hold a copy; None if that is no matter.
    """
    broadcast_bytes = max(MIN_BROADCAST_BYTES, BROADCAST_TOTAL_BYTES // partitions)
    if bee_bytes is not None:
        broadcast_bytes = min(broadcast_bytes, int(bee_bytes * BROADCAST_BEE_SHARE))
    return {
        _BROADCAST_BYTES_OPTION: str(broadcast_bytes),
        _BROADCAST_ROWS_OPTION: str(broadcast_bytes // BROADCAST_ROW_BYTES),
        _KEY_DENSITY_OPTION: str(MIN_KEY_DENSITY),
    }


def batch_schema(session: datafusion.SessionContext, df: datafusion.DataFrame) -> pa.Schema:
    """Return the schema under which plain DataFusion hands over the batches of a query.

    It is the query's own, but that the optimizer knows more, or less, of which columns hold no NULL, and makes plain
    types of views if the settings ask for it.

    Args:
        session: The user's session.
        df: The query, which can be planned.

    Raises:
        SqlError: If DataFusion cannot optimize it after all.
    """
    declared: pa.Schema = df.schema()
    try:
        optimized = df.optimized_logical_plan()
        found = datafusion.SessionContext.create_dataframe_from_logical_plan(session, optimized).schema()
    except Exception as error:
        raise SqlError(f"DataFusion cannot optimize the query: {error}") from error
    if found.names != declared.names:
        return declared
    pairs = zip(declared, found, strict=True)
    fields = [field.with_type(known.type).with_nullable(known.nullable) for field, known in pairs]
    return pa.schema(fields, declared.metadata)


def display_plan(ctx: datafusion.SessionContext, node: PlanNode) -> str:
    """Return a plan as DataFusion displays it.

    Raises:
        PlanError: If DataFusion cannot decode it.
    """
    try:
        return ExecutionPlan.from_bytes(ctx, codec.encode(node)).display_indent()
    except Exception as error:
        raise PlanError(f"DataFusion cannot decode the rewritten plan: {error}") from error


def changed_settings(ctx: datafusion.SessionContext) -> dict[str, str]:
    """Return the options of a session that differ from a new one's; resource limits are each node's own."""
    config = SessionConfig({"datafusion.catalog.information_schema": "true"})
    defaults = _read_settings(datafusion.SessionContext(config))
    return {
        name: value
        for name, value in _read_settings(ctx).items()
        if defaults.get(name) != value and not name.startswith(NODES_OWN)
    }


def _read_settings(ctx: datafusion.SessionContext) -> dict[str, str]:
    table = datafusion.SessionContext.sql(ctx, _SETTINGS_SQL).to_pydict()
    return dict(zip(table["name"], table["value"], strict=True))
