"""What is left of a query gives the same rows as one root, however many stages are complete."""

from __future__ import annotations

from pathlib import Path

import datafusion
import pytest

from apiary_df.demo import TPCH_ORDER_COLUMNS, tpch_queries
from apiary_df.plan.fold import can_fold, fold, remaining_bytes
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.stages import ExchangeLeaf, ScanLeaf, StageGraph
from apiary_df.planning import RunsOnSwarm
from apiary_df.tasks import TaskOptions
from plan.checks import check_rows
from plan.local_swarm import LocalSwarm, node

JOIN_AND_AGGREGATE = 5
"""Number of a TPC-H query of many stages."""


def swarm(session: datafusion.SessionContext, scratch: Path) -> LocalSwarm:
    nodes = [node(name, bees_total=1, idle_bees=1, target_cell_size=1 << 30) for name in "ab"]
    rewrite = RewriteOptions(partitions=2, small_bytes=0)
    return LocalSwarm(session=session, rewrite=rewrite, nodes=nodes, scratch=scratch, options=TaskOptions())


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
    local = swarm(tpch, tmp_path)
    planned = local.plan(sql)
    assert isinstance(planned, RunsOnSwarm)
    expected = tpch.sql(sql).to_arrow_table()
    for complete in range(len(planned.graph.stages) - 1):
        ran = local.run(sql, fold_after=complete)
        assert len(ran.partials) == complete, "TPC-H has no plan that rests on the order in a shuffle's partitions"
        check_rows(expected, ran.table, TPCH_ORDER_COLUMNS[number])


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
