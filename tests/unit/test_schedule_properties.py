"""What holds of a schedule after any sequence of events, legal or not."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from plan.schedules import CHAIN, DIAMOND, LINE, OVER, QUERY, facts, key, lost, partial, spec, transient

from apiary_df.adapt.dependencies import ancestors
from apiary_df.errors import ApiaryError, ExecutionFailed, InternalError, ObjectDamaged, ResourcesExhausted
from apiary_df.model import ExchangeInput, NodeState, Segment, TaskKey, TaskSpec
from apiary_df.plan.stages import ExchangeLeaf, StageGraph
from apiary_df.schedule import (
    LOSSES_FOR_AN_ATTEMPT,
    AllNodesLost,
    Cancelled,
    Command,
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
    StopTasks,
    TaskCommitted,
    TaskErred,
    TaskForgotten,
    Tick,
    TimedOut,
)

NODES = ("a", "b", "c")
SEGMENT = Segment(partition=0, offset=0, length=1, rows=1, checksum="")


class World:
    """A schedule, what its commands have asked for, and nodes that answer as the test says."""

    def __init__(self, stages: StageGraph, max_attempts: int, seed: int) -> None:
        self.random = random.Random(seed)
        policy = Policy(factor=1.0, after_s=0.0)
        self.schedule = Schedule(QUERY, stages, max_attempts=max_attempts, retry_after_s=0.5, policy=policy)
        self.max_attempts = max_attempts
        self.now_s = 0.0
        self.to_plan: list[int] = []
        self.sent: dict[TaskKey, str] = {}
        self.stops = 0

    @property
    def graph(self) -> StageGraph:
        return self.schedule.graph

    def handle(self, event: Event) -> None:
        for command in self.schedule.handle(event, self.now_s):
            self._carry_out(command)
        self.check()

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, PlanStage):
            assert all(self.schedule.is_complete(read) for read in self.graph.stages[command.stage].inputs)
            held = self.schedule.held.get(command.stage)
            assert held is None or self.schedule.is_complete(held)
            self.to_plan.append(command.stage)
        elif isinstance(command, SendTasks):
            for task in command.tasks:
                of = key(task.spec.stage, task.spec.task, task.attempt)
                assert of not in self.sent, "an attempt is sent once"
                assert task.spec.node_id == command.node_id
                self.sent[of] = command.node_id
        elif isinstance(command, StopTasks):
            assert all(self.sent[of] == command.node_id for of in command.keys)
        elif isinstance(command, RunRoot):
            assert self.schedule.state is QueryState.FINISHING
        else:
            self.stops += 1

    def check(self) -> None:
        schedule = self.schedule
        assert self.stops == (schedule.state in OVER)
        for sent, attempts in schedule.all_attempts():
            outcomes = [attempt.outcome for attempt in attempts]
            assert outcomes.count(Outcome.FAILED) + outcomes.count(Outcome.UNDONE) <= self.max_attempts
            assert outcomes.count(Outcome.LOST) <= LOSSES_FOR_AN_ATTEMPT * self.max_attempts
            assert len({a.epoch for a in attempts if a.outcome is Outcome.COMMITTED}) == len(
                [a for a in attempts if a.outcome is Outcome.COMMITTED]
            ), "one attempt counts"
            counted = schedule.counted(sent.stage, sent.task)
            assert counted is None or attempts[counted].outcome is Outcome.COMMITTED
        for known in self.graph.stages[:-1]:
            for planned in schedule.specs(known.stage):
                assert read_by(planned) == self.made(known.inputs), "all was planned from what counts"
        for pending, node_id in schedule.pending():
            assert self.sent[pending] == node_id
            assert schedule.counted(pending.stage, pending.task) is None

    def made(self, stages: tuple[int, ...]) -> tuple[str, ...]:
        partials = self.schedule.partials()
        return tuple(ref.key for stage in stages for ref in partials[stage])

    def plan(self, nodes: list[str]) -> Event:
        """Plan the first stage that waits for it, a task a node, from what counts now; or change it, or let it wait."""
        stage = self.to_plan.pop(0)
        while not self.schedule.wants(stage):
            if not self.to_plan:
                return Tick()
            stage = self.to_plan.pop(0)
        if (other := self._another(stage)) is not None:
            return other
        refs = [ref for read in self.graph.stages[stage].inputs for ref in self.schedule.partials()[read]]
        segments = tuple(ref.segment_ref(SEGMENT) for ref in refs)
        inputs = (ExchangeInput(leaf=0, segments=segments),)
        return StagePlanned(
            stage=stage, specs=tuple(replace(spec(stage, n, node), exchanges=inputs) for n, node in enumerate(nodes))
        )

    def _another(self, stage: int) -> StageHeld | StageChanged | None:
        """Return that a stage that is to be planned waits for another, or reads one more, now and then."""
        others = [s.stage for s in self.graph.stages[:-1] if stage not in {s.stage, *ancestors(self.graph, s.stage)}]
        free = [s for s in others if stage not in ancestors(self.graph, s, self.schedule.held)]
        open_ = [s for s in free if not self.schedule.is_complete(s)]
        known = self.graph.stages[stage]
        unread = [s for s in others if self.schedule.is_complete(s) and s not in known.inputs]
        if open_ and self.random.random() < 0.2:
            return StageHeld(stage=stage, until=self.random.choice(open_))
        if unread and self.random.random() < 0.3:
            self.to_plan.insert(0, stage)
            read = ExchangeLeaf(stage=self.random.choice(unread), ordered=False)
            return StageChanged(stage=replace(known, leaves=(*known.leaves, read), version=known.version + 1))
        return None

    def some_partial(self, error: ApiaryError) -> ApiaryError:
        """Return an error that names a partial, if any counts."""
        counting = [
            key(sent.stage, sent.task, attempt)
            for sent, _ in self.schedule.all_attempts()
            if (attempt := self.schedule.counted(sent.stage, sent.task)) is not None
        ]
        return lost(self.random.choice(counting)) if counting else error

    def next_event(self) -> Event | None:
        """Make up an event that a coordinator could send now."""
        self.now_s += self.random.choice([0.0, 0.1, 1.0, 5.0])
        state = self.schedule.state
        kinds = [self._the_end] + [self._tick] * 5 + [self._seen] * 5
        if state is QueryState.RUNNING and self.to_plan:
            kinds += [self._planned] * 30
        if self.sent:
            kinds += [self._late_commit] * 2 + [self._error] * 3 + [self._input_lost] * 3
            kinds += [self._damaged, self._forgotten]
        if self.schedule.pending():
            kinds += [self._commit] * 20
        if state is QueryState.RUNNING and not self.schedule.open_tasks():
            kinds += [self._small]
        if self.schedule.is_stranded():
            kinds += [self._alone]
        if state is not QueryState.RUNNING:
            kinds += [self._finished] + [self._root_error] * 8
        return self.random.choice(kinds)()

    def _the_end(self) -> Event | None:
        # Kept rare: it ends the sequence.
        endings: tuple[Event | None, ...] = (Cancelled(), TimedOut(timeout_s=1.0), *[None] * 8)
        return self.random.choice(endings)

    def _tick(self) -> Event:
        return Tick()

    def _seen(self) -> Event:
        return NodesSeen(nodes=tuple(self._sight(node) for node in NODES if self.random.random() < 0.8))

    def _sight(self, node_id: str) -> NodeSight:
        state = self.random.choice([NodeState.ALIVE, NodeState.ALIVE, NodeState.ALIVE, NodeState.SUSPECT])
        bees = self.random.randint(0, 3)
        return NodeSight(
            node_id=node_id,
            incarnation=self.random.choice(["", "1", "1", "1", "2"]),
            state=state,
            usable=state is NodeState.ALIVE,
            bees_total=bees,
            idle_bees=self.random.randint(0, bees),
            memory_per_bee=self.random.randint(0, 2),
        )

    def _planned(self) -> Event:
        return self.plan(self.random.choices(NODES, k=self.random.randint(1, 3)))

    def _commit(self) -> Event:
        of, _ = self.random.choice(self.schedule.pending())
        return TaskCommitted(key=of, partial=partial(of))

    def _some_attempt(self) -> TaskKey:
        return self.random.choice(sorted(self.sent))

    def _late_commit(self) -> Event:
        of = self._some_attempt()
        return TaskCommitted(key=of, partial=partial(of))

    def _error(self) -> Event:
        of = self._some_attempt()
        errors = [transient()] * 6 + [ResourcesExhausted("no room")] * 2 + [ExecutionFailed("overflow")]
        return TaskErred(key=of, node_id=self.sent[of], error=self.random.choice(errors))

    def _input_lost(self) -> Event:
        of = self._some_attempt()
        return TaskErred(key=of, node_id=self.sent[of], error=self.some_partial(transient()))

    def _forgotten(self) -> Event:
        return TaskForgotten(key=self._some_attempt())

    def _damaged(self) -> Event | None:
        tasks = self.schedule.open_tasks()
        if tasks and self.random.random() < 0.8:
            task = self.random.choice(tasks)
            stage, number, epoch = task.stage, task.task, task.epoch - self.random.randint(0, 1)
        else:
            # Of a task that is committed, or was planned from what is lost since.
            of = self._some_attempt()
            stage, number, epoch = of.stage, of.task, self.random.randint(0, 1)
        return RecordDamaged(stage=stage, task=number, epoch=epoch, error=ObjectDamaged("cut off"))

    def _small(self) -> Event:
        return RestIsSmall()

    def _alone(self) -> Event:
        return AllNodesLost(can_finish=self.random.random() < 0.8)

    def _finished(self) -> Event:
        return RootFinished()

    def _root_error(self) -> Event:
        untouched = self.random.random() < 0.9
        return RootErred(error=self.some_partial(ExecutionFailed("overflow")), untouched=untouched)

    def live(self, events: int) -> None:
        """Start, and let so many things happen."""
        self.handle(Started())
        for _ in range(events):
            event = self.next_event()
            if event is not None:
                self.handle(event)


def read_by(planned: TaskSpec) -> tuple[str, ...]:
    return tuple(ref.key for exchange in planned.exchanges for ref in exchange.segments)


GRAPHS = st.sampled_from([CHAIN, DIAMOND, LINE])
SEEDS = st.integers(0, 2**32)
"""Hypothesis draws a seed a sequence: a draw for each choice in it takes a hundred times as long."""


@settings(max_examples=300, deadline=None)
@given(seed=SEEDS, stages=GRAPHS, max_attempts=st.integers(1, 6))
def test_any_sequence_of_events_keeps_the_promises(seed: int, stages: StageGraph, max_attempts: int) -> None:
    World(stages, max_attempts, seed).live(80)


ANY_EVENT = st.sampled_from(
    [
        Started(),
        RestIsSmall(),
        AllNodesLost(),
        RootFinished(),
        RootErred(error=ExecutionFailed("overflow")),
        StagePlanned(stage=0, specs=(spec(0, 0),)),
        StagePlanned(stage=2, specs=()),
        StageHeld(stage=0, until=1),
        StageChanged(stage=CHAIN.stages[0]),
        TaskCommitted(key=key(0, 0, 99), partial=partial(key(0, 0, 99))),
        TaskErred(key=key(2, 9), node_id="a", error=transient()),
        TaskForgotten(key=key(1, 0, 99)),
        RecordDamaged(stage=7, task=0, epoch=0, error=ObjectDamaged("cut off")),
    ]
)


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS, stages=GRAPHS, events=st.integers(0, 40), wrong=ANY_EVENT)
def test_an_event_that_raises_has_changed_nothing(seed: int, stages: StageGraph, events: int, wrong: Event) -> None:
    world = World(stages, 3, seed)
    world.live(events)
    before = repr(facts(world.schedule))
    try:
        world.schedule.handle(wrong, world.now_s)
    except InternalError:
        assert repr(facts(world.schedule)) == before


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS, stages=GRAPHS, events=st.integers(0, 40))
def test_a_query_whose_nodes_answer_ends_whatever_happened_before(seed: int, stages: StageGraph, events: int) -> None:
    world = World(stages, 50, seed)
    world.live(events)
    for _ in range(100):
        if world.schedule.state is not QueryState.RUNNING:
            break
        world.now_s += 60.0
        world.handle(NodesSeen(nodes=tuple(NodeSight(node_id=node) for node in NODES)))
        world.handle(Tick())
        if world.to_plan:
            world.handle(world.plan(["a", "b"]))
        for of, _ in world.schedule.pending():
            world.handle(TaskCommitted(key=of, partial=partial(of)))
    if world.schedule.state is QueryState.FINISHING:
        world.handle(RootFinished())
    assert world.stops == 1
