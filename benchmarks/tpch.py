"""TPC-H on a swarm and on single-process DataFusion with as many partitions as the swarm has bees.

    python -m benchmarks.tpch --scale 1 --nodes 2 --repeat 3 --storage folder --json out.json

Both engines run in turn within one run, over the same files, and every answer is compared. The exit code is 1 if an
answer differs or a query fails. Figures mean something only on a machine that does nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import datafusion
import pyarrow as pa
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import apiary_df
from apiary_df.config import format_bytes
from apiary_df.demo import TPCH_ORDER_COLUMNS, tpch_queries
from apiary_df.demo.data import generate_tpch, tpch_paths
from apiary_df.errors import ApiaryError
from apiary_df.report import QueryReport
from apiary_df.testing.compare import compare_tables
from benchmarks import s3
from benchmarks.harness import (
    BENCH_FOLDER,
    NODES_OPTION_HELP,
    Timings,
    environment,
    measure,
    open_single,
    open_swarm,
    register_tables,
    report_json,
    run_on_swarm,
    spread,
    timings_json,
    write_json,
)

SAME = "same"
console = Console()


class Storage(str, enum.Enum):
    """Where the tables and the swarm's root lie."""

    FOLDER = "folder"
    S3 = "s3"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryFigures:
    """One query's outcome.

    Attributes:
        number: TPC-H query number.
        answer: ``same``, or what is wrong with the swarm's answer.
        rows: Rows of the right answer.
        report: What the swarm did.
        timings: None if the swarm failed.
    """

    number: int
    answer: str
    rows: int
    report: QueryReport | None = None
    timings: Timings | None = None


def main(  # noqa: PLR0917 - typer hands the options over by name
    scale: Annotated[float, typer.Option(help="TPC-H scale factor.")] = 1.0,
    nodes: Annotated[int, typer.Option(min=1, help=NODES_OPTION_HELP)] = 2,
    repeat: Annotated[
        int, typer.Option(min=1, help="Measured runs of each query and engine, after one to warm up.")
    ] = 3,
    storage: Annotated[Storage, typer.Option(help="A folder, or S3 (a moto server is started).")] = Storage.FOLDER,
    parts: Annotated[int, typer.Option(min=1, help="Files per table.")] = 1,
    queries: Annotated[str, typer.Option(help="Query numbers, such as 1,5,21; all if not given.")] = "",
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
) -> None:
    """Run TPC-H on a swarm and in one process, alternating; print the ratio per query and in total."""
    numbers = _numbers(queries)
    facts = environment()
    folder = BENCH_FOLDER / f"tpch-{scale:g}-{parts}"
    with ExitStack() as stack:
        try:
            with console.status(f"TPC-H data of scale {scale:g} in {folder}"):
                generate_tpch(folder, scale, parts)
            tables = {name: str(path.resolve()) for name, path in tpch_paths(folder).items()}
            root = None
            if storage is Storage.S3:
                stack.enter_context(s3.s3_server())
                with console.status("Uploading"):
                    tables, root = s3.upload(tpch_paths(folder)), s3.SWARM_URL
            swarm = stack.enter_context(open_swarm(root, nodes))
            single = open_single(nodes)
            for ctx in (swarm, single):
                register_tables(ctx, tables)
        except ApiaryError as error:
            console.print(f"[red]{escape(str(error))}[/]")
            raise typer.Exit(1) from error
        results = [_run(swarm, single, number, repeat) for number in numbers]
    console.print(_as_table(results, f"TPC-H scale {scale:g}, {nodes} nodes of one bee, {storage.value}"))
    totals = _totals(results)
    for line in _summary(results, totals):
        console.print(line)
    if json is not None:
        settings = {"scale": scale, "nodes": nodes, "repeat": repeat, "storage": storage.value, "parts": parts}
        write_json(json, {"benchmark": "tpch", **settings, **facts, "total": totals, "queries": _as_json(results)})
    if any(result.answer != SAME for result in results):
        raise typer.Exit(1)


