"""The table: kinds of fault, places where they strike, and what is to come of each.

Everything that runs, and the page that people read, is made from :data:`PLACES`, :data:`KINDS` and :data:`EXPECTED`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from apiary_df.errors import ExecutionFailed, ResourcesExhausted
from apiary_df.schedule import MAX_ATTEMPTS, most_losses
from apiary_df.testing.faults import Fault, Request, What, disk_full

from .shapes import SHAPES

if TYPE_CHECKING:
    from .lab import Lab

MOST_LOSSES = most_losses(MAX_ATTEMPTS)
"""Attempts at a task that no node ever gets to begin."""

Before = Callable[["Lab", Fault], list[Fault]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A request of the protocol at which faults strike.

    Attributes:
        name: What happens there, for people.
        who: Who makes the request.
        request: Its kind; ``run`` is none, but the midst of a task.
        key: Pattern of its key.
        shapes: Shapes of query that come there.
        lying: Makes of a fault what lies in wait, if something has to go before for the request to be made.
        attached: Whether partials lie behind their commit records there.
        at: Where bytes are cut or flipped; see :class:`~apiary_df.testing.faults.Fault`.
    """

    name: str
    who: Literal["session", "node"]
    request: Request | Literal["run"]
    key: str
    shapes: tuple[str, ...] = tuple(SHAPES)
    lying: Before | None = None
    attached: bool = False
    at: float = 0.5

    @property
    def is_read(self) -> bool:
        """Whether the request changes nothing."""
        return self.request in ("get", "ranges", "list", "head")

    def fault(self, what: str, **more: object) -> Fault:
        """Return a fault that strikes here."""
        fields = {
            "request": self.request,
            "key": self.key,
            "process": f"{self.who}-*",
            "found": self.request == "get",
            "at": self.at,
        }
        return Fault(what=what, **{**fields, **more})  # type: ignore[arg-type]


def _after_an_error(_lab: Lab, fault: Fault) -> list[Fault]:
    """Let an attempt fail, so that there is an error report."""
    return [Fault(what="fail", request="put", key="*/partial_0_*", process="node-*"), fault]


def _after_a_beat(lab: Lab, fault: Fault) -> list[Fault]:
    """Let some time pass once tasks are sent, so that the session looks at heartbeats while it waits."""
    sent = Fault(what="act_after", request="create", key="_swarm/inbox/*", act=lambda *_: lab.host.jump(0.3))
    return [sent, fault]


def _after_the_commit(lab: Lab, fault: Fault) -> list[Fault]:
    """Let the fault strike what the first node that commits asks for next."""

    def arm(process: str, _key: str) -> None:
        one = fault.process if fault.process in lab.node_ids else process
        lab.faults.add(replace(fault, process=one))

    return [Fault(what="act_after", request="create", key="*/commit_0_*", process=fault.process, act=arm)]


_WRITES = ("write",)
_SHUFFLES = ("aggregate", "join")

IN_RECORD, IN_PARTIAL = 0.1, 0.82
"""Where a bit is flipped, of an object with a commit record and a partial, to strike the one or the other's rows."""

