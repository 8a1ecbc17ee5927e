"""``apiary replay``: what happened to a query that left its objects in storage, and one of its tasks once more."""

from __future__ import annotations

import bdb
import re
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from apiary_df.cli.exits import ending_well
from apiary_df.cli.inputs import STORAGE_HELP, ConfigOption, SetOption, settings_from
from apiary_df.cli.output import render_table
from apiary_df.config import Settings
from apiary_df.errors import ConfigError
from apiary_df.units import parse_size

if TYPE_CHECKING:
    from apiary_df.replay.again import Again, Prepared
    from apiary_df.replay.trace import Trace
    from apiary_df.store import Store

FIRST_ROWS = 10
"""Rows of a task that was run once more that are shown."""

_TASK = re.compile(r"(\d{1,9})\.(\d{1,9})")

HELP = """
Show what happened to a query: its end, a timeline of all attempts, and why some failed. Without QUERY_ID, list the
queries of which something is in storage.

Queries stay in storage when they have ended if the setting keep says so, or keep_failed and they failed. Of one whose
session died, this shows what can be pieced together.

--task shows one task; --run runs it once more in this process, and compares how many rows it gives with what was
committed; --debug stops in Python's debugger before that, with the task as `ready`.

**Examples**

    apiary sql -s /shared/swarm --set keep_failed=yes "SELECT ..."

    apiary replay /shared/swarm

    apiary replay /shared/swarm q019a2b3c4d5-1f2e3d4c

    apiary replay /shared/swarm q019a2b3c4d5-1f2e3d4c --task 0.1 --run
"""


