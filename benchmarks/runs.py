"""Running a suite on several engines at once: cold starts, then query by query, the engines in turn.

All engines stay up during a run, each in its own process, and every query runs on all of them before the next one. So
what the machine does meanwhile happens to all alike, and the ratio of two engines means something even where their
times do not. The order is another in each round. The first run of a query on an engine is not measured: its answer
is compared, and the memory of its processes is watched meanwhile.
"""

from __future__ import annotations

import datetime
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import datafusion
import pyarrow as pa

from apiary_df.tables import register_object_store_for
from benchmarks.answers import Answers
from benchmarks.engines.adapter import KINDS, SINGLE, Kind, Setup
from benchmarks.engines.client import EngineFailed, EngineProcess
from benchmarks.harness import environment
from benchmarks.memory_watch import MemoryWatch
from benchmarks.places import Place, Storage, placed
from benchmarks.record import NOT_COMPARED, EngineRecord, Outcome, QueryRecord, Record
from benchmarks.suites import BenchSuite, make_tables, plain_tables

Say = Callable[[str], None]
"""Takes what is being done, in a few words."""

_Engine = TypeVar("_Engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """An engine that is asked for: ``swarm:small_bytes=0`` is the swarm with a setting of its own.

    Attributes:
        name: As it was asked for.
        kind: The engine.
        options: Its settings.
    """

    name: str
    kind: Kind
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be measured.

    Attributes:
        suite: The suite.
        scale: Its scale factor.
        storage: Where tables and the swarm's root lie.
        engines: Which, in order.
        workers: Cores of each engine.
        repeat: Measured runs of each query on each engine.
        cold_starts: Starts of each engine, each until the first row; the last one's processes stay.
        queries: Names of the queries; all if empty.
        folder: Where tables and scratch files lie.
        foreign_python: The interpreter of engines that have an environment of their own; None: this one.
        timeout_s: What one run of a query may take.
    """

    suite: BenchSuite
    scale: float
    storage: Storage
    engines: tuple[Chosen, ...]
    workers: int = 2
    repeat: int = 3
    cold_starts: int = 1
    queries: tuple[str, ...] = ()
    folder: Path = Path(".bench")
    foreign_python: str | None = None
    timeout_s: float = 300.0


def parse_engines(text: str) -> tuple[Chosen, ...]:
    """Read ``swarm,swarm:small_bytes=0,datafusion`` or ``all``.

    Raises:
        ValueError: An engine is not known or named twice, or an option has no value; the message says which.
    """
    names = list(KINDS) if text == "all" else [name.strip() for name in text.split(",")]
    chosen = []
    for name in names:
        kind, *options = name.split(":")
        if kind not in KINDS:
            raise ValueError(f"there is no engine {kind!r}; there are {', '.join(KINDS)}")
        if not all("=" in option for option in options):
            raise ValueError(f"engine {name!r}: options are given as {kind}:name=value")
        chosen.append(Chosen(name=name, kind=KINDS[kind], options=dict(o.split("=", 1) for o in options)))
    if len({one.name for one in chosen}) < len(chosen):
        raise ValueError(f"an engine is named twice in {text!r}; an option makes it another: swarm:timeout_s=60")
    return tuple(chosen)


def run_suite(wanted: Wanted, say: Say = lambda _: None) -> Iterator[Record]:
    """Measure; yields the record after the engines have started, and again after each query, ever more complete.

    Args:
        wanted: What.
        say: Is told what is being done.

    Raises:
        ConfigError: The scale makes no sense, or a generator is not installed.
        TableError: A generator failed.
    """
    say(f"tables of {wanted.suite.data}, scale {wanted.scale:g}")
    tables = make_tables(wanted.suite, wanted.folder, wanted.scale)
    plain: Mapping[str, Path] = {}
    if any(one.kind.plain_tables for one in wanted.engines):
        plain = plain_tables(tables, wanted.folder.resolve() / f"{wanted.suite.data}-{wanted.scale:g}-plain")
    with ExitStack() as stack:
        place = stack.enter_context(placed(wanted.storage, tables, plain))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apiary-bench-")))
        run = _Run(wanted, place, scratch, say)
        stack.callback(run.close)
        yield from run.measure()


class _Run:
    def __init__(self, wanted: Wanted, place: Place, scratch: Path, say: Say) -> None:
        self._wanted = wanted
        self._place = place
        self._scratch = scratch
        self._say = say
        self._engines: dict[str, EngineProcess] = {}
        self._rounds = 0
        session = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(wanted.workers))
        for name, url in place.tables.items():
            register_object_store_for(session, url)
            session.register_parquet(name, url)
        self._answers = Answers(session)

    def close(self) -> None:
        for name, engine in self._engines.items():
            self._say(f"ending {name}")
            engine.close()

    def measure(self) -> Iterator[Record]:
        wanted = self._wanted
        record = Record(
            suite=wanted.suite.name,
            scale=wanted.scale,
            storage=wanted.storage.value,
            workers=wanted.workers,
            repeat=wanted.repeat,
            started_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            facts=environment(),
            engines=tuple(self._start_cold(one) for one in wanted.engines),
        )
        yield record
        for name, sql in wanted.suite.queries.items():
            if not wanted.queries or name in wanted.queries:
                record = replace(record, queries=(*record.queries, self._query(name, sql)))
                yield record

    # -- starting ------------------------------------------------------------------------------------------------------

    def _start(self, one: Chosen) -> EngineProcess:
        foreign = one.kind.foreign and self._wanted.foreign_python is not None
        number = len(list(self._scratch.iterdir()))
        setup = Setup(
            tables=self._place.plain if one.kind.plain_tables else self._place.tables,
            workers=self._wanted.workers,
            scratch=str(self._scratch / f"{number}-{one.kind.name}"),
            # Several swarms in one run keep to roots of their own.
            root=None if self._place.root is None else f"{self._place.root}/{number}",
            options=one.options,
        )
        python = str(self._wanted.foreign_python) if foreign else sys.executable
        return EngineProcess(one.kind, setup, python=python, timeout_s=self._wanted.timeout_s)

    def _start_cold(self, one: Chosen) -> EngineRecord:
        record = EngineRecord(name=one.name, what=one.kind.what, target=one.kind.target)
        first = self._wanted.suite.queries[self._wanted.suite.first]
        for number in range(self._wanted.cold_starts):
            self._say(f"starting {one.name}, {number + 1} of {self._wanted.cold_starts}")
            try:
                engine = self._start(one)
            except EngineFailed as error:
                missing = "ModuleNotFoundError" in str(error) or "PackageNotFoundError" in str(error)
                advice = f"; to install it: pip install 'apiary-df[{one.kind.extra}]'" if missing else ""
                return replace(record, failure=f"{error}{advice}")
            try:
                took = _seconds_to_first_row(engine, first)
            except EngineFailed as error:
                engine.close()
                return replace(record, failure=str(error))
            started = engine.started
            record = replace(record, version=started.version, first_row_s=(*record.first_row_s, took))
            if number == 0:
                record = replace(record, import_s=started.import_s, start_s=started.start_s)
            if number + 1 < self._wanted.cold_starts:
                engine.close()
            else:
                self._engines[one.name] = engine
        return record

    # -- a query -------------------------------------------------------------------------------------------------------

    def _query(self, name: str, sql: str) -> QueryRecord:
        running = [one for one in self._wanted.engines if one.name in self._engines]
        # Plain DataFusion first: its answer is what the others are compared with.
        running.sort(key=lambda one: one.name != SINGLE)
        outcomes: dict[str, Outcome] = {}
        expected: pa.Table | None = None
        for one in running:
            self._say(f"{name} on {one.name}, first run")
            outcomes[one.name], actual = self._first_run(one, sql)
            if self._wanted.suite.compare and outcomes[one.name].failure is None and actual is not None:
                if expected is None:
                    expected = actual if one.name == SINGLE else self._answers.expected(sql)
                answer = self._answers.judge(sql, expected, actual, exact=not _other_types(one.kind))
                outcomes[one.name] = replace(outcomes[one.name], answer=answer)
        for turn in range(self._wanted.repeat):
            still = [one for one in running if outcomes[one.name].failure is None]
            for one in in_turn(still, self._rounds):
                self._say(f"{name} on {one.name}, {turn + 1} of {self._wanted.repeat}")
                outcomes[one.name] = self._measured_run(one, sql, outcomes[one.name])
            self._rounds += 1
        rows = 0 if expected is None else expected.num_rows
        return QueryRecord(name=name, rows=rows, outcomes={one.name: outcomes[one.name] for one in running})

    def _first_run(self, one: Chosen, sql: str) -> tuple[Outcome, pa.Table | None]:
        try:
            engine = self._alive(one)
            path = self._scratch / "answer.arrow"
            with MemoryWatch(engine.pid) as watch:
                ran = engine.run(sql, path)
        except EngineFailed as error:
            return Outcome(failure=str(error)), None
        with pa.memory_map(str(path)) as file:
            # Copied out of the mapping, since the next answer takes the file's place.
            table = pa.ipc.open_file(pa.BufferReader(file.read())).read_all()
        answer = "" if self._wanted.suite.compare else NOT_COMPARED
        return (
            Outcome(answer=answer, warmup_s=ran.seconds, peak_memory_bytes=watch.peak_bytes, report=ran.report),
            table,
        )

    def _measured_run(self, one: Chosen, sql: str, outcome: Outcome) -> Outcome:
        endpoint = self._place.endpoint
        try:
            engine = self._alive(one)
            if endpoint is not None:
                endpoint.reset()
            seconds = engine.run(sql).seconds
        except EngineFailed as error:
            return replace(outcome, failure=str(error), seconds=(), arrived=())
        arrived = () if endpoint is None else (endpoint.counts(),)
        return replace(outcome, seconds=(*outcome.seconds, seconds), arrived=(*outcome.arrived, *arrived))

    def _alive(self, one: Chosen) -> EngineProcess:
        """Return the engine's process; a new one if it died of an earlier query."""
        engine = self._engines[one.name]
        if not engine.alive:
            engine.close()
            engine = self._engines[one.name] = self._start(one)
        return engine


def _seconds_to_first_row(engine: EngineProcess, sql: str) -> float:
    engine.run(sql)
    return time.perf_counter() - engine.began_s


def _other_types(kind: Kind) -> bool:
    return kind.package not in {"apiary-df", "datafusion"}


def in_turn(engines: Sequence[_Engine], turn: int) -> list[_Engine]:
    """Return engines in the order of a round, which is the same in every run.

    What an engine goes on doing after a query disturbs the next one, so that is not to be the same one each time.
    """
    return random.Random(turn).sample(engines, len(engines))
