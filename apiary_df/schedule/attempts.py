"""What the schedule knows of a task: its attempts, which one counts, and how they are told to people."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from apiary_df.errors import ApiaryError, QueryTimeout, TaskFailed
from apiary_df.model import PartialRef, TaskKey, TaskSpec

SHOWN_CAUSE_CHARS = 200
"""Characters of each attempt's cause that a report shows: enough to tell causes apart, with four to a message."""


LOSSES_FOR_AN_ATTEMPT = 4
"""Attempts lost with their nodes that weigh as much as one that failed: a loss is rarely the task's own fault, but one
that takes every node down with it must end, too. Where nodes lived 18 s at a time, half of this was reached once in a
thousand queries. The first of ``max_attempts`` is not given several times."""


class Outcome(enum.Enum):
    """How an attempt ended."""

    RUNNING = "running"
    COMMITTED = "committed"
    FAILED = "failed"
    LOST = "lost"
    UNDONE = "undone"
    SUPERSEDED = "superseded"


FAILURES = frozenset({Outcome.FAILED, Outcome.UNDONE})
"""Outcomes that count towards ``max_attempts``. Superseded attempts did nothing wrong, lost ones are counted apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at a task. Times are the coordinator's monotonic clock, in seconds.

    Attributes:
        node_id: The node that it was sent to.
        incarnation: That node's incarnation, as far as it was known.
        epoch: Which life of the task it belongs to: the next one begins when what was committed is lost.
        slots: Bees' shares of memory that it may hold.
        speculative: It was sent while another attempt still ran.
        sent_s: When it was sent.
        ended_s: When its end was seen; None while it runs.
        outcome: How it ended. A lost one may still commit, and count; an undone one had committed, and its partial
            was lost; a superseded one is not wanted any more.
        error: Why it failed, was lost or undone.
    """

    node_id: str
    incarnation: str = ""
    epoch: int = 0
    slots: int = 1
    speculative: bool = False
    sent_s: float = 0.0
    ended_s: float | None = None
    outcome: Outcome = Outcome.RUNNING
    error: ApiaryError | None = None

    @property
    def seconds(self) -> float | None:
        """Seconds from being sent to the end that was seen; None while it runs."""
        return None if self.ended_s is None else self.ended_s - self.sent_s


