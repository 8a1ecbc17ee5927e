"""What each physical operator asks of a distributed run: one table of all that DataFusion can put into a plan.

The rules, the cutter, EXPLAIN, the tests and docs/coverage.md read this table and keep no lists of their own. Where an
operator's class depends on how it is used (the mode of an aggregate, the type of a join) there is a row for each use,
and the first row whose condition holds is the operator's class. What is not in the table is run whole, in one place.
How operators are encoded is the codec's business, and what a class leads to is the rules' and the cutter's.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from apiary_df.plan import codec
from apiary_df.plan.operators import is_null_aware, join_type
from apiary_df.plan.tree import FILE_SCANS, UNKNOWN, PlanNode


class Placement(enum.Enum):
    """Where an operator may run."""

    ANY_TASK = "runs in any task"
    EXCHANGE = "needs an exchange"
    ONE_TASK = "must be one task"
    COORDINATOR = "coordinator only"


class Needs(enum.Enum):
    """Which rows an operator must see together to be right."""

    SHARE = "any share of the rows"
    KEY = "all rows of a key"
    BUILD = "the whole build side"
    BUILD_BY_KEY = "all rows of a key, of both sides"
    ALL = "all rows"


Condition = Callable[[PlanNode], bool]
"""Whether a row of the table is about a node of its kind."""


def _always(_node: PlanNode) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorClass:
    """A row of the table: one operator in one use.

    Attributes:
        operator: Name in DataFusion's EXPLAIN.
        use: What tells this use from the operator's others, as EXPLAIN shows it where it does.
        kind: Name in the plan format (see :data:`apiary_df.plan.wire.OPERATOR_NUMBERS`); empty if DataFusion has no
            encoding for it, so that no plan with it can leave the process.
        placement: Where it may run.
        needs: Which rows it must see together.
        reason: Why it is so placed; empty where it runs in any task for itself.
        applies: Whether the row is about a node of this kind.
    """

    operator: str
    use: str = ""
    kind: str = ""
    placement: Placement
    needs: Needs
    reason: str = ""
    applies: Condition = field(default=_always, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The operator and its use, as one text."""
        return f"{self.operator}: {self.use}" if self.use else self.operator

    def is_named_in(self, line: str) -> bool:
        """Whether a line of a plan's text is about the operator in this use, as far as the text tells."""
        return line.split(":", 1)[0] == self.operator and self.use in line

    @property
    def why(self) -> str:
        """The operator, its use, and the reason, as one text."""
        return f"{self.name}: {self.reason}"


# -- conditions ------------------------------------------------------------------------------------------------


def _mode(*modes: int) -> Condition:
    return lambda node: codec.fields_of(node).mode in modes


def _join_mode(mode: int) -> Condition:
    return lambda node: codec.fields_of(node).partition_mode == mode


def _emits_build_rows(node: PlanNode) -> bool:
    return join_type(node) in BUILD_EMITTING_JOINS


def _window(*, bounded: bool, keys: bool) -> Condition:
    def applies(node: PlanNode) -> bool:
        return codec.is_bounded_window(node) == bounded and bool(codec.fields_of(node).partition_keys) == keys

    return applies


def _is_hash(node: PlanNode) -> bool:
    return codec.hash_of_repartition(node) is not None


def _carries_partitioning(node: PlanNode) -> bool:
    conf = codec.scan_conf(node)
    return bool(conf.partitioned_by_file_group) or bool(conf.HasField("output_partitioning"))


def _sorts_all(node: PlanNode) -> bool:
    return not codec.fields_of(node).preserve_partitioning


BUILD_EMITTING_JOINS = frozenset({"Left", "Full", "LeftSemi", "LeftAnti", "LeftMark"})
"""Join types that emit build-side rows once the last probe partition of one process has ended."""

_EMITTING = "Left, Full, LeftSemi, LeftAnti, LeftMark"
_NOT_EMITTING = "Inner, Right, RightSemi, RightAnti, RightMark"


