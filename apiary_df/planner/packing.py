"""Packing a node's cells into waves of shares.

What belongs here: which cells a bee takes together, and which shares run at once. What does not: which node
has a cell (``placing``, ``leafcutter``).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from apiary_df.model import CellInfo, NodeInfo
from apiary_df.planner.board import in_storage_order, largest_first

Share: TypeAlias = "tuple[CellInfo, ...]"
"""What one bee takes at once: never empty."""

Wave: TypeAlias = "tuple[Share, ...]"
"""What a node's bees take at once: at most one share a bee."""


def waves(cells: Iterable[CellInfo], node: NodeInfo) -> tuple[Wave, ...]:
    """Pack a node's cells into waves of shares, one share a bee.

    How many waves it takes is found by packing tightly (worst-fit decreasing); the cells are then spread as
    evenly as that many waves allow (longest processing time first), and shares of similar size put in the
    same wave, the largest first.

    Args:
        cells: What the node was given.
        node: Its budget (``memory_per_bee``, bytes) and its bees (``bees_total``; none counts as one).

    Returns:
        Every cell exactly once. No share is empty, none has more than ``memory_per_bee`` bytes unless it is
        a single cell, and no wave has more shares than the node has bees. What fits in one wave uses every
        bee that there is a cell for.
    """
    ordered = in_storage_order(cells)
    packed = pack([cell.bytes for cell in ordered], range(len(ordered)), node)
    return tuple(tuple(tuple([ordered[index] for index in share]) for share in wave) for wave in packed)


def pack(sizes_bytes: Sequence[int], indexes: Sequence[int], node: NodeInfo) -> list[list[list[int]]]:
    """Pack cells, told by their positions in storage order, as :func:`waves` does.

    Args:
        sizes_bytes: The size of the cell at each position.
        indexes: The positions of the node's cells, in order.
        node: Its budget and its bees.

    Returns:
        Waves of shares of positions; those of a share are in order.
    """
    bees = max(1, node.bees_total)
    largest = largest_first(sizes_bytes, indexes)
    tight = _pack(sizes_bytes, largest, node.memory_per_bee, 0)
    slots = -(-len(tight) // bees) * bees
    shares = _pack(sizes_bytes, largest, node.memory_per_bee, slots)
    if len(shares) > slots:
        # Spread evenly, the gaps are too small for the last cells; packed tightly, they fit.
        shares = _halve_largest(sizes_bytes, tight, slots)
    filled = sorted((sorted(share) for share in shares if share), key=lambda s: (-_bytes_of(sizes_bytes, s), s))
    return [filled[start : start + bees] for start in range(0, len(filled), bees)]


def _pack(sizes_bytes: Sequence[int], indexes: Iterable[int], budget_bytes: int, opened: int) -> list[list[int]]:
    """Put cells, which come largest first, each into the emptiest share; where it does not fit, open another.

    Returns ``opened`` shares or more, some perhaps empty.
    """
    shares: list[list[int]] = [[] for _ in range(opened)]
    emptiest = [(0, 0, share) for share in range(opened)]
    for index in indexes:
        size_bytes = sizes_bytes[index]
        if emptiest and (emptiest[0][1] == 0 or emptiest[0][0] + size_bytes <= budget_bytes):
            share_bytes, count, share = emptiest[0]
            heapq.heapreplace(emptiest, (share_bytes + size_bytes, count + 1, share))
            shares[share].append(index)
        else:
            heapq.heappush(emptiest, (size_bytes, 1, len(shares)))
            shares.append([index])
    return shares


def _halve_largest(sizes_bytes: Sequence[int], shares: Sequence[list[int]], wanted: int) -> list[list[int]]:
    """Halve the largest shares of several cells until there are as many as wanted, or only single cells."""
    single = [share for share in shares if len(share) == 1]
    several = [(-_bytes_of(sizes_bytes, share), share) for share in shares if len(share) > 1]
    heapq.heapify(several)
    while several and len(several) + len(single) < wanted:
        negative_bytes, share = heapq.heappop(several)
        for half in _pack(sizes_bytes, share, -negative_bytes, 2):
            if len(half) == 1:
                single.append(half)
            else:
                heapq.heappush(several, (-_bytes_of(sizes_bytes, half), half))
    return single + [share for _, share in several]


def _bytes_of(sizes_bytes: Sequence[int], indexes: Iterable[int]) -> int:
    return sum([sizes_bytes[index] for index in indexes])
