"""Running a query on a swarm and on plain DataFusion, and judging what came of it.

A swarm here is the real product: one node of so many bees as threads of this process, on a folder. Nothing is too small
to be distributed, so every exchange moves rows between tasks. What SQL fixes of an answer is for
:mod:`apiary_df.verify.verdict` to say, what the judgements add up to for ``report``.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import datafusion
import pyarrow as pa

from apiary_df import LocalSwarm, SessionContext, Settings
from apiary_df.comparison.tables import DIGITS
from apiary_df.errors import ApiaryError
from apiary_df.verify.verdict import OTHER_ORDER, WHICH_ROWS, Judge

from .model import Query, Suite

PARTITIONS = (1, 2, 3, 7, 16)
"""Bees of the swarms, and partitions of the plain sessions. For one bee the swarm plans two partitions, since with
one there would be no exchange, and that bee does the tasks of both."""

SETTINGS = Settings(
    small_bytes=0,
    finish_here_bytes=0,
    min_task_bytes=0,
    min_cell_bytes=1,
    target_cell_bytes=1,
    timeout_s=120,
    suspect_after_s=300,
    dead_after_s=600,
)
"""Nothing is too small to be distributed, every row group is a cell, a query that hangs fails, and no node is given up
because the machine is busy.
"""

_GROUPS = re.compile(r"file_groups=\{(\d+) groups?: \[\[([^\]]*)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one query at one partition count.

    Attributes:
        suite: Name of the suite.
        query: Name of the query.
        partitions: Bees of the swarm.
        faults: What is wrong, each as a text; empty if all is as it should be.
        rows: Rows of the right answer.
        divisible: Whether a scan of the query has more than one cell.
        distributed: Whether stages ran on the node.
        reason: Why it ran here or there.
        stages: Stages, the root included.
        tasks: Committed tasks of all stages.
        widest: Tasks of the stage that has most.
        cells: Cells that all tasks read.
        plain_s: Seconds that plain DataFusion took.
        swarm_s: Seconds that the swarm took.
    """

    suite: str
    query: str
    partitions: int
    faults: tuple[str, ...]
    rows: int = 0
    divisible: bool = False
    distributed: bool = False
    reason: str = ""
    stages: int = 0
    tasks: int = 0
    widest: int = 0
    cells: int = 0
    plain_s: float = 0.0
    swarm_s: float = 0.0

    @property
    def label(self) -> str:
        """The query's name with its suite and its partition count, as tests and messages call it."""
        return f"{self.suite}/{self.query}@{self.partitions}"


class Bench:
    """Swarms, sessions and tables, each made when it is first needed and kept until the end.

    Args:
        folder: Where tables and roots are written; a temporary folder, removed at the end, if None.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._exit = ExitStack()
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="apiary-suites-"))
            self._exit.callback(shutil.rmtree, folder, ignore_errors=True)
        self._folder = folder
        self._tables: dict[str, Path] = {}
        self._swarms: dict[int, LocalSwarm] = {}
        self._sessions: dict[tuple[object, ...], tuple[datafusion.SessionContext, SessionContext]] = {}

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def tables(self, suite: Suite) -> Path:
        """Return the folder of a suite's tables."""
        if suite.name not in self._tables:
            folder = self._folder / suite.name
            folder.mkdir()
            suite.write(folder)
            self._tables[suite.name] = folder
        return self._tables[suite.name]

    def sessions(
        self, suite: Suite, partitions: int, settings: tuple[tuple[str, str], ...] = ()
    ) -> tuple[datafusion.SessionContext, SessionContext]:
        """Return a plain session and one on a swarm that know a suite's tables.

        Args:
            suite: The suite.
            partitions: Partitions of the plain session, bees of the swarm.
            settings: DataFusion options of both.
        """
        key = (suite.name, partitions, settings)
        if key not in self._sessions:
            if partitions not in self._swarms:
                swarm = LocalSwarm(1, partitions, settings=SETTINGS, in_process=True)
                self._swarms[partitions] = self._exit.enter_context(swarm)
            config = datafusion.SessionConfig(dict(settings)).with_target_partitions(partitions)
            plain = datafusion.SessionContext(config)
            joined = SessionContext(config, storage=self._swarms[partitions].storage, settings=SETTINGS)
            for session in (plain, self._exit.enter_context(joined)):
                suite.register(session, self.tables(suite))
            self._sessions[key] = plain, joined
        return self._sessions[key]

    def run(self, suite: Suite, query: Query, partitions: int) -> Outcome:
        """Run one query both ways and judge the swarm's answer and way."""
        plain, swarm = self.sessions(suite, partitions, query.settings)
        about = {"suite": suite.name, "query": query.name, "partitions": partitions}
        try:
            started_s = time.monotonic()
            frame = plain.sql(query.sql)
            expected = frame.to_arrow_table()
            plain_s = time.monotonic() - started_s
        except Exception as error:  # noqa: BLE001 - DataFusion raises bare Exception
            return Outcome(**about, faults=(f"plain DataFusion raises {error}",))  # type: ignore[arg-type]
        divisible = reads_several_cells(frame)
        try:
            started_s = time.monotonic()
            actual = swarm.sql(query.sql).to_arrow_table()
            swarm_s = time.monotonic() - started_s
        except Exception as error:  # noqa: BLE001 - an untyped error is a fault as well, and said to be one
            kind = type(error).__name__ if isinstance(error, ApiaryError) else f"untyped {type(error).__name__}"
            return Outcome(**about, faults=(f"{kind}: {error}",), divisible=divisible)  # type: ignore[arg-type]
        report = swarm.last_query
        assert report is not None
        per_stage = Counter(task.stage for task in report.task_reports)
        outcome = Outcome(
            **about,  # type: ignore[arg-type]
            faults=tuple(answer_faults(query, plain, frame, expected, actual)),
            rows=expected.num_rows,
            divisible=divisible,
            distributed=report.distributed,
            reason=report.reason,
            stages=report.stages,
            tasks=report.tasks,
            widest=max(per_stage.values(), default=0),
            cells=sum(task.cells for task in report.task_reports),
            plain_s=plain_s,
            swarm_s=swarm_s,
        )
        return replace(outcome, faults=(*outcome.faults, *misbehaviour(query, outcome)))