# -- rows ------------------------------------------------------------------------------------------------------


def _row(
    placement: Placement,
    needs: Needs,
    operator: str,
    kind: str,
    *,
    use: str = "",
    why: str = "",
    when: Condition = _always,
) -> OperatorClass:
    return OperatorClass(
        operator=operator, use=use, kind=kind, placement=placement, needs=needs, reason=why, applies=when
    )


_any = partial(_row, Placement.ANY_TASK, Needs.SHARE)
_exchange = partial(_row, Placement.EXCHANGE, Needs.SHARE)
_by_key = partial(_row, Placement.EXCHANGE, Needs.KEY)
_build = partial(_row, Placement.EXCHANGE, Needs.BUILD)
_one_task = partial(_row, Placement.ONE_TASK, Needs.ALL)
_here = partial(_row, Placement.COORDINATOR, Needs.ALL)
_NO_ENCODING = ""

_SCANS = tuple(
    row
    for kind in sorted(FILE_SCANS)
    for file_type in (f"file_type={kind.removesuffix('_scan')}",)
    for row in (
        _here(
            "DataSourceExec",
            kind,
            use=f"{file_type}, partitioned by file group",
            why="its file groups carry a partitioning that must not be regrouped",
            when=_carries_partitioning,
        ),
        _here("DataSourceExec", kind, use=file_type, why="DataFusion's Python package encodes no Avro scan")
        if kind == "avro_scan"
        else _any("DataSourceExec", kind, use=file_type),
    )
)

_SOURCES = (
    _any(
        "DataSourceExec",
        "memory_scan",
        use="partitions=",
        why="a large table is stored once and shared out, a small one goes with the plan",
    ),
    _any("LazyMemoryExec", "generate_series", why="every task can make the whole series"),
    _any("EmptyExec", "empty"),
    _any("PlaceholderRowExec", "placeholder_row"),
)

_ROW_BY_ROW = (
    _any("ProjectionExec", "projection"),
    _any("FilterExec", "filter"),
    _any("UnnestExec", "unnest"),
    _any("CoalesceBatchesExec", "coalesce_batches"),
    _any("CooperativeExec", "cooperative"),
    _any("BufferExec", "buffer"),
    _any("UnionExec", "union", why="a task takes part in one branch"),
    _any("LocalLimitExec", "local_limit", why="a limit above counts again"),
    *(
        _any("DataSinkExec", f"{name.lower()}_sink", use=f"sink={name}Sink", why="each task writes files of its own")
        for name in ("Csv", "Json", "Parquet")
    ),
)

_LIMITS_AND_SORTS = (
    _one_task("GlobalLimitExec", "global_limit", why="a limit skips and counts rows of the whole input"),
    _one_task(
        "SortExec",
        "sort",
        use="preserve_partitioning=[false]",
        why="no merge stands above, so all rows are put in order at once",
        when=_sorts_all,
    ),
    _any("SortExec", "sort", use="preserve_partitioning=[true]", why="a merge above puts the tasks' rows in order"),
)

_AGGREGATES = (
    _any(
        "AggregateExec",
        "aggregate",
        use="mode=Partial",
        why="a final aggregate merges the states",
        when=_mode(codec.PARTIAL),
    ),
    *(
        _by_key(
            "AggregateExec",
            "aggregate",
            use=f"mode={codec.AGGREGATE_MODES[mode]}",
            why="all rows of a group must meet in one task",
            when=_mode(mode),
        )
        for mode in (codec.FINAL_PARTITIONED, codec.SINGLE_PARTITIONED, codec.PARTIAL_REDUCE)
    ),
    *(
        _one_task(
            "AggregateExec",
            "aggregate",
            use=f"mode={codec.AGGREGATE_MODES[mode]}",
            why="it makes its result of all rows at once",
            when=_mode(mode),
        )
        for mode in (codec.FINAL, codec.SINGLE)
    ),
)

