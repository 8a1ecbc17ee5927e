"""Run suites at all partition counts and say what is not as it should be.

    python -m tests.suite
    python -m tests.suite --suite tpch,ssb --partitions 2,7 --only q17 --json out.json
    python -m tests.suite --page docs/testing.md

The exit code is 1 if an answer differs, a query runs elsewhere than it should, or too few use several tasks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from .catalogue import SUITES
from .harness import PARTITIONS, Bench, Outcome
from .report import LEAST_SHARE, MADE, as_json, as_markdown, as_table, made_part, summarise

console = Console()


def main(
    suite: Annotated[str, typer.Option(help="Names of suites, with commas.")] = ",".join(SUITES),
    partitions: Annotated[str, typer.Option(help="Partition counts, with commas.")] = ",".join(map(str, PARTITIONS)),
    only: Annotated[str, typer.Option(help="Run only queries with this in their names.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything as JSON.")] = None,
    page: Annotated[Path | None, typer.Option(help="Also write the table into this page's made part.")] = None,
) -> None:
    """Run suites on swarms and on plain DataFusion, and compare."""
    unknown = [name for name in suite.split(",") if name not in SUITES]
    if unknown:
        raise typer.BadParameter(f"no suite is called {unknown[0]}; there are {', '.join(SUITES)}")
    whole = (suite, partitions, only) == (",".join(SUITES), ",".join(map(str, PARTITIONS)), "")
    if page is not None and not whole:
        raise typer.BadParameter("--page takes a run of everything: leave --suite, --partitions and --only out")
    runs = [
        (SUITES[name], query, count)
        for name in suite.split(",")
        for count in map(int, partitions.split(","))
        for query in SUITES[name].queries
        if only in query.name
    ]
    outcomes: list[Outcome] = []
    with Bench() as bench, Progress(console=console, transient=True) as progress:
        for one, query, count in progress.track(runs):
            outcomes.append(bench.run(one, query, count))
            for fault in outcomes[-1].faults:
                console.print(f"[red]{escape(outcomes[-1].label)}[/]: {escape(fault)}")
    summaries = summarise(outcomes)
    console.print(as_table(summaries))
    for summary in summaries:
        reasons: dict[str, list[str]] = {}
        for label, reason in summary.alone:
            reasons.setdefault(reason, []).append(label)
        for reason, labels in reasons.items():
            console.print(f"not in several tasks: {escape(', '.join(labels))}: {escape(reason)}")
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(outcomes), indent=1), encoding="utf-8")
    if page is not None:
        text = MADE.sub(lambda _: made_part(as_markdown(summaries)), page.read_text(encoding="utf-8"))
        page.write_text(text, encoding="utf-8")
    if any(outcome.faults for outcome in outcomes) or any(s.share < LEAST_SHARE for s in summaries):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
