"""What a node does with an order: it finds out about the query, has the attempt made, and records how it went.

What belongs here: reading manifests and fragments, commit records, error reports, and removing what attempts wrote for
queries that are over. How an attempt is carried out is an :class:`~apiary_df.worker.executor.Executor`'s business.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from apiary_df.errors import (
    ApiaryError,
    FunctionsRefused,
    InternalError,
    ObjectDamaged,
    QueryCancelled,
    RootsRefused,
    StorageError,
)
from apiary_df.host import Event, Host
from apiary_df.model import TaskSpec
from apiary_df.permits import check_permitted, check_writes
from apiary_df.plan import codec
from apiary_df.plan.tree import PlanNode
from apiary_df.protocol import keys, versions
from apiary_df.protocol.arrow import read_schema
from apiary_df.protocol.messages import CommitRecord, ErrorReport, Manifest, TaskMetrics
from apiary_df.protocol.seal import FUNCTIONS, OUTSIDE
from apiary_df.protocol.storage import create_record, read_bytes, read_message, write_message
from apiary_df.publish import discard, for_attempt
from apiary_df.roots import Roots
from apiary_df.store import Store
from apiary_df.store_options import StoreOptions
from apiary_df.worker.bee import Work
from apiary_df.worker.desk import Order
from apiary_df.worker.engine import NODES_OWN
from apiary_df.worker.executor import AnyOf, Executor, Job
from apiary_df.worker.inputs import stage_of

logger = logging.getLogger("apiary_df")

KNOWN_QUERIES = 64
"""Queries whose manifests and fragments a node keeps in memory; older ones are read again if asked for."""

RECORDING: Mapping[str, int] = {"put": 1, "get": 1}
"""What a record cannot count, since it comes later: itself, and the look whether the query is still wanted."""

_REFUSALS: Mapping[type[ApiaryError], str] = {RootsRefused: OUTSIDE, FunctionsRefused: FUNCTIONS}
"""Errors that say that a task was refused, and the counters of these."""


@dataclass(slots=True, kw_only=True)
class _Known:
    """What a node knows of a query."""

    manifest: Manifest
    cancelled: Event
    fragments: dict[tuple[int, int], PlanNode] = field(default_factory=dict)
    schemas: dict[int, pa.Schema] = field(default_factory=dict)


class Attempts:
    """Carries out a node's orders. Thread-safe: each bee calls :meth:`run` for its own orders.

    Args:
        store: The swarm's root.
        node_id: The node.
        options: How files that queries write are reached.
        bee_bytes: Memory of one bee.
        roots: Where tasks may read cells and write files.
        host: The clock.
    """

    def __init__(
        self, store: Store, node_id: str, options: StoreOptions | None, *, bee_bytes: int, roots: Roots, host: Host
    ) -> None:
        self._store = store
        self._node_id = node_id
        self._options = options
        self._bee_bytes = bee_bytes
        self._roots = roots
        self._host = host
        self._lock = host.lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._running: Counter[str] = Counter()

    def drop(self, query_id: str) -> bool:
        """Stop work on a query, and forget it: should it be asked for again, all is found out anew.

        Returns:
            Whether anything was known of it.
        """
        with self._lock:
            known = self._known.pop(query_id, None)
        if known is not None:
            known.cancelled.set()
        return known is not None

    def run(self, order: Order, executor: Executor) -> None:
        """Run one attempt and record its outcome. Nothing escapes: what cannot be recorded is logged."""
        if order.stopped is not None and order.stopped.is_set():
            return
        started_s = self._host.now_s()
        store = self._store.counting()
        with self._lock:
            self._running[order.query_id] += 1
        try:
            try:
                query = self._query(store, order)
                if query is None:
                    return
                self._attempt(store, order, query, executor, started_s)
            except ApiaryError as error:
                self._report(order, error, started_s)
                if not self._is_wanted(order.query_id):
                    self._discard(order, None, committed=False)
        except ApiaryError as error:
            logger.warning("node %s cannot record how task %s went: %s", self._node_id, order.key, error)
        finally:
            with self._lock:
                self._running -= Counter((order.query_id,))

    def _attempt(self, store: Store, order: Order, query: _Known, executor: Executor, started_s: float) -> None:
        committed = False
        try:
            work = executor.run(self._job(store, order, query))
            committed = self._commit(store, order, work, started_s)
        except QueryCancelled:
            logger.info("node %s: task %s was stopped", self._node_id, order.key)
        except ApiaryError as error:
            self._report(order, error, started_s)
        except BaseException as error:  # defects, and panics of native code, which are no Exception
            logger.exception("node %s: task %s raised what it should not", self._node_id, order.key)
            self._report(order, InternalError(f"{type(error).__name__}: {error}"), started_s)
        try:
            wanted = self._is_wanted(order.query_id)
        except StorageError as error:
            # The attempt is recorded, and its record stands: not to know whether it is wanted is no failure of it.
            logger.warning("node %s cannot look whether task %s is still wanted: %s", self._node_id, order.key, error)
            return
        if not wanted:
            self._discard(order, query, committed=committed)

    # -- what is known of queries -------------------------------------------------------------------------------------

    def _is_wanted(self, query_id: str) -> bool:
        return self._store.get_or_none(keys.lease(query_id)) is not None

    def _job(self, store: Store, order: Order, query: _Known) -> Job:
        key, task = order.key, order.mail.spec
        if task.stage not in query.schemas:
            raise ObjectDamaged(f"the manifest of query {order.query_id} has no stage {task.stage}, the task's")
        fragment = self._fragment(store, query, order)
        check_permitted(fragment, task, self._roots)
        return Job(
            query_id=order.query_id,
            task=task,
            fragment=fragment,
            schema=query.schemas[task.stage],
            inputs=_inputs(task, query.schemas),
            settings=query.manifest.settings,
            partial_key=keys.partial(key.query_id, key.stage, key.task, key.attempt),
            memory_bytes=self._bee_bytes * order.slots,
            cancelled=query.cancelled if order.stopped is None else AnyOf(query.cancelled, order.stopped),
        )

    def _query(self, store: Store, order: Order) -> _Known | None:
        """Return what is known of a query, at first from its manifest; None if it is over."""
        query_id = order.query_id
        with self._lock:
            known = self._known.get(query_id)
        if known is not None:
            return None if known.cancelled.is_set() else known
        key = keys.manifest(query_id)
        enclosed = None if order.letter is None else order.letter.manifest
        manifest = enclosed or read_message(store, key, Manifest)
        if manifest is None:
            return None
        versions.check(manifest.protocol_version, manifest.datafusion_version, f"the coordinator of query {query_id}")
        foreign = [name for name in manifest.settings if name.startswith(NODES_OWN)]
        if foreign:
            raise ObjectDamaged(f"the manifest {key!r} sets {foreign[0]!r}, which is the node's own business", key=key)
        known = _Known(manifest=manifest, cancelled=self._host.event())
        for entry in manifest.stages:
            known.schemas[entry.stage] = read_schema(entry.schema, key)
        with self._lock:
            # Another bee may have been as quick: all must look at the same flag, or some are never told to stop.
            known = self._known.setdefault(query_id, known)
            idle = [other for other in self._known if not self._running[other]]
            for other in idle[: max(0, len(self._known) - KNOWN_QUERIES)]:
                del self._known[other]
        return known

    def _fragment(self, store: Store, query: _Known, order: Order) -> PlanNode:
        spec = order.mail.spec
        which = spec.stage, spec.version
        if which not in query.fragments:
            enclosed = () if order.letter is None else order.letter.fragments
            plan = next((fragment.plan for fragment in enclosed if (fragment.stage, fragment.version) == which), None)
            if plan is None:
                plan = read_bytes(store, keys.plan(order.query_id, *which))
            fragment = codec.decode(plan)
            # Before it is known: what a known one writes is removed when its query is over.
            check_writes(fragment, self._roots)
            query.fragments[which] = fragment
        return for_attempt(query.fragments[which], spec.stage, spec.task, order.mail.attempt)

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def _commit(self, store: Store, order: Order, work: Work, started_s: float) -> bool:
        """Write the commit record; returns whether this attempt is the one that counts."""
        key = order.key
        requests = Counter(store.counts.snapshot())
        requests.update(work.requests)
        requests.update(RECORDING)
        if work.attached is not None:
            requests["bytes_out"] += len(work.attached)
        record = CommitRecord(
            token=secrets.token_hex(8),
            query_id=key.query_id,
            stage=key.stage,
            task=key.task,
            attempt=key.attempt,
            node_id=self._node_id,
            partial=work.partial,
            metrics=TaskMetrics(
                rows_out=work.partial.rows,
                bytes_out=work.partial.length,
                bytes_in=order.mail.spec.input_bytes,
                queued_s=started_s - order.received_s,
                seconds=self._host.now_s() - started_s,
                spill_count=work.spills,
                spilled_bytes=work.spilled_bytes,
                cells=len(order.mail.spec.cells),
                cache=work.cache,
                requests=dict(requests),
            ),
            files=work.files,
            epoch=order.mail.epoch,
        )
        counts = create_record(store, record, work.attached)
        if not counts:
            # Another attempt was first. Its partial counts; this one, if it was stored at all, goes with the query.
            logger.info("node %s: another attempt at task %s was committed first", self._node_id, key)
        return counts

    def _discard(self, order: Order, query: _Known | None, *, committed: bool) -> None:
        """Remove what an attempt wrote for a query that is over; its coordinator may have cleaned up before."""
        key = order.key
        own = [
            keys.partial(key.query_id, key.stage, key.task, key.attempt),
            keys.error(key.query_id, key.stage, key.task, key.attempt),
        ]
        if committed:
            own.append(keys.commit(key.query_id, key.stage, key.task, order.mail.epoch))
        self._store.delete(own)
        if self._store.get_or_none(keys.cancel(key.query_id)) is None:
            # Else it is kept, or its coordinator is about to remove the rest.
            self._store.delete_prefix(keys.query_prefix(key.query_id))
        if query is not None and (key.stage, order.mail.spec.version) in query.fragments:
            discard(self._fragment(self._store, query, order), self._options, query.manifest.created_folders)

    def _report(self, order: Order, error: ApiaryError, started_s: float) -> None:
        key = order.key
        reason = _REFUSALS.get(type(error))
        if reason is not None:
            self._store.refusals.add(reason, key)
        report = ErrorReport(
            query_id=key.query_id,
            stage=key.stage,
            task=key.task,
            attempt=key.attempt,
            node_id=self._node_id,
            error=error.to_info(),
            seconds=self._host.now_s() - started_s,
        )
        write_message(self._store, keys.error(key.query_id, key.stage, key.task, key.attempt), report)


def _inputs(task: TaskSpec, schemas: Mapping[int, pa.Schema]) -> Mapping[int, pa.Schema]:
    """Return the schemas of the stages whose partials a task reads."""
    stages = {stage_of(ref) for exchange in task.exchanges for ref in exchange.segments}
    return {stage: schema for stage, schema in schemas.items() if stage in stages}
