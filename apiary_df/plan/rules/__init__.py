"""The rewrite rules, one a file, in the order in which they run.

Each rule takes a plan that one node can run and leaves a plan that one node can run, with the same rows. None of them
cuts: after the last one, every place where tasks must exchange rows is an exchange operator, and what may be replicated
or must stay in one task has been made so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from apiary_df.plan.rules.collapse_small_subtrees import collapse_small_subtrees
from apiary_df.plan.rules.combine_wide_shuffles import combine_wide_shuffles
from apiary_df.plan.rules.drop_round_robin import drop_round_robin
from apiary_df.plan.rules.gather_build_sides import gather_build_sides
from apiary_df.plan.rules.isolate_single_task_joins import isolate_single_task_joins
from apiary_df.plan.rules.options import RewriteOptions
from apiary_df.plan.rules.reuse_shuffles import reuse_shuffles
from apiary_df.plan.rules.shuffle_build_emitting_joins import shuffle_build_emitting_joins
from apiary_df.plan.rules.sort_after_shuffles import sort_after_shuffles
from apiary_df.plan.rules.spell_out_partition_order import spell_out_partition_order
from apiary_df.plan.rules.widen_shuffles import widen_shuffles
from apiary_df.plan.tree import PlanNode

Rule = Callable[[PlanNode, RewriteOptions], PlanNode]
"""A rewrite of a whole plan."""

RULES: tuple[Rule, ...] = (
    drop_round_robin,
    sort_after_shuffles,
    collapse_small_subtrees,
    shuffle_build_emitting_joins,
    widen_shuffles,
    reuse_shuffles,
    isolate_single_task_joins,
    gather_build_sides,
    spell_out_partition_order,
    combine_wide_shuffles,
)
"""All rules, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A plan as one rule left it."""

    rule: str
    plan: PlanNode


def rewrite(plan: PlanNode, options: RewriteOptions) -> tuple[Phase, ...]:
    """Run all rules over a plan.

    Returns:
        One phase a rule, in order; the last one's plan is the rewritten plan.
    """
    phases: list[Phase] = []
    for rule in RULES:
        plan = rule(plan, options)
        phases.append(Phase(rule=rule.__name__, plan=plan))
    return tuple(phases)


__all__ = ["RULES", "Phase", "RewriteOptions", "Rule", "rewrite"]
