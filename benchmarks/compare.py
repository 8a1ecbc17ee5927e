"""A saved run against another: which queries changed by more than the noise of both.

Seconds of two runs are not compared, since the machine may have been busier in one of them: what is compared is the
ratio of an engine to the base engine of its own run, round by round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.record import Record, ratio, ratios, total

LEAST_CHANGE = 0.05
"""Changes of a ratio below this part of it are never flagged: so much is chance even where the rounds agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One engine's ratio to the base in two runs.

    Attributes:
        engine: Its name.
        query: The query; ``total`` for all that both runs have.
        before: Ratio of the medians in the first run.
        after: In the second.
        beyond_noise: Whether the rounds of the one run lie wholly above or below those of the other, by more than
            :data:`LEAST_CHANGE`. Never with a single round in either.
    """

    engine: str
    query: str
    before: float
    after: float
    beyond_noise: bool

    @property
    def factor(self) -> float:
        """What the ratio was multiplied by; below 1 it became faster."""
        return self.after / self.before


def changes(before: Record, after: Record) -> Iterator[Change]:
    """Yield the changes of each engine that both runs have, queries first, then its total.

    Raises:
        ValueError: The runs are of different suites, scales, workers, storages or base engines.
    """
    for name in ("suite", "scale", "storage", "workers", "base"):
        if getattr(before, name) != getattr(after, name):
            raise ValueError(
                f"the runs cannot be compared: {name} is {getattr(before, name)} in the first, "
                f"{getattr(after, name)} in the second"
            )
    later = {query.name: query for query in after.queries}
    for engine in [e.name for e in before.engines if e.name in {e.name for e in after.engines}]:
        if engine == before.base:
            continue
        for query in before.queries:
            other = later.get(query.name)
            if other is None:
                continue
            was, now = ratio(before, query, engine), ratio(after, other, engine)
            if was is not None and now is not None:
                noise = _beyond_noise(ratios(before, query, engine), ratios(after, other, engine), now / was)
                yield Change(engine=engine, query=query.name, before=was, after=now, beyond_noise=noise)
        yield from _total(before, after, engine)


def _total(before: Record, after: Record, engine: str) -> Iterator[Change]:
    if {query.name for query in before.queries} != {query.name for query in after.queries}:
        return
    was, now = total(before, engine), total(after, engine)
    if was is None or now is None or was.queries != now.queries:
        return
    noise = _beyond_noise((was.lowest, was.highest), (now.lowest, now.highest), now.ratio / was.ratio)
    alone = min(before.repeat, after.repeat) < 2
    yield Change(engine=engine, query="total", before=was.ratio, after=now.ratio, beyond_noise=noise and not alone)


def _beyond_noise(before: tuple[float, ...], after: tuple[float, ...], factor: float) -> bool:
    if min(len(before), len(after)) < 2 or abs(factor - 1) < LEAST_CHANGE:
        return False
    return max(before) < min(after) or max(after) < min(before)


def show_changes(console: Console, before: Record, after: Record) -> list[Change]:
    """Print the changes, and return those that became slower beyond noise.

    Raises:
        ValueError: The runs cannot be compared.
    """
    found = list(changes(before, after))
    table = Table(
        title=f"{before.title()}: {_commit(before)} against {_commit(after)}",
        caption=f"ratios to {before.base} of the same run; marked: no round of one run reaches into the other's",
    )
    for name in ("engine", "query"):
        table.add_column(name)
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right")
    table.add_column("beyond noise")
    for change in found:
        mark = "" if not change.beyond_noise else "[red]slower[/]" if change.factor > 1 else "[green]faster[/]"
        table.add_row(
            change.engine,
            change.query,
            f"{change.before:.2f}",
            f"{change.after:.2f}",
            f"{change.factor - 1:+.0%}",
            mark,
            end_section=change.query == "total",
        )
    console.print(table)
    return [change for change in found if change.beyond_noise and change.factor > 1]


def _commit(record: Record) -> str:
    return str(record.facts.get("versions", {}).get("commit") or record.started_at)
