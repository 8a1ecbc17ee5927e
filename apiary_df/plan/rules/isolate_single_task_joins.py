"""Rule: joins whose state must live in one process get a gathered probe side."""

from __future__ import annotations

from apiary_df.plan import codec
from apiary_df.plan.classes import Placement, classify
from apiary_df.plan.operators import has_build_side, partition_count
from apiary_df.plan.rules.options import RewriteOptions
from apiary_df.plan.tree import PlanNode, transform_up


def isolate_single_task_joins(plan: PlanNode, _options: RewriteOptions) -> PlanNode:
    """Gather the probe side of joins that cannot be split, so that they run as one task.

    These are null-aware anti joins (``NOT IN`` must know of any NULL on either side), and nested-loop joins that
    emit build rows (they have no key to shuffle by).
    """

    def change(node: PlanNode) -> PlanNode:
        if not has_build_side(node) or partition_count(node.children[1]) == 1:
            return node
        if classify(node).placement is Placement.ONE_TASK:
            return node.with_children(node.children[0], codec.coalesce(node.children[1]))
        return node

    return transform_up(plan, change)
