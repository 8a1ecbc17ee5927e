"""What small queries wait for: the swarm's overhead, requests in a row on a slow store, idle requests, the first row.

    python -m benchmarks.latency [--json FILE] [--trace]

Four figures: what a small query on two nodes over a folder takes longer than in one process; the longest row of
requests that a stage waits for, on a store that takes 30 ms for each; what an idle node asks of a bucket in an hour;
and the time from a cold Python to the first row of a query on two node processes. ``--trace`` prints the steps of one
small query instead.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console

import apiary_df
from apiary_df.config import Settings
from apiary_df.coordinator import QueryRun
from apiary_df.demo.data import generate_tpch, tpch_paths
from apiary_df.footers import FooterCache
from apiary_df.plan.rules import RewriteOptions
from apiary_df.planning import RunsOnSwarm, SwarmPlanner, batch_schema
from apiary_df.protocol import keys
from apiary_df.query import Query
from apiary_df.store import open_store
from apiary_df.testing.slow import NotedRequest, SlowStore, sequences_of_stages
from apiary_df.view import SwarmView
from apiary_df.worker.node import Node
from benchmarks.engines.client import as_installed
from benchmarks.harness import (
    BENCH_FOLDER,
    environment,
    measure,
    open_single,
    open_swarm,
    register_tables,
    write_json,
)
from benchmarks.small_query import SQL
from benchmarks.tracing import read_spans, traced_session

NODES = 2
SCALE = 0.1
REQUEST_S = 0.03
HOUR_S = 3600.0
START_S = 60.0

GROUPED = "SELECT g, count(*) AS n, sum(v) AS total FROM facts GROUP BY g"
FACTS = 1_000

FIRST_ROW = """
import sys
import apiary_df
with apiary_df.SessionContext(nodes=int(sys.argv[1]), progress=False) as ctx:
    ctx.register_parquet("lineitem", sys.argv[2])
    batch = next(iter(ctx.sql(sys.argv[3]).execute_stream()))
    print(ctx.nodes() and batch.to_pyarrow().num_rows, flush=True)
    sys.stdout.close()
