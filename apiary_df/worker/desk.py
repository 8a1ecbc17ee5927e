"""The orders of a node: attempts that it was asked to make, from their arrival to their end.

What belongs here: what is waiting and running, which slots are taken, and bees that wait for an order. Which order is
next is decided by :mod:`apiary_df.worker.turns`; what an order means is :mod:`apiary_df.worker.attempts`'s business.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from apiary_df.host import Event, Host
from apiary_df.model import TaskKey
from apiary_df.protocol.messages import Mail, TaskMail
from apiary_df.worker.turns import Turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An attempt that a node was asked to make.

    Attributes:
        query_id: The query.
        sender: The session that wants it.
        mail: The task.
        received_s: When it came, by the node's clock.
        deadline_s: When its query's time is up, by the node's clock; None if it has no deadline.
        stopped: Raised when nobody wants this attempt any more, whatever becomes of its query; None if that cannot be.
        slots: Slots that it takes: so many bees' shares of the node's memory are its own.
        letter: What it came in, which may tell of the query as well.
    """

    query_id: str
    sender: str
    mail: TaskMail
    received_s: float
    slots: int = 1
    deadline_s: float | None = None
    stopped: Event | None = None
    letter: Mail | None = None

    @property
    def key(self) -> TaskKey:
        """The attempt."""
        return TaskKey(
            query_id=self.query_id, stage=self.mail.spec.stage, task=self.mail.spec.task, attempt=self.mail.attempt
        )


class Desk:
    """Orders that wait for a bee, and those that bees work on. Thread-safe.

    An order of several slots is given to one bee, and keeps others idle until it is done.

    Args:
        host: Where bees wait.
        slots: Slots of the node, as many as it has bees.
    """

    def __init__(self, host: Host, slots: int) -> None:
        self._host = host
        self._slots = slots
        self._lock = host.lock()
        self._turns: Turns[Order] = Turns()
        self._waiting: dict[TaskKey, Order] = {}
        self._running: dict[TaskKey, Order] = {}
        self._idle: deque[Event] = deque()
        self._closed = False

    def add(self, order: Order) -> None:
        """Take an order on; one that is waiting or running already is not taken on again."""
        with self._lock:
            if order.key in self._waiting or order.key in self._running:
                return
            # Whoever asks for more slots than there are gets all.
            order = replace(order, slots=max(1, min(order.slots, self._slots)))
            self._waiting[order.key] = order
            self._turns.add(order, session=order.sender, query=order.query_id, slots=order.slots)
            self._wake_one()

    def close(self) -> None:
        """Send bees home: those that ask for an order when none is waiting get none any more."""
        with self._lock:
            self._closed = True
            self._wake_all()

    def next(self) -> Order | None:
        """Wait for an order and return it, now running; None if there will be none."""
        while True:
            with self._lock:
                order = self._turns.take(self._slots - sum(taken.slots for taken in self._running.values()))
                if order is not None:
                    self._running[order.key] = self._waiting.pop(order.key)
                    # Slots may have fallen free in numbers; each bee that gets something looks after one more.
                    self._wake_one()
                    return order
                if self._closed and not self._waiting:
                    self._wake_all()
                    return None
                woken = self._host.event()
                self._idle.append(woken)
            woken.wait()

    def done(self, order: Order) -> None:
        """Note that an order has ended, however it did."""
        with self._lock:
            self._running.pop(order.key, None)
            self._wake_one()

    def drop(self, query_id: str) -> int:
        """Forget the orders of a query that wait, and return how many; those that bees work on are to be done."""
        with self._lock:
            dropped = [key for key in self._waiting if key.query_id == query_id]
            for key in dropped:
                self._turns.drop(session=self._waiting.pop(key).sender, query=query_id)
            self._wake_one()
        return len(dropped)

    def stop(self, key: TaskKey) -> None:
        """Let an attempt be given up, if it waits or runs here. A bee takes it in its turn, and is done at once."""
        with self._lock:
            order = self._running.get(key) or self._waiting.get(key)
        if order is not None and order.stopped is not None:
            order.stopped.set()

    def overdue(self, now_s: float) -> set[str]:
        """Return the queries whose time is up."""
        with self._lock:
            orders = (*self._running.values(), *self._waiting.values())
            return {o.query_id for o in orders if o.deadline_s is not None and o.deadline_s <= now_s}

    def size(self) -> int:
        """Return how many orders are waiting or running."""
        with self._lock:
            return len(self._waiting) + len(self._running)

    def queries(self) -> set[str]:
        """Return the queries whose orders are waiting or running."""
        with self._lock:
            return {key.query_id for key in (*self._running, *self._waiting)}

    def _wake_one(self) -> None:
        if self._idle and (self._waiting or self._closed):
            self._idle.popleft().set()

    def _wake_all(self) -> None:
        while self._idle:
            self._idle.popleft().set()