def _numbers(text: str) -> list[int]:
    known = list(tpch_queries())
    try:
        numbers = [int(word) for word in text.split(",")] if text else known
    except ValueError:
        numbers = [0]
    if not set(numbers) <= set(known):
        raise typer.BadParameter(f"--queries takes numbers from 1 to {len(known)} with commas between, got {text!r}")
    return numbers


def _run(swarm: apiary_df.SessionContext, single: datafusion.SessionContext, number: int, repeat: int) -> QueryFigures:
    sql = tpch_queries()[number]
    with console.status(f"Q{number}"):
        expected = single.sql(sql).to_arrow_table()
        try:
            actual, report = run_on_swarm(swarm, sql)
            timings = measure(
                lambda: swarm.sql(sql).to_arrow_table(), lambda: single.sql(sql).to_arrow_table(), repeat=repeat
            )
        except ApiaryError as error:
            return QueryFigures(number=number, answer=f"failed: {error}", rows=expected.num_rows)
    answer = _judge(number, expected, actual)
    return QueryFigures(number=number, answer=answer, rows=expected.num_rows, report=report, timings=timings)


def _judge(number: int, expected: pa.Table, actual: pa.Table) -> str:
    order = TPCH_ORDER_COLUMNS[number]
    difference = compare_tables(expected, actual, ordered=bool(order), order_columns=order)
    return SAME if difference is None else str(difference)


def _totals(results: Sequence[QueryFigures]) -> dict[str, Any]:
    """Return sums over the queries that ran, and the range of their ratio from one round to another."""
    timings = [result.timings for result in results if result.timings is not None]
    if not timings:
        return {"queries": 0}
    swarm_s, single_s = sum(t.swarm_median_s for t in timings), sum(t.single_median_s for t in timings)
    rounds = [
        sum(t.swarm_s[i] for t in timings) / sum(t.single_s[i] for t in timings) for i in range(len(timings[0].swarm_s))
    ]
    return {
        "queries": len(timings),
        "swarm_s": swarm_s,
        "single_s": single_s,
        "ratio": swarm_s / single_s,
        "ratio_lowest_round": min(rounds),
        "ratio_highest_round": max(rounds),
    }


def _summary(results: Sequence[QueryFigures], totals: dict[str, Any]) -> list[str]:
    lines = []
    if totals["queries"]:
        lines.append(
            f"total: swarm {totals['swarm_s']:.2f} s, single process {totals['single_s']:.2f} s, "
            f"ratio [bold]{totals['ratio']:.2f}[/] (rounds: {totals['ratio_lowest_round']:.2f} to "
            f"{totals['ratio_highest_round']:.2f}) over {totals['queries']} queries"
        )
    wrong = [result for result in results if result.answer != SAME]
    lines.extend(f"[red]Q{result.number}[/]: {escape(result.answer)}" for result in wrong)
    return lines or ["nothing was run"]


def _as_table(results: Sequence[QueryFigures], title: str) -> Table:
    table = Table(title=title, caption="medians; ± is the span of the runs as a part of the median")
    for name in ("query", "rows", "stages", "tasks", "storage", "swarm ms", "±", "single ms", "±", "ratio"):
        table.add_column(name, justify="right")
    table.add_column("answer")
    for result in results:
        report, timings = result.report, result.timings
        did = ("",) * 3
        if report is not None:
            did = (str(report.stages), str(report.tasks), format_bytes(report.bytes_through_storage))
        took = ("",) * 5
        if timings is not None:
            took = (
                f"{timings.swarm_median_s * 1000:.0f}",
                f"{spread(timings.swarm_s):.0%}",
                f"{timings.single_median_s * 1000:.0f}",
                f"{spread(timings.single_s):.0%}",
                f"{timings.ratio:.2f}",
            )
        answer = SAME if result.answer == SAME else "[red]see below[/]"
        table.add_row(f"Q{result.number}", str(result.rows), *did, *took, answer)
    return table


def _as_json(results: Sequence[QueryFigures]) -> list[dict[str, Any]]:
    return [
        {
            "query": result.number,
            "answer": result.answer,
            "rows": result.rows,
            "swarm": report_json(result.report),
            **({} if result.timings is None else timings_json(result.timings)),
        }
        for result in results
    ]


if __name__ == "__main__":
    typer.run(main)
