"""What each physical operator asks of a distributed run: one table, and the partition counts that follow from it.

A rule, the cutter, EXPLAIN and the tests read the same table. An operator that is not in it never runs distributed.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from apiary_df.errors import PlanError
from apiary_df.plan import codec
from apiary_df.plan.tree import PlanNode


class Placement(enum.Enum):
    """Where an operator may run."""

    ANY_TASK = "runs in any task"
    EXCHANGE = "is an exchange"
    COORDINATOR = "coordinator only"


@dataclass(frozen=True, slots=True)
class OperatorClass:
    """The class of one operator, with the reason where it restricts the plan."""

    placement: Placement
    reason: str = ""


_ANY = OperatorClass(Placement.ANY_TASK)
_EXCHANGE = OperatorClass(Placement.EXCHANGE)


def _coordinator(reason: str) -> OperatorClass:
    return OperatorClass(Placement.COORDINATOR, reason)


OPERATORS: Mapping[str, OperatorClass] = {
    "parquet_scan": _ANY,
    "csv_scan": _ANY,
    "json_scan": _ANY,
    "avro_scan": _ANY,
    "arrow_scan": _ANY,
    "memory_scan": _ANY,
    "empty": _ANY,
    "placeholder_row": _ANY,
    "generate_series": _ANY,
    "projection": _ANY,
    "filter": _ANY,
    "local_limit": _ANY,
    "global_limit": _ANY,
    "coalesce_batches": _ANY,
    "cooperative": _ANY,
    "buffer": _ANY,
    "aggregate": _ANY,
    "sort": _ANY,
    "window": _ANY,
    "unnest": _ANY,
    "hash_join": _ANY,
    "cross_join": _ANY,
    "nested_loop_join": _ANY,
    "sort_merge_join": _ANY,
    "union": _ANY,
    "interleave": _ANY,
    "json_sink": _ANY,
    "csv_sink": _ANY,
    "parquet_sink": _ANY,
    "coalesce_partitions": _EXCHANGE,
    "sort_preserving_merge": _EXCHANGE,
    "repartition": _EXCHANGE,
    "scalar_subquery": _coordinator("a scalar subquery's result lives in the process that ran it"),
    "symmetric_hash_join": _coordinator("a streaming join keeps state over unbounded inputs"),
    "async_func": _coordinator("asynchronous functions belong to the session that registered them"),
    "explain": _coordinator("an explanation describes this session's plan"),
    "analyze": _coordinator("an analysis measures the plan in the process that runs it"),
    "extension": _coordinator("custom operators exist only in the session that made them"),
}
"""Operator to its class. What is missing here is unknown and runs in the session."""

BUILD_EMITTING_JOINS = frozenset({"Left", "Full", "LeftSemi", "LeftAnti", "LeftMark"})
"""Join types that emit build-side rows once the last probe partition of one process has ended."""

SINGLE_INPUT_AGGREGATES = frozenset({codec.FINAL, codec.SINGLE})
"""Aggregate modes that are right only over all rows at once."""


EMBED_BYTES = 64 << 10
"""In-memory tables up to this size travel inside the fragments that read them: a request costs as much as the bytes."""


def is_large_table(node: PlanNode, embed_bytes: int) -> bool:
    """Whether a node is an in-memory table of more than so many bytes, which no fragment should carry."""
    return node.kind == "memory_scan" and len(node.body) > embed_bytes


def coordinator_only_reason(plan: PlanNode) -> str | None:
    """Return why a plan must run in the session as a whole, naming the operator; None if it need not."""
    for node in plan.walk():
        operator = OPERATORS.get(node.kind)
        if operator is None:
            return f"operator {node.kind!r} is not known to this version"
        if operator.placement is Placement.COORDINATOR:
            return f"{node.kind}: {operator.reason}"
        if node.kind == "hash_join" and codec.fields_of(node).partition_mode == codec.AUTO:
            return "hash_join: its partition mode was left open by the planner"
        if node.kind == "repartition":
            fields = codec.fields_of(node)
            if fields.preserve_order and fields.partitioning.HasField("hash"):
                return "repartition: an order-preserving shuffle cannot be cut"
            if not (fields.partitioning.HasField("hash") or fields.partitioning.HasField("round_robin")):
                return "repartition: only hash and round-robin partitionings can be cut"
        if node.is_file_scan:
            conf = codec.scan_conf(node)
            if conf.partitioned_by_file_group or conf.HasField("output_partitioning"):
                return f"{node.kind}: its file groups carry a partitioning that must not be regrouped"
    return None


def join_type(node: PlanNode) -> str:
    """Return the name of a join node's type; a cross join is Inner."""
    if node.kind == "cross_join":
        return "Inner"
    return codec.JOIN_TYPES[codec.fields_of(node).join_type]


def has_build_side(node: PlanNode) -> bool:
    """Whether a node is a join that collects its left input into every task."""
    if node.kind == "hash_join":
        return bool(codec.fields_of(node).partition_mode == codec.COLLECT_LEFT)
    return node.kind in {"nested_loop_join", "cross_join"}


def is_null_aware(node: PlanNode) -> bool:
    """Whether a node is a hash join with NOT IN semantics, which keeps its NULL state in one process."""
    return node.kind == "hash_join" and bool(codec.fields_of(node).null_aware)


def partition_count(node: PlanNode) -> int:
    """Return how many output partitions a plan has when it runs on one node.

    Raises:
        PlanError: If the operator is unknown.
    """
    if node.is_file_scan:
        return len(codec.scan_conf(node).file_groups)
    if node.kind == "memory_scan":
        return len(codec.fields_of(node).partitions)
    if node.kind in {"empty", "placeholder_row"}:
        return max(1, int(codec.fields_of(node).partitions))
    if node.kind in {"generate_series", "coalesce_partitions", "sort_preserving_merge", "global_limit"}:
        return 1
    if node.kind == "repartition":
        partitioning = codec.fields_of(node).partitioning
        return int(partitioning.hash.count or partitioning.round_robin)
    if node.kind == "union":
        return sum(partition_count(child) for child in node.children)
    if node.kind == "sort" and not codec.fields_of(node).preserve_partitioning:
        return 1
    if has_build_side(node):
        return partition_count(node.children[1])
    if not node.children or node.kind not in OPERATORS:
        raise PlanError(f"cannot tell the partition count of operator {node.kind!r}")
    return partition_count(node.children[0])


def source_bytes(node: PlanNode) -> int:
    """Return the bytes of all files that a plan scans, and of in-memory tables within it."""
    total = 0
    for leaf in node.walk():
        if leaf.is_file_scan:
            total += sum(file.bytes for group in codec.scan_groups(leaf) for file in group)
        elif leaf.kind == "memory_scan":
            total += len(leaf.body)
    return total
