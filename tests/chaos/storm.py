"""What hits the nodes, and when: drawn from a seed.

A storm waits between two blows for a random time, and until another node than the one that it is about to hit is ready:
so that machines of any speed meet the same storm. Some blows hit all nodes at once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from .nodes import Supervisor
from .sessions import DoomedSession

BLOWS: dict[str, int] = {"kill": 12, "pause": 3, "freeze": 3, "bury": 2, "leave": 3, "kill all": 1, "kill session": 3}
"""Kind of blow to how often it comes, relatively.

- ``kill``: SIGKILL.
- ``pause``: SIGSTOP for less time than makes a node dead, then SIGCONT.
- ``freeze``: SIGSTOP for longer, then SIGCONT: a node that comes back when its tasks have gone to others.
- ``bury``: SIGSTOP for some time, then SIGKILL.
- ``leave``: SIGTERM.
- ``kill all``: SIGKILL to every node at once.
- ``kill session``: SIGKILL to a session that asks, in place of a node.
"""

LOOK_S = 0.05
"""Time between two looks of the supervisor."""

READY_S = 60.0
"""A storm waits no longer than this for another node to be ready."""


@dataclass
class Storm:
    """One storm over a supervisor's nodes.

    Attributes:
        supervisor: The nodes.
        seed: Where everything is drawn from.
        kills: SIGKILLs after which it is over.
        gap_s: Mean time between two blows, in seconds.
        dead_after_s: Time after which a silent node is dead to others.
        still_needed: Asked between two blows; the storm ends when it says no.
        doomed: The session that is killed now and then; None is no such session.
        faults: What was not as it should be.
        blows: What happened, by kind.
    """

    supervisor: Supervisor
    seed: int
    kills: int
    gap_s: float
    dead_after_s: float
    still_needed: Callable[[], bool] = lambda: True
    doomed: DoomedSession | None = None
    blows: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    _resumes: list[tuple[float, int, str]] = field(default_factory=list)

    def run(self) -> None:
        """Rage until enough nodes were killed."""
        random = Random(self.seed)
        places = len(self.supervisor.nodes)
        while self.blows["SIGKILL"] < self.kills and self.still_needed():
            self._wait(random.expovariate(1 / self.gap_s))
            kind = random.choices(list(BLOWS), list(BLOWS.values()))[0]
            place = random.randrange(places)
            self._wait_for_another(place)
            self._strike(kind, place, random)
        self.calm()

    def calm(self) -> None:
        """Let all go on that are stopped, and bring the swarm to its full strength."""
        self._resumes.sort()
        while self._resumes:
            self._wait(max(0.0, self._resumes[0][0] - time.monotonic()))
        give_up_s = time.monotonic() + READY_S
        nodes = range(len(self.supervisor.nodes))
        while not all(map(self.supervisor.is_ready, nodes)) and time.monotonic() < give_up_s:
            self._wait(LOOK_S)

    def _strike(self, kind: str, place: int, random: Random) -> None:
        supervisor = self.supervisor
        if kind == "kill session":
            if self.doomed is not None:
                fault = self.doomed.kill()
                self.faults += [fault] if fault else []
                self._count(kind, True)
        elif kind == "kill all":
            hit = [supervisor.kill(number) for number in range(len(supervisor.nodes))]
            self._count(kind, any(hit), sum(hit))
        elif kind == "kill":
            self._count(kind, supervisor.kill(place), 1)
        elif kind == "leave":
            self._count(kind, supervisor.leave(place))
        elif supervisor.stop(place):
            longest_s = self.dead_after_s
            stopped_s = random.uniform(0.05, 0.6) * longest_s if kind == "pause" else random.uniform(1.2, 2) * longest_s
            self._resumes.append((time.monotonic() + stopped_s, place, kind))
            self._resumes.sort()
            self._count(kind, True)

    def _count(self, kind: str, hit: bool, kills: int = 0) -> None:
        if hit:
            self.blows[kind] += 1
            self.blows["SIGKILL"] += kills

    def _wait(self, seconds: float) -> None:
        """Let time pass, with the supervisor at work."""
        until_s = time.monotonic() + seconds
        while True:
            now_s = time.monotonic()
            while self._resumes and self._resumes[0][0] <= now_s:
                _, place, kind = self._resumes.pop(0)
                if kind == "bury":
                    self._count("buried", True, int(self.supervisor.kill(place)))
                else:
                    self.supervisor.resume(place)
            self.supervisor.tend()
            if now_s >= until_s:
                return
            time.sleep(min(LOOK_S, until_s - now_s))

    def _wait_for_another(self, place: int) -> None:
        give_up_s = time.monotonic() + READY_S
        others = [number for number in range(len(self.supervisor.nodes)) if number != place]
        while not any(map(self.supervisor.is_ready, others)) and time.monotonic() < give_up_s:
            self._wait(LOOK_S)
