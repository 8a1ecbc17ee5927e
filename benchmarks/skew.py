"""A join of a table in which most rows have one key, with that key's partition dealt out to several tasks and without.

    python -m benchmarks.skew --nodes 4

Prints for both what the join's tasks read, what the longest of them read and handed on, and how long the query took;
the rows of both are compared with plain DataFusion's. The exit code is 1 if they differ, or nothing was dealt out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import datafusion
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from apiary_df import LocalSwarm, SessionContext, Settings
from apiary_df.report import AttemptReport, QueryReport
from apiary_df.units import format_bytes

SQL = "SELECT f.v, d.w FROM facts f JOIN dims d ON f.k = d.k"
SHUFFLING = {
    "datafusion.optimizer.hash_join_single_partition_threshold": "0",
    "datafusion.optimizer.hash_join_single_partition_threshold_rows": "0",
}
"""Joins shuffle both sides, however small they are."""

FORCED = Settings(
    small_bytes=0,
    finish_here_bytes=0,
    broadcast_bytes=0,
    key_filter_bytes=0,
    # The figures are about what tasks read: none is read twice, or somewhere else, because the machine is busy.
    speculate=False,
    suspect_after_s=300.0,
    dead_after_s=600.0,
    gc_grace_s=1200.0,
)
"""Settings under which the join runs as planned, but for what is dealt out."""

KEYS = 1_000
FREQUENT = 7

console = Console()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run took.

    Attributes:
        report: What the query reports.
        equal: Whether its rows are those of plain DataFusion.
    """

    report: QueryReport
    equal: bool

    @property
    def tasks(self) -> tuple[AttemptReport, ...]:
        """The tasks of the join."""
        last = max(task.stage for task in self.report.task_reports)
        return tuple(task for task in self.report.task_reports if task.stage == last)

    @property
    def read_bytes(self) -> int:
        """Bytes that all of them read."""
        return sum(task.input_bytes for task in self.tasks)

    @property
    def most_bytes(self) -> int:
        """Bytes that one of them read at most."""
        return max(task.input_bytes for task in self.tasks)

    @property
    def most_rows(self) -> int:
        """Rows that one of them handed on at most."""
        return max(task.rows for task in self.tasks)

    @property
    def longest_s(self) -> float:
        """How long the longest of them took."""
        return max(task.seconds for task in self.tasks)


def write_tables(folder: Path, rows: int, share: float, files: int) -> None:
    """Write a large table, a share of whose rows has one key, and a small one with each key once.

    Args:
        folder: Where they go, a folder each.
        rows: Rows of the large one.
        share: Of them with the frequent key, 0 to 1.
        files: Files of each.
    """
    rng = np.random.default_rng(1)
    keys = np.where(rng.random(rows) < share, FREQUENT, rng.integers(0, KEYS, rows))
    facts = pa.table({"k": keys, "v": np.arange(rows)})
    dims = pa.table({"k": np.arange(KEYS), "w": np.arange(KEYS) * 3})
    for name, table in (("facts", facts), ("dims", dims)):
        (folder / name).mkdir()
        step = -(-table.num_rows // files)
        for part in range(files):
            pq.write_table(table.slice(part * step, step), folder / name / f"{part}.parquet")


def run_skewed(
    folder: Path,
    storage: str,
    settings: Settings,
    *,
    local_bees: int = 0,
    before: Callable[[SessionContext], None] | None = None,
) -> Figures:
    """Run the join on a swarm, and compare its rows with plain DataFusion's.

    Args:
        folder: Where the tables are.
        storage: The swarm's root.
        settings: Settings of the session.
        local_bees: Bees of the session's own.
        before: Called with the session before the query, to wait for what it needs.
    """
    config = datafusion.SessionConfig(SHUFFLING)
    with SessionContext(config, storage=storage, settings=settings, local_bees=local_bees) as ctx:
        _register(ctx, folder)
        if before is not None:
            before(ctx)
        found = _summed(batch.to_pyarrow() for batch in ctx.sql(SQL).execute_stream())
        report = ctx.last_query
    assert report is not None
    plain = datafusion.SessionContext(datafusion.SessionConfig(SHUFFLING))
    _register(plain, folder)
    return Figures(report=report, equal=found == _summed(b.to_pyarrow() for b in plain.sql(SQL).execute_stream()))


def _register(ctx: datafusion.SessionContext, folder: Path) -> None:
    for name in ("facts", "dims"):
        ctx.register_parquet(name, str(folder / name))


def _summed(batches: Iterable[pa.RecordBatch]) -> tuple[int, ...]:
    """Return what tells two sets of rows apart without keeping them: how many, and sums by which pairs count."""
    rows = values = pairs = 0
    for batch in batches:
        v, w = batch.column(0), batch.column(1)
        rows += batch.num_rows
        values += pc.sum(v).as_py() or 0
        pairs += pc.sum(pc.multiply(v, w)).as_py() or 0
    return rows, values, pairs


def main(
    nodes: Annotated[int, typer.Option(min=2, help="Node processes of one bee.")] = 4,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the large table.")] = 12_000_000,
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of them with the frequent key.")] = 0.9,
    files: Annotated[int, typer.Option(min=1, help="Files of each table.")] = 8,
) -> None:
    """Compare a skewed join with its partition dealt out, and as one task."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tables(folder, rows, share, files)
        with LocalSwarm(nodes, settings=FORCED) as swarm:
            off = run_skewed(folder, swarm.storage, FORCED.with_overrides(skew_factor=0))
            on = run_skewed(folder, swarm.storage, FORCED)
    table = Table(title=f"{rows:,} rows, {share:.0%} of one key, joined on {nodes} nodes")
    for column in ("", "as one task", "dealt out", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for label, one, other in (
        ("tasks of the join", len(off.tasks), len(on.tasks)),
        ("rows of the longest", off.most_rows, on.most_rows),
    ):
        table.add_row(label, f"{one:,}", f"{other:,}", f"{other / one:.2f}")
    for label, one, other in (
        ("bytes that it reads", off.most_bytes, on.most_bytes),
        ("bytes that all read", off.read_bytes, on.read_bytes),
    ):
        table.add_row(label, format_bytes(one), format_bytes(other), f"{other / one:.2f}")
    for label, one_s, other_s in (
        ("seconds of the longest", off.longest_s, on.longest_s),
        ("seconds of the query", off.report.elapsed_s, on.report.elapsed_s),
    ):
        table.add_row(label, f"{one_s:.2f}", f"{other_s:.2f}", f"{other_s / one_s:.2f}")
    console.print(table)
    for change in on.report.changes:
        console.print(f"stage {change.stage}: {change.what}")
    console.print(f"rows equal: {off.equal and on.equal}")
    if not (off.equal and on.equal and on.report.changes and not off.report.changes):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
