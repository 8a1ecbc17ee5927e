"""Whether a plan that was put together from fragments may run in several partitions: a check, which changes nothing.

A fragment was cut for tasks of one partition each. Where its leaves have several, each operator must still see together
what it needs to: a plan that fails here is run in one partition, so that no answer rests on how it was put together.
"""

from __future__ import annotations

from dataclasses import dataclass

from apiary_df.plan import codec
from apiary_df.plan.classes import Needs, classify
from apiary_df.plan.operators import has_build_side, partition_count
from apiary_df.plan.sinks import SINKS
from apiary_df.plan.tree import PlanNode

_GATHERS = frozenset({"coalesce_partitions", "sort_preserving_merge"})


@dataclass(frozen=True, slots=True)
class _Rows:
    """How an operator's rows are dealt out.

    Attributes:
        partitions: Over how many partitions.
        by_key: Whether all rows of a key are in one of them; which key is what the fragments were cut by.
    """

    partitions: int
    by_key: bool


def why_not_in_parts(plan: PlanNode) -> str:
    """Return why a plan must not be run as it stands; empty if it may.

    Args:
        plan: A plan of a query's root. File scans of several groups are those of shuffles, by partitions; those of one
            group give all rows.
    """
    found = _rows(plan)
    if isinstance(found, str):
        return found
    return "" if found.partitions == 1 else f"it would end in {found.partitions} partitions"


def _rows(node: PlanNode) -> _Rows | str:
    """Return how an operator's rows are dealt out, or why what it needs is not together."""
    inputs: list[_Rows] = []
    for child in node.children:
        found = _rows(child)
        if isinstance(found, str):
            return found
        inputs.append(found)
    if not inputs:
        count = partition_count(node)
        return _Rows(count, by_key=count == 1 or node.is_file_scan)
    if node.kind in _GATHERS:
        return _Rows(1, by_key=True)
    if node.kind == "repartition":
        return _Rows(partition_count(node), by_key=codec.hash_of_repartition(node) is not None)
    if node.kind == "union":
        count = sum(rows.partitions for rows in inputs)
        return _Rows(count, by_key=count == 1)
    fits = _fits(node, inputs)
    counts = " and ".join(str(rows.partitions) for rows in inputs)
    return inputs[-1] if fits else f"{classify(node).name} would stand over {counts} partitions"


def _fits(node: PlanNode, inputs: list[_Rows]) -> bool:
    """Whether an operator sees together what it needs."""
    needs = classify(node).needs
    *others, last = inputs
    if has_build_side(node):
        return others[0].partitions == 1 and (last.partitions == 1 or needs is Needs.BUILD)
    if any(rows.partitions != last.partitions for rows in others):
        return False
    if last.partitions == 1:
        return True
    if needs is Needs.KEY:
        return all(rows.by_key for rows in inputs)
    return needs is Needs.SHARE and not others and node.kind not in SINKS
