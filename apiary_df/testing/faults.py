"""A store that fails on demand: which request, whose, at which key, before or after its effect.

A :class:`FaultyStore` is a real store (a folder, a bucket, this process's memory) in front of which faults lie in
wait. Each is a value that names exactly the request that it strikes, so that a test needs neither luck nor time::

    faults = Faults([Fault(what="lost_reply", request="create", key="*/commit_0_1_*", process="node-0")])
    store = FaultyStore(open_store("memory://here"), faults, process="node-0")

Several stores, one for each process of a swarm, share one :class:`Faults`; :meth:`Faults.kill` and :meth:`Faults.pause`
stop a process of that name at its next request. What belongs here: making requests fail. What failing should lead to is
for tests to say.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeAlias

from apiary_df.errors import ObjectMissing
from apiary_df.store import Data, ObjectMeta, Store

Request: TypeAlias = Literal["get", "ranges", "put", "create", "head", "list", "delete", "move", "probe"]
"""What a store is asked for. A create-once put is one ``create`` for each try, and a ``get`` that reads it back."""

What: TypeAlias = Literal["fail", "lost_reply", "truncated", "flipped", "missing", "act", "act_after"]
"""How a request goes wrong:

- ``fail``: it raises and has no effect.
- ``lost_reply``: it has its effect, and raises.
- ``truncated``, ``flipped``: bytes read are fewer, or differ in one bit. Of a write: bytes stored, and no word of it.
- ``missing``: what is there is not found; a listing is empty; a write or delete has no effect, and no word of it.
- ``act``, ``act_after``: nothing goes wrong with it, but the test's own function is called just before or after.
"""

READS = ("get", "ranges")
WRITES = ("put", "create")

FLIPPED_BIT = 0x10
"""The bit that is flipped: in ASCII text it makes another printable character or a control character, at any place."""


class Killed(BaseException):
    """Raised in a process that was killed by :meth:`Faults.kill`; no ``except Exception`` gets hold of it."""


def unavailable() -> BaseException:
    """Return what a store that is throttled or broken for a moment raises."""
    return OSError("503 Slow Down, said by a test")


def disk_full() -> BaseException:
    """Return what a folder raises whose disk is full."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def forbidden() -> BaseException:
    """Return what a store raises that refuses the credentials."""
    return PermissionError("403 Forbidden, said by a test")


def panic() -> BaseException:
    """Return what a native library raises that panics: no :class:`Exception`."""
    kind = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    raised: BaseException = kind("a panic, said by a test")
    return raised


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault, and the requests that it strikes.

    Attributes:
        what: What goes wrong.
        request: Kind of request.
        key: Pattern of its key, as in :mod:`fnmatch`; of a ``delete``, of any of its keys.
        process: Pattern of the name of the process that makes it.
        nth: The first request of those that it strikes, counted from 1 over all processes.
        times: How many it strikes from there on; None is all.
        error: Makes what ``fail`` and ``lost_reply`` raise, as obstore or the system would.
        act: What ``act`` and ``act_after`` call, with the process and the key. It may raise.
        at: Where the bytes are cut or the bit is flipped, as a share of the length, 0 to below 1.
        found: Of requests to read, count those alone whose object is there: most looks of a swarm find nothing.
    """

    what: What
    request: Request
    key: str = "*"
    process: str = "*"
    nth: int = 1
    times: int | None = 1
    error: Callable[[], BaseException] = unavailable
    act: Callable[[str, str], None] | None = None
    at: float = 0.5
    found: bool = False

    def fits(self, process: str, request: Request, keys: Sequence[str]) -> bool:
        """Whether this is a request of the kind that the fault counts."""
        if request != self.request or not fnmatchcase(process, self.process):
            return False
        return any(fnmatchcase(key, self.key) for key in keys)

    def damaged(self, data: bytes) -> bytes:
        """Return bytes as this fault leaves them; none can be taken from nothing."""
        place = int(len(data) * self.at)
        if self.what == "truncated":
            return data[:place]
        if self.what == "flipped" and data:
            return data[:place] + bytes([data[place] ^ FLIPPED_BIT]) + data[place + 1 :]
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A request that was made.

    Attributes:
        process: Who made it.
        request: Its kind.
        keys: Its key, or prefix; of a ``delete``, all of them.
        struck: The faults that struck it.
    """

    process: str
    request: Request
    keys: tuple[str, ...]
    struck: tuple[Fault, ...] = ()

    def is_struck_at(self, request: str, key: str) -> bool:
        """Whether a fault struck it, and it is a request of a kind to a pattern of keys."""
        return bool(self.struck) and self.request == request and any(fnmatchcase(k, key) for k in self.keys)


