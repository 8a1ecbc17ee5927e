"""One storm over one swarm, from the first node to the last judgement."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apiary_df import SessionContext, Settings
from apiary_df.store import Store, open_store

from .nodes import Supervisor, environ_for
from .places import a_place, stray_objects
from .sessions import DoomedSession, Outcome, Session
from .storm import Storm
from .work import make_work

FORCED: Mapping[str, Any] = {"small_bytes": 0, "finish_here_bytes": 0, "min_task_bytes": 0}
"""Settings under which nothing is too small to be distributed."""

SETTLED_S = 60.0
"""After a storm, nodes are idle and the root is clean within this time, beside the grace period of lost queries."""

GRACE_DEATHS = 4.0
"""Grace period of what lost sessions and dead nodes leave, as a multiple of ``dead_after_s``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A storm and what it falls upon.

    Attributes:
        storage: ``folder`` or ``s3``.
        nodes: Nodes of the swarm.
        sessions: Sessions that work at the same time.
        doomed: Whether one more session works, in a process of its own that is killed now and then.
        kills: SIGKILLs after which it is over.
        seed: Where everything is drawn from.
        gap_s: Mean time between two blows, in seconds.
        minutes: Time after which it is over in any case; None is never.
        dead_after_s: Silence after which a node is dead, in seconds.
        deadline_s: Time that a query may take, in seconds; what takes longer is stuck.
        scale: TPC-H scale.
        parts: Files of each table.
        only: Numbers of the TPC-H queries that are asked; none means all.
    """

    storage: str = "folder"
    nodes: int = 3
    sessions: int = 3
    doomed: bool = True
    kills: int = 200
    seed: int = 1
    gap_s: float = 2.0
    minutes: float | None = None
    dead_after_s: float = 2.5
    deadline_s: float = 180.0
    scale: float = 0.02
    parts: int = 4
    only: frozenset[int] = frozenset()

    def settings(self) -> Settings:
        """Return the settings of sessions and nodes: ``max_attempts`` and the like are as users have them."""
        return Settings().with_overrides(
            heartbeat_s=self.dead_after_s / 4,
            suspect_after_s=self.dead_after_s / 2,
            dead_after_s=self.dead_after_s,
            timeout_s=self.deadline_s,
            gc_grace_s=self.dead_after_s * GRACE_DEATHS,
            node_gc_s=self.dead_after_s * GRACE_DEATHS,
            **FORCED,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a storm did and what came of it.

    Attributes:
        plan: The storm.
        blows: What happened, by kind; ``SIGKILL`` counts all that were sent to nodes that ran.
        restarts: Nodes that were started in place of others.
        outcomes: What became of each errand.
        faults: Everything that is not as it should be; empty if all is well.
        seconds: What it took in all.
    """

    plan: Plan
    blows: Mapping[str, int]
    restarts: int
    outcomes: tuple[Outcome, ...]
    faults: tuple[str, ...]
    seconds: float

    def figures(self) -> dict[str, object]:
        """Return the figures as names and numbers."""
        outcomes = self.outcomes
        return {
            "storage": self.plan.storage,
            "nodes": self.plan.nodes,
            "sessions": self.plan.sessions,
            "seed": self.plan.seed,
            "SIGKILLs": self.blows.get("SIGKILL", 0),
            "kills of all nodes at once": self.blows.get("kill all", 0),
            "SIGSTOPs": sum(self.blows.get(kind, 0) for kind in ("pause", "freeze", "bury")),
            "of them longer than dead_after_s": sum(self.blows.get(kind, 0) for kind in ("freeze", "bury")),
            "SIGTERMs": self.blows.get("leave", 0),
            "sessions killed": self.blows.get("kill session", 0),
            "restarts": self.restarts,
            "queries": len(outcomes),
            "of them writes": sum(1 for outcome in outcomes if outcome.errand == "copy"),
            "answers exact": sum(1 for outcome in outcomes if not outcome.fault),
            "distributed": sum(1 for outcome in outcomes if outcome.distributed),
            "tasks": sum(outcome.tasks for outcome in outcomes),
            "attempts that did not count": sum(outcome.repeated for outcome in outcomes),
            "of them lost with their node": sum(outcome.attempts.get("lost", 0) for outcome in outcomes),
            "speculative attempts": sum(outcome.speculative for outcome in outcomes),
            "queries with such attempts": sum(1 for outcome in outcomes if outcome.repeated),
            "finished by the session alone": sum(1 for outcome in outcomes if outcome.folded),
            "slowest query, s": round(max((outcome.seconds for outcome in outcomes), default=0.0), 2),
            "median query, s": round(_median([outcome.seconds for outcome in outcomes]), 2),
            "seconds": round(self.seconds, 1),
            "faults": len(self.faults),
        }

    def as_json(self) -> dict[str, object]:
        """Return everything."""
        return {
            "plan": {**asdict(self.plan), "only": sorted(self.plan.only)},
            "figures": self.figures(),
            "blows": dict(self.blows),
            "faults": list(self.faults),
            "outcomes": [asdict(outcome) for outcome in self.outcomes],
        }


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def run_campaign(plan: Plan, folder: Path) -> Report:
    """Let a storm rage over a swarm that works, and judge what came of it.

    Args:
        plan: The storm.
        folder: An empty folder for data, logs and, of a swarm on a folder, its root.
    """
    started_s = time.monotonic()
    settings = plan.settings()
    faults: list[str] = []
    with ExitStack() as stack:
        place, options = stack.enter_context(a_place(plan.storage, folder))
        work = make_work(folder / "tpch", place, options, scale=plan.scale, parts=plan.parts, only=plan.only)
        root = open_store(f"{place.url}/root", options)
        logs = folder / "logs"
        logs.mkdir()
        allowed = folder.as_uri() if plan.storage == "folder" else place.url
        supervisor = Supervisor(root, options, settings, nodes=plan.nodes, folder=logs, allowed=allowed)
        stack.callback(supervisor.close)
        over = [False]

        def open_session() -> SessionContext:
            return SessionContext(storage=root.url, storage_options=options, settings=settings)

        def still_needed() -> bool:
            stuck = [words for session in sessions if (words := session.stuck(plan.deadline_s * 1.5))]
            late = plan.minutes is not None and time.monotonic() - started_s > plan.minutes * 60
            return not stuck and not late and not supervisor.faults

        environ = environ_for(settings, options)
        doomed = DoomedSession(root.url, environ, work, plan.only, plan.seed) if plan.doomed else None
        storm = Storm(
            supervisor,
            seed=plan.seed,
            kills=plan.kills,
            gap_s=plan.gap_s,
            dead_after_s=plan.dead_after_s,
            still_needed=still_needed,
            doomed=doomed,
        )
        storm.calm()
        seeds = [plan.seed * 1_000 + number for number in range(plan.sessions)]
        sessions = [Session(open_session, work, seed, lambda: over[0]) for seed in seeds]
        storm.run()
        over[0] = True
        if doomed is not None:
            faults += [fault] if (fault := doomed.kill(restart=False)) else []
        for session in sessions:
            if not session.ended(plan.deadline_s * 1.5):
                faults.append(f"stuck: {session.busy_with}")
        with open_session() as ctx:
            faults += unsettled(ctx, root, supervisor)
        faults += supervisor.faults + storm.faults
        outcomes = tuple(outcome for session in sessions for outcome in session.outcomes)
        faults += [f"{outcome.errand}: {outcome.fault}" for outcome in outcomes if outcome.fault]
        return Report(
            plan=plan,
            blows=Counter(storm.blows),
            restarts=supervisor.restarts,
            outcomes=outcomes,
            faults=tuple(faults),
            seconds=time.monotonic() - started_s,
        )


def unsettled(ctx: SessionContext, root: Store, supervisor: Supervisor) -> list[str]:
    """Wait until nodes are idle, the root is clean and no dead node's child runs; return what is not so in time."""
    give_up_s = time.monotonic() + SETTLED_S + (ctx.settings.gc_grace_s or 0.0)
    while True:
        supervisor.tend()
        names = [node.name for node in supervisor.nodes if node is not None]
        busy = [f"{view.info.node_id} is busy" for view in ctx.nodes() if view.usable and view.info.bees_busy]
        strays = [f"left in the root: {key}" for key in stray_objects(root, names)]
        haunted = ["children of dead nodes still run"] if supervisor.haunted else []
        wrong = busy + strays + haunted
        if not wrong or time.monotonic() > give_up_s:
            return wrong
        time.sleep(0.1)