"""
"""What a cold Python runs; it is timed until it has printed."""

console = Console()


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """A small query, in milliseconds.

    Attributes:
        difference_ms: Median of the swarm's runs less that of the single process's.
        least_difference_ms: The same of the fastest runs.
        single_ms: Median of the single process.
    """

    difference_ms: float
    least_difference_ms: float
    single_ms: float


def small_query(lineitem: str, repeat: int) -> Small:
    """Measure a filtered count on two nodes over a folder against one process, alternating."""
    single = open_single(NODES)
    with open_swarm(None, NODES) as swarm:
        for ctx in (single, swarm):
            register_tables(ctx, {"lineitem": lineitem})
            ctx.sql(SQL).to_arrow_table()
        timings = measure(
            lambda: swarm.sql(SQL).to_arrow_table(), lambda: single.sql(SQL).to_arrow_table(), repeat=repeat
        )
    return Small(
        difference_ms=(timings.swarm_median_s - timings.single_median_s) * 1000,
        least_difference_ms=(min(timings.swarm_s) - min(timings.single_s)) * 1000,
        single_ms=timings.single_median_s * 1000,
    )


def requests_in_a_row(
    request_s: float = REQUEST_S, inline_bytes: int = Settings().inline_partial_bytes
) -> tuple[dict[int, list[str]], float]:
    """Return, for each stage of an aggregate, the requests that it waits for one after the other.

    Args:
        request_s: How long a request takes.
        inline_bytes: Size up to which partials lie in commit records; larger ones lie behind them.

    Returns:
        These; and how many such requests the whole query lasts, its beginning and its end included.
    """
    settings = Settings(
        small_bytes=0, finish_here_bytes=0, min_task_bytes=0, speculate=False, inline_partial_bytes=inline_bytes
    )
    noted: list[NotedRequest] = []
    with tempfile.TemporaryDirectory(prefix="apiary-latency-") as folder, _nodes(noted, request_s, settings) as view:
        query = _grouped(Path(folder))
        begun, begun_s = len(noted), time.monotonic()
        for _ in QueryRun(query, view, settings.for_store("bucket"), FooterCache()):
            continue
        lasted_s = time.monotonic() - begun_s
        rows = sequences_of_stages(noted[begun:], view.node_id)
    shown = {stage: [f"{r.process} {r.verb} {r.key}" for r in row] for stage, row in rows.items()}
    return shown, lasted_s / request_s


def idle_requests(seconds: float) -> dict[str, float]:
    """Return what a node that has had nothing to do for that long asks of a bucket in an hour, by kind of request."""
    noted: list[NotedRequest] = []
    with _nodes(noted, 0.0, Settings(), nodes=1):
        time.sleep(seconds)
        # The second half: waits have grown by then as far as they do in this time.
        since_s = time.monotonic() - seconds / 2
        late = [request for request in noted if request.start_s >= since_s and request.process.startswith("node")]
    return {verb: count * HOUR_S / (seconds / 2) for verb, count in sorted(Counter(r.verb for r in late).items())}


def first_row_s(lineitem: str) -> float:
    """Return the time from the start of a cold Python to the first row of a query on two node processes, in seconds."""
    environ = as_installed()
    started_s = time.monotonic()
    command = [sys.executable, "-c", FIRST_ROW, str(NODES), lineitem, SQL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        elapsed_s = time.monotonic() - started_s
    if not said:
        raise SystemExit("the session that was to give a first row gave none")
    return elapsed_s


def trace(lineitem: str, show: Callable[[str], None]) -> None:
    """Show the steps of one small query, of all processes, in milliseconds from its beginning."""
    with tempfile.TemporaryDirectory(prefix="apiary-latency-") as folder:
        root, file = Path(folder) / "root", Path(folder) / "spans"
        file.touch()
        command = [sys.executable, "-m", "benchmarks.tracing", str(file), "node", "--storage", str(root), "--bees", "1"]
        command += ["--memory", "512MiB", "--while-stdin", "--allow-root", str(Path(lineitem).parent)]
        processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(NODES)]
        try:
            with apiary_df.SessionContext(storage=str(root), progress=False) as ctx:
                _await(lambda: sum(view.usable for view in ctx.nodes()) == NODES)
                ctx.register_parquet("lineitem", lineitem)
                for _ in range(5):
                    ctx.sql(SQL).to_arrow_table()
                with traced_session(file):
                    started_s = time.monotonic()
                    ctx.sql(SQL).to_arrow_table()
                    ended_s = time.monotonic()
        finally:
            for process in processes:
                assert process.stdin is not None
                process.stdin.close()
                process.wait()
        show(f"{(ended_s - started_s) * 1000:.2f} ms in all; the session is process {os.getpid()}")
        for span in read_spans(file):
            if span.end_s >= started_s and span.start_s <= ended_s:
                at_ms, took_ms = (span.start_s - started_s) * 1000, (span.end_s - span.start_s) * 1000
                show(f"{at_ms:8.2f} {took_ms:8.2f}  {span.pid:7} {span.thread[:10]:10} {span.name}")


@contextmanager
def _nodes(noted: list[NotedRequest], request_s: float, settings: Settings, nodes: int = NODES) -> Iterator[SwarmView]:
    """Run nodes as threads, over memory that takes itself for a bucket, and a session's view of them."""
    memory = open_store(f"memory://{uuid.uuid4().hex}", environ={})
    running = [
        Node(SlowStore(memory, request_s, noted, name), bees=1, memory_bytes=64 << 20, settings=settings, node_id=name)
        for name in (f"node-{number}" for number in range(nodes))
    ]
    threads = [threading.Thread(target=node.run, daemon=True) for node in running]
    for thread in threads:
        thread.start()
    try:
        view = SwarmView(SlowStore(memory, request_s, noted, "session"), "session", settings.for_store("bucket"))
        _await(lambda: all(memory.get_or_none(keys.heartbeat(node.node_id)) for node in running))
        view.refresh()
        yield view
    finally:
        for node in running:
            node.stop()
        for thread in threads:
            thread.join(START_S)