class Faults:
    """Faults that lie in wait for the requests of some processes. Thread-safe.

    Args:
        faults: The faults; several may strike the same request.

    Attributes:
        made: All requests so far, in order.
    """

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.made: list[Made] = []
        self._faults = list(faults)
        self._seen: list[int] = [0] * len(self._faults)
        self._fired: list[int] = [0] * len(self._faults)
        self._lock = threading.Lock()
        self._dead: set[str] = set()
        self._paused: dict[str, threading.Event] = {}
        self._lagging: tuple[str, ...] = ()

    def add(self, fault: Fault) -> None:
        """Add a fault; it counts requests from now on."""
        with self._lock:
            self._faults.append(fault)
            self._seen.append(0)
            self._fired.append(0)

    def disarm(self) -> None:
        """Take all faults away. What was made stays known; who was killed stays dead, who was paused stays so."""
        with self._lock:
            self._faults, self._seen, self._fired = [], [], []

    def forget(self) -> None:
        """Forget the requests that were made so far."""
        with self._lock:
            self.made.clear()

    def fired(self) -> int:
        """Return how many requests were struck so far, each fault counted."""
        with self._lock:
            return sum(len(made.struck) for made in self.made)

    def kill(self, process: str) -> None:
        """Let no request of a process have any effect from now on: each raises :class:`Killed`."""
        with self._lock:
            self._dead.add(process)
            waiting = self._paused.pop(process, None)
        if waiting is not None:
            waiting.set()

    def pause(self, process: str) -> None:
        """Let every request of a process wait until :meth:`resume`, those of its clean-up too."""
        with self._lock:
            self._paused.setdefault(process, threading.Event())

    def resume(self, process: str) -> None:
        """Let a paused process go on."""
        with self._lock:
            waiting = self._paused.pop(process, None)
        if waiting is not None:
            waiting.set()

    def lag(self, patterns: Iterable[str]) -> None:
        """Let no listing show keys of these patterns, as one does that is behind; of none: all shows again."""
        with self._lock:
            self._lagging = tuple(patterns)

    def shown(self, found: Iterable[ObjectMeta]) -> list[ObjectMeta]:
        """Return what a listing shows of what is there."""
        with self._lock:
            hidden = self._lagging
        return [meta for meta in found if not any(fnmatchcase(meta.key, pattern) for pattern in hidden)]

    def is_dead(self, process: str) -> bool:
        """Whether a process was killed."""
        with self._lock:
            return process in self._dead

    def check_alive(self, process: str) -> None:
        """Wait while a process is paused.

        Raises:
            Killed: It was killed.
        """
        while True:
            with self._lock:
                if process in self._dead:
                    raise Killed(process)
                waiting = self._paused.get(process)
            if waiting is None:
                return
            waiting.wait()

    def strike(
        self, process: str, request: Request, keys: Sequence[str], is_there: Callable[[], bool]
    ) -> tuple[Fault, ...]:
        """Note a request, and return the faults that strike it.

        Args:
            process: Who makes it.
            request: Its kind.
            keys: Its keys.
            is_there: Tells whether the first of them is there.

        Raises:
            Killed: Its process was killed.
        """
        self.check_alive(process)
        with self._lock:
            wants_found = any(fault.found and fault.fits(process, request, keys) for fault in self._faults)
        found = wants_found and is_there()
        with self._lock:
            struck: list[Fault] = []
            for number, fault in enumerate(self._faults):
                if not fault.fits(process, request, keys) or (fault.found and not found):
                    continue
                self._seen[number] += 1
                if self._seen[number] < fault.nth or (fault.times is not None and self._fired[number] >= fault.times):
                    continue
                self._fired[number] += 1
                struck.append(fault)
            self.made.append(Made(process=process, request=request, keys=tuple(keys), struck=tuple(struck)))
        return tuple(struck)


