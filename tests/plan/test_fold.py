"""What is left of a query gives the same rows as one root, whatever is complete and in however many parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import datafusion
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiary_df.demo import TPCH_ORDER_COLUMNS, tpch_queries
from apiary_df.plan import codec
from apiary_df.plan.fold import (
    MOST_PARTS_A_THREAD,
    FoldOptions,
    can_fold,
    fold,
    fold_in_parts,
    parts_for,
    remaining_bytes,
)
from apiary_df.plan.parts import why_not_in_parts
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.stages import ExchangeLeaf, ScanLeaf, StageGraph
from apiary_df.plan.tree import PlanNode
from apiary_df.planning import RunsOnSwarm
from apiary_df.tasks import TaskOptions
from plan.checks import check_rows
from plan.local_swarm import LocalSwarm, drain, node, planned_tree

JOIN_AND_AGGREGATE = 5
"""Number of a TPC-H query of many stages."""

PARTITIONS, PARTS = 4, 2
"""Of shuffles, and of the root that reads them: each part has two partitions."""

IN_PARTS = FoldOptions(threads=PARTS, part_bytes=0)
IN_ONE = FoldOptions(threads=1, part_bytes=0)


def swarm(session: datafusion.SessionContext, scratch: Path, options: FoldOptions = IN_ONE) -> LocalSwarm:
    nodes = [node(name, bees_total=1, idle_bees=1, target_cell_size=1 << 30) for name in "ab"]
    rewrite = RewriteOptions(partitions=PARTITIONS, small_bytes=0)
    return LocalSwarm(
        session=session, rewrite=rewrite, nodes=nodes, scratch=scratch, options=TaskOptions(), fold=options
    )


@pytest.fixture(scope="module")
def graph(tpch: datafusion.SessionContext, tmp_path_factory: pytest.TempPathFactory) -> StageGraph:
    planned = swarm(tpch, tmp_path_factory.mktemp("plan")).plan(tpch_queries()[JOIN_AND_AGGREGATE])
    assert isinstance(planned, RunsOnSwarm)
    return planned.graph


@pytest.mark.parametrize("number", tpch_queries())
def test_tpch_folded_after_every_prefix_of_its_stages_equals_datafusion(
    number: int, tpch: datafusion.SessionContext, tmp_path: Path
) -> None:
    sql = tpch_queries()[number]
    local = swarm(tpch, tmp_path, IN_PARTS)
    planned = local.plan(sql)
    assert isinstance(planned, RunsOnSwarm)
    expected = tpch.sql(sql).to_arrow_table()
    read_shuffles = 0
    for complete in range(len(planned.graph.stages) - 1):
        # Every third once in one thread as well, which is how it runs where there is little to read.
        for options in (IN_PARTS, IN_ONE) if complete % 3 == 0 else (IN_PARTS,):
            local.fold = options
            ran = local.run(sql, fold_after=complete)
            assert len(ran.partials) == complete, "TPC-H has no plan that rests on the order in a shuffle's partitions"
            check_rows(expected, ran.table, TPCH_ORDER_COLUMNS[number])
            if ran.folded_how.startswith("in 2 parts"):
                assert options is IN_PARTS
                read_shuffles += 1
    if any(stage.output == "hash" for stage in planned.graph.stages):
        assert read_shuffles, "there are shuffles, and none was read in parts"


def test_root_that_nothing_is_left_for_is_the_root_itself(graph: StageGraph) -> None:
    complete = range(len(graph.stages) - 1)
    assert fold(graph, complete).leaves == graph.root.leaves


def test_folded_root_reads_complete_stages_and_the_files_of_all_others(graph: StageGraph) -> None:
    complete = {0, 1}
    leaves = fold(graph, complete).leaves
    assert {leaf.stage for leaf in leaves if isinstance(leaf, ExchangeLeaf)} <= complete
    files = {file.path for leaf in leaves if isinstance(leaf, ScanLeaf) for file in leaf.files}
    open_stages = [stage for stage in graph.stages if stage.stage not in complete]
    scans = [leaf for stage in open_stages for leaf in stage.leaves if isinstance(leaf, ScanLeaf)]
    assert files == {file.path for scan in scans for file in scan.files}


def test_folding_with_nothing_complete_reads_files_only(graph: StageGraph) -> None:
    assert can_fold(graph, ())
    assert all(isinstance(leaf, ScanLeaf) for leaf in fold(graph, ()).leaves)


def test_before_the_first_stage_all_files_remain(graph: StageGraph) -> None:
    scans = [leaf for stage in graph.stages for leaf in stage.leaves if isinstance(leaf, ScanLeaf)]
    assert remaining_bytes(graph, {}) == sum(file.size_bytes for scan in scans for file in scan.files)


def test_what_a_stage_committed_remains_until_its_readers_are_complete(
    tpch: datafusion.SessionContext, tmp_path: Path, graph: StageGraph
) -> None:
    partials = swarm(tpch, tmp_path).run(tpch_queries()[JOIN_AND_AGGREGATE]).partials
    last = len(graph.stages) - 2
    inputs = graph.root.inputs
    committed = sum(s.length for stage in inputs for p in partials[stage] for s in p.segments)
    assert remaining_bytes(graph, partials) == committed
    before = {stage: refs for stage, refs in partials.items() if stage != last}
    assert remaining_bytes(graph, before) != remaining_bytes(graph, partials)


# -- in parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("partitions", "threads", "parts"), [(2, 2, 2), (16, 2, 2), (6, 4, 6), (7, 4, 7), (4, 64, 4)])
def test_parts_are_as_many_as_threads_or_a_few_more(partitions: int, threads: int, parts: int) -> None:
    assert parts_for(partitions, threads) == parts


@given(partitions=st.integers(1, 2_000), threads=st.integers(1, 64))
def test_each_part_has_as_many_partitions(partitions: int, threads: int) -> None:
    parts = parts_for(partitions, threads)
    assert partitions % parts == 0
    assert 1 <= parts <= max(1, min(partitions, threads * MOST_PARTS_A_THREAD))


def test_partitions_of_a_prime_number_far_above_that_of_threads_stay_together() -> None:
    assert parts_for(997, 4) == 1


@pytest.mark.parametrize(("partitions", "parts"), [(2, 2), (4, 2), (12, 3), (35, 7)])
def test_datafusion_puts_a_row_into_the_part_of_its_partition(
    partitions: int, parts: int, tpch: datafusion.SessionContext
) -> None:
    sql = "SELECT p_brand, p_partkey, count(*) FROM part GROUP BY p_brand, p_partkey"
    found: dict[int, list[list[tuple[object, ...]]]] = {}
    for count in (partitions, parts):
        ctx, tree = planned_tree(tpch, sql, count)
        shuffle = next(n for n in tree.walk() if codec.hash_of_repartition(n) is not None)
        outputs = drain(ctx, datafusion.plan.ExecutionPlan.from_bytes(ctx, codec.encode(shuffle)))
        folded: list[list[tuple[object, ...]]] = [[] for _ in range(parts)]
        for partition, batches in enumerate(outputs):
            folded[partition % parts] += [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
        found[count] = [sorted(rows, key=repr) for rows in folded]
    assert found[partitions] == found[parts]


def test_what_is_not_worth_several_threads_runs_in_one(tpch: datafusion.SessionContext, tmp_path: Path) -> None:
    sql = tpch_queries()[JOIN_AND_AGGREGATE]
    for options, why in (
        (IN_ONE, "there is no other"),
        (FoldOptions(threads=PARTS, part_bytes=1 << 40), "it reads"),
        (FoldOptions(threads=PARTS, part_bytes=0), "in 2 parts"),
    ):
        assert why in swarm(tpch, tmp_path, options).run(sql, fold_after=2).folded_how


def scan(groups: int) -> PlanNode:
    return codec.with_scan_groups(codec.arrow_scan(b"", "file:///"), [[] for _ in range(groups)])


def join(left: int, right: int, *, mode: int, kind: str = "Inner") -> PlanNode:
    fields = {"partition_mode": mode, "join_type": codec.JOIN_TYPES.index(kind)}
    return codec.coalesce(codec.build("hash_join", scan(left), scan(right), **fields))


def aggregate(mode: int, child: PlanNode) -> PlanNode:
    return codec.coalesce(codec.build("aggregate", child, mode=mode))


RIGHT = {
    "partial aggregate over parts": aggregate(codec.PARTIAL, scan(2)),
    "groups of a part": aggregate(codec.FINAL_PARTITIONED, scan(2)),
    "all rows, gathered": codec.build("aggregate", codec.coalesce(scan(2)), mode=codec.FINAL),
    "join of equal parts": join(2, 2, mode=codec.PARTITIONED, kind="LeftAnti"),
    "collected side in one part": join(1, 2, mode=codec.COLLECT_LEFT),
    "collected side that emits, all in one part": join(1, 1, mode=codec.COLLECT_LEFT, kind="Left"),
    "groups that are shuffled in parts": aggregate(
        codec.FINAL_PARTITIONED, codec.hash_repartition(codec.union([scan(2), scan(1)]), [codec.column(0, "a")], 2)
    ),
    "rows of a union": codec.coalesce(codec.union([scan(2), scan(1)])),
}

WRONG = {
    "several partitions at the end": scan(2),
    "all rows, in parts": aggregate(codec.FINAL, scan(2)),
    "limit over parts": codec.build("global_limit", scan(2), skip=0, fetch=1),
    "sort of all rows in parts": codec.build("sort", scan(2)),
    "join of a part and all": join(1, 2, mode=codec.PARTITIONED),
    "join of other parts": join(3, 2, mode=codec.PARTITIONED),
    "collected side in parts": join(2, 2, mode=codec.COLLECT_LEFT),
    "collected side that emits, over parts": join(1, 2, mode=codec.COLLECT_LEFT, kind="Left"),
    "groups over a union": aggregate(codec.FINAL_PARTITIONED, codec.union([scan(2), scan(2)])),
    "write of parts": codec.coalesce(codec.build("parquet_sink", scan(2))),
}


@pytest.mark.parametrize("name", RIGHT)
def test_plan_whose_operators_see_what_they_need_may_run_in_parts(name: str) -> None:
    assert why_not_in_parts(RIGHT[name]) == ""


@pytest.mark.parametrize("name", WRONG)
def test_plan_whose_operators_would_miss_rows_may_not(name: str) -> None:
    assert "partitions" in why_not_in_parts(WRONG[name])


def test_plan_that_may_not_run_in_parts_runs_in_one(
    graph: StageGraph, tpch: datafusion.SessionContext, tmp_path: Path
) -> None:
    partials = swarm(tpch, tmp_path).run(tpch_queries()[JOIN_AND_AGGREGATE]).partials
    complete = {stage: refs for stage, refs in partials.items() if stage < len(graph.stages) - 3}
    assert fold_in_parts(graph, complete, IN_PARTS).parts == PARTS
    last = graph.stages[-2]
    assert last.variants[0].kind == "hash"
    merge = last.fragment
    limited = replace(last, fragment=merge.with_children(codec.build("global_limit", *merge.children, fetch=1)))
    folded = fold_in_parts(graph.with_stage(limited), complete, IN_PARTS)
    assert folded.root == fold(graph.with_stage(limited), complete)
    assert folded.why == "in one thread: GlobalLimitExec would stand over 2 partitions"
