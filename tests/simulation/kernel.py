"""Virtual time: a world of processes whose threads are greenlets, of which one runs at a time.

What belongs here: who runs when, clocks, waits, and the death and pause of processes. Nothing that knows of storage or
queries. A thread can lose its turn only where it waits: on its host, or in a request to the store.
"""

from __future__ import annotations

import logging
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from heapq import heappop, heappush
from random import Random
from types import TracebackType

from greenlet import getcurrent, greenlet

MAX_TURNS = 400_000
"""Turns after which a world is taken to run in circles; an ordinary one ends within some thousands."""


class Killed(BaseException):
    """The process of this thread was killed; nothing that it still does has an effect."""


class Stuck(Exception):
    """The world does not come to an end."""


class World:
    """Virtual time, and all that is to happen in it.

    Args:
        seed: What every choice follows from.
        tracing: Whether to keep the trace's lines; its hash is kept anyhow.
    """

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.random = Random(seed)
        self.now_s = 0.0
        self.turns = 0
        self.lines: list[str] = []
        self.hash = 0
        self._tracing = tracing
        self._queue: list[tuple[float, float, int, Callable[[], None]]] = []
        self._entries = 0
        self._hub = getcurrent()
        self.thread: Thread | None = None

    def at(self, when_s: float, act: Callable[[], None]) -> None:
        """Have something done at a time; what is due at the same time is done in random order."""
        self._entries += 1
        heappush(self._queue, (max(when_s, self.now_s), self.random.random(), self._entries, act))

    def run(self, is_over: Callable[[], bool], until_s: float) -> bool:
        """Let time pass until something is true; return whether it became so before a time.

        Raises:
            Stuck: If there are more turns than any run should take.
        """
        while not is_over():
            if not self._queue or self._queue[0][0] > until_s:
                self.now_s = max(self.now_s, until_s)
                return False
            self.now_s, _, _, act = heappop(self._queue)
            self.turns += 1
            if self.turns > MAX_TURNS:
                raise Stuck(f"more than {MAX_TURNS} turns by {self.now_s:.3f} s")
            act()
        return True

    def note(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        line = f"{self.now_s:11.5f} {who:12} {what}"
        self.hash = zlib.crc32(line.encode(), self.hash)
        if self._tracing:
            self.lines.append(line)

    def log(self, who: str, record: logging.LogRecord) -> None:
        """Add what a process logged to the trace's lines; it counts for the hash by its place alone."""
        self.hash = zlib.crc32(f"{who} {record.msg}".encode(), self.hash)
        if self._tracing:
            self.lines.append(f"{self.now_s:11.5f} {who:12} {record.levelname.lower()}: {record.getMessage()}")

    def park(self) -> None:
        """Give the turn back; the calling thread goes on when it is woken."""
        self._hub.switch()

    @property
    def hub(self) -> greenlet:
        """Where turns are given out."""
        return self._hub


class Thread:
    """One thread of a process: an activity that can be joined."""

    def __init__(self, process: Process, name: str, run: Callable[[], None]) -> None:
        self.process = process
        self.name = name
        self.error: BaseException | None = None
        self._run = run
        self._wait = 0
        self._started = False
        self._ended = Event(process)
        self._greenlet = greenlet(self._main, process.world.hub)

    def _main(self) -> None:
        try:
            self._run()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - kept for whoever judges the run
            self.error = error
            self.process.crashed(self, error)
        finally:
            self.process.threads.pop(self, None)
            self._ended.raise_flag()

    def join(self, timeout: float | None = None, /) -> None:
        """Wait for its end, at most so many seconds."""
        self._ended.wait(timeout)

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self in self.process.threads

    def next_wait(self) -> int:
        """Return the number of a wait that begins."""
        self._wait += 1
        return self._wait

    def wake(self, wait: int) -> None:
        """Let it go on, if it is still in that wait; later, if its process is stopped."""
        process = self.process
        if wait != self._wait or not process.alive:
            return
        if process.stopped_until_s > process.world.now_s:
            process.world.at(process.stopped_until_s, lambda: self.wake(wait))
            return
        self._wait += 1
        self._turn()

    def begin(self) -> None:
        """Take the first turn."""
        wait = self._wait
        self.process.world.at(self.process.world.now_s, lambda: self.wake(wait))

    def _turn(self) -> None:
        self._started = True
        world = self.process.world
        world.thread = self
        self._greenlet.switch()
        world.thread = None

    def kill(self) -> None:
        """End it where it stands: whatever it does on its way out has no effect."""
        self._wait += 1
        self.process.threads.pop(self, None)
        if self._started and not self._greenlet.dead:
            self._greenlet.throw(Killed())


class Process:
    """A process: threads that live and die together, and see one clock.

    Args:
        world: Where it lives.
        name: Its name, for the trace.
        offset_s: What its clock shows when the world begins.
        rate: Seconds that its clock counts in one of the world's.
        on_crash: Told of a thread that raised what nobody caught.
    """

    def __init__(
        self,
        world: World,
        name: str,
        *,
        offset_s: float = 0.0,
        rate: float = 1.0,
        on_crash: Callable[[Process, BaseException], None] | None = None,
    ) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.stopped_until_s = 0.0
        self.cut_off_until_s = 0.0
        self.threads: dict[Thread, None] = {}
        self.host = SimHost(self)
        self.offset_s = offset_s
        self.rate = rate
        self._on_crash = on_crash

    def start(self, name: str, run: Callable[[], None]) -> Thread:
        """Start a thread."""
        self.check()
        thread = Thread(self, name, run)
        self.threads[thread] = None
        thread.begin()
        return thread

    def check(self) -> None:
        """Raise if the process is dead: whoever asks is on its way out, and can do nothing any more."""
        if not self.alive:
            raise Killed

    def kill(self) -> None:
        """End the process at once, as SIGKILL does."""
        if self.alive:
            self.alive = False
            for thread in list(self.threads):
                thread.kill()

    def stop_for(self, seconds: float) -> None:
        """Let nothing of it run for a while, as between SIGSTOP and SIGCONT."""
        self.stopped_until_s = max(self.stopped_until_s, self.world.now_s + seconds)

    def sleep(self, seconds: float) -> None:
        """Let the calling thread wait, in the world's seconds."""
        self.check()
        thread = self.current()
        wait = thread.next_wait()
        world = self.world
        world.at(world.now_s + seconds, lambda: thread.wake(wait))
        world.park()
        self.check()

    def current(self) -> Thread:
        """Return the calling thread."""
        thread = self.world.thread
        if thread is None or thread.process is not self:
            raise RuntimeError(f"{self.name}: a wait outside of its threads")
        return thread

    def crashed(self, thread: Thread, error: BaseException) -> None:
        """Note that a thread ended by an error."""
        self.world.note(self.name, f"{thread.name} raised {type(error).__name__}")
        if self._on_crash is not None:
            self._on_crash(self, error)


class Event:
    """A flag of one process that its threads can wait for."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._raised = False
        self._waiting: list[tuple[Thread, int]] = []

    def set(self) -> None:
        """Raise the flag."""
        self._process.check()
        self.raise_flag()

    def raise_flag(self) -> None:
        """Raise the flag, whoever asks."""
        self._raised = True
        world = self._process.world
        for thread, wait in self._waiting:
            world.at(world.now_s, lambda thread=thread, wait=wait: thread.wake(wait))  # type: ignore[misc]
        self._waiting.clear()

    def clear(self) -> None:
        """Lower the flag."""
        self._raised = False

    def is_set(self) -> bool:
        """Whether the flag is raised."""
        self._process.check()
        return self._raised

    def wait(self, timeout: float | None = None, /) -> bool:
        """Wait for the flag, at most so many seconds of the process's clock."""
        process = self._process
        process.check()
        if self._raised:
            return True
        thread = process.current()
        wait = thread.next_wait()
        self._waiting.append((thread, wait))
        if timeout is not None:
            world = process.world
            world.at(world.now_s + max(0.0, timeout) / process.rate, lambda: thread.wake(wait))
        process.world.park()
        process.check()
        if not self._raised:
            self._waiting = [(t, w) for t, w in self._waiting if t is not thread]
        return self._raised


class Lock:
    """A lock of one process, which its holder may take again."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._holder: greenlet | None = None
        self._depth = 0
        self._waiting: deque[tuple[Thread, int]] = deque()

    def __enter__(self) -> Lock:
        self._process.check()
        me = getcurrent()
        while self._holder is not None and self._holder is not me:
            thread = self._process.current()
            wait = thread.next_wait()
            self._waiting.append((thread, wait))
            self._process.world.park()
            self._process.check()
        self._holder = me
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self._holder = None
            if self._waiting:
                thread, wait = self._waiting.popleft()
                world = self._process.world
                world.at(world.now_s, lambda: thread.wake(wait))


class SimHost:
    """The machine as a process sees it; see :class:`apiary_df.host.Host`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def now_s(self) -> float:
        """Return the process's clock."""
        process = self._process
        process.check()
        return process.offset_s + process.world.now_s * process.rate

    def sleep(self, seconds: float, /) -> None:
        """Wait."""
        self._process.sleep(seconds / self._process.rate)

    def event(self) -> Event:
        """Return a new flag."""
        return Event(self._process)

    def lock(self) -> AbstractContextManager[object]:
        """Return a new lock."""
        return Lock(self._process)

    def start(self, name: str, run: Callable[[], None], /) -> Thread:
        """Start a thread."""
        return self._process.start(name, run)
