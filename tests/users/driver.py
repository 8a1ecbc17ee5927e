"""Starts a swarm and processes of sessions, lets them all begin at once, and says how even their lot was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apiary_df import LocalSwarm, Settings
from apiary_df.demo.data import generate_tpch
from apiary_df.protocol import keys

FORCED: Mapping[str, Any] = {"small_bytes": 0, "finish_here_bytes": 0, "min_task_bytes": 0}
"""Settings under which nothing is too small to be distributed."""

QUERIES = (1, 3, 6, 12, 14, 4, 19, 10, 13, 16, 22, 5, 7, 8, 11, 2)
"""TPC-H queries that sessions run, each in an order of its own: all do the same in all, so their means compare."""

PROCESS = Path(__file__).with_name("process.py")

WAIT_S = 900.0
"""A process that has not ended after so many seconds is stuck."""

START_S = 120.0
"""Nodes are ready within this time; nothing here depends on how long they take."""

CLEAN_S = 60.0
"""After the last query the root is clean within this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who works on a swarm.

    Attributes:
        sessions: Sessions that run one query at a time.
        processes: Processes that they are spread over.
        queries: Queries of all of these sessions; rounded up to a whole number for each.
        greedy: Queries at once of one session more, for as long as the others work; 0 is no such session.
        nodes: Nodes of the swarm, of one bee each.
        scale: TPC-H scale.
        parts: Files of each table.
        seed: Where the orders of queries are drawn from.
    """

    sessions: int = 32
    processes: int = 8
    queries: int = 500
    greedy: int = 0
    nodes: int = 3
    scale: float = 0.01
    parts: int = 4
    seed: int = 1

    @property
    def queries_of_each(self) -> tuple[int, ...]:
        """The queries that each session runs."""
        count = -(-self.queries // self.sessions)
        return tuple(QUERIES[number % len(QUERIES)] for number in range(count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of it.

    Attributes:
        plan: Who worked.
        outcomes: One entry a query: session, query, seconds, fault, repeated attempts.
        greedy_outcomes: Those of the greedy session.
        faults: What is not as it should be.
        seconds: From the first query's start to the last one's end.
    """

    plan: Plan
    outcomes: tuple[Mapping[str, Any], ...]
    greedy_outcomes: tuple[Mapping[str, Any], ...]
    faults: tuple[str, ...]
    seconds: float

    def means_s(self) -> list[float]:
        """Return each session's mean time of a query, in seconds, the greedy one's left out."""
        by_session: dict[int, list[float]] = {}
        for outcome in self.outcomes:
            by_session.setdefault(outcome["session"], []).append(outcome["seconds"])
        return sorted(sum(times) / len(times) for times in by_session.values())

    def greedy_mean_s(self) -> float:
        """Return the mean time of the greedy session's queries, in seconds; those that were not over are counted in."""
        return self.plan.greedy * self.seconds / max(1, len(self.greedy_outcomes)) if self.plan.greedy else 0.0

    def figures(self) -> dict[str, object]:
        """Return the figures as names and numbers."""
        means = self.means_s() or [0.0]
        slowest = max((outcome["seconds"] for outcome in self.outcomes), default=0.0)
        mean = sum(means) / len(means)
        every = (*self.outcomes, *self.greedy_outcomes)
        return {
            "sessions": self.plan.sessions,
            "processes": self.plan.processes,
            "queries": len(self.outcomes),
            "queries at once of a greedy session": self.plan.greedy,
            "its queries": len(self.greedy_outcomes),
            "answers exact": sum(1 for outcome in every if not outcome["fault"]),
            "distributed": sum(1 for outcome in every if outcome["distributed"]),
            "attempts that did not count": sum(outcome["repeated"] for outcome in every),
            "seconds": round(self.seconds, 1),
            "mean query, s": round(mean, 2),
            "fastest session's mean, s": round(means[0], 2),
            "slowest session's mean, s": round(means[-1], 2),
            "slowest over fastest": round(means[-1] / means[0], 2) if means[0] else 0.0,
            "Jain index": round(jain_index(means), 4),
            "mean query of the greedy session, s": round(self.greedy_mean_s(), 2),
            "that over the others' mean": round(self.greedy_mean_s() / mean, 2) if mean else 0.0,
            "slowest query, s": round(slowest, 2),
            "slowest query over mean": round(slowest / mean, 1) if mean else 0.0,
            "faults": len(self.faults),
        }


