"""What the cell cache saves: TPC-H over an S3 endpoint that waits as a bucket does, and counts what arrives.

    python -m benchmarks.cell_cache --scale 0.1

The tables lie on the endpoint. The queries run without a cache, then with an empty one into which everything goes at
its first use, then again. All answers are compared. The exit code is 1 if an answer differs, if the last run reads a
byte of a table from the endpoint, or if it is not twice as fast as the run without a cache.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

import apiary_df
from apiary_df.demo import TPCH_ORDER_COLUMNS, tpch_queries
from apiary_df.demo.data import generate_tpch, tpch_paths
from apiary_df.testing.compare import compare_tables
from apiary_df.units import format_bytes
from benchmarks import s3
from benchmarks.harness import BENCH_FOLDER, elapsed_s, environment, register_tables, write_json

TABLES = "tables"
"""First segment of the keys of all tables in the bucket."""

LEAST_GAIN = 2.0
"""How many times as fast as without a cache the queries have to be."""

RUNS = ("without a cache", "into the cache", "from the cache")

console = Console()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One run of all queries.

    Attributes:
        run: Which of :data:`RUNS`.
        seconds: By query number.
        cell_bytes: Bytes of tables that the endpoint sent.
        gets: Requests for them.
        heads: Questions for versions of them.
    """

    run: str
    seconds: dict[int, float]
    cell_bytes: int
    gets: int
    heads: int

    @property
    def total_s(self) -> float:
        """Seconds of all queries."""
        return sum(self.seconds.values())


def main(  # noqa: PLR0917 - typer hands the options over by name
    scale: Annotated[float, typer.Option(help="TPC-H scale factor.")] = 0.1,
    nodes: Annotated[int, typer.Option(min=1, help="Node processes, of one bee each.")] = 2,
    queries: Annotated[str, typer.Option(help="Query numbers, such as 1,5,21; all if not given.")] = "",
    first_byte_ms: Annotated[float, typer.Option(min=0, help="Wait of each request.")] = s3.FIRST_BYTE_MS,
    ms_per_mib: Annotated[float, typer.Option(min=0, help="Wait for each MiB of it.")] = s3.MS_PER_MIB,
    root_on_endpoint: Annotated[bool, typer.Option(help="Put the swarm's root there too.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
) -> None:
    """Run TPC-H without a cache, into it, and from it."""
    known = tpch_queries()
    numbers = [int(word) for word in queries.split(",")] if queries else list(known)
    folder = BENCH_FOLDER / f"tpch-{scale:g}-1"
    generate_tpch(folder, scale, 1)
    with s3.s3_server() as endpoint:
        tables = s3.upload(tpch_paths(folder))
        root = s3.SWARM_URL if root_on_endpoint else None
        endpoint.set_latency(first_byte_ms, ms_per_mib)
        runs = _runs(endpoint, tables=tables, root=root, nodes=nodes, numbers=numbers)
    _show(runs, f"TPC-H scale {scale:g} over S3, {first_byte_ms:g} ms a request and {ms_per_mib:g} ms a MiB")
    gain = runs[0].total_s / runs[-1].total_s
    console.print(f"{runs[-1].run}: {gain:.2f} times as fast as {runs[0].run}")
    if json is not None:
        facts = {"scale": scale, "nodes": nodes, "first_byte_ms": first_byte_ms, "ms_per_mib": ms_per_mib}
        write_json(json, {"benchmark": "cell_cache", **facts, **environment(), "runs": [asdict(run) for run in runs]})
    if runs[-1].cell_bytes or gain < LEAST_GAIN:
        raise typer.Exit(1)


def _runs(
    endpoint: s3.Endpoint,
    *,
    tables: dict[str, str],
    root: str | None,
    nodes: int,
    numbers: list[int],
) -> list[Figures]:
    figures: list[Figures] = []
    answers: dict[int, pa.Table] = {}
    with tempfile.TemporaryDirectory() as cache, ExitStack() as stack:
        for number, settings in enumerate(({"cache_bytes": 0}, {"cache_dir": cache, "cache_admission": "first_use"})):
            swarm = stack.enter_context(
                apiary_df.SessionContext(
                    storage=root, nodes=nodes, progress=False, node_start_timeout_s=120.0, **settings
                )  # type: ignore[arg-type]
            )
            register_tables(swarm, tables)
            for run in RUNS[number : 2 * number + 1]:
                figures.append(_run(endpoint, swarm, run, numbers, answers))
            stack.pop_all().close()
    return figures


def _run(
    endpoint: s3.Endpoint,
    swarm: apiary_df.SessionContext,
    run: str,
    numbers: list[int],
    answers: dict[int, pa.Table],
) -> Figures:
    endpoint.reset()
    seconds: dict[int, float] = {}
    for number in numbers:
        found: list[pa.Table] = []
        with console.status(f"Q{number} {run}"):
            sql = tpch_queries()[number]
            seconds[number] = elapsed_s(lambda: found.append(swarm.sql(sql).to_arrow_table()))  # noqa: B023
        columns = TPCH_ORDER_COLUMNS[number]
        expected = answers.setdefault(number, found[0])
        difference = compare_tables(
            expected, found[0], ordered=bool(columns), order_columns=columns or None, significant_digits=14
        )
        if difference is not None:
            console.print(f"[red]Q{number} {run}: {difference}[/]")
            raise typer.Exit(1)
    counts = endpoint.counts().get(TABLES, {})
    return Figures(
        run=run,
        seconds=seconds,
        cell_bytes=counts.get("bytes_out", 0),
        gets=counts.get("get", 0),
        heads=counts.get("head", 0),
    )


def _show(runs: list[Figures], title: str) -> None:
    table = Table("query", title=title)
    for run in runs:
        table.add_column(run.run, justify="right")
    for number in runs[0].seconds:
        table.add_row(f"Q{number}", *(f"{run.seconds[number]:.2f} s" for run in runs))
    table.add_section()
    table.add_row("total", *(f"{run.total_s:.2f} s" for run in runs))
    table.add_row("cell bytes", *(format_bytes(run.cell_bytes) for run in runs))
    table.add_row("GET of cells", *(str(run.gets) for run in runs))
    table.add_row("HEAD of cells", *(str(run.heads) for run in runs))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
