"""What makes a distributed DataFusion silently wrong, as far as plans decide it: one test a trap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apiary_df.errors import ExecutionFailed
from apiary_df.model import ScanFile, SegmentRef
from apiary_df.plan import codec, scans
from apiary_df.plan.operators import has_build_side, is_null_aware, join_type
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.scans import fill_fragment, segment_file
from apiary_df.plan.stages import ExchangeLeaf, ScanLeaf, Stage
from apiary_df.planning import RunsHere, RunsOnSwarm
from apiary_df.tasks import TaskOptions
from apiary_df.worker.bee import batches_of
from apiary_df.worker.engine import Engine
from plan.checks import check_rows, check_sample
from plan.local_swarm import LocalSwarm, Ran, drain, node, planned_tree
from plan.sample_queries import SHUFFLED, SMJ, Sample, by_name

SamplesUnder = Callable[[Sample], datafusion.SessionContext]

_KEY_DENSITY = "datafusion.execution.perfect_hash_join_min_key_density"


def in_place(ref: SegmentRef) -> ScanFile:
    return segment_file(ref, ref.key)


def swarm(ctx: datafusion.SessionContext, scratch: Path, partitions: int = 3, task_bytes: int = 0) -> LocalSwarm:
    return LocalSwarm(
        session=ctx,
        rewrite=RewriteOptions(partitions=partitions, small_bytes=0),
        nodes=[node("a", target_cell_size=1), node("b", target_cell_size=1)],
        scratch=scratch,
        options=TaskOptions(min_cell_bytes=1, min_task_bytes=task_bytes),
    )


def stages_of(ran: Ran) -> tuple[Stage, ...]:
    assert isinstance(ran.planned, RunsOnSwarm)
    return ran.planned.graph.stages


def the_stage_with(ran: Ran, kind: str) -> Stage:
    (found,) = (s for s in stages_of(ran) if any(n.kind == kind for n in s.fragment.walk()))
    return found


# -- work stealing, and partitions that mix -------------------------------------------------------------------------


def test_work_stealing_is_off_whatever_the_session_says(samples: datafusion.SessionContext, tmp_path: Path) -> None:
    planned = swarm(samples, tmp_path).plan("SELECT g, count(*) AS c FROM facts GROUP BY g")
    assert isinstance(planned, RunsOnSwarm)
    assert planned.settings["datafusion.execution.enable_file_stream_work_stealing"] == "false"


def test_a_task_reads_a_shuffle_as_one_partition(samples: datafusion.SessionContext, tmp_path: Path) -> None:
    ran = swarm(samples, tmp_path, task_bytes=1 << 30).run("SELECT g, count(*) AS c FROM facts GROUP BY g")
    (stage,) = (s for s in stages_of(ran) if [variant.kind for variant in s.variants] == ["hash"])
    (spec,) = ran.tasks[stage.stage]
    assert {ref.segment.partition for ref in spec.exchanges[0].segments} == {0, 1, 2}
    filled = fill_fragment(
        stage.fragment, spec.scans, spec.exchanges, (), locate_segment=lambda ref: segment_file(ref, ref.key)
    )
    assert [len(codec.scan_groups(leaf)) for leaf in filled.walk() if leaf.is_file_scan] == [1]


# -- joins that keep state in one process ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("left_small", "Left"),
        ("full_join", "Full"),
        ("semi_small", "LeftSemi"),
        ("anti_small", "LeftAnti"),
        ("mark_small", "LeftMark"),
    ],
)
def test_collected_joins_that_emit_build_rows_give_each_row_once_over_several_tasks(
    name: str, kind: str, samples: datafusion.SessionContext, tmp_path: Path
) -> None:
    sample = by_name(name)
    ran = swarm(samples, tmp_path, partitions=2).run(sample.sql)
    stage = the_stage_with(ran, "hash_join")
    (join,) = (n for n in stage.fragment.walk() if n.kind == "hash_join")
    assert join_type(join) == kind
    assert not has_build_side(join)
    assert len(ran.tasks[stage.stage]) == 2
    check_sample(samples, sample, ran.table)


@pytest.mark.parametrize("name", ["loop_left_small", "loop_full_small", "loop_semi_small", "loop_anti_small"])
def test_nested_loop_joins_that_emit_build_rows_run_in_one_task(
    name: str, samples: datafusion.SessionContext, tmp_path: Path
) -> None:
    sample = by_name(name)
    ran = swarm(samples, tmp_path).run(sample.sql)
    assert len(ran.tasks[the_stage_with(ran, "nested_loop_join").stage]) == 1
    check_sample(samples, sample, ran.table)


@pytest.mark.parametrize("name", ["not_in", "not_in_nulls", "not_in_nothing"])
def test_not_in_keeps_its_nulls_in_one_task(name: str, samples: datafusion.SessionContext, tmp_path: Path) -> None:
    sample = by_name(name)
    ran = swarm(samples, tmp_path).run(sample.sql)
    stage = the_stage_with(ran, "hash_join")
    assert any(is_null_aware(n) for n in stage.fragment.walk())
    assert len(ran.tasks[stage.stage]) == 1
    check_sample(samples, sample, ran.table)


def test_not_in_a_list_with_a_null_is_never_true(samples: datafusion.SessionContext, tmp_path: Path) -> None:
    assert swarm(samples, tmp_path).run(by_name("not_in_nulls").sql).table.num_rows == 0


def test_not_in_nothing_is_always_true(samples: datafusion.SessionContext, tmp_path: Path) -> None:
    assert swarm(samples, tmp_path).run(by_name("not_in_nothing").sql).table.num_rows == 480


# -- unions ---------------------------------------------------------------------------------------------------------


def test_a_union_of_different_partition_counts_runs_each_branch_once(
    samples: datafusion.SessionContext, tmp_path: Path
) -> None:
    sample = by_name("union_all")
    ran = swarm(samples, tmp_path).run(sample.sql)
    stage = stages_of(ran)[0]
    branches = {spec.branches[0].branch for spec in ran.tasks[stage.stage]}
    assert branches == {0, 1, 2}
    check_sample(samples, sample, ran.table)


def test_an_interleave_reads_the_same_partition_of_every_input(
    samples: datafusion.SessionContext, tmp_path: Path
) -> None:
    sample = by_name("groups_of_union_of_groups")
    ran = swarm(samples, tmp_path).run(sample.sql)
    both = [s for s in stages_of(ran) if len(s.inputs) == 2]
    assert both
    for spec in ran.tasks[both[0].stage]:
        partitions = {ref.segment.partition for exchange in spec.exchanges for ref in exchange.segments}
        assert len(partitions) <= 1
    check_sample(samples, sample, ran.table)


# -- subqueries and dynamic filters ---------------------------------------------------------------------------------


def test_a_scalar_subquery_is_planned_as_a_join(samples: datafusion.SessionContext, tmp_path: Path) -> None:
    planned = swarm(samples, tmp_path).plan(by_name("scalar_subquery").sql)
    assert isinstance(planned, RunsOnSwarm)
    kinds = {n.kind for stage in planned.graph.stages for n in stage.fragment.walk()}
    assert "scalar_subquery" not in kinds


@pytest.mark.parametrize("name", ["inner", "top"])
def test_dynamic_filters_are_absent_from_distributed_plans(
    name: str, samples_under: SamplesUnder, tmp_path: Path
) -> None:
    sample = by_name(name)
    wanted = (("datafusion.optimizer.enable_dynamic_filter_pushdown", "true"),)
    ctx = samples_under(Sample(name=name, sql=sample.sql, settings=wanted))
    assert "DynamicFilter" in ctx.sql(sample.sql).execution_plan().display_indent()
    planned = swarm(ctx, tmp_path).plan(sample.sql)
    assert isinstance(planned, RunsOnSwarm)
    assert "DynamicFilter" not in planned.physical


# -- order and limits -----------------------------------------------------------------------------------------------


def test_a_merge_reads_every_sorted_segment_as_a_partition_of_its_own(
    samples: datafusion.SessionContext, tmp_path: Path
) -> None:
    sample = by_name("order")
    ran = swarm(samples, tmp_path).run(sample.sql)
    root = stages_of(ran)[-1]
    assert [leaf.ordered for leaf in root.leaves if isinstance(leaf, ExchangeLeaf)] == [True]
    (spec,) = ran.tasks[root.stage]
    filled = fill_fragment(
        root.fragment, spec.scans, spec.exchanges, (), locate_segment=lambda ref: segment_file(ref, ref.key)
    )
    (leaf,) = (n for n in filled.walk() if n.is_file_scan)
    groups = codec.scan_groups(leaf)
    assert len(groups) > 1
    assert all(len(group) == 1 for group in groups)
    check_sample(samples, sample, ran.table)


@pytest.mark.parametrize("name", ["order", "union_of_groups", "window_of_groups"])
def test_segments_that_are_scanned_in_pieces_give_the_same_rows_in_the_same_order(
    samples: datafusion.SessionContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    most_bytes = 100
    monkeypatch.setattr(scans, "PIECE_BYTES", most_bytes)
    monkeypatch.setattr(scans, "LEAST_PIECE_BYTES", most_bytes)
    sample = by_name(name)
    ran = swarm(samples, tmp_path).run(sample.sql)
    check_sample(samples, sample, ran.table)
    (spec,) = ran.tasks[stages_of(ran)[-1].stage]
    filled = fill_fragment(
        stages_of(ran)[-1].fragment,
        spec.scans,
        spec.exchanges,
        (),
        locate_segment=lambda ref: segment_file(ref, ref.key),
    )
    (leaf,) = (n for n in filled.walk() if n.is_file_scan)
    sizes = [file.bytes for group in codec.scan_groups(leaf) for file in group]
    assert max(sizes) == most_bytes
    assert sum(sizes) == sum(ref.segment.length for exchange in spec.exchanges for ref in exchange.segments)


def test_a_limit_over_an_order_takes_the_first_rows(samples: datafusion.SessionContext, tmp_path: Path) -> None:
    sample = by_name("top")
    check_sample(samples, sample, swarm(samples, tmp_path).run(sample.sql).table)


@pytest.mark.parametrize(("limit", "offset"), [(1, 0), (7, 3), (480, 0), (5, 478), (5, 480), (1000, 0)])
def test_limit_and_offset_give_exactly_so_many_rows(
    limit: int, offset: int, samples: datafusion.SessionContext, tmp_path: Path
) -> None:
    ran = swarm(samples, tmp_path).run(f"SELECT id FROM facts LIMIT {limit} OFFSET {offset}")
    rows = ran.table.column("id").to_pylist()
    assert len(rows) == len(set(rows)) == max(0, min(limit, 480 - offset))


def test_files_of_a_declared_order_are_merged_one_by_one(samples: datafusion.SessionContext, tmp_path: Path) -> None:
    sample = by_name("declared_order")
    ran = swarm(samples, tmp_path, partitions=3).run(sample.sql)
    leaves = [leaf for stage in stages_of(ran) for leaf in stage.leaves if isinstance(leaf, ScanLeaf)]
    assert [leaf.ordered for leaf in leaves] == [True]
    check_sample(samples, sample, ran.table)


@pytest.fixture(scope="module")
def in_order(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, str]], datafusion.SessionContext]:
    """Returns a session with a declared order over one file, and the same numbers over four."""
    folder = tmp_path_factory.mktemp("in-order")
    numbers = pa.table({"ts": pa.array(range(200), pa.int64()), "x": pa.array([i % 7 for i in range(200)])})
    for name, files in (("single", 1), ("several", 4)):
        (folder / name).mkdir()
        for number in range(files):
            step = 200 // files
            part = numbers.slice((files - 1 - number) * step, step)
            pq.write_table(part, folder / name / f"{number}.parquet", row_group_size=10)

    def session(settings: dict[str, str]) -> datafusion.SessionContext:
        ctx = datafusion.SessionContext(datafusion.SessionConfig(settings))
        for name in ("single", "several"):
            ctx.sql(
                f"CREATE EXTERNAL TABLE {name} (ts BIGINT, x BIGINT) STORED AS PARQUET "
                f"WITH ORDER (ts ASC NULLS FIRST) LOCATION '{folder / name}/'"
            )
        return ctx

    return session


@pytest.mark.parametrize("task_bytes", [0, 1 << 30])
def test_a_merge_join_over_a_shuffle_in_order_never_reads_two_partitions_in_a_row(
    task_bytes: int, in_order: Callable[[dict[str, str]], datafusion.SessionContext], tmp_path: Path
) -> None:
    ctx = in_order(SMJ)
    sql = "SELECT a.ts, b.x FROM single a JOIN several b ON a.ts = b.ts"
    ran = swarm(ctx, tmp_path, task_bytes=task_bytes).run(sql)
    assert len(ran.tasks[the_stage_with(ran, "sort_merge_join").stage]) == 3
    check_rows(ctx.sql(sql).to_arrow_table(), ran.table, ())


@pytest.mark.parametrize("fold_after", [1, 2])
def test_a_merge_join_over_a_shuffle_in_order_is_not_folded_over_all_partitions(
    fold_after: int, in_order: Callable[[dict[str, str]], datafusion.SessionContext], tmp_path: Path
) -> None:
    ctx = in_order(SMJ)
    sql = "SELECT a.ts, b.x FROM single a JOIN several b ON a.ts = b.ts"
    ran = swarm(ctx, tmp_path).run(sql, fold_after)
    check_rows(ctx.sql(sql).to_arrow_table(), ran.table, ())


def test_partitions_are_put_together_where_a_sort_stands_above_the_shuffle(
    samples_under: SamplesUnder, tmp_path: Path
) -> None:
    sample = by_name("merge_inner")
    ran = swarm(samples_under(sample), tmp_path, task_bytes=1 << 30).run(sample.sql)
    assert len(ran.tasks[the_stage_with(ran, "sort_merge_join").stage]) == 1


def test_files_planned_in_order_in_one_group_stay_in_one_partition(
    in_order: Callable[[dict[str, str]], datafusion.SessionContext], tmp_path: Path
) -> None:
    ctx = in_order({"datafusion.execution.split_file_groups_by_statistics": "true"})
    sql = "SELECT ts, x FROM several ORDER BY ts NULLS FIRST"
    ran = swarm(ctx, tmp_path).run(sql)
    check_rows(ctx.sql(sql).to_arrow_table(), ran.table, ("ts",))


# -- names, empties, settings ---------------------------------------------------------------------------------------


def test_duplicate_column_names_after_a_join_go_by_position(samples_under: SamplesUnder, tmp_path: Path) -> None:
    sql = "SELECT a.k, b.k, a.g, b.g FROM facts a JOIN facts b ON a.k = b.k AND a.id = b.id"
    ctx = samples_under(Sample(name="", sql=sql, settings=tuple(SHUFFLED.items())))
    ran = swarm(ctx, tmp_path).run(sql)
    (schema,) = (stage.schema for stage in stages_of(ran) if stage.schema is not None and stage.schema.renamed)
    assert schema.names == ("k", "k", "g", "g")
    assert schema.arrow.names == ["c0", "c1", "c2", "c3"]
    expected = ctx.sql(sql).to_arrow_table()
    assert sorted(map(str, zip(*ran.table.to_pydict().values(), strict=True))) == sorted(
        map(str, zip(*expected.to_pydict().values(), strict=True))
    )
    assert ran.table.num_rows == expected.num_rows > 0
    folded = swarm(ctx, tmp_path).run(sql, fold_after=1)
    assert folded.table.num_rows == expected.num_rows


@pytest.mark.parametrize("name", ["nothing_global", "filtered_to_nothing"])
def test_an_aggregate_without_groups_over_nothing_has_one_row(
    name: str, samples: datafusion.SessionContext, tmp_path: Path
) -> None:
    sample = by_name(name)
    ran = swarm(samples, tmp_path).run(sample.sql)
    assert ran.table.num_rows == 1
    assert ran.table.column("c").to_pylist() == [0]


def test_groups_over_nothing_are_no_rows(samples: datafusion.SessionContext, tmp_path: Path) -> None:
    assert swarm(samples, tmp_path).run(by_name("nothing_group").sql).table.num_rows == 0


def test_settings_that_change_results_go_with_the_query(samples_under: SamplesUnder, tmp_path: Path) -> None:
    wanted = {"datafusion.execution.time_zone": "+05:00", "datafusion.execution.batch_size": "77"}
    sample = Sample(name="", sql="SELECT DISTINCT g FROM facts", settings=tuple(wanted.items()))
    planned = swarm(samples_under(sample), tmp_path).plan(sample.sql)
    assert isinstance(planned, RunsOnSwarm)
    assert planned.settings.items() >= wanted.items()


def test_a_broadcast_limit_of_the_user_holds_for_the_swarm_too(samples_under: SamplesUnder, tmp_path: Path) -> None:
    sample = by_name("inner_shuffled")
    ran = swarm(samples_under(sample), tmp_path).run(sample.sql)
    (join,) = (n for n in the_stage_with(ran, "hash_join").fragment.walk() if n.kind == "hash_join")
    assert not has_build_side(join)


def test_an_aggregate_that_panics_as_it_begins_is_datafusions_own_affair(
    samples: datafusion.SessionContext, tmp_path: Path
) -> None:
    # The order is simplified to one column after its two were counted.
    sql = "SELECT k, last_value(id ORDER BY CASE WHEN false THEN k ELSE id END, id) AS l FROM facts GROUP BY "
    with pytest.raises(Exception, match="panicked"):
        samples.sql(f"{sql} k").collect()
    planned = swarm(samples, tmp_path).plan(f"{sql} GROUPING SETS ((), (k))")
    assert isinstance(planned, RunsHere), "this one begins with a group"
    assert "cannot tell the schema" in planned.reason
    engine = Engine({}, 1 << 28, tmp_path)
    tree = planned_tree(samples, f"{sql} k", 1)[1]
    with pytest.raises(ExecutionFailed, match="assertion"):
        list(batches_of(engine, engine.decode(tree), tree))


@pytest.mark.parametrize(("settings", "arrays"), [({}, 4), ({_KEY_DENSITY: "0.2"}, 0)], ids=["default", "user's own"])
def test_keys_that_are_dense_as_a_whole_are_looked_up_in_arrays_by_each_task(
    settings: dict[str, str], arrays: int, tmp_path: Path
) -> None:
    # Every fourth number, as with the keys of TPC-H's orders, and each of four partitions has a quarter of them.
    sql = "SELECT count(*) FROM range(0, 80000, 4) a JOIN range(0, 80000) b ON a.value = b.value"
    ctx = datafusion.SessionContext(datafusion.SessionConfig({**SHUFFLED, **settings}))
    (tmp_path / "t").mkdir()
    for part in range(2):
        pq.write_table(pa.table({"x": range(9)}), tmp_path / "t" / f"{part}.parquet")
    ctx.register_parquet("t", str(tmp_path / "t"))
    planned = swarm(ctx, tmp_path).plan("SELECT x, count(*) FROM t GROUP BY x")
    assert isinstance(planned, RunsOnSwarm)
    engine = Engine(planned.settings, 1 << 28, tmp_path)
    plan = engine.decode(planned_tree(ctx, sql, 4)[1])
    drain(engine.ctx, plan)
    made = [
        metrics.sum_by_name("array_map_created_count") for name, metrics in plan.collect_metrics() if "Join" in name
    ]
    assert made == [arrays]


def test_a_broadcast_of_one_tasks_rows_is_computed_by_one_stage(
    samples: datafusion.SessionContext, tmp_path: Path
) -> None:
    ran = swarm(samples, tmp_path).run(by_name("build_of_build").sql)
    read = {leaf.stage for stage in stages_of(ran) for leaf in stage.leaves if isinstance(leaf, ExchangeLeaf)}
    assert read == {stage.stage for stage in stages_of(ran)[:-1]}


@pytest.mark.parametrize("name", ["union_of_globals"])
def test_the_root_gives_one_stream(name: str, samples: datafusion.SessionContext, tmp_path: Path) -> None:
    sample = by_name(name)
    ran = swarm(samples, tmp_path).run(sample.sql)
    assert ran.table.num_rows == 2
    check_sample(samples, sample, ran.table)