def jain_index(values: list[float]) -> float:
    """Return how even values are: 1 if all are equal, 1/n if one has everything (Jain, Chiu and Hawe, 1984)."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


class Users:
    """A process of sessions."""

    def __init__(self, plan: Mapping[str, object]) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("APIARY_")}
        self._process = subprocess.Popen(
            [sys.executable, str(PROCESS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
        )
        self.say(json.dumps(plan))

    def say(self, line: str) -> None:
        """Send it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Return its next line; empty if it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def outcomes(self) -> list[dict[str, Any]]:
        """Wait for its end and return what became of its queries.

        Raises:
            TimeoutExpired: If it is stuck.
            JSONDecodeError: If it said nothing of its queries.
        """
        said, _ = self._process.communicate(timeout=WAIT_S)
        parsed: list[dict[str, Any]] = json.loads(said)
        return parsed

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()


def run_users(plan: Plan, folder: Path) -> Report:
    """Let all sessions work at once on a swarm of their own.

    Args:
        plan: Who works.
        folder: An empty folder for data and the swarm's root.
    """
    data = folder / "tpch"
    generate_tpch(data, plan.scale, plan.parts)
    settings = Settings().with_overrides(node_start_timeout_s=START_S, **FORCED)
    with LocalSwarm(plan.nodes, storage=(folder / "root").as_uri(), settings=settings) as swarm:
        shared = {
            "data": str(data),
            "storage": swarm.storage,
            "settings": {**FORCED, "timeout_s": WAIT_S / 2},
            "queries": plan.queries_of_each,
            "seed": plan.seed,
        }
        users = [
            Users({**shared, "sessions": list(range(first, plan.sessions, plan.processes)), "lanes": 1})
            for first in range(plan.processes)
        ]
        greedy = [Users({**shared, "sessions": [-1], "lanes": plan.greedy})] if plan.greedy else []
        faults: list[str] = []
        outcomes: list[dict[str, Any]] = []
        greedy_outcomes: list[dict[str, Any]] = []
        try:
            for process in (*greedy, *users):
                assert process.hear() == "ready\n", "a process of sessions ended before its sessions were open"
            started_s = time.monotonic()
            for process in (*greedy, *users):
                process.say("go")
            with ThreadPoolExecutor(len(users)) as pool:
                for found in pool.map(Users.outcomes, users):
                    outcomes += found
            seconds = time.monotonic() - started_s
            for process in greedy:
                process.say("stop")
                greedy_outcomes += process.outcomes()
        finally:
            for process in (*greedy, *users):
                process.close()
        expected = plan.sessions * len(plan.queries_of_each)
        if len(outcomes) != expected:
            faults.append(f"{len(outcomes)} queries came to an end, not {expected}")
        faults += [
            f"session {o['session']}, query {o['query']}: {o['fault']}"
            for o in (*outcomes, *greedy_outcomes)
            if o["fault"]
        ]
        faults += _left_over(swarm)
    return Report(
        plan=plan,
        outcomes=tuple(outcomes),
        greedy_outcomes=tuple(greedy_outcomes),
        faults=tuple(faults),
        seconds=seconds,
    )


def _left_over(swarm: LocalSwarm) -> list[str]:
    give_up_s = time.monotonic() + CLEAN_S
    while True:
        left = [meta.key for meta in swarm.store.list("") if not meta.key.startswith(keys.NODES)]
        if not left or time.monotonic() > give_up_s:
            return [f"left in the root: {key}" for key in left]
        time.sleep(0.1)
