"""A node: it takes tasks from its inbox, runs as many at once as it has bees, and says how they went.

Kinds of thread share nothing but queues and flags: the caller's thread reads the inbox, one thread writes
heartbeats and watches for queries that are over, and each bee's thread runs attempts. A busy node is therefore never
silent.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import socket
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import datafusion

from apiary_df.bell import Bell
from apiary_df.config import Settings
from apiary_df.errors import ApiaryError, ConfigError, StorageError
from apiary_df.host import SYSTEM, Host
from apiary_df.lost_writes import WriteWatch
from apiary_df.model import TaskKey
from apiary_df.pace import Pace
from apiary_df.protocol import keys, versions
from apiary_df.protocol.inbox import Inbox, SweepPace
from apiary_df.protocol.messages import Heartbeat, Mail
from apiary_df.protocol.storage import write_message
from apiary_df.roots import Roots, roots_for_session
from apiary_df.scratch import ScratchFolder
from apiary_df.store import Store, open_store
from apiary_df.store_options import StoreOptions
from apiary_df.worker.attempts import Attempts
from apiary_df.worker.cell_cache import CellCache
from apiary_df.worker.desk import Desk, Order
from apiary_df.worker.engine import check_engine
from apiary_df.worker.executor import Executor, ThreadExecutor
from apiary_df.worker.watches import Watches

logger = logging.getLogger("apiary_df")

MIN_BEE_BYTES = 16 << 20
"""Least memory of a bee: DataFusion's sorts reserve 10 MB before they begin."""

FINAL_SWEEPS = 3
"""Looks at the inbox after the last task of a node that leaves, for mail that was under way."""


