"""What can be asked of one operator or a subtree: kinds of joins, partition counts, bytes to read.

Where an operator may run is said by :mod:`apiary_df.plan.classes`.
"""

from __future__ import annotations

from apiary_df.errors import PlanError
from apiary_df.plan import codec
from apiary_df.plan.tree import UNKNOWN, PlanNode

UNKNOWN_BYTES = 1 << 62
"""What a subtree is taken to read that cannot be looked into."""

_REGROUPING = frozenset({"repartition", "coalesce_partitions", "sort_preserving_merge"})
"""Operators whose output partitions are not those of their input."""

EMBED_BYTES = 64 << 10
"""In-memory tables up to this size travel inside the fragments that read them: a request costs as much as the bytes."""


def is_large_table(node: PlanNode, embed_bytes: int) -> bool:
    """Whether a node is an in-memory table of more than so many bytes, which no fragment should carry."""
    return node.kind == "memory_scan" and len(node.body) > embed_bytes


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


def rests_on_partitioning(node: PlanNode, number: int, *, above: bool) -> bool:
    """Whether a node, or one above it, rests on an input's partitions being those of another input.

    An input that is brought into one partition is right for every operator of one input: it then has all rows.

    Args:
        node: The operator.
        number: Which of its inputs.
        above: Whether an operator above rests on the partitioning of the node's own rows.
    """
    if node.kind in _REGROUPING:
        return False
    if has_build_side(node):
        return above and number == 1
    return above or node.kind == "interleave" or (len(node.children) == 2 and node.kind != "union")


def partition_count(node: PlanNode) -> int:
    """Return how many output partitions a plan has when it runs on one node.

    Raises:
        PlanError: If the operator is a leaf of another kind.
    """
    if node.kind == UNKNOWN:
        # So it is once it has been isolated, and rules see no other.
        return 1
    if node.is_file_scan:
        return codec.scan_group_count(node)
    if node.kind == "memory_scan":
        return codec.table_partitions(node)
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
    if not node.children:
        raise PlanError(f"cannot tell the partition count of operator {node.kind!r}")
    return partition_count(node.children[0])


def source_bytes(node: PlanNode) -> int:
    """Return the bytes of all files that a plan scans, and of in-memory tables within it.

    What an operator that is not known reads is not known either: more than any limit.
    """
    return sum(map(_leaf_bytes, node.walk()))


def read_bytes(node: PlanNode) -> int:
    """Return the same, but of a file that keeps its columns apart no more than those that the scan asks for.

    A value counts as a byte at least, however well a column is compressed: it has to be worked on all the same.
    """
    return sum(map(asked_bytes, node.walk()))


def _leaf_bytes(node: PlanNode) -> int:
    if node.is_file_scan:
        return sum(file.bytes for group in codec.scan_groups(node) for file in group)
    if node.kind == "memory_scan":
        return len(node.body)
    return UNKNOWN_BYTES if node.kind == UNKNOWN else 0


def asked_bytes(node: PlanNode) -> int:
    """Return what an operator itself reads, not what those below it do: columns that it asks for, as far as is told.

    DataFusion knows of Parquet files how many rows they have, and how large each column is.
    """
    all_bytes = _leaf_bytes(node)
    if node.kind != "parquet_scan":
        return all_bytes
    conf = codec.scan_conf(node)
    if not conf.projection_exprs:
        return all_bytes
    columns = [item.expr for item in codec.parse("ProjectionExprs", conf.projection_exprs).projections]
    statistics = codec.parse("Statistics", conf.statistics)
    sizes = [stats.byte_size.value for stats in statistics.column_stats]
    known = all(size.HasField("uint64") for size in sizes) and all(column.HasField("column") for column in columns)
    total = sum(size.uint64 for size in sizes)
    if not known or not total:
        return all_bytes
    wanted = {column.column.index for column in columns}
    share = sum(size.uint64 for index, size in enumerate(sizes) if index in wanted) / total
    return max(int(all_bytes * share), int(statistics.num_rows.value.uint64) * len(wanted))
