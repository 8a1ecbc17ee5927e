"""Rule: round-robin repartitions go away."""

from __future__ import annotations

from apiary_df.plan import codec
from apiary_df.plan.rules.options import RewriteOptions
from apiary_df.plan.tree import PlanNode, transform_up


def drop_round_robin(plan: PlanNode, _options: RewriteOptions) -> PlanNode:
    """Replace every round-robin repartition by its input.

    They exist to use more cores of one process; here parallelism comes from cells. No operator depends on them: what
    needs a distribution stands above a hash repartition or a gather.
    """
    return transform_up(plan, lambda node: node.children[0] if codec.is_round_robin(node) else node)
