"""The schedule of one query: a pure state machine from events to commands.

The table :data:`~apiary_df.schedule.table.TRANSITIONS` says which events are legal in which state, and where each may
lead; one that is not legal raises and changes nothing. The machine knows no clock, store or node: the coordinator turns
what it sees into events, each with the time, and carries the commands out.

What holds at any time: every task that is sent or committed was planned from partials that count now. So when a partial
is lost, the task that made it is done again, and so is everything that was planned from it, whether or not
it had been read already: what is made again may hold other rows, or the same ones elsewhere.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace

from apiary_df.adapt.dependencies import ancestors
from apiary_df.errors import ApiaryError, InternalError, NoAliveNodes, PartialLost, QueryCancelled
from apiary_df.model import NodeState, PartialRef, TaskKey, TaskSpec
from apiary_df.plan.stages import StageGraph
from apiary_df.schedule.attempts import Attempt, OpenTask, Outcome, Task, task_failed, timed_out, why_again
from apiary_df.schedule.backoff import wait_s
from apiary_df.schedule.events import (
    AllNodesLost,
    Cancelled,
    Command,
    Dispatch,
    EnoughRows,
    Event,
    HandedOver,
    NodeSight,
    NodesSeen,
    PlanStage,
    RecordDamaged,
    RestIsSmall,
    RootErred,
    RootFinished,
    RunRoot,
    SendTasks,
    StageChanged,
    StageHeld,
    StagePlanned,
    Started,
    Stop,
    StopTasks,
    TaskCommitted,
    TaskErred,
    TaskForgotten,
    Tick,
    TimedOut,
)
from apiary_df.schedule.handing import Handing, lost_after_rows
from apiary_df.schedule.placing import choose_node
from apiary_df.schedule.planned import PlannedTasks
from apiary_df.schedule.speculation import Course, Policy, slow_tasks
from apiary_df.schedule.table import TRANSITIONS, QueryState

MAX_ATTEMPTS = 4
"""Tries that a task gets before the query fails: enough for a bad node and an unlucky one, few enough to end."""


class Schedule:
    """The state of one query.

    Args:
        query_id: The query, for keys and messages.
        graph: Its stages.
        max_attempts: Tries that a task gets.
        retry_after_s: Longest wait before a task's second attempt, in seconds; later ones wait longer.
        policy: When a slow task gets a second attempt.
        hand_over: Stage whose tasks' rows go to the user as each commits, whatever the others do; None: the root runs
            when all of its input is made.
    """

    def __init__(
        self,
        query_id: str,
        graph: StageGraph,
        *,
        max_attempts: int = MAX_ATTEMPTS,
        retry_after_s: float = 0.0,
        policy: Policy | None = None,
        hand_over: int | None = None,
    ) -> None:
        self.query_id = query_id
        self.state = QueryState.RUNNING
        self._graph = graph
        self._max_attempts = max_attempts
        self._retry_after_s = retry_after_s
        self._policy = policy or Policy()
        self._handing = None if hand_over is None else Handing(hand_over)
        self._deadline_s: float | None = None
        self._tasks = PlannedTasks()
        self._asked: set[int] = set()
        self._held: dict[int, int] = {}
        self._nodes: dict[str, NodeSight] | None = None
        self._given: dict[str, int] = {}

    def handle(self, event: Event, now_s: float) -> tuple[Command, ...]:
        """Take one event.

        Args:
            event: What has happened.
            now_s: The coordinator's monotonic clock.

        Returns:
            What to do about it, in order.

        Raises:
            InternalError: If the event is illegal in this state; nothing has changed then.
        """
        before = self.state
        answer = TRANSITIONS[before].get(type(event))
        if answer is None:
            raise InternalError(
                f"query {self.query_id}: event {type(event).__name__} is illegal in state {before.value}"
            )
        commands: tuple[Command, ...] = getattr(self, answer.method)(event, now_s)
        if self.state not in answer.to:
            raise InternalError(
                f"query {self.query_id}: event {type(event).__name__} led from {before.value} to {self.state.value}"
            )
        return commands

    # -- what others may ask ------------------------------------------------------------------------------------------

    def partials(self) -> dict[int, tuple[PartialRef, ...]]:
        """Return the committed partials of every complete stage, in task order."""
        return self._tasks.partials()

    def is_complete(self, stage: int) -> bool:
        """Whether a stage is planned and all of its tasks are committed."""
        return self._tasks.is_complete(stage)

    def wants(self, stage: int) -> bool:
        """Whether a stage is to be planned now: not if the query has ended since that was asked for."""
        return self.state is QueryState.RUNNING and stage in self._asked and stage not in self._tasks

    def open_tasks(self) -> tuple[OpenTask, ...]:
        """Return the tasks that were sent and are not committed."""
        return tuple(
            OpenTask(
                stage=task.spec.stage,
                task=task.spec.task,
                epoch=task.epoch,
                attempts=len(task.attempts),
                running=tuple((number, task.attempts[number].node_id) for number in task.running),
            )
            for task in self._tasks.open()
            if task.attempts
        )

    def pending(self) -> tuple[tuple[TaskKey, str], ...]:
        """Return the attempts that may still end by themselves, each with its node."""
        return tuple(
            (task.key(self.query_id, number), task.attempts[number].node_id)
            for task in self._tasks.open()
            for number in task.running
        )

    def underway(self) -> tuple[tuple[str, int], ...]:
        """Return, of the attempts that may still end by themselves, their nodes and the bytes that they read."""
        open_tasks = self._tasks.open()
        return tuple((task.attempts[n].node_id, task.spec.input_bytes) for task in open_tasks for n in task.running)

    def is_alone(self) -> bool:
        """Whether no node is left that could take a task now, nor one that may come back."""
        return not any(
            node.usable or node.state is NodeState.SUSPECT for node in (self._nodes or {}).values() if node.bees_total
        )

    def is_stranded(self) -> bool:
        """Whether tasks are open that no node works on, and no node is left to take them."""
        if self.state is not QueryState.RUNNING or self._nodes is None or not self.is_alone():
            return False
        tasks = [task for task in self._tasks.open() if not self._in_session(task)]
        return bool(tasks) and not any(task.running for task in tasks)

    @property
    def graph(self) -> StageGraph:
        """The stages as they are run, changes among them."""
        return self._graph

    @property
    def held(self) -> Mapping[int, int]:
        """Stages that wait for another one, which is no input of theirs, with which."""
        return self._held

    def specs(self, stage: int) -> tuple[TaskSpec, ...]:
        """Return the tasks of a stage as planned; none if it is not planned yet."""
        return tuple(task.spec for task in self._tasks.of(stage))

    def next_to_hand_over(self) -> TaskSpec | None:
        """Return the task whose rows are to be handed over now; None if there is none, or the root needs all of them.

        Those that are committed come first; once no node is left, the others, which the session does itself.
        """
        if self._handing is None:
            return None
        tasks = self._tasks.of(self._handing.stage)
        task = self._handing.next(tasks)
        if task is None and self._is_left_alone():
            task = next((task for task in tasks if task.is_open), None)
        return None if task is None else task.spec

    def committed_partial(self, stage: int, task: int) -> PartialRef | None:
        """Return the partial of a task that counts; None if there is none."""
        found = self._tasks.get(stage, task)
        return None if found is None else found.partial

    def has_handed_over(self) -> bool:
        """Whether rows of any task went to the user ahead of the others'."""
        return self._handing is not None and self._handing.begun

    def attempts(self, stage: int, task: int) -> tuple[Attempt, ...]:
        """Return all attempts at a task so far."""
        found = self._tasks.known(stage, task)
        return () if found is None else tuple(found.attempts)

    def all_attempts(self) -> tuple[tuple[TaskSpec, tuple[Attempt, ...]], ...]:
        """Return all tasks as they were sent last, each with its attempts so far, by stage and task."""
        return self._tasks.all_attempts()

    def counted(self, stage: int, task: int) -> int | None:
        """Return the attempt at a task that counts; None if there is none."""
        found = self._tasks.get(stage, task)
        return None if found is None else found.counted

    def progress(self) -> tuple[int, int]:
        """Return how many tasks are committed, and how many are known so far."""
        return self._tasks.progress()

    # -- stages -------------------------------------------------------------------------------------------------------

    def _on_started(self, event: Started, _now_s: float) -> tuple[Command, ...]:
        self._deadline_s = event.deadline_s
        return self._ready_stages()

    def _ready_stages(self) -> tuple[Command, ...]:
        root = self._graph.root
        if all(self.is_complete(stage) for stage in root.inputs):
            self.state = QueryState.FINISHING
            return (RunRoot(),)
        commands: list[Command] = []
        for stage in self._graph.stages[:-1]:
            if stage.stage in self._asked or stage.is_left_out or not all(self.is_complete(s) for s in stage.inputs):
                continue
            if not self._waits(stage.stage):
                self._asked.add(stage.stage)
                commands.append(PlanStage(stage=stage.stage))
        return tuple(commands)

    def _waits(self, stage: int) -> bool:
        until = self._held.get(stage)
        return until is not None and not self.is_complete(until) and not self._graph.stages[until].is_left_out

    def _on_stage_planned(self, event: StagePlanned, now_s: float) -> tuple[Command, ...]:
        if not self.wants(event.stage):
            raise InternalError(f"query {self.query_id}: stage {event.stage} was not to be planned now")
        if not event.specs:
            raise InternalError(f"query {self.query_id}: stage {event.stage} was planned without a task")
        self._held.pop(event.stage, None)
        planned = self._tasks.plan(event.stage, event.specs)
        return self._sent([self._begin(task, task.spec.node_id, now_s) for task in planned])

    def _on_stage_held(self, event: StageHeld, _now_s: float) -> tuple[Command, ...]:
        if not self.wants(event.stage) or event.stage in ancestors(self._graph, event.until, self._held):
            raise InternalError(f"query {self.query_id}: stage {event.stage} cannot wait for stage {event.until}")
        self._asked.discard(event.stage)
        self._held[event.stage] = event.until
        return self._ready_stages()

    def _on_stage_changed(self, event: StageChanged, _now_s: float) -> tuple[Command, ...]:
        number = event.stage.stage
        if event.stage.is_left_out and any(number in stage.inputs for stage in self._graph.stages):
            raise InternalError(f"query {self.query_id}: stage {number} cannot be left out, since others read it")
        if number in self._tasks or not all(self.is_complete(stage) for stage in event.stage.inputs):
            raise InternalError(f"query {self.query_id}: stage {number} cannot be changed any more, or not yet")
        self._graph = self._graph.with_stage(event.stage)
        if event.stage.is_left_out:
            self._asked.discard(number)
            self._held.pop(number, None)
        return self._ready_stages()

    def _in_session(self, task: Task) -> bool:
        return self._graph.stages[task.spec.stage].in_session

    # -- attempts -----------------------------------------------------------------------------------------------------

    def _begin(self, task: Task, node_id: str, now_s: float, *, speculative: str = "") -> tuple[str, Dispatch]:
        """Note a new attempt, beside another if that has a reason, and return its node and what to send there."""
        node = (self._nodes or {}).get(node_id)
        slots = task.slots if node is None else max(1, min(task.slots, node.bees_total))
        attempt = Attempt(
            node_id=node_id,
            incarnation="" if node is None else node.incarnation,
            epoch=task.epoch,
            slots=slots,
            speculative=bool(speculative),
            sent_s=now_s,
        )
        number = task.begin(attempt)
        task.due_s = None
        self._given[node_id] = self._given.get(node_id, 0) + 1
        spec = replace(task.spec, node_id=node_id, why=speculative or task.spec.why)
        return node_id, Dispatch(spec=spec, attempt=number, epoch=task.epoch, slots=slots)

    def _sent(self, begun: Iterable[tuple[str, Dispatch]]) -> tuple[Command, ...]:
        by_node: dict[str, list[Dispatch]] = {}
        for node_id, dispatch in begun:
            by_node.setdefault(node_id, []).append(dispatch)
        return tuple(SendTasks(node_id=node_id, tasks=tuple(tasks)) for node_id, tasks in by_node.items())

    def _send_due(self, now_s: float) -> tuple[Command, ...]:
        """Send what waited long enough; what no node can take goes on waiting."""
        begun: list[tuple[str, Dispatch]] = []
        for task in self._tasks.open():
            if task.due_s is None or task.due_s > now_s:
                continue
            if self._in_session(task) or self._nodes is None:
                begun.append(self._begin(task, task.spec.node_id, now_s))
                continue
            node = self._place(task, self._nodes.values())
            if node is not None:
                task.spec = replace(task.spec, node_id=node.node_id, why=why_again(task))
                begun.append(self._begin(task, node.node_id, now_s))
            elif any(seen.usable and seen.bees_total for seen in self._nodes.values()):
                last = task.attempts[-1]
                return self._give_up(task, last.node_id, last.error)
        return self._sent(begun)

    def _place(self, task: Task, nodes: Iterable[NodeSight]) -> NodeSight | None:
        failed = {a.node_id for a in task.attempts if a.outcome in {Outcome.FAILED, Outcome.LOST}}
        refused = {a.node_id for a in task.attempts if a.error is not None and a.error.elsewhere}
        return choose_node(nodes, avoided=failed, refused=refused, given=self._given, slots=task.slots)

    def _again(self, task: Task, due_s: float) -> tuple[Command, ...]:
        """Let a task be tried again, or give it up if it failed, or was lost, too often."""
        if task.is_spent(self._max_attempts):
            last = task.attempts[-1]
            return self._give_up(task, last.node_id, last.error)
        task.due_s = due_s
        return ()

    def _give_up(self, task: Task, node_id: str, cause: ApiaryError | None) -> tuple[Command, ...]:
        cause = cause or NoAliveNodes(f"no node was left for task {task.spec.stage}.{task.spec.task}")
        return self._fail(task_failed(self.query_id, task, node_id, cause))

    def _current(self, key: TaskKey) -> Task | None:
        """Return the task that news of an attempt is about; None if the attempt is of no concern any more.

        Raises:
            InternalError: If there was no such attempt.
        """
        task = self._tasks.known(key.stage, key.task)
        if key.query_id != self.query_id or task is None or key.attempt >= len(task.attempts):
            raise InternalError(f"query {self.query_id}: news of {key}, which was never sent")
        if not self._tasks.is_planned(task) or not task.is_open or task.attempts[key.attempt].epoch != task.epoch:
            return None
        return task

    def _on_task_committed(self, event: TaskCommitted, now_s: float) -> tuple[Command, ...]:
        task = self._current(event.key)
        if task is None:
            return ()
        self._tasks.commit(task, event.key.attempt, event.partial, now_s)
        if self._handing is not None and self._handing.stage == event.key.stage:
            self._handing.committed(task)
        stops = self._superseded([task], now_s)
        return (*stops, *self._ready_stages()) if self.is_complete(event.key.stage) else stops

    def _superseded(self, tasks: Sequence[Task], now_s: float) -> tuple[Command, ...]:
        """Give up all attempts at some tasks that still run."""
        by_node: dict[str, list[TaskKey]] = {}
        for task in tasks:
            for number in task.running:
                by_node.setdefault(task.attempts[number].node_id, []).append(task.key(self.query_id, number))
                task.end(number, Outcome.SUPERSEDED, now_s)
        return tuple(StopTasks(node_id=node_id, keys=tuple(keys)) for node_id, keys in by_node.items())

    def _on_task_erred(self, event: TaskErred, now_s: float) -> tuple[Command, ...]:
        task = self._current(event.key)
        number, error = event.key.attempt, event.error
        if task is None or task.attempts[number].outcome is not Outcome.RUNNING:
            return ()
        lost = self._lost_input(error, self._graph.stages[event.key.stage].inputs)
        if lost is not None:
            task.end(number, Outcome.SUPERSEDED, now_s, error)
            return self._redo(lost, error, now_s)
        task.end(number, Outcome.FAILED, now_s, error)
        if error.exhausted:
            task.slots = max(task.slots, self._more_slots(task.attempts[number]))
        again = error.retryable or (error.elsewhere and self._place(task, (self._nodes or {}).values()) is not None)
        if not again:
            return self._give_up(task, event.node_id, error)
        if task.running:
            return ()
        waited_s = wait_s(
            event.key,
            task.failures,
            first_s=0.0 if error.elsewhere else self._retry_after_s,
            now_s=now_s,
            deadline_s=self._deadline_s,
        )
        return self._again(task, now_s + waited_s) or self._send_due(now_s)

    def _more_slots(self, attempt: Attempt) -> int:
        most = max((n.bees_total for n in (self._nodes or {}).values() if n.usable), default=attempt.slots * 2)
        return max(attempt.slots, min(attempt.slots * 2, most))

    def _on_tick(self, _event: Tick, now_s: float) -> tuple[Command, ...]:
        return self._send_due(now_s)

    # -- nodes --------------------------------------------------------------------------------------------------------

    def _on_nodes_seen(self, event: NodesSeen, now_s: float) -> tuple[Command, ...]:
        self._nodes = {node.node_id: node for node in event.nodes}
        self._given.clear()
        for task in self._tasks.open():
            if self._in_session(task):
                continue
            lost = [number for number in task.running if self._is_lost(task.attempts[number])]
            for number in lost:
                self._lose(task, number, "was lost while it had the task", now_s)
            if lost and not task.running and (stop := self._again(task, now_s)):
                return stop
        sent = self._send_due(now_s)
        return sent if self.state is QueryState.FAILED else (*sent, *self._speculate(now_s))

    def _is_lost(self, attempt: Attempt) -> bool:
        node = (self._nodes or {}).get(attempt.node_id)
        if node is None:
            return True
        return bool(attempt.incarnation) and attempt.incarnation != node.incarnation

    def _lose(self, task: Task, number: int, why: str, now_s: float) -> None:
        node_id = task.attempts[number].node_id
        task.end(number, Outcome.LOST, now_s, NoAliveNodes(f"node {node_id} {why}", node=node_id))

    def _on_task_forgotten(self, event: TaskForgotten, now_s: float) -> tuple[Command, ...]:
        task = self._current(event.key)
        if task is None or event.key.attempt not in task.running:
            return ()
        self._lose(task, event.key.attempt, "knows nothing of the task", now_s)
        if task.running:
            return ()
        return self._again(task, now_s) or self._send_due(now_s)

    def _speculate(self, now_s: float) -> tuple[Command, ...]:
        """Give slow tasks, and those that wait for slow ones, a second attempt on nodes that have nothing to do."""
        nodes = (self._nodes or {}).values()
        idle = [n for n in nodes if n.usable and n.idle_bees > self._given.get(n.node_id, 0)]
        if not idle or not self._policy.enabled:
            return ()
        begun: list[tuple[str, Dispatch]] = []
        suspects = {node.node_id for node in nodes if node.state is NodeState.SUSPECT}
        course = Course(self._tasks.stages(), {node.node_id: node.bees_total for node in nodes}, now_s)
        tries = self._max_attempts
        for stage, tasks in self._tasks.stages():
            if self._graph.stages[stage].in_session or self.is_complete(stage):
                continue
            idle_bees = sum(n.idle_bees - self._given.get(n.node_id, 0) for n in idle)
            for task, why in slow_tasks(
                course, stage, tasks, suspects, idle_bees=idle_bees, max_attempts=tries, policy=self._policy
            ):
                passed = {task.attempts[n].node_id for n in task.running}
                fit = [n for n in idle if n.node_id not in passed and not course.is_slow(stage, n.node_id)]
                node = self._place(task, [n for n in fit if n.idle_bees > self._given.get(n.node_id, 0)])
                if node is not None:
                    begun.append(self._begin(task, node.node_id, now_s, speculative=why))
        return self._sent(begun)

    def _on_all_nodes_lost(self, event: AllNodesLost, now_s: float) -> tuple[Command, ...]:
        for task in self._tasks.open():
            for number in task.running:
                self._lose(task, number, "was lost while it had the task", now_s)
            task.due_s = None
            if not event.can_finish:
                last = task.attempts[-1]
                return self._give_up(task, last.node_id, last.error)
        return self._finish_here()

    def _on_rest_is_small(self, _event: RestIsSmall, _now_s: float) -> tuple[Command, ...]:
        if any(self._tasks.open()):
            raise InternalError(f"query {self.query_id}: the rest cannot run here while tasks are open")
        return self._finish_here()

    def _finish_here(self) -> tuple[Command, ...]:
        self._asked = {stage for stage in self._asked if stage in self._tasks}
        self.state = QueryState.FINISHING
        return (RunRoot(),)

    # -- partials that are lost ---------------------------------------------------------------------------------------

    def _lost_input(self, error: ApiaryError, inputs: Container[object]) -> Task | None:
        """Return the task whose partial an error says is lost, if that is one that counts, of one of some stages."""
        made_by = error.producer if isinstance(error, PartialLost) else None
        if made_by is None or made_by[0] not in inputs:
            return None
        stage, number, attempt = made_by
        task = self._tasks.get(stage, number)
        return None if task is None or task.counted != attempt else task

    def _redo(self, task: Task, error: ApiaryError, now_s: float) -> tuple[Command, ...]:
        """Take a committed task back, with all that was planned from what it made, and have it made again."""
        if self._handing is not None and self._handing.forbids(task):
            return self._fail(lost_after_rows(error))
        counted = task.counted
        assert counted is not None
        self._tasks.take_back(task)
        task.end(counted, Outcome.UNDONE, now_s, error)
        task.epoch += 1
        stops = self._drop_readers(task.spec.stage, now_s)
        for waiting in self._tasks.open():
            if not waiting.running and waiting.due_s is None and (failed := self._again(waiting, now_s)):
                return failed
        return (*stops, *self._send_due(now_s), *(() if self.state is QueryState.FAILED else self._ready_stages()))

    def _drop_readers(self, stage: int, now_s: float) -> tuple[Command, ...]:
        """Forget the plans of all stages that read a stage, directly or not; their attempts are remembered."""
        stops: tuple[Command, ...] = ()
        for reader in self._graph.stages[:-1]:
            if stage not in reader.inputs:
                continue
            self._asked.discard(reader.stage)
            if reader.stage not in self._tasks:
                continue
            tasks = self._tasks.drop(reader.stage)
            stops += self._superseded(tasks, now_s)
            for task in tasks:
                if (counted := task.counted) is not None:
                    task.partial = None
                    task.end(counted, Outcome.SUPERSEDED, now_s)
                task.due_s = None
            stops += self._drop_readers(reader.stage, now_s)
        return stops

    def _on_record_damaged(self, event: RecordDamaged, now_s: float) -> tuple[Command, ...]:
        task = self._tasks.known(event.stage, event.task)
        if task is None or not task.attempts:
            raise InternalError(f"query {self.query_id}: a record of task {event.stage}.{event.task}, never sent")
        if not self._tasks.is_planned(task) or not task.is_open or event.epoch != task.epoch:
            return ()
        # Whose record it is cannot be told; none of this life's attempts can commit any more.
        task.end(len(task.attempts) - 1, Outcome.UNDONE, now_s, event.error)
        task.epoch += 1
        stops = self._superseded([task], now_s)
        return self._again(task, now_s) or (*stops, *self._send_due(now_s))

    # -- the result ---------------------------------------------------------------------------------------------------

    def _is_left_alone(self) -> bool:
        """Whether the root does what nodes have not done: they are all gone, and rows went out already."""
        return self.state is QueryState.FINISHING and self.has_handed_over()

    def _on_handed_over(self, event: HandedOver, _now_s: float) -> tuple[Command, ...]:
        task = self._tasks.get(event.stage, event.task)
        if self._handing is None or event.stage != self._handing.stage or task is None:
            raise InternalError(
                f"query {self.query_id}: rows of task {event.stage}.{event.task} are not to be handed over"
            )
        self._handing.hand_over(task, alone=self._is_left_alone())
        return ()

    def _on_enough_rows(self, _event: EnoughRows, _now_s: float) -> tuple[Command, ...]:
        if self._handing is None:
            raise InternalError(f"query {self.query_id}: rows are not handed over task by task")
        self.state = QueryState.DONE
        return (Stop(error=None),)

    def _on_root_finished(self, _event: RootFinished, _now_s: float) -> tuple[Command, ...]:
        self.state = QueryState.DONE
        return (Stop(error=None),)

    def _on_root_erred(self, event: RootErred, now_s: float) -> tuple[Command, ...]:
        if self.state is QueryState.RUNNING and self._handing is None:
            raise InternalError(f"query {self.query_id}: the root raised before it ran")
        lost = self._lost_input(event.error, self._tasks) if event.untouched else None
        if lost is None:
            return self._fail(event.error)
        self.state = QueryState.RUNNING
        return self._redo(lost, event.error, now_s)

    def _on_timed_out(self, event: TimedOut, _now_s: float) -> tuple[Command, ...]:
        done, known = self.progress()
        return self._fail(timed_out(self.query_id, event.timeout_s, done, known, self._tasks.open()))

    def _on_cancelled(self, _event: Cancelled, _now_s: float) -> tuple[Command, ...]:
        self.state = QueryState.CANCELLED
        return (Stop(error=QueryCancelled(f"query {self.query_id} was cancelled", query=self.query_id)),)

    def _on_late_news(self, _event: Event, _now_s: float) -> tuple[Command, ...]:
        return ()

    def _fail(self, error: ApiaryError) -> tuple[Command, ...]:
        self.state = QueryState.FAILED
        return (Stop(error=error),)
