"""Where a run of a query stands: since when it runs and how long it may, how many rows went out, how it ended.

What belongs here: what reports and deadlines are reckoned from, and whether the run may still be cancelled. What does
not: what became of its tasks (:mod:`apiary_df.history`), and what is to be done (:mod:`apiary_df.schedule`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone

from apiary_df.errors import ErrorInfo
from apiary_df.history import ending_of
from apiary_df.host import Host
from apiary_df.report import QueryEnd


class Standing:
    """Where one run stands.

    Args:
        timeout_s: Seconds that it may take; None: it has no deadline.
        now_s: The machine's monotonic clock.

    Attributes:
        timeout_s: As given.
        made_at: When the run was asked for, for people.
        started_s: When it began, by that clock; 0 before.
        rows: Rows of the result that were handed over.
        first_row_s: How long it had run by the first of them; None before.
        state: How it ended.
        error: Why it failed.
    """

    def __init__(self, timeout_s: float | None, now_s: Callable[[], float]) -> None:
        self.timeout_s = timeout_s
        self.made_at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self.started_s = 0.0
        self.rows = 0
        self.first_row_s: float | None = None
        self.state: QueryEnd = "running"
        self.error: ErrorInfo | None = None
        self._now_s = now_s
        self._ended_s: float | None = None

    def begin(self) -> None:
        """Note that it begins."""
        self.started_s = self._now_s()

    def handed_over(self, rows: int) -> None:
        """Note that rows of the result go out."""
        if not self.rows:
            self.first_row_s = self.at_s()
        self.rows += rows

    def end(self, failure: BaseException | None) -> None:
        """Note how it ended: what broke it off, or None if nothing did."""
        self._ended_s = self._now_s()
        self.state, self.error = ending_of(failure)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._ended_s is not None

    def at_s(self) -> float:
        """Return how long it has been since it began."""
        return self._now_s() - self.started_s

    def elapsed_s(self) -> float:
        """Return how long it has run, or had when it ended; 0 before it begins."""
        if not self.started_s:
            return 0.0
        return self.at_s() if self._ended_s is None else self._ended_s - self.started_s

    @property
    def deadline_s(self) -> float | None:
        """When it must have ended, by the machine's clock; None if it has no deadline."""
        return None if self.timeout_s is None else self.started_s + self.timeout_s

    def is_overdue(self) -> bool:
        """Whether its deadline has passed."""
        return self.timeout_s is not None and self.at_s() > self.timeout_s

    def remaining_s(self) -> float | None:
        """Return how long it may still run; None if it has no deadline."""
        return None if self.timeout_s is None else max(0.0, self.timeout_s - self.at_s())


class Cancelling:
    """Whether a run is to end before its time, and whether it is too late for that. Thread-safe.

    Args:
        host: The machine.

    Attributes:
        flag: Set when somebody wants it to end.
    """

    def __init__(self, host: Host) -> None:
        self.flag = host.event()
        self._settling = host.lock()
        self._settled = False

    def settle(self) -> bool:
        """Pass the point from which on the run cannot be cancelled; False if it was cancelled before."""
        with self._settling:
            self._settled = not self.flag.is_set()
            return self._settled

    def is_settled(self) -> bool:
        """Whether that point has been passed."""
        with self._settling:
            return self._settled
