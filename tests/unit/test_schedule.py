"""The schedule as a table of transitions, and what holds after any sequence of events."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiary_df.errors import (
    ApiaryError,
    ExecutionFailed,
    FunctionsRefused,
    InternalError,
    QueryCancelled,
    QueryTimeout,
    StorageTransient,
    TaskFailed,
)
from apiary_df.model import PartialRef, ScanFile, ScanInput, TaskKey, TaskSpec
from apiary_df.plan.stages import ExchangeLeaf, Stage, StageGraph
from apiary_df.plan.tree import PlanNode
from apiary_df.schedule import (
    TRANSITIONS,
    Cancelled,
    Command,
    Event,
    NodeLost,
    PlanStage,
    QueryState,
    RestIsSmall,
    RootErred,
    RootFinished,
    RunRoot,
    Schedule,
    SendTasks,
    StagePlanned,
    Started,
    Stop,
    TaskCommitted,
    TaskErred,
    TimedOut,
)

QUERY = "q"
OVER = (QueryState.DONE, QueryState.FAILED, QueryState.CANCELLED)


def graph(*inputs: Sequence[int]) -> StageGraph:
    """Return stages that read the given others; the last is the root."""
    return StageGraph(
        stages=tuple(
            Stage(
                stage=number,
                fragment=PlanNode("placeholder_row", b""),
                output="result" if number == len(inputs) - 1 else "hash",
                partitions=1,
                leaves=tuple(ExchangeLeaf(stage=stage, ordered=False) for stage in read),
                variants=(),
                unions=0,
                schema=None,
            )
            for number, read in enumerate(inputs)
        )
    )


CHAIN = graph((), (0,))
DIAMOND = graph((), (), (0, 1), (2, 1))


def spec(stage: int, task: int, node_id: str = "a") -> TaskSpec:
    cell = ScanInput(leaf=0, files=(ScanFile(path=f"data/{task}.parquet", size_bytes=1),))
    return TaskSpec(stage=stage, task=task, node_id=node_id, output_partitions=1, scans=(cell,))


def specs(stage: int, count: int, nodes: Sequence[str] = "ab") -> tuple[TaskSpec, ...]:
    return tuple(spec(stage, task, nodes[task % len(nodes)]) for task in range(count))


def key(stage: int, task: int, attempt: int = 0) -> TaskKey:
    return TaskKey(query_id=QUERY, stage=stage, task=task, attempt=attempt)


def partial(of: TaskKey) -> PartialRef:
    return PartialRef(key=str(of), length=1, footer_offset=0, footer_checksum="", segments=())


def committed(stage: int, task: int, attempt: int = 0) -> TaskCommitted:
    of = key(stage, task, attempt)
    return TaskCommitted(key=of, partial=partial(of))


def transient() -> StorageTransient:
    return StorageTransient("put _queries/q: 503; retried")


def running(tasks: int = 2, *, max_attempts: int = 4) -> Schedule:
    """Return a schedule whose only stage is planned and sent."""
    schedule = Schedule(QUERY, CHAIN, max_attempts=max_attempts)
    schedule.handle(Started())
    schedule.handle(StagePlanned(stage=0, specs=specs(0, tasks)))
    return schedule


def finishing() -> Schedule:
    schedule = running(1)
    schedule.handle(committed(0, 0))
    return schedule


def ended(event: Event) -> Schedule:
    schedule = finishing()
    schedule.handle(event)
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
    NodeLost(node_id="a", survivors=("b",)),
    RestIsSmall(),
    RootFinished(),
    RootErred(error=ExecutionFailed("overflow")),
    TimedOut(timeout_s=1.0),
    Cancelled(),
)


def facts(schedule: Schedule) -> object:
    """Return all that can be asked of a schedule."""
    return (
        schedule.state,
        schedule.partials(),
        schedule.pending(),
        [schedule.specs(stage) for stage in range(4)],
        [[schedule.attempts(s, t.task) for t in schedule.specs(s)] for s in range(4)],
    )


# -- the table ----------------------------------------------------------------------------------------------------


def test_every_state_has_its_row() -> None:
    assert set(TRANSITIONS) == set(QueryState) == set(IN_STATE)
    assert all(schedule().state is state for state, schedule in IN_STATE.items())


def test_every_method_of_the_table_exists() -> None:
    for row in TRANSITIONS.values():
        assert all(callable(getattr(Schedule, method)) for method in row.values())


ILLEGAL = [(state, event) for state in QueryState for event in EVENTS if type(event) not in TRANSITIONS[state]]


@pytest.mark.parametrize(
    ("state", "event"), ILLEGAL, ids=[f"{state.value}-{type(event).__name__}" for state, event in ILLEGAL]
)
def test_an_illegal_event_raises_and_changes_nothing(state: QueryState, event: Event) -> None:
    schedule = IN_STATE[state]()
    before = facts(schedule)
    with pytest.raises(InternalError, match=f"{type(event).__name__} is illegal in state {state.value}"):
        schedule.handle(event)
    assert facts(schedule) == before


@pytest.mark.parametrize("state", OVER)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_late_news_of_a_query_that_is_over_changes_nothing(state: QueryState, event: Event) -> None:
    if type(event) not in TRANSITIONS[state]:
        return
    schedule = IN_STATE[state]()
    before = facts(schedule)
    assert schedule.handle(event) == ()
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
        schedule.handle(event)
    assert facts(schedule) == before


def test_a_stage_without_a_task_is_a_defect() -> None:
    schedule = Schedule(QUERY, CHAIN)
    schedule.handle(Started())
    with pytest.raises(InternalError, match="without a task"):
        schedule.handle(StagePlanned(stage=0, specs=()))
    assert schedule.specs(0) == ()


# -- the way of a query ----------------------------------------------------------------------------------------------


def test_a_query_without_inputs_runs_its_root_at_once() -> None:
    assert Schedule(QUERY, graph(())).handle(Started()) == (RunRoot(),)


def test_stages_are_planned_as_soon_as_their_inputs_are_complete() -> None:
    schedule = Schedule(QUERY, DIAMOND)
    assert schedule.handle(Started()) == (PlanStage(stage=0), PlanStage(stage=1))
    schedule.handle(StagePlanned(stage=0, specs=specs(0, 2)))
    schedule.handle(StagePlanned(stage=1, specs=specs(1, 1)))
    assert schedule.handle(committed(0, 0)) == ()
    assert schedule.handle(committed(1, 0)) == ()
    assert schedule.handle(committed(0, 1)) == (PlanStage(stage=2),)
    schedule.handle(StagePlanned(stage=2, specs=specs(2, 1)))
    assert schedule.handle(committed(2, 0)) == (RunRoot(),)
    assert schedule.handle(RootFinished()) == (Stop(error=None),)


def test_tasks_go_to_their_nodes_in_one_command_each() -> None:
    schedule = Schedule(QUERY, CHAIN)
    schedule.handle(Started())
    sent = schedule.handle(StagePlanned(stage=0, specs=specs(0, 3)))
    assert sent == (
        SendTasks(node_id="a", tasks=((spec(0, 0, "a"), 0), (spec(0, 2, "a"), 0))),
        SendTasks(node_id="b", tasks=((spec(0, 1, "b"), 0),)),
    )


def test_the_rest_can_run_here_once_nothing_is_pending() -> None:
    schedule = Schedule(QUERY, DIAMOND)
    schedule.handle(Started())
    schedule.handle(StagePlanned(stage=0, specs=specs(0, 1)))
    schedule.handle(committed(0, 0))
    assert schedule.handle(RestIsSmall()) == (RunRoot(),)
    assert set(schedule.partials()) == {0}


def test_the_first_commit_of_a_task_counts_and_later_ones_do_not() -> None:
    schedule = running(2)
    schedule.handle(TaskErred(key=key(0, 0), node_id="a", error=transient()))
    schedule.handle(committed(0, 0, attempt=0))
    assert schedule.handle(committed(0, 0, attempt=1)) == ()
    schedule.handle(committed(0, 1))
    assert [ref.key for ref in schedule.partials()[0]] == [str(key(0, 0, 0)), str(key(0, 1, 0))]


def test_a_retryable_error_is_tried_again() -> None:
    schedule = running(1)
    again = schedule.handle(TaskErred(key=key(0, 0), node_id="a", error=transient()))
    assert again == (SendTasks(node_id="a", tasks=((spec(0, 0), 1),)),)
    assert schedule.pending() == ((key(0, 0, 1), "a"),)


def refused() -> FunctionsRefused:
    return FunctionsRefused("not here")


def test_what_may_succeed_elsewhere_goes_to_each_other_node_once() -> None:
    schedule = running(1)
    nodes = ("a", "b", "c")
    (again,) = schedule.handle(TaskErred(key=key(0, 0, 0), node_id="a", error=refused(), alternatives=nodes))
    assert isinstance(again, SendTasks)
    assert again.node_id == "b"
    (again,) = schedule.handle(TaskErred(key=key(0, 0, 1), node_id="b", error=refused(), alternatives=nodes))
    assert isinstance(again, SendTasks)
    assert again.node_id == "c"
    (stop,) = schedule.handle(TaskErred(key=key(0, 0, 2), node_id="c", error=refused(), alternatives=nodes))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, TaskFailed)
    assert stop.error.details["cause"] == "functions_refused"


def test_what_may_succeed_elsewhere_is_not_tried_again_where_there_is_no_other_node() -> None:
    schedule = running(1)
    (stop,) = schedule.handle(TaskErred(key=key(0, 0), node_id="a", error=refused(), alternatives=("a",)))
    assert isinstance(stop, Stop)


def test_a_node_that_refused_a_task_is_not_given_it_back_after_another_error() -> None:
    schedule = running(1)
    schedule.handle(TaskErred(key=key(0, 0, 0), node_id="a", error=refused(), alternatives=("a", "b")))
    (again,) = schedule.handle(TaskErred(key=key(0, 0, 1), node_id="b", error=transient(), alternatives=("a", "b")))
    assert isinstance(again, SendTasks)
    assert again.node_id == "b"


def test_the_same_error_reported_twice_is_one_error() -> None:
    schedule = running(1)
    event = TaskErred(key=key(0, 0), node_id="a", error=transient())
    schedule.handle(event)
    assert schedule.handle(event) == ()


def test_an_error_of_the_data_ends_the_query_with_task_node_and_cells() -> None:
    schedule = running(2)
    cause = ExecutionFailed("divide by zero")
    (stop,) = schedule.handle(TaskErred(key=key(0, 1), node_id="b", error=cause))
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
    schedule.handle(TaskErred(key=key(0, 0, 0), node_id="a", error=transient()))
    (stop,) = schedule.handle(TaskErred(key=key(0, 0, 1), node_id="a", error=transient()))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, TaskFailed)
    assert "after 2 attempts" in stop.error.message


def test_a_lost_node_loses_its_uncommitted_tasks_only() -> None:
    schedule = running(3)
    schedule.handle(committed(0, 0))
    sent = schedule.handle(NodeLost(node_id="a", survivors=("b",)))
    assert [(c.node_id, [(s.task, attempt) for s, attempt in c.tasks]) for c in sent if isinstance(c, SendTasks)] == [
        ("b", [(2, 1)])
    ]
    assert schedule.handle(NodeLost(node_id="a", survivors=("b",))) == ()


def test_a_lost_nodes_tasks_are_spread_over_the_survivors() -> None:
    schedule = Schedule(QUERY, CHAIN)
    schedule.handle(Started())
    schedule.handle(StagePlanned(stage=0, specs=specs(0, 4, "a")))
    sent = schedule.handle(NodeLost(node_id="a", survivors=("a", "b", "c")))
    assert [(c.node_id, len(c.tasks)) for c in sent if isinstance(c, SendTasks)] == [("b", 2), ("c", 2)]


def test_a_node_that_came_back_can_be_lost_again() -> None:
    schedule = running(1)
    schedule.handle(NodeLost(node_id="a", survivors=("b",)))
    schedule.handle(NodeLost(node_id="b", survivors=("a",)))
    sent = schedule.handle(NodeLost(node_id="a", survivors=("c",)))
    assert [c.node_id for c in sent if isinstance(c, SendTasks)] == ["c"]


def test_a_late_commit_of_a_lost_node_counts() -> None:
    schedule = running(1)
    schedule.handle(NodeLost(node_id="a", survivors=("b",)))
    assert schedule.handle(committed(0, 0, attempt=0)) == (RunRoot(),)


def test_without_survivors_the_query_ends() -> None:
    schedule = running(1)
    (stop,) = schedule.handle(NodeLost(node_id="a", survivors=("a",)))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, TaskFailed)
    assert stop.error.details["node"] == "a"


def test_a_timeout_says_how_far_the_query_came() -> None:
    schedule = running(2)
    schedule.handle(committed(0, 0))
    (stop,) = schedule.handle(TimedOut(timeout_s=2.5))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, QueryTimeout)
    assert "timeout_s=2.5" in stop.error.message
    assert "1 of 2" in stop.error.message


def test_a_cancelled_query_says_so() -> None:
    (stop,) = running().handle(Cancelled())
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, QueryCancelled)


# -- any sequence of events --------------------------------------------------------------------------------------------

NODES = ("a", "b", "c")


class Run:
    """A schedule, and what its commands have asked for so far."""

    def __init__(self, stages: StageGraph, max_attempts: int) -> None:
        self.schedule = Schedule(QUERY, stages, max_attempts=max_attempts)
        self.graph = stages
        self.max_attempts = max_attempts
        self.to_plan: list[int] = []
        self.sent: dict[TaskKey, str] = {}
        self.commits: dict[tuple[int, int], TaskKey] = {}
        self.roots = self.stops = 0

    def handle(self, event: Event) -> None:
        before = set(self.commits)
        if isinstance(event, TaskCommitted) and self.schedule.state is QueryState.RUNNING:
            self.commits.setdefault((event.key.stage, event.key.task), event.key)
        commands = self.schedule.handle(event)
        for command in commands:
            self._carry_out(command)
        if isinstance(event, NodeLost):
            for command in commands:
                if isinstance(command, SendTasks):
                    assert command.node_id in set(event.survivors) - {event.node_id}
                    assert all((s.stage, s.task) not in before for s, _ in command.tasks)
        self.check()

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, PlanStage):
            stage = self.graph.stages[command.stage]
            assert all(self.schedule.is_complete(read) for read in stage.inputs)
            assert command.stage not in self.to_plan
            assert self.schedule.specs(command.stage) == ()
            self.to_plan.append(command.stage)
        elif isinstance(command, SendTasks):
            for sent, attempt in command.tasks:
                of = key(sent.stage, sent.task, attempt)
                assert of not in self.sent, "an attempt is sent once"
                assert (sent.stage, sent.task) not in self.commits, "what is committed is not sent again"
                assert attempt < self.max_attempts
                self.sent[of] = command.node_id
        elif isinstance(command, RunRoot):
            self.roots += 1
            assert self.schedule.state is QueryState.FINISHING
        else:
            self.stops += 1

    def check(self) -> None:
        assert self.stops == (self.schedule.state in OVER)
        assert self.roots <= 1
        assert (self.schedule.state is QueryState.FINISHING) <= (self.roots == 1)
        for (stage, task), of in self.commits.items():
            assert [a.outcome for a in self.schedule.attempts(stage, task)].count("committed") == 1
            if self.schedule.is_complete(stage):
                assert self.schedule.partials()[stage][task] == partial(of)
        for pending, node_id in self.schedule.pending():
            assert self.sent[pending] == node_id
            assert (pending.stage, pending.task) not in self.commits

    def next_event(self, data: st.DataObject) -> Event | None:
        """Draw an event that a coordinator could send now."""
        kinds = ["cancel", "timeout", "lost"]
        if self.schedule.state is QueryState.RUNNING and self.to_plan:
            kinds += ["plan"] * 4
        if self.sent:
            kinds += ["commit"] * 6 + ["err"] * 3
        if self.schedule.state is QueryState.RUNNING and not self.schedule.pending():
            kinds += ["small"]
        if self.schedule.state not in {QueryState.RUNNING}:
            kinds += ["finish", "root-err"]
        kind = data.draw(st.sampled_from(kinds))
        if kind == "plan":
            stage = self.to_plan.pop(0)
            nodes = data.draw(st.lists(st.sampled_from(NODES), min_size=1, max_size=4))
            return StagePlanned(stage=stage, specs=specs(stage, len(nodes), nodes))
        if kind in {"commit", "err"}:
            of = data.draw(st.sampled_from(sorted(self.sent)))
            error: ApiaryError = transient() if data.draw(st.integers(0, 9)) else ExecutionFailed("overflow")
            if kind == "commit":
                return TaskCommitted(key=of, partial=partial(of))
            return TaskErred(key=of, node_id=self.sent[of], error=error)
        if kind == "lost":
            survivors = data.draw(st.lists(st.sampled_from(NODES), unique=True))
            return NodeLost(node_id=data.draw(st.sampled_from(NODES)), survivors=tuple(survivors))
        if kind == "small":
            return RestIsSmall()
        if kind == "finish":
            return RootFinished()
        if kind == "root-err":
            return RootErred(error=ExecutionFailed("overflow"))
        # Kept rare: they end the sequence.
        if data.draw(st.integers(0, 5)):
            return None
        return Cancelled() if kind == "cancel" else TimedOut(timeout_s=1.0)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), stages=st.sampled_from([CHAIN, DIAMOND]), max_attempts=st.integers(1, 4))
def test_any_sequence_of_events_keeps_the_promises(data: st.DataObject, stages: StageGraph, max_attempts: int) -> None:
    run = Run(stages, max_attempts)
    run.handle(Started())
    for _ in range(data.draw(st.integers(0, 40))):
        event = run.next_event(data)
        if event is not None:
            run.handle(event)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), stages=st.sampled_from([CHAIN, DIAMOND]))
def test_a_query_whose_nodes_answer_ends_whatever_happened_before(data: st.DataObject, stages: StageGraph) -> None:
    run = Run(stages, max_attempts=50)
    run.handle(Started())
    for _ in range(data.draw(st.integers(0, 15))):
        event = run.next_event(data)
        if event is not None:
            run.handle(event)
    for _ in range(100):
        if run.schedule.state is not QueryState.RUNNING:
            break
        if run.to_plan:
            stage = run.to_plan.pop(0)
            run.handle(StagePlanned(stage=stage, specs=specs(stage, 2)))
        for of, _ in run.schedule.pending():
            run.handle(TaskCommitted(key=of, partial=partial(of)))
    if run.schedule.state is QueryState.FINISHING:
        run.handle(RootFinished())
    assert run.stops == 1