def replay(
    storage: Annotated[str, typer.Argument(metavar="STORAGE", help=STORAGE_HELP)],
    query_id: Annotated[str | None, typer.Argument(metavar="[QUERY_ID]", help="The query; none lists them.")] = None,
    *,
    task: Annotated[
        str | None, typer.Option("--task", metavar="S.T", help="One task, by the numbers of its stage and itself.")
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Run the task once more, in this process.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="The same, in Python's debugger.")] = False,
    allow_udfs: Annotated[
        bool, typer.Option("--allow-udfs", help="Let it run Python functions, which are code of whoever wrote them.")
    ] = False,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Memory of the run, such as 512MiB; 1GiB by default.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Show all attempts, however many.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Show a query; see ``HELP``."""
    with ending_well():
        stage, number = _task_numbers(task)
        _check_flags(query_id, task, run=run or debug, debug=debug, json_=json_)
        settings = settings_from(config, set_)
        from apiary_df.replay.trace import read_trace
        from apiary_df.store import open_store

        store = open_store(storage)
        if query_id is None:
            _show_list(store, json_=json_)
            return
        trace = read_trace(store, query_id)
        if stage is None or number is None:
            _show_trace(trace, json_=json_, every=all_)
            return
        facts = _show_task(store, trace, stage, number, json_=json_, every=all_)
        if run or debug:
            memory_bytes = None if memory is None else parse_size(memory)
            facts |= _run(
                store,
                settings,
                trace,
                (stage, number),
                allow_udfs=allow_udfs,
                memory_bytes=memory_bytes,
                debug=debug,
                json_=json_,
            )
        if json_:
            _print_json(facts)


def _task_numbers(task: str | None) -> tuple[int, int] | tuple[None, None]:
    if task is None:
        return None, None
    match = _TASK.fullmatch(task)
    if match is None:
        raise ConfigError(f"--task {task!r}: write the numbers of stage and task, such as 0.1")
    return int(match[1]), int(match[2])


def _check_flags(query_id: str | None, task: str | None, *, run: bool, debug: bool, json_: bool) -> None:
    if task is not None and query_id is None:
        raise ConfigError(f"--task {task}: of which query? `apiary replay STORAGE` lists them")
    if run and task is None:
        raise ConfigError("--run and --debug run one task: say which with --task S.T")
    if debug and json_:
        raise ConfigError("--debug talks to a person, --json to a program: give one of them")


def _show_list(store: Store, *, json_: bool) -> None:
    from apiary_df.replay.trace import find_queries

    queries = find_queries(store)
    if json_:
        _print_json({"storage": store.url, "queries": queries})
        return
    from apiary_df.cli.timeline import render_found

    Console().print(render_found(store.url, queries))


def _show_trace(trace: Trace, *, json_: bool, every: bool) -> None:
    if json_:
        _print_json(_facts(trace))
        return
    from apiary_df.cli.timeline import render_trace

    Console().print(render_trace(trace, every=every))


def _facts(trace: Trace) -> dict[str, Any]:
    """Return what is known of a query, as ``--json`` writes it: sizes in bytes, moments in seconds from its start."""
    return {
        "query": trace.found,
        "coordinator": trace.coordinator,
        "reason": trace.reason,
        "rows": trace.rows,
        "root": trace.root,
        "folded": trace.folded,
        "omitted": trace.omitted,
        "unreadable": trace.unreadable,
        "attempts": trace.attempts,
    }


def _show_task(store: Store, trace: Trace, stage: int, task: int, *, json_: bool, every: bool) -> dict[str, Any]:
    """Show one task; returns what ``--json`` writes of it."""
    from apiary_df.replay.trace import read_task

    spec, commit = read_task(store, trace, stage, task)
    if not json_:
        from apiary_df.cli.timeline import render_task

        Console().print(render_task(trace, stage, task, spec, commit, every=every))
    attempts = [attempt for attempt in trace.attempts if (attempt.stage, attempt.task) == (stage, task)]
    return {"query_id": trace.query_id, "task": spec, "commit": commit, "attempts": attempts}


def _run(
    store: Store,
    settings: Settings,
    trace: Trace,
    task: tuple[int, int],
    *,
    allow_udfs: bool,
    memory_bytes: int | None,
    debug: bool,
    json_: bool,
) -> dict[str, Any]:
    """Run one task once more; returns what ``--json`` writes of it."""
    from apiary_df.replay import again
    from apiary_df.worker.workbench import ENGINE_MEMORY_BYTES

    budget_bytes = memory_bytes or ENGINE_MEMORY_BYTES
    try:
        with again.prepared(store, settings, trace, *task, allow_udfs=allow_udfs, memory_bytes=budget_bytes) as ready:
            if debug:
                _debug(ready)
            done = again.run(ready, FIRST_ROWS)
    except bdb.BdbQuit:
        raise KeyboardInterrupt from None
    if not json_:
        for line in chain(render_table(done.schema, done.first, 0), _verdict(done)):
            typer.echo(line)
    return {
        "run": {
            "schema": {field.name: str(field.type) for field in done.schema},
            "rows": done.rows,
            "committed": done.committed,
            "equal": done.equal,
            "seconds": done.seconds,
        }
    }


def _debug(ready: Prepared) -> None:  # noqa: ARG001 - the debugger shows it
    typer.echo("`ready` is the task: ready.task, ready.fragment, ready.plan, ready.engine.ctx; c runs it, q leaves")
    breakpoint()


def _verdict(done: Again) -> list[str]:
    rows = sum(done.rows)
    words = f"run once more in {done.seconds * 1000:.1f} ms: {rows:,} rows in {len(done.rows)} partitions"
    if done.committed is None:
        return [f"{words}; nothing was committed to compare with"]
    if done.equal:
        return [f"{words}, as many in each as were committed"]
    differing = [n for n, pair in enumerate(zip(done.rows, done.committed, strict=True)) if pair[0] != pair[1]]
    told = ", ".join(f"{n}: {done.rows[n]:,} now, {done.committed[n]:,} then" for n in differing[:FIRST_ROWS])
    more = ", ..." if len(differing) > FIRST_ROWS else ""
    return [f"{words}; {sum(done.committed):,} were committed, and partitions differ ({told}{more})"]


def _print_json(facts: dict[str, Any]) -> None:
    typer.echo(msgspec.json.encode(facts).decode())
