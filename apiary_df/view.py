"""The swarm as one session sees it: nodes by the freshness of their heartbeats, and the work that it gave them.

Heartbeats are some hundred milliseconds (on a bucket, seconds) old when they are read. Of its own work a session knows
better than they do: what it has sent, and what has come back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from apiary_df.bell import Bell
from apiary_df.config import Settings
from apiary_df.errors import FunctionsRefused, RootsRefused, StorageTransient
from apiary_df.host import SYSTEM, Host
from apiary_df.leases import LeaseKeeper
from apiary_df.model import NodeInfo, NodeState, TaskKey
from apiary_df.patience import Patience
from apiary_df.permits import outside
from apiary_df.plan.functions import PythonFunction, names_of
from apiary_df.planner.board import some
from apiary_df.protocol.heartbeat import NodeObserver, NodeView, read_nodes, why_no_functions
from apiary_df.roots import Place, Roots
from apiary_df.schedule import NodeSight
from apiary_df.store import Store
from apiary_df.store_options import StoreOptions
from apiary_df.worker.cell_cache import CellCache
from apiary_df.worker.workbench import Workbenches

UNHEARD_BEATS = 4
"""Heartbeats after which a node that has read mail, and does not name its query, will never do what it asks."""

UNREAD_BEATS = 40
"""The same of mail that it has not read by its own account: its inbox may be waiting while its heart beats."""

LOOKS_A_DEATH = 4
"""Looks that a session with a query under way must have had at a heartbeat, spread over the time to death, to take its
node for dead: one that was stopped itself, maybe with the whole machine, judges nobody.
"""


@dataclass(slots=True)
class _Given:
    """What this session has given to an incarnation of a node."""

    incarnation: str = ""
    tasks: int = 0
    next_mail: int = 0


@dataclass(frozen=True, slots=True)
class Doubt:
    """The first heartbeat of a node that was read after it was sent some work.

    Attributes:
        incarnation: The node's incarnation then.
        seq: The heartbeat's number.
    """

    incarnation: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Runners:
    """The nodes that may run a query.

    Attributes:
        nodes: These nodes.
        note: Why which others are left out, for EXPLAIN; empty if there is nothing to say.
        refusal: What to raise, if there is no such node.
    """

    nodes: tuple[NodeInfo, ...]
    note: str
    refusal: FunctionsRefused | RootsRefused | None = None


class SwarmView:
    """Nodes under one storage root, as one session sees them. Thread-safe.

    Attributes:
        leases: Renews the leases of the session's queries.
        workbenches: Lends engines of the session's own.

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
        self.cells = CellCache.of(settings, store_options)
        self.workbenches = Workbenches(store, settings, store_options, host=host)
        self._settings = settings
        self._host = host
        self._lock = host.lock()
        self._given: dict[str, _Given] = {}
        self._own_queries: set[str] = set()
        self._ended_queries: set[str] = set()
        self._bells: list[Bell] = []
        self._views: tuple[NodeView, ...] = ()
        self._by_id: dict[str, NodeView] = {}
        self._incarnations: dict[str, str] = {}
        self._judged: tuple[tuple[str, ...], Collection[Place | None], list[str]] = ((), (), [])
        # Whatever pace this session's own settings ask for, nodes judge a lease by theirs.
        usual_s = Settings().for_store(store.kind).heartbeat_s or 1.0
        self.leases = LeaseKeeper(
            store,
            node_id,
            beat_s=min(settings.heartbeat_s or usual_s, usual_s),
            doubt_after_s=settings.dead_after_s or 5.0,
            host=host,
        )
        self._read_s = float("-inf")
        self._looked_s = host.now_s()
        self._looks_on = False
        self._most_gap_s = max((settings.dead_after_s or 5.0) / LOOKS_A_DEATH, settings.heartbeat_s or 1.0)
        self._readings = 0
        self._patience = Patience(settings.dead_after_s or 0.0, host.now_s)
        # The probe's time of writing is the store's clock: old heartbeats are old by it, whatever this clock says.
        self._observer = NodeObserver(
            suspect_after_s=settings.suspect_after_s or 2.0,
            dead_after_s=settings.dead_after_s or 5.0,
            store_now=store.check_writable(),
            now_s=host.now_s(),
        )

    def close(self) -> None:
        """Give back what is kept from one query to the next. Queries may still run; closing twice does nothing."""
        self.workbenches.close()
        if self.cells is not None:
            self.cells.close()

    def refresh(self) -> tuple[NodeView, ...]:
        """Read all heartbeats now.

        Raises:
            StorageError: If they cannot be read.
        """
        with self._lock:
            now_s = self._host.now_s()
            if self._looks_on:
                self._observer.leave_out(max(0.0, now_s - self._looked_s - self._most_gap_s))
            self._looked_s, self._looks_on = now_s, self._is_at_work()
            self._views = tuple(read_nodes(self.store, self._observer, now_s, self._host))
            self._by_id = {view.info.node_id: view for view in self._views}
            self._read_s = self._host.now_s()
            self._readings += 1
            self._forget()
            return self._views

    def _is_at_work(self) -> bool:
        """Whether a query is under way, which has heartbeats read every so often; between queries nobody looks."""
        return bool(self._own_queries - self._ended_queries)

    def _forget(self) -> None:
        """Forget ended queries that no node names any more, and nodes that are gone."""
        named = {query_id for view in self._views for query_id in view.heartbeat.queries}
        over = {query_id for query_id in self._ended_queries if query_id not in named}
        self._ended_queries -= over
        self._own_queries -= over
        incarnations = {view.info.node_id: view.heartbeat.incarnation for view in self._views}
        self._incarnations.update(incarnations)
        self._given = {
            node_id: given
            for node_id, given in self._given.items()
            if node_id in incarnations and given.incarnation == incarnations[node_id]
        }

    def refresh_if_due(self) -> bool:
        """Read all heartbeats if the last reading is older than a heartbeat; return whether they were read.

        Raises:
            StorageTransient: If they could not be read for as long as it takes to hold a node for dead.
            StorageError: If the store refused.
        """
        with self._lock:
            if self._host.now_s() - self._read_s < (self._settings.heartbeat_s or 1.0):
                return False
            try:
                self.refresh()
            except StorageTransient as error:
                # What was read last goes on to hold for a while; the next one who asks tries again.
                if not self._readings:
                    raise
                self._patience.bear(error)
                return False
            self._patience.worked()
            return True

    def reading(self) -> int:
        """Return the number of the last reading of heartbeats, which is at most a heartbeat ago."""
        with self._lock:
            self.refresh_if_due()
            return self._readings

    def nodes(self) -> tuple[NodeView, ...]:
        """Return all nodes, as of at most a heartbeat ago."""
        self.refresh_if_due()
        return self._views

    def node_infos(self, *, functions: bool = False, places: Collection[Place | None] = ()) -> tuple[NodeInfo, ...]:
        """Return what the planner may know: usable nodes, with what this session gave them counted in.

        Args:
            functions: Only those that run this session's Python functions.
            places: Only those that may read and write there.
        """
        with self._lock:
            self.refresh_if_due()
            return tuple(map(self._adjusted, self._fit(self._views, functions, places)))

    def readers_of(self, places: Collection[Place | None]) -> Runners:
        """Return the nodes that may read and write what a query does, and what there is to say of that."""
        fit = self.node_infos(places=places)
        usable = [view for view in self.nodes() if view.usable]
        shut_out = self._shut_out(usable, places)
        unfit = [view for view in usable if view.heartbeat.allow_roots in shut_out]
        if not unfit:
            return Runners(nodes=fit, note="")
        missing = shut_out[unfit[0].heartbeat.allow_roots]
        left_out = some([view.info.node_id for view in unfit])
        note = f"not on the nodes {left_out}, which may not read or write {missing[0]}"
        if any(node.bees_total for node in fit):
            return Runners(nodes=fit, note=note)
        refusal = RootsRefused(
            f"the query's tasks read or write {some(missing)}, and no node may: {left_out} may use "
            f"{some(sorted(unfit[0].heartbeat.allow_roots)) or 'nothing'}; start nodes with --allow-root, or "
            "the setting allow_roots, for where the query's tables and the files that it writes lie",
            place=missing[0],
        )
        return Runners(nodes=(), note=note, refusal=refusal)

    def runners_of(self, functions: Sequence[PythonFunction], places: Collection[Place | None] = ()) -> Runners:
        """Return the nodes that run Python functions of this session, and what there is to say of that.

        Args:
            functions: The functions.
            places: What the nodes must be allowed to read and write besides.
        """
        names = names_of(functions)
        fit = self.node_infos(functions=True, places=places)
        unfit = some([f"{v.info.node_id} ({why_no_functions(v.heartbeat)})" for v in self._unfit()])
        if any(node.bees_total for node in fit):
            left_out = f"; left out: {unfit}" if unfit else ""
            note = f"Python functions: {names}; on the nodes {some([node.node_id for node in fit])}{left_out}"
            return Runners(nodes=fit, note=note)
        refusal = FunctionsRefused(
            f"the query's tasks run Python functions ({names}), and no node may run them: "
            f"{unfit or 'those that may cannot read its tables'}; start nodes with --allow-udfs, under this session's "
            "version of Python",
            functions=names,
        )
        return Runners(nodes=(), note=f"Python functions: {names}; on no node; left out: {unfit}", refusal=refusal)

    def _unfit(self) -> list[NodeView]:
        """Return the nodes that get work, but none with Python functions."""
        return [view for view in self.nodes() if view.usable and why_no_functions(view.heartbeat)]

    def _shut_out(
        self, views: Iterable[NodeView], places: Collection[Place | None]
    ) -> dict[tuple[str, ...], list[str]]:
        """Return the roots of nodes that do not allow all of these places, with those that they do not."""
        found: dict[tuple[str, ...], list[str]] = {}
        for urls in {view.heartbeat.allow_roots for view in views}:
            if (urls, places) != self._judged[:2]:
                # Schedules ask at every reading, of the same query for the same roots.
                self._judged = (urls, places, outside(places, Roots.announced(urls)))
            if missing := self._judged[2]:
                found[urls] = missing
        return found

    def _adjusted(self, view: NodeView) -> NodeInfo:
        info = view.info
        busy = self._given[info.node_id].tasks if info.node_id in self._given else 0
        if not self._own_queries.issuperset(view.heartbeat.queries):
            busy = max(busy, info.bees_busy)
        busy = min(info.bees_total, busy)
        return replace(info, bees_busy=busy, idle_bees=info.bees_total - busy)

    def sights(self, *, functions: bool = False, places: Collection[Place | None] = ()) -> tuple[NodeSight, ...]:
        """Return what a schedule may know: all nodes that live, as of the last reading.

        Args:
            functions: Those that do not run this session's Python functions are no use.
            places: Those that may not read and write there are no use.
        """
        with self._lock:
            return tuple(
                self._sight(view, usable=bool(self._fit([view], functions, places)))
                for view in self._views
                if view.info.state is not NodeState.DEAD
            )

    def _fit(self, views: Iterable[NodeView], functions: bool, places: Collection[Place | None]) -> list[NodeView]:
        usable = [view for view in views if view.usable]
        if functions:
            usable = [view for view in usable if not why_no_functions(view.heartbeat)]
        if places:
            shut_out = self._shut_out(usable, places)
            usable = [view for view in usable if view.heartbeat.allow_roots not in shut_out]
        return usable

    def _sight(self, view: NodeView, *, usable: bool) -> NodeSight:
        info = self._adjusted(view)
        return NodeSight(
            node_id=info.node_id,
            incarnation=view.heartbeat.incarnation,
            state=info.state,
            usable=usable,
            bees_total=info.bees_total,
            idle_bees=info.idle_bees,
            memory_per_bee=info.memory_per_bee,
        )

    def take_bell(self, prefix: str, beginnings: tuple[str, ...]) -> Bell:
        """Return a bell for whoever waits for objects below a prefix, to be given back.

        Args:
            prefix: Below which key; in a folder, something must lie there already.
            beginnings: How the last segments of keys begin that are waited for.
        """
        with self._lock:
            bell = self._bells.pop() if self._bells else Bell()
        folder = self.store.local_path(prefix.rstrip("/"))
        if folder is not None:
            bell.listen(folder, beginnings)
        return bell

    def give_back(self, bell: Bell) -> None:
        """Take a bell back that is not needed any more; the next query has it."""
        bell.silence()
        with self._lock:
            self._bells.append(bell)

    def query_started(self, query_id: str) -> None:
        """Note that a query is this session's own."""
        with self._lock:
            self._own_queries.add(query_id)

    def query_ended(self, query_id: str) -> None:
        """Note that a query of this session is over."""
        with self._lock:
            self._ended_queries.add(query_id)
            self._looks_on = self._looks_on and self._is_at_work()

    def doubts_about(self, node_id: str) -> Doubt | None:
        """Begin to watch whether a node names a query that it was just sent work of; None if it cannot be seen."""
        with self._lock:
            view = self._view_of(node_id)
            return None if view is None else Doubt(view.heartbeat.incarnation, view.heartbeat.seq)

    def has_forgotten(self, node_id: str, query_id: str, doubt: Doubt, mail_number: int) -> bool:
        """Whether a node knows nothing of work that it was sent, by what it has said since.

        Heartbeats are counted by the node's own numbers, from one that was read after the work was sent. However late
        this session reads them, it does not judge by its own clock.

        Args:
            node_id: The node.
            query_id: The query.
            doubt: From :meth:`doubts_about`, at a reading of heartbeats after the work was sent.
            mail_number: The mail that it was sent in.
        """
        with self._lock:
            view = self._view_of(node_id)
        if view is None or view.heartbeat.incarnation != doubt.incarnation or query_id in view.heartbeat.queries:
            return False
        beats = UNHEARD_BEATS if view.heartbeat.inbox_next > mail_number else UNREAD_BEATS
        return view.heartbeat.seq - doubt.seq >= beats

    def incarnation_of(self, node_id: str) -> str:
        """Return which life of a node its newest heartbeat was of; empty if none was ever read.

        A listing that lags may have left the node out since it was chosen.
        """
        with self._lock:
            return self._incarnations.get(node_id, "")

    def _view_of(self, node_id: str) -> NodeView | None:
        return self._by_id.get(node_id)

    def next_mail(self, node_id: str) -> int:
        """Return the number that the next mail to a node should have."""
        with self._lock:
            view = self._view_of(node_id)
            announced = 0 if view is None else view.heartbeat.inbox_next
            return max(self._given_to(node_id).next_mail, announced)

    def mail_sent(self, node_id: str, number: int, tasks: int) -> None:
        """Note that a mail with so many tasks was sent."""
        with self._lock:
            given = self._given_to(node_id)
            given.next_mail = max(given.next_mail, number + 1)
            given.tasks += tasks

    def task_ended(self, node_id: str) -> None:
        """Note that a task sent to a node has ended, however it did."""
        with self._lock:
            given = self._given_to(node_id)
            given.tasks = max(0, given.tasks - 1)

    def _given_to(self, node_id: str) -> _Given:
        if node_id not in self._given:
            view = self._view_of(node_id)
            self._given[node_id] = _Given("" if view is None else view.heartbeat.incarnation)
        return self._given[node_id]


