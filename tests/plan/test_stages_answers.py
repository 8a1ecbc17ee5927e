"""Every query, cut into stages and run task by task, gives the rows of plain DataFusion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datafusion
import pytest

from apiary_df.costs import ShufflePlanning
from apiary_df.demo import TPCH_ORDER_COLUMNS, tpch_queries
from apiary_df.plan.fold import FoldOptions
from apiary_df.plan.operators import EMBED_BYTES
from apiary_df.plan.rules import RewriteOptions
from apiary_df.planning import RunsHere, RunsOnSwarm
from apiary_df.tasks import TaskOptions
from plan.checks import check_rows, check_sample
from plan.local_swarm import LocalSwarm, node
from plan.sample_queries import SAMPLES, STAYS_HERE, Sample

KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How finely a query is cut."""

    partitions: int
    small_bytes: int
    bees: int
    cell_bytes: int
    task_bytes: int = 0
    embed_bytes: int = EMBED_BYTES
    combined: bool = False

    def swarm(self, session: datafusion.SessionContext, scratch: Path, *, threads: int = 1) -> LocalSwarm:
        nodes = [
            node(name, bees_total=self.bees, idle_bees=self.bees, target_cell_size=self.cell_bytes) for name in "ab"
        ]
        return LocalSwarm(
            session=session,
            rewrite=RewriteOptions(
                partitions=self.partitions,
                small_bytes=self.small_bytes,
                embed_bytes=self.embed_bytes,
                shuffles=ShufflePlanning(from_dollars=-1, bees=2) if self.combined else None,
            ),
            nodes=nodes,
            scratch=scratch,
            options=TaskOptions(min_cell_bytes=1, min_task_bytes=self.task_bytes),
            fold=FoldOptions(threads=threads, part_bytes=0),
        )


SHAPES = {
    "coarse": Shape(partitions=2, small_bytes=0, bees=1, cell_bytes=1 << 30),
    "every-row-group": Shape(partitions=3, small_bytes=0, bees=2, cell_bytes=1),
    "grouped-partitions": Shape(partitions=7, small_bytes=0, bees=1, cell_bytes=20 * KIB, task_bytes=8 * KIB),
    "combined-shuffles": Shape(partitions=5, small_bytes=0, bees=3, cell_bytes=1, combined=True),
}
TPCH_SHAPES = {**SHAPES, "small-inside": Shape(partitions=3, small_bytes=48 * KIB, bees=1, cell_bytes=1 << 30)}
SAMPLE_SHAPES = {
    **SHAPES,
    "small-inside": Shape(partitions=3, small_bytes=10_000, bees=1, cell_bytes=1),
    "tables-stored": Shape(partitions=3, small_bytes=0, bees=2, cell_bytes=1, embed_bytes=0),
}


@pytest.mark.parametrize("shape", TPCH_SHAPES)
@pytest.mark.parametrize("number", tpch_queries())
def test_tpch_in_stages_equals_datafusion(
    number: int, shape: str, tpch: datafusion.SessionContext, tmp_path: Path
) -> None:
    sql = tpch_queries()[number]
    ran = TPCH_SHAPES[shape].swarm(tpch, tmp_path).run(sql)
    assert isinstance(ran.planned, RunsOnSwarm)
    check_rows(tpch.sql(sql).to_arrow_table(), ran.table, TPCH_ORDER_COLUMNS[number])


@pytest.mark.parametrize("shape", SAMPLE_SHAPES)
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_sample_in_stages_equals_datafusion(
    sample: Sample,
    shape: str,
    samples_under: Callable[[Sample], datafusion.SessionContext],
    tmp_path: Path,
) -> None:
    ctx = samples_under(sample)
    ran = SAMPLE_SHAPES[shape].swarm(ctx, tmp_path).run(sample.sql)
    check_sample(ctx, sample, ran.table)


@pytest.mark.parametrize("number", tpch_queries())
@pytest.mark.parametrize("fold_after", [1, 3])
def test_tpch_folded_into_the_root_equals_datafusion(
    number: int, fold_after: int, tpch: datafusion.SessionContext, tmp_path: Path
) -> None:
    sql = tpch_queries()[number]
    ran = SHAPES["coarse"].swarm(tpch, tmp_path).run(sql, fold_after)
    check_rows(tpch.sql(sql).to_arrow_table(), ran.table, TPCH_ORDER_COLUMNS[number])


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_sample_folded_into_the_root_equals_datafusion(
    sample: Sample, samples_under: Callable[[Sample], datafusion.SessionContext], tmp_path: Path
) -> None:
    ctx = samples_under(sample)
    ran = SHAPES["every-row-group"].swarm(ctx, tmp_path, threads=3).run(sample.sql, fold_after=1)
    check_sample(ctx, sample, ran.table)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_what_stays_here_is_known(
    sample: Sample, samples_under: Callable[[Sample], datafusion.SessionContext], tmp_path: Path
) -> None:
    planned = SHAPES["coarse"].swarm(samples_under(sample), tmp_path).plan(sample.sql)
    expected = STAYS_HERE.get(sample.name)
    if expected is None:
        assert isinstance(planned, RunsOnSwarm), planned
    else:
        assert isinstance(planned, RunsHere)
        assert expected in planned.reason


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
@pytest.mark.parametrize("small_bytes", [4_000, 10_000])
def test_no_plan_comes_out_of_the_rules_uncuttable(
    sample: Sample,
    small_bytes: int,
    samples_under: Callable[[Sample], datafusion.SessionContext],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shape = Shape(partitions=3, small_bytes=small_bytes, bees=1, cell_bytes=1)
    shape.swarm(samples_under(sample), tmp_path).plan(sample.sql)
    assert caplog.messages == []
