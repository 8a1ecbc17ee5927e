"""Which leaves of a plan an operator above them expects to be in order. Pure reading; nothing is changed here."""

from __future__ import annotations

from apiary_df.plan.operators import has_build_side
from apiary_df.plan.tree import PlanNode

_NEEDING_ORDER = frozenset({"sort_merge_join", "window", "sort_preserving_merge"})
"""Operators whose every input must come in order, and which do not sort it themselves."""

_ENDING_ORDER = frozenset({"sort", "coalesce_partitions", "repartition"})
"""Operators below which the order of rows does not matter to what is above."""


def leaves_in_order(plan: PlanNode) -> frozenset[int]:
    """Return the file leaves, numbered in pre-order, whose own order an operator rests on.

    A plan says nowhere that it does: DataFusion leaves a sort out where the input is in order already. So wherever no
    sort lies between an operator that needs order and a leaf, the leaf is taken to matter.
    """
    found: set[int] = set()
    seen = 0

    def visit(node: PlanNode, needed: bool) -> None:
        nonlocal seen
        if node.is_file_scan:
            if needed:
                found.add(seen)
            seen += 1
        for number, child in enumerate(node.children):
            visit(child, needs_order(node, number, above=needed))

    visit(plan, False)
    return frozenset(found)


def needs_order(node: PlanNode, number: int, *, above: bool) -> bool:
    """Whether a node, or one above it, rests on the order of one of the node's inputs.

    Args:
        node: The operator.
        number: Which of its inputs.
        above: Whether an operator above rests on the order of the node's own rows.
    """
    if node.kind in _NEEDING_ORDER:
        return True
    if node.kind in _ENDING_ORDER or (number == 0 and (has_build_side(node) or node.kind == "hash_join")):
        return False
    return above
