"""One task of a query that left what it reads in storage, run once more in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import pyarrow as pa
from datafusion.plan import ExecutionPlan

from apiary_df.config import Settings
from apiary_df.errors import ConfigError, ObjectMissing, VersionMismatch
from apiary_df.model import TaskSpec
from apiary_df.plan import codec
from apiary_df.plan.sinks import find_sink
from apiary_df.plan.tree import PlanNode
from apiary_df.protocol import keys
from apiary_df.protocol.arrow import conform, read_schema
from apiary_df.protocol.messages import CommitRecord
from apiary_df.protocol.storage import read_bytes
from apiary_df.protocol.versions import datafusion_version
from apiary_df.replay.trace import Trace, read_task
from apiary_df.store import Store
from apiary_df.store_options import StoreOptions
from apiary_df.worker.bee import Bench, drain, prepare_plan
from apiary_df.worker.engine import Engine
from apiary_df.worker.workbench import ENGINE_MEMORY_BYTES, Workbenches


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A task that is ready to run: what a debugger looks at.

    Attributes:
        task: What it reads.
        fragment: Its stage's fragment, whose leaves are empty.
        plan: The same, filled with what it reads, as DataFusion executes it.
        engine: The session that executes it.
        bench: Where its inputs were fetched to.
        schema: Schema of what it hands on; None for the stage that makes the result.
        commit: What was committed; None if nothing was.
    """

    task: TaskSpec
    fragment: PlanNode
    plan: ExecutionPlan
    engine: Engine
    bench: Bench
    schema: pa.Schema | None
    commit: CommitRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """What a task gave when it was run once more.

    Attributes:
        schema: Schema of its rows.
        rows: Rows of each output partition.
        committed: Rows of each output partition that were committed; None if nothing was.
        first: The first rows, of whichever partitions gave them first.
        seconds: From the first batch being asked for to the last.
    """

    schema: pa.Schema
    rows: tuple[int, ...]
    committed: tuple[int, ...] | None
    first: tuple[pa.RecordBatch, ...]
    seconds: float

    @property
    def equal(self) -> bool | None:
        """Whether each partition has as many rows as were committed; None if nothing was committed."""
        return None if self.committed is None else self.rows == self.committed


@contextmanager
def prepared(
    store: Store,
    settings: Settings,
    trace: Trace,
    stage: int,
    task: int,
    *,
    options: StoreOptions | None = None,
    allow_udfs: bool = False,
    memory_bytes: int = ENGINE_MEMORY_BYTES,
) -> Iterator[Prepared]:
    """Fetch what a task reads, and give it ready to run; what was fetched is removed afterwards.

    Args:
        store: The swarm's root.
        settings: Settings of this process: its scratch folder.
        trace: What is known of the query.
        stage: Stage number.
        task: Task number.
        options: How cells are reached; None is the environment's way.
        allow_udfs: Whether it may run Python functions, which come as pickles and run code.
        memory_bytes: Budget of its engine.

    Raises:
        ConfigError: If there is no such task, it cannot be run by itself, or its cells cannot be reached.
        VersionMismatch: If another DataFusion planned it.
        StorageError: If what it reads cannot be fetched, or is damaged.
        FunctionsRefused: If it runs Python functions, and those are not allowed.
        PlanError: If its fragment cannot be filled or decoded.
    """
    manifest = trace.manifest
    if manifest is None:
        raise ConfigError(f"query {trace.query_id}: its manifest is gone, and with it the settings that its tasks need")
    if manifest.datafusion_version != datafusion_version():
        raise VersionMismatch(
            f"query {trace.query_id} was planned by DataFusion {manifest.datafusion_version}, this is "
            f"{datafusion_version()}: plans are of one version; run this with that one",
            query=trace.query_id,
        )
    spec, commit = read_task(store, trace, stage, task)
    if spec is None:
        raise ConfigError(
            f"what task {stage}.{task} of query {trace.query_id} reads was not kept: tasks are kept when a query with "
            "keep or keep_failed ends, and this one has no recorded end",
            query=trace.query_id,
        )
    fragment = _fragment(store, trace, stage, spec.version)
    schemas = {entry.stage: read_schema(entry.schema, keys.manifest(trace.query_id)) for entry in manifest.stages}
    benches = Workbenches(store, settings, options, memory_bytes=memory_bytes)
    with closing(benches), benches.lend(manifest.settings, allow_udfs=allow_udfs) as (engine, place):
        plan = prepare_plan(spec, fragment, engine, place, schemas)
        yield Prepared(
            task=spec,
            fragment=fragment,
            plan=plan,
            engine=engine,
            bench=place,
            schema=schemas.get(stage),
            commit=commit,
        )


def run(ready: Prepared, first_rows: int, progress: Callable[[int], None] | None = None) -> Again:
    """Run a task.

    Args:
        ready: The task.
        first_rows: Rows to keep, to be shown.
        progress: Told how many rows there are so far.

    Raises:
        ExecutionFailed: If DataFusion raised on the data or the SQL.
        ResourcesExhausted: If the engine's memory or disk did not suffice.
    """
    rows = [0] * ready.plan.partition_count
    first: list[pa.RecordBatch] = []

    def take(partition: int, batch: pa.RecordBatch) -> None:
        missing = first_rows - sum(kept.num_rows for kept in first)
        rows[partition] += batch.num_rows
        if missing > 0 and batch.num_rows:
            shown = batch if ready.schema is None else conform(batch, ready.schema)
            first.append(shown.slice(0, missing))
        if progress is not None:
            progress(sum(rows))

    cancelled = threading.Event()
    begin_s = time.perf_counter()
    try:
        drain(ready.engine, ready.plan, ready.fragment, take, cancelled)
    finally:
        cancelled.set()
    return Again(
        schema=_schema(ready, first),
        rows=tuple(rows),
        committed=_committed(ready.commit, len(rows)),
        first=tuple(first),
        seconds=time.perf_counter() - begin_s,
    )


def _fragment(store: Store, trace: Trace, stage: int, version: int) -> PlanNode:
    try:
        data = read_bytes(store, keys.plan(trace.query_id, stage, version))
    except ObjectMissing:
        raise ConfigError(
            f"stage {stage} of query {trace.query_id} has no fragment in storage: it was a table in the session's "
            "memory, or ran in the session, with the result",
            query=trace.query_id,
        ) from None
    fragment = codec.decode(data)
    if find_sink(fragment) is not None:
        raise ConfigError(
            f"stage {stage} of query {trace.query_id} writes files, which running it once more would do again",
            query=trace.query_id,
        )
    return fragment


def _schema(ready: Prepared, first: list[pa.RecordBatch]) -> pa.Schema:
    if ready.schema is not None:
        return ready.schema
    return first[0].schema if first else pa.schema([])


def _committed(commit: CommitRecord | None, partitions: int) -> tuple[int, ...] | None:
    if commit is None:
        return None
    rows = [0] * partitions
    for segment in commit.partial.segments:
        if segment.partition < partitions:
            rows[segment.partition] += segment.rows
    return tuple(rows)