def answer_faults(
    query: Query, plain: datafusion.SessionContext, frame: datafusion.DataFrame, expected: pa.Table, actual: pa.Table
) -> Iterator[str]:
    """Say what is wrong with an answer, if anything.

    Args:
        query: The query.
        plain: A plain session, which may be asked further questions.
        frame: The query in that session.
        expected: Its answer there.
        actual: The answer that is judged.
    """
    verdict = Judge(plain, frame.logical_plan()).judge(expected, actual)
    if query.undetermined is not None:
        if not actual.schema.equals(expected.schema, check_metadata=True) or actual.num_rows != expected.num_rows:
            yield str(verdict.difference)
        return
    if verdict.difference is not None:
        yield str(verdict.difference)
    allowed = {WHICH_ROWS} if query.digits == DIGITS else {WHICH_ROWS, OTHER_ORDER}
    for reason in verdict.open:
        if reason not in allowed:
            yield f"not everything was compared, and the query does not say that SQL leaves open {reason}"


def misbehaviour(query: Query, outcome: Outcome) -> Iterator[str]:
    """Say where a query's way differs from the one that it should take; its answer is not looked at."""
    if not outcome.rows and query.empty is None:
        yield "it gives no rows, so nothing was compared"
    if outcome.rows and query.empty is not None:
        yield f"it gives {outcome.rows} rows, though it should give none: {query.empty}"
    if query.session is not None:
        if outcome.distributed:
            yield f"it was distributed, though it should run in the session: {query.session}"
        elif query.session not in outcome.reason:
            yield f"it ran in the session because {outcome.reason!r}, not because {query.session!r}"
        return
    if not outcome.distributed:
        if outcome.divisible:
            yield f"it was not distributed: {outcome.reason}"
        return
    single = outcome.widest <= 1
    if outcome.divisible and outcome.partitions > 1 and single and query.one_task is None:
        yield f"no stage of its {outcome.stages} had two tasks"
    if outcome.partitions > 1 and not single and query.one_task is not None:
        yield f"a stage had {outcome.widest} tasks, though none should have two: {query.one_task}"


def reads_several_cells(frame: datafusion.DataFrame) -> bool:
    """Whether plain DataFusion reads more than one file for some scan of a query, pruned files not counted."""
    text = frame.execution_plan().display_indent()
    return any(int(groups) > 1 or "," in first for groups, first in _GROUPS.findall(text))


def run_suite(bench: Bench, suite: Suite, partitions: tuple[int, ...] = PARTITIONS) -> Iterator[Outcome]:
    """Run all of a suite, one partition count after the other; yields outcomes as they come."""
    for count in partitions:
        for query in suite.queries:
            yield bench.run(suite, query, count)
