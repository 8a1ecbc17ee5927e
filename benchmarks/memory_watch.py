"""The memory of a process and all of its descendants, looked at again and again from a thread."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

INTERVAL_S = 0.05
"""Time between looks. Each takes a walk over the page tables of the processes, so measured runs are not watched."""


def tree_bytes(pid: int) -> int:
    """Return the memory of a process and its descendants in bytes; pages that several share count once in all.

    That is the proportional set size where the system tells it (Linux), else the unique one.
    """
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(_process_bytes(process) for process in family)


def _process_bytes(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0
    return int(getattr(full, "pss", full.uss))


class MemoryWatch:
    """Watches from ``with`` to its end.

    Args:
        pid: The process.

    Attributes:
        peak_bytes: The most that was seen.
    """

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="memory-watch")

    def __enter__(self) -> MemoryWatch:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL_S):
            self._look()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, tree_bytes(self._pid))
