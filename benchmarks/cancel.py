"""How long nodes go on after a query was cancelled: ``python -m benchmarks.cancel --rounds 20``.

Two nodes of one bee on a folder work on a join; half of the rounds run one that gives batches all the time, half one
that works for minutes within a single batch. The time is from ``cancel`` to the first heartbeats by which no node has
work.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from apiary_df import LocalSwarm, SessionContext, Settings
from apiary_df.errors import QueryCancelled

ROWS = 120_000
BEAT_S = 0.05
"""Heartbeats are what is measured with, so they are quick."""

QUERIES = {
    "batch after batch": "SELECT a.x FROM t a JOIN t b ON a.g = b.g WHERE (a.x * b.x) % 1000 = 7",
    "one long batch": "SELECT count(*) AS n FROM t a JOIN t b ON a.g = b.g WHERE (a.x * b.x) % 1000003 = 7",
}


def busy(ctx: SessionContext) -> bool:
    """Whether any node says that it has work."""
    return any(view.info.bees_busy for view in ctx.nodes())


def one_round(ctx: SessionContext, sql: str) -> float:
    """Run a query until nodes are at work, cancel it, and return the seconds until they are idle."""
    stream = ctx.sql(sql).execute_stream()

    def read() -> None:
        with suppress(QueryCancelled):
            next(stream)

    reader = threading.Thread(target=read)
    reader.start()
    while not busy(ctx):
        time.sleep(BEAT_S / 5)
    started_s = time.monotonic()
    stream.cancel()
    while busy(ctx):
        time.sleep(BEAT_S / 5)
    took_s = time.monotonic() - started_s
    reader.join()
    return took_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    settings = Settings(
        heartbeat_s=BEAT_S, small_bytes=0, finish_here_bytes=0, min_task_bytes=0, node_start_timeout_s=120
    )
    with tempfile.TemporaryDirectory() as folder, LocalSwarm(2, settings=settings) as swarm:
        for part in range(2):
            rows = range(part * ROWS // 2, (part + 1) * ROWS // 2)
            pq.write_table(pa.table({"x": rows, "g": [x % 3 for x in rows]}), Path(folder) / f"{part}.parquet")
        with SessionContext(storage=swarm.storage, settings=settings) as ctx:
            ctx.register_parquet("t", folder)
            for name, sql in QUERIES.items():
                took_s = [one_round(ctx, sql) for _ in range(max(1, rounds // 2))]
                print(f"{name}: median {statistics.median(took_s):.2f} s, longest {max(took_s):.2f} s")


if __name__ == "__main__":
    main()
