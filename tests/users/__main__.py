"""Let many sessions work on one swarm at the same time, and say how even their lot is.

    python -m tests.users
    python -m tests.users --sessions 32 --queries 500 --json out.json
    python -m tests.users --sessions 8 --queries 128 --greedy 24

The exit code is 1 if an answer is wrong or missing, a session had to wait far longer than another, or anything is left.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .driver import Plan, run_users

console = Console()

EVEN = 2.0
"""The slowest session's mean time of a query is at most so many times the fastest one's."""

SHOWN_FAULTS = 20
"""Faults that are printed."""


def main(  # noqa: PLR0917 - each is an option of the command
    sessions: Annotated[int, typer.Option(help="Sessions that run one query at a time.")] = 32,
    queries: Annotated[int, typer.Option(help="Queries of all of them.")] = 500,
    greedy: Annotated[int, typer.Option(help="Queries at once of one session more.")] = 0,
    processes: Annotated[int, typer.Option(help="Processes that the sessions are spread over.")] = 8,
    seed: Annotated[int, typer.Option(help="Where the orders of queries are drawn from.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures as JSON.")] = None,
) -> None:
    """Let them work, and judge."""
    plan = Plan(sessions=sessions, queries=queries, greedy=greedy, processes=min(processes, sessions), seed=seed)
    with tempfile.TemporaryDirectory(prefix="apiary-users-") as folder:
        report = run_users(plan, Path(folder))
    figures = report.figures()
    table = Table(show_header=False)
    for name, value in figures.items():
        table.add_row(name, str(value))
    console.print(table)
    for fault in report.faults[:SHOWN_FAULTS]:
        console.print(f"[red]fault[/] {escape(fault)}")
    if json_file is not None:
        json_file.write_text(json.dumps({"figures": figures, "faults": report.faults}, indent=1), encoding="utf-8")
    means = report.means_s()
    if report.faults or means[-1] > EVEN * means[0]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
