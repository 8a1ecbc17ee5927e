"""Rule: a build side that is worth computing once gets an exchange of its own."""

from __future__ import annotations

from apiary_df.plan import codec
from apiary_df.plan.operators import has_build_side, partition_count, read_bytes
from apiary_df.plan.rules.options import RewriteOptions
from apiary_df.plan.tree import PlanNode, transform_up

_GATHERS = {"coalesce_partitions", "sort_preserving_merge"}


def gather_build_sides(plan: PlanNode, options: RewriteOptions) -> PlanNode:
    """Put a gather on top of build sides that every task of their join would otherwise compute for itself.

    A build side without an exchange on top is replicated into each task. That is right for small ones; a larger one
    is computed once, as a stage, and broadcast.
    """

    def change(node: PlanNode) -> PlanNode:
        if not has_build_side(node) or partition_count(node.children[1]) == 1:
            return node
        left, right = node.children
        if left.kind in _GATHERS or read_bytes(left) <= options.small_bytes:
            return node
        return node.with_children(codec.coalesce(left), right)

    return transform_up(plan, change)
