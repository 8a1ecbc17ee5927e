"""Rule: collected joins that emit build rows become shuffled joins."""

from __future__ import annotations

from apiary_df.plan import codec
from apiary_df.plan.classes import Needs, classify
from apiary_df.plan.operators import partition_count
from apiary_df.plan.rules.options import RewriteOptions
from apiary_df.plan.tree import PlanNode, transform_up


def shuffle_build_emitting_joins(plan: PlanNode, options: RewriteOptions) -> PlanNode:
    """Shuffle both sides of collect-left hash joins that emit rows of the build side.

    Left, full, left-semi, left-anti and left-mark joins note in one process which build rows found a partner, and
    emit when that process's last probe partition ends. Over several tasks each would emit for itself. With
    both sides shuffled by the key, every build row is in exactly one task. Null-aware joins look at the whole build
    side and are left to :func:`isolate_single_task_joins`.
    """

    def change(node: PlanNode) -> PlanNode:
        if classify(node).needs is not Needs.BUILD_BY_KEY or partition_count(node.children[1]) == 1:
            return node
        left, right = node.children
        if left.kind == "coalesce_partitions" and not codec.fields_of(left).HasField("fetch"):
            left = left.children[0]
        on = codec.fields_of(node).on
        return codec.replace(
            node,
            codec.hash_repartition(left, [pair.left for pair in on], options.partitions),
            codec.hash_repartition(right, [pair.right for pair in on], options.partitions),
            partition_mode=codec.PARTITIONED,
        )

    return transform_up(plan, change)
