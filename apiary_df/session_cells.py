"""Queries that run in the session as a single stage, with cells from the cell cache of this machine.

What belongs here: running such a query's one stage over local files. That it runs here, and why, is decided elsewhere
(:mod:`apiary_df.planning`); where nothing of it is in the cache, plain DataFusion runs it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pyarrow as pa

from apiary_df.config import Settings
from apiary_df.errors import QueryCancelled
from apiary_df.model import CellUse, TaskSpec
from apiary_df.objects import CLOUD_SCHEMES
from apiary_df.plan.functions import python_functions
from apiary_df.plan.stages import ScanLeaf, Stage
from apiary_df.planning import RunsHere
from apiary_df.protocol.arrow import conform_result
from apiary_df.query import new_query_id
from apiary_df.tasks import plan_root
from apiary_df.view import SwarmView
from apiary_df.worker.bee import batches_of, prepare_plan
from apiary_df.worker.cell_cache import CellCache, Localized


def buckets_of(plan: RunsHere) -> tuple[str, ...]:
    """Return the URLs of the buckets that a query reads whose one stage could be run over other files."""
    root = None if plan.graph is None else plan.graph.root
    # What a function of the session remembers, a copy of it that came out of a plan does not.
    if root is None or python_functions([root.fragment]):
        return ()
    urls = {leaf.store_url for leaf in root.leaves if isinstance(leaf, ScanLeaf) and leaf.files}
    return tuple(sorted(url for url in urls if url.partition("://")[0] in CLOUD_SCHEMES))


class CachedStage:
    """Runs a query's one stage, if the cell cache has what it reads, or is to have it: a source of a run.

    Args:
        plan: The query, which reads buckets.
        cache: The cell cache.
        view: The swarm.
        settings: The session's settings.
        schema: Schema of the result's batches.
    """

    def __init__(
        self, plan: RunsHere, cache: CellCache, view: SwarmView, settings: Settings, schema: pa.Schema
    ) -> None:
        self._plan = plan
        self._cache = cache
        self._view = view
        self._settings = settings
        self._schema = schema
        self._use = CellUse()

    def use(self) -> CellUse:
        """Return what the cell cache did for it."""
        return self._use

    def __call__(self, cancelled: threading.Event) -> Iterator[pa.RecordBatch] | None:
        """Return the result's batches; None if plain DataFusion is to make them.

        Raises:
            QueryCancelled: If it was told to end meanwhile.
        """
        assert self._plan.graph is not None
        stage = self._plan.graph.root
        task = plan_root(stage, {}, self._view.node_id)
        with ExitStack() as stack:
            cells = stack.enter_context(self._cache.for_query(new_query_id(), cancelled))
            found = cells.localized(task.scans, stage.fragment)
            self._use = cells.use
            if not found.stores:
                return None
            batches = self._batches(stage, task, found, stack.pop_all())
        return _until(cancelled, batches)

    def _batches(self, stage: Stage, task: TaskSpec, found: Localized, pins: ExitStack) -> Iterator[pa.RecordBatch]:
        with pins, self._view.workbenches.lend(self._plan.settings) as (engine, place):
            plan = prepare_plan(task, stage.fragment, engine, place, {}, scans=found)
            for batch in batches_of(engine, plan, stage.fragment):
                if batch.num_rows:
                    yield conform_result(batch, self._schema)


def _until(cancelled: threading.Event, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if cancelled.is_set():
            raise QueryCancelled("the query, which ran in this process, was cancelled")
        yield batch
