"""Which tasks get a second attempt elsewhere. Pure: a policy over times, without state of its own.

Tasks of a stage are sent when it begins, several to a bee. What runs and what still waits on a node is not told by
anybody: it follows from the order in which attempts were sent, which is the order in which a node's bees take them.
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from apiary_df.schedule.attempts import Attempt, Task

MIN_COMMITTED_SHARE = 0.5
"""Share of a stage's tasks that must be committed before the others can be called slow."""

MAX_EXTRA_SHARE = 0.1
"""Share of a stage's tasks that may have a second attempt at a time while bees work on the first; one always may."""

WORTH_FACTOR = 1.5
"""A second attempt is worth it if the first is expected to need that many times as long as another takes from its
beginning to its end: what it may cost in vain is then less than what it saves."""

PACE_FROM_S = 1.0
"""Seconds that a stage's tasks must take at least for a node's pace to be known from them: of shorter ones, most is
waiting for news."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When a task is slow.

    Attributes:
        enabled: Whether there is any second attempt.
        factor: A task is slow at so many times the median of its committed siblings, >= 1.
        after_s: And never before so many seconds.
    """

    enabled: bool = True
    factor: float = 3.0
    after_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Underway:
    """A task with exactly one attempt under way.

    Attributes:
        task: Its number.
        sent_s: Seconds since that was sent.
        runs_s: Seconds since a bee began with it, at most; None while it waits for one.
        left_s: Seconds that it is expected to need where it is.
        silent: Its node is suspect.
    """

    task: int
    sent_s: float
    runs_s: float | None
    left_s: float = 0.0
    silent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """A task that is worth a second attempt.

    Attributes:
        task: Its number.
        waits: No bee has begun with the first attempt, as far as can be told.
    """

    task: int
    waits: bool


def stragglers(
    underway: Sequence[Underway], took_s: Sequence[float], *, extra: int, idle_bees: int, policy: Policy
) -> tuple[Late, ...]:
    """Return the tasks of one stage that are worth a second attempt now, those that have most left first.

    Args:
        underway: Its tasks with exactly one attempt under way.
        took_s: How long bees took for its committed tasks, in seconds.
        extra: How many of its tasks have a second attempt already while a bee works on the first.
        idle_bees: Bees that have nothing to do, anywhere.
        policy: When a task is slow.
    """
    if not policy.enabled or not underway or idle_bees < 1:
        return ()
    total = len(underway) + len(took_s) + extra
    usual_s = math.inf
    if took_s and len(took_s) >= total * MIN_COMMITTED_SHARE:
        usual_s = statistics.median(took_s)
    slow_s = max(policy.after_s, policy.factor * usual_s)
    worth_s = max(policy.after_s, WORTH_FACTOR * usual_s)
    room = max(1, math.ceil(total * MAX_EXTRA_SHARE)) - extra
    chosen: list[Late] = []
    for task in sorted(underway, key=lambda task: (not task.silent, -max(task.left_s, task.runs_s or 0.0), task.task)):
        waits = task.runs_s is None
        late = task.silent or (task.runs_s is not None and task.runs_s > slow_s)
        if not late and (task.sent_s <= policy.after_s or task.left_s <= worth_s):
            continue
        if len(chosen) < idle_bees and (waits or room > 0):
            chosen.append(Late(task=task.task, waits=waits))
            room -= not waits
    return tuple(chosen)


_Name = tuple[int, int, int]
"""Stage, task and number of an attempt."""


