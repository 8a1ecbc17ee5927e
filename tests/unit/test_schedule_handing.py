"""Rows handed over task by task: once each, of the attempt that counts, and never of what is made again."""

from __future__ import annotations

import random

import pytest
from plan.schedules import CHAIN, LINE, OVER, QUERY, committed, key, lost, seen, spec, specs, tell, transient

from apiary_df.errors import InternalError, PartialLost
from apiary_df.schedule import (
    AllNodesLost,
    Command,
    EnoughRows,
    HandedOver,
    Outcome,
    PlanStage,
    QueryState,
    RootErred,
    RootFinished,
    RunRoot,
    Schedule,
    SendTasks,
    StagePlanned,
    Started,
    Stop,
    TaskErred,
)


def running(tasks: int = 3) -> Schedule:
    """Return a schedule whose only stage is planned and sent, and hands rows over."""
    schedule = Schedule(QUERY, CHAIN, hand_over=0)
    tell(schedule, Started())
    tell(schedule, StagePlanned(stage=0, specs=specs(0, tasks)))
    return schedule


def next_task(schedule: Schedule) -> int | None:
    found = schedule.next_to_hand_over()
    return None if found is None else found.task


def hand_over(schedule: Schedule, task: int) -> None:
    assert tell(schedule, HandedOver(stage=0, task=task)) == ()


def error_of(commands: tuple[Command, ...]) -> Exception | None:
    (stop,) = (command for command in commands if isinstance(command, Stop))
    return stop.error


def test_a_task_is_handed_over_as_it_commits_and_once() -> None:
    schedule = running()
    assert next_task(schedule) is None
    tell(schedule, committed(0, 2))
    assert next_task(schedule) == 2
    hand_over(schedule, 2)
    assert next_task(schedule) is None
    with pytest.raises(InternalError, match="were handed over before"):
        tell(schedule, HandedOver(stage=0, task=2))


def test_of_several_the_one_of_the_lowest_number_is_first() -> None:
    schedule = running()
    for task in (2, 0):
        tell(schedule, committed(0, task))
    order = []
    while (found := next_task(schedule)) is not None:
        order.append(found)
        hand_over(schedule, found)
    assert order == [0, 2]


def test_what_is_not_made_yet_cannot_be_handed_over() -> None:
    schedule = running()
    with pytest.raises(InternalError, match="not made yet"):
        tell(schedule, HandedOver(stage=0, task=1))


@pytest.mark.parametrize("event", [HandedOver(stage=0, task=0), EnoughRows(), RootErred(error=transient())])
def test_a_query_that_hands_nothing_over_early_takes_no_such_news(event: HandedOver | EnoughRows | RootErred) -> None:
    schedule = Schedule(QUERY, CHAIN)
    tell(schedule, Started())
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 2)))
    tell(schedule, committed(0, 0))
    assert schedule.next_to_hand_over() is None
    with pytest.raises(InternalError):
        tell(schedule, event)
    assert schedule.state is QueryState.RUNNING


def test_the_query_ends_once_the_last_task_is_handed_over() -> None:
    schedule = running(1)
    assert tell(schedule, committed(0, 0)) == (RunRoot(),)
    assert next_task(schedule) == 0
    hand_over(schedule, 0)
    assert tell(schedule, RootFinished()) == (Stop(error=None),)


def test_enough_rows_end_the_query_whatever_still_runs() -> None:
    schedule = running()
    tell(schedule, committed(0, 1))
    hand_over(schedule, 1)
    assert tell(schedule, EnoughRows()) == (Stop(error=None),)
    assert schedule.state is QueryState.DONE


def test_a_second_attempt_that_commits_as_well_is_not_handed_over() -> None:
    schedule = running()
    tell(schedule, TaskErred(key=key(0, 0), node_id="a", error=transient()))
    tell(schedule, committed(0, 0, attempt=0))
    hand_over(schedule, 0)
    assert tell(schedule, committed(0, 0, attempt=1)) == ()
    assert next_task(schedule) is None
    assert schedule.counted(0, 0) == 0


def test_a_partial_that_is_lost_before_its_rows_went_out_is_made_again() -> None:
    schedule = running()
    tell(schedule, committed(0, 0))
    hand_over(schedule, 0)
    tell(schedule, committed(0, 1))
    again = tell(schedule, RootErred(error=lost(key(0, 1)), untouched=True))
    assert [
        (task.spec.task, task.attempt, task.epoch) for c in again if isinstance(c, SendTasks) for task in c.tasks
    ] == [(1, 1, 1)]
    assert next_task(schedule) is None
    tell(schedule, committed(0, 1, attempt=1))
    assert next_task(schedule) == 1


def test_a_partial_that_is_lost_at_the_end_is_made_again_and_only_that() -> None:
    schedule = running(2)
    for task in (0, 1):
        tell(schedule, committed(0, task))
    hand_over(schedule, 0)
    tell(schedule, RootErred(error=lost(key(0, 1)), untouched=True))
    assert schedule.state is QueryState.RUNNING
    assert tell(schedule, committed(0, 1, attempt=1)) == (RunRoot(),)
    assert next_task(schedule) == 1
    assert [a.outcome for a in schedule.attempts(0, 0)] == [Outcome.COMMITTED]


def test_a_partial_whose_rows_went_out_ends_the_query() -> None:
    schedule = running()
    tell(schedule, committed(0, 0))
    hand_over(schedule, 0)
    assert isinstance(error_of(tell(schedule, RootErred(error=lost(key(0, 0)), untouched=True))), PartialLost)


