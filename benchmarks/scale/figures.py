"""What came out of a sweep over node counts: rows, verdicts, a table, a plot. No run is made here."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.plot import COLOURS, MARKERS
from benchmarks.scale.world import Run

SAYS = {
    "reading heartbeats": "the coordinator reads heartbeats",
    "reading commit records": "the coordinator reads commit records",
    "looking for news": "the coordinator lists the query",
    "sending mail": "the coordinator sends mail",
    "planning": "the coordinator plans",
    "announcing": "the coordinator announces the query",
    "the root stage": "the session gathers the result",
    "cleaning up": "the coordinator cleans up",
    "first bytes": "bees wait for first bytes",
    "bytes": "bees wait for bytes",
    "request limits": "a prefix's request limit",
    "idle": "bees wait for the last tasks of a stage",
    "computing": "bees compute",
}
"""What each part of the time is called in a verdict."""

IDLE = frozenset({"waiting", "watching"})
"""What the coordinator does while there is nothing else to do."""

COORDINATOR_SHARE = 0.3
"""Share of the elapsed time that the coordinator must be busy for it to be what limits."""

BEES_SHARE = 0.25
"""Share of the bees' time that anything must take for it to be what limits, whatever the coordinator does meanwhile."""

PARTS = {
    "computing": "#0b5345",
    "bytes": "#56b4e9",
    "first bytes": "#e6b34a",
    "request limits": "#c0392b",
    "idle": "#d9d9d9",
}
"""What bees' time goes to, in the order of the picture, and the shade of each."""

TIMES_S = (1, 5, 10, 30, 60, 300, 600, 1_800, 3_600, 10_800, 36_000, 86_400)
"""Times that a person reads easily, for an axis."""

STYLES = ("-", "--", ":")
"""Lines of the worlds; queries have colours and markers."""

SCALES_TO = 0.5
"""Efficiency below which a query does not scale any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run of a sweep.

    Attributes:
        query: Its name.
        world: ``calm``, or what goes wrong in it.
        nodes: How many nodes.
        run: What it came to.
        speed_up: Times as fast as with the fewest nodes of the sweep.
        efficiency: That, over times as many nodes.
    """

    query: str
    world: str
    nodes: int
    run: Run
    speed_up: float
    efficiency: float


def rows_of(runs: Mapping[tuple[str, str], Mapping[int, Run]]) -> list[Row]:
    """Return the rows of a sweep, given runs by node count for each query and world.

    Speed-up is over the fewest nodes in the query's first world: what goes wrong in another one is no gain.
    """
    rows = []
    bases: dict[str, Mapping[int, Run]] = {}
    for (query, world), by_nodes in runs.items():
        base = bases.setdefault(query, by_nodes)
        least = min(base)
        first_s = base[least].elapsed_s
        for nodes, run in sorted(by_nodes.items()):
            speed_up = first_s / run.elapsed_s
            efficiency = speed_up * least / nodes
            rows.append(Row(query=query, world=world, nodes=nodes, run=run, speed_up=speed_up, efficiency=efficiency))
    return rows


def limit_of(run: Run) -> str:
    """Say what a run spent most of its time on, beside computing: what bees wait for, the coordinator, or nothing."""
    total_s = sum(run.bees_s.values())
    waits = {name: seconds for name, seconds in run.bees_s.items() if name not in {"computing", "idle"}}
    worst = max(waits, key=lambda name: waits[name])
    if waits[worst] > BEES_SHARE * total_s:
        return f"{SAYS[worst]} ({_share(run, worst)} of bees' time; computing {_share(run, 'computing')})"
    busy = {name: seconds for name, seconds in run.coordinator_s.items() if name not in IDLE}
    if sum(busy.values()) > COORDINATOR_SHARE * run.elapsed_s:
        worst = max(busy, key=lambda name: busy[name])
        return f"{SAYS[worst]} ({busy[worst] / run.elapsed_s:.0%} of the time)"
    worst = max((name for name in run.bees_s if name != "computing"), key=lambda name: run.bees_s[name])
    return f"{SAYS[worst]} ({_share(run, worst)} of bees' time; computing {_share(run, 'computing')})"


def _share(run: Run, name: str) -> str:
    return f"{run.bees_s.get(name, 0.0) / sum(run.bees_s.values()):.0%}"


