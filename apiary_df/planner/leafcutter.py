"""Leafcutter: what is too much for a node is carried to nodes that have room.

What belongs here: moving cells between nodes by their bees' budgets. What does not: cutting a cell itself
(the scans do), and the order in which a node works off what it keeps (``packing``).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from apiary_df.errors import UnknownNode
from apiary_df.model import CellInfo, NodeInfo
from apiary_df.planner.board import Assignments, Board, Load, Nodes, nodes_by_id, seen, some, taking_nodes
from apiary_df.planner.placing import place

_Entry = tuple[int, str, int]


def leafcutter_split_assignments(assignments: Mapping[str, Iterable[CellInfo]], nodes: Nodes) -> Assignments:
    """Move what is more than a bee's budget on a node to nodes with room.

    A node has too much if it has several cells and more than ``memory_per_bee`` bytes in all, however many
    bees it has: one bee's budget is what every node can take at once. Another node has room for a cell if
    the cell and what it has already fit in *its* ``memory_per_bee``, or if it has nothing and its bees are
    no smaller. A node without an idle bee takes cells only from nodes that have none either. Small cells go
    first, those cached where they are go last. What nobody has room for stays, for a later wave.

    Cells of nodes that are not alive, or have no bees while others do, are placed first, as
    :func:`assign_cells_to_nodes` does.

    Args:
        assignments: Node id to its cells.
        nodes: Nodes in any state, all those in ``assignments`` among them.

    Returns:
        The same cells, each exactly once; nodes that have none do not appear.

    Raises:
        NoAliveNodes: No node is alive.
        UnknownNode: ``assignments`` names a node that is not among ``nodes``.
        PlanError: Two different nodes have the same id.
    """
    known = nodes_by_id(nodes)
    strangers = sorted(set(assignments) - set(known))
    if strangers:
        raise UnknownNode(
            f"cannot split the assignments of {some(strangers)}: not among the nodes (seen: {seen(known)}); "
            "pass every node that has cells",
            node=some(strangers),
            nodes=seen(known),
        )
    takers = taking_nodes(known)
    taking = {node.node_id for node in takers}
    placed = [
        (cell, node_id if node_id in taking else None)
        for node_id, node_cells in assignments.items()
        for cell in node_cells
    ]
    board = Board(placed, takers)
    place(board)
    relieve(board)
    return board.assignments()


def relieve(board: Board) -> None:
    """Move cells off nodes that have more than a bee's budget, as long as others have room.

    A cell moves only from above a budget to within one, so nodes of equal budgets never drift further apart.
    As small cells go first, nobody gains room later for a cell that found none.
    """
    takers = [load for load in board.loads.values() if not load.is_over()]
    if not takers or len(takers) == len(board.loads):
        return
    rooms = _Rooms(board.loads, takers)
    holders = board.holders()
    for index, home in _small_and_uncached_first(board):
        if not home.is_over():
            continue
        cell = board.cells[index]
        target = rooms.find(cell.bytes, home.node, holders[cell.storage_key])
        if target is None:
            continue
        rooms.update(board.put(index, target))
        if not home.is_over():
            rooms.update(home)


def _small_and_uncached_first(board: Board) -> list[tuple[int, Load]]:
    """The cells of nodes that have too much, in the order in which they may go."""
    holders = board.holders()

    def key(entry: tuple[int, Load]) -> tuple[bool, int, int]:
        index, home = entry
        cell = board.cells[index]
        # Among equals the last goes first: what stays keeps the beginning of its objects together.
        return (home in holders[cell.storage_key], cell.bytes, -index)

    over = {node_id: load for node_id, load in board.loads.items() if load.is_over()}
    return sorted(((index, over[home]) for index, home in enumerate(board.homes) if home in over), key=key)


class _Rooms:
    """The nodes that have no more than a bee's budget, by what they could still take.

    A heap's entry stays behind when its node's load changes, and is dropped when it comes to the top.
    """

    __slots__ = ("_empty", "_loads", "_roomy")

    def __init__(self, loads: Mapping[str, Load], takers: Iterable[Load]) -> None:
        self._loads = loads
        self._roomy: dict[bool, list[_Entry]] = {True: [], False: []}
        self._empty: dict[bool, list[_Entry]] = {True: [], False: []}
        for load in takers:
            self.update(load)

    def update(self, load: Load) -> None:
        """Take a node in, or note what it has room for now."""
        idle = load.node.idle_bees > 0
        heapq.heappush(self._roomy[idle], _entry(load))
        if load.count == 0:
            heapq.heappush(self._empty[idle], _entry(load))

    def find(self, size_bytes: int, home: NodeInfo, holders: Iterable[Load]) -> str | None:
        """Return the node that takes a cell away from ``home``: one that caches it, else the roomiest."""
        kinds = (True,) if home.idle_bees > 0 else (True, False)
        for idle in kinds:
            for negative_bytes, roomiest, _ in self._top(self._roomy[idle]):
                if -negative_bytes >= size_bytes:
                    caching = [_entry(load) for load in holders if _takes(load, size_bytes, idle)]
                    return min(caching)[1] if caching else roomiest
        for idle in kinds:
            for negative_bytes, node_id, _ in self._top(self._empty[idle]):
                # A cell above a bee's budget is a share of its own, anywhere; but not on a smaller bee.
                if -negative_bytes >= home.memory_per_bee:
                    return node_id
        return None

    def _top(self, heap: list[_Entry]) -> list[_Entry]:
        """Return the first entry of a heap that still holds, as a list of at most one."""
        while heap and heap[0] != _entry(self._loads[heap[0][1]]):
            heapq.heappop(heap)
        return heap[:1]


def _entry(load: Load) -> _Entry:
    return (-load.room_bytes(), load.node.node_id, load.count)


def _takes(load: Load, size_bytes: int, idle: bool) -> bool:
    return (load.node.idle_bees > 0) is idle and load.room_bytes() >= size_bytes
