"""Leafcutter: what is too much for a node is carried to nodes that have room.

What belongs here: moving cells between nodes by their bees' budgets. What does not: cutting a cell itself
(the scans do), and the order in which a node works off what it keeps (``packing``).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from apiary_df.errors import UnknownNode
from apiary_df.model import CellInfo
from apiary_df.planner.board import (
    Assignments,
    Board,
    Load,
    Nodes,
    largest_first,
    nodes_by_id,
    seen,
    some,
    storage_order,
    taking_nodes,
)
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
    placed = sorted(
        (
            (cell, node_id if node_id in taking else None)
            for node_id, node_cells in assignments.items()
            for cell in node_cells
        ),
        key=lambda entry: (storage_order(entry[0]), entry[1] or ""),
    )
    board = Board([cell for cell, _ in placed], takers, [home for _, home in placed])
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
    rooms = _Rooms(takers)
    holders = board.holders()
    for index in _small_and_uncached_first(board):
        home = board.homes[index]
        if home is None or not home.is_over():
            continue
        target = rooms.find(board.sizes_bytes[index], home, holders[index])
        if target is None:
            continue
        board.put(index, target)
        rooms.update(target)
        if not home.is_over():
            rooms.update(home)


def _small_and_uncached_first(board: Board) -> list[int]:
    """The cells of nodes that have too much, in the order in which they may go."""
    over = {load for load in board.loads.values() if load.is_over()}
    cached: list[int] = []
    uncached: list[int] = []
    for index, (home, holders) in enumerate(zip(board.homes, board.holders(), strict=True)):
        if home in over:
            (cached if home in holders else uncached).append(index)
    # Among equals the last goes first: what stays keeps the beginning of its objects together.
    return [*largest_first(board.sizes_bytes, uncached)[::-1], *largest_first(board.sizes_bytes, cached)[::-1]]


class _Rooms:
    """The nodes that have no more than a bee's budget, by what they could still take.

    A heap's entry stays behind when its node's load changes, and is dropped once it is at the top.

    Args:
        takers: These nodes; whenever what one of them has changes, :meth:`update` is to be told.
    """

    __slots__ = ("_empty", "_loads", "_roomy")

    def __init__(self, takers: Iterable[Load]) -> None:
        self._loads: dict[str, Load] = {}
        self._roomy: dict[bool, list[_Entry]] = {True: [], False: []}
        self._empty: dict[bool, list[_Entry]] = {True: [], False: []}
        for load in takers:
            self.update(load)

    def update(self, load: Load) -> None:
        """Take a node in, or note what it has room for now."""
        self._loads[load.node.node_id] = load
        entry = _entry(load)
        heapq.heappush(self._roomy[load.idle], entry)
        if load.count == 0:
            heapq.heappush(self._empty[load.idle], entry)
        for heap in (self._roomy[load.idle], self._empty[load.idle]):
            while heap and heap[0] != _entry(self._loads[heap[0][1]]):
                heapq.heappop(heap)

    def find(self, size_bytes: int, home: Load, holders: Iterable[Load]) -> Load | None:
        """Return the node that takes a cell away from ``home``: one that caches it, else the roomiest."""
        kinds = (True,) if home.idle else (True, False)
        for idle in kinds:
            roomy = self._roomy[idle]
            if roomy and -roomy[0][0] >= size_bytes:
                caching = [_entry(load) for load in holders if _takes(load, size_bytes, idle)]
                return self._loads[min(caching)[1] if caching else roomy[0][1]]
        for idle in kinds:
            empty = self._empty[idle]
            # A cell above a bee's budget is a share of its own, anywhere; but not on a smaller bee.
            if empty and -empty[0][0] >= home.node.memory_per_bee:
                return self._loads[empty[0][1]]
        return None


def _entry(load: Load) -> _Entry:
    return (-load.room_bytes(), load.node.node_id, load.count)


def _takes(load: Load, size_bytes: int, idle: bool) -> bool:
    return load.idle is idle and load.room_bytes() >= size_bytes
