"""Handing rows over task by task: which committed task of the stage below the root is next.

The invariant: **the rows of a task go to the user at most once, and only those of the attempt that counts.** So a task
is marked before its first row goes out; what is marked is never sent, redone or counted again, and nothing that it was
made from is made again either, since what is made again may hold other rows, or the same ones elsewhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from apiary_df.errors import ApiaryError, InternalError, PartialLost
from apiary_df.schedule.attempts import Task


class Handing:
    """What is handed over of a stage.

    Args:
        stage: The stage; the root reads no other, and nobody else reads it.

    Attributes:
        begun: Whether any task's rows have been handed over.
    """

    def __init__(self, stage: int) -> None:
        self.stage = stage
        self.begun = False
        self._committed: list[int] = []

    def committed(self, task: Task) -> None:
        """Note that a task of the stage has committed."""
        heapq.heappush(self._committed, task.spec.task)

    def next(self, tasks: Sequence[Task]) -> Task | None:
        """Return the committed task of the lowest number that is not handed over; None if there is none.

        Args:
            tasks: The tasks of the stage, as it is planned now.
        """
        while self._committed:
            number = self._committed[0]
            if number < len(tasks) and tasks[number].partial is not None and not tasks[number].handed_over:
                return tasks[number]
            heapq.heappop(self._committed)  # it is handed over, or was taken back
        return None

    def hand_over(self, task: Task, *, alone: bool) -> None:
        """Mark a task whose rows begin to go out.

        Args:
            task: The task.
            alone: Whether the session does what is not committed itself.

        Raises:
            InternalError: If its rows went out before, or it is still to be made by a node.
        """
        if task.handed_over or (task.partial is None and not alone):
            words = "were handed over before" if task.handed_over else "are not made yet"
            raise InternalError(f"rows of task {task.spec.stage}.{task.spec.task} {words}")
        task.handed_over = self.begun = True

    def forbids(self, task: Task) -> bool:
        """Whether a task must not be done again: it, or what is made from it, was handed over."""
        return self.begun and (task.handed_over or task.spec.stage != self.stage)


def lost_after_rows(error: ApiaryError) -> PartialLost:
    """Return the error of a query that has lost a partial which must not be made again."""
    return PartialLost(
        f"{error.message}; rows that were made from it were handed over already, so it cannot be made again: run the "
        "query again (with stream_result off, rows come once all of them are made, and nothing is lost until then)",
        **error.details,
    )
