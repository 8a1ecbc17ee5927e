"""What a seed stands for: a swarm, what is asked of it, and what happens to it.

Values only; :mod:`tests.simulation.simulation` plays them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from apiary_df.config import Settings

from .shapes import SHAPES
from .storage import Faults

Trouble = Literal["kill", "stop", "cut off", "leave", "burst", "lose"]

MAX_HARMLESS = 3
"""Times that nodes may be hurt so that no task can run out of its four attempts by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """A node: its bees, and its clock."""

    bees: int
    offset_s: float
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryPlan:
    """A query, and what becomes of its reader.

    Attributes:
        shape: Which of :data:`tests.simulation.shapes.SHAPES`.
        cells: Cells of each table.
        after_s: When it is asked, after the session began.
        ending: ``all`` reads everything, ``close`` stops after a batch, ``cancel`` cancels after ``cancel_s``.
        cancel_s: See there.
        poisoned: A cell that no task can read; None if there is none.
        pause_s: How long its reader thinks about each batch.
    """

    shape: str
    cells: int
    after_s: float
    ending: Literal["all", "close", "cancel"] = "all"
    cancel_s: float = 0.0
    poisoned: int | None = None
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """A session: its queries run side by side."""

    queries: tuple[QueryPlan, ...]
    offset_s: float
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happens.

    Attributes:
        at_s: When.
        trouble: What.
        who: Whom: ``node i`` or ``session i``; nobody for a burst, and for a partial that the store loses.
        for_s: How long it lasts; for a kill, until the next incarnation begins (never, if 0).
    """

    at_s: float
    trouble: Trouble
    who: str = ""
    for_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """All that a seed decides beforehand.

    Attributes:
        kind: What is made hard, in a word.
        nodes: Nodes by number.
        sessions: Sessions by number.
        events: What happens, in order.
        faults: What the store does.
        settings: Of all processes.
        task_s: How long a task takes at most, as a rule.
        straggles: Chance that an attempt takes twenty times as long.
        exhausts: Chance that a task needs more memory than a bee has.
        listing_kind: What shells take the store for.
        same_ids: Whether a node's next incarnation has the same id.
    """

    kind: str
    nodes: tuple[NodePlan, ...]
    sessions: tuple[SessionPlan, ...]
    events: tuple[Event, ...]
    faults: Faults
    settings: Settings
    task_s: float
    straggles: float
    exhausts: float
    listing_kind: Literal["folder", "bucket"]
    same_ids: bool

    @property
    def must_answer(self) -> bool:
        """Whether every query that may end by itself has to end with its rows."""
        hurt = [event for event in self.events if event.who]
        return not (
            (self.faults.any and not self.faults.only_creates)
            or (self.exhausts and any(node.bees < 2 for node in self.nodes))
            or any(event.trouble == "burst" or event.who.startswith("session") for event in self.events)
            or len(hurt) > MAX_HARMLESS
        )

    @property
    def must_try_once(self) -> bool:
        """Whether nothing happens that would excuse a second attempt at any task."""
        clear = not self.events and (not self.faults.any or self.faults.only_creates)
        return clear and not (self.faults.slow or self.exhausts)


KINDS = {
    "calm": 2,
    "creates": 1,
    "stragglers": 1,
    "losses": 1,
    "lag": 1,
    "damage": 2,
    "bursts": 2,
    "sessions": 2,
    "store": 3,
    "everything": 3,
    "deaths": 4,
}
"""What is made hard, by how often."""


def scenario_of(seed: int) -> Scenario:
    """Return what a seed stands for."""
    random = Random(f"{seed} scenario")
    kind = random.choices(list(KINDS), list(KINDS.values()))[0]
    nodes = tuple(_node(random) for _ in range(random.randint(3 if kind == "stragglers" else 1, 4)))
    sessions = tuple(_session(random, kind) for _ in range(random.choice((1, 1, 1, 2))))
    readers = Random(f"{seed} readers")
    attached_bytes = Random(f"{seed} attached").choice((0, 1_500, 8 << 20))
    return Scenario(
        kind=kind,
        nodes=nodes,
        sessions=tuple(_read(session, readers) for session in sessions),
        events=tuple(sorted(_events(random, kind, len(nodes), len(sessions)), key=lambda event: event.at_s)),
        faults=_faults(random, kind),
        settings=replace(_settings(random), attached_partial_bytes=attached_bytes),
        task_s=random.choice((0.05, 0.5, 3.0)),
        straggles=0.25 if kind == "stragglers" else random.choice((0.0, 0.0, 0.1)),
        exhausts=random.choice((0.0, 0.0, 0.0, 0.2)),
        listing_kind=random.choice(("folder", "bucket")),
        same_ids=random.random() < 0.5,
    )


def _clock(random: Random) -> tuple[float, float]:
    return random.uniform(0.0, 1e6), random.choice((1.0, random.uniform(0.97, 1.03)))


def _node(random: Random) -> NodePlan:
    offset_s, rate = _clock(random)
    return NodePlan(bees=random.randint(1, 3), offset_s=offset_s, rate=rate)


def _session(random: Random, kind: str) -> SessionPlan:
    offset_s, rate = _clock(random)
    count = 1 if random.random() < 0.7 else 2
    return SessionPlan(queries=tuple(_query(random, kind) for _ in range(count)), offset_s=offset_s, rate=rate)


def _read(session: SessionPlan, random: Random) -> SessionPlan:
    """Return a session some of whose readers are slower than the tasks: rows go out before others are made."""
    queries = (replace(query, pause_s=random.choice((0.0, 0.0, 0.3, 3.0))) for query in session.queries)
    return replace(session, queries=tuple(queries))


def _query(random: Random, kind: str) -> QueryPlan:
    plan = QueryPlan(
        shape=random.choice(list(SHAPES)),
        cells=random.randint(2, 6),
        after_s=random.uniform(0.0, 2.0),
    )
    chance = random.random()
    if chance < 0.06:
        return replace(plan, ending="close")
    if chance < 0.14:
        return replace(plan, ending="cancel", cancel_s=random.uniform(0.0, 8.0))
    if chance < 0.20 and plan.shape != "sorted":
        return replace(plan, poisoned=random.randrange(plan.cells))
    return plan


def _events(random: Random, kind: str, nodes: int, sessions: int) -> list[Event]:
    events: list[Event] = []
    if kind in {"deaths", "everything"}:
        # In half of the worlds the first node is left alone, so that the rest of the swarm can be lost.
        spared = random.choice((0, 1))
        for _ in range(random.randint(1, 4)):
            trouble: Trouble = random.choice(("kill", "kill", "kill", "stop", "cut off", "leave"))
            if nodes > spared:
                who = f"node {random.randrange(spared, nodes)}"
                lasts_s = random.choice((0.0, random.uniform(0.1, 20.0)))
                if trouble != "kill":
                    lasts_s = random.uniform(0.1, 25.0)
                events.append(Event(at_s=random.uniform(1.0, 12.0), trouble=trouble, who=who, for_s=lasts_s))
    if kind in {"sessions", "everything"} and (kind == "sessions" or random.random() < 0.3):
        trouble = random.choice(("kill", "kill", "stop", "cut off"))
        who = f"session {random.randrange(sessions)}"
        lasts_s = random.choice((random.uniform(0.1, 10.0), random.uniform(10.0, 90.0)))
        events.append(Event(at_s=random.uniform(0.5, 12.0), trouble=trouble, who=who, for_s=lasts_s))
    if kind in {"bursts", "everything"}:
        for _ in range(random.randint(1, 2)):
            events.append(Event(at_s=random.uniform(0.5, 12.0), trouble="burst", for_s=random.uniform(0.2, 15.0)))
    if kind == "losses":
        for _ in range(random.randint(1, 2)):
            events.append(Event(at_s=random.uniform(1.0, 10.0), trouble="lose"))
    return events


def _faults(random: Random, kind: str) -> Faults:
    faults = Faults(latency_s=random.choice((0.002, 0.02, 0.1)), slow=random.choice((0.0, 0.0, 0.01)))
    rate = random.choice((0.005, 0.02, 0.08))
    if kind == "creates":
        return replace(faults, only_creates=True, slow=0.0, lost_reply=0.4, late=0.05, lost_request=0.03)
    if kind in {"store", "everything"}:
        lost, reply, late = (random.choice((0.0, rate)) for _ in range(3))
        faults = replace(faults, lost_request=lost, lost_reply=reply, late=late, half_delete=random.choice((0.0, 0.3)))
    if kind in {"damage", "everything"}:
        faults = replace(faults, torn=random.choice((0.0, 0.05, 0.3)), misread=random.choice((0.0, 0.05)))
    if kind in {"lag", "everything"}:
        faults = replace(faults, lag=random.choice((0.2, 0.8)))
    return faults


def _settings(random: Random) -> Settings:
    heartbeat_s = random.choice((1.0, 2.0))
    return Settings(
        heartbeat_s=heartbeat_s,
        suspect_after_s=heartbeat_s * 2.5,
        dead_after_s=heartbeat_s * 5,
        gc_grace_s=heartbeat_s * 8,
        node_gc_s=heartbeat_s * 10,
        allow_roots="file:///",
        poll_min_s=0.05,
        poll_max_s=random.choice((0.5, 2.0)),
        timeout_s=random.choice((240.0, 240.0, 240.0, 12.0)),
        small_bytes=0,
        min_task_bytes=random.choice((0, 0, 2_000)),
        finish_here_bytes=random.choice((0, 0, 3_000, 1 << 30)),
        # Of the world's machine, not of the one that runs it.
        finish_here_threads=4,
        finish_here_part_bytes=0,
        key_filter_bytes=random.choice((0, 4 << 20)),
        broadcast_bytes=random.choice((0, 4 << 20)),
        skew_factor=random.choice((0, 5, 5)),
        compression="none",
        cache_bytes=0,
    )
