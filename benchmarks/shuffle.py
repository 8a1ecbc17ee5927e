"""What a shuffle of M tasks into N takes in requests: counted, not estimated, on the real way of a query.

    python -m benchmarks.shuffle --producers 256 --consumers 256

A node with a bee for each task, as threads of this process, aggregates M small files by a key, N partitions wide, each
of them a task. Prints the requests that its tasks made, what they cost by the model, and what they may be at most; the
exit code is 1 above that.
"""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from apiary_df import SessionContext, Settings
from apiary_df.costs import Latencies, Prices, combined, direct, dollars
from apiary_df.report import QueryReport
from apiary_df.store import open_store
from apiary_df.testing.faults import Faults, FaultyStore
from apiary_df.worker.bee import Work
from apiary_df.worker.executor import Executor, Job, ThreadExecutor
from apiary_df.worker.node import Node
from benchmarks.s3 import SWARM_URL, s3_server

SQL = "SELECT k, count(*) AS n, sum(v) AS total FROM t GROUP BY k"
BEE_BYTES = 64 << 20
ROWS_A_SEGMENT = 4
AT_A_TIME = 4
"""Bees at work at a time."""

ATTACHED_BYTES = 8 << 20
"""As on a bucket, whatever the store is."""

MOST_DOLLARS = 0.06
"""What a shuffle of 256 by 256 may cost."""

Storage = Literal["memory", "folder", "s3"]

console = Console()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a shuffle took.

    Attributes:
        producers: Tasks that wrote first.
        combiners: Tasks that put the pieces together.
        consumers: Tasks that read.
        made: Requests of all tasks, by kind and by what they were for.
        report: What the query reports.
        equal: Whether its rows are those of plain DataFusion.
    """

    producers: int
    combiners: int
    consumers: int
    made: Counter[tuple[str, str]]
    report: QueryReport
    equal: bool

    @property
    def puts(self) -> int:
        """Objects that producers and combiners wrote: partials and records, or both as one."""
        return sum(self.made["put", f"partial_{s}"] + self.made["create", f"commit_{s}"] for s in self._writing)

    @property
    def gets(self) -> int:
        """Ranges of those partials that were read."""
        return sum(self.made["ranges", f"{what}_{s}"] for s in self._writing for what in ("partial", "commit"))

    @property
    def _writing(self) -> range:
        """The stages before the consumers'."""
        return range(2 if self.combiners else 1)

    @property
    def lists(self) -> int:
        """Listings, of whatever prefix, that tasks made."""
        return sum(attempt.requests.get("list", 0) for attempt in self.report.attempts)

    @property
    def dollars(self) -> float:
        """What the shuffle's requests cost, at the default prices."""
        return dollars({"put": self.puts, "get": self.gets, "list": self.lists}, Prices())


def count_shuffle(
    folder: Path,
    producers: int,
    consumers: int,
    root: str,
    *,
    rows_a_segment: int = ROWS_A_SEGMENT,
    inline_bytes: int = 0,
    attached_bytes: int = ATTACHED_BYTES,
    combine: bool = False,
) -> Counts:
    """Run a shuffle, and count.

    Args:
        folder: Where the table's files go.
        producers: Tasks that write.
        consumers: Partitions, and tasks that read.
        root: URL of the swarm's root.
        rows_a_segment: Rows that each consumer gets of each producer, about.
        inline_bytes: Up to which size partials lie in their records.
        attached_bytes: Up to which size they lie behind them.
        combine: Put the pieces together on their way, as if to write cost nothing: so it pays at any size.
    """
    rows = consumers * rows_a_segment
    for part in range(producers):
        keys = [(part + i) % rows for i in range(rows)]
        pq.write_table(pa.table({"k": keys, "v": list(range(rows))}), folder / f"{part:05}.parquet")
    config = datafusion.SessionConfig().set("datafusion.execution.target_partitions", str(consumers))
    settings = Settings(
        small_bytes=0,
        finish_here_bytes=0,
        min_task_bytes=0,
        min_cell_bytes=1,
        speculate=False,
        inline_partial_bytes=inline_bytes,
        attached_partial_bytes=attached_bytes,
        allow_roots=str(folder),
        combine_from_dollars=0 if combine else 1000,
        dollars_per_1000_puts=0 if combine else 0.005,
        suspect_after_s=300.0,
        dead_after_s=600.0,
        gc_grace_s=1200.0,
    )
    noted = Faults()
    plain = datafusion.SessionContext()
    plain.register_parquet("t", str(folder))
    with _node(root, producers, noted, settings), SessionContext(config, storage=root, settings=settings) as ctx:
        ctx.register_parquet("t", str(folder))
        found = ctx.sql(SQL).to_arrow_table().sort_by("k")
        report = ctx.last_query
        assert report is not None
    tasks = Counter(attempt.stage for attempt in report.task_reports)
    return Counts(
        producers=tasks[0],
        combiners=tasks[1] if combine else 0,
        consumers=tasks[max(tasks)],
        made=Counter((made.request, _what(made.keys[0])) for made in noted.made),
        report=report,
        equal=found.equals(plain.sql(SQL).to_arrow_table().sort_by("k")),
    )


