"""Partials and records that are lost after they were committed."""

from __future__ import annotations

import pytest
from plan.schedules import (
    CHAIN,
    LINE,
    QUERY,
    committed,
    erred,
    key,
    lost,
    running,
    seen,
    sent,
    specs,
    tell,
)

from apiary_df.errors import (
    ObjectDamaged,
    PartialLost,
    TaskFailed,
)
from apiary_df.schedule import (
    AllNodesLost,
    Outcome,
    PlanStage,
    QueryState,
    RecordDamaged,
    RootErred,
    RunRoot,
    Schedule,
    StagePlanned,
    Started,
    Stop,
    StopTasks,
)


def third_stage_running() -> Schedule:
    """Return a schedule of a line of stages of two tasks each; the third of them runs."""
    schedule = Schedule(QUERY, LINE)
    tell(schedule, Started())
    tell(schedule, seen("a", "b"))
    for stage in (0, 1):
        tell(schedule, StagePlanned(stage=stage, specs=specs(stage, 2)))
        tell(schedule, committed(stage, 0))
        tell(schedule, committed(stage, 1))
    tell(schedule, StagePlanned(stage=2, specs=specs(2, 2)))
    return schedule


def test_a_partial_that_a_task_finds_lost_is_made_again_and_then_all_that_reads_it() -> None:
    schedule = third_stage_running()
    commands = tell(schedule, erred(2, 1, 0, lost(key(1, 0)), node_id="b"))
    assert commands[0] == StopTasks(node_id="a", keys=(key(2, 0),))
    assert sent(commands) == [(1, 0, 1)]
    assert [task.epoch for task in schedule.open_tasks()] == [1]
    assert schedule.specs(2) == ()
    assert tell(schedule, committed(1, 0, attempt=1)) == (PlanStage(stage=2),)
    assert [ref.key for ref in schedule.partials()[1]] == [str(key(1, 0, 1)), str(key(1, 1, 0))]
    again = tell(schedule, StagePlanned(stage=2, specs=specs(2, 2)))
    assert sent(again) == [(2, 0, 1), (2, 1, 1)]
    assert {task.epoch for task in schedule.open_tasks()} == {1}


def test_what_was_made_from_a_lost_partial_does_not_count_even_if_it_was_committed_before() -> None:
    schedule = third_stage_running()
    tell(schedule, committed(2, 0))
    tell(schedule, erred(2, 1, 0, lost(key(1, 0)), node_id="b"))
    tell(schedule, committed(1, 0, attempt=1))
    tell(schedule, StagePlanned(stage=2, specs=specs(2, 2)))
    # News of the life before: too late to count, however it comes.
    assert tell(schedule, committed(2, 1, attempt=0)) == ()
    assert tell(schedule, erred(2, 0, 0, lost(key(1, 0)))) == ()
    assert not schedule.is_complete(2)
    assert [a.outcome for a in schedule.attempts(2, 0)] == [Outcome.SUPERSEDED, Outcome.RUNNING]


def test_a_task_may_lose_its_partial_only_so_often() -> None:
    schedule = Schedule(QUERY, CHAIN, max_attempts=2)
    tell(schedule, Started())
    tell(schedule, seen("a"))
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 1, "a")))
    tell(schedule, committed(0, 0))
    assert sent(tell(schedule, RootErred(error=lost(key(0, 0)), untouched=True))) == [(0, 0, 1)]
    tell(schedule, committed(0, 0, attempt=1))
    (stop,) = tell(schedule, RootErred(error=lost(key(0, 0, 1)), untouched=True))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, TaskFailed)
    assert stop.error.details["cause"] == "partial_lost"


def test_the_root_runs_again_after_a_lost_partial_unless_somebody_has_seen_its_rows() -> None:
    schedule = running(1)
    tell(schedule, committed(0, 0))
    assert sent(tell(schedule, RootErred(error=lost(key(0, 0)), untouched=True))) == [(0, 0, 1)]
    assert schedule.state is QueryState.RUNNING
    assert tell(schedule, committed(0, 0, attempt=1)) == (RunRoot(),)
    (stop,) = tell(schedule, RootErred(error=lost(key(0, 0, 1))))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, PartialLost)


def test_after_nodes_were_lost_a_lost_partial_brings_back_all_that_is_open() -> None:
    schedule = third_stage_running()
    tell(schedule, seen())
    tell(schedule, AllNodesLost())
    tell(schedule, RootErred(error=lost(key(1, 1)), untouched=True))
    assert schedule.is_stranded()
    assert sent(tell(schedule, seen("c"))) == [(1, 1, 1)]
    assert tell(schedule, committed(1, 1, attempt=1)) == (PlanStage(stage=2),)


@pytest.mark.parametrize(
    "error",
    [
        PartialLost("gone"),
        PartialLost("gone", stage=0, task=0, attempt=0),
        PartialLost("gone", stage=1, task=7, attempt=0),
        PartialLost("gone", stage=1, task=0, attempt=3),
        PartialLost("gone", stage="-1", task="x", attempt="9" * 99),
    ],
    ids=["no-name", "not-an-input", "no-such-task", "not-the-one-that-counts", "no-numbers"],
)
def test_an_error_that_names_no_partial_that_counts_only_costs_the_attempt(error: PartialLost) -> None:
    schedule = third_stage_running()
    assert sent(tell(schedule, erred(2, 1, 0, error, node_id="b"))) == [(2, 1, 1)]
    assert schedule.is_complete(1)


def test_a_task_whose_commit_record_is_damaged_is_done_again() -> None:
    schedule = running(1)
    damaged = RecordDamaged(stage=0, task=0, epoch=0, error=ObjectDamaged("cut off"))
    assert sent(tell(schedule, damaged)) == [(0, 0, 1)]
    assert [task.epoch for task in schedule.open_tasks()] == [1]
    assert tell(schedule, damaged) == ()
    assert tell(schedule, committed(0, 0, attempt=0)) == ()
    assert tell(schedule, committed(0, 0, attempt=1)) == (RunRoot(),)


def test_a_damaged_record_of_a_task_whose_plan_is_void_is_of_no_concern() -> None:
    """Both are seen in one look: what a task has read is lost, and its sibling's record is damaged."""
    schedule = third_stage_running()
    tell(schedule, erred(2, 0, 0, lost(key(1, 0))))
    assert tell(schedule, RecordDamaged(stage=2, task=1, epoch=0, error=ObjectDamaged("cut off"))) == ()
    assert sent(tell(schedule, committed(1, 0, attempt=1))) == []
    assert sent(tell(schedule, StagePlanned(stage=2, specs=specs(2, 2)))) == [(2, 0, 1), (2, 1, 1)]
