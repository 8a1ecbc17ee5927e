"""A node: it takes tasks from its inbox, runs as many at once as it has bees, and says how they went.

Kinds of thread share nothing but queues and flags: the caller's thread reads the inbox, one thread writes
heartbeats and watches for queries that are over, and each bee's thread runs attempts. A busy node is therefore never
silent.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import datafusion
import pyarrow as pa

from apiary_df.config import Settings
from apiary_df.errors import ApiaryError, ConfigError, InternalError, ObjectDamaged, QueryCancelled, StorageError
from apiary_df.lost_writes import WriteWatch
from apiary_df.model import TaskKey
from apiary_df.plan import codec
from apiary_df.plan.tree import PlanNode
from apiary_df.protocol import keys, versions
from apiary_df.protocol.inbox import Inbox
from apiary_df.protocol.messages import (
    CommitRecord,
    ErrorReport,
    Heartbeat,
    Mail,
    Manifest,
    TaskMail,
    TaskMetrics,
    decode,
    encode,
)
from apiary_df.publish import discard, for_attempt
from apiary_df.store import Store, open_store
from apiary_df.store_options import StoreOptions
from apiary_df.worker.bee import Bench, Work, codec_of, run_attempt
from apiary_df.worker.engine import Engine, check_engine

logger = logging.getLogger("apiary_df")

MIN_BEE_BYTES = 16 << 20
"""Least memory of a bee: DataFusion's sorts reserve 10 MB before they begin."""

ENGINE_SHARE = 0.75
"""Share of a bee's memory that its engine's pool may hold; the rest is for what the pool does not count."""

KNOWN_QUERIES = 64
"""Queries whose manifests and fragments a node keeps in memory; older ones are read again if asked for."""

FINAL_SWEEPS = 3
"""Looks at the inbox after the last task of a node that leaves, for mail that was under way."""


@dataclass(slots=True, kw_only=True)
class _Known:
    """What a node knows of a query."""

    manifest: Manifest
    fragments: dict[int, PlanNode] = field(default_factory=dict)
    schemas: dict[int, pa.Schema] = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """An attempt that waits for a bee."""

    query_id: str
    mail: TaskMail
    received_s: float

    @property
    def key(self) -> TaskKey:
        return TaskKey(
            query_id=self.query_id, stage=self.mail.spec.stage, task=self.mail.spec.task, attempt=self.mail.attempt
        )