def markdown(rows: Sequence[Row]) -> str:
    """Return the table."""
    lines = [
        "| query | world | nodes | time | speed-up | efficiency | tasks | two levels | requests | their $ | all $ "
        "| what limits |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        run = row.run
        lines.append(
            f"| {row.query} | {row.world} | {row.nodes:,} | {clock(run.elapsed_s)} | {row.speed_up:.1f} "
            f"| {row.efficiency:.0%} | {run.tasks:,} | {run.combined or ''} | {sum(run.requests.values()):,} "
            f"| {run.requests_usd:.2f} | {run.usd:.2f} | {limit_of(run)} |"
        )
    return "\n".join(lines)


def stops(rows: Sequence[Row]) -> str:
    """Say for each query, where nothing goes wrong, up to how many nodes it scales, and what stops it.

    It scales as long as :data:`SCALES_TO` of what nodes are added for comes out.
    """
    lines = []
    first = rows[0].world
    for query in dict.fromkeys(row.query for row in rows):
        mine = sorted((row for row in rows if (row.query, row.world) == (query, first)), key=lambda row: row.nodes)
        past = next((number for number, row in enumerate(mine) if row.efficiency < SCALES_TO), None)
        if past is None:
            lines.append(f"- {query} scales to {mine[-1].nodes:,} nodes, the most that were tried.")
            continue
        best, worse = mine[past - 1], mine[past]
        lines.append(
            f"- {query} scales to {best.nodes:,} nodes ({best.efficiency:.0%}, {clock(best.run.elapsed_s)}); at "
            f"{worse.nodes:,} it is {worse.efficiency:.0%}: {limit_of(worse.run)}."
        )
    return "\n".join(lines)


def clock(seconds: float) -> str:
    """Return a time for a person.

    >>> clock(7_384), clock(75), clock(3.21)
    ('2 h 3 min', '1 min 15 s', '3.2 s')
    """
    if seconds >= 3_600:
        return f"{int(seconds // 3_600)} h {int(seconds % 3_600 // 60)} min"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s" if seconds >= 60 else f"{seconds:.1f} s"


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw efficiency, time and what the time goes to, over the number of nodes, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"font.size": 11, "axes.titlesize": 12})
    figure: Any = plt.figure(figsize=(16, 6.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    worlds = list(dict.fromkeys(row.world for row in rows))
    queries = list(dict.fromkeys(row.query for row in rows))
    for (number, query), (style, world) in itertools.product(enumerate(queries), zip(STYLES, worlds, strict=False)):
        mine = [row for row in rows if (row.query, row.world) == (query, world)]
        look = {"color": COLOURS[number], "linestyle": style, "marker": MARKERS[number], "ms": 6, "lw": 1.8}
        counts = [row.nodes for row in mine]
        left.plot(counts, [100 * row.efficiency for row in mine], label=f"{query}, {world}", **look)
        middle.plot(counts, [row.run.elapsed_s for row in mine], **look)
    left.axhline(100 * SCALES_TO, color="#999999", lw=1, ls=":")
    left.set(title="efficiency: speed-up over nodes added, %", ylim=(0, 105))
    middle.set(title="time", yscale="log")
    low_s, high_s = middle.get_ylim()
    shown_s = [seconds for seconds in TIMES_S if low_s <= seconds <= high_s]
    middle.set_yticks(
        shown_s, labels=[clock(seconds).removesuffix(" 0 s").removesuffix(" 0 min") for seconds in shown_s]
    )
    middle.minorticks_off()
    ticks = sorted({row.nodes for row in rows})
    for axes in (left, middle):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, labels=[f"{count:,}" for count in ticks])
        axes.set_xlabel("nodes of one bee (log scale)")
        axes.grid(alpha=0.3)
    _draw_parts(right, [row for row in rows if row.world == worlds[0]])
    figure.legend(loc="outside lower center", ncols=max(4, len(queries)), frameon=False)
    figure.suptitle(title, fontsize=14, fontweight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_parts(axes: Any, rows: Sequence[Row]) -> None:
    """Draw what bees' time went to: a bar for each number of nodes, query by query."""
    places, names = [], []
    place = 0.0
    for query in dict.fromkeys(row.query for row in rows):
        for row in (row for row in rows if row.query == query):
            places.append(place)
            names.append(f"{row.nodes:,}")
            bottom, total_s = 0.0, sum(row.run.bees_s.values())
            for part, shade in PARTS.items():
                height = 100 * row.run.bees_s.get(part, 0.0) / total_s
                axes.bar(place, height, bottom=bottom, color=shade, width=0.9)
                bottom += height
            place += 1
        middle = place - 0.5 - len([row for row in rows if row.query == query]) / 2
        axes.text(middle, 101, query, ha="center", va="bottom", fontsize=11)
        place += 0.7
    axes.set_xticks(places, labels=names, rotation=90, fontsize=9)
    axes.set(title="what bees' time goes to, calm, %\n", ylim=(0, 100), xlabel="nodes")
    axes.legend(
        handles=[_patch(shade, part) for part, shade in PARTS.items()],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.2),
        ncols=3,
        frameon=False,
    )


def _patch(shade: str, name: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=shade, label=name)
