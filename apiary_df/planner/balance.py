"""Which node has the least work for its idle bees: for work that lies nowhere in particular.

What belongs here: the choice of a node for a task that reads shuffle partitions, or cannot be divided. Cells, which may
be cached, are placed by ``placing``.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import TypeAlias

from apiary_df.model import NodeInfo

BUSY_BEES = 0.5
"""A node without an idle bee counts as one with half of one: its bees will be free some time."""

_Rank: TypeAlias = "tuple[float, float, str]"


class Balance:
    """Bytes that nodes were given, and which of them is to get the next.

    Asking and giving take a time that grows with the logarithm of the number of nodes, as long as what is given goes
    to the node that was asked for.

    Args:
        nodes: The nodes, each with at least one bee.
    """

    def __init__(self, nodes: Iterable[NodeInfo]) -> None:
        self._nodes = {node.node_id: node for node in nodes}
        self._given_bytes = dict.fromkeys(self._nodes, 0)
        self._queues: dict[bool, list[_Rank]] = {}

    def least_loaded(self, work_bytes: int) -> str:
        """Return the id of the node with the least bytes for each idle bee; among equals the least busy one.

        Where no bee is idle, the work itself counts as well: it would have to wait.

        Args:
            work_bytes: What the next task reads, in bytes.
        """
        if not self._queues:
            self._queues = {True: [], False: []}
            for node_id, node in self._nodes.items():
                self._queues[node.idle_bees > 0].append(self._rank(node_id))
            for queue in self._queues.values():
                heapq.heapify(queue)
        idle, busy = self._queues[True][:1], self._queues[False][:1]
        waiting = [(load + work_bytes, ratio, node_id) for load, ratio, node_id in busy]
        return min([*idle, *waiting])[-1]

    def give(self, node_id: str, given_bytes: int) -> None:
        """Note that a node was given work of so many bytes."""
        self._given_bytes[node_id] += given_bytes
        queue = self._queues.get(self._nodes[node_id].idle_bees > 0)
        if queue and queue[0][-1] == node_id:
            heapq.heapreplace(queue, self._rank(node_id))
        else:
            # Not the one that was asked for: ranks are found anew when somebody asks again.
            self._queues = {}

    def _rank(self, node_id: str) -> _Rank:
        node = self._nodes[node_id]
        load = self._given_bytes[node_id] / max(node.idle_bees, BUSY_BEES)
        return (load, node.bees_busy / node.bees_total, node_id)
