"""What a query did: the value that ``last_query``, EXPLAIN ANALYZE and ``apiary replay`` are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from apiary_df.errors import ErrorInfo
from apiary_df.model import CellUse

QueryEnd: TypeAlias = Literal["running", "done", "failed", "cancelled"]
"""Where a query is: it runs, gave all of its rows, raised, or nobody wanted it any more."""

OUTCOMES = ("committed", "failed", "lost", "undone", "superseded", "stopped")
"""What becomes of an attempt: it counts; it raised; its node was lost; it counted until its partial was lost; another
of the task counts, or its input was made again; the query ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReport:
    """One attempt at a task, whatever became of it.

    Moments (``sent_s``, ``started_s``, ``ended_s``) are in seconds from the start of the query, by the coordinator's
    clock. What only a commit record tells is 0 of attempts that were not committed.

    Attributes:
        stage: Stage number.
        task: Task number within the stage.
        attempt: Number of the attempt at the task, from 0.
        node_id: The node that was given it.
        outcome: One of :data:`OUTCOMES`; ``running`` in a query that still runs.
        here: Whether it ran in the session's own process.
        error: The cause, if it failed or was lost.
        why: Why it went to that node.
        sent_s: When it was sent; None if that is not known.
        started_s: When it was taken up: its end, less what its node measured. None if its node told nothing.
        ended_s: When the coordinator learned of its end; None if it never did.
        seconds: From taking it up to its end, as its node measured; 0 if it told nothing.
        queued_s: From receiving it to taking it up, as its node measured.
        rows: Rows that it handed on.
        cells: Source file entries that it read.
        input_bytes: Bytes of cells and segments that it was to read.
        output_bytes: Bytes of its partial.
        lies: Where that lies: ``in its record`` or ``behind its record``; empty if it is an object, or there is none.
        spills: Spill files written.
        spilled_bytes: Bytes spilled.
        cache: What its node's cell cache did for it; the session's, if it ran there.
        requests: Requests to the swarm's root that it made, by kind, the node's looks for mail not among them.
        epoch: How often the task was begun anew before, since what it had committed was lost.
        slots: Bees' shares of its node's memory that it could hold.
        speculative: Whether it was sent while another attempt at the task still ran.
    """

    stage: int
    task: int
    attempt: int
    node_id: str
    outcome: str
    here: bool = False
    error: ErrorInfo | None = None
    why: str = ""
    sent_s: float | None = None
    started_s: float | None = None
    ended_s: float | None = None
    seconds: float = 0.0
    queued_s: float = 0.0
    rows: int = 0
    cells: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    lies: str = ""
    spills: int = 0
    spilled_bytes: int = 0
    cache: CellUse = field(default_factory=CellUse)
    requests: Mapping[str, int] = field(default_factory=dict)
    epoch: int = 0
    slots: int = 1
    speculative: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How a stage was run otherwise than it was planned at first, once real sizes were known.

    Attributes:
        stage: Stage number.
        what: What was done, and on what grounds.
        left_out: Whether it was not run at all, since another stage did its work.
    """

    stage: int
    what: str
    left_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What of an answer was compared with plain DataFusion's own, in a session that verifies.

    Attributes:
        compared: What was found equal: of ``schema``, ``row count``, ``rows``, ``order``, or in the words of
            ``open``. Empty: nothing was compared, and ``open`` says why.
        open: Why no more than that was compared: what SQL leaves open in this query. Empty if nothing was left out.
        elapsed_s: Seconds that plain DataFusion and the comparison took.
    """

    compared: tuple[str, ...]
    open: tuple[str, ...] = ()
    elapsed_s: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether everything that SQL fixes of the answer was compared and found equal."""
        return bool(self.compared) and not self.open


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryReport:
    """What a query did.

    Attributes:
        query_id: Its id; empty if it never left this process.
        sql: Its SQL, if it came as SQL.
        distributed: Whether stages ran on nodes.
        reason: Why it ran here, or why it was distributed.
        stages: Stages, the root included; 0 if it ran here as a whole.
        tasks: Committed tasks, without the root.
        rows: Rows of the result so far.
        bytes_through_storage: Bytes of all partials.
        elapsed_s: From the start to the last row.
        first_row_s: From the start to the first row; None if there was none yet, or the query ran in this process.
        requests: Requests to the swarm's root that the session made for the query, and those of all attempts that were
            committed, by kind. Heartbeats, leases and looks for mail are not among them: they go on without a query.
        folded_stages: Stages that ran in this process with the result, since little was left to do.
        folded_how: In how many threads these ran, and why; empty if there are none.
        changes: How stages were run otherwise than planned at first, in the order in which that was decided.
        state: How it ended: ``done``, ``failed`` or ``cancelled``; ``running`` before that.
        error: Why it failed; None if it did not.
        attempts: Every attempt at every task, those that failed or were lost among them, by stage, task and number; the
            stages that ran in the session's own process have one as well.
        dollars: What these requests cost by the settings' prices; 0 in a folder and in memory.
        kept: Whether its objects stayed in storage, for ``apiary replay``.
        cache: What cell caches did for it, on all nodes and here.
        verified: What was compared with plain DataFusion's answer; None if the session does not verify.
    """

    query_id: str
    sql: str | None
    distributed: bool
    reason: str
    stages: int
    tasks: int
    rows: int
    bytes_through_storage: int
    elapsed_s: float
    requests: Mapping[str, int] = field(default_factory=dict)
    folded_stages: tuple[int, ...] = ()
    folded_how: str = ""
    changes: tuple[Change, ...] = ()
    state: QueryEnd = "done"
    error: ErrorInfo | None = None
    attempts: tuple[AttemptReport, ...] = ()
    dollars: float = 0.0
    kept: bool = False
    cache: CellUse = field(default_factory=CellUse)
    first_row_s: float | None = None
    verified: Verification | None = None

    @property
    def task_reports(self) -> tuple[AttemptReport, ...]:
        """The attempts that count: one for every task that a node committed."""
        return tuple(attempt for attempt in self.attempts if attempt.outcome == "committed" and not attempt.here)
