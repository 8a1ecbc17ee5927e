"""``apiary status``: who is in a swarm, what they do, and why one gets no work."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from apiary_df.cli.exits import ending_well
from apiary_df.cli.inputs import ConfigOption, SetOption, StorageOption, settings_from
from apiary_df.cli.output import printable
from apiary_df.errors import ConfigError
from apiary_df.units import counted, format_bytes

if TYPE_CHECKING:
    from apiary_df import SessionContext
    from apiary_df.protocol.heartbeat import NodeView
    from apiary_df.replay.running import Running

SILENT_S = 30.0
"""Silence of a query's session that is worth saying: the longest that a living one is silent by default is shorter."""

WATCH_S = 1.0
"""Time between two looks of --watch: as often as a person can follow."""

_Facts = Mapping[str, Any]

_STYLES = {"alive": "green", "suspect": "yellow", "dead": "red"}

HELP = """
Show the nodes of a swarm: state, bees, memory, caches, versions, and why a node gets no work; and the queries that run.

**Examples**

    apiary status -s /shared/swarm

    apiary status -s s3://bucket/swarm --watch

    apiary status -s s3://bucket/swarm --json | jq .nodes
"""


def status(
    *,
    storage: StorageOption = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again every second, until Ctrl-C.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object a look, for programs.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Show a swarm; see ``HELP``."""
    with ending_well():
        if storage is None:
            raise ConfigError("which swarm? give its root with -s URL, or in APIARY_STORAGE")
        from apiary_df import SessionContext

        with SessionContext(storage=storage, settings=settings_from(config, set_)) as ctx:
            swarm = _Swarm(storage, ctx)
            if not watch:
                swarm.show(json_=json_)
                return
            # Ctrl-C is how one ends watching, not an interruption.
            with contextlib.suppress(KeyboardInterrupt):
                swarm.watch(json_=json_)


class _Swarm:
    """A swarm that is looked at."""

    def __init__(self, storage: str, ctx: SessionContext) -> None:
        from apiary_df.store import open_store

        self._storage = storage
        self._ctx = ctx
        self._store = open_store(storage)
        # How old something is tells the store's clock; this machine's may be wrong.
        self._store_now, self._at_s = self._store.check_writable(), time.monotonic()

    def show(self, *, json_: bool) -> None:
        """Print it as it is now."""
        if not json_:
            Console().print(self._rendered())
            return
        facts = {
            "storage": self._storage,
            "nodes": [node_facts(view) for view in self._ctx.nodes()],
            "queries": self._queries(),
            "refused": self._ctx.refused,
        }
        typer.echo(msgspec.json.encode(facts).decode())

    def watch(self, *, json_: bool) -> None:
        """Print it again and again."""
        if json_:
            while True:
                self.show(json_=True)
                time.sleep(WATCH_S)
        with Live(self._rendered(), refresh_per_second=2) as live:
            while True:
                time.sleep(WATCH_S)
                live.update(self._rendered())

    def _rendered(self) -> RenderableType:
        swarm, queries = render(self._storage, self._ctx.nodes()), render_queries(self._queries())
        refused = ", ".join(f"{number} {reason}" for reason, number in self._ctx.refused.items())
        return Group(swarm, *([Text(f"refused by this look: {refused}")] if refused else []), *queries)

    def _queries(self) -> list[Running]:
        from apiary_df.replay.running import running_queries

        return running_queries(self._store, self._store_now + timedelta(seconds=time.monotonic() - self._at_s))


def node_facts(view: NodeView) -> dict[str, Any]:
    """Return what is known of a node, as ``--json`` writes it: sizes in bytes, and seconds since it was heard of."""
    beat = view.heartbeat
    return {
        "node_id": view.info.node_id,
        "state": view.info.state.value,
        "gets_work": view.usable,
        "reason": view.reason,
        "silent_s": round(view.age_s, 3),
        "hostname": beat.hostname,
        "pid": beat.pid,
        "cores": beat.cores,
        "bees_total": beat.bees_total,
        "bees_busy": beat.bees_busy,
        "memory_bytes": beat.memory_bytes,
        "cached_cells": len(beat.cached_cells),
        "cached_bytes": sum(beat.cached_cells.values()),
        "queries": list(beat.queries),
        "apiary_version": beat.apiary_version,
        "datafusion_version": beat.datafusion_version,
        "protocol_version": beat.protocol_version,
        "python_version": beat.python_version,
        "allow_udfs": beat.allow_udfs,
        "allow_roots": list(beat.allow_roots),
        "refused": dict(beat.refused),
        "started_at": beat.started_at,
    }


def render(storage: str, views: Sequence[NodeView]) -> RenderableType:
    """Return the swarm as a table for people."""
    facts = [node_facts(view) for view in views]
    working = [fact for fact in facts if fact["gets_work"]]
    bees = sum(fact["bees_total"] for fact in working)
    busy = sum(fact["bees_busy"] for fact in working)
    queries = {query for fact in facts for query in fact["queries"]}
    head = Text(
        f"{storage}: {counted(len(working), 'node')} at work of {len(facts)}, {busy} of {counted(bees, 'bee')} busy, "
        f"{counted(len(queries), 'query', 'queries')} running"
    )
    if not facts:
        return Group(head, Text(f"no node yet; start one with: apiary node --storage {storage}"))
    versions = {_versions(fact) for fact in facts}
    # What is the same for all nodes takes a line, not a column: a terminal has eighty of them.
    if len(versions) == 1:
        head.append(f"\n{versions.pop()}")
    columns: dict[str, Callable[[_Facts], str | Text]] = {
        "node": _name,
        "state": _state,
        "bees": _bees,
        "memory": _memory,
        "cached": _cached,
    }
    if versions:
        columns["versions"] = _versions
    columns["queries"] = _queries
    if any(fact["refused"] for fact in facts):
        columns["refused"] = _refused
    if len(working) < len(facts):
        columns["gets no work because"] = lambda fact: str(fact["reason"])
    table = Table(box=SIMPLE)
    for title in columns:
        table.add_column(title, overflow="fold", no_wrap=title == "node")
    for fact in facts:
        table.add_row(*(show(fact) for show in columns.values()))
    return Group(head, table)


def render_queries(queries: Sequence[Running]) -> list[RenderableType]:
    """Return the queries that run as text for people, a query a paragraph; nothing if none does."""
    lines: list[RenderableType] = []
    for query in queries:
        facts = [f"{query.age_s:.1f} s old", f"{counted(query.committed, 'task')} committed"]
        if query.failed:
            facts.append(f"{counted(query.failed, 'attempt')} failed")
        if query.coordinator:
            facts.append(f"of {query.coordinator}")
        line = Text.assemble((query.query_id, "bold"), f"  {', '.join(facts)}")
        if query.silent_s >= SILENT_S:
            line.append(f", whose last sign of life is {query.silent_s:.0f} s old", style="yellow")
        lines.append(line)
        if query.sql:
            sql = printable(" ".join(query.sql.split()))
            lines.append(Padding(Text(sql, no_wrap=True, overflow="ellipsis"), (0, 0, 0, 2), expand=False))
    return lines


def _name(fact: _Facts) -> str:
    return f"{fact['node_id']}\n{fact['hostname']}:{fact['pid']}"


def _state(fact: _Facts) -> Text:
    return Text(fact["state"], style=_STYLES.get(fact["state"], ""))


def _bees(fact: _Facts) -> str:
    return f"{fact['bees_busy']}/{fact['bees_total']}"


def _memory(fact: _Facts) -> str:
    return format_bytes(fact["memory_bytes"])


def _cached(fact: _Facts) -> str:
    return f"{counted(fact['cached_cells'], 'cell')}, {format_bytes(fact['cached_bytes'])}"


def _versions(fact: _Facts) -> str:
    return (
        f"apiary_df {fact['apiary_version']}, DataFusion {fact['datafusion_version']}, "
        f"protocol {fact['protocol_version']}, Python {fact['python_version']}, "
        f"Python functions {'allowed' if fact['allow_udfs'] else 'refused'}"
    )


def _refused(fact: _Facts) -> str:
    return "\n".join(f"{number} {reason}" for reason, number in sorted(fact["refused"].items())) or "-"


def _queries(fact: _Facts) -> str:
    return "\n".join(fact["queries"]) or "-"
