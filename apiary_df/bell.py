"""Waits that end early when a file appears in a folder of this machine.

Processes of a swarm learn of each other by looking at storage again and again. Where the storage is a local folder and
the system tells of new files (Linux: inotify), a wait between two looks ends as soon as there is something to look at;
everywhere else, and for files that come from another machine, it just takes its time. What belongs here: nothing that
knows what the files are.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from apiary_df.host import Event

FLAG_LOOK_S = 0.05
"""How often a wait for files looks at its flag, which somebody may raise without any file."""

HEARD_WAIT_S = 0.02
"""Least wait where files can be heard: looks only cost time there, and are for files of other machines alone."""

STAGED_MARK = "#"
"""In names of files that are not complete yet: nothing rings for these."""

_CREATED, _MOVED_HERE = 0x100, 0x80
_HEAD = struct.Struct("iIII")
_READ_BYTES = 64 << 10


class Bell:
    """Rings when files appear in one folder at a time. Not thread-safe.

    To be kept and used again: closing one takes the system some 15 ms, listening to another folder microseconds.
    """

    def __init__(self) -> None:
        self._system: ctypes.CDLL | None = None
        self._descriptor: int | None = None
        self._watch: int | None = None
        self._beginnings: tuple[str, ...] = ()
        self._closed: Callable[[], object] = lambda: None

    def listen(self, folder: Path, beginnings: tuple[str, ...] = ("",)) -> bool:
        """Listen to a folder from now on, and to no other; return whether files there can be heard.

        Args:
            folder: Where files are to appear; it must be there.
            beginnings: How the names of files begin that end a wait.
        """
        self.silence()
        if self._descriptor is None and not self._open():
            return False
        assert self._system is not None
        watch: int = self._system.inotify_add_watch(self._descriptor, os.fsencode(folder), _CREATED | _MOVED_HERE)
        self._watch = watch if watch >= 0 else None
        self._beginnings = beginnings
        return self._watch is not None

    def silence(self) -> None:
        """Listen to no folder, and forget what was heard."""
        watch, self._watch = self._watch, None
        if watch is not None and self._system is not None:
            self._system.inotify_rm_watch(self._descriptor, watch)
            self._read()

    def wait(self, flag: Event, timeout_s: float) -> bool:
        """Wait for a file or for a flag, at most so long; return whether the flag is raised.

        Args:
            flag: The flag.
            timeout_s: How long; where files can be heard, at least :data:`HEARD_WAIT_S`, unless it is no time at all.
        """
        if self._watch is None:
            return flag.wait(timeout_s)
        end_s = time.monotonic() + (max(timeout_s, HEARD_WAIT_S) if timeout_s > 0 else 0)
        while not flag.is_set():
            left_s = end_s - time.monotonic()
            if left_s <= 0 or self._rang(min(left_s, FLAG_LOOK_S)):
                break
        return flag.is_set()

    def close(self) -> None:
        """Give back what it holds; also done when it is dropped."""
        self._watch = self._descriptor = None
        self._closed()

    def _open(self) -> bool:
        """Return whether this system tells of files, to a user who may be told by only so many."""
        if not sys.platform.startswith("linux"):
            return False
        self._system = ctypes.CDLL(None)
        descriptor: int = self._system.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if descriptor < 0:
            return False
        self._descriptor = descriptor
        self._closed = weakref.finalize(self, os.close, descriptor)
        return True

    def _rang(self, timeout_s: float) -> bool:
        assert self._descriptor is not None
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        # Never no time at all: that would be a busy wait.
        if not poll.poll(max(1, round(timeout_s * 1000))):
            return False
        return any(name.startswith(self._beginnings) and STAGED_MARK not in name for name in _names(self._read()))

    def _read(self) -> bytes:
        assert self._descriptor is not None
        try:
            return os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return b""


def _names(events: bytes) -> Iterator[str]:
    at = 0
    while at < len(events):
        length = _HEAD.unpack_from(events, at)[3]
        at += _HEAD.size
        yield events[at : at + length].rstrip(b"\0").decode(errors="replace")
        at += length
