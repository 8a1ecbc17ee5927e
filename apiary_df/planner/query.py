"""Local or distributed: the planner's answer for one query.

What belongs here: the decision, and the words for it that EXPLAIN shows. What does not: how cells are spread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from apiary_df.errors import UnknownNode
from apiary_df.model import CellInfo, NodeInfo, NodeState
from apiary_df.planner.board import Assignments, Board, Nodes, nodes_by_id, seen, taking_nodes
from apiary_df.planner.leafcutter import relieve
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
    board = Board([(cell, None) for cell in cells], takers)
    why_local = _why_local(board.cells, here, takers)
    if why_local is not None:
        return Local(cells=tuple(board.cells), reason=why_local)
    assignments = _spread(board)
    return Distributed(assignments=assignments, reason=_why_distributed(board.cells, here, len(assignments)))


def spread_cells(cells: Iterable[CellInfo], nodes: Nodes) -> Assignments:
    """Give every cell to a node: :func:`assign_cells_to_nodes`, then :func:`leafcutter_split_assignments`, in one go.

    Args:
        cells: What is to be read.
        nodes: Nodes in any state; only alive ones are used.

    Raises:
        NoAliveNodes: No node is alive.
        PlanError: Two different nodes have the same id.
    """
    return _spread(Board([(cell, None) for cell in cells], taking_nodes(nodes_by_id(nodes))))


def _spread(board: Board) -> Assignments:
    place(board)
    relieve(board)
    return board.assignments()


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
