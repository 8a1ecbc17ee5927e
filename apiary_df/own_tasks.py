"""Tasks of a query that its session does itself: large tables in memory, put into storage as partials like any other.

What belongs here: doing them, one after the other. When they are done, and what comes of it, is the coordinator's and
the schedule's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from apiary_df.errors import ApiaryError, QueryCancelled
from apiary_df.history import History
from apiary_df.host import Flag
from apiary_df.protocol import keys
from apiary_df.query import Query
from apiary_df.root import Workbench
from apiary_df.schedule import Cancelled, Dispatch, SendTasks, TaskCommitted, TaskErred
from apiary_df.worker.bee import run_attempt
from apiary_df.worker.inputs import Schemas


class OwnTasks:
    """The tasks that wait for the session.

    Args:
        query_id: The query.
        query: What it is.
        node_id: Under which the session goes.
        workbench: Gives an engine for a task.
        schemas: Schemas of partials, by stage.
        history: Takes what was done.
        cancelled: Set when the query is over.
        now_s: The machine's monotonic clock.
    """

    def __init__(
        self,
        query_id: str,
        query: Query,
        node_id: str,
        workbench: Workbench,
        *,
        schemas: Schemas,
        history: History,
        cancelled: Flag,
        now_s: Callable[[], float],
    ) -> None:
        self._query_id = query_id
        self._query = query
        self._node_id = node_id
        self._workbench = workbench
        self._schemas = schemas
        self._history = history
        self._cancelled = cancelled
        self._now_s = now_s
        self._waiting: deque[Dispatch] = deque()

    def add(self, command: SendTasks) -> None:
        """Take on what was sent to the session."""
        self._waiting.extend(command.tasks)

    def are_waiting(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._waiting)

    def do_next(self) -> Cancelled | TaskErred | TaskCommitted:
        """Do the task that has waited longest, and return what came of it."""
        task = self._waiting.popleft()
        key = task.key(self._query_id)
        stage = self._query.graph.stages[key.stage]
        assert stage.schema is not None
        self._history.sent(key, task.spec.why, here=True)
        begun_s = self._now_s()
        try:
            with self._workbench() as (engine, bench):
                work = run_attempt(
                    task=task.spec,
                    fragment=stage.fragment,
                    schema=stage.schema.arrow,
                    inputs=self._schemas,
                    partial_key=keys.partial(self._query_id, key.stage, key.task, key.attempt),
                    engine=engine,
                    bench=bench,
                    cancelled=self._cancelled,
                )
        except QueryCancelled:
            return Cancelled()
        except ApiaryError as error:
            return TaskErred(key=key, node_id=self._node_id, error=error)
        self._history.stored(key, work.partial, self._now_s() - begun_s)
        return TaskCommitted(key=key, partial=work.partial)
