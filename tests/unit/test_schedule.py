"""The schedule from a query's start to its end: what is sent, tried again, and given up."""

from __future__ import annotations

import pytest
from plan.schedules import (
    CHAIN,
    DIAMOND,
    QUERY,
    committed,
    erred,
    graph,
    key,
    running,
    seen,
    sent,
    sent_to,
    spec,
    specs,
    tell,
    transient,
)

from apiary_df.errors import (
    ExecutionFailed,
    FunctionsRefused,
    QueryCancelled,
    QueryTimeout,
    ResourcesExhausted,
    TaskFailed,
)
from apiary_df.model import NodeState
from apiary_df.schedule import (
    AllNodesLost,
    Cancelled,
    Dispatch,
    NodeSight,
    NodesSeen,
    Outcome,
    PlanStage,
    RestIsSmall,
    RootFinished,
    RunRoot,
    Schedule,
    SendTasks,
    StagePlanned,
    Started,
    Stop,
    StopTasks,
    TaskErred,
    TaskForgotten,
    TimedOut,
)

# -- the way of a query ----------------------------------------------------------------------------------------------


def test_a_query_without_inputs_runs_its_root_at_once() -> None:
    assert tell(Schedule(QUERY, graph(())), Started()) == (RunRoot(),)


def test_stages_are_planned_as_soon_as_their_inputs_are_complete() -> None:
    schedule = Schedule(QUERY, DIAMOND)
    assert tell(schedule, Started()) == (PlanStage(stage=0), PlanStage(stage=1))
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 2)))
    tell(schedule, StagePlanned(stage=1, specs=specs(1, 1)))
    assert tell(schedule, committed(0, 0)) == ()
    assert tell(schedule, committed(1, 0)) == ()
    assert tell(schedule, committed(0, 1)) == (PlanStage(stage=2),)
    tell(schedule, StagePlanned(stage=2, specs=specs(2, 1)))
    assert tell(schedule, committed(2, 0)) == (RunRoot(),)
    assert tell(schedule, RootFinished()) == (Stop(error=None),)


def test_tasks_go_to_their_nodes_in_one_command_each() -> None:
    schedule = Schedule(QUERY, CHAIN)
    tell(schedule, Started())
    sent = tell(schedule, StagePlanned(stage=0, specs=specs(0, 3)))
    assert sent == (
        SendTasks(
            node_id="a", tasks=(Dispatch(spec=spec(0, 0, "a"), attempt=0), Dispatch(spec=spec(0, 2, "a"), attempt=0))
        ),
        SendTasks(node_id="b", tasks=(Dispatch(spec=spec(0, 1, "b"), attempt=0),)),
    )


def test_the_rest_can_run_here_once_nothing_is_pending() -> None:
    schedule = Schedule(QUERY, DIAMOND)
    tell(schedule, Started())
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 1)))
    tell(schedule, committed(0, 0))
    assert tell(schedule, RestIsSmall()) == (RunRoot(),)
    assert set(schedule.partials()) == {0}


def test_the_first_commit_of_a_task_counts_and_later_ones_do_not() -> None:
    schedule = running(2)
    tell(schedule, TaskErred(key=key(0, 0), node_id="a", error=transient()))
    tell(schedule, committed(0, 0, attempt=0))
    assert tell(schedule, committed(0, 0, attempt=1)) == ()
    tell(schedule, committed(0, 1))
    assert [ref.key for ref in schedule.partials()[0]] == [str(key(0, 0, 0)), str(key(0, 1, 0))]


def test_a_retryable_error_is_tried_again() -> None:
    schedule = running(1)
    again = tell(schedule, TaskErred(key=key(0, 0), node_id="a", error=transient()))
    assert again == (SendTasks(node_id="a", tasks=(Dispatch(spec=spec(0, 0), attempt=1),)),)
    assert schedule.pending() == ((key(0, 0, 1), "a"),)


def refused() -> FunctionsRefused:
    return FunctionsRefused("not here")


def test_what_may_succeed_elsewhere_goes_to_each_other_node_once() -> None:
    schedule = running(1)
    tell(schedule, seen("a", "b", "c"))
    assert sent_to(tell(schedule, erred(0, 0, 0, refused(), node_id="a"))) == ["b"]
    assert sent_to(tell(schedule, erred(0, 0, 1, refused(), node_id="b"))) == ["c"]
    (stop,) = tell(schedule, erred(0, 0, 2, refused(), node_id="c"))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, TaskFailed)
    assert stop.error.details["cause"] == "functions_refused"