@dataclass(slots=True, kw_only=True)
class Task:
    """A task of a planned stage. The schedule alone changes it.

    Attributes:
        spec: What it reads, and where its newest attempt went.
        attempts: All attempts so far, also those of earlier lives.
        epoch: Which life of the task this is.
        partial: What counts; None while nothing does.
        due_s: When the next attempt is to be sent, by the coordinator's clock; None if none is to be.
        slots: Bees' shares of memory that the next attempt may hold.
        running: Numbers of the attempts that may still end by themselves; asked for at every look, of every task.
        handed_over: Its rows went to the user, or begin to: it is never done again.
    """

    spec: TaskSpec
    attempts: list[Attempt] = field(default_factory=list)
    epoch: int = 0
    partial: PartialRef | None = None
    due_s: float | None = None
    slots: int = 1
    running: tuple[int, ...] = ()
    handed_over: bool = False

    @property
    def is_open(self) -> bool:
        """Whether its rows are still to be made."""
        return self.partial is None and not self.handed_over

    @property
    def failures(self) -> int:
        """How many attempts count towards ``max_attempts``."""
        return sum(attempt.outcome in FAILURES for attempt in self.attempts)

    @property
    def losses(self) -> int:
        """How many attempts were lost with their nodes, or forgotten by them."""
        return sum(attempt.outcome is Outcome.LOST for attempt in self.attempts)

    def is_spent(self, max_attempts: int) -> bool:
        """Whether it failed, or was lost, too often to be tried again."""
        return self.failures >= max_attempts or self.losses >= most_losses(max_attempts)

    @property
    def counted(self) -> int | None:
        """The attempt that counts; None if there is none."""
        if self.partial is None:
            return None
        committed = (Outcome.COMMITTED, self.epoch)
        return next(n for n, attempt in enumerate(self.attempts) if (attempt.outcome, attempt.epoch) == committed)

    def begin(self, attempt: Attempt) -> int:
        """Note an attempt that is being sent, and return its number."""
        self.attempts.append(attempt)
        self.running = (*self.running, len(self.attempts) - 1)
        return self.running[-1]

    def end(self, number: int, outcome: Outcome, now_s: float, error: ApiaryError | None = None) -> None:
        """Note how an attempt ended."""
        attempt = self.attempts[number]
        ended_s = now_s if attempt.ended_s is None else attempt.ended_s
        self.attempts[number] = replace(attempt, outcome=outcome, ended_s=ended_s, error=error or attempt.error)
        self.running = tuple(other for other in self.running if other != number)

    def key(self, query_id: str, attempt: int) -> TaskKey:
        """Return the name of an attempt."""
        return TaskKey(query_id=query_id, stage=self.spec.stage, task=self.spec.task, attempt=attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTask:
    """A task that was sent and is not committed: a record of it may appear at any time.

    Attributes:
        stage: Its stage.
        task: Its number.
        epoch: Which life of the task a commit record must be of.
        attempts: How many attempts there have been.
        running: Number and node of each attempt that may still fail.
    """

    stage: int
    task: int
    epoch: int
    attempts: int
    running: tuple[tuple[int, str], ...]


def most_losses(max_attempts: int) -> int:
    """Return how many attempts at a task may be lost with their nodes before it is given up.

    Args:
        max_attempts: Tries that it gets.
    """
    return LOSSES_FOR_AN_ATTEMPT * (max_attempts - 1) + 1


def attempts_told(attempts: Sequence[Attempt]) -> str:
    """Return a report of attempts for a person: node, cause and seconds of each."""
    return "; ".join(f"attempt {number} {_told(attempt)}" for number, attempt in enumerate(attempts))


def _told(attempt: Attempt) -> str:
    took = "" if attempt.seconds is None else f" after {attempt.seconds:.1f} s"
    kind = f"{attempt.outcome.value}{took}"
    if attempt.slots > 1:
        kind = f"with {attempt.slots} bees' memory {kind}"
    if attempt.error is None:
        return f"on {attempt.node_id} {kind}"
    words = attempt.error.message
    if len(words) > SHOWN_CAUSE_CHARS:
        words = f"{words[:SHOWN_CAUSE_CHARS]}…"
    return f"on {attempt.node_id} {kind}, {attempt.error.code}: {words}"


def why_again(task: Task) -> str:
    """Return why a task is tried again, for a person."""
    last = task.attempts[-1]
    reasons = {
        Outcome.LOST: f"node {last.node_id} lost it",
        Outcome.UNDONE: f"what node {last.node_id} committed was lost",
    }
    return reasons.get(last.outcome, f"it failed on node {last.node_id}")


def task_failed(query_id: str, task: Task, node_id: str, cause: ApiaryError) -> TaskFailed:
    """Return the error of a task that is given up, with its first facts and a report of every attempt.

    Args:
        query_id: The query.
        task: The task.
        node_id: The node of its last attempt.
        cause: Why that one failed.
    """
    name = f"{task.spec.stage}.{task.spec.task}"
    cells = ", ".join(task.spec.cells) or "none (it reads other stages)"
    several = len(task.attempts) > 1
    tried = f" after {len(task.attempts)} attempts" if several else ""
    report = attempts_told(task.attempts)
    words = f"task {name} of query {query_id} failed on node {node_id}{tried}: {cause.message} [cells: {cells}]"
    if several:
        words += f" [{report}]"
    facts = {"query": query_id, "task": name, "node": node_id, "cells": cells, "attempts": report}
    error = TaskFailed(words, **{**cause.details, **facts}, cause=cause.code)
    error.__cause__ = cause
    return error


def timed_out(query_id: str, timeout_s: float, done: int, known: int, open_tasks: Iterable[Task]) -> QueryTimeout:
    """Return the error of a query whose deadline passed.

    Args:
        query_id: The query.
        timeout_s: Its deadline.
        done: Tasks that were committed.
        known: Tasks that were planned.
        open_tasks: Those that were not committed; the attempts of the first that failed are told.
    """
    tried = [task for task in open_tasks if task.failures]
    told = "".join(f"; task {t.spec.stage}.{t.spec.task}: {attempts_told(t.attempts)}" for t in tried[:1])
    return QueryTimeout(
        f"query {query_id} did not end within timeout_s={timeout_s:g}: "
        f"{done} of {known} planned tasks were committed; raise timeout_s or add nodes{told}",
        query=query_id,
        timeout_s=timeout_s,
    )
