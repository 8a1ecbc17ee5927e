"""The swarm on paper: the same seed gives the same, everything is done once, and what is counted adds up."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from apiary_df.config import Settings
from apiary_df.costs import ShufflePlanning
from apiary_df.model import NodeInfo, NodeState
from apiary_df.plan.stages import Variant
from apiary_df.schedule import Dispatch
from apiary_df.tasks import TaskOptions, plan_stage
from benchmarks.scale import profiles
from benchmarks.scale.assumptions import FOLDER, GIB, Assumptions, CoordinatorModel, NodeModel
from benchmarks.scale.figures import limit_of, markdown, plot, rows_of, stops
from benchmarks.scale.levels import with_levels
from benchmarks.scale.profiles import LeafShape, Profile, QueryShape, StageShape, graph_of
from benchmarks.scale.storage import ModelStore
from benchmarks.scale.work import Work
from benchmarks.scale.world import Run, run
from benchmarks.simulate import PROFILE, Compared, compared_table, sweep, write_part

MB = 1_000_000
CALM = Assumptions()
ROUGH = replace(CALM, node=NodeModel(deaths_h=20.0, replaced_s=20.0, slow_share=0.1))

JOIN = QueryShape(
    name="join",
    scale=1.0,
    stages=(
        StageShape(
            output="hash",
            leaves=(LeafShape(table="orders", table_bytes=100 * MB, read_share=0.5),),
            variants=(Variant(kind="cells", split=(0,)),),
            task_in_bytes=100 * MB,
            task_out_bytes=20 * MB,
            byte_s=2e-8,
        ),
        StageShape(
            output="hash",
            leaves=(LeafShape(table="lineitem", table_bytes=400 * MB, read_share=0.5),),
            variants=(Variant(kind="cells", split=(0,)),),
            task_in_bytes=400 * MB,
            task_out_bytes=100 * MB,
            byte_s=2e-8,
        ),
        StageShape(
            output="gather",
            leaves=(LeafShape(stage=0), LeafShape(stage=1)),
            variants=(Variant(kind="hash", split=(0, 1), partitions=2),),
            task_in_bytes=120 * MB,
            task_out_bytes=1_000,
            growth=0.0,
            byte_s=1e-8,
        ),
        StageShape(
            output="result",
            leaves=(LeafShape(stage=2),),
            variants=(Variant(kind="single", whole=(0,)),),
            task_in_bytes=1_000,
        ),
    ),
)


def simulated(assumptions: Assumptions = CALM, *, nodes: int = 8, scale: float = 20.0, seed: int = 0) -> Run:
    return run(JOIN, assumptions, nodes=nodes, scale=scale, cell_bytes=20 * MB, seed=seed)


def without_measured(done: Run) -> dict[str, object]:
    return {f.name: getattr(done, f.name) for f in dataclasses.fields(done) if f.name != "decided_s"}


@pytest.mark.parametrize("assumptions", [CALM, ROUGH], ids=["calm", "rough"])
def test_the_same_seed_gives_the_same(assumptions: Assumptions) -> None:
    assert without_measured(simulated(assumptions)) == without_measured(simulated(assumptions))


def test_another_seed_gives_another_time() -> None:
    assert simulated(seed=1).elapsed_s != simulated(seed=2).elapsed_s


def test_every_task_is_done_once_and_sent_once_where_nothing_goes_wrong() -> None:
    done = simulated()
    assert done.attempts == done.tasks
    assert done.cells == 500
    assert done.deaths == 0


def test_every_task_is_done_where_nodes_die() -> None:
    done = simulated(ROUGH, nodes=4, scale=100.0)
    assert done.deaths
    assert done.attempts > done.tasks


def test_what_the_coordinator_does_adds_up_to_the_time() -> None:
    done = simulated(ROUGH)
    assert sum(done.coordinator_s.values()) == pytest.approx(done.elapsed_s)


def test_bees_do_no_more_than_there_is_time_for() -> None:
    done = simulated()
    assert sum(done.bees_s.values()) == pytest.approx(done.elapsed_s * 8)


def test_requests_are_those_of_the_protocol() -> None:
    """A shuffle reads each producer's object once from every consumer; a task writes a partial and a record."""
    done = simulated(replace(CALM, storage=replace(CALM.storage, part_bytes=1 << 60)))
    assert done.requests["put"] >= 2 * done.tasks
    cells_read = done.cells * (1 + CALM.group_requests)
    commits_read = done.tasks
    assert done.requests["get"] >= cells_read + commits_read + done.tasks


def test_what_requests_cost_is_what_they_are_times_their_price() -> None:
    done, storage = simulated(), CALM.storage
    written = done.requests["put"] + done.requests["list"]
    assert done.requests_usd == pytest.approx(written * storage.write_usd + done.requests["get"] * storage.read_usd)


def test_more_nodes_take_less_time_as_long_as_there_are_cells_for_them() -> None:
    taken_s = [simulated(nodes=nodes, scale=200.0).elapsed_s for nodes in (2, 8, 32)]
    assert taken_s == sorted(taken_s, reverse=True)


def test_more_bytes_take_more_time() -> None:
    taken_s = [simulated(scale=scale).elapsed_s for scale in (20.0, 100.0, 400.0)]
    assert taken_s == sorted(taken_s)


def test_a_coordinator_with_more_requests_in_flight_is_no_slower() -> None:
    one = simulated(replace(CALM, coordinator=CoordinatorModel(in_flight=1)), nodes=64)
    many = simulated(nodes=64)
    assert many.elapsed_s < one.elapsed_s
    assert many.coordinator_s["reading heartbeats"] < one.coordinator_s["reading heartbeats"]


