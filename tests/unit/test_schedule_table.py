"""The schedule as a table of transitions: what is legal when, and that nothing else has any effect."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from plan.schedules import (
    CHAIN,
    OVER,
    QUERY,
    committed,
    facts,
    key,
    running,
    seen,
    spec,
    tell,
    transient,
)

from apiary_df.errors import (
    ExecutionFailed,
    InternalError,
    ObjectDamaged,
)
from apiary_df.model import TaskKey
from apiary_df.schedule import (
    TRANSITIONS,
    AllNodesLost,
    Cancelled,
    Event,
    QueryState,
    RecordDamaged,
    RestIsSmall,
    RootErred,
    RootFinished,
    Schedule,
    StagePlanned,
    Started,
    TaskErred,
    TaskForgotten,
    Tick,
    TimedOut,
)


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
