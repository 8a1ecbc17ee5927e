"""What became of each attempt of a query, and when. Pure: the coordinator says what happens, and tells the time.

What belongs here: what a report and a replay need beyond what the schedule decides by. What does not: any decision, and
writing it down (``query_objects``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from apiary_df.model import TaskKey, TaskSpec
from apiary_df.protocol.messages import CommitRecord
from apiary_df.report import AttemptReport
from apiary_df.schedule import Attempt, Schedule


@dataclass(slots=True, kw_only=True)
class _Course:
    """What is known of one attempt, in seconds from the query's start."""

    sent_s: float
    ended_s: float | None = None
    seconds: float | None = None
    commit: CommitRecord | None = None


class History:
    """When each attempt of a query was sent and ended; all times in seconds from the query's start."""

    def __init__(self) -> None:
        self._courses: dict[TaskKey, _Course] = {}

    def sent(self, key: TaskKey, at_s: float) -> None:
        """Note that an attempt was sent."""
        self._courses[key] = _Course(sent_s=at_s)

    def committed(self, record: CommitRecord, at_s: float) -> None:
        """Note that an attempt's commit record was seen."""
        course = self._courses.get(record.key)
        if course is not None:
            course.ended_s, course.seconds, course.commit = at_s, record.metrics.seconds, record

    def ended(self, key: TaskKey, at_s: float, seconds: float | None = None) -> None:
        """Note that an attempt is over without a commit.

        Args:
            key: The attempt.
            at_s: When that was noticed; the first notice counts.
            seconds: What its node measured, if it told.
        """
        course = self._courses.get(key)
        if course is not None and course.ended_s is None:
            course.ended_s, course.seconds = at_s, seconds

    def attempts(self, schedule: Schedule, stages: int, *, over: bool) -> tuple[AttemptReport, ...]:
        """Return every attempt so far, by stage, task and number.

        Args:
            schedule: Knows what became of each.
            stages: Stages of the query.
            over: Whether the query is over, and so every attempt of it.
        """
        return tuple(self._reports(schedule, stages, over))

    def _reports(self, schedule: Schedule, stages: int, over: bool) -> Iterator[AttemptReport]:
        for stage in range(stages):
            for spec in schedule.specs(stage):
                attempts = schedule.attempts(stage, spec.task)
                counts = any(attempt.outcome == "committed" for attempt in attempts)
                for number, attempt in enumerate(attempts):
                    key = TaskKey(query_id=schedule.query_id, stage=stage, task=spec.task, attempt=number)
                    yield _report(key, spec, attempt, self._courses.get(key), unfinished=_unfinished(counts, over))


def _unfinished(counts: bool, over: bool) -> str:
    """Return what an attempt that nothing was heard of is called."""
    if counts:
        return "superseded"
    return "stopped" if over else "running"


def _report(
    key: TaskKey, spec: TaskSpec, attempt: Attempt, course: _Course | None, *, unfinished: str
) -> AttemptReport:
    known = course or _Course(sent_s=0.0)
    commit = known.commit
    started_s = None
    if known.ended_s is not None and known.seconds is not None:
        started_s = max(known.sent_s, known.ended_s - known.seconds)
    return AttemptReport(
        stage=key.stage,
        task=key.task,
        attempt=key.attempt,
        node_id=attempt.node_id,
        outcome=unfinished if attempt.outcome == "running" else attempt.outcome,
        error=None if attempt.error is None else attempt.error.to_info(),
        why=spec.why,
        sent_s=None if course is None else known.sent_s,
        started_s=started_s,
        ended_s=known.ended_s,
        seconds=known.seconds,
        queued_s=None if commit is None else commit.metrics.queued_s,
        rows=0 if commit is None else commit.partial.rows,
        input_bytes=spec.input_bytes,
        output_bytes=0 if commit is None else commit.partial.length,
    )
