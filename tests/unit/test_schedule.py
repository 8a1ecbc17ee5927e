"""The schedule as a table of transitions, and what holds after any sequence of events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from plan.schedules import (
    CHAIN,
    DIAMOND,
    LINE,
    OVER,
    QUERY,
    committed,
    facts,
    graph,
    key,
    lost,
    seen,
    spec,
    specs,
    tell,
    transient,
)

from apiary_df.errors import (
    ApiaryError,
    ExecutionFailed,
    FunctionsRefused,
    InternalError,
    ObjectDamaged,
    PartialLost,
    QueryCancelled,
    QueryTimeout,
    ResourcesExhausted,
    TaskFailed,
)
from apiary_df.model import NodeState, TaskKey
from apiary_df.plan.stages import LEFT_OUT, ExchangeLeaf
from apiary_df.schedule import (
    TRANSITIONS,
    AllNodesLost,
    Cancelled,
    Command,
    Dispatch,
    Event,
    NodeSight,
    NodesSeen,
    Outcome,
    PlanStage,
    Policy,
    QueryState,
    RecordDamaged,
    RestIsSmall,
    RootErred,
    RootFinished,
    RunRoot,
    Schedule,
    SendTasks,
    StageChanged,
    StageHeld,
    StagePlanned,
    Started,
    Stop,
    StopTasks,
    TaskErred,
    TaskForgotten,
    Tick,
    TimedOut,
)


def running(tasks: int = 2, *, max_attempts: int = 4) -> Schedule:
    """Return a schedule whose only stage is planned and sent."""
    schedule = Schedule(QUERY, CHAIN, max_attempts=max_attempts)
    tell(schedule, Started())
    tell(schedule, StagePlanned(stage=0, specs=specs(0, tasks)))
    return schedule


def finishing() -> Schedule:
    schedule = running(1)
    tell(schedule, committed(0, 0))
    return schedule


def ended(event: Event) -> Schedule:
    schedule = finishing()
    tell(schedule, event)
    return schedule


IN_STATE: dict[QueryState, Callable[[], Schedule]] = {
    QueryState.RUNNING: running,
    QueryState.FINISHING: finishing,
    QueryState.DONE: lambda: ended(RootFinished()),
    QueryState.FAILED: lambda: ended(RootErred(error=ExecutionFailed("overflow"))),
    QueryState.CANCELLED: lambda: ended(Cancelled()),
}

EVENTS: tuple[Event, ...] = (
    Started(),
    StagePlanned(stage=0, specs=(spec(0, 0),)),
    committed(0, 0),
    TaskErred(key=key(0, 0), node_id="a", error=transient()),
    TaskForgotten(key=key(0, 0)),
    RecordDamaged(stage=0, task=0, epoch=0, error=ObjectDamaged("cut off")),
    seen("b"),
    Tick(),
    AllNodesLost(),
    RestIsSmall(),
    RootFinished(),
    RootErred(error=ExecutionFailed("overflow")),
    TimedOut(timeout_s=1.0),
    Cancelled(),
)


# -- the table ----------------------------------------------------------------------------------------------------


def test_every_state_has_its_row() -> None:
    assert set(TRANSITIONS) == set(QueryState) == set(IN_STATE)
    assert all(schedule().state is state for state, schedule in IN_STATE.items())


def test_every_method_of_the_table_exists_and_every_state_leads_somewhere() -> None:
    for row in TRANSITIONS.values():
        for answer in row.values():
            assert callable(getattr(Schedule, answer.method))
            assert answer.to


ILLEGAL = [(state, event) for state in QueryState for event in EVENTS if type(event) not in TRANSITIONS[state]]


@pytest.mark.parametrize(
    ("state", "event"), ILLEGAL, ids=[f"{state.value}-{type(event).__name__}" for state, event in ILLEGAL]
)
def test_an_illegal_event_raises_and_changes_nothing(state: QueryState, event: Event) -> None:
    schedule = IN_STATE[state]()
    before = facts(schedule)
    with pytest.raises(InternalError, match=f"{type(event).__name__} is illegal in state {state.value}"):
        tell(schedule, event)
    assert facts(schedule) == before


@pytest.mark.parametrize("state", OVER)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_late_news_of_a_query_that_is_over_changes_nothing(state: QueryState, event: Event) -> None:
    if type(event) not in TRANSITIONS[state]:
        return
    schedule = IN_STATE[state]()
    before = facts(schedule)
    assert tell(schedule, event) == ()
    assert facts(schedule) == before


@pytest.mark.parametrize(
    "event",
    [
        StagePlanned(stage=0, specs=(spec(0, 0),)),
        StagePlanned(stage=1, specs=(spec(1, 0),)),
        committed(0, 9),
        committed(3, 0),
        committed(0, 0, attempt=1),
        TaskErred(key=TaskKey(query_id="other", stage=0, task=0), node_id="a", error=transient()),
        RestIsSmall(),
    ],
    ids=["planned-twice", "not-asked-for", "no-task", "no-stage", "no-attempt", "other-query", "rest-while-pending"],
)
def test_news_of_what_was_never_asked_for_raises_and_changes_nothing(event: Event) -> None:
    schedule = running()
    before = facts(schedule)
    with pytest.raises(InternalError, match=f"query {QUERY}"):
        tell(schedule, event)
    assert facts(schedule) == before


def test_a_stage_without_a_task_is_a_defect() -> None:
    schedule = Schedule(QUERY, CHAIN)
    tell(schedule, Started())
    with pytest.raises(InternalError, match="without a task"):
        tell(schedule, StagePlanned(stage=0, specs=()))
    assert schedule.specs(0) == ()


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


def erred(stage: int, task: int, attempt: int, error: ApiaryError, node_id: str = "a") -> TaskErred:
    return TaskErred(key=key(stage, task, attempt), node_id=node_id, error=error)


def sent_to(commands: Sequence[Command]) -> list[str]:
    """Return the nodes that commands send tasks to, once a task."""
    return [command.node_id for command in commands if isinstance(command, SendTasks) for _ in command.tasks]


def sent(commands: Sequence[Command]) -> list[tuple[int, int, int]]:
    """Return stage, task and attempt of all that commands send."""
    return [
        (task.spec.stage, task.spec.task, task.attempt)
        for command in commands
        if isinstance(command, SendTasks)
        for task in command.tasks
    ]


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


# -- waiting before another attempt ---------------------------------------------------------------------------------


def patient(*, max_attempts: int = 4, deadline_s: float | None = None) -> Schedule:
    """Return a schedule of one task on node a, which waits up to a second before it tries again."""
    schedule = Schedule(QUERY, CHAIN, max_attempts=max_attempts, retry_after_s=1.0)
    tell(schedule, Started(deadline_s=deadline_s))
    tell(schedule, seen("a", "b"))
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 1, "a")))
    return schedule


def test_a_task_that_failed_is_sent_again_after_a_while_elsewhere() -> None:
    schedule = patient()
    assert tell(schedule, erred(0, 0, 0, transient()), 10.0) == ()
    assert schedule.pending() == ()
    assert [task.epoch for task in schedule.open_tasks()] == [0]
    assert tell(schedule, Tick(), 10.4) == ()
    again = tell(schedule, Tick(), 11.0)
    assert (sent(again), sent_to(again)) == ([(0, 0, 1)], ["b"])
    assert tell(schedule, Tick(), 12.0) == ()


def test_the_second_wait_is_longer() -> None:
    schedule = patient()
    tell(schedule, erred(0, 0, 0, transient()), 0.0)
    tell(schedule, Tick(), 1.0)
    tell(schedule, erred(0, 0, 1, transient(), node_id="b"), 1.0)
    assert tell(schedule, Tick(), 1.9) == ()
    assert sent(tell(schedule, Tick(), 3.0)) == [(0, 0, 2)]


def test_no_wait_goes_beyond_the_deadline() -> None:
    schedule = patient(deadline_s=10.1)
    tell(schedule, erred(0, 0, 0, transient()), 10.0)
    assert sent(tell(schedule, Tick(), 10.05)) == [(0, 0, 1)]


def test_a_commit_of_an_attempt_before_the_wait_ends_it() -> None:
    schedule = patient()
    tell(schedule, seen("b"))
    tell(schedule, erred(0, 0, 1, transient(), node_id="b"))
    assert tell(schedule, committed(0, 0, attempt=0)) == (RunRoot(),)
    assert tell(schedule, Tick(), 60.0) == ()


# -- more memory ------------------------------------------------------------------------------------------------------


def exhausted() -> ResourcesExhausted:
    return ResourcesExhausted("the bee's budget did not suffice")


def test_a_task_that_ran_out_of_memory_gets_twice_as_much_up_to_all_of_the_node() -> None:
    schedule = Schedule(QUERY, CHAIN, max_attempts=9)
    tell(schedule, Started())
    tell(schedule, seen("a", bees_total=6, idle_bees=6))
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 1, "a")))
    slots = []
    for attempt in range(4):
        (again,) = tell(schedule, erred(0, 0, attempt, exhausted()))
        assert isinstance(again, SendTasks)
        slots.append(again.tasks[0].slots)
    assert slots == [2, 4, 6, 6]


def test_it_goes_to_the_node_that_has_the_most() -> None:
    schedule = running(1)
    small = NodeSight(node_id="b", bees_total=8, idle_bees=8, memory_per_bee=1)
    large = NodeSight(node_id="a", bees_total=2, idle_bees=0, memory_per_bee=100)
    tell(schedule, NodesSeen(nodes=(small, large)))
    assert sent_to(tell(schedule, erred(0, 0, 0, exhausted()))) == ["a"]


# -- slow tasks -------------------------------------------------------------------------------------------------------


def slow() -> Schedule:
    """Return a schedule whose task 0, on node a, is late; three others took a second."""
    schedule = Schedule(QUERY, CHAIN, policy=Policy(factor=2.0, after_s=1.5))
    tell(schedule, Started())
    tell(schedule, seen("a", "b"))
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 4, "a")))
    for task in (1, 2, 3):
        tell(schedule, committed(0, task), 1.0)
    return schedule


def test_a_task_far_behind_its_siblings_gets_a_second_attempt_elsewhere_once() -> None:
    schedule = slow()
    assert tell(schedule, seen("a", "b"), 1.9) == ()
    extra = tell(schedule, seen("a", "b"), 2.1)
    assert (sent(extra), sent_to(extra)) == ([(0, 0, 1)], ["b"])
    assert tell(schedule, seen("a", "b"), 60.0) == ()
    assert [node_id for _, node_id in schedule.pending()] == ["a", "b"]


def test_there_is_no_second_attempt_where_two_failures_would_be_too_many() -> None:
    schedule = Schedule(QUERY, CHAIN, max_attempts=2)
    tell(schedule, Started())
    tell(schedule, seen("a", "b"))
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 1, "a")))
    silent = NodesSeen(nodes=(NodeSight(node_id="b", state=NodeState.SUSPECT, usable=False), NodeSight(node_id="c")))
    tell(schedule, erred(0, 0, 0, transient()))
    assert [node_id for _, node_id in schedule.pending()] == ["b"]
    assert tell(schedule, silent) == ()


def test_the_first_of_both_commits_and_the_other_is_stopped() -> None:
    schedule = slow()
    tell(schedule, seen("a", "b"), 3.0)
    stop = StopTasks(node_id="a", keys=(key(0, 0, 0),))
    assert tell(schedule, committed(0, 0, attempt=1), 3.5) == (stop, RunRoot())
    assert schedule.attempts(0, 0)[1].speculative


def test_a_failure_of_one_leaves_the_other_to_go_on() -> None:
    schedule = slow()
    tell(schedule, seen("a", "b"), 3.0)
    assert tell(schedule, erred(0, 0, 0, transient())) == ()
    assert [node_id for _, node_id in schedule.pending()] == ["b"]


def test_what_a_silent_node_has_is_tried_elsewhere_before_that_is_dead() -> None:
    schedule = running(1)
    nodes = (NodeSight(node_id="a", state=NodeState.SUSPECT, usable=False), NodeSight(node_id="b"))
    assert sent_to(tell(schedule, NodesSeen(nodes=nodes))) == ["b"]
    assert [node_id for _, node_id in schedule.pending()] == ["a", "b"]


# -- partials that are lost -------------------------------------------------------------------------------------------


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
    schedule = finishing()
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