PLACES: Mapping[str, Place] = {
    place.name: place
    for place in (
        Place(name="journal written", who="session", request="put", key="_apiary_*/journal", shapes=_WRITES),
        Place(name="note written", who="session", request="put", key="_writes/*", shapes=_WRITES),
        Place(name="fragment written", who="session", request="put", key="*/stage_0.plan"),
        Place(name="lease written", who="session", request="put", key="*/lease.json"),
        Place(name="manifest written", who="session", request="put", key="*/manifest.json"),
        Place(name="mail sent", who="session", request="create", key="_swarm/inbox/*"),
        Place(name="mail read", who="node", request="get", key="_swarm/inbox/*"),
        Place(name="mail removed", who="node", request="delete", key="_swarm/inbox/*"),
        Place(name="manifest read", who="node", request="get", key="*/manifest.json"),
        Place(name="fragment read", who="node", request="get", key="*/stage_0.plan"),
        Place(name="partial read by a task", who="node", request="ranges", key="*/partial_*", shapes=_SHUFFLES),
        Place(name="partial written", who="node", request="put", key="*/partial_0_0_*"),
        Place(name="commit record created", who="node", request="create", key="*/commit_0_*"),
        Place(
            name="lease looked for after the commit",
            who="node",
            request="get",
            key="*/lease.json",
            lying=_after_the_commit,
        ),
        Place(name="error reported", who="node", request="put", key="*/error_0_*", lying=_after_an_error),
        Place(name="error report read", who="session", request="get", key="*/error_0_*", lying=_after_an_error),
        Place(name="commit record read", who="session", request="get", key="*/commit_0_*"),
        Place(name="heartbeat written", who="node", request="put", key="_swarm/nodes/*"),
        Place(name="heartbeats listed", who="session", request="list", key="_swarm/nodes*", lying=_after_a_beat),
        Place(name="heartbeat read", who="session", request="get", key="_swarm/nodes/*", lying=_after_a_beat),
        Place(name="partial read by the root", who="session", request="ranges", key="*/partial_*"),
        Place(
            name="partial read by the root once it has handed rows on",
            who="session",
            request="ranges",
            key="*/partial_0_1_*",
            shapes=("scan",),
        ),
        Place(
            name="record created with its partial behind it",
            who="node",
            request="create",
            key="*/commit_0_*",
            attached=True,
            at=IN_RECORD,
        ),
        Place(
            name="partial behind its record stored",
            who="node",
            request="create",
            key="*/commit_0_0_*",
            attached=True,
            at=IN_PARTIAL,
        ),
        Place(
            name="record read that has its partial behind it",
            who="session",
            request="get",
            key="*/commit_0_*",
            attached=True,
            at=IN_RECORD,
        ),
        Place(
            name="partial behind its record read by a task",
            who="node",
            request="ranges",
            key="*/commit_*",
            shapes=_SHUFFLES,
            attached=True,
        ),
        Place(
            name="partial behind its record read by the root",
            who="session",
            request="ranges",
            key="*/commit_*",
            attached=True,
        ),
        Place(
            name="partial behind its record read by the root once it has handed rows on",
            who="session",
            request="ranges",
            key="*/commit_0_1_*",
            shapes=("scan",),
            attached=True,
        ),
        Place(name="file published", who="session", request="move", key="*", shapes=_WRITES),
        Place(name="verdict created", who="session", request="create", key="_apiary_*/verdict", shapes=_WRITES),
        Place(name="manifest removed", who="session", request="delete", key="*/manifest.json", shapes=_WRITES),
        Place(name="note removed", who="session", request="delete", key="_writes/*", shapes=_WRITES),
        Place(name="objects removed", who="session", request="delete", key="*/partial_*"),
        Place(name="within a task", who="node", request="run", key=""),
    )
}

KINDS: Mapping[str, str] = {
    "once": "the request fails once, without effect",
    "for good": "it fails from then on, whoever makes it",
    "on one node": "it fails from then on, on one of the two nodes",
    "lost reply": "it has its effect, and fails",
    "disk full": "it fails with ENOSPC, once",
    "cut short": "half of what is read, or of what is stored, is missing, once",
    "bit flipped": "a bit of what is read, or of what is stored, is another, once",
    "not there": "what is read is not found, or what is written or deleted stays as it was, once",
    "node killed before": "the node dies there, before the request has any effect",
    "node killed after": "the node dies there, after it",
    "node paused": "the node stands still there for longer than `dead_after_s`, and goes on when the query has ended",
    "session killed": "the session dies there, before the request has any effect",
    "cancelled": "the user cancels there",
    "out of time": "the deadline passes there",
    "out of memory": "the bee's memory does not suffice, once",
    "bad data": "the data cannot be computed with",
}


def _made(lab: Lab, place: Place, kind: str) -> Fault | None:
    node = place.who == "node"
    acts: dict[str, tuple[What, Callable[[str, str], None], bool]] = {
        "node killed before": ("act", lab.kill, node),
        "node killed after": ("act_after", lab.kill, node),
        "node paused": ("act", lab.pause, node),
        "session killed": ("act", lab.kill_session, True),
        "cancelled": ("act", lab.cancel, True),
        "out of time": ("act", lab.pass_deadline, True),
    }
    if kind in acts:
        what, act, applies = acts[kind]
        return place.fault(what, act=act) if applies else None
    damages = {"cut short": "truncated", "bit flipped": "flipped", "not there": "missing"}
    if kind in damages:
        applies = place.request in ("get", "ranges", "put", "create")
        applies = applies or (kind == "not there" and place.request in ("list", "delete"))
        return place.fault(damages[kind]) if applies else None
    if kind == "lost reply":
        return None if place.is_read else place.fault("lost_reply")
    if kind == "disk full":
        return place.fault("fail", error=disk_full) if place.request in ("put", "create") else None
    if kind == "on one node":
        return place.fault("fail", times=None, process=lab.node_ids[0]) if node else None
    return place.fault("fail", times=1 if kind == "once" else None)


