"""Leases: how a session says that its queries are wanted, and how nodes notice that one no longer is.

A session renews the lease of each of its running queries. A query whose lease is gone is over; one whose lease does not
change any more has lost its session, as far as anybody can tell by its own clock. What belongs here: renewing and
watching. What is removed when is decided by :mod:`apiary_df.collect`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum

from apiary_df.collect import Stillness
from apiary_df.errors import ApiaryError, ObjectRefused
from apiary_df.host import SYSTEM, Event, Host
from apiary_df.protocol import keys
from apiary_df.protocol.messages import Lease
from apiary_df.protocol.storage import read_message, write_message
from apiary_df.store import Store

logger = logging.getLogger("apiary_df")

RELEASE_WAIT_S = 2.0
"""How long the end of a query waits for a renewal that is under way; one that takes longer is undone when it ends."""


@dataclass(slots=True, kw_only=True)
class _Held:
    """A lease that is being renewed."""

    query_id: str
    renewed_s: float
    seq: int = 0
    released: bool = False
    outlasts: bool = False
    lost: bool = False
    under_way: Event | None = field(default=None)


class LeaseKeeper:
    """Renews the leases of a session's running queries, all from one activity that ends when there are none.

    Costs a PUT for each query and heartbeat; a query that is shorter than a heartbeat has none renewed.

    Args:
        store: The swarm's root.
        coordinator: The session's id.
        beat_s: Seconds between two renewals.
        doubt_after_s: Seconds without a renewal after which others may have taken the session for dead: the lease is
            looked for before it is written again, so that a query which was removed meanwhile does not come back.
        host: The clock, and where the activity runs.
    """

    def __init__(
        self, store: Store, coordinator: str, *, beat_s: float, doubt_after_s: float, host: Host = SYSTEM
    ) -> None:
        self._store = store
        self._coordinator = coordinator
        self._beat_s = beat_s
        self._doubt_after_s = doubt_after_s
        self._host = host
        self._lock = host.lock()
        self._held: dict[str, _Held] = {}
        self._runs = False

    def hold(self, query_id: str) -> None:
        """Begin to renew the lease of a query, which has just been written for the first time."""
        with self._lock:
            self._held[query_id] = _Held(query_id=query_id, renewed_s=self._host.now_s())
            if self._runs:
                return
            self._runs = True
        self._host.start("leases", self._run)

    def is_lost(self, query_id: str) -> bool:
        """Whether a query that is held was found to have been removed by others."""
        with self._lock:
            held = self._held.get(query_id)
            return held is not None and held.lost

    def release(self, query_id: str) -> None:
        """Renew a query's lease no more; the lease is the caller's to remove after this.

        A renewal under way ends before this returns; if it takes too long, it is undone when it ends.
        """
        with self._lock:
            held = self._held.pop(query_id, None)
            if held is None:
                return
            held.released = True
            under_way = held.under_way
        if under_way is not None and not under_way.wait(RELEASE_WAIT_S):
            with self._lock:
                held.outlasts = True

    def _run(self) -> None:
        while True:
            self._host.sleep(self._beat_s)
            with self._lock:
                waiting = [held for held in self._held.values() if not held.lost]
                if not self._held:
                    self._runs = False
                    return
            for held in waiting:
                self._renew(held)

    def _renew(self, held: _Held) -> None:
        done = self._host.event()
        with self._lock:
            if held.released:
                return
            held.under_way = done
        try:
            self._write(held)
        except ApiaryError as error:
            logger.warning("cannot renew the lease of query %s: %s", held.query_id, error)
        finally:
            with self._lock:
                held.under_way = None
                outlasts = held.outlasts
            if outlasts:
                self._undo(held)
            done.set()

    def _write(self, held: _Held) -> None:
        key = keys.lease(held.query_id)
        now_s = self._host.now_s()
        if now_s - held.renewed_s > self._doubt_after_s and self._store.get_or_none(key) is None:
            held.lost = True
            return
        held.seq += 1
        write_message(self._store, key, Lease(query_id=held.query_id, coordinator=self._coordinator, seq=held.seq))
        held.renewed_s = now_s

    def _undo(self, held: _Held) -> None:
        try:
            self._store.delete([keys.lease(held.query_id)])
        except ApiaryError as error:
            logger.warning("cannot remove the lease of query %s, which has ended: %s", held.query_id, error)


class Lapse(Enum):
    """Why a query is not worked on any more."""

    OVER = "over"
    SILENT = "silent"
    LATE = "late"


class LeaseWatch:
    """Watches the leases of the queries that a node works on. Holds no clock: times are arguments.

    Costs a GET for each query and look.

    Args:
        store: The swarm's root.
        dead_after_s: Seconds without a new lease after which a session is taken for dead.
        most_gap_s: What counts at most of the time between two looks: a node that was stopped itself judges nobody.
    """

    def __init__(self, store: Store, *, dead_after_s: float, most_gap_s: float) -> None:
        self._store = store
        self._dead_after_s = dead_after_s
        self._still: Stillness[str] = Stillness(most_gap_s)

    def look(self, query_ids: Collection[str], now_s: float) -> dict[str, Lapse]:
        """Look at the leases once.

        Args:
            query_ids: Queries that are worked on.
            now_s: The observer's monotonic clock.

        Returns:
            Those that are not to be worked on any more: ``OVER`` if the lease is gone, ``SILENT`` if it has not
            changed for too long. A lease that cannot be read says nothing.
        """
        self._still.forget_others(set(query_ids))
        lapsed: dict[str, Lapse] = {}
        for query_id in query_ids:
            try:
                mark = self._mark(query_id)
            except ApiaryError as error:
                logger.warning("cannot look at the lease of query %s: %s", query_id, error)
                continue
            if mark is None:
                lapsed[query_id] = Lapse.OVER
            elif self._still.look(query_id, mark, now_s) >= self._dead_after_s:
                lapsed[query_id] = Lapse.SILENT
        return lapsed

    def _mark(self, query_id: str) -> object:
        """Return what changes when a lease is renewed; None if it is gone."""
        try:
            lease = read_message(self._store, keys.lease(query_id), Lease)
        except ObjectRefused:
            return "not the session's"  # which is to be silence, until the session writes over it
        return None if lease is None else lease.seq
