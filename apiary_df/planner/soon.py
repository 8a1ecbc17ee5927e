"""Which busy bees are as good as idle: those that are at little of the same query. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from apiary_df.model import NodeInfo

SOON_SHARE = 0.25
"""Part of a bee's even share of new work that it may still have to read, to be counted as idle: a stage waits for it at
most that much longer, and would take twice as long without it where half of the bees are at something small."""


def count_soon_idle(nodes: Sequence[NodeInfo], underway: Iterable[tuple[str, int]], work_bytes: int) -> list[NodeInfo]:
    """Return nodes, those as idle whose bees have little left to do for the query that more work is placed for.

    A busy bee counts with a whole bee's budget of memory where nothing is known of its work, as that of other queries.

    Args:
        nodes: The nodes.
        underway: Of each attempt of the query that is under way, its node and the bytes that it reads.
        work_bytes: What is to be placed.
    """
    bees = sum(node.bees_total for node in nodes)
    most_bytes = SOON_SHARE * work_bytes / max(1, bees)
    given: defaultdict[str, list[int]] = defaultdict(list)
    for node_id, size_bytes in underway:
        given[node_id].append(size_bytes)
    return [
        _idle(node, len(own))
        if (own := given.get(node.node_id)) is not None and sum(own) <= most_bytes * node.bees_total
        else node
        for node in nodes
    ]


def _idle(node: NodeInfo, bees: int) -> NodeInfo:
    busy = max(0, node.bees_busy - bees)
    return replace(node, bees_busy=busy, idle_bees=node.idle_bees + node.bees_busy - busy)
