"""``apiary sql``: run SQL, in this process or on a swarm, and write the result of the last statement."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apiary_df.cli.exits import ending_well
from apiary_df.cli.inputs import ConfigOption, SetOption, StorageOption, register_tables, settings_from
from apiary_df.cli.output import Format, choose_format, open_output, stdout_is_terminal, write_result
from apiary_df.errors import ConfigError
from apiary_df.report import QueryReport
from apiary_df.units import format_bytes

if TYPE_CHECKING:
    from apiary_df import SessionContext

HELP = """
Run SQL and write the result of the last statement.

Without --storage and --nodes it runs in this process. With --storage it runs on the swarm there. With --nodes it starts
so many node processes of one core, on a temporary folder (or below --storage), and stops them at the end.

**Examples**

    apiary sql "SELECT 1 + 1"

    apiary sql -t trips=data/trips/ "SELECT count(*) FROM trips"

    apiary sql -n 2 -t trips=data/trips/ -o top.parquet "SELECT city, sum(fare) FROM trips GROUP BY city"

    apiary sql -s s3://bucket/swarm -t trips=s3://bucket/trips/ --format json "SELECT * FROM trips LIMIT 10"

    apiary sql - < report.sql
"""


def sql(
    statements: Annotated[
        list[str], typer.Argument(metavar="SQL...", help="Statements, one an argument, run in order; - reads stdin.")
    ],
    *,
    storage: StorageOption = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", "-n", metavar="N", help="Start N node processes for this run.")
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table", "-t", metavar="NAME=PATH", help="A table: file, folder or URL of Parquet, CSV, JSON or Arrow."
        ),
    ] = None,
    format_: Annotated[
        Format | None,
        typer.Option("--format", help="Default: by the extension of --output, else table. json is one object a line."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write; replaced when complete.")
    ] = None,
    max_rows: Annotated[
        int, typer.Option("--max-rows", min=0, help="Rows that a table shows at most; 0 shows all.")
    ] = 100,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Longest time a statement may take.")
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say on stderr what the query did and cost.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Run SQL; see ``HELP``."""
    with ending_well():
        settings = settings_from(config, set_, timeout_s=timeout)
        chosen = choose_format(format_, output, stdout_is_terminal=stdout_is_terminal())
        texts = _read_statements(statements)
        if nodes is not None and nodes < 1:
            raise ConfigError(f"--nodes {nodes}: at least 1 node process is needed; leave --nodes out to have none")
        from apiary_df import SessionContext

        with SessionContext(storage=storage, nodes=nodes, settings=settings) as ctx:
            register_tables(ctx, table)
            try:
                report = _run(ctx, texts, chosen, output, max_rows)
            finally:
                _tell_kept(ctx)
        if stats:
            typer.echo(_summary(report), err=True)


def _run(
    ctx: SessionContext, texts: Sequence[str], chosen: Format, output: Path | None, max_rows: int
) -> QueryReport | None:
    from apiary_df.dataframe import RecordBatchStream

    *before, last = texts
    for text in before:
        ctx.sql(text).collect()
    frame = ctx.sql(last)
    stream = frame.execute_stream()
    assert isinstance(stream, RecordBatchStream)
    with closing(stream):
        batches = (batch.to_pyarrow() for batch in stream)
        first = next(batches, None)
        # A result without rows may come without batches, and its columns count all the same.
        schema = frame.schema() if first is None else first.schema
        result = chain([] if first is None else [first], batches)
        with open_output(output) as sink:
            write_result(chosen, schema, result, sink, seekable=output is not None, rows=max_rows)
    return ctx.last_query


def _tell_kept(ctx: SessionContext) -> None:
    """Say where the newest query is, if it was kept, however it ended."""
    report = ctx.last_query
    if report is not None and report.kept:
        typer.echo(f"apiary: the query is kept: apiary replay {ctx.storage} {report.query_id}", err=True)


def _read_statements(statements: list[str]) -> list[str]:
    texts = [sys.stdin.read() if text == "-" else text for text in statements]
    for text in texts:
        if not text.strip().strip(";").strip():
            raise ConfigError("a statement is empty; give SQL, or - and SQL on stdin")
    return texts


def _summary(report: QueryReport | None) -> str:
    if report is None:
        return "no query ran"
    where = f"{report.stages} stages, {report.tasks} tasks" if report.distributed else "in this process"
    requests = ", ".join(f"{count} {kind}" for kind, count in sorted(report.requests.items()) if "bytes" not in kind)
    return (
        f"{report.rows:,} rows in {report.elapsed_s:.2f} s; {where} ({report.reason}); "
        f"{format_bytes(report.bytes_through_storage)} through storage; requests: {requests or 'none'}"
    )
