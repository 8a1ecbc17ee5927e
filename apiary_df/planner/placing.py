"""Giving cells that nobody has to nodes: where they are cached, else to the least loaded.

What belongs here: the choice of a node for a cell. What does not: budgets (``leafcutter``) and waves
(``packing``).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from apiary_df.model import CellInfo, NodeInfo
from apiary_df.planner.board import (
    Assignments,
    Board,
    Load,
    Nodes,
    Rank,
    in_storage_order,
    largest_first,
    nodes_by_id,
    taking_nodes,
)

SIZE_CLASS = (4, 5)
"""Cells above this fraction of the largest one in their class are ranked as if they were that large.

A node's rank depends on the size of the cell to be placed, so an exact queue would have to be built anew for
each cell. With a class for every fifth in size it is built about a hundred times between a byte and a
gigabyte, and a rank is off by at most a fifth of one cell.
"""


def assign_cells_to_nodes(cells: Iterable[CellInfo], nodes: Nodes) -> Assignments:
    """Give each cell to a node: where it is cached if a bee is idle there, else to the least loaded.

    List scheduling on machines of different speed (Graham 1969; Gonzalez, Ibarra and Sahni 1977), with a
    head start for caches. Nodes that are equal and cache nothing end up within the size of one cell of each
    other. A bee's budget says here when idle bees have enough, not what a node may be given; for that see
    :func:`leafcutter_split_assignments`.

    Args:
        cells: What is to be read.
        nodes: Nodes in any state; only alive ones with bees are used, or all alive ones if none has bees.

    Returns:
        Every cell exactly once; nodes that got none do not appear.

    Raises:
        NoAliveNodes: No node is alive.
        PlanError: Two different nodes have the same id.
    """
    board = Board(in_storage_order(cells), taking_nodes(nodes_by_id(nodes)))
    place(board)
    return board.assignments()


def place(board: Board) -> None:
    """Give every cell on the board that nobody has to a node."""
    homeless = [index for index, home in enumerate(board.homes) if home is None]
    if homeless:
        _place_by_load(board, _place_cached(board, largest_first(board.sizes_bytes, homeless)))


def _place_cached(board: Board, indexes: Sequence[int]) -> Sequence[int]:
    """Give cells to ready nodes that cache them, up to each one's fair share. Returns the cells left over."""
    holders = board.holders()
    if not any(holders):
        return indexes
    _set_fair_shares(board)
    left: list[int] = []
    for index in indexes:
        size_bytes = board.sizes_bytes[index]
        # An empty cell is not worth a cache hit, and as it weighs nothing it would never fill a share.
        best = _best_holder(size_bytes, holders[index]) if size_bytes > 0 else None
        if best is None:
            left.append(index)
        else:
            board.put(index, best)
    return left


def _best_holder(size_bytes: int, holders: Mapping[Load, int]) -> Load | None:
    """The node that caches most of a cell, of those with room in their fair shares; among equals the emptiest.

    A node's first cell is always within its share, others if at least half of the cell is.
    """
    best, best_bytes, best_filled = None, 0, 0.0
    half_bytes = size_bytes / 2
    for load, held_bytes in holders.items():
        given_bytes, fair_bytes = load.given_bytes, load.fair_bytes
        if given_bytes + half_bytes > fair_bytes and not given_bytes == 0 <= fair_bytes:
            continue
        hit_bytes = held_bytes if held_bytes < size_bytes else size_bytes
        if hit_bytes < best_bytes:
            continue
        filled = given_bytes / fair_bytes
        if best is None or hit_bytes > best_bytes or filled < best_filled:
            best, best_bytes, best_filled = load, hit_bytes, filled
    return best


def _place_by_load(board: Board, indexes: Iterable[int]) -> None:
    """Give cells, which come largest first, each to the least loaded node."""
    numerator, denominator = SIZE_CLASS
    sizes_bytes, loads = board.sizes_bytes, board.loads
    class_bytes = -1
    queue: list[Rank] = []
    for index in indexes:
        size_bytes = sizes_bytes[index]
        if class_bytes < 0 or size_bytes * denominator < class_bytes * numerator:
            class_bytes = size_bytes
            queue = [load.rank(class_bytes) for load in loads.values()]
            heapq.heapify(queue)
        load = loads[queue[0][-1]]
        board.put(index, load)
        heapq.heapreplace(queue, load.rank(class_bytes))


def _set_fair_shares(board: Board) -> None:
    """Note what each ready node would get if cells were sand: a bee's budget per idle bee, then by bees."""
    nodes = [load.node for load in board.loads.values()]
    total_bytes = sum(board.sizes_bytes)
    idle_bees = sum(max(0, node.idle_bees) for node in nodes)
    bees = sum(max(1, node.bees_total) for node in nodes)
    first_bytes = min(total_bytes, sum(max(0, node.idle_bees) * node.memory_per_bee for node in nodes))
    later_bytes = total_bytes - first_bytes
    for node in _ready(nodes):
        first_share_bytes = first_bytes * max(0, node.idle_bees) / max(1, idle_bees)
        later_share_bytes = later_bytes * max(1, node.bees_total) / bees
        board.loads[node.node_id].fair_bytes = first_share_bytes + later_share_bytes


def _ready(nodes: Sequence[NodeInfo]) -> list[NodeInfo]:
    """Nodes with an idle bee; if there are none, those that will be free first."""
    idle = [node for node in nodes if node.idle_bees > 0]
    if idle:
        return idle
    least = min(_busy_ratio(node) for node in nodes)
    return [node for node in nodes if _busy_ratio(node) == least]


def _busy_ratio(node: NodeInfo) -> float:
    return node.bees_busy / max(1, node.bees_total)