def test_a_folder_is_faster_than_a_bucket_and_its_requests_cost_nothing() -> None:
    folder = simulated(replace(CALM, storage=FOLDER))
    assert folder.elapsed_s < simulated().elapsed_s
    assert folder.requests_usd == 0


def test_a_limit_that_is_reached_is_named() -> None:
    slow_prefix = replace(CALM.storage, reads_s=10.0)
    assert "request limit" in limit_of(simulated(replace(CALM, storage=slow_prefix)))


def test_nobody_waits_for_the_look_after_a_commit() -> None:
    """The bee does, for its next task; the coordinator finds the record before."""
    made = graph_of(JOIN, 20.0, 8, 20 * MB)
    node = NodeInfo(
        node_id="n",
        state=NodeState.ALIVE,
        cores=1,
        memory_bytes=GIB,
        memory_per_bee=GIB,
        target_cell_size=128 * MB,
        bees_total=1,
        bees_busy=0,
        idle_bees=1,
    )
    spec = plan_stage(made.stages[0], [node], {}, {}, TaskOptions())[0]
    work = Work(JOIN, CALM, Settings().for_store("bucket"), ModelStore(CALM.storage, Random(0)), Random(0))
    attempted = work.attempt(Dispatch(spec=spec, attempt=0), 0.0, slowness=1.0)
    assert 0 < attempted.committed_s < attempted.over_s
    assert sum(work.bees_s.values()) == pytest.approx(attempted.over_s)


def test_where_a_query_stops_scaling_is_told_with_the_reason() -> None:
    rows = rows_of({("join", "calm"): {nodes: simulated(nodes=nodes) for nodes in (2, 4, 256)}})
    assert stops(rows).startswith("- join scales to 4 nodes (")
    assert limit_of(rows[-1].run) in stops(rows)
    assert stops(rows[:1]) == "- join scales to 2 nodes, the most that were tried."


def test_shuffles_go_by_two_levels_where_the_planner_finds_that_cheaper() -> None:
    given = {"nodes": 40, "scale": 40.0, "cell_bytes": 20 * MB}
    cheap, dear = (Settings(combine_from_dollars=dollars, min_task_bytes=0) for dollars in (0.0, 1_000.0))
    two, one = (run(JOIN, CALM, settings=settings, **given) for settings in (cheap, dear))  # type: ignore[arg-type]
    assert (one.combined, two.combined) == (0, 2)
    assert two.tasks > one.tasks
    assert two.requests["put"] > one.requests["put"]
    assert sum(two.bees_s.values()) == pytest.approx(two.elapsed_s * 40)
    planned = with_levels(
        JOIN, ShufflePlanning.of(cheap, 40), scale=40.0, partitions=40, cell_bytes=20 * MB, byte_s=0.0
    )
    assert [stage.combines for stage in planned.stages] == [False, True, False, True, False, False]
    assert [leaf.stage for leaf in planned.stages[4].leaves] == [1, 3]


def test_a_folder_has_no_second_level() -> None:
    settings = Settings(combine_from_dollars=0.0, min_task_bytes=0)
    done = run(JOIN, replace(CALM, storage=FOLDER), nodes=40, scale=40.0, cell_bytes=20 * MB, settings=settings)
    assert done.combined == 0


def test_efficiency_is_the_speed_up_over_so_many_times_the_nodes() -> None:
    rows = rows_of({("join", "calm"): {nodes: simulated(nodes=nodes) for nodes in (2, 4)}})
    assert rows[0].efficiency == 1.0
    assert rows[1].efficiency == pytest.approx(rows[1].speed_up / 2)


def test_a_graph_has_as_many_files_and_partitions_as_were_asked_for() -> None:
    graph = graph_of(JOIN, 20.0, 16, 20 * MB)
    assert [len(leaf.files) for stage in graph.stages[:2] for leaf in stage.leaves] == [100, 400]  # type: ignore[union-attr]
    assert [stage.partitions for stage in graph.stages] == [16, 16, 1, 1]
    assert graph.stages[2].variants[0].partitions == 16


def test_the_profile_that_is_shipped_has_the_shapes_that_stand_for_all() -> None:
    profile: Profile = profiles.load(PROFILE)
    assert profile.queries.keys() == profiles.SHAPES.keys()
    done = run(profile.queries[3], CALM, nodes=4, scale=10.0, cell_bytes=20 * MB)
    assert done.tasks > 4


def test_a_sweep_gives_a_row_for_each_query_world_and_number_of_nodes(tmp_path: Path) -> None:
    profile = Profile(made_on="nowhere", queries={0: JOIN})
    worlds = {"calm": CALM, "rough": ROUGH}
    rows = sweep(profile, worlds, queries=[0], nodes=[2, 4], scale=10.0, cell_bytes=20 * MB)
    assert [(row.world, row.nodes) for row in rows] == [("calm", 2), ("calm", 4), ("rough", 2), ("rough", 4)]
    assert len(markdown(rows).splitlines()) == 2 + len(rows)
    plot(rows, tmp_path / "sweep.png", "a sweep")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_keeps_all_but_the_part_that_is_made(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- made: real -->\nold\n<!-- end -->\nafter <!-- made: x -->\n<!-- end -->\n")
    write_part(page, "real", compared_table([Compared(query="Q1", predicted_s=1.2, measured_s=1.0)]))
    words = page.read_text()
    assert "old" not in words
    assert "| Q1 | 1200 | 1000 | +20% |" in words
    assert words.startswith("before\n<!-- made: real -->\n")
    assert words.endswith("<!-- end -->\nafter <!-- made: x -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match="no part named 'sweep'"):
        write_part(page, "sweep", "")
