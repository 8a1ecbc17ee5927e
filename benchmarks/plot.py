"""A record as a picture: totals, cold starts and memory above, the ratio of every query below."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apiary_df.units import GIB
from benchmarks.record import Record, peak_memory_bytes, ratio, total

COLOURS = ("#d98200", "#4d4d4d", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#a6761d", "#7b3294")
"""By the engine's place; told apart by people who do not tell red from green."""

MARKERS = "osD^vPX*"

WIDEST = 16.0
"""Width of the widest picture, in inches."""

LONGEST_BAR = 5.0
"""Longest bar that is drawn, in medians of all bars; longer ones are cut and marked."""


def draw(record: Record, path: Path) -> None:
    """Write a PNG.

    Args:
        record: The run; without a query that ran on two engines, only cold starts are drawn.
        path: Where to; folders on the way are made.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = [engine.name for engine in record.engines if engine.failure is None]
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    figure = plt.figure(figsize=(min(WIDEST, max(10.0, 0.42 * len(record.queries) + 3)), 7.5), layout="constrained")
    figure.suptitle(record.title(), fontsize=13, fontweight="bold")
    parts: Any = figure.subfigures(2, 1, height_ratios=[max(1.0, 0.16 * len(names) + 0.5), 2.0])
    above, below = parts
    left, middle, right = above.subplots(1, 3, sharey=True)
    ratios = {name: found.ratio if (found := total(record, name)) else None for name in names}
    starts = {e.name: statistics.median(e.first_row_s) for e in record.engines if e.name in names}
    memory = {name: peak_memory_bytes(record, name) / GIB or None for name in names}
    _bars(left, ratios, colours, f"total time, × {record.base}", "{:.2f}")
    _bars(middle, starts, colours, "spawn to first row, s", "{:.1f}")
    _bars(right, memory, colours, "peak memory, GiB", "{:.2f}")
    left.invert_yaxis()
    _dots(below.subplots(), record, names, colours)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _bars(axes: Any, values: Mapping[str, float | None], colours: dict[str, str], title: str, form: str) -> None:
    names = list(values)
    lengths = [value or 0.0 for value in values.values()]
    # One engine far behind would make the others too small to tell apart: its bar is cut, and its figure says so.
    end = max(min(max(lengths), LONGEST_BAR * statistics.median(lengths)), 0.01)
    bars = axes.barh(names, [min(length, end) for length in lengths], color=[colours[n] for n in names], height=0.65)
    texts = ["" if not length else ("» " if length > end else "") + form.format(length) for length in lengths]
    axes.bar_label(bars, labels=texts, padding=3, fontsize=9)
    axes.set_title(title, fontsize=10)
    # Room for the label of the longest bar.
    axes.set_xlim(0, end * 1.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="both", labelsize=9)


def _dots(axes: Any, record: Record, names: list[str], colours: dict[str, str]) -> None:
    places = range(len(record.queries))
    compared = [name for name in names if name != record.base]
    for index, name in enumerate(compared):
        # Side by side, or engines that are equally fast would cover each other.
        shift = (index - (len(compared) - 1) / 2) * 0.5 / max(1, len(compared))
        found = [
            (place + shift, ratio(record, query, name)) for place, query in zip(places, record.queries, strict=True)
        ]
        dots = [(x, y) for x, y in found if y is not None]
        axes.scatter(
            [x for x, _ in dots],
            [y for _, y in dots],
            color=colours[name],
            marker=MARKERS[index % len(MARKERS)],
            s=34,
            label=name,
            zorder=3,
        )
    axes.axhline(1.0, color=colours.get(record.base, "black"), linewidth=1.2, zorder=2, label=record.base)
    axes.set_yscale("log")
    from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator

    axes.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.set_ylabel(f"time, × {record.base} (log)", fontsize=10)
    long = max((len(query.name) for query in record.queries), default=0) > 4
    axes.set_xticks(list(places), [query.name for query in record.queries], rotation=30 if long else 0, fontsize=9)
    axes.set_xlim(-0.7, len(record.queries) - 0.3)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    for place in places[1:]:
        axes.axvline(place - 0.5, color="#eeeeee", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=max(1, len(names)), fontsize=9, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
