"""Rule: round-robin repartitions go away, but for those that share out an in-memory table."""

from __future__ import annotations

from apiary_df.plan import codec
from apiary_df.plan.operators import is_large_table
from apiary_df.plan.rules.options import RewriteOptions
from apiary_df.plan.tree import PlanNode, transform_up


def drop_round_robin(plan: PlanNode, options: RewriteOptions) -> PlanNode:
    """Replace round-robin repartitions by their inputs, unless that is a large in-memory table.

    They exist to use more cores of one process; here parallelism comes from cells. No operator depends on them: what
    needs a distribution stands above a hash repartition or a gather. An in-memory table has no cells: a large one is
    stored by the session, and its repartition says in how many parts.
    """

    def change(node: PlanNode) -> PlanNode:
        if codec.is_round_robin(node) and not is_large_table(node.children[0], options.embed_bytes):
            return node.children[0]
        return node

    return transform_up(plan, change)
