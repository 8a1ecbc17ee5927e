"""What became of each attempt of a query, and when. The coordinator says what happens, and tells the time.

What belongs here: what reports and a replay need beyond what the schedule decides by. What does not: any decision, and
writing it down (:mod:`apiary_df.query_objects`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from apiary_df.errors import ApiaryError, ErrorInfo, InternalError, QueryCancelled
from apiary_df.model import CellUse, PartialRef, TaskKey, TaskSpec
from apiary_df.protocol.kept import Outcome
from apiary_df.protocol.messages import CommitRecord
from apiary_df.report import AttemptReport, QueryEnd, QueryReport
from apiary_df.schedule import Attempt, Schedule
from apiary_df.schedule import Outcome as AttemptOutcome

MOST_KEPT = 50_000
"""Attempts that are kept of a query: an outcome of so many has some 40 MB, and is a single message."""


@dataclass(slots=True, kw_only=True)
class _Course:
    """What is known of one attempt beyond what the schedule knows."""

    why: str = ""
    here: bool = False
    seconds: float | None = None
    partial: PartialRef | None = None
    record: CommitRecord | None = None


def ending_of(failure: BaseException | None) -> tuple[QueryEnd, ErrorInfo | None]:
    """Return how a query ended, and the error if it failed.

    Args:
        failure: What broke its run off; None if nothing did.
    """
    if failure is None:
        return "done", None
    if isinstance(failure, (GeneratorExit, KeyboardInterrupt, QueryCancelled)):
        return "cancelled", None
    if isinstance(failure, ApiaryError):
        return "failed", failure.to_info()
    return "failed", InternalError(f"{type(failure).__name__}: {failure}").to_info()


class History:
    """What each attempt of a query did. Moments are in seconds from the query's start.

    Args:
        query_id: The query.
        coordinator: Id of the session that runs it.
        root: Number of the stage that the session runs itself, with the result.
    """

    def __init__(self, query_id: str, coordinator: str, root: int) -> None:
        self._query_id = query_id
        self._coordinator = coordinator
        self._root = root
        self._courses: dict[TaskKey, _Course] = {}
        self._roots: list[AttemptReport] = []

    def sent(self, key: TaskKey, why: str, *, here: bool = False) -> None:
        """Note that an attempt was sent, or begun in the session's own process, and why there."""
        self._courses[key] = _Course(why=why, here=here)

    def committed(self, record: CommitRecord) -> None:
        """Note that an attempt's commit record was seen."""
        course = self._courses.setdefault(record.key, _Course())
        course.seconds, course.partial, course.record = record.metrics.seconds, record.partial, record

    def stored(self, key: TaskKey, partial: PartialRef, seconds: float) -> None:
        """Note that the session has put a table into storage itself, and how long it took."""
        course = self._courses[key]
        course.seconds, course.partial = seconds, partial

    def failed(self, key: TaskKey, seconds: float | None) -> None:
        """Note how long an attempt took that failed, as its node measured; None if it told nothing."""
        course = self._courses.get(key)
        if course is not None and course.seconds is None:
            course.seconds = seconds

    def root_began(self, at_s: float, why: str) -> None:
        """Note that the session began the stage that makes the result."""
        self._roots.append(
            AttemptReport(
                stage=self._root,
                task=0,
                attempt=len(self._roots),
                node_id=self._coordinator,
                outcome="running",
                here=True,
                why=why,
                sent_s=at_s,
                started_s=at_s,
            )
        )

    def root_ended(self, at_s: float, rows: int, outcome: str, error: ErrorInfo | None = None) -> None:
        """Note how that ended; nothing if it never began, or has ended before.

        Args:
            at_s: When.
            rows: Rows that were handed over.
            outcome: One of :data:`apiary_df.report.OUTCOMES`.
            error: The cause, if it failed.
        """
        if self._roots and self._roots[-1].outcome == "running":
            begun = self._roots[-1]
            self._roots[-1] = replace(
                begun,
                outcome=outcome,
                error=error,
                ended_s=at_s,
                seconds=at_s - (begun.started_s or 0.0),
                rows=rows,
            )

    def root_read(self, use: CellUse) -> None:
        """Note what the session's cell cache did for the stage that makes the result."""
        if self._roots:
            self._roots[-1] = replace(self._roots[-1], cache=use, cells=use.hits + use.misses)

    def commits(self) -> tuple[CommitRecord, ...]:
        """Return the commit records that were seen, in the order in which their attempts were sent."""
        return tuple(course.record for course in self._courses.values() if course.record is not None)

    def stored_bytes(self) -> int:
        """Return the bytes of all partials, those of the session's own tables among them."""
        return sum(course.partial.length for course in self._courses.values() if course.partial is not None)

    def attempts(self, schedule: Schedule, started_s: float, *, over: bool) -> tuple[AttemptReport, ...]:
        """Return every attempt so far, by stage, task and number.

        Args:
            schedule: Knows what became of each, and when.
            started_s: When the query started, by the clock that the schedule was told.
            over: Whether the query is over, and so every attempt of it.
        """
        return (*self._reports(schedule, started_s, over=over), *self._roots)

    def outcome(self, report: QueryReport, started_at: str) -> Outcome:
        """Return what is kept of a query that has ended.

        Args:
            report: What it did.
            started_at: When it started, for people.
        """
        attempts = _that_fit(report.attempts)
        return Outcome(
            query_id=self._query_id,
            coordinator=self._coordinator,
            state=report.state,
            error=report.error,
            sql=report.sql,
            reason=report.reason,
            started_at=started_at,
            seconds=report.elapsed_s,
            rows=report.rows,
            root=self._root,
            attempts=attempts,
            folded=report.folded_stages,
            omitted=len(report.attempts) - len(attempts),
        )

    def _reports(self, schedule: Schedule, started_s: float, *, over: bool) -> Iterator[AttemptReport]:
        unfinished = "stopped" if over else "running"
        for spec, attempts in schedule.all_attempts():
            for number, attempt in enumerate(attempts):
                key = TaskKey(query_id=self._query_id, stage=spec.stage, task=spec.task, attempt=number)
                running = attempt.outcome is AttemptOutcome.RUNNING
                outcome = unfinished if running else attempt.outcome.value
                course = self._courses.get(key, _Course())
                yield _report(key, spec, attempt, course, outcome=outcome, started_s=started_s)