_WINDOWS = tuple(
    row
    for operator, bounded in (("BoundedWindowAggExec", True), ("WindowAggExec", False))
    for row in (
        _by_key(
            operator,
            "window",
            use="PARTITION BY",
            why="all rows of a window's partition must meet in one task",
            when=_window(bounded=bounded, keys=True),
        ),
        _one_task(
            operator,
            "window",
            use="no PARTITION BY",
            why="the window looks at all rows",
            when=_window(bounded=bounded, keys=False),
        ),
    )
)

_JOINS = (
    _one_task(
        "HashJoinExec",
        "hash_join",
        use="null_aware",
        why="NOT IN must know of any NULL, and keeps what it knows in one process",
        when=is_null_aware,
    ),
    _by_key(
        "HashJoinExec",
        "hash_join",
        use="mode=Partitioned",
        why="rows of equal keys must meet in one task",
        when=_join_mode(codec.PARTITIONED),
    ),
    _here(
        "HashJoinExec",
        "hash_join",
        use="mode=Auto",
        why="its partition mode was left open by the planner",
        when=_join_mode(codec.AUTO),
    ),
    _row(
        Placement.EXCHANGE,
        Needs.BUILD_BY_KEY,
        "HashJoinExec",
        "hash_join",
        use=f"mode=CollectLeft, join_type={_EMITTING}",
        why="which build rows found a partner is noted in one process: both sides are shuffled by the key",
        when=_emits_build_rows,
    ),
    _build(
        "HashJoinExec",
        "hash_join",
        use=f"mode=CollectLeft, join_type={_NOT_EMITTING}",
        why="every task needs the whole build side",
    ),
    _by_key("SortMergeJoinExec", "sort_merge_join", why="rows of equal keys must meet in one task"),
    _one_task(
        "NestedLoopJoinExec",
        "nested_loop_join",
        use=f"join_type={_EMITTING}",
        why="which build rows found a partner is noted in one process, and there is no key to shuffle by",
        when=_emits_build_rows,
    ),
    _build(
        "NestedLoopJoinExec",
        "nested_loop_join",
        use=f"join_type={_NOT_EMITTING}",
        why="every task needs the whole build side",
    ),
    _build("CrossJoinExec", "cross_join", why="every task needs the whole build side"),
)

_EXCHANGES = (
    _any(
        "RepartitionExec",
        "repartition",
        use="RoundRobinBatch",
        why="it is left out: tasks share rows out by cells",
        when=codec.is_round_robin,
    ),
    _exchange(
        "RepartitionExec",
        "repartition",
        use="Hash, preserve_order=true",
        why="it is a shuffle, and what rests on its order sorts again",
        when=codec.keeps_order,
    ),
    _exchange("RepartitionExec", "repartition", use="Hash", why="it is a shuffle", when=_is_hash),
    _here("RepartitionExec", "repartition", use="Range", why="only hash and round-robin partitionings can be cut"),
    _exchange("CoalescePartitionsExec", "coalesce_partitions", why="it is a gather"),
    _exchange("SortPreservingMergeExec", "sort_preserving_merge", why="it is a gather that merges"),
    _by_key("InterleaveExec", "interleave", why="its inputs must be partitioned alike"),
)

_SESSION_ONLY = (
    _here(
        "ScalarSubqueryExec",
        "scalar_subquery",
        why="a scalar subquery's result lives in the process that ran it",
    ),
    _here("SymmetricHashJoinExec", "symmetric_hash_join", why="a streaming join keeps state over unbounded inputs"),
    _here("AsyncFuncExec", "async_func", why="asynchronous functions belong to the session that registered them"),
    _here("ExplainExec", "explain", why="an explanation describes this session's plan"),
    _here("AnalyzeExec", "analyze", why="an analysis measures the plan in the process that runs it"),
    _here("(custom operator)", "extension", why="custom operators exist only in the session that made them"),
)

