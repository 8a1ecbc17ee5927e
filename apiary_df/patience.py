"""How long a session bears with reads that fail: a moment's trouble with the store is no reason to give a query up.

What belongs here: whether it is time to give up. What is read, and what is done meanwhile, is for the readers to say.
"""

from __future__ import annotations

from collections.abc import Callable

from apiary_df.errors import StorageTransient


class Patience:
    """Bears with errors of one kind of read until they have gone on for too long.

    Args:
        limit_s: Seconds from the first of a row of failures, from which on a failure is raised.
        now_s: The clock.
    """

    def __init__(self, limit_s: float, now_s: Callable[[], float]) -> None:
        self._limit_s = limit_s
        self._now_s = now_s
        self._since_s: float | None = None

    def worked(self) -> None:
        """Note that a read did not fail: the row is broken."""
        self._since_s = None

    def bear(self, error: StorageTransient) -> None:
        """Note that a read failed.

        Raises:
            StorageTransient: The same, if reads have failed for too long.
        """
        now_s = self._now_s()
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s >= self._limit_s:
            raise error
