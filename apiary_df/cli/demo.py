"""``apiary demo``: the 22 TPC-H queries on a swarm of processes on this machine, every answer checked.

The only command that uses :mod:`apiary_df.testing`: comparing results is what it is for.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from apiary_df.cli.exits import ExitCode, ending_well
from apiary_df.cli.inputs import ConfigOption, SetOption, settings_from
from apiary_df.config import Settings
from apiary_df.demo import TPCH_ORDER_COLUMNS, tpch_queries
from apiary_df.errors import ConfigError
from apiary_df.units import KIB, format_bytes

if TYPE_CHECKING:
    import datafusion
    import pyarrow as pa

    from apiary_df import SessionContext

MAX_SCALE = 100.0
"""Above it the data alone takes more than 35 GB; a demo that asks for that has the wrong unit."""

MAX_NODES = 64

PARTS_PER_NODE = 2
"""Files a table for each node, so that there is something to hand out however small the data is."""

DEMO_SETTINGS = {"small_bytes": 64 * KIB, "min_task_bytes": 64 * KIB, "finish_here_bytes": 64 * KIB}
"""At scale 0.1 most tables are so small that they would not be worth a stage; a demo wants to show stages."""

HELP = """
Generate TPC-H data, start a swarm of node processes on a local folder, run all 22 queries through it, check every
answer against DataFusion in one process, and stop everything.

The data stays in DIR for the next time. Exit code 1 if an answer differs.

**Examples**

    apiary demo

    apiary demo --scale 1 --nodes 4
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one query went.

    Attributes:
        number: TPC-H's number of the query.
        rows: Rows of the swarm's answer.
        stages: Stages that it was cut into.
        tasks: Tasks that nodes ran.
        bytes_through_storage: Bytes of all partials.
        elapsed_s: Time on the swarm.
        alone_s: Time of DataFusion in one process.
        difference: In what the answers differ; None if they are the same.
    """

    number: int
    rows: int
    stages: int
    tasks: int
    bytes_through_storage: int
    elapsed_s: float
    alone_s: float
    difference: str | None


def demo(
    *,
    scale: Annotated[float, typer.Option("--scale", metavar="SF", help="TPC-H scale factor; 1 is about 1 GB.")] = 0.1,
    nodes: Annotated[int, typer.Option("--nodes", "-n", metavar="N", help="Node processes, of one core each.")] = 2,
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where data and swarm lie.")] = Path(".demo"),
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the swarm's folder, and what queries wrote there, to be looked at.")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Run the demo; see ``HELP``."""
    with ending_well():
        if not 0 < scale <= MAX_SCALE:
            raise ConfigError(f"--scale {scale:g}: a demo has a scale above 0 and up to {MAX_SCALE:g}")
        if not 1 <= nodes <= MAX_NODES:
            raise ConfigError(f"--nodes {nodes}: a demo has 1 to {MAX_NODES} nodes")
        settings = settings_from(config, [*(f"{k}={v}" for k, v in DEMO_SETTINGS.items()), *(set_ or ())], keep=keep)
        outcomes = run_demo(Console(), scale, nodes, folder, settings)
        wrong = [outcome for outcome in outcomes if outcome.difference]
        for outcome in wrong:
            typer.echo(f"Q{outcome.number}: {outcome.difference}", err=True)
        if wrong:
            raise typer.Exit(ExitCode.FAILED)


