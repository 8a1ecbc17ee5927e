"""After every rule, the plan still runs on one node and gives the same rows."""

from __future__ import annotations

from collections.abc import Callable

import datafusion
import pytest

from apiary_df.demo import tpch_queries
from apiary_df.errors import PlanError
from apiary_df.plan.classes import coordinator_only_reason
from apiary_df.plan.rules import RULES, RewriteOptions, rewrite
from apiary_df.plan.tree import PlanNode
from plan.checks import check_rows, check_sample
from plan.local_swarm import planned_tree, run_tree
from plan.sample_queries import SAMPLES, WITHOUT_A_PLAN, Sample

OPTIONS = [
    RewriteOptions(partitions=partitions, small_bytes=small_bytes)
    for partitions in (2, 3)
    for small_bytes in (0, 10_000, 1 << 20)
] + [
    RewriteOptions(partitions=2, small_bytes=0, bee_bytes=50_000),
    RewriteOptions(partitions=2, small_bytes=0, reuse_from_values=1e-6),
]


def distinct_phases(tree: PlanNode) -> dict[PlanNode, str]:
    """Return every plan that some rule leaves under some options, with the rule's name."""
    found: dict[PlanNode, str] = {}
    for options in OPTIONS:
        try:
            phases = rewrite(tree, options)
        except PlanError:
            # The session runs what a rule refuses.
            continue
        for phase in phases:
            if phase.plan != tree:
                found.setdefault(phase.plan, phase.rule)
    return found


@pytest.mark.parametrize("partitions", [2, 3])
@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.name not in WITHOUT_A_PLAN], ids=lambda sample: sample.name)
def test_sample_after_each_rule(
    sample: Sample, partitions: int, samples_under: Callable[[Sample], datafusion.SessionContext]
) -> None:
    ctx = samples_under(sample)
    planner, tree = planned_tree(ctx, sample.sql, partitions)
    if coordinator_only_reason(tree) is not None:
        pytest.skip("the rules never see such a plan")
    schema = ctx.sql(sample.sql).schema()
    for plan in distinct_phases(tree):
        check_sample(ctx, sample, run_tree(planner, plan, schema))


@pytest.mark.parametrize("number", [2, 9, 11, 13, 15, 16, 18, 20, 21, 22])
def test_tpch_after_each_rule(number: int, tpch: datafusion.SessionContext) -> None:
    sql = tpch_queries()[number]
    planner, tree = planned_tree(tpch, sql, 3)
    expected = tpch.sql(sql).to_arrow_table()
    for plan in distinct_phases(tree):
        # Rows only: that order survives is shown by the stages, which run the last of these plans.
        check_rows(expected, run_tree(planner, plan, expected.schema), ())


def test_rules_run_in_the_documented_order() -> None:
    assert [rule.__name__ for rule in RULES] == [
        "drop_round_robin",
        "sort_after_shuffles",
        "collapse_small_subtrees",
        "shuffle_build_emitting_joins",
        "widen_shuffles",
        "reuse_shuffles",
        "isolate_single_task_joins",
        "gather_build_sides",
        "spell_out_partition_order",
        "combine_wide_shuffles",
    ]
