"""``apiary gc``: what lost sessions and dead nodes have left below a root, removed by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from apiary_df.cli.exits import ending_well
from apiary_df.cli.inputs import AllowRootOption, ConfigOption, SetOption, StorageOption, settings_from
from apiary_df.errors import ConfigError
from apiary_df.units import format_bytes, format_seconds, parse_seconds

if TYPE_CHECKING:
    from apiary_df.collect import Verdict
    from apiary_df.collector import Collection

HELP = """
Remove what lost sessions and dead nodes have left below a root, and say what stays, and why.

Nodes do this by themselves; by hand it is for roots without nodes, and for queries that were kept. Nothing is touched
that has changed within the grace period, by the store's own clock. Of running queries the lease changes all the time.
Files that lost sessions were writing are taken back below --storage and --allow-root; other such queries stay.

**Examples**

    apiary gc -s /shared/swarm --dry-run

    apiary gc -s s3://bucket/swarm --grace 10m

    apiary gc -s s3://bucket/swarm --kept --grace 7d --json | jq .removed
"""


def gc(
    *,
    storage: StorageOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would be removed.")] = False,
    grace: Annotated[
        str | None,
        typer.Option("--grace", metavar="TIME", help="Age from which on: 90s, 10m, 2h, 7d. Default: gc_grace_s."),
    ] = None,
    kept: Annotated[bool, typer.Option("--kept", help="Remove queries too that were kept on purpose.")] = False,
    allow_root: AllowRootOption = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Collect by hand; see ``HELP``."""
    with ending_well():
        if storage is None:
            raise ConfigError("which swarm? give its root with -s URL, or in APIARY_STORAGE")
        from apiary_df.collect import Limits
        from apiary_df.collector import collect_now
        from apiary_df.roots import roots_of, split_roots
        from apiary_df.store import open_store

        store = open_store(storage)
        settings = settings_from(config, set_).for_store(store.kind)
        roots = roots_of((storage, *split_roots(settings.allow_roots or ""), *(allow_root or ())))
        dead_after_s = settings.dead_after_s or 0.0
        grace_s = check_grace(grace, settings.gc_grace_s or 0.0, dead_after_s)
        limits = Limits(grace_s=grace_s, node_gc_s=max(settings.node_gc_s, dead_after_s), kept=kept)
        found = collect_now(store, limits, options=None, dead_after_s=dead_after_s, dry_run=dry_run, roots=roots)
        if json_:
            typer.echo(msgspec.json.encode(facts(store.url, found, grace_s=grace_s, dry_run=dry_run)).decode())
        else:
            Console().print(render(store.url, found, grace_s=grace_s, dry_run=dry_run))


def check_grace(text: str | None, default_s: float, dead_after_s: float) -> float:
    """Return the grace period in seconds.

    Raises:
        ConfigError: If it is no time, or so short that running queries would be removed.
    """
    if text is None:
        return default_s
    try:
        grace_s = parse_seconds(text)
    except ConfigError as error:
        raise ConfigError(f"--grace {error.message}") from error
    if grace_s < dead_after_s:
        raise ConfigError(
            f"--grace {text}: a session that gives no sign of life is taken for dead after {dead_after_s:g} s "
            "(dead_after_s) and not sooner; below that, queries that run would be removed"
        )
    return grace_s


def facts(url: str, found: Collection, *, grace_s: float, dry_run: bool) -> dict[str, Any]:
    """Return a collection as ``--json`` writes it: ages in seconds, sizes in bytes."""
    return {
        "storage": url,
        "dry_run": dry_run,
        "grace_s": grace_s,
        "removed": [_facts(verdict) for verdict in found.removed],
        "left": [_facts(verdict) for verdict in found.left],
    }


def _facts(verdict: Verdict) -> dict[str, Any]:
    group = verdict.group
    return {
        "kind": group.kind.value,
        "name": group.name,
        "age_s": round(verdict.age_s, 3),
        "objects": len(group.objects),
        "bytes": group.size_bytes,
        "why": verdict.why,
    }


def render(url: str, found: Collection, *, grace_s: float, dry_run: bool) -> RenderableType:
    """Return a collection as tables for people."""
    objects = sum(len(verdict.group.objects) for verdict in found.removed)
    size = format_bytes(sum(verdict.group.size_bytes for verdict in found.removed))
    head = Text(
        f"{url}: {'would remove' if dry_run else 'removed'} {objects} {'object' if objects == 1 else 'objects'} "
        f"({size}) that had not changed for {format_seconds(grace_s)}"
    )
    parts: list[RenderableType] = [head]
    if found.removed:
        parts.append(_table("would go" if dry_run else "removed", found.removed))
    if found.left:
        parts.append(_table("stays", found.left))
    return Group(*parts)


def _table(title: str, verdicts: Iterable[Verdict]) -> Table:
    table = Table(box=SIMPLE)
    table.add_column(title, overflow="fold")
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("objects", justify="right")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("because", overflow="fold")
    for verdict in verdicts:
        group = verdict.group
        name = f"{group.kind.value} {group.name}"
        size = format_bytes(group.size_bytes)
        table.add_row(name, format_seconds(verdict.age_s), str(len(group.objects)), size, verdict.why)
    return table
