"""Rule: a subtree that reads little data runs in one partition, without exchanges."""

from __future__ import annotations

from apiary_df.plan.operators import asked_bytes, rests_on_partitioning
from apiary_df.plan.rules.options import RewriteOptions
from apiary_df.plan.single import to_single_partition
from apiary_df.plan.tree import PlanNode


def collapse_small_subtrees(plan: PlanNode, options: RewriteOptions) -> PlanNode:
    """Bring each largest subtree that reads at most ``small_bytes`` into one partition.

    A stage of its own costs a round trip through storage, which is more than scanning a few megabytes. A collapsed
    build side has no exchange on top, so that every task of its consumer runs it for itself. Inputs that an operator
    needs partitioned alike (both sides of a shuffled join) keep their shuffles; what is below these collapses.
    """
    if options.small_bytes <= 0:
        return plan
    sizes: dict[int, int] = {}
    _measure(plan, sizes)
    return _collapse(plan, options, sizes, partitioned=False)


def _measure(node: PlanNode, sizes: dict[int, int]) -> int:
    """Note what each subtree reads, in bytes, by the identity of its node; returns that of the whole."""
    sizes[id(node)] = asked_bytes(node) + sum(_measure(child, sizes) for child in node.children)
    return sizes[id(node)]


def _collapse(node: PlanNode, options: RewriteOptions, sizes: dict[int, int], *, partitioned: bool) -> PlanNode:
    """Collapse below ``node``; ``partitioned`` says that an operator above rests on the node's partitioning."""
    if not partitioned and sizes[id(node)] <= options.small_bytes:
        return to_single_partition(node)
    children = [
        _collapse(child, options, sizes, partitioned=rests_on_partitioning(node, number, above=partitioned))
        for number, child in enumerate(node.children)
    ]
    return node.with_children(*children)
