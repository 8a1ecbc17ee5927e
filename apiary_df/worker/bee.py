"""One attempt at one task: inputs, fragment, partial.

A bee decides nothing: what to read and where to write is in the task. Telling the swarm how it went (the commit record
or the error report) is the node's business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
from datafusion import RecordBatch
from datafusion.plan import ExecutionPlan

from apiary_df.config import Settings
from apiary_df.errors import (
    ApiaryError,
    ExecutionFailed,
    InternalError,
    QueryCancelled,
    ResourcesExhausted,
)
from apiary_df.fetching import Reading
from apiary_df.host import Flag
from apiary_df.model import CellUse, PartialRef, ScanFile, ScanInput, SegmentRef, TaskSpec, WrittenFile
from apiary_df.objects import register_object_store_for
from apiary_df.plan import codec
from apiary_df.plan.functions import names_of, python_functions
from apiary_df.plan.scans import fill_fragment
from apiary_df.plan.sinks import SINKS, target_of
from apiary_df.plan.tree import PlanNode
from apiary_df.protocol.partial_writer import Compression, PartialWriter
from apiary_df.publish import written
from apiary_df.store import Store
from apiary_df.store_options import StoreOptions, without_queries
from apiary_df.worker.cell_cache import Localized, QueryCells
from apiary_df.worker.engine import Engine
from apiary_df.worker.inputs import Schemas, locate_inputs

RUN_BYTES = 8 << 20
RUN_BYTES_A_PARTITION = 1 << 20
"""In a folder, a partial is written in runs of so many bytes, so that a segment is worth a read of its own."""

MIN_RUN_BYTES = 1 << 20
"""A run has at least so many bytes, however little memory there is for it."""

_EXHAUSTED_MARKS = ("Resources exhausted", "No space left on device", "memory allocation")
"""How DataFusion's errors begin, or the system's within them, when a bee's memory or disk ran out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a bee works with.

    Attributes:
        store: The swarm's root.
        scratch: Folder of this attempt alone; the node removes it afterwards.
        options: How cells outside of the local file system are reached; None is the environment's way.
        partial_memory_bytes: What a partial may hold in memory before it spools to ``scratch``.
        compression: Codec of partials, or None.
        cells: Serves cells from this machine's disk; None: they are read where they lie.
        reading: How partials are fetched.
    """

    store: Store
    scratch: Path
    options: StoreOptions | None
    partial_memory_bytes: int
    compression: Compression | None
    cells: QueryCells | None = None
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an attempt made.

    Attributes:
        partial: The partial as it lies in storage, or is to lie there.
        attached: Its bytes, if they are to go behind the commit record, with which it is stored; else it is stored.
        spills: Spill files that the engine wrote.
        spilled_bytes: Bytes that it spilled.
        files: Files that it wrote for a statement that writes files.
        requests: Requests to the swarm's store that it made for it, and bytes moved, by kind.
        cache: What the cell cache did for it.
    """

    partial: PartialRef
    spills: int
    spilled_bytes: int
    attached: bytes | None = field(default=None, repr=False)
    files: tuple[WrittenFile, ...] = ()
    requests: Mapping[str, int] = field(default_factory=dict)
    cache: CellUse = field(default_factory=CellUse)


