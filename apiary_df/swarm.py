"""Starting and stopping nodes on this machine: processes for a folder or a bucket, threads for ``memory://``."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import IO

from apiary_df.config import Settings
from apiary_df.errors import ConfigError, NodeStartFailed, StorageError
from apiary_df.machine import detect_machine
from apiary_df.protocol import keys
from apiary_df.roots import roots_for_session
from apiary_df.scratch import ScratchFolder
from apiary_df.store import Store, open_store
from apiary_df.store_options import StoreOptions
from apiary_df.worker.node import MIN_BEE_BYTES, Node, new_node_id

logger = logging.getLogger("apiary_df")

MEMORY_SHARE = 0.6
"""Share of the machine's memory that a swarm on this machine may use; the rest is the session's and the system's."""

STOP_GRACE_S = 10.0
"""How long a node process may take to leave after SIGTERM before it is killed."""


class LocalSwarm:
    """Nodes on this machine.

    Args:
        nodes: How many, >= 1.
        bees: Execution slots of each, >= 1.
        storage: Root that they share; a temporary folder, removed at the end, if None.
        options: How the root and the cells are reached. They go to the nodes through their environment.
        settings: Settings.
        allow_udfs: Whether the nodes run Python functions that come with plans.
        memory_bytes: Memory of each node; an equal part of this machine's if None.
        in_process: Run the nodes as threads of this process, as for ``memory://``.

    Raises:
        ConfigError: If a number makes no sense.
        StorageUnreachable: If the root cannot be reached or written.
        NodeStartFailed: If a node does not come up within ``node_start_timeout_s``.
    """

    def __init__(
        self,
        nodes: int,
        bees: int = 1,
        *,
        storage: str | None = None,
        options: StoreOptions | None = None,
        settings: Settings | None = None,
        allow_udfs: bool = True,
        memory_bytes: int | None = None,
        in_process: bool = False,
    ) -> None:
        if nodes < 1 or bees < 1:
            raise ConfigError(f"a swarm needs at least one node of at least one bee, got nodes={nodes}, bees={bees}")
        self._settings = settings or Settings()
        self._folder: ScratchFolder | None = None
        if storage is None:
            self._folder = ScratchFolder("swarm", self._settings.scratch_dir)
            storage = (self._folder.path / "root").as_uri()
        self.store: Store = open_store(storage, options)
        self.storage = self.store.url
        self._options = options
        self._allow_udfs = allow_udfs
        self.bees = bees
        self._in_process = in_process or self.store.kind == "memory"
        share = int(detect_machine().memory_bytes * MEMORY_SHARE / nodes)
        self._memory_bytes = memory_bytes or max(share, bees * MIN_BEE_BYTES)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, IO[bytes]] = {}
        self._threads: dict[str, tuple[Node, threading.Thread]] = {}
        # For sessions that nobody closes: at the latest when the interpreter ends.
        self._forgotten = weakref.finalize(self, _end_processes, self.processes, self._folder)
        try:
            if self._folder is None:
                # Before any process is started: one that could not reach the root would only fail more slowly.
                self.store.check_writable()
            for _ in range(nodes):
                self.add_node()
            self.wait_until_ready()
        except BaseException:
            self.close()
            raise

    @property
    def node_ids(self) -> tuple[str, ...]:
        """Ids of the nodes that were started, in order."""
        return (*self.processes, *self._threads)

    def add_node(self) -> str:
        """Start one more node, without waiting for it; returns its id."""
        node_id = new_node_id()
        if self._in_process:
            self._start_thread(node_id)
        else:
            self._start_process(node_id)
        return node_id

    def _start_thread(self, node_id: str) -> None:
        node = Node(
            self.storage,
            bees=self.bees,
            memory_bytes=self._memory_bytes,
            options=self._options,
            settings=self._settings,
            node_id=node_id,
            allow_udfs=self._allow_udfs,
        )
        thread = threading.Thread(target=node.run, name=f"node-{node_id}", daemon=True)
        thread.start()
        self._threads[node_id] = (node, thread)

    def _start_process(self, node_id: str) -> None:
        command = [sys.executable, "-m", "apiary_df.cli", "node", "--storage", self.storage]
        command += ["--bees", str(self.bees), "--memory", str(self._memory_bytes), "--node-id", node_id]
        # Its end of this pipe is closed however this process ends: no node outlives the session that started it.
        command.append("--while-stdin")
        if self._allow_udfs:
            command.append("--allow-udfs")
        for url in roots_for_session(self.storage, self._settings.allow_roots).urls:
            command += ["--allow-root", url]
        environ = {**os.environ, **self._settings.to_environ()}
        if self._options is not None:
            environ.update(self._options.to_environ())
        self.processes[node_id] = subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._words(node_id)
        )

    def _words(self, node_id: str) -> IO[bytes]:
        # A file, not a pipe: nobody reads while the node runs, and a full pipe would stop it.
        self._logs[node_id] = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        return self._logs[node_id]

    def wait_until_ready(self) -> None:
        """Wait until every node has written a heartbeat.

        Raises:
            NodeStartFailed: If one ended, or did not within ``node_start_timeout_s``; with its last words.
        """
        deadline_s = time.monotonic() + self._settings.node_start_timeout_s
        for node_id in self.node_ids:
            while self.store.get_or_none(keys.heartbeat(node_id)) is None:
                process = self.processes.get(node_id)
                if process is not None and process.poll() is not None:
                    raise NodeStartFailed(
                        f"node {node_id} ended with exit code {process.returncode} before it was ready: "
                        f"{_last_words(self._logs[node_id])}",
                        node=node_id,
                    )
                if time.monotonic() > deadline_s:
                    raise NodeStartFailed(
                        f"node {node_id} was not ready within {self._settings.node_start_timeout_s:g} s; "
                        "raise node_start_timeout_s if the machine is that busy",
                        node=node_id,
                    )
                time.sleep(self._settings.poll_min_s * 5)

    def close(self) -> None:
        """Stop all nodes, after what they have taken on, and remove the temporary folder."""
        for node, _ in self._threads.values():
            node.stop()
        _end_processes(self.processes, None)
        for log in self._logs.values():
            log.close()
        for _, thread in self._threads.values():
            thread.join(timeout=STOP_GRACE_S)
        self._remove_traces()
        self._forgotten()

    def _remove_traces(self) -> None:
        """Remove what nodes that could not say goodbye have left under the root."""
        try:
            self.store.delete([keys.heartbeat(node_id) for node_id in self.node_ids])
            for node_id in self.node_ids:
                self.store.delete_prefix(keys.inbox_prefix(node_id))
        except StorageError as error:
            logger.warning("could not remove the nodes' traces from %s: %s", self.storage, error)

    def __enter__(self) -> LocalSwarm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end_processes(processes: Mapping[str, subprocess.Popen[bytes]], folder: ScratchFolder | None) -> None:
    """Stop node processes, after what they have taken on, and remove their folder, if it was made for them."""
    for process in processes.values():
        if process.poll() is None:
            process.terminate()
    deadline_s = time.monotonic() + STOP_GRACE_S
    for node_id, process in processes.items():
        try:
            process.wait(timeout=max(0.1, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning("node %s did not leave within %g s and is killed", node_id, STOP_GRACE_S)
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
    if folder is not None:
        folder.remove()


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    words = log.read().decode(errors="replace").strip().splitlines()
    return " / ".join(words[-5:]) or "(it said nothing)"
