"""How often to look for something that is to appear in storage: often after news, rarely when none has come for long.

A wait is a share of the time for which nothing has come. So news is late by a small part of the time that it took, and
the number of looks grows with the logarithm of that time. Holds no clock: times are arguments.
"""

from __future__ import annotations

from apiary_df.config import Settings

SHARE = 0.2
"""Part of the time without news that a wait takes, up to the ceiling: news is late by a tenth of that on average."""

IDLE_SHARE = 1 / 240
"""The same above the ceiling: for a minute without news on a bucket looks are as frequent as its ceiling says."""


class Pace:
    """The waits between looks.

    Args:
        settings: Settings, filled in for the store.
        now_s: The clock.
    """

    def __init__(self, settings: Settings, now_s: float) -> None:
        self._floor_s = settings.poll_min_s
        self._ceiling_s = max(self._floor_s, settings.poll_max_s or 0.0)
        self._idle_s = max(self._ceiling_s, settings.poll_idle_s or 0.0)
        self._news_s = now_s

    def news(self, now_s: float) -> None:
        """Note that something has come, or that something was sent that will be answered."""
        self._news_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Return how long to wait before the next look, in seconds."""
        still_s = now_s - self._news_s
        expecting_s = min(max(still_s * SHARE, self._floor_s), self._ceiling_s)
        return min(max(still_s * IDLE_SHARE, expecting_s), self._idle_s)
