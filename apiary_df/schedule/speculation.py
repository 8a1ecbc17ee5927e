"""Which slow tasks get a second attempt elsewhere. Pure: a policy over times, without state of its own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Container, Sequence
from dataclasses import dataclass

from apiary_df.schedule.attempts import Task

MIN_COMMITTED_SHARE = 0.5
"""Share of a stage's tasks that must be committed before the others can be called slow."""

MAX_EXTRA_SHARE = 0.1
"""Share of a stage's tasks that may have a second attempt at a time; one always may."""


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
class Running:
    """A task with exactly one attempt under way.

    Attributes:
        task: Its number.
        elapsed_s: Seconds since that was sent.
        silent: Its node is suspect.
    """

    task: int
    elapsed_s: float
    silent: bool = False


def stragglers(
    running: Sequence[Running], committed_s: Sequence[float], *, extra: int, idle_bees: int, policy: Policy
) -> tuple[int, ...]:
    """Return the tasks of one stage that are worth a second attempt now, the slowest first.

    Args:
        running: Its tasks with exactly one attempt under way.
        committed_s: How long its committed tasks took, from being sent to their commit, in seconds.
        extra: How many of its tasks have a second attempt already.
        idle_bees: Bees that have nothing to do, anywhere.
        policy: When a task is slow.
    """
    if not policy.enabled or not running or idle_bees < 1:
        return ()
    total = len(running) + len(committed_s) + extra
    room = min(idle_bees, max(1, math.ceil(total * MAX_EXTRA_SHARE)) - extra)
    slow_s = math.inf
    if committed_s and len(committed_s) >= total * MIN_COMMITTED_SHARE:
        slow_s = max(policy.after_s, policy.factor * statistics.median(committed_s))
    late = [task for task in running if task.silent or task.elapsed_s > slow_s]
    late.sort(key=lambda task: (not task.silent, -task.elapsed_s, task.task))
    return tuple(task.task for task in late[: max(0, room)])


def slow_tasks(
    tasks: Sequence[Task],
    suspects: Container[str],
    now_s: float,
    *,
    idle_bees: int,
    max_attempts: int,
    policy: Policy,
) -> list[Task]:
    """Return the tasks that are worth a second attempt now, the slowest first.

    Args:
        tasks: All tasks of one stage, in order.
        suspects: Nodes that are suspect.
        now_s: The coordinator's clock.
        idle_bees: Bees that have nothing to do, anywhere.
        max_attempts: Tries that a task gets.
        policy: When a task is slow.
    """
    running: list[Running] = []
    extra = 0
    for task in tasks:
        if task.partial is not None or not task.running:
            continue
        if len(task.running) > 1:
            extra += 1
        elif _may_have_another(task, max_attempts):
            attempt = task.attempts[task.running[0]]
            silent = attempt.node_id in suspects
            running.append(Running(task=task.spec.task, elapsed_s=now_s - attempt.sent_s, silent=silent))
    took = [task.attempts[n].seconds for task in tasks if (n := task.counted) is not None]
    committed_s = [seconds for seconds in took if seconds is not None]
    slow = stragglers(running, committed_s, extra=extra, idle_bees=idle_bees, policy=policy)
    return [tasks[number] for number in slow]


def _may_have_another(task: Task, max_attempts: int) -> bool:
    """Whether a second attempt beside the first stays within bounds, even if both fail."""
    extra = sum(attempt.speculative for attempt in task.attempts)
    return task.failures + len(task.running) < max_attempts and extra < max_attempts
