"""Where the time of a small query goes: spans of the steps of session, nodes and bees, on one clock.

Nothing of this is in the package. Functions are wrapped by name, in this process (:func:`traced_session`) and in node
processes that this module runs itself (``python -m benchmarks.tracing FILE node ...``), whose bees are forked from
them and so are traced as well. Each span is a line of a file, appended by whoever made it; processes of one machine
share the monotonic clock.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

SESSION: Mapping[str, Sequence[str]] = {
    "apiary_df.session_swarm": ("SessionSwarm.run", "SessionSwarm._decide", "batch_schema", "places_of"),
    "apiary_df.planning": ("SwarmPlanner.plan", "rewrite", "cut"),
    "apiary_df.view": ("SwarmView.refresh", "SwarmView.sights"),
    "apiary_df.coordinator": (
        "QueryRun._announce",
        "QueryRun._plan",
        "QueryRun._look",
        "QueryRun._clean_up",
    ),
    "apiary_df.root": ("prepare_plan", "plan_root"),
    "apiary_df.worker.workbench": ("Engine",),
    "apiary_df.mailing": ("Mailing.send",),
    "apiary_df.query_objects": ("QueryObjects.take_lease", "QueryObjects.withdraw", "QueryObjects.remove"),
    "apiary_df.store": ("Store.put", "Store.create", "Store.get", "Store.list", "Store.delete", "Store.delete_prefix"),
}
"""What is traced in the session's process: names within modules."""

NODE: Mapping[str, Sequence[str]] = {
    "apiary_df.worker.node": ("Node._accept",),
    "apiary_df.worker.attempts": ("Attempts.run", "Attempts._query", "Attempts._job", "Attempts._commit"),
    "apiary_df.worker.process_executor": ("ProcessExecutor.run", "run_message"),
    "apiary_df.worker.bee_process": ("_Bee._answer",),
    "apiary_df.worker.executor": ("ThreadExecutor.run", "ThreadExecutor._engine_for", "run_attempt"),
    "apiary_df.worker.bee": ("prepare_plan", "drain"),
    "apiary_df.store": SESSION["apiary_df.store"],
}
"""What is traced in node processes and their bees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One call.

    Attributes:
        pid: The process.
        thread: Its thread.
        name: What was called, with the key if it has one.
        start_s: When it began, by the machine's monotonic clock.
        end_s: When it ended.
    """

    pid: int
    thread: str
    name: str
    start_s: float
    end_s: float


class Recorder:
    """Appends spans to a file. Usable by several threads, and in processes that were forked with it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def wrap(self, names: Mapping[str, Sequence[str]]) -> Callable[[], None]:
        """Wrap functions; returns what unwraps them.

        Raises:
            AttributeError: If there is no such name any more.
        """
        undo: list[tuple[Any, str, Any]] = []
        for module_name, qualified in names.items():
            for name in qualified:
                owner, attribute = owner_of(module_name, name)
                original = getattr(owner, attribute)
                undo.append((owner, attribute, original))
                setattr(owner, attribute, self._timed(name, original))

        def unwrap() -> None:
            for entry in undo:
                setattr(*entry)

        return unwrap

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start_s = time.monotonic()
            try:
                return call(*args, **kwargs)
            finally:
                self._note(name, args, start_s)

        return timed

    def _note(self, name: str, args: tuple[Any, ...], start_s: float) -> None:
        key = f" {args[1]}" if name.startswith("Store.") and len(args) > 1 else ""
        span = Span(
            pid=os.getpid(),
            thread=threading.current_thread().name,
            name=name + key,
            start_s=start_s,
            end_s=time.monotonic(),
        )
        os.write(self._file, msgspec.json.encode(span) + b"\n")


def owner_of(module_name: str, qualified: str) -> tuple[Any, str]:
    """Return the module or class that holds a name, and the name within.

    Raises:
        AttributeError: If there is no such class any more.
    """
    owner: Any = importlib.import_module(module_name)
    *path, attribute = qualified.split(".")
    for part in path:
        owner = getattr(owner, part)
    return owner, attribute


@contextmanager
def traced_session(path: Path) -> Iterator[None]:
    """Trace this process's part meanwhile."""
    unwrap = Recorder(path).wrap(SESSION)
    try:
        yield
    finally:
        unwrap()


def read_spans(path: Path) -> list[Span]:
    """Return the spans of a file, in order of their beginning."""
    spans = [msgspec.json.decode(line, type=Span) for line in path.read_bytes().splitlines()]
    return sorted(spans, key=lambda span: span.start_s)


if __name__ == "__main__":
    Recorder(Path(sys.argv[1])).wrap(NODE)
    sys.argv[1:] = sys.argv[2:]
    from apiary_df.cli import main

    main()
