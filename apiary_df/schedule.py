"""The schedule of one query: a pure state machine from events to commands.

::

    RUNNING ──StagePlanned, TaskCommitted, TaskFailed (retryable), NodeLost──> RUNNING
    RUNNING ──last input of the root committed, RestIsSmall, AllNodesLost──> FINISHING ──RootFinished──> DONE
    RUNNING, FINISHING ──TaskFailed (final), RootFailed, TimedOut──> FAILED
    RUNNING, FINISHING ──Cancelled──> CANCELLED
    DONE, FAILED, CANCELLED ──anything──> unchanged, no commands (late news of a query that is over)

The table :data:`TRANSITIONS` says which events are legal in which state; one that is not raises and changes nothing.
The machine knows no clock, store or node: the coordinator turns what it sees into events, and carries the commands out.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from apiary_df.errors import ApiaryError, InternalError, NoAliveNodes, QueryCancelled, QueryTimeout, TaskFailed
from apiary_df.model import PartialRef, TaskKey, TaskSpec
from apiary_df.plan.stages import StageGraph

MAX_ATTEMPTS = 4
"""Tries that a task gets before the query fails: enough for a bad node and an unlucky one, few enough to end."""


class QueryState(enum.Enum):
    """Where a query stands."""

    RUNNING = "running"
    FINISHING = "finishing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


# -- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The coordinator is ready to plan stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlanned:
    """The tasks of a stage are known."""

    stage: int
    specs: tuple[TaskSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCommitted:
    """A commit record was seen; any attempt's counts."""

    key: TaskKey
    partial: PartialRef


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskErred:
    """An attempt failed; ``alternatives`` are the nodes that could make another."""

    key: TaskKey
    node_id: str
    error: ApiaryError
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLost:
    """A node is dead or has left; ``survivors`` can take its work."""

    node_id: str
    survivors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AllNodesLost:
    """No node is left that could take a task: the root does all that is left, here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestIsSmall:
    """What is left is too little to be worth stages: the root does it all. Legal while no task is pending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFinished:
    """The result has been handed over whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootErred:
    """The root stage raised."""

    error: ApiaryError


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut:
    """The query's deadline passed."""

    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The user does not want the result any more."""


Event = (
    Started
    | StagePlanned
    | TaskCommitted
    | TaskErred
    | NodeLost
    | AllNodesLost
    | RestIsSmall
    | RootFinished
    | RootErred
    | TimedOut
    | Cancelled
)


# -- commands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStage:
    """Plan the tasks of a stage whose inputs are complete."""

    stage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SendTasks:
    """Send attempts to one node."""

    node_id: str
    tasks: tuple[tuple[TaskSpec, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRoot:
    """Run the root stage here: all of its inputs are complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The query is over; ``error`` is what to raise, None after success."""

    error: ApiaryError | None


Command = PlanStage | SendTasks | RunRoot | Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at a task, for reports."""

    node_id: str
    outcome: str = "running"
    error: ApiaryError | None = None


@dataclass(slots=True, kw_only=True)
class _Task:
    spec: TaskSpec
    attempts: list[Attempt] = field(default_factory=list)
    partial: PartialRef | None = None


TRANSITIONS: Mapping[QueryState, Mapping[type[Event], str]] = {
    QueryState.RUNNING: {
        Started: "_on_started",
        StagePlanned: "_on_stage_planned",
        TaskCommitted: "_on_task_committed",
        TaskErred: "_on_task_erred",
        NodeLost: "_on_node_lost",
        AllNodesLost: "_on_all_nodes_lost",
        RestIsSmall: "_on_rest_is_small",
        TimedOut: "_on_timed_out",
        Cancelled: "_on_cancelled",
    },
    QueryState.FINISHING: {
        RootFinished: "_on_root_finished",
        RootErred: "_on_root_erred",
        TaskCommitted: "_on_late_news",
        TaskErred: "_on_late_news",
        NodeLost: "_on_late_news",
        TimedOut: "_on_timed_out",
        Cancelled: "_on_cancelled",
    },
    **{
        state: dict.fromkeys(
            (TaskCommitted, TaskErred, NodeLost, TimedOut, Cancelled, RootFinished, RootErred), "_on_late_news"
        )
        for state in (QueryState.DONE, QueryState.FAILED, QueryState.CANCELLED)
    },
}
"""State to the events that are legal in it, with the method that answers."""


