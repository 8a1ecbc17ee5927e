"""What the planner's steps work on: nodes by id, and a board of cells and who has each.

What belongs here: putting the caller's nodes and cells in order, refusing what cannot be planned with, and
keeping count of what each node was given. What does not: any choice of a node for a cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from apiary_df.errors import NoAliveNodes, PlanError
from apiary_df.model import CellInfo, NodeInfo, NodeState

Nodes: TypeAlias = "Mapping[str, NodeInfo] | Iterable[NodeInfo]"
"""Nodes by id, or just nodes. Of a mapping only the values count."""

Assignments: TypeAlias = "dict[str, tuple[CellInfo, ...]]"
"""Node id to its cells, both in order. A node without cells does not appear."""

Rank: TypeAlias = "tuple[int, float, int, float, str]"
"""Where a node stands in the queue for a cell; the lowest takes it. Ends with the node's id."""

MAX_NODES_NAMED = 20
"""Error messages name this many nodes, then count: a screenful, whatever the size of the swarm."""


class Load:
    """What a node has been given so far in one plan.

    Attributes:
        node: The node.
        given_bytes: Bytes of the cells that it has.
        count: How many cells these are.
        fair_bytes: Its fair share of the whole work; negative while it takes nothing for its cache's sake.
    """

    __slots__ = ("count", "fair_bytes", "given_bytes", "node")

    def __init__(self, node: NodeInfo) -> None:
        self.node = node
        self.given_bytes = 0
        self.count = 0
        self.fair_bytes = -1.0

    def is_over(self) -> bool:
        """Whether it has more than a bee's budget, and not because of a single cell."""
        return self.count > 1 and self.given_bytes > self.node.memory_per_bee

    def room_bytes(self) -> int:
        """What a bee here could still take; negative if a single cell is larger than its budget."""
        return self.node.memory_per_bee - self.given_bytes

    def rank(self, size_bytes: int) -> Rank:
        """Where this node stands in the queue for a cell of this size.

        Nodes whose idle bees still lack work come first, then all others by what their bees have to do. What
        follows the load decides between equals: bytes, then cells (so that empty cells spread, too), then
        the id.
        """
        node, after_bytes = self.node, self.given_bytes + size_bytes
        idle = node.idle_bees
        if idle > 0 and (self.given_bytes == 0 or self.given_bytes < idle * node.memory_per_bee):
            return (0, after_bytes / idle, self.given_bytes, (self.count + 1) / idle, node.node_id)
        bees = max(1, node.bees_total)
        queued_bytes = after_bytes + node.bees_busy * node.memory_per_bee
        return (1, queued_bytes / bees, self.given_bytes, (self.count + 1) / bees, node.node_id)


class Board:
    """Cells in order, who has each, and what that makes for the nodes.

    Args:
        placed: Cells, each with the id of the node that has it, or None.
        takers: The nodes that may have cells, in order; every id in ``placed`` is one of theirs.

    Attributes:
        cells: All cells, in order.
        homes: The node that has each; None for nobody.
        loads: What each node has, in the order of the nodes.
    """

    __slots__ = ("_holders", "cells", "homes", "loads")

    def __init__(self, placed: Iterable[tuple[CellInfo, str | None]], takers: Sequence[NodeInfo]) -> None:
        ordered = sorted(placed, key=lambda entry: (storage_order(entry[0]), entry[1] or ""))
        self.cells: list[CellInfo] = [cell for cell, _ in ordered]
        self.homes: list[str | None] = [None] * len(ordered)
        self.loads: dict[str, Load] = {node.node_id: Load(node) for node in takers}
        self._holders: dict[str, list[Load]] | None = None
        for index, (_, home) in enumerate(ordered):
            if home is not None:
                self.put(index, home)

    def put(self, index: int, node_id: str) -> Load:
        """Give a cell to a node, taking it from whoever has it. Returns what the node has then."""
        size_bytes = self.cells[index].bytes
        previous = self.homes[index]
        if previous is not None:
            self.loads[previous].given_bytes -= size_bytes
            self.loads[previous].count -= 1
        self.homes[index] = node_id
        load = self.loads[node_id]
        load.given_bytes += size_bytes
        load.count += 1
        return load

    def holders(self) -> dict[str, list[Load]]:
        """Storage key of a cell to the nodes that cache some of it, in order."""
        if self._holders is None:
            self._holders = {cell.storage_key: [] for cell in self.cells}
            of_key = self._holders.get
            for load in self.loads.values():
                for key, held_bytes in load.node.cached_cells.items():
                    holders = of_key(key)
                    if holders is not None and held_bytes > 0:
                        holders.append(load)
        return self._holders

    def assignments(self) -> Assignments:
        """Node id to its cells, both in order."""
        found: dict[str, list[CellInfo]] = {node_id: [] for node_id in self.loads}
        for cell, home in zip(self.cells, self.homes, strict=True):
            if home is not None:
                found[home].append(cell)
        return {node_id: tuple(cells) for node_id, cells in found.items() if cells}


def extract_alive_nodes(nodes: Nodes) -> tuple[NodeInfo, ...]:
    """Return the alive nodes, in the order of their ids.

    Args:
        nodes: Nodes in any state.

    Raises:
        PlanError: Two different nodes have the same id.
    """
    return tuple(node for node in nodes_by_id(nodes).values() if node.state is NodeState.ALIVE)


def nodes_by_id(nodes: Nodes) -> dict[str, NodeInfo]:
    """Return the nodes by id, in order.

    Raises:
        PlanError: Two different nodes have the same id.
    """
    known: dict[str, NodeInfo] = {}
    for node in nodes.values() if isinstance(nodes, Mapping) else nodes:
        if known.setdefault(node.node_id, node) != node:
            raise PlanError(
                f"cannot plan over nodes of which two have the id {node.node_id!r} and differ; "
                "pass each node once, as its latest heartbeat says",
                node=node.node_id,
            )
    return dict(sorted(known.items()))


def taking_nodes(known: Mapping[str, NodeInfo]) -> list[NodeInfo]:
    """Return the alive nodes with bees; all alive ones if none has any, since work is never refused.

    Raises:
        NoAliveNodes: No node is alive.
    """
    alive = [node for node in known.values() if node.state is NodeState.ALIVE]
    if not alive:
        raise NoAliveNodes(
            f"cannot give cells to nodes: none is alive (seen: {seen(known)}); "
            "start a node on this storage root, or wait for a heartbeat",
            nodes=seen(known),
        )
    return [node for node in alive if node.bees_total > 0] or alive


def storage_order(cell: CellInfo) -> tuple[str, int, int, tuple[tuple[str, str], ...], int]:
    """Return what cells are ordered by: the sort key, and the range's end, which it leaves out."""
    return (*cell.sort_key, -1 if cell.range_end is None else cell.range_end)


def largest_first(cells: Sequence[CellInfo], indexes: Iterable[int]) -> list[int]:
    """Return the indexes by falling size of their cells, equal ones in order."""
    return sorted(indexes, key=lambda index: (-cells[index].bytes, index))


def seen(known: Mapping[str, NodeInfo]) -> str:
    """Say which nodes there are and how they are, for an error message."""
    return some([f"{node.node_id} {node.state.value}" for node in known.values()]) or "no nodes at all"


def some(names: Sequence[str]) -> str:
    """Join names for an error message; of many, the first and how many more."""
    shown = ", ".join(names[:MAX_NODES_NAMED])
    return shown if len(names) <= MAX_NODES_NAMED else f"{shown} and {len(names) - MAX_NODES_NAMED:,} more"
