"""The stage that makes a query's result, run in the session's process.

What belongs here: where the rows of the result come from, partials laid end to end or an engine over them. When it
runs, and what comes of its errors, is the schedule's business and the coordinator's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

import pyarrow as pa

from apiary_df.model import PartialRef, TaskSpec
from apiary_df.plan.stages import Stage
from apiary_df.protocol.lost import read_or_lost
from apiary_df.protocol.partial import read_partial
from apiary_df.publish import ROOT_FOLDER, Write
from apiary_df.store import Store
from apiary_df.tasks import is_plain_gather, plan_root
from apiary_df.worker.bee import Bench, batches_of, prepare_plan
from apiary_df.worker.engine import Engine
from apiary_df.worker.inputs import Schemas

ROOT_MEMORY_BYTES = 1 << 30
"""Memory of the engine that runs root stages in the session's process; what exceeds it spills."""

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
    """

    def __init__(self, store: Store, node_id: str, write: Write | None, workbench: Workbench, schemas: Schemas) -> None:
        self._store = store
        self._node_id = node_id
        self._write = write
        self._workbench = workbench
        self._schemas = schemas

    def task(self, stage: Stage, partials: Mapping[int, Sequence[PartialRef]]) -> TaskSpec:
        """Return the one task of the stage.

        Args:
            stage: The root stage, with all that was put back into it.
            partials: What complete stages committed.
        """
        return plan_root(stage, partials, self._node_id)

    def batches(self, stage: Stage, partials: Mapping[int, Sequence[PartialRef]]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the result.

        Args:
            stage: The root stage, with all that was put back into it.
            partials: What complete stages committed.

        Raises:
            PartialLost: If a partial is gone, or damaged at two readings.
            ExecutionFailed: If DataFusion raised on the data or the SQL.
            ResourcesExhausted: If the engine's memory or disk did not suffice.
            StorageError: If a partial cannot be read.
        """
        if is_plain_gather(stage):
            for partial in partials[stage.inputs[0]]:
                yield from read_or_lost(partial.key, functools.partial(read_partial, self._store, partial, 0))
            return
        yield from self.executed(stage, self.task(stage, partials))

    def executed(self, stage: Stage, task: TaskSpec) -> Iterator[pa.RecordBatch]:
        """Have DataFusion run the root stage in this process."""
        fragment = stage.fragment if self._write is None else self._write.staged(stage.fragment, ROOT_FOLDER)
        with self._workbench() as (engine, bench):
            yield from batches_of(engine, prepare_plan(task, fragment, engine, bench, self._schemas), stage.fragment)
