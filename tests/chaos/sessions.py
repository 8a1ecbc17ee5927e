"""Sessions that do errands until they are told to stop, and what became of each errand."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from apiary_df import SessionContext
from apiary_df.errors import ApiaryError

from .work import Errand, Work

DOOMED = Path(__file__).with_name("doomed.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one errand.

    Attributes:
        errand: Its name.
        fault: What is wrong with its answer, or how it failed; empty if all is right.
        seconds: What it took.
        distributed: Whether nodes had a part in it.
        tasks: Tasks that count.
        attempts: Attempts at all tasks, by what became of them.
        speculative: Attempts that were sent while another at the same task still ran.
        folded: Stages that the session ran itself since too few nodes were left.
    """

    errand: str
    fault: str
    seconds: float
    distributed: bool = False
    tasks: int = 0
    attempts: Mapping[str, int] = field(default_factory=dict)
    speculative: int = 0
    folded: int = 0

    @property
    def repeated(self) -> int:
        """Attempts that did not count."""
        return sum(count for outcome, count in self.attempts.items() if outcome != "committed")


class Session:
    """A session in a thread of its own.

    Args:
        open_session: Opens the session.
        work: What it does.
        seed: Which errands it does, in which order.
        enough: Asked before each errand; it stops when the answer is yes.
    """

    def __init__(
        self, open_session: Callable[[], SessionContext], work: Work, seed: int, enough: Callable[[], bool]
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.busy_with: tuple[str, float] | None = None
        self._open = open_session
        self._work = work
        self._random = Random(seed)
        self._enough = enough
        self._thread = threading.Thread(target=self._run, name=f"session-{seed}", daemon=True)
        self._thread.start()

    def stuck(self, deadline_s: float) -> str | None:
        """Return what it has been doing for longer than it may, if so."""
        busy = self.busy_with
        if busy is None or time.monotonic() - busy[1] < deadline_s:
            return None
        return f"{busy[0]} has run for more than {deadline_s:g} s"

    def ended(self, within_s: float) -> bool:
        """Wait until it has stopped, at most so long; return whether it has."""
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with self._open() as ctx:
            self._work.register(ctx)
            while not self._enough():
                errand = self._random.choice(self._work.errands)
                self.busy_with = (errand.name, time.monotonic())
                self.outcomes.append(do(ctx, errand))
                self.busy_with = None


def do(ctx: SessionContext, errand: Errand) -> Outcome:
    """Do an errand once and say what became of it."""
    before = ctx.last_query
    started_s = time.monotonic()
    try:
        fault = errand.run(ctx) or ""
    except ApiaryError as error:
        fault = f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 - whatever is not of our tree is a fault, and told as one
        fault = f"untyped {type(error).__name__}: {error}\n{traceback.format_exc()}"
    seconds = time.monotonic() - started_s
    report = ctx.last_query
    if report is None or report is before:
        return Outcome(errand=errand.name, fault=fault, seconds=seconds)
    return Outcome(
        errand=errand.name,
        fault=fault,
        seconds=seconds,
        distributed=report.distributed,
        tasks=report.tasks,
        attempts=dict(Counter(attempt.outcome for attempt in report.attempts)),
        speculative=sum(1 for attempt in report.attempts if attempt.speculative),
        folded=len(report.folded_stages),
    )


class DoomedSession:
    """A session in a process of its own that is killed while it asks, and begun anew. Not thread-safe.

    Args:
        storage: URL of the swarm's root.
        environ: Environment of the process: its settings, and how storage is reached.
        work: The tables.
        only: Numbers of the queries that it asks; none means all.
        seed: Where their order is drawn from.
    """

    def __init__(self, storage: str, environ: Mapping[str, str], work: Work, only: Collection[int], seed: int) -> None:
        self.kills = 0
        self._environ = environ
        self._plan = {"storage": storage, "tables": dict(work.tables), "only": sorted(only), "seed": seed}
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        plan = json.dumps({**self._plan, "seed": f"{self._plan['seed']}-{self.kills}"})
        return subprocess.Popen(
            [sys.executable, str(DOOMED), plan], env=dict(self._environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def wait_until_it_asks(self) -> str:
        """Wait until it is about to ask its first query; return what is wrong, if it ended instead."""
        assert self._process.stdout is not None
        return "" if self._process.stdout.readline() else f"a session ended by itself: {self._words()}"

    def kill(self, *, restart: bool = True) -> str:
        """Kill it wherever it is; return what is wrong, if it had ended by itself."""
        ended = self._process.poll()
        self._process.kill()
        words = self._words()
        if restart:
            self.kills += 1
            self._process = self._start()
        return "" if ended is None else f"a session ended by itself with {ended}: {words}"

    def _words(self) -> str:
        _, words = self._process.communicate()
        return words.decode(errors="replace")[-2_000:]
