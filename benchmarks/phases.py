"""Where the CPU seconds of a process of the swarm go: functions are wrapped, and what each takes is added up.

What belongs here: which function belongs to which phase, and the node that measures itself and its bees
(``python -m benchmarks.phases FOLDER node ...`` is ``apiary node ...`` with every job's phases left in the folder).
What is made of the figures is in :mod:`benchmarks.profile_tpch`.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.tracing import owner_of

BEE_PHASES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "read": (("apiary_df.worker.bee", "locate_inputs"),),
    "decode": (("apiary_df.plan.codec", "decode"), ("apiary_df.worker.bee", "prepare_plan")),
    "engine start": (("apiary_df.worker.executor", "Engine"),),
    "write": (
        ("apiary_df.protocol.partial_writer", "PartialWriter.write"),
        ("apiary_df.protocol.partial_writer", "PartialWriter.finish"),
        ("apiary_df.protocol.partial_writer", "PartialWriter.close"),
    ),
    "checksum": (("apiary_df.protocol.partial_writer", "checksum"), ("apiary_df.protocol.partial", "checksum")),
    "put": (("apiary_df.store", "Store.put"),),
    "hand-over": (("apiary_df.worker.bee", "drain"),),
}
"""Phases of a job, and the functions that make each up; nested ones count where they are innermost."""

SESSION_PHASES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "plan": (("apiary_df.planning", "SwarmPlanner.plan"),),
    "rules and cut": (("apiary_df.planning", "SwarmPlanner._cut"),),
    "announce": (("apiary_df.coordinator", "QueryRun._announce"),),
    "plan stages": (("apiary_df.coordinator", "QueryRun._plan"),),
    "send": (("apiary_df.mailing", "Mailing.send"),),
    "wait": (("apiary_df.coordinator", "QueryRun._look"),),
    "clean up": (("apiary_df.coordinator", "QueryRun._clean_up"),),
}
"""The same of a session; its root stage is the rest."""


_PARTIAL = re.compile(r"partial_(\d+)_")


class JobPhases(msgspec.Struct, frozen=True, kw_only=True):
    """What one job of a bee took.

    Attributes:
        query: The query.
        stage: Its stage.
        inputs: Stages whose partials it read.
        bee: The bee's process id.
        wall_s: From beginning to end.
        cpu_s: CPU seconds of the process meanwhile.
        phases: CPU seconds of Python threads, by phase.
    """

    query: str
    stage: int
    inputs: tuple[int, ...]
    bee: int
    wall_s: float
    cpu_s: float
    phases: dict[str, float]

    @property
    def engine_s(self) -> float:
        """CPU seconds outside of all phases: DataFusion's own threads."""
        return max(0.0, self.cpu_s - sum(self.phases.values()))


class Meter:
    """Adds up the CPU seconds of threads by phase, each second to the innermost phase that its thread is in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._local = threading.local()
        self._seconds: dict[str, float] = {}

    def take(self) -> dict[str, float]:
        """Return what has been added up since it was taken last, in seconds."""
        with self._lock:
            taken, self._seconds = self._seconds, {}
        return taken

    def wrap(self, phases: Mapping[str, tuple[tuple[str, str], ...]]) -> None:
        """Have functions of these phases measured from now on."""
        for phase, places in phases.items():
            for module, path in places:
                owner, name = owner_of(module, path)
                setattr(owner, name, self._measured(phase, getattr(owner, name)))

    def _measured(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            outer = getattr(self._local, "inside_s", None)
            self._local.inside_s = 0.0
            begun_s = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                took_s = time.thread_time() - begun_s
                own_s = took_s - self._local.inside_s
                self._local.inside_s = None if outer is None else outer + took_s
                with self._lock:
                    self._seconds[phase] = self._seconds.get(phase, 0.0) + own_s

        return measured


def _measure_bees(folder: Path) -> None:
    """Have every bee that is forked from here append the phases of its jobs to a file of its own."""
    from apiary_df.worker import bee_process

    meter = Meter()
    meter.wrap(BEE_PHASES)
    answer = bee_process._Bee._answer

    def measured(self: Any, run: Any, message: Any, cancelled: Any) -> Any:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        meter.take()
        try:
            return answer(self, run, message, cancelled)
        finally:
            refs = (ref for exchange in message.task.exchanges for ref in exchange.segments)
            job = JobPhases(
                query=message.query_id,
                stage=message.task.stage,
                inputs=tuple({int(match.group(1)) for ref in refs if (match := _PARTIAL.search(ref.key))}),
                bee=os.getpid(),
                wall_s=time.perf_counter() - wall_s,
                cpu_s=time.process_time() - cpu_s,
                phases=meter.take(),
            )
            with (folder / f"jobs-{os.getpid()}.jsonl").open("ab") as file:
                file.write(msgspec.json.encode(job) + b"\n")

    bee_process._Bee._answer = measured  # type: ignore[method-assign]  # this is what measuring is


if __name__ == "__main__":
    from apiary_df.cli import NODE_LIBRARY_VARIABLES, main

    for name, value in (*NODE_LIBRARY_VARIABLES.items(), ("MIMALLOC_PURGE_DELAY", "-1")):
        os.environ.setdefault(name, value)  # before anything is loaded that reads them
    _measure_bees(Path(sys.argv[1]))
    sys.argv = ["apiary", *sys.argv[2:]]
    main()
