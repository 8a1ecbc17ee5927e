"""The command: ``python -m benchmarks run``, ``compare``, ``show``, ``plot``, ``list``.

    python -m benchmarks run --suite tpch --scale 1 --engines swarm,datafusion,duckdb --json out.json --plot out.png
    python -m benchmarks compare before.json out.json

Here belongs what turns words of a command line into values; measuring is for ``runs``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from apiary_df.errors import ApiaryError
from benchmarks.compare import show_changes
from benchmarks.engines.adapter import KINDS
from benchmarks.harness import BENCH_FOLDER
from benchmarks.places import Storage
from benchmarks.plot import draw
from benchmarks.record import Record, read_record, write_record
from benchmarks.runs import Wanted, parse_engines, run_suite
from benchmarks.show import is_all_right, show
from benchmarks.suites import SUITES

FOREIGN_PYTHON = BENCH_FOLDER / "engines" / "bin" / "python"
"""The interpreter of the environment that `make bench-engines` makes."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Measure apiary_df, and other engines beside it.")
PIPED_WIDTH = 200
"""Columns of output that goes to no terminal: enough for all engines side by side."""

# What is piped into a file is not cut to the eighty columns of a terminal that is not there.
console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


@app.command()
def run(  # noqa: PLR0917 - typer hands the options over by name
    suite: Annotated[str, typer.Option(help=f"One of {', '.join(SUITES)}.")] = "tpch",
    scale: Annotated[float, typer.Option(help="Scale factor of the tables.")] = 1.0,
    engines: Annotated[
        str, typer.Option(help="Names with commas between, or all; swarm:small_bytes=0 gives one a setting.")
    ] = "swarm,datafusion,duckdb",
    storage: Annotated[Storage, typer.Option(help="Where tables and the swarm's root lie.")] = Storage.FOLDER,
    workers: Annotated[int, typer.Option(min=1, help="Cores of each engine: node processes, partitions, threads.")] = 2,
    repeat: Annotated[int, typer.Option(min=1, help="Measured runs of each query on each engine, after a first.")] = 3,
    cold_starts: Annotated[int, typer.Option(min=1, help="Starts of each engine until the first row.")] = 1,
    queries: Annotated[str, typer.Option(help="Names of queries with commas between; all if not given.")] = "",
    timeout_s: Annotated[float, typer.Option(help="What one run of a query may take, in seconds.")] = 300.0,
    foreign_python: Annotated[
        Path | None, typer.Option(help=f"Python that has Sail, Spark, Daft; {FOREIGN_PYTHON} if it is there.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Save the run there.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it there, as PNG.")] = None,
) -> None:
    """Measure a suite on several engines, interleaved; exit code 1 if the swarm failed or gave another answer."""
    if foreign_python is None and FOREIGN_PYTHON.exists():
        foreign_python = FOREIGN_PYTHON
    try:
        wanted = Wanted(
            suite=SUITES[_known(suite, list(SUITES), "--suite")],
            scale=scale,
            storage=storage,
            engines=parse_engines(engines),
            workers=workers,
            repeat=repeat,
            cold_starts=cold_starts,
            queries=tuple(
                _known(name.strip(), list(SUITES[suite].queries), "--queries") for name in queries.split(",") if queries
            ),
            folder=BENCH_FOLDER,
            # Not resolved: an environment is known by the path of its interpreter.
            foreign_python=None if foreign_python is None else str(foreign_python.absolute()),
            timeout_s=timeout_s,
        )
        record = _measure(wanted, json)
    except (ApiaryError, ValueError) as error:
        raise _give_up(error) from error
    show(console, record)
    if json is not None:
        console.print(f"saved in {json}")
    if plot is not None:
        draw(record, plot)
        console.print(f"drawn in {plot}")
    if not is_all_right(record):
        raise typer.Exit(1)


def _measure(wanted: Wanted, json: Path | None) -> Record:
    record: Record | None = None
    with console.status("starting") as status:
        for record in run_suite(wanted, say=status.update):
            # After every query: a run that is interrupted leaves what it has.
            if json is not None:
                write_record(json, record)
            if record.queries:
                query = record.queries[-1]
                timings = ", ".join(
                    f"{name} {outcome.median_s * 1000:,.0f} ms" if outcome.seconds else f"{name} failed"
                    for name, outcome in query.outcomes.items()
                )
                console.print(f"{query.name}: {escape(timings)}")
    assert record is not None
    return record


@app.command()
def compare(before: Path, after: Path) -> None:
    """Compare two saved runs, query by query; exit code 1 if anything became slower beyond noise."""
    try:
        slower = show_changes(console, read_record(before), read_record(after))
    except ValueError as error:
        raise _give_up(error) from error
    if slower:
        raise typer.Exit(1)


@app.command(name="show")
def show_saved(saved: Path) -> None:
    """Print the tables of a saved run."""
    try:
        show(console, read_record(saved))
    except ValueError as error:
        raise _give_up(error) from error


@app.command()
def plot(
    saved: Path, to: Annotated[Path | None, typer.Option(help="The PNG; beside the run if not given.")] = None
) -> None:
    """Draw a saved run."""
    path = to or saved.with_suffix(".png")
    try:
        draw(read_record(saved), path)
    except ValueError as error:
        raise _give_up(error) from error
    console.print(f"drawn in {path}")


@app.command(name="list")
def list_all() -> None:
    """Say which suites and engines there are, and which benchmarks of a single question."""
    suites = Table(title="suites")
    for name in ("suite", "queries", "what"):
        suites.add_column(name)
    for suite in SUITES.values():
        suites.add_row(suite.name, str(len(suite.queries)), suite.what)
    engines = Table(title="engines")
    for name in ("engine", "what", "to install"):
        engines.add_column(name)
    for kind in KINDS.values():
        engines.add_row(kind.name, kind.what, escape(f"pip install 'apiary-df[{kind.extra}]'"))
    alone = Table(title="benchmarks of a single question")
    for name in ("command", "what"):
        alone.add_column(name)
    for module, what in _single_questions():
        alone.add_row(f"python -m benchmarks.{module}", escape(what))
    console.print(suites, engines, alone)


def _single_questions() -> Iterator[tuple[str, str]]:
    """Yield the modules that are commands of their own, and what each says of itself in a line."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if "main" in names:
            yield path.stem, (ast.get_docstring(tree) or "").splitlines()[0]


def _known(name: str, known: list[str], option: str) -> str:
    if name not in known:
        raise ValueError(f"{option} has no {name!r}; there are {', '.join(known)}")
    return name


def _give_up(error: Exception) -> typer.Exit:
    console.print(f"[red]{escape(str(error))}[/]")
    return typer.Exit(2)


if __name__ == "__main__":
    app()
