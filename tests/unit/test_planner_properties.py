"""What is true of every plan."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from apiary_df.model import CellInfo, NodeInfo, NodeState
from apiary_df.planner import (
    Distributed,
    Local,
    assign_cells_to_nodes,
    leafcutter_split_assignments,
    plan_query,
    waves,
)
from apiary_df.planner.board import in_storage_order, storage_order

BEE_BYTES = 100
KEYS = [f"c{i}" for i in range(12)]

sizes = st.one_of(st.integers(0, 2 * BEE_BYTES), st.sampled_from([0, 1, BEE_BYTES // 2, BEE_BYTES]))


@st.composite
def some_cells(draw: st.DrawFn) -> CellInfo:
    """Whole objects and ranges, of few keys, so that equal cells and equal keys turn up."""
    start = draw(st.none() | st.integers(0, 3).map(lambda n: n * 1_000))
    size = draw(sizes)
    return CellInfo(
        storage_key=draw(st.sampled_from(KEYS)),
        bytes=size,
        partition=draw(st.sampled_from([(), (("day", "1"),), (("day", "2"),)])),
        range_start=start,
        range_end=None if start is None else start + size,
    )


@st.composite
def nodes_of_any_kind(draw: st.DrawFn, node_id: str, state: st.SearchStrategy[NodeState]) -> NodeInfo:
    bees = draw(st.integers(0, 4))
    busy = draw(st.integers(0, bees))
    bee_bytes = draw(st.sampled_from([BEE_BYTES, BEE_BYTES, 3 * BEE_BYTES, 1, 0]))
    return NodeInfo(
        node_id=node_id,
        state=draw(state),
        cores=max(1, bees),
        memory_bytes=bees * bee_bytes,
        memory_per_bee=bee_bytes,
        target_cell_size=BEE_BYTES,
        bees_total=bees,
        bees_busy=busy,
        idle_bees=bees - busy,
        cached_cells=draw(st.dictionaries(st.sampled_from(KEYS), sizes, max_size=6)),
    )


@st.composite
def swarms(draw: st.DrawFn) -> list[NodeInfo]:
    """One alive node at least, named node0, and others in any state."""
    others = draw(st.integers(0, 5))
    first = draw(nodes_of_any_kind("node0", st.just(NodeState.ALIVE)))
    any_state = st.sampled_from([NodeState.ALIVE, NodeState.ALIVE, NodeState.SUSPECT, NodeState.DEAD])
    return [first] + [draw(nodes_of_any_kind(f"node{n + 1}", any_state)) for n in range(others)]


@st.composite
def equal_swarms(draw: st.DrawFn) -> list[NodeInfo]:
    """Two nodes or more that differ in nothing but their ids, with a bee idle and nothing cached."""
    one = draw(nodes_of_any_kind("node0", st.just(NodeState.ALIVE)))
    bees = max(1, one.bees_total)
    idle = max(1, one.idle_bees)
    one = dataclasses.replace(
        one, bees_total=bees, idle_bees=idle, bees_busy=bees - idle, cached_cells=dict[str, int]()
    )
    return [dataclasses.replace(one, node_id=f"node{n}") for n in range(draw(st.integers(2, 5)))]


cell_lists = st.lists(some_cells(), max_size=40)
shuffles = st.randoms(use_true_random=False)


def cells_of(assignments: Mapping[str, Iterable[CellInfo]]) -> Counter[CellInfo]:
    return Counter(cell for cells in assignments.values() for cell in cells)


def bytes_of(cells: Iterable[CellInfo]) -> int:
    return sum(cell.bytes for cell in cells)


def spread_bytes(assignments: Mapping[str, Sequence[CellInfo]], nodes: Iterable[NodeInfo]) -> int:
    given_bytes = [bytes_of(assignments.get(node.node_id, ())) for node in nodes]
    return max(given_bytes) - min(given_bytes)


def largest_bytes(cells: Iterable[CellInfo]) -> int:
    return max((cell.bytes for cell in cells), default=0)


def shuffled(nodes: Sequence[NodeInfo], order: random.Random) -> list[NodeInfo]:
    """The same nodes in another order, their caches too."""
    result = []
    for node in nodes:
        cached = list(node.cached_cells.items())
        order.shuffle(cached)
        result.append(dataclasses.replace(node, cached_cells=dict(cached)))
    order.shuffle(result)
    return result


def usable(nodes: Iterable[NodeInfo]) -> set[str]:
    """Alive nodes, those with bees if any has bees."""
    alive = [node for node in nodes if node.state is NodeState.ALIVE]
    return {node.node_id for node in alive if node.bees_total > 0} or {node.node_id for node in alive}


def arbitrary_assignments(
    cells: Sequence[CellInfo], nodes: Sequence[NodeInfo], order: random.Random
) -> dict[str, tuple[CellInfo, ...]]:
    piles: dict[str, list[CellInfo]] = {}
    for cell in cells:
        piles.setdefault(order.choice(nodes).node_id, []).append(cell)
    return {node_id: tuple(pile) for node_id, pile in piles.items()}


@given(cell_lists, swarms())
def test_assigning_places_every_cell_once(cells: list[CellInfo], nodes: list[NodeInfo]) -> None:
    assert cells_of(assign_cells_to_nodes(cells, nodes)) == Counter(cells)


@given(cell_lists, swarms(), shuffles)
def test_leafcutter_keeps_every_cell_once(cells: list[CellInfo], nodes: list[NodeInfo], order: random.Random) -> None:
    split = leafcutter_split_assignments(arbitrary_assignments(cells, nodes, order), nodes)
    assert cells_of(split) == Counter(cells)


@given(cell_lists, swarms())
def test_a_plan_holds_every_cell_once(cells: list[CellInfo], nodes: list[NodeInfo]) -> None:
    plan = plan_query(cells, nodes, "node0")
    planned = Counter(plan.cells) if isinstance(plan, Local) else cells_of(plan.assignments)
    assert planned == Counter(cells)


@given(cell_lists, swarms())
def test_assigning_uses_only_alive_nodes_with_bees(cells: list[CellInfo], nodes: list[NodeInfo]) -> None:
    assert set(assign_cells_to_nodes(cells, nodes)) <= usable(nodes)


@given(cell_lists, swarms(), shuffles)
def test_leafcutter_uses_only_alive_nodes_with_bees(
    cells: list[CellInfo], nodes: list[NodeInfo], order: random.Random
) -> None:
    assert set(leafcutter_split_assignments(arbitrary_assignments(cells, nodes, order), nodes)) <= usable(nodes)


@given(cell_lists, swarms(), shuffles)
def test_a_plan_is_the_same_whatever_the_order_of_its_inputs(
    cells: list[CellInfo], nodes: list[NodeInfo], order: random.Random
) -> None:
    plan = plan_query(cells, nodes, "node0")
    other_cells = order.sample(cells, len(cells))
    other = plan_query(other_cells, {n.node_id: n for n in shuffled(nodes, order)}, "node0")
    assert other == plan
    if isinstance(plan, Distributed) and isinstance(other, Distributed):
        assert list(other.assignments) == list(plan.assignments)


@given(cell_lists, swarms(), shuffles)
def test_leafcutter_gives_the_same_whatever_the_order_of_its_inputs(
    cells: list[CellInfo], nodes: list[NodeInfo], order: random.Random
) -> None:
    assignments = arbitrary_assignments(cells, nodes, order)
    items = [(node_id, order.sample(pile, len(pile))) for node_id, pile in assignments.items()]
    order.shuffle(items)
    other = leafcutter_split_assignments(dict(items), shuffled(nodes, order))
    assert other == leafcutter_split_assignments(assignments, nodes)


@given(cell_lists, swarms())
def test_a_distributed_plan_is_assigning_and_then_leafcutter(cells: list[CellInfo], nodes: list[NodeInfo]) -> None:
    plan = plan_query(cells, nodes, "node0")
    if isinstance(plan, Distributed):
        expected = leafcutter_split_assignments(assign_cells_to_nodes(cells, nodes), nodes)
        assert plan.assignments == expected


@given(st.lists(some_cells(), max_size=12))
def test_cells_are_put_in_storage_order(cells: list[CellInfo]) -> None:
    assert in_storage_order(cells) == sorted(cells, key=storage_order)


@given(cell_lists, swarms())
def test_a_nodes_cells_are_in_storage_order(cells: list[CellInfo], nodes: list[NodeInfo]) -> None:
    for given_cells in assign_cells_to_nodes(cells, nodes).values():
        assert [c.sort_key for c in given_cells] == sorted(c.sort_key for c in given_cells)


@given(cell_lists, equal_swarms())
def test_equal_nodes_are_assigned_bytes_within_one_cell_of_each_other(
    cells: list[CellInfo], nodes: list[NodeInfo]
) -> None:
    assert spread_bytes(assign_cells_to_nodes(cells, nodes), nodes) <= largest_bytes(cells)


@given(cell_lists, equal_swarms())
def test_a_plan_over_equal_nodes_is_within_one_cell_of_even(cells: list[CellInfo], nodes: list[NodeInfo]) -> None:
    plan = plan_query(cells, nodes, "node0")
    if isinstance(plan, Distributed):
        assert spread_bytes(plan.assignments, nodes) <= largest_bytes(cells)


@given(cell_lists, equal_swarms(), swarms())
def test_equal_nodes_among_others_are_within_one_cell_of_each_other(
    cells: list[CellInfo], equal: list[NodeInfo], others: list[NodeInfo]
) -> None:
    renamed = [
        dataclasses.replace(node, node_id=f"other-{node.node_id}", cached_cells=dict[str, int]()) for node in others
    ]
    assert spread_bytes(assign_cells_to_nodes(cells, equal + renamed), equal) <= largest_bytes(cells)


@given(st.lists(some_cells().filter(lambda cell: cell.bytes > 0), min_size=2, max_size=40), equal_swarms())
def test_a_node_that_caches_everything_is_not_given_everything(cells: list[CellInfo], nodes: list[NodeInfo]) -> None:
    hoarder = dataclasses.replace(nodes[0], cached_cells={cell.storage_key: 1_000 for cell in cells})
    plan = plan_query(cells, [hoarder, *nodes[1:]], hoarder.node_id)
    if isinstance(plan, Distributed):
        assert cells_of({"": plan.assignments.get(hoarder.node_id, ())}) != Counter(cells)
    assert len(assign_cells_to_nodes(cells, [hoarder, *nodes[1:]])) > 1


@given(cell_lists, swarms(), shuffles)
def test_leafcutter_leaves_too_much_only_where_no_idle_node_has_room(
    cells: list[CellInfo], nodes: list[NodeInfo], order: random.Random
) -> None:
    split = leafcutter_split_assignments(arbitrary_assignments(cells, nodes, order), nodes)
    known = {node.node_id: node for node in nodes}
    for node_id, kept in split.items():
        if len(kept) == 1 or bytes_of(kept) <= known[node_id].memory_per_bee:
            continue
        for other_id in usable(nodes) - {node_id}:
            other = known[other_id]
            if other.idle_bees > 0:
                room_bytes = other.memory_per_bee - bytes_of(split.get(other_id, ()))
                assert min(cell.bytes for cell in kept) > room_bytes


@given(cell_lists, swarms(), shuffles)
def test_leafcutter_puts_too_much_on_no_node_that_had_not(
    cells: list[CellInfo], nodes: list[NodeInfo], order: random.Random
) -> None:
    good = [node for node in nodes if node.node_id in usable(nodes)]
    before = arbitrary_assignments(cells, good, order)
    after = leafcutter_split_assignments(before, nodes)
    for node in good:
        had, has = before.get(node.node_id, ()), after.get(node.node_id, ())
        allowed_bytes = max(node.memory_per_bee, bytes_of(had))
        assert len(has) <= 1 or bytes_of(has) <= allowed_bytes


@given(cell_lists, nodes_of_any_kind("node0", st.just(NodeState.ALIVE)))
def test_waves_hold_every_cell_once(cells: list[CellInfo], node: NodeInfo) -> None:
    assert Counter(cell for wave in waves(cells, node) for share in wave for cell in share) == Counter(cells)


@given(cell_lists, nodes_of_any_kind("node0", st.just(NodeState.ALIVE)))
def test_no_share_is_above_a_bees_budget_but_a_single_cell(cells: list[CellInfo], node: NodeInfo) -> None:
    for wave in waves(cells, node):
        for share in wave:
            assert len(share) == 1 or bytes_of(share) <= node.memory_per_bee


@given(cell_lists, nodes_of_any_kind("node0", st.just(NodeState.ALIVE)))
def test_no_wave_has_more_shares_than_bees_and_no_share_is_empty(cells: list[CellInfo], node: NodeInfo) -> None:
    for wave in waves(cells, node):
        assert 1 <= len(wave) <= max(1, node.bees_total)
        assert all(wave)


@given(cell_lists, nodes_of_any_kind("node0", st.just(NodeState.ALIVE)))
def test_a_single_wave_uses_every_bee_that_there_is_a_cell_for(cells: list[CellInfo], node: NodeInfo) -> None:
    packed = waves(cells, node)
    if len(packed) == 1:
        assert len(packed[0]) == min(len(cells), max(1, node.bees_total))


@given(cell_lists.filter(bool), nodes_of_any_kind("node0", st.just(NodeState.ALIVE)))
def test_what_one_bee_can_hold_is_one_wave(cells: list[CellInfo], node: NodeInfo) -> None:
    if bytes_of(cells) <= node.memory_per_bee:
        assert len(waves(cells, node)) == 1


@given(cell_lists, nodes_of_any_kind("node0", st.just(NodeState.ALIVE)), shuffles)
def test_waves_are_the_same_whatever_the_order_of_the_cells(
    cells: list[CellInfo], node: NodeInfo, order: random.Random
) -> None:
    assert waves(order.sample(cells, len(cells)), node) == waves(cells, node)
