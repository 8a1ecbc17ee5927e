"""Stepping a query in a thread of its own, so that its caller never waits for it longer than it wants to.

What a query waits for, native code deep in one batch or a store that does not answer, cannot be broken off from Python.
Who reads can: at the deadline, or when interrupted, it stops waiting, and the thread ends the query by itself once what
it waits for comes back. What belongs here knows nothing of queries but their batches.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from apiary_df.errors import ApiaryError, QueryTimeout

logger = logging.getLogger("apiary_df")

_Item = TypeVar("_Item")

END_WAIT_S = 5.0
"""How long who closes or interrupts a query waits for its clean-up; what takes longer is done in the background."""

LOOK_S = 0.5
"""Longest wait in one go: an interrupt that comes just before a wait begins is only noticed when that wait ends."""


class _Step:
    """What the reader asks of the thread."""


_NEXT, _CLOSE = _Step(), _Step()


def pumped(
    items: Generator[_Item, None, None],
    cancel: Callable[[], None],
    *,
    timeout_s: float | None,
    patience_s: float = 0.0,
    is_settled: Callable[[], bool] = lambda: False,
) -> Generator[_Item, None, None]:
    """Yield what a generator yields, stepped in a thread of its own, one item each time that one is asked for.

    The thread is started with the first item. When this generator is closed or dropped, the other one is closed.

    Args:
        items: What to step. It heeds ``cancel``, and best its deadline, in its own time.
        cancel: Asks ``items`` to end; may be called from any thread, and more than once.
        timeout_s: Time that all items together may take, in seconds; None is no limit.
        patience_s: Seconds beyond that in which ``items`` may end by themselves, with their own error.
        is_settled: Whether it is too late to cancel, asked after ``cancel``: then the end is waited for.

    Raises:
        QueryTimeout: If the time is up.
    """
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s + patience_s
    pump = _Pump(items)
    wait_s = END_WAIT_S
    try:
        while True:
            pump.ask()
            try:
                found = pump.answer(deadline_s)
            except queue.Empty:
                cancel()
                if not is_settled():
                    wait_s = 0.0
                    raise _overdue(timeout_s or 0.0) from None
                deadline_s = None
                found = pump.answer(None)
            if not found:
                return
            yield from found
    except (GeneratorExit, KeyboardInterrupt):
        cancel()
        raise
    finally:
        pump.end(wait_s)


def _overdue(timeout_s: float) -> QueryTimeout:
    return QueryTimeout(
        f"the query has not ended within timeout_s={timeout_s:g}. What it waits for (native code, or storage that does "
        "not answer) cannot be broken off: it is cancelled, and cleans up when that comes back",
        timeout_s=f"{timeout_s:g}",
    )


class _Pump(Generic[_Item]):
    """A thread that steps a generator."""

    def __init__(self, items: Generator[_Item, None, None]) -> None:
        self._items = items
        self._steps: queue.SimpleQueue[_Step] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[_Item, ...] | BaseException] = queue.SimpleQueue()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="query", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Ask for the next item."""
        self._steps.put(_NEXT)

    def answer(self, deadline_s: float | None) -> tuple[_Item, ...]:
        """Return the item that was asked for as a tuple of one, or an empty one at the end.

        Raises:
            queue.Empty: If it is not there by then.
            BaseException: What the generator raised.
        """
        while True:
            left_s = LOOK_S if deadline_s is None else deadline_s - time.monotonic()
            try:
                answer = self._answers.get(timeout=max(0.0, min(left_s, LOOK_S)))
                break
            except queue.Empty:
                if left_s <= 0:
                    raise
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def end(self, wait_s: float) -> None:
        """Have the generator closed, and wait for that so long."""
        self._steps.put(_CLOSE)
        # The garbage collector may drop a stream in any thread, this one included.
        if wait_s and threading.current_thread() is not self._thread:
            self._thread.join(wait_s)

    def _run(self) -> None:
        while self._steps.get() is _NEXT:
            try:
                item = next(self._items)
            except StopIteration:
                self._answers.put(())
                return
            except BaseException as error:  # noqa: BLE001 - handed on to whoever reads
                self._answers.put(error)
                return
            self._answers.put((item,))
            del item
        try:
            self._items.close()
        except ApiaryError as error:
            logger.warning("a query that nobody reads any more could not be ended well: %s", error)
