"""Run TPC-H on a swarm whose nodes are killed, frozen and told to leave at random, and compare every answer.

    python -m tests.chaos
    python -m tests.chaos --storage s3 --nodes 3 --kills 200 --seed 7 --json out.json

The exit code is 1 if an answer is wrong, missing or late, or anything is left over.
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

from .campaign import Plan, Report, run_campaign

console = Console()

SHOWN_FAULTS = 20
"""Faults that are printed; all are in the JSON."""


def main(  # noqa: PLR0917 - each is an option of the command
    storage: Annotated[str, typer.Option(help="folder or s3.")] = "folder",
    nodes: Annotated[int, typer.Option(help="Nodes of the swarm.")] = 3,
    sessions: Annotated[int, typer.Option(help="Sessions that work at the same time.")] = 3,
    kills: Annotated[int, typer.Option(help="SIGKILLs after which the storm is over.")] = 200,
    seed: Annotated[int, typer.Option(help="Where everything is drawn from.")] = 1,
    gap: Annotated[float, typer.Option(help="Mean time between two blows, in seconds.")] = 2.0,
    minutes: Annotated[float | None, typer.Option(help="Time after which it is over in any case.")] = None,
    dead_after: Annotated[float, typer.Option(help="Silence after which a node is dead, in seconds.")] = 2.5,
    scale: Annotated[float, typer.Option(help="TPC-H scale.")] = 0.02,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything as JSON.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder for data and logs, which stay there.")] = None,
) -> None:
    """Let a storm rage, and judge."""
    plan = Plan(
        storage=storage,
        nodes=nodes,
        sessions=sessions,
        kills=kills,
        seed=seed,
        gap_s=gap,
        minutes=minutes,
        dead_after_s=dead_after,
        scale=scale,
    )
    if keep is not None:
        keep.mkdir(parents=True)
        report = run_campaign(plan, keep)
    else:
        with tempfile.TemporaryDirectory(prefix="apiary-chaos-") as folder:
            report = run_campaign(plan, Path(folder))
    _show(report)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_json(), indent=1), encoding="utf-8")
    if report.faults:
        raise typer.Exit(1)


def _show(report: Report) -> None:
    table = Table(show_header=False)
    for name, value in report.figures().items():
        table.add_row(name, str(value))
    console.print(table)
    for fault in report.faults[:SHOWN_FAULTS]:
        console.print(f"[red]fault[/] {escape(fault)}")


if __name__ == "__main__":
    typer.run(main)