def lay(lab: Lab, place: Place, kind: str) -> tuple[Fault, ...]:
    """Return the faults of a cell, with what goes before them; none if there is no such fault at that place."""
    fault = None if place.request == "run" else _made(lab, place, kind)
    if fault is None:
        return ()
    return (fault,) if place.lying is None else tuple(place.lying(lab, fault))


def in_task(lab: Lab, kind: str) -> Callable[[str], None]:
    """Return what is done in the midst of the first task that runs, given its node; it may raise."""
    errors = {
        "out of memory": ResourcesExhausted("Resources exhausted, said by a test"),
        "bad data": ExecutionFailed("Divide by zero error, said by a test"),
    }
    acts: dict[str, Callable[[str, str], None]] = {
        "node killed before": lab.kill,
        "node paused": lab.pause,
        "session killed": lab.kill_session,
        "cancelled": lab.cancel,
        "out of time": lab.pass_deadline,
    }

    def strike(node: str) -> None:
        if kind in errors:
            raise errors[kind]
        acts[kind](node, "")
        lab.faults.check_alive(node)

    return strike


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is to come of a fault.

    Attributes:
        error: Code of the error that the user gets; empty for exact rows.
        cause: Code of the first cause, if the error is that a task failed.
        more: Attempts beyond one a task; None if that is the affected task's alone to say.
        more_by_shape: The same, for shapes where it differs.
        tries: Attempts at the affected task.
        names_key: Whether the error names the key of the request that was struck.
        collected: Whether nodes have to collect what is left.
    """

    error: str = ""
    cause: str = ""
    more: int | None = 0
    more_by_shape: Mapping[str, int | None] = field(default_factory=dict)
    tries: int | None = None
    names_key: bool = False
    collected: bool = False

    def extra(self, shape: str) -> int | None:
        """Attempts beyond one a task that a query of this shape makes; None if it is not fixed."""
        return self.more_by_shape.get(shape, self.more)

    def __str__(self) -> str:
        outcome = f"`{self.error}`" + (f" of `{self.cause}`" if self.cause else "") if self.error else "rows"
        parts = [outcome, *([f"{self.tries} {'try' if self.tries == 1 else 'tries'}"] if self.tries else [])]
        if self.more or self.more_by_shape:
            parts.append(", ".join([f"+{self.more}", *(f"+{n} ({shape})" for shape, n in self.more_by_shape.items())]))
        if self.more is None and not self.error:
            parts.append("as many more as the node had")
        return "; ".join([*parts, *(["nodes collect what is left"] if self.collected else [])])


def rows(more: int | None = 0, **by_shape: int | None) -> Expected:
    """Exact rows, after so many more attempts than tasks."""
    return Expected(more=more, more_by_shape=by_shape)


def error(code: str, *, names_key: bool = False) -> Expected:
    """An error that ends the query at once."""
    return Expected(error=code, more=None, names_key=names_key)


def failed(cause: str, tries: int, *, names_key: bool = True) -> Expected:
    """The affected task fails for good."""
    return Expected(error="task_failed", cause=cause, more=None, tries=tries, names_key=names_key)


def leaving(expected: Expected) -> Expected:
    """The same, but nodes have to collect what is left."""
    return replace(expected, collected=True)


_STOPPED = {"cancelled": error("query_cancelled"), "out of time": error("query_timeout")}
"""What comes of these wherever tasks are still to be done."""

_TOO_LATE = {"cancelled": rows(), "out of time": rows()}
"""What comes of them where the answer is complete."""

_DEATH = {kind: rows(1, join=2) for kind in ("node killed before", "node killed after", "node paused")}
"""What comes of a node's death while it has its first tasks: a join gives it one of either side."""

_REFUSED = {
    kind: error("storage_transient", names_key=True) for kind in ("once", "for good", "lost reply", "disk full")
}
"""What comes of requests without which a query cannot begin."""

