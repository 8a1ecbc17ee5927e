"""Local or distributed: the planner's answer for one query.

What belongs here: the decision, and the words for it that EXPLAIN shows. What does not: how cells are spread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from apiary_df.errors import UnknownNode
from apiary_df.model import CellInfo, NodeInfo, NodeState
from apiary_df.planner.board import Board, Nodes, in_storage_order, nodes_by_id, seen, taking_nodes
from apiary_df.planner.leafcutter import relieve
from apiary_df.planner.packing import pack
from apiary_df.planner.placing import place


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """The query's cells are best read by the session's own node.

    Attributes:
        cells: All cells, in order.
        reason: Why, for EXPLAIN.
    """

    cells: tuple[CellInfo, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distributed:
    """The query's cells are spread over nodes.

    Attributes:
        assignments: Node id to its cells, both in order; nodes without cells do not appear.
        reason: Why, for EXPLAIN.
    """

    assignments: Mapping[str, tuple[CellInfo, ...]]
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Cells spread over nodes, and those of each node packed for its bees.

    Attributes:
        cells: All cells, in storage order.
        sizes_bytes: The size of each.
        shares: Nodes in the order of their ids, each with what one of its bees takes at once: positions of cells, in
            order. Those of a node come in the order of its waves. No share is empty, and no cell is left out.
    """

    cells: Sequence[CellInfo]
    sizes_bytes: Sequence[int]
    shares: Sequence[tuple[NodeInfo, Sequence[int]]]


def plan_query(cells: Iterable[CellInfo], nodes: Nodes, local_node_id: str) -> Local | Distributed:
    """Decide where a query's cells are read.

    Local if there is nothing to read, if no other alive node has bees, or if everything fits in the budget
    of one bee here and a bee is idle here. A node without bees (a session that only coordinates) is given
    nothing, unless no alive node has any. Distributed means :func:`assign_cells_to_nodes`, then
    :func:`leafcutter_split_assignments`.

    Args:
        cells: What the query reads.
        nodes: Every node that was seen, in whatever state.
        local_node_id: The node that asks; it must be among the alive ones.

    Returns:
        ``Local`` with all cells, or ``Distributed`` with every cell given to exactly one alive node.

    Raises:
        NoAliveNodes: No node is alive.
        UnknownNode: The local node is not among the alive ones.
        PlanError: Two different nodes have the same id.

    >>> here = NodeInfo(node_id="here", state=NodeState.ALIVE, cores=1, memory_bytes=10**9, bees_total=1,
    ...                 memory_per_bee=10**9, target_cell_size=10**8, bees_busy=0, idle_bees=1)
    >>> plan_query([CellInfo(storage_key="a.parquet", bytes=4_000)], [here], "here").reason
    'no other alive node has bees'
    """
    known = nodes_by_id(nodes)
    takers = taking_nodes(known)
    here = known.get(local_node_id)
    if here is None or here.state is not NodeState.ALIVE:
        raise UnknownNode(
            f"cannot plan a query from node {local_node_id!r}: it is not among the alive nodes "
            f"(seen: {seen(known)}); check that this session's heartbeat is written",
            node=local_node_id,
            nodes=seen(known),
        )
    board = Board(in_storage_order(cells), takers)
    why_local = _why_local(board.cells, here, takers)
    if why_local is not None:
        return Local(cells=tuple(board.cells), reason=why_local)
    _spread(board)
    assignments = board.assignments()
    return Distributed(assignments=assignments, reason=_why_distributed(board.cells, here, len(assignments)))


def spread_shares(cells: Iterable[CellInfo], nodes: Nodes) -> Shares:
    """Give every cell to a node, as :func:`plan_query` does, and pack what each node has, as :func:`waves` does.

    Args:
        cells: What is to be read.
        nodes: Nodes in any state; only alive ones are used.

    Raises:
        NoAliveNodes: No node is alive.
        PlanError: Two different nodes have the same id.
    """
    board = Board(in_storage_order(cells), taking_nodes(nodes_by_id(nodes)))
    _spread(board)
    shares = [
        (load.node, share)
        for load, indexes in zip(board.loads.values(), board.positions().values(), strict=True)
        for wave in pack(board.sizes_bytes, indexes, load.node)
        for share in wave
    ]
    return Shares(cells=board.cells, sizes_bytes=board.sizes_bytes, shares=shares)


def _spread(board: Board) -> None:
    place(board)
    relieve(board)


def _why_local(cells: Sequence[CellInfo], here: NodeInfo, takers: Sequence[NodeInfo]) -> str | None:
    if not cells:
        return "there is nothing to read"
    if all(node.bees_total <= 0 for node in takers):
        return "no alive node has bees"
    if [node.node_id for node in takers] == [here.node_id]:
        return "no other alive node has bees"
    total_bytes = sum(cell.bytes for cell in cells)
    if here.bees_total > 0 and here.idle_bees > 0 and total_bytes <= here.memory_per_bee:
        return f"{_work(cells)} in all, which one idle bee here can hold ({_size(here.memory_per_bee)})"
    return None


def _why_distributed(cells: Sequence[CellInfo], here: NodeInfo, nodes: int) -> str:
    if here.bees_total <= 0:
        why = f"{here.node_id} has no bees"
    elif here.idle_bees <= 0:
        why = f"no bee of {here.node_id} is idle"
    else:
        why = f"one bee of {here.node_id} holds {_size(here.memory_per_bee)}"
    return f"{_work(cells)} in all, over {_count(nodes, 'node')}: {why}"


def _work(cells: Sequence[CellInfo]) -> str:
    return f"{_count(len(cells), 'cell')}, {_size(sum(cell.bytes for cell in cells))}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _size(size_bytes: int) -> str:
    """Bytes for a person, in powers of a thousand, to three digits."""
    amount, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1_000, larger
    return f"{amount:.3g} {unit}" if amount < 999.5 else f"{amount:,.0f} {unit}"
