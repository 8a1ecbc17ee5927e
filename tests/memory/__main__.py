"""A join and a sort over data ten times a bee's budget: do they finish, exactly, and what do nodes and bees hold?

    python -m tests.memory
    python -m tests.memory --bee 64MiB --limit 512MiB

Prints, for each query, its rows against plain DataFusion's, attempts that failed, what was spilled, and the most
resident memory of nodes and bees beside the budget. ``--limit`` stands in for a container's limit: a watchdog that
kills, as the system would, the largest process of a node whose processes hold more than that together (their anonymous
memory, shared pages counted once). The exit code is 1 if an answer differs, a query fails, or a process was killed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from apiary_df.units import format_bytes, parse_size

from .measure import Outcome, generate, measured

DATA_FOLDER = Path(".bench")
"""Where tables are made; ignored by git."""

console = Console()


def main(
    *,
    bee: Annotated[str, typer.Option(help="Budget of a bee.")] = "64MiB",
    bees: Annotated[int, typer.Option(min=1, help="Bees of each node.")] = 2,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes.")] = 1,
    times: Annotated[int, typer.Option(min=1, help="Size of each table, in budgets of a bee.")] = 10,
    limit: Annotated[str | None, typer.Option(help="Memory that a node's processes may hold together.")] = None,
) -> None:
    """Run both queries and print the table."""
    bee_bytes = parse_size(bee)
    limit_bytes = None if limit is None else parse_size(limit)
    paths = generate(DATA_FOLDER / f"memory-{bee_bytes * times}", bee_bytes * times)
    outcomes = measured(paths, bee_bytes=bee_bytes, bees=bees, nodes=nodes, limit_bytes=limit_bytes)
    show(outcomes, f"{nodes} nodes of {bees} bees of {format_bytes(bee_bytes)}, tables of {times} times that each")
    if any(not outcome.same or outcome.killed for outcome in outcomes):
        raise typer.Exit(1)


def show(outcomes: list[Outcome], title: str) -> None:
    """Print the table."""
    table = Table(
        "query", "rows", "seconds", "tasks", "failed attempts", "spilled", "node, peak", "bee, peak", title=title
    )
    for outcome in outcomes:
        rows = "exact" if outcome.same else "[red]differ[/]"
        failed = ", ".join(f"{count} {code}" for code, count in outcome.failed.items()) or "none"
        table.add_row(
            outcome.name,
            rows if not outcome.error else f"[red]{outcome.error[:300]}[/]",
            f"{outcome.seconds:.1f}",
            str(outcome.tasks),
            failed + (f", {outcome.killed} killed by the limit" if outcome.killed else ""),
            format_bytes(outcome.spilled_bytes),
            format_bytes(outcome.node_bytes),
            format_bytes(outcome.bee_bytes),
        )
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