def test_what_may_succeed_elsewhere_is_not_tried_again_where_there_is_no_other_node() -> None:
    schedule = running(1)
    tell(schedule, seen("a"))
    (stop,) = tell(schedule, erred(0, 0, 0, refused()))
    assert isinstance(stop, Stop)


def test_a_node_that_refused_a_task_is_not_given_it_back_after_another_error() -> None:
    schedule = running(1)
    tell(schedule, seen("a", "b"))
    tell(schedule, erred(0, 0, 0, refused(), node_id="a"))
    assert sent_to(tell(schedule, erred(0, 0, 1, transient(), node_id="b"))) == ["b"]


def test_a_task_that_only_nodes_which_refused_it_are_left_for_is_given_up() -> None:
    schedule = running(1)
    tell(schedule, seen("a", "b"))
    tell(schedule, erred(0, 0, 0, refused(), node_id="a"))
    (stop,) = tell(schedule, seen("a"))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, TaskFailed)


def test_the_same_error_reported_twice_is_one_error() -> None:
    schedule = running(1)
    event = TaskErred(key=key(0, 0), node_id="a", error=transient())
    tell(schedule, event)
    assert tell(schedule, event) == ()


def test_an_error_of_the_data_ends_the_query_with_task_node_and_cells() -> None:
    schedule = running(2)
    cause = ExecutionFailed("divide by zero")
    (stop,) = tell(schedule, TaskErred(key=key(0, 1), node_id="b", error=cause))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, TaskFailed)
    assert stop.error.details["task"] == "0.1"
    assert stop.error.details["node"] == "b"
    assert stop.error.details["cells"] == "data/1.parquet"
    assert stop.error.details["cause"] == "execution_failed"
    assert stop.error.__cause__ is cause
    assert "divide by zero" in stop.error.message


def test_attempts_are_bounded() -> None:
    schedule = running(1, max_attempts=2)
    tell(schedule, TaskErred(key=key(0, 0, 0), node_id="a", error=transient()))
    (stop,) = tell(schedule, TaskErred(key=key(0, 0, 1), node_id="a", error=transient()))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, TaskFailed)
    assert "after 2 attempts" in stop.error.message


def test_a_task_that_is_given_up_tells_node_cause_and_seconds_of_every_attempt() -> None:
    schedule = running(1, max_attempts=2)
    tell(schedule, seen("a", "b"))
    tell(schedule, erred(0, 0, 0, transient(), node_id="a"), 1.5)
    tell(schedule, seen("a"), 2.0)
    (stop,) = tell(schedule, erred(0, 0, 2, ResourcesExhausted("no memory left"), node_id="a"), 6.0)
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, TaskFailed)
    for words in (
        "attempt 0 on a failed after 1.5 s, storage_transient: put",
        "attempt 1 on b lost after 0.5 s, no_alive_nodes: node b was lost",
        "attempt 2 on a failed after 4.0 s, resources_exhausted: no memory left",
    ):
        assert words in stop.error.message
        assert words in stop.error.details["attempts"]


def test_a_lost_node_loses_its_uncommitted_tasks_only() -> None:
    schedule = running(3)
    tell(schedule, committed(0, 0))
    assert sent(tell(schedule, seen("b"))) == [(0, 2, 1)]
    assert tell(schedule, seen("b")) == ()


def test_a_query_that_failed_wants_no_stage_that_it_had_asked_for() -> None:
    schedule = Schedule(QUERY, DIAMOND, max_attempts=1)
    asked = tell(schedule, Started())
    assert asked == (PlanStage(stage=0), PlanStage(stage=1))
    tell(schedule, seen("a", "b"))
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 1, "a")))
    assert schedule.wants(1)
    (stop,) = tell(schedule, seen("b"))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, TaskFailed)
    assert not schedule.wants(1)


def test_a_lost_nodes_tasks_are_spread_over_the_others() -> None:
    schedule = Schedule(QUERY, CHAIN)
    tell(schedule, Started())
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 4, "a")))
    assert sorted(sent_to(tell(schedule, seen("b", "c")))) == ["b", "b", "c", "c"]


