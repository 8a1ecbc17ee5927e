"""A join and a sort over more than the bees' memory: the data, the runs, and what their processes hold meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import datafusion
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apiary_df import LocalSwarm, SessionContext
from apiary_df.errors import ApiaryError
from apiary_df.report import QueryReport

SAMPLE_S = 0.02
ROW_BYTES = 64
"""Eight columns of eight bytes, of random numbers, which no encoding makes smaller."""

COLUMNS = ("k", "a", "b", "c", "d", "e", "f", "g")
FILE_ROWS = 250_000

# Every row of both sides is looked at, and 97 groups come back; sums of numbers this small are exact.
JOIN = (
    "SELECT l.k % 97 AS m, count(*) AS n, sum(l.a % 1000 + l.b % 1000 + l.c % 1000 + l.d % 1000) AS ls, "
    "sum(l.e % 1000 + l.f % 1000 + l.g % 1000) AS lt, sum(r.a % 1000 + r.g % 1000) AS rs "
    "FROM build l JOIN probe r ON l.k = r.k GROUP BY m ORDER BY m"
)
SORT = "SELECT * FROM build ORDER BY a, k"


@dataclass(slots=True, kw_only=True)
class Held:
    """What a swarm's processes held while something ran, in bytes.

    Attributes:
        node_bytes: Most that one node's processes held together, anonymous memory, shared pages counted once.
        bee_bytes: Most that one bee held of its own.
        killed: Processes that the watchdog killed.
    """

    node_bytes: int = 0
    bee_bytes: int = 0
    killed: int = 0


@dataclass(slots=True)
class Watchdog:
    """Looks at a swarm's processes all the time; see :class:`Held`."""

    pids: tuple[int, ...]
    limit_bytes: int | None
    held: Held = field(default_factory=Held)
    base: dict[int, int] = field(default_factory=dict)

    @contextmanager
    def watching(self) -> Iterator[Held]:
        """Watch until the end of the block; what was seen in it is in the value."""
        self.held = Held()
        over = threading.Event()
        thread = threading.Thread(target=self._run, args=(over,), daemon=True)
        thread.start()
        try:
            yield self.held
        finally:
            over.set()
            thread.join()

    def _run(self, over: threading.Event) -> None:
        while not over.wait(SAMPLE_S):
            for pid in self.pids:
                self._look(pid)

    def _look(self, node: int) -> None:
        sizes = {pid: anonymous(pid) for pid in (node, *descendants(node))}
        for pid, size in sizes.items():
            base = self.base.setdefault(pid, size)
            if pid != node:
                self.held.bee_bytes = max(self.held.bee_bytes, size - base)
        # The bees' start is shared with the node until either writes to it: it is counted once.
        shared = sum(self.base[pid] for pid in sizes if pid != node)
        total = max(sum(sizes.values()) - shared, 0)
        self.held.node_bytes = max(self.held.node_bytes, total)
        if self.limit_bytes is not None and total > self.limit_bytes:
            self.held.killed += 1
            os.kill(max(sizes, key=lambda pid: sizes[pid]), signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(deeper for child in children for deeper in descendants(child))]


def anonymous(pid: int) -> int:
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def generate(folder: Path, table_bytes: int) -> Mapping[str, Path]:
    """Write two tables of that size in memory each, with the same keys in another order; returns their folders."""
    rows = table_bytes // ROW_BYTES
    paths = {name: folder / name for name in ("build", "probe")}
    if (folder / "done").exists():
        return paths
    random = np.random.default_rng(7)
    for path in paths.values():
        path.mkdir(parents=True, exist_ok=True)
        keys = random.permutation(rows)
        for number, start in enumerate(range(0, rows, FILE_ROWS)):
            part = keys[start : start + FILE_ROWS]
            data = {"k": part} | {name: random.integers(0, 2**62, len(part)) for name in COLUMNS[1:]}
            pq.write_table(pa.table(data), path / f"{number}.parquet", compression="none", use_dictionary=False)
    (folder / "done").touch()
    return paths


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a query went.

    Attributes:
        name: The query.
        same: Whether its rows were plain DataFusion's, in order.
        error: What it raised, if it did.
        seconds: How long it took.
        tasks: Tasks that were committed.
        failed: Attempts that failed, by code of their error.
        spilled_bytes: Bytes that its tasks spilled.
        node_bytes: See :class:`Held`.
        bee_bytes: See :class:`Held`.
        killed: See :class:`Held`.
    """

    name: str
    same: bool
    error: str
    seconds: float
    tasks: int
    failed: Mapping[str, int]
    spilled_bytes: int
    node_bytes: int
    bee_bytes: int
    killed: int


def run(name: str, sql: str, swarm: SessionContext, plain: datafusion.SessionContext, watchdog: Watchdog) -> Outcome:
    """Run a query on the swarm, and compare its rows with plain DataFusion's as both come."""
    error, same = "", False
    start_s = time.monotonic()
    with watchdog.watching() as held:
        try:
            stream = swarm.sql(sql).execute_stream()
            same = same_rows(
                (batch.to_pyarrow() for batch in stream), (b.to_pyarrow() for b in plain.sql(sql).execute_stream())
            )
        except ApiaryError as raised:
            error = str(raised)
    report = swarm.last_query
    assert isinstance(report, QueryReport)
    failed: dict[str, int] = {}
    for attempt in report.attempts:
        if attempt.error is not None:
            failed[attempt.error.code] = failed.get(attempt.error.code, 0) + 1
    return Outcome(
        name=name,
        same=same,
        error=error,
        seconds=time.monotonic() - start_s,
        tasks=report.tasks,
        failed=failed,
        spilled_bytes=sum(attempt.spilled_bytes for attempt in report.attempts),
        node_bytes=held.node_bytes,
        bee_bytes=held.bee_bytes,
        killed=held.killed,
    )


def same_rows(actual: Iterator[pa.RecordBatch], expected: Iterator[pa.RecordBatch]) -> bool:
    """Compare two streams row by row, in order, without holding either."""
    left, right = pa.table({}), pa.table({})
    while True:
        while not left.num_rows and (batch := next(actual, None)) is not None:
            left = pa.Table.from_batches([batch])
        while not right.num_rows and (batch := next(expected, None)) is not None:
            right = pa.Table.from_batches([batch])
        rows = min(left.num_rows, right.num_rows)
        if not rows:
            return bool(left.num_rows == right.num_rows)
        if not left.slice(0, rows).equals(right.slice(0, rows)):
            return False
        left, right = left.slice(rows), right.slice(rows)


def measured(
    paths: Mapping[str, Path], *, bee_bytes: int, bees: int, nodes: int, limit_bytes: int | None
) -> list[Outcome]:
    """Start a swarm, and run both queries on it."""
    plain = datafusion.SessionContext()
    with (
        LocalSwarm(nodes, bees, memory_bytes=bee_bytes * bees) as swarm,
        SessionContext(storage=swarm.storage, progress=False) as ctx,
    ):
        for context in (plain, ctx):
            for name, path in paths.items():
                context.register_parquet(name, str(path))
        watchdog = Watchdog(tuple(process.pid for process in swarm.processes.values()), limit_bytes)
        return [run(name, sql, ctx, plain, watchdog) for name, sql in (("join", JOIN), ("sort", SORT))]