@dataclass(slots=True)
class _Sent:
    """An attempt that a node was sent."""

    node_id: str
    mail_number: int
    reading: int
    doubt: Doubt | None = None


class GivenWork:
    """The attempts of one query that nodes have, and whether these know of them. Not thread-safe.

    Args:
        view: The swarm.
        query_id: The query.
    """

    def __init__(self, view: SwarmView, query_id: str) -> None:
        self._view = view
        self._query_id = query_id
        self._sent: dict[TaskKey, _Sent] = {}

    def sent(self, node_id: str, mail_number: int, keys: Collection[TaskKey]) -> None:
        """Note attempts that were sent in one mail."""
        self._view.mail_sent(node_id, mail_number, len(keys))
        reading = self._view.reading()
        for key in keys:
            self._sent[key] = _Sent(node_id, mail_number, reading)

    def settle(self, running: Iterable[TaskKey]) -> None:
        """Note that of all attempts that were sent only these are not over."""
        kept = set(running)
        for key in [key for key in self._sent if key not in kept]:
            self._view.task_ended(self._sent.pop(key).node_id)

    def forgotten(self) -> list[TaskKey]:
        """Return the attempts that live nodes know nothing of: these would never end.

        A node forgets an attempt by throwing away damaged mail, or when it could not record how it went. Outcomes
        must be looked for after the last reading of heartbeats and before this judgement is acted upon.
        """
        reading = self._view.reading()
        found: list[TaskKey] = []
        for key, sent in self._sent.items():
            if sent.doubt is None:
                if reading > sent.reading:
                    sent.doubt = self._view.doubts_about(sent.node_id)
            elif self._view.has_forgotten(sent.node_id, self._query_id, sent.doubt, sent.mail_number):
                found.append(key)
        return found
