"""What requests to a modelled store take: first bytes with a tail, bytes, and the limits of prefixes.

Many requests of one task are drawn at once: their sum by the central limit theorem, the longest of them from its own
distribution. So a shuffle of a million reads costs as many draws as it has tasks.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass
from statistics import NormalDist

from benchmarks.scale.assumptions import StorageModel

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """Seconds of some requests, by what they went to; the sum is how long they took in all."""

    latency_s: float = 0.0
    bytes_s: float = 0.0
    limit_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Seconds in all."""
        return self.latency_s + self.bytes_s + self.limit_s


class ModelStore:
    """A store in virtual time.

    Args:
        model: What it is like.
        rng: Draws latencies.

    Attributes:
        requests: Requests so far, by kind.
        bytes_in: Bytes that were read from it.
    """

    def __init__(self, model: StorageModel, rng: random.Random) -> None:
        self.model = model
        self.requests: Counter[str] = Counter()
        self.bytes_in = 0
        self._rng = rng
        self._free_s: dict[tuple[str, str], float] = {}
        self._background: Counter[str] = Counter()
        self._mean = math.exp(model.spread**2 / 2)
        self._deviation = self._mean * math.sqrt(math.exp(model.spread**2) - 1)

    def poll(self, prefix: str, reads_s: float) -> None:
        """Note that a prefix is asked so many times a second all the time: what it answers others is less by that."""
        self._background[prefix] += round(reads_s)

    def one(self, kind: str) -> float:
        """Return the seconds of one request, without bytes to speak of."""
        self.requests[kind] += 1
        return self._longest(kind, 1)

    def several(self, kind: str, count: int, in_flight: int) -> float:
        """Return the seconds of so many requests without bytes, so many under way at a time."""
        if not count:
            return 0.0
        self.requests[kind] += count
        return self._together(kind, count, in_flight)

    def take(
        self,
        now_s: float,
        kind: str,
        prefix: str,
        count: int,
        size_bytes: int,
        *,
        in_flight: int,
        bytes_s: float,
        hedge_s: float | None = None,
    ) -> Took:
        """Return what so many requests below a prefix take.

        Args:
            now_s: When the first one is sent.
            kind: ``get`` or ``put``.
            prefix: Whose limit holds.
            count: How many.
            size_bytes: Their bytes in all.
            in_flight: Under way at a time.
            bytes_s: Bytes per second that reader or writer can take.
            hedge_s: A read that takes longer is asked for again, and counts twice; None never is.
        """
        if not count:
            return Took()
        self.requests[kind] += count
        if kind == "get":
            self.bytes_in += size_bytes
        latency_s = self._together(kind, count, in_flight, hedge_s)
        moved_s = size_bytes / bytes_s
        most_s = self.model.reads_s if kind == "get" else self.model.writes_s
        left_s = max(most_s * 0.05, most_s - (self._background[prefix] if kind == "get" else 0))
        free_s = max(now_s, self._free_s.get((kind, prefix), 0.0)) + count / left_s
        self._free_s[kind, prefix] = free_s
        return Took(latency_s=latency_s, bytes_s=moved_s, limit_s=max(0.0, free_s - now_s - latency_s - moved_s))

    def _together(self, kind: str, count: int, in_flight: int, hedge_s: float | None = None) -> float:
        if count <= in_flight:
            return self._longest(kind, count, hedge_s)
        median_s = self._median_s(kind)
        sum_s = median_s * max(0.0, self._rng.gauss(count * self._mean, math.sqrt(count) * self._deviation))
        slow = 0 if hedge_s is not None else self._slow(count)
        longest_s = self._longest(kind, count, hedge_s)
        return max(sum_s / in_flight, longest_s) + (slow - 1) * longest_s / in_flight * (slow > 1)

    def _slow(self, count: int) -> int:
        """Draw how many of so many requests are slow ones."""
        expected = count * self.model.slow_share
        if not expected:
            return 0
        return int(expected) + (self._rng.random() < expected - int(expected))

    def _longest(self, kind: str, count: int, hedge_s: float | None = None) -> float:
        """Draw the longest of so many requests."""
        rank = self._rng.random() ** (1 / count)
        slow_from = 1 - self.model.slow_share
        if rank < slow_from:
            quantile = max(1e-12, min(rank / slow_from, 1 - 1e-12))
            taken_s = self._median_s(kind) * math.exp(self.model.spread * _NORMAL.inv_cdf(quantile))
        else:
            taken_s = self.model.slowest_s ** ((rank - slow_from) / self.model.slow_share)
        if hedge_s is None or taken_s <= hedge_s:
            return taken_s
        self.requests[kind] += 1
        return min(taken_s, hedge_s + self._median_s(kind))

    def _median_s(self, kind: str) -> float:
        return self.model.write_s if kind in {"put", "delete"} else self.model.read_s

    def cost_usd(self) -> float:
        """Return what all requests so far cost; deletes cost nothing."""
        written = self.requests["put"] + self.requests["list"]
        return written * self.model.write_usd + self.requests["get"] * self.model.read_usd
