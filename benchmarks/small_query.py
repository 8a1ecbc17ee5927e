"""What a small query pays for the swarm: a filtered count(*) on two nodes over a folder, against one process.

    python -m benchmarks.small_query

Prints the difference of the medians in milliseconds; the exit code is 1 if it is above the limit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from apiary_df.demo.data import generate_tpch, tpch_paths
from apiary_df.errors import ApiaryError
from benchmarks.harness import (
    BENCH_FOLDER,
    NODES_OPTION_HELP,
    environment,
    measure,
    open_single,
    open_swarm,
    register_tables,
    report_json,
    run_on_swarm,
    timings_json,
    write_json,
)

SQL = "SELECT count(*) AS n FROM lineitem WHERE l_quantity < 24 AND l_shipdate >= DATE '1994-01-01'"
LIMIT_MS = 50.0
"""What a small query may take longer on two nodes over a folder than in one process."""

console = Console()


def main(
    scale: Annotated[float, typer.Option(help="TPC-H scale factor.")] = 0.1,
    nodes: Annotated[int, typer.Option(min=1, help=NODES_OPTION_HELP)] = 2,
    repeat: Annotated[int, typer.Option(min=1, help="Measured runs of each engine, after one to warm up.")] = 20,
    limit_ms: Annotated[float, typer.Option(help="Largest difference that is accepted, in milliseconds.")] = LIMIT_MS,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
) -> None:
    """Measure a filtered count(*) on a swarm over a folder and in one process, alternating."""
    facts = environment()
    folder = BENCH_FOLDER / f"tpch-{scale:g}-1"
    try:
        generate_tpch(folder, scale)
        tables = {"lineitem": str(tpch_paths(folder)["lineitem"].resolve())}
        single = open_single(nodes)
        register_tables(single, tables)
        # The session would run it by itself: it reads next to nothing.
        with open_swarm(None, nodes, small_bytes=0) as swarm:
            register_tables(swarm, tables)
            expected = single.sql(SQL).to_arrow_table()
            actual, report = run_on_swarm(swarm, SQL)
            timings = measure(
                lambda: swarm.sql(SQL).to_arrow_table(), lambda: single.sql(SQL).to_arrow_table(), repeat=repeat
            )
    except ApiaryError as error:
        console.print(f"[red]{escape(str(error))}[/]")
        raise typer.Exit(1) from error
    counts = [table.column(0)[0].as_py() for table in (expected, actual)]
    difference_ms = (timings.swarm_median_s - timings.single_median_s) * 1000
    how = "" if report is None else f", {report.stages} stages, {report.tasks} tasks"
    console.print(f"count(*) with a filter, TPC-H scale {scale:g}, {nodes} nodes, median of {repeat}{how}")
    console.print(
        f"swarm {timings.swarm_median_s * 1000:.1f} ms, single process {timings.single_median_s * 1000:.1f} ms, "
        f"difference [bold]{difference_ms:.1f} ms[/] (limit {limit_ms:.0f} ms)"
    )
    if counts[0] != counts[1]:
        console.print(f"[red]the answers differ: single process {counts[0]}, swarm {counts[1]}[/]")
    if json is not None:
        settings = {"scale": scale, "nodes": nodes, "repeat": repeat, "sql": SQL}
        figures = {"difference_ms": difference_ms, "same": counts[0] == counts[1], "swarm": report_json(report)}
        write_json(json, {"benchmark": "small_query", **settings, **facts, **figures, **timings_json(timings)})
    if counts[0] != counts[1] or difference_ms > limit_ms:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
