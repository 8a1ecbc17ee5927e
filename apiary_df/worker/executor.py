"""How an attempt is carried out: the seam between a node, which knows of mail and records, and its bees' engines.

What belongs here: what an attempt needs, and the executor that runs it in this process.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from apiary_df.config import Settings
from apiary_df.fetching import Reading
from apiary_df.host import Flag
from apiary_df.model import TaskSpec
from apiary_df.plan.tree import PlanNode
from apiary_df.store import Store
from apiary_df.store_options import StoreOptions
from apiary_df.worker.bee import Bench, Work, codec_of, run_attempt
from apiary_df.worker.cell_cache import CellCache
from apiary_df.worker.engine import Engine
from apiary_df.worker.inputs import Schemas

ENGINE_SHARE = 0.75
"""Share of a bee's memory that its engine's pool may hold; the rest is for what the pool does not count."""

PARTIAL_SHARE = 0.125
"""Share of a bee's memory that its partial may hold before it spools to disk; the rest is for buffers on the way."""


class AnyOf:
    """A flag that is raised when any of others is.

    Args:
        flags: The others.
    """

    def __init__(self, *flags: Flag) -> None:
        self._flags = flags

    def is_set(self) -> bool:
        """Whether any of them is raised."""
        return any(flag.is_set() for flag in self._flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that one attempt needs.

    Attributes:
        query_id: The query.
        task: What it reads.
        fragment: The stage's fragment, with the attempt's own folder if it writes files.
        schema: Schema of its partial.
        inputs: Schemas of the partials that it reads, by stage.
        settings: DataFusion options of the query.
        partial_key: Where its partial goes.
        memory_bytes: Memory that it may use.
        cancelled: Raised when the query is over, or the attempt is not wanted any more.
    """

    query_id: str
    task: TaskSpec
    fragment: PlanNode
    schema: pa.Schema
    inputs: Schemas
    settings: Mapping[str, str]
    partial_key: str
    memory_bytes: int
    cancelled: Flag


class Executor(Protocol):
    """Runs attempts, one at a time: one bee's hands."""

    def run(self, job: Job) -> Work:
        """Run one attempt and put its partial into storage, unless that goes there with its commit record.

        Raises:
            QueryCancelled: If ``job.cancelled`` was set.
            ApiaryError: How it failed otherwise; see :func:`apiary_df.worker.bee.run_attempt`.
        """

    def close(self) -> None:
        """Give back what it holds; it runs nothing afterwards."""


class ThreadExecutor:
    """Runs attempts in the calling thread.

    Args:
        store: The swarm's root.
        scratch: Folder for what its attempts write on the way.
        options: How cells are reached.
        settings: The node's settings.
        allow_udfs: Whether plans may carry Python functions.
    """

    def __init__(
        self, store: Store, scratch: Path, options: StoreOptions | None, settings: Settings, *, allow_udfs: bool
    ) -> None:
        self._store = store
        self._scratch = scratch
        self._options = options
        self._settings = settings
        self._allow_udfs = allow_udfs
        self._engine: tuple[object, Engine] | None = None
        self._cells = CellCache.of(settings, options)

    def run(self, job: Job) -> Work:
        """Run one attempt; see :class:`Executor`."""
        folder = self._scratch / "task"  # made by what needs it, which small tasks do not
        cells = None if self._cells is None else self._cells.for_query(job.query_id, job.cancelled)
        store = self._store.counting()
        bench = Bench(
            store=store,
            scratch=folder,
            options=self._options,
            partial_memory_bytes=min(self._settings.partial_memory_bytes, int(job.memory_bytes * PARTIAL_SHARE)),
            compression=codec_of(self._settings),
            cells=cells,
            reading=Reading.of(self._settings),
        )
        try:
            with cells or nullcontext():
                work = run_attempt(
                    task=job.task,
                    fragment=job.fragment,
                    schema=job.schema,
                    inputs=job.inputs,
                    partial_key=job.partial_key,
                    engine=self._engine_for(job),
                    bench=bench,
                    cancelled=job.cancelled,
                )
            return replace(work, requests=store.counts.snapshot())
        finally:
            if folder.exists():
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Forget the engine, and let go of the cell cache."""
        self._engine = None
        if self._cells is not None:
            self._cells.close()

    def _engine_for(self, job: Job) -> Engine:
        wanted = (tuple(sorted(job.settings.items())), job.memory_bytes)
        if self._engine is None or self._engine[0] != wanted:
            # One engine at a time: its pool is the whole of the bee's budget.
            self._engine = None
            spill = self._scratch / "spill"
            spill.mkdir(parents=True, exist_ok=True)
            budget_bytes = int(job.memory_bytes * ENGINE_SHARE)
            self._engine = (wanted, Engine(dict(job.settings), budget_bytes, spill, allow_udfs=self._allow_udfs))
        return self._engine[1]