def _that_fit(attempts: tuple[AttemptReport, ...]) -> tuple[AttemptReport, ...]:
    """Return as many attempts as are kept: all, or those that went wrong first, and then the slowest."""
    if len(attempts) <= MOST_KEPT:
        return attempts
    worth = sorted(attempts, key=lambda attempt: (attempt.outcome == "committed", -attempt.seconds))
    return tuple(sorted(worth[:MOST_KEPT], key=lambda attempt: (attempt.stage, attempt.task, attempt.attempt)))


def _report(
    key: TaskKey, spec: TaskSpec, attempt: Attempt, course: _Course, *, outcome: str, started_s: float
) -> AttemptReport:
    sent_s = max(0.0, attempt.sent_s - started_s)
    ended_s = None if attempt.ended_s is None else max(sent_s, attempt.ended_s - started_s)
    begun_s = None
    if ended_s is not None and course.seconds is not None:
        # Nodes' clocks say how long it took, never when.
        begun_s = max(sent_s, ended_s - course.seconds)
    metrics = None if course.record is None else course.record.metrics
    return AttemptReport(
        stage=key.stage,
        task=key.task,
        attempt=key.attempt,
        node_id=attempt.node_id,
        outcome=outcome,
        here=course.here,
        error=None if attempt.error is None else attempt.error.to_info(),
        why=course.why,
        sent_s=sent_s,
        started_s=begun_s,
        ended_s=ended_s,
        seconds=course.seconds or 0.0,
        queued_s=0.0 if metrics is None else metrics.queued_s,
        rows=0 if course.partial is None else course.partial.rows,
        cells=len(spec.cells),
        input_bytes=spec.input_bytes,
        output_bytes=0 if course.partial is None else course.partial.length,
        lies="" if course.partial is None else course.partial.lies,
        spills=0 if metrics is None else metrics.spill_count,
        spilled_bytes=0 if metrics is None else metrics.spilled_bytes,
        cache=CellUse() if metrics is None else metrics.cache,
        requests={} if metrics is None else metrics.requests,
        epoch=attempt.epoch,
        slots=attempt.slots,
        speculative=attempt.speculative,
    )
