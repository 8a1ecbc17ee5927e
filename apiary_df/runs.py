"""Runs of queries as streams of record batches: in this process, on the swarm, or of rows at hand.

What belongs here: how a run steps, is cancelled and closed, and that its report is handed over at its end. Where a
query runs is decided elsewhere (:mod:`apiary_df.session_swarm`).
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import TypeAlias

import datafusion
import pyarrow as pa
from datafusion.plan import ExecutionPlan

from apiary_df.coordinator import QueryRun
from apiary_df.errors import ApiaryError, QueryCancelled, QueryTimeout
from apiary_df.history import ending_of
from apiary_df.model import CellUse
from apiary_df.plan import codec
from apiary_df.plan.tree import PlanNode
from apiary_df.progress import QueryProgress
from apiary_df.publish import ROOT_FOLDER, Write, written
from apiary_df.pump import pumped
from apiary_df.report import QueryReport
from apiary_df.store_options import StoreOptions
from apiary_df.worker.bee import execution_error

Source: TypeAlias = Callable[[threading.Event], Iterator[pa.RecordBatch] | None]
"""Runs a query in this process, until the event tells it to end; None if it does not."""


class Rows:
    """A result that is at hand already."""

    def __init__(self, table: pa.Table) -> None:
        self.schema: pa.Schema = table.schema
        self._batches = iter(table.to_batches())

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        return next(self._batches)

    def cancel(self) -> None:
        """Do nothing: there is nothing under way."""

    def close(self) -> None:
        """Forget the rest."""
        self._batches = iter(())


class Run:
    """A query under way, for one reader at a time; others may cancel or close it.

    It holds nothing that refers back to it: a stream that is dropped half-read ends its query there and then.

    Args:
        schema: Schema of the result as the query declares it. Batches may say of more columns that they hold no NULL:
            what DataFusion finds out by optimizing.
        batches: The result; what must happen at the end is in its ``finally``.
        cancel: Asks ``batches`` to end; called from any thread.
    """

    def __init__(
        self, schema: pa.Schema, batches: Generator[pa.RecordBatch, None, None], cancel: Callable[[], None]
    ) -> None:
        self.schema = schema
        self._batches = batches
        self._cancel = cancel
        self._stepping = threading.RLock()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        with self._stepping:
            return next(self._batches)

    def cancel(self) -> None:
        """Ask the query to end, from any thread; whoever reads gets QueryCancelled."""
        self._cancel()

    def close(self) -> None:
        """End the query, if it still runs, and remove what it left in storage. For any thread."""
        self._cancel()
        with self._stepping:
            # A signal handler may interrupt this very thread in its step; the step ends by itself, it was cancelled.
            if inspect.getgeneratorstate(self._batches) != inspect.GEN_RUNNING:
                self._batches.close()


def local_run(
    df: datafusion.DataFrame,
    sql: str | None,
    reason: str,
    ended: Callable[[QueryReport], None],
    *,
    source: Source | None = None,
    timeout_s: float | None = None,
    cache: Callable[[], CellUse] = CellUse,
) -> Run:
    """Return a run of a query by datafusion in this process.

    Args:
        df: The query.
        sql: Its text, for the report.
        reason: Why it runs here.
        ended: Takes its report.
        source: Runs it, if not plain datafusion is to; told by the event to end, it raises QueryCancelled. If it gives
            None, plain datafusion runs it after all.
        timeout_s: Time that it may take, in seconds, after which whoever reads gets QueryTimeout at once; None is no
            limit. Not for statements that write: these cannot be broken off halfway.
        cache: Says what the cell cache did for it.
    """
    cancelled = threading.Event()

    def batches() -> Generator[pa.RecordBatch, None, None]:
        started_s = time.monotonic()
        rows = 0
        end = ending_of(None)
        try:
            found = None if source is None else source(cancelled)
            for arrow in _as_typed(_executed(df, cancelled, timeout_s) if found is None else found):
                rows += arrow.num_rows
                yield arrow
        except BaseException as error:
            end = ending_of(error)
            raise
        finally:
            state, error_info = end
            ended(
                QueryReport(
                    query_id="",
                    sql=sql,
                    distributed=False,
                    reason=reason,
                    stages=0,
                    tasks=0,
                    rows=rows,
                    bytes_through_storage=0,
                    elapsed_s=time.monotonic() - started_s,
                    state=state,
                    error=error_info,
                    cache=cache(),
                )
            )

    run = batches()
    if timeout_s is not None:
        # Without a deadline it stays in the caller's thread, as with plain datafusion: a hand-over costs time.
        run = pumped(run, cancelled.set, timeout_s=timeout_s)
    return Run(df.schema(), run, cancelled.set)


def _as_typed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the batches; what datafusion raises becomes an error of this package."""
    try:
        yield from batches
    except ApiaryError:
        raise
    except Exception as error:
        raise execution_error(error) from error


