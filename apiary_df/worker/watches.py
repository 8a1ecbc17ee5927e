"""What a node keeps an eye on beside its work: the leases of queries that it works on, and what is left of lost ones.

What belongs here: when to look, and what follows for the node's orders. How a lease lapses is
:mod:`apiary_df.leases`'s business, what is removed :mod:`apiary_df.collect`'s.
"""

from __future__ import annotations

import logging

from apiary_df.collect import Limits
from apiary_df.collector import Collector
from apiary_df.config import Settings
from apiary_df.errors import ApiaryError
from apiary_df.host import Event, Host
from apiary_df.leases import Lapse, LeaseWatch
from apiary_df.store import Store
from apiary_df.worker.attempts import Attempts
from apiary_df.worker.desk import Desk

logger = logging.getLogger("apiary_df")

LEASE_LOOK_S = 0.1
"""Shortest time between two looks at leases where a look costs next to nothing."""

LEASE_LOOK_BUCKET_S = 0.75
"""The same where each look is paid for: cancelled work still stops within a second."""

LOOKS_A_DEATH = 4
"""Looks that a node must at least have had at a lease, spread over the time to death, to take a session for dead."""


def lease_look_s(settings: Settings, kind: str) -> float:
    """Return the seconds between a node's looks at a lease.

    Args:
        settings: The node's settings, filled in for the store.
        kind: What the store is.
    """
    return max(settings.poll_max_s or 0.0, LEASE_LOOK_BUCKET_S if kind == "bucket" else LEASE_LOOK_S)


class Watches:
    """A node's watches over queries.

    Args:
        store: The swarm's root.
        node_id: The node.
        settings: The node's settings, filled in for the store.
        desk: Its orders.
        attempts: What it knows of queries.
        gone: Raised when the node leaves.
        host: The clock.
    """

    def __init__(
        self,
        store: Store,
        node_id: str,
        settings: Settings,
        *,
        desk: Desk,
        attempts: Attempts,
        gone: Event,
        host: Host,
    ) -> None:
        self._node_id = node_id
        self._desk = desk
        self._attempts = attempts
        self._gone = gone
        self._host = host
        dead_after_s = settings.dead_after_s or 1.0
        self._look_s = lease_look_s(settings, store.kind)
        self._leases = LeaseWatch(
            store, dead_after_s=dead_after_s, most_gap_s=max(dead_after_s / LOOKS_A_DEATH, self._look_s)
        )
        limits = Limits(grace_s=settings.gc_grace_s or dead_after_s, node_gc_s=max(settings.node_gc_s, dead_after_s))
        self._collector = Collector(store, limits, f"node {node_id}")

    def watch_leases(self) -> None:
        """Drop queries that are over, whose sessions are lost, or whose time is up, until the node leaves."""
        while not self._gone.wait(self._look_s):
            now_s = self._host.now_s()
            lapsed = dict.fromkeys(self._desk.overdue(now_s), Lapse.LATE)
            lapsed.update(self._leases.look(sorted(self._desk.queries()), now_s))
            for query_id, lapse in lapsed.items():
                dropped = self._desk.drop(query_id) + self._attempts.drop(query_id)
                if dropped and lapse is not Lapse.OVER:
                    logger.warning("node %s drops query %s: %s", self._node_id, query_id, _WHY[lapse])

    def collect(self) -> None:
        """Remove what lost sessions and dead nodes have left, until the node leaves."""
        while not self._gone.wait(self._collector.look_s):
            try:
                self._collector.look(self._host.now_s())
            except ApiaryError as error:
                logger.warning("node %s cannot look for lost queries: %s", self._node_id, error)


_WHY = {
    Lapse.SILENT: "its session does not renew the lease any more",
    Lapse.LATE: "its deadline has passed",
}