class Node:
    """A node of the swarm at a storage root.

    Args:
        storage: URL of the root, or its store.
        bees: Attempts that it runs at once, >= 1.
        memory_bytes: Memory that it may use, shared out to the bees.
        options: How the root and the cells are reached; None is the environment's way.
        settings: Settings.
        node_id: Its id; a new one is made if None. To others, a node that comes back under the same id is a new one.
        allow_udfs: Whether it runs Python functions that come with plans.
        cores: CPU cores that it may use, for others to see.
        executors: Makes a bee's executor, given a scratch folder, and proves that its engine keeps tasks apart; None
            runs attempts in this process.
        roots: Where it may read cells and write files; None: as nodes that a session starts.
        host: The machine.

    Raises:
        ConfigError: If bees or memory make no sense.
    """

    def __init__(
        self,
        storage: str | Store,
        *,
        bees: int,
        memory_bytes: int,
        options: StoreOptions | None = None,
        settings: Settings | None = None,
        node_id: str | None = None,
        allow_udfs: bool = False,
        cores: int | None = None,
        roots: Roots | None = None,
        executors: Callable[[Path], Executor] | None = None,
        host: Host = SYSTEM,
    ) -> None:
        if bees < 1:
            raise ConfigError(f"a node needs at least 1 bee, got bees={bees}")
        if memory_bytes < bees * MIN_BEE_BYTES:
            raise ConfigError(
                f"{bees} bees need at least {bees * MIN_BEE_BYTES} bytes of memory ({MIN_BEE_BYTES} each), "
                f"got {memory_bytes}; give the node more memory or fewer bees"
            )
        self.store = storage if isinstance(storage, Store) else open_store(storage, options)
        self.node_id = keys.check_id(node_id or new_node_id(), "node id")
        self.bees = bees
        self.ready = host.event()
        self._host = host
        self._settings = (settings or Settings()).for_store(self.store.kind)
        self._options = options
        self._memory_bytes = memory_bytes
        self._allow_udfs = allow_udfs
        self._cores = cores or bees
        self._incarnation = secrets.token_hex(8)
        self._started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._executors = executors
        self._desk = Desk(host, bees)
        self._roots = roots or roots_for_session(self.store.url, self._settings.allow_roots)
        self._attempts = Attempts(
            self.store, self.node_id, options, bee_bytes=memory_bytes // bees, roots=self._roots, host=host
        )
        self._lock = host.lock()
        self._leaving = host.event()
        self._halted = host.event()
        self._gone = host.event()
        self._watches = Watches(
            self.store,
            self.node_id,
            self._settings,
            desk=self._desk,
            attempts=self._attempts,
            gone=self._gone,
            host=host,
        )
        self._cells = CellCache.of(self._settings, options)
        self._sequence = 0
        self._inbox = Inbox(self.store, self.node_id, self._incarnation)

    # -- life ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until :meth:`stop` is called. Returns after the goodbye.

        Raises:
            StorageUnreachable: If the root cannot be reached or written.
            NodeStartFailed: If the self-check of the engine fails.
        """
        self.store.check_writable()
        scratch = ScratchFolder(self.node_id, self._settings.scratch_dir)
        try:
            if self._executors is None:
                check_engine(scratch.path)
            executors = [(self._executors or self._executor_here)(scratch.path / f"bee-{i}") for i in range(self.bees)]
            self._beat()
            self.ready.set()
            helpers = [
                self._host.start("heartbeat", self._heart),
                self._host.start("leases", self._watches.watch_leases),
                self._host.start("collector", self._watches.collect),
                self._host.start("writes", self._watch_writes),
            ]
            bees = [
                self._host.start(f"bee-{i}", functools.partial(self._bee, executor))
                for i, executor in enumerate(executors)
            ]
            self._serve()
            self._desk.close()
            if not self._halted.is_set():
                for bee in bees:
                    bee.join()
                self._wait_for_silent_writes()
            self._gone.set()
            for helper in helpers:
                helper.join()
        finally:
            self._gone.set()
            self._say_goodbye()
            if self._cells is not None:
                self._cells.close()
            scratch.remove()

    def stop(self, *, now: bool = False) -> None:
        """Ask the node to leave, after what it has taken on or at once. Returns at once; for signal handlers too."""
        if now:
            self._halted.set()
        self._leaving.set()

    def _serve(self) -> None:
        """Read the inbox until the node is told to leave and has nothing left to do."""
        bell = self._listening()
        pace = Pace(self._settings, self._host.now_s())
        beat_s = self._beat_s
        sweeps = SweepPace(
            least_s=min(self._settings.poll_max_s or beat_s, beat_s), most_s=beat_s, now_s=self._host.now_s()
        )
        sweeps_left = FINAL_SWEEPS
        while not self._halted.is_set():
            if self._read_inbox(sweeps):
                pace.news(self._host.now_s())
            elif not self._leaving.is_set():
                bell.wait(self._leaving, pace.wait_s(self._host.now_s()))
            elif self._desk.size() or sweeps_left:
                sweeps_left -= not self._desk.size()
                self._halted.wait(self._settings.poll_min_s)
            else:
                return

    def _listening(self) -> Bell:
        """Return a bell that rings for mail, where one can."""
        bell = Bell()
        folder = self.store.local_path(keys.inbox_prefix(self.node_id).rstrip("/"))
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            bell.listen(folder)
        return bell

    @property
    def _beat_s(self) -> float:
        return self._settings.heartbeat_s or 1.0

    def _read_inbox(self, sweeps: SweepPace) -> bool:
        """Take what mail there is; returns whether there was any."""
        found = False
        try:
            for mail in self._inbox.poll():
                self._accept(mail)
                found = True
            if found:
                sweeps.mail_came(self._host.now_s())
            if self._leaving.is_set() or sweeps.is_due(self._host.now_s()):
                swept = 0
                for mail in self._inbox.sweep():
                    self._accept(mail)
                    swept += 1
                sweeps.swept(self._host.now_s(), found=bool(swept))
                found = found or bool(swept)
        except StorageError as error:
            logger.warning("node %s cannot read its inbox: %s", self.node_id, error)
            self._halted.wait(self._beat_s)
        return found

    # -- heartbeats ---------------------------------------------------------------------------------------------------

    def _heart(self) -> None:
        while not self._gone.wait(self._beat_s):
            try:
                self._beat()
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
        dead_after_s = self._settings.dead_after_s or 0.0
        return WriteWatch(self.store, self._options, dead_after_s, f"node {self.node_id}", self._roots)

    def _look_at_writes(self, watch: WriteWatch) -> int:
        """Return how many writes may be those of a lost session."""
        try:
            return watch.look(self._host.now_s())
        except ApiaryError as error:
            logger.warning("node %s cannot look at writes under way: %s", self.node_id, error)
            return 0

    def _beat(self) -> None:
        write_message(self.store, keys.heartbeat(self.node_id), self._heartbeat())

    def _heartbeat(self) -> Heartbeat:
        with self._lock:
            self._sequence += 1
            sequence = self._sequence
        return Heartbeat(
            node_id=self.node_id,
            seq=sequence,
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
            bees_busy=min(self.bees, self._desk.size()),
            cached_cells={} if self._cells is None else self._cells.announced(),
            inbox_next=self._inbox.next_number,
            leaving=self._leaving.is_set(),
            allow_udfs=self._allow_udfs,
            queries=tuple(sorted(self._desk.queries())),
            started_at=self._started_at,
            python_version=versions.python_version(),
            allow_roots=self._roots.urls,
            refused=self.store.refusals.snapshot(),
            incarnation=self._incarnation,
        )

    def _say_goodbye(self) -> None:
        try:
            self.store.delete([keys.heartbeat(self.node_id)])
            self.store.delete_prefix(keys.inbox_prefix(self.node_id))
        except ApiaryError as error:
            logger.warning("node %s could not remove its heartbeat: %s", self.node_id, error)

    # -- tasks --------------------------------------------------------------------------------------------------------

    def _accept(self, mail: Mail) -> None:
        now_s = self._host.now_s()
        for task in mail.tasks:
            self._desk.add(
                Order(
                    query_id=mail.query_id,
                    sender=mail.sender,
                    mail=task,
                    received_s=now_s,
                    slots=task.slots,
                    deadline_s=None if mail.remaining_s is None else now_s + mail.remaining_s,
                    stopped=self._host.event(),
                    letter=mail,
                )
            )
        for stopped in mail.stopped:
            self._desk.stop(
                TaskKey(query_id=mail.query_id, stage=stopped.stage, task=stopped.task, attempt=stopped.attempt)
            )

    def _bee(self, executor: Executor) -> None:
        try:
            while (order := self._desk.next()) is not None:
                try:
                    self._attempts.run(order, executor)
                finally:
                    self._desk.done(order)
        finally:
            executor.close()

    def _executor_here(self, scratch: Path) -> Executor:
        return ThreadExecutor(self.store, scratch, self._options, self._settings, allow_udfs=self._allow_udfs)


def new_node_id() -> str:
    """Return a new node id: this machine's name, as far as it fits, and a random part."""
    host = "".join(c if c.isascii() and c.isalnum() else "-" for c in socket.gethostname().lower()).strip("-")
    return f"{host[:24] or 'node'}-{secrets.token_hex(4)}"
