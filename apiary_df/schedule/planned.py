"""The tasks of a query, stage by stage: those that are planned now, and those of plans that were dropped.

What belongs here: keeping them, counting them, finding them by name. What becomes of a task is decided by
:mod:`apiary_df.schedule.machine`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from apiary_df.model import PartialRef, TaskSpec
from apiary_df.schedule.attempts import Attempt, Outcome, Task


class PlannedTasks:
    """The tasks of one query. A stage is planned at most once at a time."""

    def __init__(self) -> None:
        self._stages: dict[int, list[Task]] = {}
        # How many tasks of each planned stage are not committed: asked for at every commit, of many tasks.
        self._uncommitted: dict[int, int] = {}
        self._former: dict[tuple[int, int], Task] = {}

    def __contains__(self, stage: object) -> bool:
        """Whether a stage is planned."""
        return stage in self._stages

    def plan(self, stage: int, specs: Sequence[TaskSpec]) -> Sequence[Task]:
        """Note how a stage is planned, and return its tasks; what there was of them before goes on as another life."""
        self._stages[stage] = [self._new(spec) for spec in specs]
        self._uncommitted[stage] = len(specs)
        return self._stages[stage]

    def _new(self, spec: TaskSpec) -> Task:
        former = self._former.get((spec.stage, spec.task))
        if former is None:
            return Task(spec=spec)
        return Task(spec=spec, attempts=list(former.attempts), epoch=former.epoch + 1, slots=former.slots)

    def drop(self, stage: int) -> Sequence[Task]:
        """Forget how a stage is planned, and return the tasks that it had; their attempts are remembered."""
        tasks = self._stages.pop(stage, [])
        self._uncommitted.pop(stage, None)
        self._former.update({(task.spec.stage, task.spec.task): task for task in tasks})
        return tasks

    def commit(self, task: Task, attempt: int, partial: PartialRef, now_s: float) -> None:
        """Let an attempt at a planned task count."""
        task.partial, task.due_s = partial, None
        self._uncommitted[task.spec.stage] -= 1
        task.end(attempt, Outcome.COMMITTED, now_s)

    def take_back(self, task: Task) -> None:
        """Let nothing count of a planned task that is committed."""
        task.partial = None
        self._uncommitted[task.spec.stage] += 1

    def of(self, stage: int) -> Sequence[Task]:
        """Return the tasks of a stage; none if it is not planned."""
        return self._stages.get(stage, ())

    def stages(self) -> Iterator[tuple[int, Sequence[Task]]]:
        """Yield every planned stage with its tasks, in the order in which they were planned."""
        yield from self._stages.items()

    def open(self) -> Iterator[Task]:
        """Yield the planned tasks whose rows are still to be made."""
        return (task for tasks in self._stages.values() for task in tasks if task.is_open)

    def get(self, stage: int, number: int) -> Task | None:
        """Return a planned task; None if there is none of that name."""
        tasks = self.of(stage)
        return tasks[number] if number < len(tasks) else None

    def known(self, stage: int, number: int) -> Task | None:
        """Return a task, whether planned now or before; None if there was none of that name."""
        return self.get(stage, number) or self._former.get((stage, number))

    def is_planned(self, task: Task) -> bool:
        """Whether a task is one of its stage's as it is planned now: what came before is of no concern any more."""
        return self.get(task.spec.stage, task.spec.task) is task

    def is_complete(self, stage: int) -> bool:
        """Whether a stage is planned and all of its tasks are committed."""
        return self._uncommitted.get(stage) == 0

    def partials(self) -> dict[int, tuple[PartialRef, ...]]:
        """Return the committed partials of every complete stage, in task order."""
        return {
            stage: tuple(task.partial for task in tasks if task.partial is not None)
            for stage, tasks in self._stages.items()
            if self.is_complete(stage)
        }

    def progress(self) -> tuple[int, int]:
        """Return how many tasks are committed, and how many are planned."""
        tasks = [task for stage in self._stages.values() for task in stage]
        return sum(1 for task in tasks if task.partial is not None), len(tasks)

    def all_attempts(self) -> tuple[tuple[TaskSpec, tuple[Attempt, ...]], ...]:
        """Return all tasks as they were sent last, each with its attempts so far, by stage and task."""
        planned = {(task.spec.stage, task.spec.task): task for tasks in self._stages.values() for task in tasks}
        known = {**self._former, **planned}
        return tuple((known[name].spec, tuple(known[name].attempts)) for name in sorted(known))
