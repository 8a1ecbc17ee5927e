"""What a run leaves: values that are saved as JSON, and the figures that follow from them.

Nothing is measured or shown here. A record is enough for tables, plots and comparisons, so that a saved one can be
looked at again as if it had just been made.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.engines.adapter import SINGLE
from benchmarks.harness import write_json

FORMAT = 1
"""Number of the layout; another one is refused."""

SAME = "same"
NOT_COMPARED = "not compared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one query on one engine.

    Attributes:
        answer: ``same``, ``not compared``, or what is wrong with the answer; empty if there was none.
        failure: Why it has no figures; None if it has.
        seconds: Of the measured runs, in the order of the rounds.
        warmup_s: Of the first run, which is not measured.
        peak_memory_bytes: Most memory of the engine's processes during the first run.
        report: What the engine told of its first run.
        arrived: For each measured run on an S3 endpoint, what arrived there: counts by kind, and bytes, by the first
            segment of keys. The polling of other engines is among it, under the swarm's own segment.
    """

    answer: str = ""
    failure: str | None = None
    seconds: tuple[float, ...] = ()
    warmup_s: float = 0.0
    peak_memory_bytes: int = 0
    report: dict[str, Any] | None = None
    arrived: tuple[dict[str, dict[str, int]], ...] = ()

    @property
    def median_s(self) -> float:
        """Median of the measured runs, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """How far apart the slowest and the fastest run are, as a part of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median_s


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """One engine of a run.

    Attributes:
        name: As ``--engines`` named it, options included.
        what: What ran, in words.
        version: Of its package.
        failure: Why it did not start; None if it did.
        first_row_s: From starting its process to the first row of the suite's first query, for each cold start.
        import_s: Seconds of importing it, in the first cold start.
        start_s: Seconds from then until tables were registered.
        target: How many times as fast as it the swarm is meant to be.
    """

    name: str
    what: str
    version: str = ""
    failure: str | None = None
    first_row_s: tuple[float, ...] = ()
    import_s: float = 0.0
    start_s: float = 0.0
    target: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRecord:
    """One query: its name, the rows of the right answer, and what came of it by the engine's name."""

    name: str
    rows: int
    outcomes: dict[str, Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A run.

    Attributes:
        suite: Name of the suite.
        scale: Its scale factor.
        storage: Where tables and root lay.
        workers: Cores that each engine was given.
        repeat: Measured runs of each query on each engine.
        started_at: ISO 8601.
        facts: Machine and versions.
        engines: In the order in which they were asked for.
        queries: In the order in which they ran.
        format: Number of the layout.
    """

    suite: str
    scale: float
    storage: str
    workers: int
    repeat: int
    started_at: str
    facts: dict[str, Any]
    engines: tuple[EngineRecord, ...]
    queries: tuple[QueryRecord, ...] = ()
    format: int = field(default=FORMAT)

    @property
    def base(self) -> str:
        """The engine that the others are measured against: plain DataFusion if it ran, else the first that did."""
        ran = [engine.name for engine in self.engines if engine.failure is None]
        return SINGLE if SINGLE in ran or not ran else ran[0]

    def title(self) -> str:
        """Return a line that says what was measured."""
        return f"{self.suite} scale {self.scale:g}, {self.workers} workers, {self.storage}, median of {self.repeat}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """An engine against the base over all queries that both ran.

    Attributes:
        queries: How many that are.
        seconds: Sum of the engine's medians.
        ratio: Against the base's sum over the same queries; less is faster.
        lowest: Smallest ratio of one round to the same round of the base.
        highest: Largest one.
        worst: The largest ratio of a single query, and its name.
        failed: Names of queries that failed.
        wrong: Names of queries whose answer is not that of the base.
    """

    queries: int
    seconds: float
    ratio: float
    lowest: float
    highest: float
    worst: tuple[float, str]
    failed: tuple[str, ...]
    wrong: tuple[str, ...]


def ratios(record: Record, query: QueryRecord, engine: str, base: str | None = None) -> tuple[float, ...]:
    """Return an engine's seconds over the base's, round by round; empty if one of them has none."""
    own, other = query.outcomes.get(engine), query.outcomes.get(base or record.base)
    if own is None or other is None or not own.seconds or not other.seconds:
        return ()
    return tuple(a / b for a, b in zip(own.seconds, other.seconds, strict=True))


def ratio(record: Record, query: QueryRecord, engine: str, base: str | None = None) -> float | None:
    """Return an engine's median over the base's; None if one of them has none."""
    if not ratios(record, query, engine, base):
        return None
    return query.outcomes[engine].median_s / query.outcomes[base or record.base].median_s


def total(record: Record, engine: str, base: str | None = None) -> Total | None:
    """Add up an engine's queries against another's, the base's if none is named; None if no query ran on both."""
    against = base or record.base
    both = [query for query in record.queries if ratios(record, query, engine, against)]
    if not both:
        return None
    own = [query.outcomes[engine] for query in both]
    other = [query.outcomes[against] for query in both]
    rounds = [
        sum(outcome.seconds[i] for outcome in own) / sum(outcome.seconds[i] for outcome in other)
        for i in range(record.repeat)
    ]
    seconds = sum(outcome.median_s for outcome in own)
    each = [(value, query.name) for query in both if (value := ratio(record, query, engine, against)) is not None]
    outcomes = {query.name: query.outcomes[engine] for query in record.queries if engine in query.outcomes}
    return Total(
        queries=len(both),
        seconds=seconds,
        ratio=seconds / sum(outcome.median_s for outcome in other),
        lowest=min(rounds),
        highest=max(rounds),
        worst=max(each),
        failed=tuple(name for name, outcome in outcomes.items() if outcome.failure is not None),
        wrong=tuple(name for name, outcome in outcomes.items() if is_wrong(outcome)),
    )


def is_wrong(outcome: Outcome) -> bool:
    """Whether an answer was compared and differs."""
    return outcome.answer not in {"", SAME, NOT_COMPARED}


def peak_memory_bytes(record: Record, engine: str) -> int:
    """Return the most memory that an engine's processes had in any query, in bytes."""
    return max((q.outcomes[engine].peak_memory_bytes for q in record.queries if engine in q.outcomes), default=0)


def times_as_fast(record: Record) -> Iterator[tuple[EngineRecord, float]]:
    """Yield the engines that the swarm has a target for, and how many times as fast it was over the same queries."""
    for engine in record.engines:
        found = None if engine.target is None else total(record, engine.name, "swarm")
        if found is not None:
            yield engine, found.ratio


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON."""
    write_json(path, msgspec.to_builtins(record))


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        ValueError: The file is not there, or no record of this layout; the message says which.
    """
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no record of `python -m benchmarks run`: {error}") from error
    if record.format != FORMAT:
        raise ValueError(f"{path} has layout {record.format}, this reads {FORMAT}; measure again")
    return record
