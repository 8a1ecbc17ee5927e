"""Living inside of somebody's application: threads, an event loop, several sessions, a quiet import."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import datafusion
import pyarrow as pa
import pytest

from apiary_df import SessionContext
from apiary_df.demo import TPCH_ORDER_COLUMNS, tpch_queries
from apiary_df.errors import QueryCancelled
from swarm.conftest import Open
from swarm.helpers import FORCED, check_nothing_left, check_same, check_was_distributed, wait_until
from swarm.test_endings import MANY_ROWS, SLOW

QUERIES = tpch_queries()
THREADS = 8
TOGETHER = (1, 3, 5, 6, 10, 12, 14, 19)
"""One query a thread."""

COUNT = "SELECT o_orderstatus, count(*) AS n FROM orders GROUP BY o_orderstatus ORDER BY o_orderstatus"


@pytest.mark.processes
class TestThreads:
    def test_one_session_serves_eight_threads_at_once(
        self, shared: SessionContext, plain: datafusion.SessionContext
    ) -> None:
        expected = {number: plain.sql(QUERIES[number]).to_arrow_table() for number in TOGETHER}
        gate = threading.Barrier(THREADS)

        def ask(number: int) -> list[pa.Table]:
            gate.wait()
            return [shared.sql(QUERIES[number]).to_arrow_table() for _ in range(2)]

        with ThreadPoolExecutor(THREADS) as pool:
            answers = dict(zip(TOGETHER, pool.map(ask, TOGETHER), strict=True))
        for number, tables in answers.items():
            columns = TPCH_ORDER_COLUMNS[number]
            for table in tables:
                check_same(expected[number], table, ordered=bool(columns), order_columns=columns or None)
        check_nothing_left(str(shared.storage))
        view = shared._swarm._view
        assert view is not None
        # What the session believes its nodes to be busy with is what it plans by: nothing may stay on the count.
        wait_until(
            lambda: all(not info.bees_busy for info in view.node_infos()), "all nodes idle in the session's eyes"
        )

    def test_one_stream_read_by_two_threads_gives_every_row_once(
        self, shared: SessionContext, plain: datafusion.SessionContext
    ) -> None:
        stream = shared.sql(MANY_ROWS).execute_stream()

        def read() -> int:
            return sum(batch.to_pyarrow().num_rows for batch in stream)

        with ThreadPoolExecutor(2) as pool:
            rows = sum(future.result() for future in [pool.submit(read), pool.submit(read)])
        assert rows == plain.table("lineitem").count()

    def test_several_sessions_keep_their_tables_settings_and_reports_apart(self, joined: Open) -> None:
        sessions = [joined(), joined(timeout_s=77)]
        for number, ctx in enumerate(sessions):
            ctx.from_pydict({"x": [number]}, name="own")
        assert [ctx.sql("SELECT x FROM own").to_pydict() for ctx in sessions] == [{"x": [0]}, {"x": [1]}]
        assert [ctx.settings.timeout_s for ctx in sessions] == [None, 77]
        sessions[0].sql(COUNT).collect()
        check_was_distributed(sessions[0])
        assert sessions[1].last_query is not None
        assert not sessions[1].last_query.distributed

    def test_sessions_on_swarms_of_their_own_do_not_meet(self) -> None:
        with (
            SessionContext(storage="memory://one", nodes=1, **FORCED) as one,
            SessionContext(storage="memory://other", nodes=1, **FORCED) as other,
        ):
            assert {v.info.node_id for v in one.nodes()}.isdisjoint({v.info.node_id for v in other.nodes()})
            one.close()
            assert one.nodes() == []
            assert len(other.nodes()) == 1


@pytest.mark.processes
class TestEventLoop:
    """A ticker on the loop must go on while a query runs; it counts, no clock is looked at."""

    @staticmethod
    async def _ticking_meanwhile(work: Callable[[], object]) -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticker = asyncio.create_task(tick())
        try:
            await work()  # type: ignore[misc]
        finally:
            ticker.cancel()
        return ticks

    def test_query_in_a_thread_does_not_block_the_loop(
        self, shared: SessionContext, plain: datafusion.SessionContext
    ) -> None:
        answers: list[pa.Table] = []

        async def work() -> None:
            answers.append(await asyncio.to_thread(shared.sql(QUERIES[21]).to_arrow_table))

        assert asyncio.run(self._ticking_meanwhile(work)) > 5
        columns = TPCH_ORDER_COLUMNS[21]
        check_same(plain.sql(QUERIES[21]).to_arrow_table(), answers[0], order_columns=columns)

    def test_asynchronous_iteration_does_not_block_the_loop(
        self, shared: SessionContext, plain: datafusion.SessionContext
    ) -> None:
        rows = 0

        async def work() -> None:
            nonlocal rows
            async for batch in shared.sql(MANY_ROWS):
                rows += batch.to_pyarrow().num_rows

        assert asyncio.run(self._ticking_meanwhile(work)) > 5
        assert rows == plain.table("lineitem").count()

    def test_queries_of_several_coroutines_run_together(
        self, shared: SessionContext, plain: datafusion.SessionContext
    ) -> None:
        async def ask() -> list[pa.Table]:
            return await asyncio.gather(*(asyncio.to_thread(shared.sql(COUNT).to_arrow_table) for _ in range(4)))

        expected = plain.sql(COUNT).to_arrow_table()
        for answer in asyncio.run(ask()):
            check_same(expected, answer)

    def test_cancelled_coroutine_ends_its_query(self, joined: Open) -> None:
        ctx = joined()

        async def work() -> None:
            stream = ctx.sql(SLOW).execute_stream()
            reader = asyncio.ensure_future(stream.__anext__())
            await asyncio.to_thread(wait_until, lambda: any(v.heartbeat.queries for v in ctx.nodes()), "a node at work")
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            # The stream is still held: it is the cancellation that ends the query, not the stream's being dropped.
            await asyncio.to_thread(check_nothing_left, str(ctx.storage))
            with pytest.raises((QueryCancelled, StopAsyncIteration)):
                await stream.__anext__()

        asyncio.run(work())


_IMPORT = """
import json, logging, sys, threading
handlers = list(logging.getLogger().handlers)
import apiary_df
heavy = sorted({"datafusion", "pyarrow", "obstore", "typer", "rich", "msgspec"} & set(sys.modules))
logger = logging.getLogger("apiary_df")
print(json.dumps({
    "heavy": heavy,
    "threads": threading.active_count(),
    "root_handlers": logging.getLogger().handlers == handlers,
    "handlers": [type(h).__name__ for h in logger.handlers],
    "level": logger.level,
    "asyncio_or_subprocess": sorted({"asyncio", "subprocess"} & set(sys.modules)),
}))
"""

_LOGGERS = """
import json, logging, apiary_df
before = set(logging.root.manager.loggerDict)
from apiary_df import SessionContext
ctx = SessionContext(storage="memory://log", nodes=1, small_bytes=0, node_start_timeout_s=120)
ctx.sql("SELECT 1").collect()
ctx.close()
import apiary_df.worker.node, apiary_df.tables, apiary_df.coordinator
mine = {name for name in logging.root.manager.loggerDict if "apiary" in name}
print(json.dumps(sorted(mine)))
"""


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)


class TestImport:
    def test_import_loads_nothing_heavy_starts_nothing_and_changes_nothing(self) -> None:
        done = _python(_IMPORT)
        assert json.loads(done.stdout) == {
            "heavy": [],
            "threads": 1,
            "root_handlers": True,
            "handlers": ["NullHandler"],
            "level": 0,
            "asyncio_or_subprocess": [],
        }
        assert done.stderr == ""

    def test_every_logger_is_below_one_name(self) -> None:
        done = _python(_LOGGERS)
        assert {name.split(".")[0] for name in json.loads(done.stdout)} == {"apiary_df"}
        assert done.stderr == ""
