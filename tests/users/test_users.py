"""A few sessions at once on real nodes: all answers exact, everybody served. `make users` is the large one."""

from __future__ import annotations

from pathlib import Path

import pytest

from .driver import Plan, jain_index, run_users


@pytest.mark.processes
@pytest.mark.timeout(600)
def test_sessions_in_several_processes_all_get_their_answers(tmp_path: Path) -> None:
    plan = Plan(sessions=8, processes=2, queries=24, greedy=2, nodes=2, scale=0.005, parts=2)
    report = run_users(plan, tmp_path)
    assert not report.faults, report.faults[:5]
    assert {outcome["session"] for outcome in report.outcomes} == set(range(plan.sessions))
    assert len(report.outcomes) == 24
    assert report.greedy_outcomes, "the greedy session got nothing"


def test_the_index_of_evenness_is_one_for_equal_lots_and_its_least_for_one_who_has_all() -> None:
    assert jain_index([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain_index([5.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
