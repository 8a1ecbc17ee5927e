"""A record as tables of a terminal."""

from __future__ import annotations

import statistics

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from apiary_df.costs import NO_REQUESTS
from apiary_df.units import format_bytes
from benchmarks.record import (
    NOT_COMPARED,
    SAME,
    Outcome,
    QueryRecord,
    Record,
    is_wrong,
    peak_memory_bytes,
    ratio,
    times_as_fast,
    total,
)

SWARM = "swarm"
FAST_ENOUGH, TOO_SLOW = 1.15, 1.6
"""Ratios to the base from which on a figure is shown in yellow, and in red."""


def show(console: Console, record: Record) -> None:
    """Print everything that a record tells."""
    if record.queries:
        console.print(per_query(record))
        if any(name.split(":")[0] == SWARM for name in _running(record)):
            console.print(what_swarms_did(record))
    console.print(totals(record))
    for part in (targets(record), *troubles(record)):
        if part is not None:
            console.print(part)


def per_query(record: Record) -> Table:
    """Return milliseconds and ratios, a query a row."""
    table = Table(
        title=record.title(),
        caption=f"milliseconds, median; ± span of the runs as a part of it; × against {record.base}",
    )
    table.add_column("query")
    table.add_column("rows", justify="right")
    names = _running(record)
    for name in names:
        table.add_column(f"{name}\nms ±", justify="right")
        if name != record.base:
            table.add_column("×", justify="right")
    for query in record.queries:
        cells = [query.name, str(query.rows)]
        for name in names:
            outcome = query.outcomes.get(name)
            cells.append(_timing(outcome))
            if name != record.base:
                cells.append(_ratio(ratio(record, query, name)))
        table.add_row(*cells)
    return table


def what_swarms_did(record: Record) -> Table:
    """Return stages, tasks, bytes and requests of the swarms' queries."""
    table = Table(title="what the swarm did", caption="requests: of session and nodes for the query, by kind")
    for name in ("query", "engine"):
        table.add_column(name)
    for name in ("stages", "tasks", "through storage", "requests"):
        table.add_column(name, justify="right")
    table.add_column("by kind")
    for query in record.queries:
        for name, outcome in query.outcomes.items():
            if name.split(":")[0] == SWARM and outcome.report is not None:
                table.add_row(query.name, name, *_did(outcome.report))
    return table


def _did(report: dict[str, object]) -> list[str]:
    told = report["requests"]
    assert isinstance(told, dict)
    requests = {kind: count for kind, count in told.items() if kind not in NO_REQUESTS}
    through = report["bytes_through_storage"]
    assert isinstance(through, int)
    by_kind = " ".join(f"{kind} {count}" for kind, count in sorted(requests.items()) if count)
    stages = str(report["stages"]) if report["distributed"] else "here"
    return [stages, str(report["tasks"]), format_bytes(through), str(sum(requests.values())), by_kind]


def totals(record: Record) -> Table:
    """Return an engine a row: total, cold start, memory."""
    table = Table(title=f"engines, {record.title()}", caption=f"× against {record.base}, over the queries both ran")
    for name in ("engine", "version"):
        table.add_column(name)
    for name in ("total s", "×", "rounds", "worst query", "queries", "first row s", "peak memory"):
        table.add_column(name, justify="right")
    for engine in record.engines:
        if engine.failure is not None:
            table.add_row(engine.name, engine.version, "[red]did not run[/]", *([""] * 6))
            continue
        found = total(record, engine.name)
        cells = [""] * 5
        if found is not None:
            cells = [
                f"{found.seconds:.2f}",
                _ratio(found.ratio),
                f"{found.lowest:.2f} to {found.highest:.2f}",
                f"{found.worst[1]} {found.worst[0]:.2f}",
                f"{found.queries} of {len(record.queries)}",
            ]
        memory = peak_memory_bytes(record, engine.name)
        first = f"{statistics.median(engine.first_row_s):.2f}"
        table.add_row(engine.name, engine.version, *cells, first, format_bytes(memory) if memory else "")
    return table


def targets(record: Record) -> Table | None:
    """Return how many times as fast as the other distributed engines the swarm was; None if none of them ran."""
    table = Table(title="the swarm against other distributed engines, over the queries both ran")
    for name in ("engine", "swarm is", "target", ""):
        table.add_column(name)
    for engine, times in times_as_fast(record):
        reached = "[green]reached[/]" if engine.target is not None and times >= engine.target else "[red]missed[/]"
        table.add_row(engine.name, f"{times:.2f} times as fast", f"{engine.target:g}", reached)
    return table if table.row_count else None


def troubles(record: Record) -> list[RenderableType]:
    """Return a line for each engine that did not run, each query that failed and each answer that differs."""
    lines: list[RenderableType] = [
        f"[red]{escape(engine.name)}[/] did not run: {escape(engine.failure)}"
        for engine in record.engines
        if engine.failure is not None
    ]
    for query in record.queries:
        for name, outcome in query.outcomes.items():
            if outcome.failure is not None:
                lines.append(f"[red]{query.name} on {escape(name)}[/] failed: {escape(outcome.failure)}")
            elif is_wrong(outcome):
                lines.append(f"[red]{query.name} on {escape(name)}[/] gave another answer: {escape(outcome.answer)}")
    return lines


def _running(record: Record) -> list[str]:
    return [engine.name for engine in record.engines if engine.failure is None]


def _timing(outcome: Outcome | None) -> str:
    if outcome is None or not outcome.seconds:
        return "[red]failed[/]" if outcome is not None and outcome.failure is not None else ""
    text = f"{outcome.median_s * 1000:,.0f} ±{outcome.spread:.0%}"
    return text if outcome.answer in {SAME, NOT_COMPARED} else f"[red]{text} differs[/]"


def _ratio(value: float | None) -> str:
    if value is None:
        return ""
    colour = "green" if value <= FAST_ENOUGH else "yellow" if value <= TOO_SLOW else "red"
    return f"[{colour}]{value:.2f}[/]"


def is_all_right(record: Record, queries: tuple[QueryRecord, ...] | None = None) -> bool:
    """Whether our own engines ran everything, and every answer that was compared is the same."""
    ours = {engine.name for engine in record.engines if engine.name.split(":")[0] == SWARM}
    if any(engine.failure is not None for engine in record.engines if engine.name in ours):
        return False
    outcomes = [(name, o) for query in queries or record.queries for name, o in query.outcomes.items() if name in ours]
    return not any(outcome.failure is not None or is_wrong(outcome) for _, outcome in outcomes)