def two_stages() -> Schedule:
    """Return a schedule that hands over the second of two stages, both planned; the first is committed."""
    schedule = Schedule(QUERY, LINE, hand_over=2)
    tell(schedule, Started())
    for stage in range(3):
        tell(schedule, StagePlanned(stage=stage, specs=specs(stage, 2)))
        if stage < 2:
            for task in range(2):
                tell(schedule, committed(stage, task))
    return schedule


def test_what_was_read_by_tasks_whose_rows_went_out_is_not_made_again() -> None:
    schedule = two_stages()
    tell(schedule, committed(2, 0))
    tell(schedule, HandedOver(stage=2, task=0))
    error = error_of(tell(schedule, TaskErred(key=key(2, 1), node_id="b", error=lost(key(1, 0)))))
    assert isinstance(error, PartialLost)
    assert "handed over already" in error.message
    assert "stream_result" in error.message


def test_what_was_read_is_made_again_while_no_row_went_out() -> None:
    schedule = two_stages()
    tell(schedule, committed(2, 0))
    tell(schedule, TaskErred(key=key(2, 1), node_id="b", error=lost(key(1, 0))))
    assert schedule.next_to_hand_over() is None
    assert tell(schedule, committed(1, 0, attempt=1)) == (PlanStage(stage=2),)
    tell(schedule, StagePlanned(stage=2, specs=specs(2, 1)))
    assert schedule.next_to_hand_over() is None
    assert tell(schedule, committed(2, 0, attempt=1)) == (RunRoot(),)
    assert schedule.next_to_hand_over() == spec(2, 0, "a")


def test_once_all_nodes_are_gone_the_rest_is_left_to_the_session_and_no_late_commit_counts() -> None:
    schedule = running()
    tell(schedule, committed(0, 0))
    hand_over(schedule, 0)
    tell(schedule, seen())
    assert tell(schedule, AllNodesLost()) == (RunRoot(),)
    assert next_task(schedule) == 1
    hand_over(schedule, 1)
    assert tell(schedule, committed(0, 1)) == ()
    assert next_task(schedule) == 2
    hand_over(schedule, 2)
    assert next_task(schedule) is None


def something(schedule: Schedule, chance: random.Random, to_plan: list[int]) -> tuple[Command, ...]:
    """Let something happen that is not the root's doing."""
    pending = schedule.pending()
    what = chance.choice(["plan", "commit", "commit", "commit", "lose", "nodes"])
    if what == "plan" and to_plan and schedule.wants(stage := to_plan.pop(0)):
        return tell(schedule, StagePlanned(stage=stage, specs=specs(stage, chance.randint(1, 3))))
    if what == "nodes" and schedule.state is QueryState.RUNNING:
        return tell(schedule, seen(*chance.choice(["ab", "b", "a"])))
    if not pending:
        return ()
    of, node = chance.choice(pending)
    if what == "commit":
        return tell(schedule, committed(of.stage, of.task, of.attempt))
    if what == "lose" and of.stage and (attempt := schedule.counted(of.stage - 1, 0)) is not None:
        return tell(schedule, TaskErred(key=of, node_id=node, error=lost(key(of.stage - 1, 0, attempt))))
    return ()


def the_root(schedule: Schedule, chance: random.Random, out: list[int]) -> tuple[Command, ...]:
    """Let the root go on: hand over what is next, find it lost, or end."""
    found = schedule.next_to_hand_over()
    if found is None:
        if schedule.state is not QueryState.FINISHING:
            return ()
        assert sorted(out) == list(range(len(schedule.specs(2)))), "all of it went out"
        return tell(schedule, RootFinished())
    attempt = schedule.counted(2, found.task)
    if chance.random() < 0.2 and attempt is not None:
        return tell(schedule, RootErred(error=lost(key(2, found.task, attempt)), untouched=True))
    assert found.task not in out, "its rows went out before"
    out.append(found.task)
    return tell(schedule, HandedOver(stage=2, task=found.task))


def test_no_task_goes_out_twice_whatever_happens() -> None:
    ended = set()
    for seed in range(300):
        chance = random.Random(seed)
        schedule = Schedule(QUERY, LINE, hand_over=2)
        out: list[int] = []
        to_plan = [c.stage for c in tell(schedule, Started()) if isinstance(c, PlanStage)]
        for _ in range(200):
            if schedule.state in OVER:
                break
            before = set(out)
            root = chance.random() < 0.3
            commands = the_root(schedule, chance, out) if root else something(schedule, chance, to_plan)
            to_plan += [command.stage for command in commands if isinstance(command, PlanStage)]
            sent = {(t.spec.stage, t.spec.task) for c in commands if isinstance(c, SendTasks) for t in c.tasks}
            assert not any((2, task) in sent for task in before), f"seed {seed}: what went out is made again"
        ended.add(schedule.state)
    assert {QueryState.DONE, QueryState.FAILED} <= ended


def test_a_stage_of_which_the_session_did_tasks_itself_has_no_full_set_of_partials() -> None:
    schedule = running(2)
    tell(schedule, committed(0, 0))
    hand_over(schedule, 0)
    tell(schedule, seen())
    tell(schedule, AllNodesLost())
    hand_over(schedule, 1)
    assert tell(schedule, RootFinished()) == (Stop(error=None),)
    assert schedule.partials() == {}
