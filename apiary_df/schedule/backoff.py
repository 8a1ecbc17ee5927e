"""How long to wait before a task is tried again. Pure: the same task waits the same time in every run."""

from __future__ import annotations

import hashlib

from apiary_df.model import TaskKey

GROWTH = 2.0
"""Factor from one wait to the next."""

LONGEST_WAIT_S = 10.0
"""No wait is longer: what does not pass in ten seconds is better tried than waited for."""

SHARE_OF_REST = 0.5
"""Share of the time to the deadline that a wait may take, so that the attempt after it has some, too."""


def wait_s(key: TaskKey, failures: int, *, first_s: float, now_s: float, deadline_s: float | None) -> float:
    """Return the seconds to wait before the next attempt.

    Exponential, with jitter between a half and the whole, so that tasks that failed together do not come back
    together. The jitter is a hash of the task, not a random number.

    Args:
        key: The attempt that failed.
        failures: How many attempts at the task have failed so far, >= 1.
        first_s: Longest wait after the first failure, in seconds; 0 never waits.
        now_s: The time now.
        deadline_s: When the query must have ended, by the same clock; None if never.
    """
    longest_s = min(LONGEST_WAIT_S, first_s * GROWTH ** min(failures - 1, 30))
    digest = hashlib.blake2b(str(key).encode(), digest_size=4).digest()
    waited_s = longest_s * (0.5 + 0.5 * int.from_bytes(digest, "big") / 2**32)
    if deadline_s is None:
        return waited_s
    return min(waited_s, max(0.0, (deadline_s - now_s) * SHARE_OF_REST))
