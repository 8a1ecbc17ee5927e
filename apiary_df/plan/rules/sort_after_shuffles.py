"""Rule: shuffles need not keep order, because what rests on it sorts."""

from __future__ import annotations

from apiary_df.errors import PlanError
from apiary_df.plan import codec
from apiary_df.plan.order import needs_order
from apiary_df.plan.rules.options import RewriteOptions
from apiary_df.plan.tree import PlanNode

_NO_FETCH = -1
"""How a sort says that it keeps all rows."""


def sort_after_shuffles(plan: PlanNode, _options: RewriteOptions) -> PlanNode:
    """Let shuffles that keep order be plain ones, and sort below the merge that rests on the order.

    DataFusion keeps the order of its input through a shuffle by merging within it, which rows that change hands through
    storage cannot do. What is aggregated above is far less than what was read, and cheap to sort again.

    Raises:
        PlanError: If another operator than a merge rests on the order: how it wants its rows, the plan does not say.
    """
    changed, _ = _sorted_anew(plan)
    return changed


def _sorted_anew(node: PlanNode) -> tuple[PlanNode, bool]:
    """Return a subtree without shuffles that keep order, and whether its rows have lost theirs by that."""
    children: list[PlanNode] = []
    lost = False
    for number, child in enumerate(node.children):
        below, disordered = _sorted_anew(child)
        if disordered and node.kind == "sort_preserving_merge":
            below, disordered = _sort(below, node), False
        elif disordered and needs_order(node, number, above=False):
            raise PlanError(f"cannot cut the plan: a {node.kind} rests on the order that a shuffle keeps")
        children.append(below)
        lost = lost or (disordered and needs_order(node, number, above=True))
    node = node.with_children(*children)
    if codec.keeps_order(node):
        return codec.replace(node, preserve_order=None), True
    return node, lost


def _sort(child: PlanNode, merge: PlanNode) -> PlanNode:
    fields = codec.fields_of(merge)
    fetch = fields.fetch if fields.HasField("fetch") else _NO_FETCH
    return codec.build("sort", child, expr=list(fields.expr), fetch=fetch, preserve_partitioning=True)