class Node:
    """A node of the swarm at a storage root.

    Args:
        storage: URL of the root.
        bees: Attempts that it runs at once, >= 1.
        memory_bytes: Memory that it may use, shared out to the bees.
        options: How the root and the cells are reached; None is the environment's way.
        settings: Settings.
        node_id: Its id; a new one is made if None. An id is one incarnation's, never used twice.
        allow_udfs: Whether it runs Python functions that come with plans.
        cores: CPU cores that it may use, for others to see.

    Raises:
        ConfigError: If bees or memory make no sense.
    """

    def __init__(
        self,
        storage: str,
        *,
        bees: int,
        memory_bytes: int,
        options: StoreOptions | None = None,
        settings: Settings | None = None,
        node_id: str | None = None,
        allow_udfs: bool = False,
        cores: int | None = None,
    ) -> None:
        if bees < 1:
            raise ConfigError(f"a node needs at least 1 bee, got bees={bees}")
        if memory_bytes < bees * MIN_BEE_BYTES:
            raise ConfigError(
                f"{bees} bees need at least {bees * MIN_BEE_BYTES} bytes of memory ({MIN_BEE_BYTES} each), "
                f"got {memory_bytes}; give the node more memory or fewer bees"
            )
        self.store: Store = open_store(storage, options)
        self.node_id = keys.check_id(node_id or new_node_id(), "node id")
        self.bees = bees
        self.ready = threading.Event()
        self._settings = (settings or Settings()).for_store(self.store.kind)
        self._options = options
        self._memory_bytes = memory_bytes
        self._allow_udfs = allow_udfs
        self._cores = cores or bees
        self._started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: dict[TaskKey, _Order] = {}
        self._running: dict[TaskKey, _Order] = {}
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._leaving = threading.Event()
        self._halted = threading.Event()
        self._gone = threading.Event()
        self._sequence = 0
        self._inbox = Inbox(self.store, self.node_id)

    # -- life ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until :meth:`stop` is called. Returns after the goodbye.

        Raises:
            StorageUnreachable: If the root cannot be reached or written.
            NodeStartFailed: If the self-check of the engine fails.
        """
        self.store.check_writable()
        scratch = Path(tempfile.mkdtemp(prefix=f"apiary-{self.node_id}-", dir=self._settings.scratch_dir))
        try:
            check_engine(scratch)
            self._beat()
            self.ready.set()
            threads = [
                threading.Thread(target=self._heart, name="heartbeat", daemon=True),
                threading.Thread(target=self._watch_writes, name="writes", daemon=True),
            ]
            helpers = len(threads)
            threads += [
                threading.Thread(target=self._bee, args=(scratch / f"bee-{i}",), name=f"bee-{i}", daemon=True)
                for i in range(self.bees)
            ]
            for thread in threads:
                thread.start()
            self._serve()
            for _ in range(self.bees):
                self._orders.put(None)
            if not self._halted.is_set():
                for thread in threads[helpers:]:
                    thread.join()
                self._wait_for_silent_writes()
            self._gone.set()
            for thread in threads[:helpers]:
                thread.join()
        finally:
            self._gone.set()
            self._say_goodbye()
            shutil.rmtree(scratch, ignore_errors=True)

    def stop(self, *, now: bool = False) -> None:
        """Ask the node to leave, after what it has taken on or at once. Returns at once; for signal handlers too."""
        if now:
            self._halted.set()
        self._leaving.set()

    def _serve(self) -> None:
        """Read the inbox until the node is told to leave and has nothing left to do."""
        floor_s, ceiling_s = self._settings.poll_min_s, self._settings.poll_max_s or self._settings.poll_min_s
        wait_s = floor_s
        swept_s = time.monotonic()
        sweeps_left = FINAL_SWEEPS
        while not self._halted.is_set():
            mails = self._read_inbox(sweep=self._leaving.is_set() or time.monotonic() - swept_s > self._beat_s)
            if time.monotonic() - swept_s > self._beat_s:
                swept_s = time.monotonic()
            for mail in mails:
                self._accept(mail)
            if mails:
                wait_s = floor_s
                continue
            if self._leaving.is_set():
                if not self._busy():
                    sweeps_left -= 1
                    if sweeps_left < 0:
                        return
                self._halted.wait(floor_s)
                continue
            self._leaving.wait(wait_s)
            wait_s = min(wait_s * 1.5, ceiling_s)

    @property
    def _beat_s(self) -> float:
        return self._settings.heartbeat_s or 1.0

    def _read_inbox(self, *, sweep: bool) -> list[Mail]:
        mails: list[Mail] = []
        try:
            mails += self._inbox.poll()
            if sweep:
                mails += self._inbox.sweep()
        except StorageError as error:
            logger.warning("node %s cannot read its inbox: %s", self.node_id, error)
            self._halted.wait(self._beat_s)
        return mails

    def _busy(self) -> bool:
        with self._lock:
            return bool(self._waiting or self._running)

    # -- heartbeats ---------------------------------------------------------------------------------------------------

    def _heart(self) -> None:
        while not self._gone.wait(self._beat_s):
            try:
                self._beat()
                self._drop_ended_queries()
            except ApiaryError as error:
                logger.warning("node %s cannot write its heartbeat: %s", self.node_id, error)

    def _watch_writes(self) -> None:
        """Take back, now and then, what lost sessions were writing."""
        watch = self._write_watch()
        while not self._gone.wait(self._settings.dead_after_s):
            self._look_at_writes(watch)

    def _wait_for_silent_writes(self) -> None:
        """Stay, before leaving, until every write under way has given a sign of life from now on, or is taken back.

        This node may be leaving because the session that started it was killed, and be the last to know.
        """
        watch = self._write_watch()
        while self._look_at_writes(watch) and not self._halted.wait(self._beat_s):
            continue

    def _write_watch(self) -> WriteWatch:
        return WriteWatch(self.store, self._options, self._settings.dead_after_s or 0.0, f"node {self.node_id}")

    def _look_at_writes(self, watch: WriteWatch) -> int:
        """Return how many writes may be those of a lost session."""
        try:
            return watch.look(time.monotonic())
        except ApiaryError as error:
            logger.warning("node %s cannot look at writes under way: %s", self.node_id, error)
            return 0

    def _beat(self) -> None:
        self.store.put(keys.heartbeat(self.node_id), encode(self._heartbeat()))

    def _heartbeat(self) -> Heartbeat:
        with self._lock:
            self._sequence += 1
            busy = min(self.bees, len(self._running) + len(self._waiting))
            queries = sorted({key.query_id for key in (*self._running, *self._waiting)})
        return Heartbeat(
            node_id=self.node_id,
            seq=self._sequence,
            protocol_version=versions.PROTOCOL_VERSION,
            datafusion_version=datafusion.__version__,
            apiary_version=versions.apiary_version(),
            hostname=socket.gethostname(),
            pid=os.getpid(),
            cores=self._cores,
            memory_bytes=self._memory_bytes,
            memory_per_bee=self._memory_bytes // self.bees,
            target_cell_size=self._settings.target_cell_bytes,
            bees_total=self.bees,
            bees_busy=busy,
            cached_cells={},
            inbox_next=self._inbox.next_number,
            leaving=self._leaving.is_set(),
            allow_udfs=self._allow_udfs,
            queries=tuple(queries),
            started_at=self._started_at,
            python_version=versions.python_version(),
        )

    def _say_goodbye(self) -> None:
        try:
            self.store.delete([keys.heartbeat(self.node_id)])
            self.store.delete_prefix(keys.inbox_prefix(self.node_id))
        except ApiaryError as error:
            logger.warning("node %s could not remove its heartbeat: %s", self.node_id, error)

    def _drop_ended_queries(self) -> None:
        """Stop work on queries whose manifest is gone: their coordinator has ended them."""
        with self._lock:
            active = {key.query_id for key in (*self._running, *self._waiting)}
            known = {query_id: self._known[query_id] for query_id in active if query_id in self._known}
        for query_id, query in known.items():
            if not self._is_wanted(query_id):
                query.cancelled.set()

    def _is_wanted(self, query_id: str) -> bool:
        return self.store.get_or_none(keys.manifest(query_id)) is not None

    # -- tasks --------------------------------------------------------------------------------------------------------

    def _accept(self, mail: Mail) -> None:
        now_s = time.monotonic()
        for task in mail.tasks:
            order = _Order(query_id=mail.query_id, mail=task, received_s=now_s)
            with self._lock:
                if order.key in self._waiting or order.key in self._running:
                    continue
                self._waiting[order.key] = order
            self._orders.put(order)

    def _bee(self, scratch: Path) -> None:
        engines: dict[tuple[tuple[str, str], ...], Engine] = {}
        while (order := self._orders.get()) is not None:
            with self._lock:
                self._waiting.pop(order.key, None)
                self._running[order.key] = order
            try:
                self._attempt(order, scratch, engines)
            finally:
                with self._lock:
                    self._running.pop(order.key, None)
                shutil.rmtree(scratch / "task", ignore_errors=True)

    def _attempt(self, order: _Order, scratch: Path, engines: dict[tuple[tuple[str, str], ...], Engine]) -> None:
        """Run one attempt and record its outcome. Nothing escapes: what cannot be recorded is logged."""
        started_s = time.monotonic()
        before = self.store.counts.snapshot()
        try:
            try:
                query = self._query(order.query_id)
                if query is None:
                    return
                work = self._work(order, query, scratch, engines)
                self._commit(order, work, started_s, before)
            except QueryCancelled:
                self._discard(order)
            except ApiaryError as error:
                self._report(order, error, started_s)
            except BaseException as error:  # defects, and panics of native code, which are no Exception
                logger.exception("node %s: task %s raised what it should not", self.node_id, order.key)
                self._report(order, InternalError(f"{type(error).__name__}: {error}"), started_s)
        except ApiaryError as error:
            logger.warning("node %s cannot record how task %s went: %s", self.node_id, order.key, error)

    def _work(
        self,
        order: _Order,
        query: _Known,
        scratch: Path,
        engines: dict[tuple[tuple[str, str], ...], Engine],
    ) -> Work:
        task = order.mail.spec
        if task.stage not in query.schemas:
            raise ObjectDamaged(f"the manifest of query {order.query_id} has no stage {task.stage}, the task's")
        folder = scratch / "task"
        folder.mkdir(parents=True, exist_ok=True)
        settings = tuple(sorted(query.manifest.settings.items()))
        if settings not in engines:
            # One engine at a time: its pool is the whole of the bee's budget.
            engines.clear()
            budget_bytes = int(self._memory_bytes / self.bees * ENGINE_SHARE)
            spill = scratch / "spill"
            spill.mkdir(parents=True, exist_ok=True)
            engines[settings] = Engine(dict(settings), budget_bytes, spill, allow_udfs=self._allow_udfs)
        bench = Bench(
            store=self.store,
            scratch=folder,
            options=self._options,
            partial_memory_bytes=self._settings.partial_memory_bytes,
            compression=codec_of(self._settings),
        )
        key = order.key
        return run_attempt(
            task=task,
            fragment=self._fragment(query, order.mail),
            schema=query.schemas[task.stage],
            partial_key=keys.partial(key.query_id, key.stage, key.task, key.attempt),
            engine=engines[settings],
            bench=bench,
            cancelled=query.cancelled,
        )

    def _query(self, query_id: str) -> _Known | None:
        """Return what is known of a query, reading its manifest the first time; None if it is over."""
        with self._lock:
            known = self._known.get(query_id)
        if known is not None:
            return None if known.cancelled.is_set() else known
        key = keys.manifest(query_id)
        data = self.store.get_or_none(key)
        if data is None:
            return None
        manifest = decode(data, Manifest, key)
        if manifest.query_id != query_id:
            raise ObjectDamaged(f"the manifest {key!r} is of query {manifest.query_id!r}", key=key)
        versions.check(manifest.protocol_version, manifest.datafusion_version, f"the coordinator of query {query_id}")
        known = _Known(manifest=manifest)
        for entry in manifest.stages:
            try:
                known.schemas[entry.stage] = pa.ipc.read_schema(pa.py_buffer(entry.schema))
            except (pa.ArrowException, OSError) as error:
                raise ObjectDamaged(f"the manifest {key!r} has no schema of stage {entry.stage}: {error}") from error
        with self._lock:
            self._known[query_id] = known
            while len(self._known) > KNOWN_QUERIES:
                self._known.popitem(last=False)
        return known

    def _fragment(self, query: _Known, mail: TaskMail) -> PlanNode:
        stage = mail.spec.stage
        if stage not in query.fragments:
            query.fragments[stage] = codec.decode(self.store.get(mail.plan_key))
        return for_attempt(query.fragments[stage], stage, mail.spec.task, mail.attempt)

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def _commit(self, order: _Order, work: Work, started_s: float, before: Mapping[str, int]) -> None:
        key = order.key
        token = secrets.token_hex(8)
        after = self.store.counts.snapshot()
        record = CommitRecord(
            token=token,
            query_id=key.query_id,
            stage=key.stage,
            task=key.task,
            attempt=key.attempt,
            node_id=self.node_id,
            partial=work.partial,
            metrics=TaskMetrics(
                rows_out=work.partial.rows,
                bytes_out=work.partial.length,
                bytes_in=order.mail.spec.input_bytes,
                queued_s=started_s - order.received_s,
                seconds=time.monotonic() - started_s,
                spill_count=work.spills,
                spilled_bytes=work.spilled_bytes,
                cells=len(order.mail.spec.cells),
                requests={name: count - before.get(name, 0) for name, count in after.items()},
            ),
            files=work.files,
        )
        commit_key = keys.commit(key.query_id, key.stage, key.task)
        if not self.store.create(commit_key, encode(record), token):
            # Another attempt was first. Its partial counts; this one is in nobody's way, and goes with the query.
            logger.info("node %s: another attempt at task %s was committed first", self.node_id, key)
        if not self._is_wanted(key.query_id):
            self._discard(order)

    def _discard(self, order: _Order) -> None:
        """Remove what an attempt wrote for a query that is over; its coordinator may have cleaned up before."""
        key = order.key
        self.store.delete(
            [
                keys.partial(key.query_id, key.stage, key.task, key.attempt),
                keys.commit(key.query_id, key.stage, key.task),
                keys.error(key.query_id, key.stage, key.task, key.attempt),
            ]
        )
        self.store.delete_prefix(keys.query_prefix(key.query_id))
        with self._lock:
            known = self._known.get(key.query_id)
        if known is not None and key.stage in known.fragments:
            discard(self._fragment(known, order.mail), self._options, known.manifest.created_folders)

    def _report(self, order: _Order, error: ApiaryError, started_s: float) -> None:
        key = order.key
        report = ErrorReport(
            query_id=key.query_id,
            stage=key.stage,
            task=key.task,
            attempt=key.attempt,
            node_id=self.node_id,
            error=error.to_info(),
            seconds=time.monotonic() - started_s,
        )
        self.store.put(keys.error(key.query_id, key.stage, key.task, key.attempt), encode(report))
        if not self._is_wanted(key.query_id):
            self._discard(order)


def new_node_id() -> str:
    """Return a new node id: this machine's name, as far as it fits, and a random part."""
    host = "".join(c if c.isascii() and c.isalnum() else "-" for c in socket.gethostname().lower()).strip("-")
    return f"{host[:24] or 'node'}-{secrets.token_hex(4)}"