def prepare_plan(
    task: TaskSpec,
    fragment: PlanNode,
    engine: Engine,
    bench: Bench,
    inputs: Schemas,
    *,
    scans: Localized | None = None,
) -> ExecutionPlan:
    """Fetch a task's inputs and return its fragment, filled and ready to execute.

    Args:
        task: The task.
        fragment: Its stage's fragment.
        engine: The engine that is to run it.
        bench: What it works with.
        inputs: Schemas of the partials that it reads, by stage, as far as they are known.
        scans: Its scans, if the cell cache was asked for them before.

    Raises:
        PartialLost: If a partial is gone, or damaged.
        StorageError: If a partial cannot be fetched.
        PlanError: If the fragment cannot be filled or decoded.
        ConfigError: If a cell's store cannot be reached with the given options.
        QueryCancelled: If the query ended while cells were fetched into the cache.
    """
    _register_stores(task.scans, fragment, engine, bench.options)
    refs = [ref for exchange in task.exchanges for ref in exchange.segments if ref.segment.rows]
    located = locate_inputs(refs, inputs, bench.store, bench.scratch, bench.reading)

    def locate(ref: SegmentRef) -> ScanFile:
        return located[ref.key, ref.segment.offset]

    if scans is None:
        scans = Localized(scans=task.scans) if bench.cells is None else bench.cells.localized(task.scans, fragment)
    filled = fill_fragment(
        fragment, scans.scans, task.exchanges, task.branches, locate_segment=locate, stores=scans.stores
    )
    return engine.decode(filled)


def _register_stores(
    scans: tuple[ScanInput, ...], fragment: PlanNode, engine: Engine, options: StoreOptions | None
) -> None:
    """Let the engine reach the buckets that the fragment reads cells from, or writes files to."""
    reads = any(scan.files for scan in scans)
    for node in fragment.walk():
        if node.is_file_scan and reads:
            register_object_store_for(engine.ctx, codec.scan_conf(node).object_store_url, options)
        elif node.kind in SINKS:
            register_object_store_for(engine.ctx, target_of(node).url, options)


def run_attempt(
    *,
    task: TaskSpec,
    fragment: PlanNode,
    schema: pa.Schema,
    inputs: Schemas,
    partial_key: str,
    engine: Engine,
    bench: Bench,
    cancelled: Flag,
) -> Work:
    """Run one attempt and put its partial into storage, unless that goes there with its commit record.

    Args:
        task: What it reads.
        fragment: The stage's fragment; if it writes files, then into a folder of this attempt alone.
        schema: Schema of the partial; batches are matched to it by position.
        inputs: Schemas of the partials that it reads, by stage, as far as they are known.
        partial_key: Where the partial goes.
        engine: The bee's engine; nobody else uses it meanwhile.
        bench: What the bee works with.
        cancelled: Set when the query is over; the attempt stops at the next batch.

    Raises:
        QueryCancelled: If ``cancelled`` was set.
        ExecutionFailed: If DataFusion raised on the data or the SQL.
        ResourcesExhausted: If the bee's memory or disk did not suffice.
        StorageError: If inputs cannot be read, or the partial cannot be written.
        PlanError: If the fragment cannot be filled or decoded.
    """
    plan = prepare_plan(task, fragment, engine, bench, inputs)
    partitions = plan.partition_count
    if partitions != task.output_partitions:
        raise InternalError(
            f"task {task.stage}.{task.task}: its fragment has {partitions} output partitions, "
            f"its stage was cut for {task.output_partitions}"
        )
    writer = PartialWriter(
        schema,
        partitions,
        bench.scratch,
        memory_bytes=bench.partial_memory_bytes,
        compression=bench.compression,
        run_bytes=_run_bytes(partitions, bench),
        batch_rows=engine.batch_rows,
        strong=bench.store.options.swarm_key is not None,
    )
    try:
        drain(engine, plan, fragment, writer.write, cancelled)
        finished = writer.finish()
        inline = finished.inline(task.inline_bytes)
        attached = finished.attachable(task.attached_bytes) if inline is None else None
        if inline is None and attached is None:
            bench.store.put(partial_key, finished.data)
    finally:
        writer.close()
    metrics = [metric for _, metric in plan.collect_metrics()]
    return Work(
        partial=replace(finished.ref(partial_key), data=inline),
        attached=attached,
        spills=sum(metric.spill_count or 0 for metric in metrics),
        spilled_bytes=sum(metric.spilled_bytes or 0 for metric in metrics),
        files=written(fragment, bench.options),
        cache=CellUse() if bench.cells is None else bench.cells.use,
    )


