"""Who is in the swarm, and how fresh: heartbeats read by one observer.

An observer never compares clocks of two machines. It notes by its own monotonic clock when a heartbeat's version
changed last. For a heartbeat that it sees for the first time it has no such note; then the store's clock serves: the
time at which the heartbeat was written against the time at which the observer wrote something itself.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter

import msgspec

from apiary_df.errors import ObjectDamaged, ObjectMissing, ObjectRefused
from apiary_df.host import SYSTEM, Host, together
from apiary_df.model import NodeInfo, NodeState
from apiary_df.protocol import keys, versions
from apiary_df.protocol.messages import Heartbeat, Versions, decode
from apiary_df.protocol.seal import unchecked_content
from apiary_df.protocol.storage import MAX_SIGN_BYTES, at_once, read_message
from apiary_df.store import ObjectMeta, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node as one observer sees it.

    Attributes:
        info: What the planner may know of it.
        heartbeat: Its newest heartbeat.
        age_s: Seconds since that changed, by the observer's clock.
        reason: Why it is given no work; empty if it may be.
    """

    info: NodeInfo
    heartbeat: Heartbeat
    age_s: float
    reason: str

    @property
    def usable(self) -> bool:
        """Whether it may be given work."""
        return not self.reason


@dataclass(slots=True)
class _Sighting:
    """When a heartbeat's version was first seen, by the observer's clock."""

    incarnation: str
    seq: int
    changed_s: float


class NodeObserver:
    """Tells how fresh heartbeats are. Holds no clock: times are arguments.

    Args:
        suspect_after_s: Seconds without change until a node gets no new work.
        dead_after_s: Seconds without change until its tasks go to others.
        store_now: The store's clock, read from something that this observer wrote just now.
        now_s: The observer's monotonic clock at that moment.
    """

    def __init__(self, *, suspect_after_s: float, dead_after_s: float, store_now: datetime, now_s: float) -> None:
        self._suspect_after_s = suspect_after_s
        self._dead_after_s = dead_after_s
        self._store_now = store_now
        self._store_now_s = now_s
        self._sightings: dict[str, _Sighting] = {}

    def observe(self, heartbeat: Heartbeat, written: datetime, now_s: float, unreadable: str = "") -> NodeView:
        """Take one heartbeat as it lies in storage, and return the node's view.

        Args:
            heartbeat: Its content.
            written: When it was written, by the store's clock.
            now_s: This observer's monotonic clock.
            unreadable: Why only its versions could be read, if so.
        """
        seen = self._sightings.get(heartbeat.node_id)
        if seen is None:
            # Its age on the store's clock, if that is to be believed; never younger than now.
            age_s = (self._store_now - written).total_seconds() + now_s - self._store_now_s
            seen = _Sighting(heartbeat.incarnation, heartbeat.seq, now_s - max(0.0, age_s))
            self._sightings[heartbeat.node_id] = seen
        if unreadable:
            # One that was damaged once is no other node: what it had is still its own.
            heartbeat = msgspec.structs.replace(heartbeat, incarnation=seen.incarnation)
        if (seen.incarnation, seen.seq) != (heartbeat.incarnation, heartbeat.seq):
            seen.incarnation, seen.seq, seen.changed_s = heartbeat.incarnation, heartbeat.seq, now_s
        age_s = now_s - seen.changed_s
        state = self._state(age_s)
        return NodeView(
            info=to_node_info(heartbeat, state),
            heartbeat=heartbeat,
            age_s=age_s,
            reason=_reason(heartbeat, state, age_s) or unreadable,
        )

    def leave_out(self, seconds: float) -> None:
        """Count so many seconds until now as none: the observer was not looking; nodes may have stood still with it."""
        for seen in self._sightings.values():
            seen.changed_s += seconds

    def forget_others(self, node_ids: Iterable[str]) -> None:
        """Forget nodes whose heartbeats are gone."""
        kept = set(node_ids)
        self._sightings = {node: seen for node, seen in self._sightings.items() if node in kept}

    def _state(self, age_s: float) -> NodeState:
        if age_s >= self._dead_after_s:
            return NodeState.DEAD
        return NodeState.SUSPECT if age_s >= self._suspect_after_s else NodeState.ALIVE


