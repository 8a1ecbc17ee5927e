"""Plans as texts: a few queries at each phase, small enough to read. Every one of them is executed as well.

``pytest tests/plan/test_golden.py --update-golden`` writes the texts anew; read the difference before committing it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datafusion
import pytest

from apiary_df.plan.rules import RewriteOptions, rewrite
from apiary_df.plan.stages import ExchangeLeaf, Leaf, Stage, StageGraph, Variant
from apiary_df.planning import RunsOnSwarm, SwarmPlanner, display_plan
from apiary_df.tasks import TaskOptions
from plan.checks import check_sample
from plan.local_swarm import LocalSwarm, node, planned_tree, run_tree
from plan.sample_queries import Sample, by_name

GOLDEN = Path(__file__).parents[1] / "golden"
PARTITIONS = 2
SMALL_BYTES = {"small_side_shuffled": 10_000, "union_joined": 10_000}
"""Queries in which something small stays inside its consumer; in the others every exchange is a stage."""

QUERIES = ("group", "top", "semi_small", "not_in", "union_of_groups", "small_side_shuffled", "union_joined")
PHASES = ("physical", "rewritten", "stages")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A query at every phase, and the session in which its plans can be run."""

    sample: Sample
    ctx: datafusion.SessionContext
    options: RewriteOptions

    def swarm(self, scratch: Path) -> LocalSwarm:
        nodes = [node("a"), node("b")]
        return LocalSwarm(
            session=self.ctx,
            rewrite=self.options,
            nodes=nodes,
            scratch=scratch,
            options=TaskOptions(min_cell_bytes=1),
        )

    def text(self, phase: str) -> str:
        twin, tree = planned_tree(self.ctx, self.sample.sql, PARTITIONS)
        if phase == "physical":
            return display_plan(twin, tree)
        if phase == "rewritten":
            return display_plan(twin, rewrite(tree, self.options)[-1].plan)
        planner = SwarmPlanner(self.ctx, lambda _twin: None)
        planned = planner.plan(self.ctx.sql(self.sample.sql).optimized_logical_plan(), self.options)
        assert isinstance(planned, RunsOnSwarm)
        return stages_text(planner, planned.graph)


@pytest.fixture(params=QUERIES)
def planned(request: pytest.FixtureRequest, samples_under: Callable[[Sample], datafusion.SessionContext]) -> Planned:
    sample = by_name(request.param)
    options = RewriteOptions(partitions=PARTITIONS, small_bytes=SMALL_BYTES.get(sample.name, 0))
    return Planned(sample=sample, ctx=samples_under(sample), options=options)


def stages_text(planner: SwarmPlanner, graph: StageGraph) -> str:
    return "\n".join(f"{_title(stage)}\n{planner.display(stage.fragment)}" for stage in graph.stages)


def _title(stage: Stage) -> str:
    leaves = [f"leaf {number}: {_leaf(leaf)}" for number, leaf in enumerate(stage.leaves)]
    variants = [_variant(variant) for variant in stage.variants]
    return "\n".join([f"stage {stage.stage}: {stage.output}, {stage.partitions} partition(s)", *leaves, *variants])


def _leaf(leaf: Leaf) -> str:
    ordered = ", in order" if leaf.ordered else ""
    if isinstance(leaf, ExchangeLeaf):
        return f"stage {leaf.stage}{ordered}"
    return f"{len(leaf.files)} files of {Path(leaf.files[0].path).parent.name}{ordered}"


def _variant(variant: Variant) -> str:
    parts = [f"tasks: {variant.kind}"]
    if variant.choices:
        parts.append("branch " + ", ".join(f"{branch} of union {union}" for union, branch in variant.choices))
    if variant.split:
        parts.append(f"share {list(variant.split)}")
    if variant.whole:
        parts.append(f"read all of {list(variant.whole)}")
    return ", ".join(parts)


def normalised(text: str) -> str:
    """Return a plan's text without what differs between machines: folders, and where files are split."""

    def groups(match: re.Match[str]) -> str:
        tables = sorted(set(re.findall(r"/(\w+)/\d+\.\w+", match[0])))
        return f"file_groups={{{match[1]} of {' and '.join(tables) or 'a task'}}}"

    lines = (line.rstrip() for line in text.splitlines())
    return re.sub(r"file_groups=\{(\d+ groups?): \[\[.*?\]\]\}", groups, "\n".join(lines)) + "\n"


@pytest.mark.parametrize("phase", PHASES)
def test_the_plan_reads_as_it_did(planned: Planned, phase: str, request: pytest.FixtureRequest) -> None:
    path = GOLDEN / f"{planned.sample.name}.{phase}.txt"
    text = f"-- {planned.sample.sql}\n{normalised(planned.text(phase))}"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run with --update-golden if the new plan is meant"


@pytest.mark.parametrize("phase", PHASES)
def test_the_plan_gives_the_rows_of_datafusion(planned: Planned, phase: str, tmp_path: Path) -> None:
    sample, ctx = planned.sample, planned.ctx
    if phase == "stages":
        check_sample(ctx, sample, planned.swarm(tmp_path).run(sample.sql).table)
        return
    twin, tree = planned_tree(ctx, sample.sql, PARTITIONS)
    if phase == "rewritten":
        tree = rewrite(tree, planned.options)[-1].plan
    check_sample(ctx, sample, run_tree(twin, tree, ctx.sql(sample.sql).schema()))


def test_no_golden_text_is_left_over() -> None:
    expected = {f"{query}.{phase}.txt" for query in QUERIES for phase in PHASES}
    assert {path.name for path in GOLDEN.iterdir()} == expected
