"""The orders of a node: attempts that it was asked to make, from their arrival to their end.

What belongs here: which order a bee takes next, and what is waiting and running. What an order means is
:mod:`apiary_df.worker.attempts`'s business.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from apiary_df.host import Event, Host
from apiary_df.model import TaskKey
from apiary_df.protocol.messages import TaskMail


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An attempt that a node was asked to make.

    Attributes:
        query_id: The query.
        sender: The session that wants it.
        mail: The task.
        received_s: When it came, by the node's clock.
    """

    query_id: str
    sender: str
    mail: TaskMail
    received_s: float

    @property
    def key(self) -> TaskKey:
        """The attempt."""
        return TaskKey(
            query_id=self.query_id, stage=self.mail.spec.stage, task=self.mail.spec.task, attempt=self.mail.attempt
        )


class Desk:
    """Orders that wait for a bee, and those that bees work on. Thread-safe.

    Args:
        host: Where bees wait.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = host.lock()
        self._waiting: dict[TaskKey, Order] = {}
        self._running: dict[TaskKey, Order] = {}
        self._idle: deque[Event] = deque()
        self._closed = False

    def add(self, order: Order) -> None:
        """Take an order on; one that is waiting or running already is not taken on again."""
        with self._lock:
            if order.key in self._waiting or order.key in self._running:
                return
            self._waiting[order.key] = order
            if self._idle:
                self._idle.popleft().set()

    def close(self) -> None:
        """Send bees home: those that ask for an order when none is waiting get none any more."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.popleft().set()

    def next(self) -> Order | None:
        """Wait for an order and return it, now running; None if there will be none."""
        while True:
            with self._lock:
                if self._waiting:
                    key = next(iter(self._waiting))
                    order = self._running[key] = self._waiting.pop(key)
                    return order
                if self._closed:
                    return None
                woken = self._host.event()
                self._idle.append(woken)
            woken.wait()

    def done(self, order: Order) -> None:
        """Note that an order has ended, however it did."""
        with self._lock:
            self._running.pop(order.key, None)

    def size(self) -> int:
        """Return how many orders are waiting or running."""
        with self._lock:
            return len(self._waiting) + len(self._running)

    def queries(self) -> set[str]:
        """Return the queries whose orders are waiting or running."""
        with self._lock:
            return {key.query_id for key in (*self._running, *self._waiting)}