def _what(key: str) -> str:
    """Return the kind of object that a key is of, with the stage if it has one."""
    name = key.rsplit("/", 1)[-1]
    return "_".join(name.split("_")[:2]) if name.startswith(("partial", "commit", "stage")) else name


class _InTurns(Executor):
    """A bee that waits for its turn: hundreds at work at a time have more files open than a process may."""

    def __init__(self, turns: threading.Semaphore, bee: Executor) -> None:
        self._turns = turns
        self._bee = bee

    def run(self, job: Job) -> Work:
        with self._turns:
            try:
                return self._bee.run(job)
            finally:
                self._bee.close()

    def close(self) -> None:
        self._bee.close()


@contextmanager
def _node(root: str, bees: int, noted: Faults, settings: Settings) -> Iterator[None]:
    store = FaultyStore(open_store(root), noted, process="node")
    turns = threading.Semaphore(AT_A_TIME)
    node = Node(
        store,
        bees=bees,
        memory_bytes=bees * BEE_BYTES,
        settings=settings,
        executors=lambda scratch: _InTurns(turns, ThreadExecutor(store, scratch, None, settings, allow_udfs=False)),
    )
    thread = threading.Thread(target=node.run, name="node")
    thread.start()
    try:
        node.ready.wait()
        yield
    finally:
        node.stop()
        thread.join()


def main(
    producers: Annotated[int, typer.Option(min=1, help="Tasks that write.")] = 256,
    consumers: Annotated[int, typer.Option(min=1, help="Partitions, each a task that reads.")] = 256,
    combine: Annotated[bool, typer.Option(help="Put the pieces together on their way.")] = False,
    attach: Annotated[bool, typer.Option(help="Have partials lie behind their commit records.")] = True,
    storage: Annotated[str, typer.Option(help="memory, folder, or s3: a service on this machine.")] = "memory",
) -> None:
    """Count the requests of a shuffle."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if storage == "s3":
            stack.enter_context(s3_server())
        roots = {"memory": f"memory://{uuid.uuid4().hex}", "folder": str(folder / "root"), "s3": SWARM_URL}
        (folder / "t").mkdir()
        attached_bytes = ATTACHED_BYTES if attach else 0
        counts = count_shuffle(
            folder / "t", producers, consumers, roots[storage], combine=combine, attached_bytes=attached_bytes
        )
    report = counts.report
    by_way = f" by way of {counts.combiners}" if counts.combiners else ""
    table = Table(title=f"A shuffle of {counts.producers}{by_way} into {counts.consumers}, {storage}")
    for column in ("", "found", "at most"):
        table.add_column(column, justify="left" if not column else "right")
    most_puts = 2 * (producers + counts.combiners)
    table.add_row("PUTs", str(counts.puts), str(most_puts))
    table.add_row("range GETs", str(counts.gets), str(producers * consumers))
    table.add_row("LISTs of tasks", str(counts.lists), "0")
    table.add_row("dollars of the shuffle", f"{counts.dollars:.4f}", f"{MOST_DOLLARS:.2f}")
    console.print(table)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.requests.items()))
    console.print(f"the query in all: {kinds}; {report.elapsed_s:.1f} s; rows equal: {counts.equal}")
    shuffle = producers, consumers, report.bytes_through_storage, Prices(), Latencies()
    for name, cost in (
        ("directly", direct(*shuffle, attached_bytes=attached_bytes)),
        ("with a combining stage", combined(*shuffle, least_combiners=producers, attached_bytes=attached_bytes)),
    ):
        shape = f" by {cost.combiners}" if cost.combiners else ""
        requests = f"{cost.puts} PUTs, {cost.gets} GETs"
        console.print(f"by the model, {name}{shape}: {requests}, ${cost.dollars:.4f}, {cost.seconds:.2f} s")
    within = counts.puts <= most_puts and counts.gets <= producers * consumers and not counts.lists
    if not within or counts.dollars > MOST_DOLLARS or not counts.equal:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
