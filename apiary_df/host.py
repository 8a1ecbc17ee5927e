"""What the shells need of the machine that they run on: a clock, waits, threads.

Sessions and nodes ask a :class:`Host` for these, never ``time`` or ``threading`` themselves, so that the same code runs
on another host whose clock is a test's. What belongs here: nothing that knows of queries or storage.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

_Result = TypeVar("_Result")


class Flag(Protocol):
    """What can be asked whether it is raised."""

    def is_set(self) -> bool:
        """Whether the flag is raised."""


class Event(Protocol):
    """A flag that can be waited for, as :class:`threading.Event`."""

    def set(self) -> None:
        """Raise the flag, and wake all who wait for it."""

    def is_set(self) -> bool:
        """Whether the flag is raised."""

    def wait(self, timeout: float | None = None, /) -> bool:
        """Wait for the flag, at most so many seconds; return whether it is raised."""


class Activity(Protocol):
    """Something that runs beside its starter, as :class:`threading.Thread`."""

    def join(self, timeout: float | None = None, /) -> None:
        """Wait for its end, at most so many seconds."""

    def is_alive(self) -> bool:
        """Whether it still runs."""


class Host(Protocol):
    """The machine, as far as shells need it."""

    def now_s(self) -> float:
        """Return this host's monotonic clock, in seconds; it says nothing of any other host's."""

    def sleep(self, seconds: float, /) -> None:
        """Do nothing for so many seconds."""

    def event(self) -> Event:
        """Return a new flag."""

    def lock(self) -> AbstractContextManager[object]:
        """Return a new lock, which its holder may take again."""

    def start(self, name: str, run: Callable[[], None], /) -> Activity:
        """Run something beside the caller; it ends with the process at the latest."""


class SystemHost:
    """The real one: the system's clock and threads."""

    def now_s(self) -> float:
        """Return the system's monotonic clock, in seconds."""
        return time.monotonic()

    def sleep(self, seconds: float, /) -> None:
        """Sleep."""
        time.sleep(seconds)

    def event(self) -> Event:
        """Return a :class:`threading.Event`."""
        return threading.Event()

    def lock(self) -> AbstractContextManager[object]:
        """Return a :class:`threading.RLock`."""
        return threading.RLock()

    def start(self, name: str, run: Callable[[], None], /) -> Activity:
        """Start a daemon thread."""
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread


SYSTEM = SystemHost()
"""The host that processes run on."""


def together(host: Host, calls: Sequence[Callable[[], _Result]], at_once: int) -> list[_Result]:
    """Make several calls, some at a time, and return what they returned, in order.

    The calling activity makes calls as well; with one at a time it makes all of them, one after the other.

    Args:
        host: Where the others are made.
        calls: What to call. All are made, even if one of them raises.
        at_once: How many may be under way at a time, >= 1.

    Raises:
        BaseException: What the first of the calls that raised has raised.
    """
    waiting = deque(enumerate(calls))
    results: dict[int, _Result] = {}
    failures: dict[int, BaseException] = {}

    def work() -> None:
        while True:
            try:
                number, call = waiting.popleft()
            except IndexError:
                return
            try:
                results[number] = call()
            except BaseException as error:  # noqa: BLE001 - raised to the caller
                failures[number] = error

    helpers = [host.start("together", work) for _ in range(min(at_once, len(calls)) - 1)]
    work()
    for helper in helpers:
        helper.join()
    if failures:
        raise failures[min(failures)]
    return [results[number] for number in range(len(calls))]
