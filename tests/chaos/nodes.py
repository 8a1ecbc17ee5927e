"""Node processes, and a supervisor that starts new ones in place of those that ended.

What belongs here: starting, signalling and burying processes. When which of them is hit is
:mod:`.storm`'s business.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from apiary_df import Settings
from apiary_df.protocol import keys
from apiary_df.store import Store
from apiary_df.store_options import StoreOptions

LEAVE_S = 90.0
"""A node that was told to leave has left after so many seconds, or it is stuck; it first ends what it has."""

BURIED_S = 20.0
"""A process that was killed, and all that it started, is gone after so many seconds."""

LOG_LINES = 6
"""Last lines of a node's log that a fault quotes."""


def environ_for(settings: Settings, options: StoreOptions | None) -> dict[str, str]:
    """Return the environment of a process that works under these settings and reaches storage by these options."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("APIARY_")}
    return {**outside, **settings.to_environ(), **(options.to_environ() if options is not None else {})}


@dataclass(slots=True)
class Incarnation:
    """One life of a process.

    Attributes:
        name: Id of the node.
        process: The process, leader of a session that all its children belong to.
        log: What it says.
        stopped: Whether SIGSTOP holds it.
        doomed: How it was made to end, if it was: ``killed`` or ``leaving``.
        ends_by_s: When it must have ended, by this process's monotonic clock; None if it need not.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    stopped: bool = False
    doomed: str = ""
    ends_by_s: float | None = None

    def last_words(self) -> str:
        """Return the end of its log."""
        return " / ".join(self.log.read_text(errors="replace").strip().splitlines()[-LOG_LINES:]) or "(nothing)"


class Supervisor:
    """Keeps so many nodes running on a root. Not thread-safe.

    Args:
        store: The root.
        options: How nodes reach it.
        settings: Their settings.
        nodes: How many.
        folder: Where their logs go.
        allowed: URL below which they may read cells and write files.
    """

    def __init__(
        self, store: Store, options: StoreOptions | None, settings: Settings, *, nodes: int, folder: Path, allowed: str
    ) -> None:
        self._store = store
        self._command = [sys.executable, "-m", "apiary_df.cli", "node", "--storage", store.url, "--while-stdin"]
        self._command += ["--allow-root", allowed]
        self._environ = environ_for(settings, options)
        self._folder = folder
        self.restarts = 0
        self.faults: list[str] = []
        self._buried: list[tuple[Incarnation, float]] = []
        self.nodes: list[Incarnation | None] = [self._start(place) for place in range(nodes)]

    def _start(self, place: int) -> Incarnation:
        name = f"chaos{place}-{secrets.token_hex(4)}"
        log = self._folder / f"{name}.log"
        command = [*self._command, "--node-id", name, "--bees", str(1 + place % 2), "--memory", "512M"]
        with log.open("wb") as words:
            process = subprocess.Popen(
                command,
                env=self._environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=words,
                start_new_session=True,
            )
        return Incarnation(name, process, log)

    # -- what storms do -----------------------------------------------------------------------------------------------

    def kill(self, place: int) -> bool:
        """Kill a node, stopped or not; return whether there was one."""
        node = self.nodes[place]
        if node is None or node.process.poll() is not None:
            return False
        node.doomed = "killed"
        node.process.kill()
        return True

    def leave(self, place: int) -> bool:
        """Tell a node to leave; return whether there was one that could hear it for the first time."""
        node = self.nodes[place]
        if node is None or node.process.poll() is not None or node.doomed or node.stopped or not self.is_ready(place):
            return False
        node.doomed = "leaving"
        node.ends_by_s = time.monotonic() + LEAVE_S
        node.process.terminate()
        return True

    def stop(self, place: int) -> bool:
        """Stop a node's process, not its children; return whether there was one that ran."""
        node = self.nodes[place]
        if node is None or node.process.poll() is not None or node.doomed or node.stopped:
            return False
        node.stopped = True
        node.process.send_signal(signal.SIGSTOP)
        return True

    def resume(self, place: int) -> None:
        """Let a stopped node go on."""
        node = self.nodes[place]
        if node is not None and node.stopped:
            node.stopped = False
            node.process.send_signal(signal.SIGCONT)

    def is_ready(self, place: int) -> bool:
        """Whether a node runs, has said so, and is to stay."""
        node = self.nodes[place]
        if node is None or node.process.poll() is not None or node.doomed or node.stopped:
            return False
        return self._store.get_or_none(keys.heartbeat(node.name)) is not None

    # -- what supervisors do ------------------------------------------------------------------------------------------

    def tend(self, *, restart: bool = True) -> None:
        """Bury nodes that have ended, note those that should not have or that did not, and start new ones."""
        for place, node in enumerate(self.nodes):
            if node is not None and node.process.poll() is not None:
                self._bury(node)
                self.nodes[place] = None
            elif node is not None and node.ends_by_s is not None and time.monotonic() > node.ends_by_s:
                self.faults.append(f"node {node.name} was told to leave and had not after {LEAVE_S:g} s")
                self.kill(place)
            if self.nodes[place] is None and restart:
                self.nodes[place] = self._start(place)
                self.restarts += 1
        self._look_at_graves()

    def _bury(self, node: Incarnation) -> None:
        expected = {"killed": {-signal.SIGKILL}, "leaving": {0}}.get(node.doomed, set())
        if node.ends_by_s is not None:
            expected.add(0)  # it may have left before it was killed
        code = node.process.returncode
        if code not in expected:
            self.faults.append(f"node {node.name} ({node.doomed or 'at work'}) ended with {code}: {node.last_words()}")
        if node.process.stdin is not None:
            node.process.stdin.close()
        self._buried.append((node, time.monotonic() + BURIED_S))

    def _look_at_graves(self) -> None:
        """Note processes that outlive the node that started them."""
        if not self._buried:
            return
        sessions = sessions_of_processes()
        open_graves: list[tuple[Incarnation, float]] = []
        for node, gone_by_s in self._buried:
            alive = [pid for pid, session in sessions.items() if session == node.process.pid]
            if alive and time.monotonic() > gone_by_s:
                self.faults.append(f"processes {alive} have outlived node {node.name}, which started them")
                for pid in alive:
                    os.kill(pid, signal.SIGKILL)
            elif alive:
                open_graves.append((node, gone_by_s))
        self._buried = open_graves

    @property
    def haunted(self) -> bool:
        """Whether children of nodes that have ended still run."""
        self._look_at_graves()
        return bool(self._buried)

    def close(self) -> None:
        """Kill what still runs."""
        for place, node in enumerate(self.nodes):
            if node is not None:
                self.kill(place)
                node.process.wait()
                if node.process.stdin is not None:
                    node.process.stdin.close()
        for pid, session in sessions_of_processes().items():
            if session in {node.process.pid for node in (*self.nodes, *(n for n, _ in self._buried)) if node}:
                os.kill(pid, signal.SIGKILL)


def sessions_of_processes() -> Mapping[int, int]:
    """Return the session of every process that runs on this machine; the dead that nobody has buried left out."""
    sessions: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended meanwhile
            if fields[0] not in "ZX":
                sessions[int(entry.name)] = int(fields[3])
    return sessions