def _run_bytes(partitions: int, bench: Bench) -> int | None:
    """Return how many bytes of a partial are written in one go; None if all of it is."""
    if bench.store.kind != "folder":
        return None
    return min(max(RUN_BYTES, partitions * RUN_BYTES_A_PARTITION), max(bench.partial_memory_bytes, MIN_RUN_BYTES))


def drain(
    engine: Engine,
    plan: ExecutionPlan,
    fragment: PlanNode,
    write: Callable[[int, pa.RecordBatch], None],
    cancelled: Flag,
) -> None:
    """Execute all partitions at once and hand every batch on, one at a time.

    A shuffle's channels block when one reader lags, so its partitions must be drained together.

    Args:
        engine: The engine that decoded the plan.
        plan: The plan.
        fragment: The same as a tree, for what an error says.
        write: Takes partition number and batch.
        cancelled: Stops it at the next batch.

    Raises:
        QueryCancelled: If ``cancelled`` was set.
        ExecutionFailed: If DataFusion raised on the data or the SQL.
        ResourcesExhausted: If the engine's memory or disk did not suffice.
    """
    partitions = plan.partition_count
    lock = threading.Lock()
    failed = threading.Event()

    def take(partition: int) -> None:
        try:
            for batch in engine.ctx.execute(plan, partition):
                if cancelled.is_set() or failed.is_set():
                    raise QueryCancelled(f"stopped in output partition {partition}: the query is over")
                arrow = batch.to_pyarrow()
                with lock:
                    write(partition, arrow)
        except ApiaryError:
            failed.set()
            raise
        except BaseException as error:
            # Native code that panics raises what is no Exception.
            failed.set()
            raise execution_error(error, fragment) from error

    if partitions == 1:
        take(0)
        return
    with ThreadPoolExecutor(partitions, thread_name_prefix="drain") as pool:
        futures = [pool.submit(take, partition) for partition in range(partitions)]
        wait(futures, return_when=FIRST_EXCEPTION)
    errors = [error for future in futures if (error := future.exception()) is not None]
    # The first cause, not the other partitions' having been stopped by it.
    for error in sorted(errors, key=lambda e: isinstance(e, QueryCancelled)):
        raise error


def codec_of(settings: Settings) -> Compression | None:
    """Return the codec of partials that settings ask for; None is no compression."""
    return None if settings.compression == "none" else settings.compression


def batches_of(engine: Engine, plan: ExecutionPlan, fragment: PlanNode) -> Iterator[pa.RecordBatch]:
    """Yield the batches of all partitions of a plan, one partition after the other.

    Args:
        engine: The engine that decoded it.
        plan: The plan.
        fragment: The same as a tree, for what an error says.

    Raises:
        ExecutionFailed: If DataFusion raised on the data or the SQL.
        ResourcesExhausted: If the engine's memory or disk did not suffice.
    """
    for partition in range(plan.partition_count):
        stream: Iterator[RecordBatch] | None = None
        while True:
            try:
                if stream is None:
                    stream = iter(engine.ctx.execute(plan, partition))
                batch = next(stream).to_pyarrow()
            except StopIteration:
                break
            except BaseException as error:
                # Native code that panics raises what is no Exception.
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise
                raise execution_error(error, fragment) from error
            yield batch


def execution_error(error: BaseException, fragment: PlanNode | None = None) -> ApiaryError:
    """Return DataFusion's bare exception as the kind that it is.

    DataFusion's Python errors carry their kind in their text only; this is the one place that looks at it.

    Args:
        error: What DataFusion raised.
        fragment: What was executed; the Python functions in it are named, since the text may not say which one raised.
    """
    text = without_queries(str(error))
    if any(mark in text for mark in _EXHAUSTED_MARKS):
        return ResourcesExhausted(f"the bee's budget did not suffice: {text}")
    functions = python_functions([] if fragment is None else [fragment])
    if not functions:
        return ExecutionFailed(text)
    names = names_of(functions)
    return ExecutionFailed(f"{text} [Python functions at work: {names}]", functions=names)