def _executed(
    df: datafusion.DataFrame, cancelled: threading.Event, timeout_s: float | None
) -> Iterator[pa.RecordBatch]:
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    for batch in datafusion.RecordBatchStream(df.df.execute_stream()):
        if deadline_s is not None and time.monotonic() >= deadline_s:
            raise QueryTimeout(
                f"the query, which ran in this process, did not end within timeout_s={timeout_s:g}", timeout_s=timeout_s
            )
        _check_wanted(cancelled)
        yield batch.to_pyarrow()


def _check_wanted(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise QueryCancelled("the query, which ran in this process, was cancelled")


def local_write(
    session: datafusion.SessionContext,
    tree: PlanNode,
    write: Write,
    options: StoreOptions | None,
    cancelled: threading.Event,
) -> Iterator[pa.RecordBatch]:
    """Run a statement that writes files in this process; its one row comes once the files are there.

    Args:
        session: The session that runs it.
        tree: Its plan.
        write: Its files, not begun yet.
        options: How the target is reached.
        cancelled: Set when nobody wants it any more; what is published by then stays.

    Raises:
        QueryCancelled: If ``cancelled`` was set.
        StorageError: If the target cannot be written to.
        WriteUndone: If another process took this one for dead.
    """
    try:
        write.begin()
        staged = write.staged(tree, ROOT_FOLDER)
        plan = ExecutionPlan.from_bytes(session, codec.encode(staged))
        found = [batch.to_pyarrow() for batch in session.execute(plan, 0)]
        _check_wanted(cancelled)
        write.publish([(ROOT_FOLDER, written(staged, options))])
    finally:
        write.end()
    yield from found


OWN_END_S = 1.0
"""How long past its deadline a query on the swarm may take to notice that itself, with its report of what was done."""


def swarm_run(
    run: QueryRun,
    schema: pa.Schema,
    progress: QueryProgress,
    ended: Callable[[QueryReport], None],
    timeout_s: float | None,
) -> Run:
    """Return a run of a query on the swarm, with its progress display and its report.

    Args:
        run: The run.
        schema: Schema of the result as the query declares it.
        progress: The display, which ends with the first row.
        ended: Takes the report.
        timeout_s: The query's own deadline, in seconds; whoever reads gets QueryTimeout :data:`OWN_END_S` later at the
            latest, even if native code or storage does not come back.
    """

    def batches() -> Generator[pa.RecordBatch, None, None]:
        try:
            with progress:
                for batch in run:
                    # Rows are on their way to the user: the terminal is theirs.
                    progress.close()
                    yield batch
        finally:
            run.close()
            ended(run.report())

    stepped = batches()
    if timeout_s is not None:
        stepped = pumped(stepped, run.cancel, timeout_s=timeout_s, patience_s=OWN_END_S, is_settled=run.is_settled)
    return Run(schema, stepped, run.cancel)
