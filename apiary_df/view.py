"""The swarm as one session sees it: nodes by the freshness of their heartbeats, and the work that it gave them.

Heartbeats are some hundred milliseconds (on a bucket, seconds) old when they are read. Of its own work a session knows
better than they do: what it has sent, and what has come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from apiary_df.config import Settings
from apiary_df.errors import FunctionsRefused
from apiary_df.host import SYSTEM, Host
from apiary_df.model import NodeInfo, NodeState
from apiary_df.plan.functions import PythonFunction, names_of
from apiary_df.planner.board import some
from apiary_df.protocol.heartbeat import NodeObserver, NodeView, read_nodes, why_no_functions
from apiary_df.store import Store
from apiary_df.store_options import StoreOptions

UNHEARD_BEATS = 4
"""Heartbeats after which a node that was sent work and does not name it will never do it."""


@dataclass(slots=True)
class _Given:
    """What this session has given to a node."""

    tasks: int = 0
    next_mail: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Runners:
    """The nodes that run Python functions of a query.

    Attributes:
        nodes: These nodes.
        note: The functions, these nodes, and why which others are left out, for EXPLAIN.
        refusal: What to raise, if there is no such node.
    """

    nodes: tuple[NodeInfo, ...]
    note: str
    refusal: FunctionsRefused | None = None


class SwarmView:
    """Nodes under one storage root, as one session sees them. Thread-safe.

    Args:
        store: The root.
        node_id: The session's own id.
        settings: Settings, filled in for the store.
        store_options: How cells are reached.
        host: The machine.

    Raises:
        StorageUnreachable: If the root cannot be reached or written.
    """

    def __init__(
        self,
        store: Store,
        node_id: str,
        settings: Settings,
        store_options: StoreOptions | None = None,
        host: Host = SYSTEM,
    ) -> None:
        self.store = store
        self.node_id = node_id
        self.store_options = store_options
        self._settings = settings
        self._host = host
        self._lock = host.lock()
        self._given: dict[str, _Given] = {}
        self._own_queries: set[str] = set()
        self._views: tuple[NodeView, ...] = ()
        self._read_s = float("-inf")
        # The probe's time of writing is the store's clock: old heartbeats are old by it, whatever this clock says.
        self._observer = NodeObserver(
            suspect_after_s=settings.suspect_after_s or 2.0,
            dead_after_s=settings.dead_after_s or 5.0,
            store_now=store.check_writable(),
            now_s=host.now_s(),
        )

    def refresh(self) -> tuple[NodeView, ...]:
        """Read all heartbeats now.

        Raises:
            StorageError: If they cannot be read.
        """
        with self._lock:
            self._views = tuple(read_nodes(self.store, self._observer, self._host.now_s()))
            self._read_s = self._host.now_s()
            return self._views

    def refresh_if_due(self) -> bool:
        """Read all heartbeats if the last reading is older than a heartbeat; return whether it was."""
        with self._lock:
            if self._host.now_s() - self._read_s < (self._settings.heartbeat_s or 1.0):
                return False
            self.refresh()
            return True

    def nodes(self) -> tuple[NodeView, ...]:
        """Return all nodes, as of at most a heartbeat ago."""
        self.refresh_if_due()
        return self._views

    def node_infos(self, *, functions: bool = False) -> tuple[NodeInfo, ...]:
        """Return what the planner may know: usable nodes, with what this session gave them counted in.

        Args:
            functions: Only those that run this session's Python functions.
        """
        with self._lock:
            self.refresh_if_due()
            return tuple(
                self._adjusted(view)
                for view in self._views
                if view.usable and not (functions and why_no_functions(view.heartbeat))
            )

    def runners_of(self, functions: Sequence[PythonFunction]) -> Runners:
        """Return the nodes that run Python functions of this session, and what there is to say of that."""
        names = names_of(functions)
        fit = self.node_infos(functions=True)
        unfit = some([f"{v.info.node_id} ({why_no_functions(v.heartbeat)})" for v in self._unfit()])
        if any(node.bees_total for node in fit):
            left_out = f"; left out: {unfit}" if unfit else ""
            note = f"Python functions: {names}; on the nodes {some([node.node_id for node in fit])}{left_out}"
            return Runners(nodes=fit, note=note)
        refusal = FunctionsRefused(
            f"the query's tasks run Python functions ({names}), and no node may run them: {unfit}; start nodes with "
            "--allow-udfs, under this session's version of Python",
            functions=names,
        )
        return Runners(nodes=(), note=f"Python functions: {names}; on no node; left out: {unfit}", refusal=refusal)

    def _unfit(self) -> list[NodeView]:
        """Return the nodes that get work, but none with Python functions."""
        return [view for view in self.nodes() if view.usable and why_no_functions(view.heartbeat)]

    def _adjusted(self, view: NodeView) -> NodeInfo:
        info = view.info
        busy = self._given[info.node_id].tasks if info.node_id in self._given else 0
        if not self._own_queries.issuperset(view.heartbeat.queries):
            busy = max(busy, info.bees_busy)
        busy = min(info.bees_total, busy)
        return replace(info, bees_busy=busy, idle_bees=info.bees_total - busy)

    def is_dead(self, node_id: str) -> bool:
        """Whether a node's tasks must go to others: its heartbeat is gone, or has not changed for long."""
        with self._lock:
            states = {view.info.node_id: view.info.state for view in self._views}
            return states.get(node_id, NodeState.DEAD) is NodeState.DEAD

    def query_started(self, query_id: str) -> None:
        """Note that a query is this session's own."""
        with self._lock:
            self._own_queries.add(query_id)

    def works_on(self, node_id: str, query_id: str, *, since_s: float) -> bool:
        """Whether a node may be working on a query, as far as its heartbeat tells.

        Args:
            node_id: The node.
            query_id: The query.
            since_s: This process's monotonic clock when the node was sent work for it.

        Returns:
            False only if a heartbeat that was written well after that does not name the query.
        """
        settled_s = since_s + UNHEARD_BEATS * (self._settings.heartbeat_s or 1.0)
        with self._lock:
            for view in self._views:
                if view.info.node_id == node_id:
                    return self._read_s - view.age_s < settled_s or query_id in view.heartbeat.queries
        return True

    def next_mail(self, node_id: str) -> int:
        """Return the number that the next mail to a node should have."""
        with self._lock:
            announced = [view.heartbeat.inbox_next for view in self._views if view.info.node_id == node_id]
            return max([self._given.setdefault(node_id, _Given()).next_mail, *announced])

    def mail_sent(self, node_id: str, number: int, tasks: int) -> None:
        """Note that a mail with so many tasks was sent."""
        with self._lock:
            given = self._given.setdefault(node_id, _Given())
            given.next_mail = max(given.next_mail, number + 1)
            given.tasks += tasks

    def task_ended(self, node_id: str) -> None:
        """Note that a task sent to a node has ended, however it did."""
        with self._lock:
            given = self._given.setdefault(node_id, _Given())
            given.tasks = max(0, given.tasks - 1)
