"""Rule: a subtree that reads little data runs in one partition, without exchanges."""

from __future__ import annotations

from apiary_df.plan.operators import source_bytes
from apiary_df.plan.rules.options import RewriteOptions
from apiary_df.plan.single import to_single_partition
from apiary_df.plan.tree import PlanNode


def collapse_small_subtrees(plan: PlanNode, options: RewriteOptions) -> PlanNode:
    """Bring each largest subtree that reads at most ``small_bytes`` into one partition.

    A stage of its own costs a round trip through storage, which is more than scanning a few megabytes. A collapsed
    build side has no exchange on top, so that every task of its consumer runs it for itself.
    """
    if options.small_bytes <= 0:
        return plan
    if source_bytes(plan) <= options.small_bytes:
        return to_single_partition(plan)
    return plan.with_children(*(collapse_small_subtrees(child, options) for child in plan.children))
