"""The nursery: a small process from which a node's bees are forked, whenever it needs one.

A process that runs threads must not be forked: what the others held locked stays locked in the child. So the node forks
the nursery before it starts its first thread, with everything imported that a bee needs, and the nursery, which never
starts a thread, forks the bees. A new bee takes milliseconds, and shares the memory of what was imported.

What belongs here: making processes, ending them, and seeing to it that none outlives the node. What a bee does is in
:mod:`apiary_df.worker.bee_process`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from apiary_df.errors import BeeLost

logger = logging.getLogger("apiary_df")

OOM_SCORE_STEP = 300
"""How much sooner than its node a bee is killed by a system that is short of memory, in thousandths of the memory."""

_START, _END = 0, 1
_REQUEST = struct.Struct("=iI")
"""What is asked (:data:`_START` comes with a socket), and the process that it is about."""

_REPLY = struct.Struct("=iiq")
"""Process id, or minus the error's number; wait status; peak resident memory in KiB."""

_PR_SET_PDEATHSIG = 1
_PEAK_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a bee's process ended.

    Attributes:
        exit_code: Its exit code; minus the signal's number if a signal ended it.
        peak_bytes: Most resident memory that it had, in bytes, what it shares with others included.
    """

    exit_code: int
    peak_bytes: int

    def __str__(self) -> str:
        if self.exit_code >= 0:
            return f"exit code {self.exit_code}"
        try:
            return signal.Signals(-self.exit_code).name
        except ValueError:
            return f"signal {-self.exit_code}"


class Nursery:
    """The node's end of a nursery. Thread-safe.

    Args:
        control: Socket to the nursery's process.
        pid: Its process id.
    """

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.pid = pid
        self._control = control
        self._lock = threading.Lock()

    def start(self) -> tuple[int, Connection]:
        """Fork a bee; returns its process id, and the node's end of the pipe to it.

        Raises:
            BeeLost: If the system has no room for another process.
            OSError: If the nursery is gone.
        """
        here, there = socket.socketpair()
        try:
            with self._lock, there:
                socket.send_fds(self._control, [_REQUEST.pack(_START, 0)], [there.fileno()])
                pid, _, _ = self._reply()
            if pid < 0:
                raise BeeLost(f"the system cannot start a process for a bee: {os.strerror(-pid)}")
            return pid, Connection(here.detach())
        finally:
            here.close()

    def end(self, pid: int) -> Ending:
        """Kill a bee, if it is not dead already, and return how it ended.

        Raises:
            OSError: If the nursery is gone.
        """
        with self._lock:
            self._control.sendall(_REQUEST.pack(_END, pid))
            _, status, peak = self._reply()
        return Ending(exit_code=os.waitstatus_to_exitcode(status), peak_bytes=peak * _PEAK_UNIT_BYTES)

    def _reply(self) -> tuple[int, int, int]:
        data = b""
        while len(data) < _REPLY.size:
            more = self._control.recv(_REPLY.size - len(data))
            if not more:
                raise ConnectionResetError(errno.ECONNRESET, "the nursery is gone")
            data += more
        pid, status, peak = _REPLY.unpack(data)
        return pid, status, peak

    def wait(self) -> None:
        """Wait for the nursery's end; with it, its bees end."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def close(self) -> None:
        """End the nursery and all of its bees; somebody should :meth:`wait` for it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._control.close()


def open_nursery(bee: Callable[[Connection], None]) -> Nursery:
    """Fork a nursery. To be called before this process starts its first thread, with all imported that a bee needs.

    Args:
        bee: What a bee does, given its end of the pipe; it runs in a process of its own, which ends when this returns.
    """
    threads = _threads()
    if threads > 1:
        logger.warning("the process forks its nursery while it has %d threads: their locks may stay taken", threads)
    here, there = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _guarded(lambda: _tend(here, there, parent, bee))
    there.close()
    return Nursery(here, pid)


def _threads() -> int:
    """Return how many threads this process has, those of libraries included."""
    try:
        return len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return threading.active_count()


def _guarded(run: Callable[[], None]) -> NoReturn:
    """Run a forked process to its end: nothing of the process that it was forked from may run in it."""
    code = 1
    try:
        run()
        code = 0
    except BaseException:
        logger.exception("process %d of a bee ended by an error", os.getpid())
    finally:
        os._exit(code)


def _tend(other_end: socket.socket, control: socket.socket, node: int, bee: Callable[[Connection], None]) -> None:
    """Serve the node until it is gone."""
    other_end.close()
    _die_with(node)
    _leave_signals_to_the_node()
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    own = os.getpid()
    while True:
        data, sockets, _, _ = socket.recv_fds(control, _REQUEST.size, 1)
        if len(data) < _REQUEST.size:
            return
        asked, pid = _REQUEST.unpack(data)
        if asked == _START:
            reply = _fork_bee(control, sockets[0], own, bee)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            # Only here are bees waited for, so until then a dead one's id is nobody else's.
            _, status, usage = os.wait4(pid, 0)
            reply = _REPLY.pack(pid, status, usage.ru_maxrss)
        control.sendall(reply)


def _fork_bee(control: socket.socket, pipe: int, nursery: int, bee: Callable[[Connection], None]) -> bytes:
    try:
        pid = os.fork()
    except OSError as error:
        os.close(pipe)
        return _REPLY.pack(-(error.errno or errno.EAGAIN), 0, 0)
    if pid == 0:
        control.close()
        _guarded(lambda: _be_bee(pipe, nursery, bee))
    os.close(pipe)
    return _REPLY.pack(pid, 0, 0)


def _be_bee(pipe: int, nursery: int, bee: Callable[[Connection], None]) -> None:
    _die_with(nursery)
    _be_killed_first()
    bee(Connection(pipe))


def _die_with(parent: int) -> None:
    """Have the system kill this process when its parent ends, however it does; elsewhere than on Linux, pipes tell."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _be_killed_first() -> None:
    """Let a system that is short of memory take bees before their node."""
    path = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        path.write_text(str(min(1000, int(path.read_text()) + OOM_SCORE_STEP)))


def _leave_signals_to_the_node() -> None:
    """Let Ctrl-C, which reaches all processes of a terminal, be the node's business."""

    def ignore(_number: int, _frame: object) -> None:
        # Not SIG_IGN, which programs that a Python function may start would inherit.
        return

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ignore)
    signal.set_wakeup_fd(-1)