def run_demo(console: Console, scale: float, nodes: int, folder: Path, settings: Settings) -> list[Outcome]:
    """Run all 22 queries and show each as it ends.

    Raises:
        ConfigError: If the data generator is not installed.
        TableError: If the data cannot be generated.
        SwarmError: If the nodes do not start.
        QueryError: If a query fails.
    """
    import datafusion

    from apiary_df import SessionContext
    from apiary_df.demo.data import generate_tpch, tpch_paths
    from apiary_df.swarm import LocalSwarm

    data = folder / f"tpch-{scale:g}-{nodes * PARTS_PER_NODE}"
    with console.status(f"generating TPC-H data of scale {scale:g} in {data}"):
        generate_tpch(data, scale, nodes * PARTS_PER_NODE)
    paths = tpch_paths(data)
    with ExitStack() as stack:
        root = stack.enter_context(_swarm_folder(folder, keep=settings.keep))
        with console.status(f"starting {nodes} node processes on {root}"):
            swarm = stack.enter_context(LocalSwarm(nodes=nodes, bees=1, storage=str(root), settings=settings))
            ctx = stack.enter_context(SessionContext(storage=swarm.storage, settings=settings, progress=False))
        # As many partitions as the swarm has cores, so that both do their work with as many hands.
        alone = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(nodes))
        for name, path in paths.items():
            ctx.register_parquet(name, str(path))
            alone.register_parquet(name, str(path))
        console.print(f"TPC-H at scale {scale:g} on {nodes} processes of one core, which share nothing but {root}")
        outcomes: list[Outcome] = []
        with Live(_render(outcomes), console=console, refresh_per_second=4) as live:
            for number, text in tpch_queries().items():
                outcomes.append(_run_query(number, text, ctx, alone))
                live.update(_render(outcomes))
    right = sum(outcome.difference is None for outcome in outcomes)
    console.print(f"\n{right} of {len(outcomes)} answers equal those of DataFusion in one process")
    return outcomes


def _run_query(number: int, text: str, ctx: SessionContext, alone: datafusion.SessionContext) -> Outcome:
    from apiary_df.comparison.tables import compare_tables

    expected, alone_s = _timed(alone, text)
    actual, elapsed_s = _timed(ctx, text)
    order = TPCH_ORDER_COLUMNS[number]
    difference = compare_tables(expected, actual, ordered=bool(order), order_columns=order or None, exact_types=False)
    report = ctx.last_query
    return Outcome(
        number=number,
        rows=actual.num_rows,
        stages=report.stages if report else 0,
        tasks=report.tasks if report else 0,
        bytes_through_storage=report.bytes_through_storage if report else 0,
        elapsed_s=elapsed_s,
        alone_s=alone_s,
        difference=str(difference) if difference else None,
    )


def _timed(ctx: datafusion.SessionContext, text: str) -> tuple[pa.Table, float]:
    start_s = time.perf_counter()
    table = ctx.sql(text).to_arrow_table()
    return table, time.perf_counter() - start_s


def _render(outcomes: list[Outcome]) -> Table:
    total = bool(outcomes)
    table = Table(show_footer=total, box=SIMPLE)
    sums = (
        sum(o.rows for o in outcomes),
        sum(o.stages for o in outcomes),
        sum(o.tasks for o in outcomes),
    )
    through = sum(o.bytes_through_storage for o in outcomes)
    elapsed_s, alone_s = sum(o.elapsed_s for o in outcomes), sum(o.alone_s for o in outcomes)
    table.add_column("query", "total", no_wrap=True)
    for name, value in zip(("rows", "stages", "tasks"), sums, strict=True):
        table.add_column(name, f"{value:,}", justify="right")
    table.add_column("through storage", format_bytes(through), justify="right")
    table.add_column("swarm", f"{elapsed_s:.2f} s", justify="right")
    table.add_column("one process", f"{alone_s:.2f} s", justify="right")
    table.add_column("answer")
    for o in outcomes:
        verdict = Text("differs", style="bold red") if o.difference else Text("equal", style="green")
        table.add_row(
            f"Q{o.number}",
            f"{o.rows:,}",
            str(o.stages),
            str(o.tasks),
            format_bytes(o.bytes_through_storage),
            f"{o.elapsed_s:.2f} s",
            f"{o.alone_s:.2f} s",
            verdict,
        )
    return table


@contextmanager
def _swarm_folder(folder: Path, *, keep: bool) -> Iterator[Path]:
    """Yield a new folder, which goes away at the end unless it is to be kept."""
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="swarm-", dir=folder))
    try:
        yield root
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)
