"""The swarm on paper: time, requests and money of TPC-H queries on up to a thousand nodes, and what limits them.

    python -m benchmarks.simulate --nodes 2,8,32,128,512,1024 --plot scale.png
    python -m benchmarks.simulate --real            # how far the model is off, against a swarm on this machine
    python -m benchmarks.simulate --measure         # what queries need, measured anew, on a machine that is quiet

The planner and the schedule are the real ones; storage, nodes and time are modelled (``benchmarks/scale``). The same
seed gives the same figures. ``--page docs/scale.md`` writes them into the documentation.
"""

from __future__ import annotations

import functools
import gc
import itertools
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from apiary_df.config import Settings
from apiary_df.demo import tpch_queries
from apiary_df.protocol.storage import AT_ONCE
from apiary_df.tasks import CELLS_PER_BEE
from benchmarks.harness import (
    elapsed_s,
    environment,
    open_swarm,
    register_tables,
    run_on_swarm,
    write_json,
)
from benchmarks.scale import profiles
from benchmarks.scale.assumptions import BUCKET, FOLDER, SPOT, Assumptions, CoordinatorModel, NodeModel, told
from benchmarks.scale.figures import Row, markdown, plot, rows_of, stops
from benchmarks.scale.world import Run, run

PROFILE = Path(__file__).parent / "scale" / "profile.json"
NODES = "2,8,32,128,512,1024"
QUERIES = "1,6,3,18"
SCALE = 10_000.0
CELL_BYTES = 20_000_000
"""At scale 10,000 the largest table then has about a hundred thousand cells."""

REAL_SCALE = 1.0
PROFILE_SCALES = (0.1, 0.2)
NEVER_DOLLARS = 1_000.0
"""What no combining stage saves."""

FIRST_REPLY_S = 0.015
"""From the SQL to the first request of a query over a few files."""

