"""The stage that makes a query's result, run in the session's process.

What belongs here: where the rows of the result come from, partials laid end to end or an engine over them. When it
runs, and what comes of its errors, is the schedule's business and the coordinator's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from typing import TypeAlias

import pyarrow as pa

from apiary_df.model import PartialRef, TaskSpec
from apiary_df.plan.gather import Gather, gather_of
from apiary_df.plan.stages import Stage
from apiary_df.protocol.streaming import Scratch, stream_partial
from apiary_df.publish import ROOT_FOLDER, Write
from apiary_df.schedule import HandedOver, QueryState, Schedule
from apiary_df.store import Store
from apiary_df.tasks import plan_root
from apiary_df.worker.bee import Bench, batches_of, prepare_plan
from apiary_df.worker.engine import Engine
from apiary_df.worker.inputs import Schemas

Workbench: TypeAlias = Callable[[], AbstractContextManager[tuple[Engine, Bench]]]
"""Gives an engine of the session's own, and what it works with."""


class Root:
    """Runs the stage that makes the result.

    Args:
        store: The swarm's root.
        node_id: Id of the session.
        write: Files that the query writes; None if it writes none.
        workbench: Gives an engine for it.
        schemas: Schemas of partials, by stage.
        scratch: Gives a folder for copies of partials.
    """

    def __init__(
        self,
        store: Store,
        node_id: str,
        write: Write | None,
        workbench: Workbench,
        *,
        schemas: Schemas,
        scratch: Scratch,
    ) -> None:
        self._store = store
        self._node_id = node_id
        self._write = write
        self._workbench = workbench
        self._schemas = schemas
        self._scratch = scratch

    def task(self, stage: Stage, partials: Mapping[int, Sequence[PartialRef]]) -> TaskSpec:
        """Return the one task of the stage.

        Args:
            stage: The root stage, with all that was put back into it.
            partials: What complete stages committed.
        """
        return plan_root(stage, partials, self._node_id)

    def batches(self, stage: Stage, partials: Mapping[int, Sequence[PartialRef]]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the result, once all that they are made from is complete.

        Args:
            stage: The root stage, with all that was put back into it.
            partials: What complete stages committed.

        Raises:
            PartialLost: If a partial is gone, or damaged at two readings.
            ExecutionFailed: If DataFusion raised on the data or the SQL.
            ResourcesExhausted: If the engine's memory or disk did not suffice.
            StorageError: If a partial cannot be read.
        """
        gather = gather_of(stage)
        if gather is None:
            yield from self.executed(stage, self.task(stage, partials))
            return
        laid = Laying(gather)
        for partial in partials[gather.stage]:
            with closing(self.of_partial(partial)) as rows:
                for batch in rows:
                    yield laid.taken(batch)
                    if laid.is_satisfied:
                        return

    def of_partial(self, partial: PartialRef) -> Generator[pa.RecordBatch, None, None]:
        """Yield the rows of a partial; errors that another attempt may cure come before the first of them.

        Raises:
            PartialLost: If it is gone, or damaged at two readings.
            StorageError: If it cannot be read.
        """
        return stream_partial(self._store, partial, self._scratch)

    def executed(self, stage: Stage, task: TaskSpec) -> Generator[pa.RecordBatch, None, None]:
        """Have DataFusion run a task of the root stage, or of any other, in this process.

        Raises:
            PartialLost: If a partial that it reads is gone, or damaged at two readings.
            ExecutionFailed: If DataFusion raised on the data or the SQL.
            ResourcesExhausted: If the engine's memory or disk did not suffice.
            StorageError: If a partial cannot be read.
        """
        fragment = stage.fragment if self._write is None else self._write.staged(stage.fragment, ROOT_FOLDER)
        with self._workbench() as (engine, bench):
            yield from batches_of(engine, prepare_plan(task, fragment, engine, bench, self._schemas), stage.fragment)


class Laying:
    """Rows laid end to end, of which some at the beginning are passed over, and no more taken than are wanted.

    Args:
        gather: How many.
    """

    def __init__(self, gather: Gather) -> None:
        self._skip_rows = gather.skip_rows
        self._left_rows = gather.fetch_rows

    @property
    def is_satisfied(self) -> bool:
        """Whether no more rows are wanted."""
        return self._left_rows == 0

    def taken(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return what is wanted of the next batch; it may be empty."""
        skipped = min(self._skip_rows, batch.num_rows)
        self._skip_rows -= skipped
        wanted = batch.slice(skipped, self._left_rows)
        if self._left_rows is not None:
            self._left_rows -= wanted.num_rows
        return wanted


class HandingOver:
    """The rows of a result that are handed over task by task, while other tasks are still at work.

    Args:
        gather: What the root lays end to end.
        stage: The stage that it reads.
        schedule: Says whose rows are next, and is told when they begin to go out.
        root: Reads them.

    Attributes:
        is_open: Whether rows of a task are being handed over.
    """

    def __init__(self, gather: Gather, stage: Stage, schedule: Schedule, root: Root) -> None:
        self.is_open = False
        self._laid = Laying(gather)
        self._stage = stage
        self._schedule = schedule
        self._root = root
        self._rows: Generator[pa.RecordBatch, None, None] | None = None
        self._first: pa.RecordBatch | None = None

    @property
    def is_satisfied(self) -> bool:
        """Whether no more rows are wanted."""
        return self._laid.is_satisfied

    def has_work(self) -> bool:
        """Whether there are rows to hand over now, or the end of them to be told."""
        finishing = self._schedule.state is QueryState.FINISHING
        return finishing or self.is_open or self._schedule.next_to_hand_over() is not None

    def open_next(self, now_s: float) -> bool:
        """Begin with the rows of the next task, if there is one; what may be cured by making them again is raised here.

        Args:
            now_s: The coordinator's clock.

        Raises:
            PartialLost: If a partial is gone, or damaged at two readings.
            ApiaryError: As :meth:`Root.executed` and :meth:`Root.of_partial` say.
        """
        spec = self._schedule.next_to_hand_over()
        if spec is None:
            return False
        partial = self._schedule.committed_partial(spec.stage, spec.task)
        # Without a partial it is left to this process: there is no node any more.
        rows = self._root.executed(self._stage, spec) if partial is None else self._root.of_partial(partial)
        self._first = next(rows, None)
        self._rows, self.is_open = rows, True
        self._schedule.handle(HandedOver(stage=spec.stage, task=spec.task), now_s)
        return True

    def next(self) -> pa.RecordBatch | None:
        """Return the next batch of the task, which may be empty; None if it was the last."""
        assert self._rows is not None
        batch = self._first if self._first is not None else next(self._rows, None)
        self._first = None
        if batch is None:
            self.close()
            return None
        return self._laid.taken(batch)

    def close(self) -> None:
        """Let go of what is read."""
        if self._rows is not None:
            self._rows.close()
        self._rows, self._first, self.is_open = None, None, False