_COMMITTED: Mapping[str, Expected] = {
    "session killed": leaving(rows()),
    **_STOPPED,
    **_DEATH,
    "node killed after": rows(0, aggregate=1, join=1),
    "once": rows(),
    "for good": failed("storage_transient", MAX_ATTEMPTS),
    "on one node": rows(1),
    "lost reply": rows(),
    "disk full": rows(),
    "cut short": rows(1),
    "bit flipped": rows(1),
    "not there": rows(1),
}
"""When a commit record is created, with its partial behind it or not."""

EXPECTED: Mapping[str, Mapping[str, Expected]] = {
    "journal written": {
        **_REFUSED,
        **_STOPPED,
        "cut short": rows(),
        "not there": rows(),
    },
    "note written": {**_REFUSED, **_STOPPED, "cut short": rows(), "not there": rows()},
    "fragment written": {
        "session killed": leaving(rows()),
        **_REFUSED,
        **_STOPPED,
        "cut short": failed("object_refused", MAX_ATTEMPTS),
        "bit flipped": failed("object_refused", MAX_ATTEMPTS),
        "not there": failed("object_missing", 1),
    },
    "lease written": {**_REFUSED, **_STOPPED, "cut short": rows(), "bit flipped": rows()},
    "manifest written": {
        "session killed": leaving(rows()),
        **_REFUSED,
        **_STOPPED,
        "cut short": failed("object_refused", MAX_ATTEMPTS),
        "bit flipped": failed("object_refused", MAX_ATTEMPTS),
        "not there": failed("no_alive_nodes", MOST_LOSSES, names_key=False),
    },
    "mail sent": {
        "session killed": leaving(rows()),
        **_STOPPED,
        "once": rows(),
        "for good": error("storage_transient", names_key=True),
        "lost reply": rows(),
        "disk full": rows(),
        "cut short": rows(1),
        "bit flipped": rows(1),
        "not there": rows(1),
    },
    "mail read": {
        "session killed": leaving(rows()),
        **_STOPPED,
        **_DEATH,
        "once": rows(),
        "for good": failed("no_alive_nodes", MOST_LOSSES, names_key=False),
        "on one node": rows(None),
        "cut short": rows(1),
        "bit flipped": rows(1),
        "not there": rows(),
    },
    "mail removed": {
        **_STOPPED,
        **_DEATH,
        **{kind: rows() for kind in ("once", "for good", "on one node", "lost reply", "not there")},
    },
    "manifest read": {
        **_STOPPED,
        **_DEATH,
        "once": rows(1),
        "for good": failed("storage_transient", MAX_ATTEMPTS),
        "on one node": rows(1, aggregate=2, join=3),
        "cut short": rows(1),
        "bit flipped": rows(1),
        "not there": rows(1),
    },
    "fragment read": {
        "session killed": leaving(rows()),
        **_STOPPED,
        **_DEATH,
        "once": rows(1),
        "for good": failed("storage_transient", MAX_ATTEMPTS),
        "on one node": rows(1),
        "cut short": rows(1),
        "bit flipped": rows(1),
        "not there": failed("object_missing", 1),
    },
    "partial read by a task": {
        **_STOPPED,
        **{kind: rows(1) for kind in _DEATH},
        "once": rows(1),
        "for good": failed("storage_transient", MAX_ATTEMPTS),
        "on one node": rows(1),
        "cut short": rows(),
        "bit flipped": rows(),
        "not there": rows(3),
    },
    "partial written": {
        "session killed": leaving(rows()),
        **_STOPPED,
        **_DEATH,
        "once": rows(1),
        "for good": failed("storage_transient", MAX_ATTEMPTS),
        "on one node": rows(1),
        "lost reply": rows(1),
        "disk full": rows(1),
        "cut short": rows(1, aggregate=3, join=3),
        "bit flipped": rows(1, aggregate=3, join=3),
        "not there": rows(1, aggregate=3, join=3),
    },
    "commit record created": _COMMITTED,
    "lease looked for after the commit": {
        **_STOPPED,
        "once": rows(),
        "for good": rows(),
        "on one node": rows(),
        "cut short": rows(),
        "node killed before": rows(0, aggregate=1, join=1),
        "node paused": rows(0, aggregate=1, join=1),
    },
    "error reported": {
        **_STOPPED,
        **{kind: rows(1) for kind in ("once", "for good", "lost reply", "disk full", "not there")},
        "node killed before": rows(1, join=2),
        "node killed after": rows(1, aggregate=2, join=2),
        "node paused": rows(1, join=2),
    },
    "error report read": {
        **_STOPPED,
        "once": rows(1),
        "for good": rows(1),
        "cut short": rows(1),
        "bit flipped": rows(1),
        "not there": rows(1),
    },
    "commit record read": {
        "session killed": leaving(rows()),
        **_STOPPED,
        "once": rows(),
        "for good": error("storage_transient", names_key=True),
        "cut short": rows(),
        "bit flipped": rows(),
        "not there": rows(),
    },
    "heartbeat written": {
        **{kind: rows() for kind in ("once", "for good", "on one node", "lost reply", "disk full", "cut short")},
        "bit flipped": rows(),
        "not there": rows(),
        **{kind: rows(None) for kind in _DEATH},
    },
    "heartbeats listed": {**_STOPPED, "once": rows(), "for good": rows(), "not there": rows(None)},
    "heartbeat read": {
        **_STOPPED,
        "once": rows(),
        "for good": rows(),
        "cut short": rows(),
        "bit flipped": rows(),
        "not there": rows(None),
    },
    "partial read by the root": {
        "session killed": leaving(rows()),
        **_STOPPED,
        "once": error("storage_transient", names_key=True),
        "for good": error("storage_transient", names_key=True),
        "cut short": rows(),
        "bit flipped": rows(),
        "not there": rows(1),
    },
    "partial read by the root once it has handed rows on": {
        "cut short": rows(),
        "bit flipped": rows(),
        "not there": rows(1),
    },
    "record created with its partial behind it": _COMMITTED,
    "partial behind its record stored": {
        "cut short": rows(1),
        "bit flipped": rows(1, aggregate=3, join=3),
    },
    "record read that has its partial behind it": {
        **_STOPPED,
        "once": rows(),
        "for good": error("storage_transient", names_key=True),
        "cut short": rows(),
        "bit flipped": rows(),
        "not there": rows(),
    },
    "partial behind its record read by a task": {
        **_STOPPED,
        **{kind: rows(1) for kind in _DEATH},
        "once": rows(1),
        "for good": failed("storage_transient", MAX_ATTEMPTS),
        "on one node": rows(1),
        "cut short": rows(),
        "bit flipped": rows(),
        "not there": rows(3),
    },
    "partial behind its record read by the root": {
        "session killed": leaving(rows()),
        **_STOPPED,
        "once": error("storage_transient", names_key=True),
        "for good": error("storage_transient", names_key=True),
        "cut short": rows(),
        "bit flipped": rows(),
        "not there": rows(1),
    },
    "partial behind its record read by the root once it has handed rows on": {
        "cut short": rows(),
        "bit flipped": rows(),
        "not there": rows(1),
    },
    "file published": {
        "session killed": leaving(rows()),
        **_TOO_LATE,
        **{kind: error("storage_transient", names_key=True) for kind in ("once", "for good", "lost reply")},
    },
    "verdict created": {
        "session killed": leaving(rows()),
        **_TOO_LATE,
        **{kind: rows() for kind in ("once", "lost reply", "disk full", "cut short", "not there")},
        "for good": error("storage_transient", names_key=True),
    },
    "manifest removed": {
        **_TOO_LATE,
        "once": rows(),
        "for good": leaving(rows()),
        "lost reply": rows(),
        "not there": rows(),
        "session killed": leaving(rows()),
    },
    "note removed": {
        **_TOO_LATE,
        "once": leaving(rows()),
        "for good": leaving(rows()),
        "lost reply": rows(),
        "not there": leaving(rows()),
    },
    "objects removed": {
        **_TOO_LATE,
        "once": leaving(rows()),
        "for good": leaving(rows()),
        "lost reply": rows(),
        "not there": leaving(rows()),
        "session killed": leaving(rows()),
    },
    "within a task": {
        "session killed": leaving(rows()),
        **_STOPPED,
        "out of memory": rows(1),
        "bad data": failed("execution_failed", 1, names_key=False),
        "node killed before": rows(1, join=2),
        "node paused": rows(1, join=2),
    },
}
"""Place to kind to what is to come of it. What is not here does not apply, or is another cell's twin."""
