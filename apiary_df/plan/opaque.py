"""Operators that the codec does not know: all below such an operator is kept as it came, and runs in one place.

The bytes of the subtree are never looked into. Put below a gather, it is a leaf of one partition, and the rest of the
plan is divided as if it were a table. Where what stands above rests on how the subtree's rows are partitioned or
ordered, that would be a guess, and the plan is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from apiary_df.errors import PlanError
from apiary_df.plan import codec
from apiary_df.plan.operators import rests_on_partitioning
from apiary_df.plan.order import needs_order
from apiary_df.plan.tree import UNKNOWN, PlanNode

PartitionsOf = Callable[[PlanNode], int]
"""Tells how many output partitions a plan of unknown operators has; only DataFusion knows."""

_BUCKET = re.compile(rb"(?<![a-z])(?!file:)[a-z][a-z0-9]*://")
"""Where an object store is named that is not the file system."""


def isolate_unknown(plan: PlanNode, partitions_of: PartitionsOf) -> PlanNode:
    """Make every operator that the codec does not know a leaf of one partition.

    Args:
        plan: A decoded plan.
        partitions_of: Tells the number of output partitions of such an operator.

    Raises:
        PlanError: If an operator above rests on the partitions or the order of one, or if one reads from a bucket:
            nodes learn from the scans that they know which buckets they need.
    """

    def visit(node: PlanNode, *, partitioned: bool, ordered: bool) -> PlanNode:
        if node.kind == UNKNOWN:
            return _as_leaf(node, partitions_of(node), partitioned=partitioned, ordered=ordered)
        children = [
            visit(
                child,
                partitioned=rests_on_partitioning(node, number, above=partitioned),
                ordered=needs_order(node, number, above=ordered),
            )
            for number, child in enumerate(node.children)
        ]
        return node.with_children(*children)

    return visit(plan, partitioned=False, ordered=False)


def _as_leaf(node: PlanNode, partitions: int, *, partitioned: bool, ordered: bool) -> PlanNode:
    name = codec.unknown_name(node)
    if _BUCKET.search(node.body):
        raise PlanError(f"cannot cut the plan: {name} is not known to this version and reads from a bucket")
    if partitions == 1:
        return node
    if partitioned or ordered:
        what = "partitioning" if partitioned else "order"
        raise PlanError(
            f"cannot cut the plan: {name} is not known to this version, and an operator above rests on the {what} of "
            f"its {partitions} partitions"
        )
    # Gather and subtree are one leaf, so that no rule can take them apart.
    return PlanNode(UNKNOWN, codec.encode(codec.coalesce(node)))