class Course:
    """How a query's attempts have gone, node by node.

    Args:
        stages: The planned stages, each with all its tasks in order.
        bees: Bees of each node; one where it is not known.
        now_s: The coordinator's clock.
    """

    def __init__(self, stages: Iterable[tuple[int, Sequence[Task]]], bees: Mapping[str, int], now_s: float) -> None:
        self._now_s = now_s
        self._bees = bees
        self._begun_s: dict[_Name, float] = {}
        self._before: dict[_Name, int] = {}
        self._longest_s: dict[tuple[int, str], float] = {}
        planned = dict(stages)
        sent: defaultdict[str, list[tuple[float, _Name]]] = defaultdict(list)
        for stage, tasks in planned.items():
            for number, task in enumerate(tasks):
                for which, attempt in enumerate(task.attempts):
                    sent[attempt.node_id].append((attempt.sent_s, (stage, number, which)))
        for node_id, names in sent.items():
            self._follow(node_id, [(name, planned[name[0]][name[1]].attempts[name[2]]) for _, name in sorted(names)])
        self._took_s = {stage: self._took_by_node(stage, tasks) for stage, tasks in planned.items()}
        self._usual_s = {stage: statistics.median(self.took_s(stage) or [0.0]) for stage in planned}
        paces: defaultdict[str, list[float]] = defaultdict(list)
        for stage, took_s in self._took_s.items():
            if (usual_s := self._usual_s[stage]) >= PACE_FROM_S:
                for node_id, (mean_s, _) in took_s.items():
                    paces[node_id].append(mean_s / usual_s)
        self._paces = {node_id: statistics.median(each) for node_id, each in paces.items()}

    def _follow(self, node_id: str, attempts: Sequence[tuple[_Name, Attempt]]) -> None:
        """Note when each of a node's attempts began: when it was there, and a bee was free."""
        free_s = [-math.inf] * max(1, self._bees.get(node_id, 1))
        waiting = 0
        for name, attempt in attempts:
            begun_s = max(attempt.sent_s, free_s[0])
            self._begun_s[name] = begun_s
            heapq.heapreplace(free_s, math.inf if attempt.ended_s is None else max(begun_s, attempt.ended_s))
            if attempt.ended_s is not None:
                continue
            if math.isinf(begun_s):
                self._before[name] = waiting
                waiting += 1
            else:
                runs = (name[0], node_id)
                self._longest_s[runs] = max(self._longest_s.get(runs, 0.0), self._now_s - begun_s)

    def _took_by_node(self, stage: int, tasks: Sequence[Task]) -> Mapping[str, tuple[float, int]]:
        """Return the mean seconds of a stage's committed tasks on each node, and how many they are.

        The mean, since commits that are seen at one look all seem to have ended then: only their sum is known.
        """
        found: defaultdict[str, list[float]] = defaultdict(list)
        for number, task in enumerate(tasks):
            if (which := task.counted) is not None:
                attempt = task.attempts[which]
                begun_s, ended_s = self._begun_s[stage, number, which], attempt.ended_s or 0.0
                # Bees take attempts in another order where other queries, or larger attempts, are served between them.
                found[attempt.node_id].append(ended_s - (begun_s if begun_s <= ended_s else attempt.sent_s))
        return {node_id: (statistics.fmean(each), len(each)) for node_id, each in found.items()}

    def took_s(self, stage: int) -> list[float]:
        """Return the seconds that bees took for each committed task of a stage, as far as that can be told."""
        return [mean_s for mean_s, count in self._took_s[stage].values() for _ in range(count)]

    def is_slow(self, stage: int, node_id: str) -> bool:
        """Whether a node takes so much longer than most that what it has is worth a second attempt elsewhere."""
        return self._expected_s(stage, node_id) > WORTH_FACTOR * self._usual_s[stage] > 0

    def _expected_s(self, stage: int, node_id: str) -> float:
        """Return how long a task takes on a node, by what it has done, or else by what it is doing."""
        known_s = self._took_s[stage].get(node_id)
        if known_s is not None:
            return known_s[0]
        by_pace_s = self._usual_s[stage] * self._paces.get(node_id, 1.0)
        return max(by_pace_s, self._longest_s.get((stage, node_id), 0.0))

    def _runs_s(self, name: _Name) -> float | None:
        begun_s = self._begun_s[name]
        return None if math.isinf(begun_s) else max(0.0, self._now_s - begun_s)

    def waits(self, task: Task) -> bool:
        """Whether no bee has begun with any attempt at a task that is under way."""
        return all(self._runs_s((task.spec.stage, task.spec.task, which)) is None for which in task.running)

    def underway(self, task: Task, suspects: Container[str]) -> Underway:
        """Return how a task stands that has exactly one attempt under way.

        Args:
            task: The task.
            suspects: Nodes that are suspect.
        """
        name = (task.spec.stage, task.spec.task, task.running[0])
        attempt = task.attempts[name[2]]
        runs_s = self._runs_s(name)
        expected_s = self._expected_s(name[0], attempt.node_id)
        left_s = max(0.0, expected_s - (runs_s or 0.0))
        if runs_s is None:
            rounds = self._before[name] // max(1, self._bees.get(attempt.node_id, 1))
            left_s += max(0.0, expected_s - self._longest_s.get((name[0], attempt.node_id), 0.0)) + rounds * expected_s
        return Underway(
            task=task.spec.task,
            sent_s=self._now_s - attempt.sent_s,
            runs_s=runs_s,
            left_s=left_s,
            silent=attempt.node_id in suspects,
        )


def slow_tasks(
    course: Course,
    stage: int,
    tasks: Sequence[Task],
    suspects: Container[str],
    *,
    idle_bees: int,
    max_attempts: int,
    policy: Policy,
) -> list[tuple[Task, str]]:
    """Return the tasks that are worth a second attempt now, each with the reason, those that have most left first.

    Args:
        course: How the query has gone so far.
        stage: The stage.
        tasks: All its tasks, in order.
        suspects: Nodes that are suspect.
        idle_bees: Bees that have nothing to do, anywhere.
        max_attempts: Tries that a task gets.
        policy: When a task is slow.
    """
    underway: list[Underway] = []
    extra = 0
    for task in tasks:
        if task.partial is not None or not task.running:
            continue
        if len(task.running) > 1:
            extra += not course.waits(task)
        elif _may_have_another(task, max_attempts):
            underway.append(course.underway(task, suspects))
    late = stragglers(underway, course.took_s(stage), extra=extra, idle_bees=idle_bees, policy=policy)
    return [(tasks[found.task], _why(tasks[found.task], waits=found.waits)) for found in late]


def _why(task: Task, *, waits: bool) -> str:
    node_id = task.attempts[task.running[0]].node_id
    return f"it waits for a bee of node {node_id}" if waits else f"node {node_id} is slow with it"


def _may_have_another(task: Task, max_attempts: int) -> bool:
    """Whether a second attempt beside the first stays within bounds, even if both fail."""
    extra = sum(attempt.speculative for attempt in task.attempts)
    return task.failures + len(task.running) < max_attempts and extra < max_attempts