def to_node_info(heartbeat: Heartbeat, state: NodeState) -> NodeInfo:
    """Return what the planner may know of a node."""
    return NodeInfo(
        node_id=heartbeat.node_id,
        state=state,
        cores=heartbeat.cores,
        memory_bytes=heartbeat.memory_bytes,
        memory_per_bee=heartbeat.memory_per_bee,
        target_cell_size=heartbeat.target_cell_size,
        bees_total=heartbeat.bees_total,
        bees_busy=heartbeat.bees_busy,
        idle_bees=max(0, heartbeat.bees_total - heartbeat.bees_busy),
        cached_cells=heartbeat.cached_cells,
    )


def _reason(heartbeat: Heartbeat, state: NodeState, age_s: float) -> str:
    if state is not NodeState.ALIVE:
        return f"{state.value}: no new heartbeat for {age_s:.1f} s"
    differs = versions.difference(heartbeat.protocol_version, heartbeat.datafusion_version)
    if differs is not None:
        return f"another version: {differs}"
    return "leaving" if heartbeat.leaving else ""


def why_no_functions(heartbeat: Heartbeat) -> str:
    """Return why a node cannot be given Python functions of this process; empty if it can."""
    if not heartbeat.allow_udfs:
        return "it was not started with --allow-udfs"
    own = versions.python_version()
    if heartbeat.python_version != own:
        return f"it runs Python {heartbeat.python_version}, this session {own}"
    return ""


def _placeholder(store: Store, node_id: str, meta: ObjectMeta) -> Heartbeat:
    """Return what stands for a heartbeat that cannot be read: its versions as far as they are told, and no bees."""
    try:
        data = store.get(meta.key, MAX_SIGN_BYTES)
        known = decode(unchecked_content(data), Versions, meta.key)
    except (ObjectDamaged, ObjectMissing):
        # Nothing is known against its versions; that it is unreadable is reason enough.
        own = versions.datafusion_version()
        known = Versions(node_id=node_id, protocol_version=versions.PROTOCOL_VERSION, datafusion_version=own)
    return Heartbeat(
        node_id=node_id,
        seq=int(meta.last_modified.timestamp() * 1_000_000),  # changes when it is written again, like a real one
        protocol_version=known.protocol_version,
        datafusion_version=known.datafusion_version,
        apiary_version=known.apiary_version,
        hostname="",
        pid=0,
        cores=0,
        memory_bytes=0,
        memory_per_bee=0,
        target_cell_size=0,
        bees_total=0,
        bees_busy=0,
        cached_cells={},
        inbox_next=0,
        leaving=False,
        allow_udfs=False,
        queries=(),
        started_at="",
    )


def read_nodes(store: Store, observer: NodeObserver, now_s: float, host: Host = SYSTEM) -> list[NodeView]:
    """Read all heartbeats.

    Args:
        store: The swarm's root.
        observer: Who looks.
        now_s: The observer's monotonic clock.
        host: Where several heartbeats are read at a time.

    Returns:
        All nodes by id, those of other versions and those whose heartbeat is damaged among them, with the reason why
        they get no work.

    Raises:
        StorageError: If the store cannot be read.
    """
    found = [(node_id, meta) for meta in store.list(keys.NODES) if (node_id := keys.node_of_heartbeat(meta.key))]
    reads = [functools.partial(_read, store, node_id, meta) for node_id, meta in sorted(found, key=itemgetter(0))]
    views = [
        observer.observe(heartbeat, written, now_s, unreadable)
        for heartbeat, written, unreadable in together(host, reads, at_once(store))
        if heartbeat is not None
    ]
    observer.forget_others(view.heartbeat.node_id for view in views)
    return views


def _read(store: Store, node_id: str, meta: ObjectMeta) -> tuple[Heartbeat | None, datetime, str]:
    """Return a heartbeat, None if it is gone; when it was written; and why it cannot be read."""
    try:
        return read_message(store, meta.key, Heartbeat), meta.last_modified, ""
    except ObjectRefused as error:
        return _placeholder(store, node_id, meta), meta.last_modified, f"its heartbeat cannot be read: {error}"