def test_a_node_that_came_back_can_be_lost_again() -> None:
    schedule = running(1)
    assert sent_to(tell(schedule, seen("b"))) == ["b"]
    assert sent_to(tell(schedule, seen("a"))) == ["a"]
    assert sent_to(tell(schedule, seen("c"))) == ["c"]


def test_a_node_that_comes_back_as_somebody_else_has_lost_what_it_had() -> None:
    schedule = Schedule(QUERY, CHAIN)
    tell(schedule, Started())
    tell(schedule, seen("a", incarnation="first"))
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 1, "a")))
    assert tell(schedule, seen("a", incarnation="first")) == ()
    assert sent(tell(schedule, seen("a", incarnation="second"))) == [(0, 0, 1)]
    assert [attempt.outcome for attempt in schedule.attempts(0, 0)] == [Outcome.LOST, Outcome.RUNNING]


def test_an_attempt_that_its_node_has_forgotten_is_lost_and_made_again_at_once() -> None:
    schedule = running(1)
    tell(schedule, seen("a", "b"))
    assert sent_to(tell(schedule, TaskForgotten(key=key(0, 0)))) == ["b"]
    assert schedule.attempts(0, 0)[0].outcome is Outcome.LOST
    assert tell(schedule, TaskForgotten(key=key(0, 0))) == ()


@pytest.mark.parametrize(("max_attempts", "losses"), [(1, 1), (2, 5), (4, 13)])
def test_losses_weigh_less_than_failures_and_are_bounded_as_well(max_attempts: int, losses: int) -> None:
    schedule = running(1, max_attempts=max_attempts)
    for number in range(1, losses):
        assert sent(tell(schedule, seen(f"n{number}"))) == [(0, 0, number)]
    (stop,) = tell(schedule, seen("last"))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, TaskFailed)


def test_a_suspect_node_keeps_what_it_has_and_gets_no_more() -> None:
    schedule = running(2)
    nodes = (
        NodeSight(node_id="a", state=NodeState.SUSPECT, usable=False),
        NodeSight(node_id="b", idle_bees=0),
    )
    assert tell(schedule, NodesSeen(nodes=nodes)) == ()
    assert sent_to(tell(schedule, erred(0, 1, 0, transient(), node_id="b"))) == ["b"]


def test_a_late_commit_of_a_lost_node_counts_and_stops_the_attempt_after_it() -> None:
    schedule = running(1)
    tell(schedule, seen("b"))
    stop = StopTasks(node_id="b", keys=(key(0, 0, 1),))
    assert tell(schedule, committed(0, 0, attempt=0)) == (stop, RunRoot())
    assert [a.outcome for a in schedule.attempts(0, 0)] == [Outcome.COMMITTED, Outcome.SUPERSEDED]


def test_tasks_of_lost_nodes_wait_while_a_node_may_come_back() -> None:
    schedule = running(1)
    silent = NodeSight(node_id="b", state=NodeState.SUSPECT, usable=False)
    assert tell(schedule, NodesSeen(nodes=(silent,))) == ()
    assert not schedule.is_stranded()
    assert sent(tell(schedule, seen("b"))) == [(0, 0, 1)]


def test_tasks_without_a_node_are_stranded_and_the_root_does_them_if_it_can() -> None:
    schedule = running(1)
    assert not schedule.is_stranded()
    assert tell(schedule, seen()) == ()
    assert schedule.is_stranded()
    assert tell(schedule, AllNodesLost()) == (RunRoot(),)


def test_tasks_without_a_node_that_the_root_cannot_do_end_the_query() -> None:
    schedule = running(1)
    tell(schedule, seen())
    (stop,) = tell(schedule, AllNodesLost(can_finish=False))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, TaskFailed)
    assert stop.error.details["node"] == "a"


# -- the end ----------------------------------------------------------------------------------------------------------


def test_a_timeout_says_how_far_the_query_came() -> None:
    schedule = running(2)
    tell(schedule, committed(0, 0))
    (stop,) = tell(schedule, TimedOut(timeout_s=2.5))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, QueryTimeout)
    assert "timeout_s=2.5" in stop.error.message
    assert "1 of 2" in stop.error.message


def test_a_cancelled_query_says_so() -> None:
    (stop,) = tell(running(), Cancelled())
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, QueryCancelled)
