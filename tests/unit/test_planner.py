"""The planner by example: the cases that were promised, the messages, and each rule once."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import FrameType

import pytest

from apiary_df.errors import NoAliveNodes, PlanError, UnknownNode
from apiary_df.model import CellInfo, NodeInfo, NodeState
from apiary_df.planner import (
    Distributed,
    Local,
    assign_cells_to_nodes,
    extract_alive_nodes,
    leafcutter_split_assignments,
    plan_query,
    waves,
)

MB = 1_000_000
GB = 1_000 * MB


def cell(key: str, size_bytes: int = 100 * MB, start: int | None = None, end: int | None = None) -> CellInfo:
    return CellInfo(storage_key=key, bytes=size_bytes, range_start=start, range_end=end)


def node(
    node_id: str,
    *,
    idle: int = 4,
    bees: int = 4,
    bee_bytes: int = GB,
    state: NodeState = NodeState.ALIVE,
    cached: Mapping[str, int] | None = None,
) -> NodeInfo:
    return NodeInfo(
        node_id=node_id,
        state=state,
        cores=bees,
        memory_bytes=bees * bee_bytes,
        memory_per_bee=bee_bytes,
        target_cell_size=128 * MB,
        bees_total=bees,
        bees_busy=bees - idle,
        idle_bees=idle,
        cached_cells=cached or {},
    )


def keys(cells: Sequence[CellInfo]) -> list[str]:
    return [c.storage_key for c in cells]


def total(cells: Sequence[CellInfo]) -> int:
    return sum(c.bytes for c in cells)


def share_sizes(packed: tuple[tuple[tuple[CellInfo, ...], ...], ...]) -> list[list[list[int]]]:
    return [[[c.bytes for c in share] for share in wave] for wave in packed]


class TestPromisedCases:
    def test_a_cached_cell_goes_to_the_idle_node_that_caches_it(self) -> None:
        nodes = [node("node1", cached={"cell1": 100 * MB}), node("node2")]
        assigned = assign_cells_to_nodes([cell("cell1"), cell("cell2")], nodes)
        assert keys(assigned["node1"]) == ["cell1"]
        assert keys(assigned["node2"]) == ["cell2"]

    def test_uncached_cells_go_to_the_node_with_more_idle_bees(self) -> None:
        nodes = [node("node1", idle=1), node("node2", idle=4)]
        assert assign_cells_to_nodes([cell("c1"), cell("c2")], nodes) == {"node2": (cell("c1"), cell("c2"))}

    @pytest.mark.parametrize("bees", [1, 4])
    def test_what_is_more_than_a_bee_holds_moves_to_the_other_node(self, bees: int) -> None:
        nodes = [node(n, idle=bees, bees=bees, bee_bytes=200 * MB) for n in ("node1", "node2")]
        split = leafcutter_split_assignments({"node1": (cell("c1"), cell("c2"), cell("c3"))}, nodes)
        assert keys(split["node1"]) == ["c1", "c2"]
        assert keys(split["node2"]) == ["c3"]


class TestAliveNodes:
    def test_only_alive_nodes_in_order(self) -> None:
        nodes = [node("b"), node("c", state=NodeState.SUSPECT), node("d", state=NodeState.DEAD), node("a")]
        assert [n.node_id for n in extract_alive_nodes(nodes)] == ["a", "b"]

    def test_a_mapping_is_as_good_as_a_list(self) -> None:
        assert extract_alive_nodes({"b": node("b"), "a": node("a")}) == (node("a"), node("b"))

    def test_the_same_node_twice_is_one_node(self) -> None:
        assert extract_alive_nodes([node("a"), node("a")]) == (node("a"),)

    def test_two_nodes_of_one_id_are_refused(self) -> None:
        with pytest.raises(PlanError, match="two have the id 'a' and differ; pass each node once"):
            extract_alive_nodes([node("a"), node("a", idle=0)])


class TestErrors:
    def test_no_alive_node_names_what_was_seen(self) -> None:
        nodes = [node("n2", state=NodeState.SUSPECT), node("n1", state=NodeState.DEAD)]
        with pytest.raises(NoAliveNodes, match=r"none is alive \(seen: n1 dead, n2 suspect\)") as caught:
            plan_query([cell("c")], nodes, "n1")
        assert caught.value.details == {"nodes": "n1 dead, n2 suspect"}

    def test_no_node_at_all_says_so(self) -> None:
        with pytest.raises(NoAliveNodes, match="seen: no nodes at all"):
            assign_cells_to_nodes([cell("c")], [])

    def test_an_unknown_local_node_names_what_was_seen(self) -> None:
        expected = r"node 'here': it is not among the alive nodes \(seen: n1 alive, n2 dead\)"
        with pytest.raises(UnknownNode, match=expected):
            plan_query([cell("c")], [node("n1"), node("n2", state=NodeState.DEAD)], "here")

    def test_a_local_node_that_is_suspect_is_refused_with_its_state(self) -> None:
        with pytest.raises(UnknownNode, match=r"seen: here suspect, n1 alive"):
            plan_query([cell("c")], [node("here", state=NodeState.SUSPECT), node("n1")], "here")

    def test_of_many_nodes_the_first_are_named_and_the_rest_counted(self) -> None:
        nodes = [node(f"n{i:04}", state=NodeState.DEAD) for i in range(1_200)]
        with pytest.raises(NoAliveNodes, match=r"n0018 dead, n0019 dead and 1,180 more\)"):
            assign_cells_to_nodes([cell("c")], nodes)

    def test_splitting_for_an_unknown_node_names_it(self) -> None:
        with pytest.raises(UnknownNode, match=r"assignments of n7, n9: not among the nodes \(seen: n1 alive\)"):
            leafcutter_split_assignments({"n9": (cell("c"),), "n7": ()}, [node("n1")])


class TestPlanQuery:
    def test_what_one_idle_bee_can_hold_is_local(self) -> None:
        plan = plan_query([cell("b"), cell("a")], [node("here"), node("there")], "here")
        assert plan == Local(
            cells=(cell("a"), cell("b")),
            reason="2 cells, 200 MB in all, which one idle bee here can hold (1 GB)",
        )

    def test_what_is_more_than_a_bee_holds_is_distributed(self) -> None:
        nodes = [node("here", bee_bytes=150 * MB), node("there", bee_bytes=150 * MB)]
        assert plan_query([cell("a"), cell("b")], nodes, "here") == Distributed(
            assignments={"here": (cell("a"),), "there": (cell("b"),)},
            reason="2 cells, 200 MB in all, over 2 nodes: one bee of here holds 150 MB",
        )

    def test_a_busy_local_node_distributes_what_a_bee_could_hold(self) -> None:
        plan = plan_query([cell("a")], [node("here", idle=0), node("there")], "here")
        assert plan == Distributed(
            assignments={"there": (cell("a"),)},
            reason="1 cell, 100 MB in all, over 1 node: no bee of here is idle",
        )

    def test_a_session_without_bees_gives_all_to_the_nodes(self) -> None:
        plan = plan_query([cell("a")], [node("here", idle=0, bees=0), node("there")], "here")
        assert isinstance(plan, Distributed)
        assert plan.assignments == {"there": (cell("a"),)}
        assert plan.reason.endswith("here has no bees")

    def test_without_any_bees_the_session_reads_for_itself(self) -> None:
        nodes = [node("here", idle=0, bees=0), node("other", idle=0, bees=0)]
        assert plan_query([cell("a")], nodes, "here") == Local(cells=(cell("a"),), reason="no alive node has bees")

    def test_a_lone_node_reads_for_itself_whatever_the_size(self) -> None:
        nodes = [node("here", idle=0), node("gone", state=NodeState.DEAD), node("watcher", idle=0, bees=0)]
        assert plan_query([cell("a", 99 * GB)], nodes, "here") == Local(
            cells=(cell("a", 99 * GB),), reason="no other alive node has bees"
        )

    def test_a_lone_node_elsewhere_gets_what_a_session_without_bees_asks(self) -> None:
        plan = plan_query([cell("a", 99 * GB)], [node("here", idle=0, bees=0), node("there", idle=0)], "here")
        assert isinstance(plan, Distributed)
        assert plan.assignments == {"there": (cell("a", 99 * GB),)}

    def test_nothing_to_read_is_local(self) -> None:
        plan = plan_query([], [node("here"), node("there")], "here")
        assert plan == Local(cells=(), reason="there is nothing to read")


class TestAssign:
    def test_no_cells_make_no_assignments(self) -> None:
        assert assign_cells_to_nodes([], [node("n1")]) == {}

    def test_a_cell_cached_on_a_busy_node_goes_to_an_idle_one(self) -> None:
        nodes = [node("n1", idle=0, cached={"c": 100 * MB}), node("n2", idle=1)]
        assert assign_cells_to_nodes([cell("c")], nodes) == {"n2": (cell("c"),)}

    def test_a_cell_cached_on_a_nearly_busy_node_goes_there(self) -> None:
        nodes = [node("n1", idle=1, cached={"c": 100 * MB}), node("n2", idle=4)]
        assert assign_cells_to_nodes([cell("c")], nodes) == {"n1": (cell("c"),)}

    def test_of_two_caches_the_fuller_one_takes_the_cell(self) -> None:
        nodes = [node("n1", cached={"c": 10 * MB}), node("n2", cached={"c": 90 * MB})]
        assert assign_cells_to_nodes([cell("c")], nodes) == {"n2": (cell("c"),)}

    def test_two_equal_caches_share_the_work(self) -> None:
        cached = {f"c{i}": 100 * MB for i in range(6)}
        nodes = [node("n1", cached=cached), node("n2", cached=cached), node("n3")]
        assigned = assign_cells_to_nodes([cell(key) for key in cached], nodes)
        assert [total(assigned[n]) for n in ("n1", "n2", "n3")] == [200 * MB] * 3

    def test_cells_that_two_nodes_cache_are_taken_in_turns(self) -> None:
        cached = {"c0": 100 * MB, "c1": 100 * MB}
        nodes = [node("n1", cached=cached), node("n2", cached=cached), node("n3")]
        assigned = assign_cells_to_nodes([cell(f"c{i}") for i in range(6)], nodes)
        assert "c0" in keys(assigned["n1"])
        assert "c1" in keys(assigned["n2"])

    def test_the_largest_cells_are_placed_first(self) -> None:
        cells = [cell("a", 1 * MB), cell("b", 1 * MB), cell("c", 2 * MB)]
        assigned = assign_cells_to_nodes(cells, [node("n1"), node("n2")])
        assert assigned == {"n1": (cells[2],), "n2": (cells[0], cells[1])}

    def test_a_small_cell_goes_by_its_own_size_not_by_that_of_larger_ones(self) -> None:
        cells = [cell("large", 100 * MB), cell("small", 1 * MB)]
        assigned = assign_cells_to_nodes(cells, [node("n1", idle=1), node("n2", idle=4)])
        assert assigned == {"n1": (cells[1],), "n2": (cells[0],)}

    def test_a_cache_of_no_bytes_is_none(self) -> None:
        nodes = [node("n1"), node("n2", cached={"c": 0})]
        assert assign_cells_to_nodes([cell("c")], nodes) == {"n1": (cell("c"),)}

    def test_a_node_that_caches_everything_gets_its_share(self) -> None:
        cells = [cell(f"c{i}") for i in range(8)]
        nodes = [node("n1", cached={c.storage_key: c.bytes for c in cells}), node("n2")]
        assigned = assign_cells_to_nodes(cells, nodes)
        assert total(assigned["n1"]) == total(assigned["n2"]) == 400 * MB

    def test_a_cache_decides_which_cells_a_node_gets_of_its_share(self) -> None:
        cells = [cell(f"c{i}") for i in range(8)]
        nodes = [node("n1"), node("n2", cached=dict.fromkeys(("c0", "c1", "c2", "c3"), 100 * MB))]
        assert keys(assign_cells_to_nodes(cells, nodes)["n2"]) == ["c0", "c1", "c2", "c3"]

    def test_with_no_bee_idle_work_queues_where_bees_are_free_first(self) -> None:
        nodes = [node("n1", idle=0, bees=4, bee_bytes=GB), node("n2", idle=0, bees=4, bee_bytes=100 * MB)]
        assert assign_cells_to_nodes([cell("c")], nodes) == {"n2": (cell("c"),)}

    def test_with_no_bee_idle_more_bees_take_more(self) -> None:
        nodes = [node("n1", idle=0, bees=1), node("n2", idle=0, bees=3)]
        assigned = assign_cells_to_nodes([cell(f"c{i}", GB) for i in range(40)], nodes)
        assert (len(assigned["n1"]), len(assigned["n2"])) == (10, 30)

    def test_with_no_bee_idle_caches_still_count_among_equals(self) -> None:
        nodes = [node("n1", idle=0), node("n2", idle=0, cached={"c": 100 * MB})]
        assert assign_cells_to_nodes([cell("c")], nodes) == {"n2": (cell("c"),)}

    def test_one_idle_bee_is_not_given_the_work_of_a_busy_swarm(self) -> None:
        nodes = [node("n1", idle=1), node("n2", idle=0), node("n3", idle=0)]
        assigned = assign_cells_to_nodes([cell(f"c{i:03}") for i in range(300)], nodes)
        assert set(assigned) == {"n1", "n2", "n3"}
        assert total(assigned["n1"]) - total(assigned["n2"]) <= GB + 100 * MB

    def test_a_busy_node_gets_nothing_while_idle_bees_lack_work(self) -> None:
        nodes = [node("n1", idle=1), node("n2", idle=0, bees=64)]
        cells = [cell(f"c{i}") for i in range(10)]
        assert assign_cells_to_nodes(cells, nodes) == {"n1": tuple(cells)}

    def test_empty_cells_spread_over_equal_nodes(self) -> None:
        nodes = [node(n, cached={f"c{i}": 1 for i in range(9)} if n == "n1" else {}) for n in ("n1", "n2", "n3")]
        assigned = assign_cells_to_nodes([cell(f"c{i}", 0) for i in range(9)], nodes)
        assert [len(assigned[n]) for n in ("n1", "n2", "n3")] == [3, 3, 3]

    def test_a_cell_that_is_listed_twice_is_read_twice(self) -> None:
        assigned = assign_cells_to_nodes([cell("c"), cell("c")], [node("n1"), node("n2")])
        assert assigned == {"n1": (cell("c"),), "n2": (cell("c"),)}

    def test_ranges_of_an_object_stay_in_storage_order(self) -> None:
        ranges = [cell("c", 10 * MB, start * MB, (start + 10) * MB) for start in (200, 0, 1_000, 30)]
        assigned = assign_cells_to_nodes(ranges, [node("n1")])
        assert [c.range_start for c in assigned["n1"]] == [0, 30 * MB, 200 * MB, 1_000 * MB]

    def test_ranges_that_differ_only_in_their_end_have_an_order(self) -> None:
        short, long = cell("c", 5, 0, 10), cell("c", 5, 0, 20)
        nodes = [node("n1"), node("n2")]
        assert assign_cells_to_nodes([short, long], nodes) == assign_cells_to_nodes([long, short], nodes)

    def test_nodes_without_bees_take_the_work_if_there_are_no_others(self) -> None:
        nodes = [node("n1", idle=0, bees=0), node("n2", state=NodeState.DEAD)]
        assert assign_cells_to_nodes([cell("c")], nodes) == {"n1": (cell("c"),)}


class TestLeafcutter:
    def test_what_fits_stays(self) -> None:
        assignments = {"n1": (cell("a"), cell("b")), "n2": ()}
        assert leafcutter_split_assignments(assignments, [node("n1"), node("n2")]) == {"n1": (cell("a"), cell("b"))}

    def test_what_nobody_has_room_for_stays_for_a_later_wave(self) -> None:
        nodes = [node(n, bee_bytes=100 * MB) for n in ("n1", "n2")]
        assignments = {"n1": (cell("a"), cell("b"), cell("c")), "n2": (cell("d"),)}
        assert leafcutter_split_assignments(assignments, nodes) == assignments

    def test_a_single_large_cell_stays(self) -> None:
        nodes = [node(n, bee_bytes=100 * MB) for n in ("n1", "n2")]
        assert leafcutter_split_assignments({"n1": (cell("a", GB),)}, nodes) == {"n1": (cell("a", GB),)}

    def test_of_two_large_cells_one_moves_to_an_empty_node(self) -> None:
        nodes = [node(n, bee_bytes=100 * MB) for n in ("n1", "n2")]
        split = leafcutter_split_assignments({"n1": (cell("a", GB), cell("b", GB))}, nodes)
        assert split == {"n1": (cell("a", GB),), "n2": (cell("b", GB),)}

    def test_a_cell_does_not_move_to_a_bee_too_small_for_it(self) -> None:
        nodes = [node("n1", bee_bytes=GB), node("n2", bee_bytes=100 * MB)]
        assignments = {"n1": (cell("a", 600 * MB), cell("b", 600 * MB))}
        assert leafcutter_split_assignments(assignments, nodes) == assignments

    def test_the_roomiest_node_takes_the_cell(self) -> None:
        nodes = [node(n, bee_bytes=200 * MB) for n in ("n1", "n2", "n3")]
        assignments = {"n1": (cell("a"), cell("b"), cell("c")), "n2": (cell("d", 50 * MB),), "n3": ()}
        assert keys(leafcutter_split_assignments(assignments, nodes)["n3"]) == ["c"]

    def test_a_node_with_room_that_caches_the_cell_takes_it(self) -> None:
        nodes = [
            node("n1", bee_bytes=200 * MB),
            node("n2", bee_bytes=200 * MB, cached={"c": 100 * MB}),
            node("n3", bee_bytes=200 * MB),
        ]
        assignments = {"n1": (cell("a"), cell("b"), cell("c")), "n2": (cell("d", 50 * MB),)}
        assert keys(leafcutter_split_assignments(assignments, nodes)["n2"]) == ["c", "d"]

    def test_cells_cached_where_they_are_stay_there(self) -> None:
        nodes = [
            node("n1", bee_bytes=200 * MB, cached={"b": 100 * MB, "c": 100 * MB}),
            node("n2", bee_bytes=200 * MB),
        ]
        split = leafcutter_split_assignments({"n1": (cell("a"), cell("b"), cell("c"))}, nodes)
        assert keys(split["n1"]) == ["b", "c"]

    def test_no_more_moves_than_has_to(self) -> None:
        nodes = [node(n, bee_bytes=200 * MB) for n in ("n1", "n2")]
        split = leafcutter_split_assignments({"n1": (cell("a"), cell("b"), cell("c", 10 * MB))}, nodes)
        assert keys(split["n2"]) == ["c"]

    def test_a_node_takes_cells_until_its_own_bee_is_full(self) -> None:
        nodes = [node(n, bee_bytes=200 * MB) for n in ("n1", "n2")]
        split = leafcutter_split_assignments({"n1": [cell(f"c{i}") for i in range(5)]}, nodes)
        assert keys(split["n2"]) == ["c3", "c4"]

    def test_a_node_that_was_relieved_has_room_for_others(self) -> None:
        nodes = [
            node("n1", bee_bytes=100),
            node("n2", bee_bytes=100, cached={"c": 70, "d": 35}),
            node("n3", bee_bytes=100),
        ]
        assignments = {
            "n1": (cell("a", 60), cell("b", 60)),
            "n2": (cell("c", 70), cell("d", 35)),
            "n3": (cell("e", 40),),
        }
        split = leafcutter_split_assignments(assignments, nodes)
        assert {n: keys(cells) for n, cells in split.items()} == {"n1": ["a", "d"], "n2": ["c"], "n3": ["b", "e"]}

    def test_the_cells_of_a_dead_node_go_to_the_least_loaded(self) -> None:
        nodes = [node("n1"), node("n2", state=NodeState.DEAD), node("n3")]
        split = leafcutter_split_assignments({"n1": (cell("a"),), "n2": (cell("b"),)}, nodes)
        assert split == {"n1": (cell("a"),), "n3": (cell("b"),)}

    def test_a_busy_node_takes_nothing_from_one_with_an_idle_bee(self) -> None:
        nodes = [node("n1", idle=1, bee_bytes=200 * MB), node("n2", idle=0, bee_bytes=200 * MB)]
        assignments = {"n1": (cell("a"), cell("b"), cell("c"))}
        assert leafcutter_split_assignments(assignments, nodes) == assignments

    def test_a_busy_node_takes_from_another_busy_one(self) -> None:
        nodes = [node(n, idle=0, bee_bytes=200 * MB) for n in ("n1", "n2")]
        split = leafcutter_split_assignments({"n1": (cell("a"), cell("b"), cell("c"))}, nodes)
        assert keys(split["n2"]) == ["c"]

    @pytest.mark.parametrize(
        "left", [node("n2", state=NodeState.DEAD), node("n2", state=NodeState.SUSPECT), node("n2", idle=0, bees=0)]
    )
    def test_the_cells_of_a_node_that_cannot_work_go_to_others(self, left: NodeInfo) -> None:
        split = leafcutter_split_assignments({"n1": (cell("a"),), "n2": (cell("b"),)}, [node("n1"), left])
        assert split == {"n1": (cell("a"), cell("b"))}


class TestWaves:
    def test_no_cells_make_no_waves(self) -> None:
        assert waves([], node("n1")) == ()

    def test_one_wave_uses_every_bee(self) -> None:
        packed = waves([cell(f"c{i}", (i + 1) * MB) for i in range(8)], node("n1", bees=4))
        assert share_sizes(packed) == [[[1 * MB, 8 * MB], [2 * MB, 7 * MB], [3 * MB, 6 * MB], [4 * MB, 5 * MB]]]

    def test_fewer_cells_than_bees_make_a_share_each(self) -> None:
        assert share_sizes(waves([cell("a", 3), cell("b", 4)], node("n1", bees=4))) == [[[4], [3]]]

    def test_more_than_the_bees_hold_makes_more_waves(self) -> None:
        packed = waves([cell(f"c{i}", 60) for i in range(5)], node("n1", bees=2, idle=2, bee_bytes=100))
        assert [len(wave) for wave in packed] == [2, 2, 1]

    def test_a_cell_above_the_budget_is_a_share_of_its_own(self) -> None:
        packed = waves([cell("a", 500), cell("b", 10), cell("c", 0)], node("n1", bees=2, idle=2, bee_bytes=100))
        assert share_sizes(packed) == [[[500], [10, 0]]]

    def test_cells_within_the_budget_spread_evenly_beside_one_above_it(self) -> None:
        sizes = {"a": 500, "b": 40, "c": 30, "d": 20, "e": 10}
        packed = waves([cell(k, size) for k, size in sizes.items()], node("n1", bee_bytes=100))
        assert share_sizes(packed) == [[[500], [40], [30], [20, 10]]]

    def test_a_node_without_bees_works_through_shares_one_by_one(self) -> None:
        packed = waves([cell("a", 60), cell("b", 60)], node("n1", bees=0, idle=0, bee_bytes=100))
        assert share_sizes(packed) == [[[60]], [[60]]]

    def test_a_tight_packing_saves_a_wave_that_even_spreading_would_cost(self) -> None:
        sizes = {"a": 3, "b": 3, "c": 2, "d": 2, "e": 2}
        packed = waves([cell(k, size) for k, size in sizes.items()], node("n1", bees=2, idle=2, bee_bytes=6))
        assert share_sizes(packed) == [[[3, 3], [2, 2, 2]]]

    def test_a_tight_packing_with_a_bee_to_spare_is_halved_until_every_bee_has_a_share(self) -> None:
        sizes = [19, 17, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7, 7, 6, 6, 6, 5, 5]
        cells = [cell(f"c{i:02}", size) for i, size in enumerate(sizes)]
        packed = waves(cells, node("n1", bees=10, idle=10, bee_bytes=20))
        assert [len(wave) for wave in packed] == [10]

    def test_cells_within_a_share_are_in_storage_order(self) -> None:
        packed = waves([cell("b", 5), cell("c", 9), cell("a", 3)], node("n1", bees=1, idle=1))
        assert [keys(share) for share in packed[0]] == [["a", "b", "c"]]

    def test_without_a_budget_every_cell_is_a_share(self) -> None:
        packed = waves([cell("a", 1), cell("b", 1)], node("n1", bees=1, idle=1, bee_bytes=0))
        assert share_sizes(packed) == [[[1]], [[1]]]


def calls_while_planning(cells: Sequence[CellInfo], nodes: Sequence[NodeInfo]) -> int:
    """Function calls, Python's and C's, that one plan makes: work that no busy machine can falsify."""
    calls = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        plan_query(cells, nodes, nodes[0].node_id)
    finally:
        sys.setprofile(before)
    return calls


def test_work_per_cell_does_not_grow_with_the_swarm() -> None:
    def per_cell(cells: int, nodes: int) -> float:
        made = [cell(f"c{i:06}", 1 + i * 7_919 % (50 * MB)) for i in range(cells)]
        cached = [{f"c{(n * 97 + i) % cells:06}": MB for i in range(100)} for n in range(nodes)]
        swarm = [node(f"n{n:04}", bees=1 + n % 64, idle=n % 5, cached=cached[n]) for n in range(nodes)]
        return calls_while_planning(made, swarm) / cells

    assert per_cell(20_000, 200) <= 1.5 * per_cell(2_000, 20)