_NOT_ENCODED = (
    _here("RecursiveQueryExec", _NO_ENCODING, why="each step of it reads the rows that the step before found"),
    _here("WorkTableExec", _NO_ENCODING, why="it is the memory of the recursive query above it"),
    _here("StreamingTableExec", _NO_ENCODING, why="tables of the system, and streams, are the session's own"),
    _here("DatasetExec", _NO_ENCODING, why="a pyarrow dataset is an object of the process that registered it"),
    _here("DataSinkExec", _NO_ENCODING, use="sink=MemoryTable", why="an in-memory table is in the session"),
    _here("PiecewiseMergeJoin", _NO_ENCODING, why="plans for the swarm are made without it"),
    _here("PartitionedTopKExec", _NO_ENCODING, why="plans for the swarm are made without it"),
    _here("PartialSortExec", _NO_ENCODING, why="it is for unbounded inputs, which are the session's own"),
    _here("DmlResultExec", _NO_ENCODING, why="it tells how many rows a table of the session has changed"),
    _here("ForeignExecutionPlan", _NO_ENCODING, why="its provider is a library that the session has loaded"),
)

TABLE: tuple[OperatorClass, ...] = (
    *_SCANS,
    *_SOURCES,
    *_ROW_BY_ROW,
    *_LIMITS_AND_SORTS,
    *_AGGREGATES,
    *_WINDOWS,
    *_JOINS,
    *_EXCHANGES,
    *_SESSION_ONLY,
    *_NOT_ENCODED,
)
"""All operators in all uses; of the rows of one kind, the first that applies counts."""

UNKNOWN_OPERATOR = OperatorClass(
    operator="(unknown)",
    kind=UNKNOWN,
    placement=Placement.ONE_TASK,
    needs=Needs.ALL,
    reason="it is not known to this version, so all below it runs in one place",
)
"""The class of an operator that is not in the table."""


def _by_kind() -> Mapping[str, tuple[OperatorClass, ...]]:
    found: dict[str, tuple[OperatorClass, ...]] = {}
    for row in TABLE:
        if row.kind:
            found[row.kind] = (*found.get(row.kind, ()), row)
    return found


_BY_KIND = _by_kind()


def classify(node: PlanNode) -> OperatorClass:
    """Return the class of an operator in the use that a node makes of it."""
    return next((row for row in _BY_KIND.get(node.kind, ()) if row.applies(node)), UNKNOWN_OPERATOR)


def coordinator_only_reason(plan: PlanNode) -> str | None:
    """Return why a plan must run in the session as a whole, naming the operator; None if it need not."""
    for node in plan.walk():
        found = classify(node)
        if found.placement is Placement.COORDINATOR:
            return found.why
    return None


def one_task_operators(fragment: PlanNode) -> tuple[PlanNode, ...]:
    """Return the operators for which a stage's fragment must be one task, one of each class, topmost first."""
    found: dict[OperatorClass, PlanNode] = {}
    for node in fragment.walk():
        row = classify(node)
        if row.placement is Placement.ONE_TASK:
            found.setdefault(row, node)
    return tuple(found.values())


def reason_in_text(plan: str) -> str | None:
    """Return why a plan cannot be encoded, from its text; None if no operator that stays here is named in it.

    Args:
        plan: The plan as DataFusion displays it.
    """
    lines = [line.strip() for line in plan.splitlines()]
    for row in TABLE:
        if row.placement is Placement.COORDINATOR and any(row.is_named_in(line) for line in lines):
            return row.why
    return None


__all__ = [
    "TABLE",
    "UNKNOWN_OPERATOR",
    "Needs",
    "OperatorClass",
    "Placement",
    "classify",
    "coordinator_only_reason",
    "one_task_operators",
    "reason_in_text",
]
