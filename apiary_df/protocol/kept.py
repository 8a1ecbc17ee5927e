"""What is written of a query that is kept: how it ended, and what its tasks were.

Both are written at the query's end, the outcome last: where it lies, the query is over and all that is kept is there.
"""

from __future__ import annotations

import msgspec

from apiary_df.errors import ErrorInfo
from apiary_df.model import TaskSpec
from apiary_df.protocol.messages import Count, Id, Seconds
from apiary_df.report import AttemptReport, QueryEnd


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a query ended.

    Attributes:
        query_id: The query.
        coordinator: The session that ran it.
        state: ``done``, ``failed`` or ``cancelled``.
        kept: Whether it stays in storage: collectors of orphans leave it alone.
        error: Why it failed; None if it did not.
        sql: Its text, if it came as SQL.
        reason: Why it was distributed.
        started_at: When it started, by the coordinator's clock, for people.
        seconds: From its start to its end.
        rows: Rows that were handed over.
        root: Number of the stage that ran in the session, with the result.
        folded: Stages that ran in the session with the result.
        attempts: The attempts at all tasks, by stage, task and number.
        omitted: Attempts that are left out, committed ones, since there were too many for a message.
    """

    query_id: Id
    coordinator: Id
    state: QueryEnd
    error: ErrorInfo | None
    sql: str | None
    reason: str
    started_at: str
    seconds: Seconds
    rows: Count
    root: Count
    attempts: tuple[AttemptReport, ...]
    folded: tuple[Count, ...] = ()
    omitted: Count = 0
    kept: bool = True


class StageTasks(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks of a stage, as they were sent last.

    Attributes:
        query_id: The query.
        stage: The stage.
        tasks: What each reads; their numbers follow each other.
    """

    query_id: Id
    stage: Count
    tasks: tuple[TaskSpec, ...]
