"""Whose turn it is: the order in which waiting work is served, fair to sessions and to their queries.

Sessions take turns, and within a session its queries do, so that neither a session with a hundred queries nor a query
with a hundred tasks makes others wait for more than one turn each. Within a query, first come is first served. This is
packet scheduling's round robin by flows (Nagle, RFC 970), on two levels.

What belongs here: a pure data structure, without clock, lock or thread. Who waits for work is
:mod:`apiary_df.worker.desk`'s business.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

PASSED_OVER = 8
"""Times that wide work is passed over by what needs fewer slots; from then on, slots that fall free are kept for it.

Work is wide after it ran out of memory. Keeping slots at once would leave bees idle each time; never, would starve it.
"""


@dataclass(slots=True)
class _Entry(Generic[T]):
    """Something that waits."""

    item: T
    slots: int
    passed_over: int = 0


class Turns(Generic[T]):
    """Waiting work, by session and query. Not thread-safe.

    Free slots are never left idle while something waits that is the first of its query and fits, except those that are
    kept for wide work that was passed over :data:`PASSED_OVER` times.
    """

    def __init__(self) -> None:
        # Dicts keep the order in which keys were put in: who was served is taken out and put in again, behind the rest.
        self._sessions: dict[str, dict[str, deque[_Entry[T]]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, item: T, *, session: str, query: str, slots: int = 1) -> None:
        """Let something wait for its turn.

        Args:
            item: What waits.
            session: Who wants it.
            query: For which query.
            slots: Slots that it takes, >= 1.
        """
        self._sessions.setdefault(session, {}).setdefault(query, deque()).append(_Entry(item, slots))
        self._size += 1

    def take(self, free_slots: int) -> T | None:
        """Return what is to be served next, no longer waiting; None if nothing fits, or what is free is being kept.

        Args:
            free_slots: Slots that are free, >= 0.
        """
        passed: list[_Entry[T]] = []
        for session, queries in self._sessions.items():
            for query, entries in queries.items():
                first = entries[0]
                if first.slots <= free_slots:
                    for entry in passed:
                        entry.passed_over += 1
                    self._serve(session, query)
                    return first.item
                if first.passed_over >= PASSED_OVER:
                    return None
                passed.append(first)
        return None

    def drop(self, *, session: str, query: str) -> None:
        """Forget all that waits for a query of a session."""
        queries = self._sessions.get(session, {})
        self._size -= len(queries.pop(query, ()))
        if not queries:
            self._sessions.pop(session, None)

    def _serve(self, session: str, query: str) -> None:
        """Take out the first of a query; the query goes behind the session's others, the session behind all others."""
        queries = self._sessions.pop(session)
        entries = queries.pop(query)
        entries.popleft()
        self._size -= 1
        if entries:
            queries[query] = entries
        if queries:
            self._sessions[session] = queries
