"""What the planner's steps work on: nodes by id, and a board of cells and who has each.

What belongs here: putting the caller's nodes and cells in order, refusing what cannot be planned with, and
keeping count of what each node was given. What does not: any choice of a node for a cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
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
        idle: Whether a bee is idle there.
        given_bytes: Bytes of the cells that it has.
        count: How many cells these are.
        fair_bytes: Its fair share of the whole work; negative while it takes nothing for its cache's sake.
    """

    __slots__ = ("_bees", "_busy_bytes", "_idle_bytes", "count", "fair_bytes", "given_bytes", "idle", "node")

    def __init__(self, node: NodeInfo) -> None:
        self.node = node
        self.idle = node.idle_bees > 0
        self.given_bytes = 0
        self.count = 0
        self.fair_bytes = -1.0
        self._bees = max(1, node.bees_total)
        self._busy_bytes = node.bees_busy * node.memory_per_bee
        self._idle_bytes = node.idle_bees * node.memory_per_bee

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
        node, given_bytes = self.node, self.given_bytes
        if self.idle and (given_bytes == 0 or given_bytes < self._idle_bytes):
            idle = node.idle_bees
            return (0, (given_bytes + size_bytes) / idle, given_bytes, (self.count + 1) / idle, node.node_id)
        bees = self._bees
        queued_bytes = given_bytes + size_bytes + self._busy_bytes
        return (1, queued_bytes / bees, given_bytes, (self.count + 1) / bees, node.node_id)


class Board:
    """Cells in order, who has each, and what that makes for the nodes.

    Args:
        cells: All cells, in order.
        takers: The nodes that may have cells, in order.
        homes: For each cell the id of the taker that has it, or None; if not given, nobody has any.

    Attributes:
        cells: All cells, in order.
        sizes_bytes: The size of each.
        homes: Who has each; None for nobody.
        loads: What each node has, in the order of the nodes.
    """

    __slots__ = ("_holders", "cells", "homes", "loads", "sizes_bytes")

    def __init__(
        self, cells: Sequence[CellInfo], takers: Iterable[NodeInfo], homes: Iterable[str | None] | None = None
    ) -> None:
        self.cells = cells
        self.sizes_bytes = [cell.bytes for cell in cells]
        self.homes: list[Load | None] = [None] * len(cells)
        self.loads: dict[str, Load] = {node.node_id: Load(node) for node in takers}
        self._holders: list[dict[Load, int]] | None = None
        for index, home in enumerate(homes or ()):
            if home is not None:
                self.put(index, self.loads[home])

    def put(self, index: int, load: Load) -> None:
        """Give a cell to a node, taking it from whoever has it."""
        size_bytes = self.sizes_bytes[index]
        previous = self.homes[index]
        if previous is not None:
            previous.given_bytes -= size_bytes
            previous.count -= 1
        self.homes[index] = load
        load.given_bytes += size_bytes
        load.count += 1

    def holders(self) -> Sequence[Mapping[Load, int]]:
        """For each cell the nodes that cache some of its object, in order, and how many bytes."""
        if self._holders is None:
            caching = [load for load in self.loads.values() if load.node.cached_cells]
            if not caching:
                self._holders = [{}] * len(self.cells)
                return self._holders
            of_key: dict[str, dict[Load, int]] = {}
            self._holders = [of_key.setdefault(cell.storage_key, {}) for cell in self.cells]
            for load in caching:
                cached = load.node.cached_cells
                for holders, held_bytes in zip(map(of_key.get, cached), cached.values(), strict=True):
                    if holders is not None and held_bytes > 0:
                        holders[load] = held_bytes
        return self._holders

    def positions(self) -> dict[str, list[int]]:
        """Node id to the positions of its cells, both in order; nodes without cells are among them."""
        found: dict[str, list[int]] = {node_id: [] for node_id in self.loads}
        for index, home in enumerate(self.homes):
            if home is not None:
                found[home.node.node_id].append(index)
        return found

    def assignments(self) -> Assignments:
        """Node id to its cells, both in order."""
        cells = self.cells
        placed = self.positions().items()
        return {node_id: tuple([cells[index] for index in indexes]) for node_id, indexes in placed if indexes}


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


def in_storage_order(cells: Iterable[CellInfo]) -> list[CellInfo]:
    """Return cells by :func:`storage_order`; most often it takes no more than the key and the start of a range."""
    ordered = sorted(cells, key=attrgetter("storage_key"))
    told_apart = (
        before.storage_key != after.storage_key or (before.range_start or 0) < (after.range_start or 0)
        for before, after in pairwise(ordered)
    )
    if not all(told_apart):
        ordered.sort(key=storage_order)
    return ordered


def largest_first(sizes_bytes: Sequence[int], indexes: Iterable[int]) -> list[int]:
    """Return indexes, which come in order, by falling size of their cells; equal ones stay in order."""
    return sorted(indexes, key=sizes_bytes.__getitem__, reverse=True)


def seen(known: Mapping[str, NodeInfo]) -> str:
    """Say which nodes there are and how they are, for an error message."""
    return some([f"{node.node_id} {node.state.value}" for node in known.values()]) or "no nodes at all"


def some(names: Sequence[str]) -> str:
    """Join names for an error message; of many, the first and how many more."""
    shown = ", ".join(names[:MAX_NODES_NAMED])
    return shown if len(names) <= MAX_NODES_NAMED else f"{shown} and {len(names) - MAX_NODES_NAMED:,} more"