class FaultyStore(Store):
    """A store whose requests meet faults. Like the store that it is made of in everything else.

    Args:
        store: The store whose root it uses; it may be used beside this one.
        faults: What lies in wait.
        process: Name under which its requests are made.
    """

    def __init__(self, store: Store, faults: Faults, process: str) -> None:
        super().__init__(replace(store.site, connect=lambda _: store.connect()), store.options)
        self._real = store
        self.faults = faults
        self.process = process

    def get(self, key: str, limit_bytes: int | None = None) -> bytes:
        """Read a whole object; see :meth:`Store.get`."""
        with self._struck("get", "read", key) as struck:
            data = super().get(key, limit_bytes)
        for fault in struck:
            data = fault.damaged(data)
        return data

    def get_start(self, key: str, length: int) -> tuple[bytes, int] | None:
        """Read an object's first bytes; a ``get`` as well, whose faults strike these. See :meth:`Store.get_start`."""
        try:
            with self._struck("get", "read", key) as struck:
                found = super().get_start(key, length)
        except ObjectMissing:
            return None
        if found is None:
            return None
        start, size_bytes = found
        for fault in struck:
            left = fault.damaged(start)
            start, size_bytes = left, size_bytes if len(left) == len(start) else len(left)
        return start, size_bytes

    def get_or_none(self, key: str, limit_bytes: int | None = None) -> bytes | None:
        """Read a whole object if there is one; a request in any case, on a folder too."""
        try:
            return self.get(key, limit_bytes)
        except ObjectMissing:
            return None

    async def read_range(self, key: str, start: int, length: int) -> Data:
        """Read a range, in a thread, since faults may wait; see :meth:`Store.read_range`."""
        return await asyncio.to_thread(self.get_range, key, start, length)

    def put(self, key: str, data: Data) -> None:
        """Write an object; see :meth:`Store.put`."""
        with self._struck("put", "write", key) as struck:
            if _is_harmed(struck):
                data = data.read_bytes() if isinstance(data, Path) else bytes(memoryview(data))
            if not _is_gone(struck):
                super().put(key, _harmed(data, struck))

    def head(self, key: str) -> ObjectMeta:
        """Look an object up; see :meth:`Store.head`."""
        with self._struck("head", "look up", key):
            return super().head(key)

    def list(self, prefix: str) -> list[ObjectMeta]:
        """List a prefix; see :meth:`Store.list`. What is ``missing`` is all; see :meth:`Faults.lag` for some."""
        with self._struck("list", "list", prefix) as struck:
            found = super().list(prefix)
        return [] if _is_gone(struck) else self.faults.shown(found)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; see :meth:`Store.delete`."""
        wanted = [*keys]
        if not wanted:
            return
        with self._struck("delete", "delete", *wanted) as struck:
            if not _is_gone(struck):
                super().delete(wanted)

    def move(self, source: str, target: str) -> None:
        """Move an object; see :meth:`Store.move`."""
        with self._struck("move", "move", source):
            super().move(source, target)

    def check_writable(self) -> datetime:
        """Prove that the root can be written; see :meth:`Store.check_writable`."""
        with self._struck("probe", "write", "_probe"):
            return super().check_writable()

    def _create(self, key: str, data: bytes) -> None:
        with self._struck("create", "write", key) as struck:
            if not _is_gone(struck):
                super()._create(key, _harmed(data, struck))

    def _fetch_spans(self, key: str, spans: Sequence[tuple[int, int]]) -> Sequence[memoryview]:
        with self._struck("ranges", "read", key) as struck:
            found = [bytes(part) for part in super()._fetch_spans(key, spans)]
        if found and _is_harmed(struck):
            # The last span: an object that was cut short lacks what comes last.
            found[-1] = _harmed(found[-1], struck)
        return [memoryview(part) for part in found]

    @contextmanager
    def _struck(self, request: Request, verb: str, *keys: str) -> Iterator[tuple[Fault, ...]]:
        looks: list[bool] = []

        def is_there() -> bool:
            looks.append(Store.get_or_none(self._real, keys[0]) is not None)
            return looks[-1]

        struck = self.faults.strike(self.process, request, keys, is_there)
        with self._around(struck, verb, keys[0]):
            # What was not there when faults looked for it must not be found a moment later: they would have missed it.
            if request in (*READS, "head") and (_is_gone(struck) or False in looks):
                with self._mapped(verb, keys[0]):
                    raise FileNotFoundError("not found, said by a test")
            yield struck

    @contextmanager
    def _around(self, struck: Sequence[Fault], verb: str, key: str) -> Iterator[None]:
        """Do what faults do before and after a request; errors go the way of the real ones."""
        for fault in struck:
            if fault.what == "act" and fault.act is not None:
                fault.act(self.process, key)
                self.faults.check_alive(self.process)
            if fault.what == "fail":
                with self._mapped(verb, key):
                    raise fault.error()
        yield
        for fault in struck:
            if fault.what == "act_after" and fault.act is not None:
                fault.act(self.process, key)
                self.faults.check_alive(self.process)
            if fault.what == "lost_reply":
                with self._mapped(verb, key):
                    raise fault.error()


def _is_harmed(struck: Iterable[Fault]) -> bool:
    return any(fault.what in ("truncated", "flipped") for fault in struck)


def _is_gone(struck: Iterable[Fault]) -> bool:
    return any(fault.what == "missing" for fault in struck)


def _harmed(data: Data, struck: Iterable[Fault]) -> Data:
    for fault in struck:
        data = fault.damaged(data) if fault.what in ("truncated", "flipped") else data
    return data


def slowly(seconds: float) -> Callable[[str, str], None]:
    """Return what an ``act`` fault calls to make a request take longer by so many seconds."""

    def wait(_process: str, _key: str) -> None:
        time.sleep(seconds)

    return wait


def for_good(fault: Fault) -> Fault:
    """Return the same fault without an end: it strikes every request from its first on."""
    return replace(fault, times=None)