class Schedule:
    """The state of one query.

    Args:
        query_id: The query, for keys and messages.
        graph: Its stages.
        max_attempts: Tries that a task gets.
    """

    def __init__(self, query_id: str, graph: StageGraph, *, max_attempts: int = MAX_ATTEMPTS) -> None:
        self.query_id = query_id
        self.state = QueryState.RUNNING
        self._graph = graph
        self._max_attempts = max_attempts
        self._tasks: dict[int, list[_Task]] = {}
        self._asked: set[int] = set()

    def handle(self, event: Event) -> tuple[Command, ...]:
        """Take one event.

        Returns:
            What to do about it, in order.

        Raises:
            InternalError: If the event is illegal in this state; nothing has changed then.
        """
        method = TRANSITIONS[self.state].get(type(event))
        if method is None:
            raise InternalError(
                f"query {self.query_id}: event {type(event).__name__} is illegal in state {self.state.value}"
            )
        commands: tuple[Command, ...] = getattr(self, method)(event)
        return commands

    # -- what others may ask ------------------------------------------------------------------------------------------

    def partials(self) -> dict[int, tuple[PartialRef, ...]]:
        """Return the committed partials of every complete stage, in task order."""
        return {
            stage: tuple(task.partial for task in tasks if task.partial is not None)
            for stage, tasks in self._tasks.items()
            if self.is_complete(stage)
        }

    def is_complete(self, stage: int) -> bool:
        """Whether a stage is planned and all of its tasks are committed."""
        tasks = self._tasks.get(stage)
        return tasks is not None and all(task.partial is not None for task in tasks)

    def pending(self) -> tuple[tuple[TaskKey, str], ...]:
        """Return the newest attempt of every task that is sent and not committed, with its node."""
        return tuple(
            (self._key(task, len(task.attempts) - 1), task.attempts[-1].node_id)
            for tasks in self._tasks.values()
            for task in tasks
            if task.partial is None and task.attempts
        )

    def specs(self, stage: int) -> tuple[TaskSpec, ...]:
        """Return the tasks of a stage as planned; none if it is not planned yet."""
        return tuple(task.spec for task in self._tasks.get(stage, ()))

    def attempts(self, stage: int, task: int) -> tuple[Attempt, ...]:
        """Return all attempts at a task so far."""
        return tuple(self._tasks[stage][task].attempts)

    def progress(self) -> tuple[int, int]:
        """Return how many tasks are committed, and how many are known so far."""
        tasks = [task for stage in self._tasks.values() for task in stage]
        return sum(1 for task in tasks if task.partial is not None), len(tasks)

    # -- transitions --------------------------------------------------------------------------------------------------

    def _on_started(self, _event: Started) -> tuple[Command, ...]:
        return self._ready_stages()

    def _ready_stages(self) -> tuple[Command, ...]:
        root = self._graph.root
        if all(self.is_complete(stage) for stage in root.inputs):
            self.state = QueryState.FINISHING
            return (RunRoot(),)
        commands: list[Command] = []
        for stage in self._graph.stages[:-1]:
            if stage.stage not in self._asked and all(self.is_complete(s) for s in stage.inputs):
                self._asked.add(stage.stage)
                commands.append(PlanStage(stage=stage.stage))
        return tuple(commands)

    def _on_stage_planned(self, event: StagePlanned) -> tuple[Command, ...]:
        if event.stage not in self._asked or event.stage in self._tasks:
            raise InternalError(f"query {self.query_id}: stage {event.stage} was not to be planned now")
        if not event.specs:
            raise InternalError(f"query {self.query_id}: stage {event.stage} was planned without a task")
        self._tasks[event.stage] = [_Task(spec=spec) for spec in event.specs]
        return self._send(self._tasks[event.stage])

    def _send(self, tasks: Sequence[_Task]) -> tuple[Command, ...]:
        by_node: dict[str, list[tuple[TaskSpec, int]]] = {}
        for task in tasks:
            by_node.setdefault(task.spec.node_id, []).append((task.spec, len(task.attempts)))
            task.attempts.append(Attempt(node_id=task.spec.node_id))
        return tuple(SendTasks(node_id=node, tasks=tuple(sent)) for node, sent in by_node.items())

    def _find(self, key: TaskKey) -> _Task:
        tasks = self._tasks.get(key.stage, [])
        if key.query_id != self.query_id or key.task >= len(tasks) or key.attempt >= len(tasks[key.task].attempts):
            raise InternalError(f"query {self.query_id}: news of {key}, which was never sent")
        return tasks[key.task]

    def _on_task_committed(self, event: TaskCommitted) -> tuple[Command, ...]:
        task = self._find(event.key)
        if task.partial is not None:
            return ()
        task.partial = event.partial
        task.attempts[event.key.attempt] = replace(task.attempts[event.key.attempt], outcome="committed")
        return self._ready_stages() if self.is_complete(event.key.stage) else ()

    def _on_task_erred(self, event: TaskErred) -> tuple[Command, ...]:
        task = self._find(event.key)
        attempt = task.attempts[event.key.attempt]
        if task.partial is not None or attempt.outcome != "running":
            return ()
        task.attempts[event.key.attempt] = replace(attempt, outcome="failed", error=event.error)
        if event.key.attempt < len(task.attempts) - 1:
            return ()
        unfit = {a.node_id for a in task.attempts if a.error is not None and a.error.elsewhere}
        others = [node for node in event.alternatives if node != event.node_id and node not in unfit]
        again = event.error.retryable or (event.error.elsewhere and bool(others))
        if again and len(task.attempts) < self._max_attempts:
            if others:
                target = others[event.key.task % len(others)]
                task.spec = replace(task.spec, node_id=target, why=f"it failed on node {event.node_id}")
            return self._send([task])
        return self._fail(self._task_failed(task, event.node_id, event.error))

    def _on_node_lost(self, event: NodeLost) -> tuple[Command, ...]:
        stranded = [
            task
            for tasks in self._tasks.values()
            for task in tasks
            if task.partial is None and task.attempts and task.attempts[-1].node_id == event.node_id
        ]
        # A node may be lost, come back, be given tasks, and be lost again.
        survivors = [node for node in event.survivors if node != event.node_id]
        for number, task in enumerate(stranded):
            cause = NoAliveNodes(f"node {event.node_id} was lost while it had the task", node=event.node_id)
            task.attempts[-1] = replace(task.attempts[-1], outcome="lost", error=cause)
            if not survivors or len(task.attempts) >= self._max_attempts:
                return self._fail(self._task_failed(task, event.node_id, cause))
            target = survivors[number % len(survivors)]
            task.spec = replace(task.spec, node_id=target, why=f"node {event.node_id} was lost")
        return self._send(stranded)

    def _on_all_nodes_lost(self, _event: AllNodesLost) -> tuple[Command, ...]:
        for tasks in self._tasks.values():
            for task in tasks:
                if task.partial is None and task.attempts:
                    cause = NoAliveNodes(f"node {task.attempts[-1].node_id} was lost, and no other was left")
                    task.attempts[-1] = replace(task.attempts[-1], outcome="lost", error=cause)
        self.state = QueryState.FINISHING
        return (RunRoot(),)

    def _on_rest_is_small(self, _event: RestIsSmall) -> tuple[Command, ...]:
        if self.pending():
            raise InternalError(f"query {self.query_id}: the rest cannot run here while tasks are pending")
        self.state = QueryState.FINISHING
        return (RunRoot(),)

    def _on_root_finished(self, _event: RootFinished) -> tuple[Command, ...]:
        self.state = QueryState.DONE
        return (Stop(error=None),)

    def _on_root_erred(self, event: RootErred) -> tuple[Command, ...]:
        return self._fail(event.error)

    def _on_timed_out(self, event: TimedOut) -> tuple[Command, ...]:
        done, known = self.progress()
        return self._fail(
            QueryTimeout(
                f"query {self.query_id} did not end within timeout_s={event.timeout_s:g}: "
                f"{done} of {known} planned tasks were committed; raise timeout_s or add nodes",
                query=self.query_id,
                timeout_s=event.timeout_s,
            )
        )

    def _on_cancelled(self, _event: Cancelled) -> tuple[Command, ...]:
        self.state = QueryState.CANCELLED
        return (Stop(error=QueryCancelled(f"query {self.query_id} was cancelled", query=self.query_id)),)

    def _on_late_news(self, _event: Event) -> tuple[Command, ...]:
        return ()

    def _fail(self, error: ApiaryError) -> tuple[Command, ...]:
        self.state = QueryState.FAILED
        return (Stop(error=error),)

    def _key(self, task: _Task, attempt: int) -> TaskKey:
        return TaskKey(query_id=self.query_id, stage=task.spec.stage, task=task.spec.task, attempt=attempt)

    def _task_failed(self, task: _Task, node_id: str, cause: ApiaryError) -> TaskFailed:
        name = f"{task.spec.stage}.{task.spec.task}"
        cells = ", ".join(task.spec.cells) or "none (it reads other stages)"
        tried = "" if len(task.attempts) == 1 else f" after {len(task.attempts)} attempts"
        error = TaskFailed(
            f"task {name} of query {self.query_id} failed on node {node_id}{tried}: {cause.message} [cells: {cells}]",
            **{**cause.details, "query": self.query_id, "task": name, "node": node_id, "cells": cells},
            cause=cause.code,
        )
        error.__cause__ = cause
        return error