def _await(true: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + START_S
    while not true():
        if time.monotonic() > give_up_s:
            raise SystemExit(f"the nodes did not start within {START_S:.0f} s")
        time.sleep(0.05)


def _grouped(folder: Path) -> Query:
    """Plan an aggregate over two files, in two stages that nodes run."""
    for number in range(2):
        keys_of = range(number * FACTS, (number + 1) * FACTS)
        table = pa.table({"g": [k % 7 for k in keys_of], "v": [k * 37 % 101 for k in keys_of]})
        pq.write_table(table, folder / f"{number}.parquet")
    ctx = datafusion.SessionContext()
    ctx.register_parquet("facts", str(folder))
    df = ctx.sql(GROUPED)
    plan = SwarmPlanner(ctx, lambda _: None).plan(df.logical_plan(), RewriteOptions(partitions=NODES, small_bytes=0))
    if not isinstance(plan, RunsOnSwarm):
        raise SystemExit(f"the aggregate was not divided: {plan.reason}")
    return Query(
        sql=GROUPED, graph=plan.graph, settings=plan.settings, schema=lambda: batch_schema(ctx, df), reason="measured"
    )


def main(
    repeat: Annotated[int, typer.Option(min=1, help="Measured runs of the small query on each engine.")] = 40,
    spawns: Annotated[int, typer.Option(min=1, help="Sessions that are started for the first row.")] = 5,
    idle_s: Annotated[float, typer.Option(min=2, help="Seconds for which a node is watched that is idle.")] = 60.0,
    trace_: Annotated[
        bool, typer.Option("--trace", help="Show the steps of one small query, and nothing else.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
) -> None:
    """Measure what small queries wait for."""
    facts = environment()
    folder = BENCH_FOLDER / f"tpch-{SCALE:g}-1"
    generate_tpch(folder, SCALE)
    lineitem = str(tpch_paths(folder)["lineitem"].resolve())
    if trace_:
        trace(lineitem, lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
        return
    small = small_query(lineitem, repeat)
    console.print(
        f"small query, median of {repeat}: {small.difference_ms:.1f} ms over {small.single_ms:.1f} ms in one process "
        f"(fastest runs: {small.least_difference_ms:.1f} ms)"
    )
    rows, lasts = requests_in_a_row()
    larger, larger_lasts = requests_in_a_row(inline_bytes=0)
    for stage, row in rows.items():
        waits = f"stage {stage} of an aggregate waits for {len(row)} requests in a row"
        console.print(f"{waits}, for {len(larger[stage])} if its partials are too large to go on in mail")
    lasting = f"{lasts:.1f} requests of {REQUEST_S * 1000:.0f} ms, or {larger_lasts:.1f}"
    console.print(f"all of it lasts as long as {lasting}")
    idle = idle_requests(idle_s)
    shown = ", ".join(f"{count:,.0f} {verb}" for verb, count in idle.items())
    console.print(f"an hour of an idle node on a bucket, from its first {idle_s:.0f} s: {shown}")
    first_rows = [first_row_s(lineitem) for _ in range(spawns)]
    console.print(f"cold Python to first row, {NODES} node processes: {statistics.median(first_rows):.2f} s (median)")
    if json is not None:
        figures = {
            "small_query": small,
            "requests_in_a_row": rows,
            "lasts_requests": lasts,
            "larger_requests_in_a_row": larger,
            "larger_lasts_requests": larger_lasts,
            "idle_an_hour": idle,
            "first_row_s": first_rows,
        }
        write_json(json, {"benchmark": "latency", "repeat": repeat, "nodes": NODES, **facts, **figures})


if __name__ == "__main__":
    typer.run(main)