console = Console(width=200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A query on this machine, predicted and measured, in seconds.

    Attributes:
        query: Its name.
        predicted_s: By the model, from a profile of one bee.
        measured_s: Median of the runs on two nodes.
    """

    query: str
    predicted_s: float
    measured_s: float

    @property
    def off(self) -> float:
        """How far the prediction is off, as a part of what was measured."""
        return self.predicted_s / self.measured_s - 1


def sweep(
    profile: profiles.Profile,
    worlds: Mapping[str, Assumptions],
    *,
    queries: Sequence[int],
    nodes: Sequence[int],
    scale: float = SCALE,
    cell_bytes: int = CELL_BYTES,
    seed: int = 0,
    settings: Settings | None = None,
) -> list[Row]:
    """Run every query in every world on every number of nodes, and return what came out."""
    runs: dict[tuple[str, str], dict[int, Run]] = {}
    # A run keeps millions of small values until it ends: looking for garbage among them takes longer than the run.
    gc.disable()
    try:
        for number, (world, assumptions), count in itertools.product(queries, worlds.items(), nodes):
            shape = profile.queries[number]
            with console.status(f"{shape.name}, {world}, {count:,} nodes"):
                done = run(
                    shape, assumptions, nodes=count, scale=scale, cell_bytes=cell_bytes, seed=seed, settings=settings
                )
            runs.setdefault((shape.name, world), {})[count] = done
            gc.collect()
    finally:
        gc.enable()
    return rows_of(runs)


def compare_with_real(queries: Sequence[int], scale: float, repeat: int) -> list[Compared]:
    """Predict queries on two nodes from what they take on one, and run them on two nodes, query by query."""
    tables = profiles.tables_of(scale)
    urls = {name: str(path) for name, path in tables.items()}
    # Two bees share a scan in eight pieces.
    cell_bytes = max(path.stat().st_size for path in tables.values()) // (2 * CELLS_PER_BEE)
    assumptions = Assumptions(
        storage=FOLDER,
        node=NodeModel(uneven=0.0),
        coordinator=CoordinatorModel(start_s=FIRST_REPLY_S, in_flight=1),
    )
    found = []
    with open_swarm(None, 1) as one, open_swarm(None, 2) as two:
        register_tables(one, urls)
        register_tables(two, urls)
        for number in queries:
            sql = tpch_queries()[number]
            with console.status(f"Q{number}"):
                shape = profiles.shape_of(one, number, tables, scale, repeat, alone=True)
                taken_s = [elapsed_s(functools.partial(run_on_swarm, two, sql)) for _ in range(repeat + 1)][1:]
            predicted = run(shape, assumptions, nodes=2, scale=scale, cell_bytes=cell_bytes)
            found.append(
                Compared(query=shape.name, predicted_s=predicted.elapsed_s, measured_s=statistics.median(taken_s))
            )
    return found


def compared_table(found: Sequence[Compared]) -> str:
    lines = ["| query | predicted ms | measured ms | off |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {c.query} | {1_000 * c.predicted_s:.0f} | {1_000 * c.measured_s:.0f} | {c.off:+.0%} |" for c in found]
    predicted_s, measured_s = sum(c.predicted_s for c in found), sum(c.measured_s for c in found)
    total = Compared(query="all", predicted_s=predicted_s, measured_s=measured_s)
    middle = statistics.median(abs(c.off) for c in found)
    lines.append(f"| all | {1_000 * predicted_s:.0f} | {1_000 * measured_s:.0f} | {total.off:+.0%} |")
    return "\n".join([*lines, "", f"Half of the queries are off by {middle:.0%} or less."])


def assumptions_table(assumptions: Assumptions) -> str:
    lines = ["| assumption | value |", "| --- | ---: |"]
    return "\n".join([*lines, *(f"| `{name}` | {value} |" for name, value in told(assumptions))])


def write_part(page: Path, name: str, text: str) -> None:
    """Put a text between the marks of that name on a page.

    Raises:
        ValueError: If the page has no such marks.
    """
    words = page.read_text(encoding="utf-8")
    marked = re.compile(rf"(<!-- made: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not marked.search(words):
        raise ValueError(f"{page} has no part named {name!r}")
    page.write_text(marked.sub(lambda found: f"{found[1]}{text}\n{found[2]}", words), encoding="utf-8")


def main(  # noqa: PLR0917 - typer hands the options over by name
    nodes: Annotated[str, typer.Option(help="Numbers of nodes.")] = NODES,
    queries: Annotated[
        str, typer.Option(help=f"TPC-H numbers that the profile has ({QUERIES} if none are given); with --real, any.")
    ] = "",
    scale: Annotated[
        float | None, typer.Option(help=f"TPC-H scale factor; {SCALE:g}, or with --real {REAL_SCALE:g}.")
    ] = None,
    in_flight: Annotated[
        int, typer.Option(min=1, help="Requests that the coordinator has under way at a time.")
    ] = AT_ONCE,
    prefixes: Annotated[int, typer.Option(min=1, help="Prefixes that a table's objects are spread over.")] = 1,
    one_level: Annotated[bool, typer.Option("--one-level", help="Never put the pieces of a shuffle together.")] = False,
    seed: int = 0,
    profile: Annotated[Path, typer.Option(help="What queries were measured to need.")] = PROFILE,
    measure: Annotated[bool, typer.Option("--measure", help="Measure that anew, and write it there.")] = False,
    real: Annotated[bool, typer.Option("--real", help="Compare the model with a swarm on this machine.")] = False,
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each query, with --real and --measure.")] = 3,
    plot_to: Annotated[Path | None, typer.Option("--plot", help="Draw a PNG.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write the tables into this page.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
) -> None:
    """Predict what queries take on many nodes, and say what limits them."""
    wanted = queries or ("" if real else QUERIES)
    numbers = [int(word) for word in wanted.split(",")] if wanted else [*tpch_queries()]
    counts = [int(word) for word in nodes.split(",")]
    if measure:
        facts = environment()["machine"]
        profiles.save(profiles.measure([*profiles.SHAPES], PROFILE_SCALES, f"{facts['cpu']}", repeat=repeat), profile)
        console.print(f"written: {profile}")
        return
    if real:
        found = compare_with_real(numbers, scale or REAL_SCALE, repeat)
        text = compared_table(found)
        console.print(text)
        if page is not None:
            write_part(page, "real", text)
        return
    base = Assumptions(storage=BUCKET, coordinator=CoordinatorModel(in_flight=in_flight), table_prefixes=prefixes)
    worlds = {"calm": base, "spot": replace(base, node=SPOT)}
    large = scale or SCALE
    settings = Settings(combine_from_dollars=NEVER_DOLLARS) if one_level else Settings()
    rows = sweep(
        profiles.load(profile), worlds, queries=numbers, nodes=counts, scale=large, seed=seed, settings=settings
    )
    parts = {
        "sweep": markdown(rows),
        "stops": stops(rows),
        "assumptions": assumptions_table(base),
    }
    for text in parts.values():
        console.print(text, "", sep="\n", soft_wrap=True)
    if plot_to is not None:
        plot(rows, plot_to, f"TPC-H scale {large:,g} on a bucket, by the model")
    if page is not None:
        for name, text in parts.items():
            write_part(page, name, text)
    if json is not None:
        write_json(json, {"benchmark": "simulate", "scale": large, "seed": seed, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
