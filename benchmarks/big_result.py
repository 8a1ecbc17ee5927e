"""Iterating a result that is larger than memory: what the session's process needs of it, and when rows come.

``python -m benchmarks.big_result`` makes a table of a hundred million rows, reads all of it through a swarm of node
processes on a folder, batch by batch, and says how much memory the session's process took at most. Rows are checked
by their count, their sum and, with ``--order``, by their order.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apiary_df import SessionContext, Settings
from apiary_df.units import MIB

BATCH_ROWS = 1 << 20
"""Rows of a row group of the table, and of what is made of it at a time."""

START_S = 120.0
"""How long node processes may take to start on a busy machine."""

LIMIT_BYTES = 1 << 30
"""What the session's process may take."""


@dataclass(slots=True, kw_only=True)
class Seen:
    """What came of iterating.

    Attributes:
        rows: Rows that came.
        total: Sum of their keys.
        first_s: Seconds to the first batch.
        seconds: Seconds to the last.
        batches: How many there were.
        ordered: Whether keys never fell.
    """

    rows: int = 0
    total: int = 0
    first_s: float = 0.0
    seconds: float = 0.0
    batches: int = 0
    ordered: bool = True


def make_table(folder: Path, rows: int, files: int) -> None:
    """Write a table of two columns: ``k``, every number below ``rows`` once and in no order of use, and a float."""
    folder.mkdir(parents=True)
    writers: list[pq.ParquetWriter] = []
    schema = pa.schema([("k", pa.int64()), ("v", pa.float64())])
    try:
        writers = [
            pq.ParquetWriter(folder / f"{number:03}.parquet", schema, compression=None) for number in range(files)
        ]
        for number, start in enumerate(range(0, rows, BATCH_ROWS)):
            end = min(rows, start + BATCH_ROWS)
            k = pa.array(range(end - 1, start - 1, -1), type=pa.int64())
            v = pc.divide(pc.cast(k, pa.float64()), 7.0)
            writers[number % files].write_batch(pa.record_batch([k, v], schema=schema))
    finally:
        for writer in writers:
            writer.close()


def iterate(ctx: SessionContext, sql: str) -> Seen:
    """Read a query's rows, batch by batch, and hold on to none of them."""
    seen = Seen()
    started_s = time.monotonic()
    last = -1
    for wrapped in ctx.sql(sql):
        keys = wrapped.to_pyarrow().column("k")
        if not seen.batches:
            seen.first_s = time.monotonic() - started_s
        seen.batches += 1
        seen.rows += len(keys)
        seen.total += pc.sum(keys).as_py()
        seen.ordered = seen.ordered and keys[0].as_py() > last
        last = keys[-1].as_py()
    seen.seconds = time.monotonic() - started_s
    return seen


@contextmanager
def disk_use(folder: Path) -> Iterator[list[int]]:
    """Watch how many bytes lie below a folder at most."""
    most = [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            most[0] = max(most[0], _bytes_below(folder))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                total += path.stat().st_blocks * 512 // path.stat().st_nlink
        except FileNotFoundError:
            continue
    return total


def peak_bytes() -> int:
    """Return the most memory that this process has had at a time, what it mapped and read among it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.big_result", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--order", action="store_true", help="sort the result")
    parser.add_argument("--whole", action="store_true", help="let rows wait until all of them are made")
    parser.add_argument("--folder", type=Path, default=None, help="where table and swarm lie; a new one by default")
    args = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="apiary-big-result-", dir=args.folder))
    try:
        return _run(args, base)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _run(args: argparse.Namespace, base: Path) -> int:
    make_table(base / "table", args.rows, args.files)
    print(f"table: {args.rows:,} rows, {_bytes_below(base / 'table') / MIB:,.0f} MiB in {args.files} files", flush=True)
    scratch = base / "scratch"
    scratch.mkdir()
    settings = Settings(scratch_dir=str(scratch), stream_result=not args.whole, node_start_timeout_s=START_S)
    root = base / "root"
    with SessionContext(storage=str(root), nodes=args.nodes, settings=settings) as ctx:
        ctx.register_parquet("t", str(base / "table"))
        before = peak_bytes()
        sql = "SELECT k, v FROM t" + (" ORDER BY k" if args.order else "")
        with disk_use(root) as in_root, disk_use(scratch) as in_scratch:
            seen = iterate(ctx, sql)
        report = ctx.last_query
        assert report is not None
    right = seen.rows == args.rows and seen.total == args.rows * (args.rows - 1) // 2
    right = right and (seen.ordered or not args.order)
    peak = peak_bytes()
    print(f"{sql}: {report.tasks} tasks on {args.nodes} nodes, distributed: {report.distributed}")
    print(f"rows: {seen.rows:,} in {seen.batches:,} batches, {'as they must be' if right else 'WRONG'}")
    print(f"first row after {seen.first_s:.2f} s, last after {seen.seconds:.2f} s")
    print(f"session's process: {peak / MIB:,.0f} MiB at most, {before / MIB:,.0f} MiB before the query")
    print(f"disk: {in_root[0] / MIB:,.0f} MiB in the root, {in_scratch[0] / MIB:,.0f} MiB of scratch at most")
    return 0 if right and report.distributed and peak < LIMIT_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
