"""Many seeds, and what they came to."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .simulation import Verdict, simulate

CHUNK = 50
"""Seeds that a process is given at a time."""


@dataclass(slots=True)
class Tally:
    """Verdicts of many seeds, put together.

    Attributes:
        seeds: How many.
        seconds: Virtual seconds that they lasted in all.
        seeds_of_kind: How many made what hard.
        ended: How queries ended, by kind of seed.
        failed: The verdicts with problems.
    """

    seeds: int = 0
    seconds: float = 0.0
    seeds_of_kind: Counter[str] = field(default_factory=Counter)
    ended: dict[str, Counter[str]] = field(default_factory=dict)
    failed: list[Verdict] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        """Count one."""
        self.seeds += 1
        self.seconds += verdict.seconds
        self.seeds_of_kind[verdict.kind] += 1
        self.ended.setdefault(verdict.kind, Counter()).update(outcome.ended for outcome in verdict.outcomes)
        if verdict.problems:
            self.failed.append(verdict)

    def queries(self) -> int:
        """Return how many queries were asked."""
        return sum(sum(ended.values()) for ended in self.ended.values())

    def answered(self, kind: str | None = None) -> int:
        """Return how many queries gave their rows, of one kind or of all."""
        return sum(ended["rows"] for name, ended in self.ended.items() if kind in (None, name))


def verdicts(seeds: Iterable[int], jobs: int) -> Iterator[Verdict]:
    """Play seeds, in as many processes; verdicts come in the order of the seeds."""
    if jobs == 1:
        yield from map(simulate, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(simulate, seeds, chunksize=CHUNK)
