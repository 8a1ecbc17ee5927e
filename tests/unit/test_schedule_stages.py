"""Stages that wait for others, are changed, or are left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plan.schedules import (
    DIAMOND,
    QUERY,
    committed,
    graph,
    key,
    lost,
    specs,
    tell,
)

from apiary_df.errors import (
    InternalError,
)
from apiary_df.plan.stages import LEFT_OUT, ExchangeLeaf
from apiary_df.schedule import (
    PlanStage,
    RunRoot,
    Schedule,
    SendTasks,
    StageChanged,
    StageHeld,
    StagePlanned,
    Started,
    TaskErred,
)


def test_a_stage_that_waits_is_asked_for_again_once_the_other_is_complete() -> None:
    schedule = Schedule(QUERY, DIAMOND)
    tell(schedule, Started())
    assert tell(schedule, StageHeld(stage=0, until=1)) == ()
    assert schedule.held == {0: 1}
    tell(schedule, StagePlanned(stage=1, specs=specs(1, 1)))
    assert tell(schedule, committed(1, 0)) == (PlanStage(stage=0),)
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 1)))
    assert not schedule.held


def test_stages_never_wait_for_each_other() -> None:
    schedule = Schedule(QUERY, DIAMOND)
    tell(schedule, Started())
    tell(schedule, StageHeld(stage=0, until=1))
    with pytest.raises(InternalError, match="cannot wait"):
        tell(schedule, StageHeld(stage=1, until=0))


def test_what_a_changed_stage_reads_is_made_again_with_all_that_read_it() -> None:
    schedule = Schedule(QUERY, DIAMOND)
    tell(schedule, Started())
    tell(schedule, StagePlanned(stage=1, specs=specs(1, 1)))
    tell(schedule, committed(1, 0))
    changed = replace(DIAMOND.stages[0], leaves=(ExchangeLeaf(stage=1, ordered=False),), version=1)
    tell(schedule, StageChanged(stage=changed))
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 1)))
    error = TaskErred(key=key(0, 0), node_id="a", error=lost(key(1, 0)))
    assert [type(command) for command in tell(schedule, error)] == [SendTasks]
    assert not schedule.wants(0)
    assert tell(schedule, committed(1, 0, 1)) == (PlanStage(stage=0),)


def test_a_stage_cannot_be_changed_once_it_is_planned() -> None:
    schedule = Schedule(QUERY, DIAMOND)
    tell(schedule, Started())
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 1)))
    with pytest.raises(InternalError, match="cannot be changed"):
        tell(schedule, StageChanged(stage=DIAMOND.stages[0]))


LEFT = replace(DIAMOND.stages[0], output=LEFT_OUT)
"""The first stage of the diamond, of which nothing is left."""


def alone(schedule: Schedule) -> None:
    """Let the stage that read the first two read the second one alone, and leave the first one out."""
    reader = replace(DIAMOND.stages[2], leaves=(ExchangeLeaf(stage=1, ordered=False),), version=1)
    assert tell(schedule, StageChanged(stage=reader)) == (PlanStage(stage=2),)
    assert tell(schedule, StageChanged(stage=LEFT)) == ()


def test_a_stage_that_is_left_out_is_not_asked_for_and_not_waited_for() -> None:
    schedule = Schedule(QUERY, DIAMOND)
    assert tell(schedule, Started()) == (PlanStage(stage=0), PlanStage(stage=1))
    tell(schedule, StageHeld(stage=0, until=1))
    tell(schedule, StagePlanned(stage=1, specs=specs(1, 1)))
    assert tell(schedule, committed(1, 0)) == (PlanStage(stage=0),)
    alone(schedule)
    assert not schedule.wants(0)
    tell(schedule, StagePlanned(stage=2, specs=specs(2, 1)))
    # What it read is lost: what reads it now is asked for again, and nothing else.
    error = TaskErred(key=key(2, 0), node_id="a", error=lost(key(1, 0)))
    assert [type(command) for command in tell(schedule, error)] == [SendTasks]
    assert tell(schedule, committed(1, 0, 1)) == (PlanStage(stage=2),)
    tell(schedule, StagePlanned(stage=2, specs=specs(2, 1)))
    assert tell(schedule, committed(2, 0, 1)) == (RunRoot(),)


def test_what_waited_for_a_stage_that_is_left_out_is_asked_for() -> None:
    schedule = Schedule(QUERY, graph((), (), (0, 1), (), (2, 3)))
    tell(schedule, Started())
    tell(schedule, StageHeld(stage=3, until=0))
    tell(schedule, StagePlanned(stage=1, specs=specs(1, 1)))
    tell(schedule, committed(1, 0))
    reader = replace(schedule.graph.stages[2], leaves=(ExchangeLeaf(stage=1, ordered=False),), version=1)
    tell(schedule, StageChanged(stage=reader))
    assert tell(schedule, StageChanged(stage=LEFT)) == (PlanStage(stage=3),)


def test_a_stage_that_others_read_is_not_left_out() -> None:
    schedule = Schedule(QUERY, DIAMOND)
    tell(schedule, Started())
    with pytest.raises(InternalError, match="cannot be left out"):
        tell(schedule, StageChanged(stage=LEFT))
