"""However a query ends, the caller learns why, and nothing of it remains in storage."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apiary_df import SessionContext
from apiary_df.dataframe import RecordBatchStream
from apiary_df.errors import ApiaryError, QueryCancelled, QueryTimeout, TaskFailed
from apiary_df.protocol import keys
from apiary_df.store import open_store
from swarm.conftest import Open
from swarm.helpers import LATE_S, check_nothing_left, wait_until, wait_until_idle

pytestmark = pytest.mark.processes

SLOW = (
    "SELECT a.l_orderkey FROM lineitem a JOIN lineitem b ON a.l_linenumber = b.l_linenumber "
    "WHERE (a.l_orderkey + b.l_orderkey) % 1000 = 7"
)
"""Some 600 million pairs: long enough to be stopped, in batches after each of which a bee looks whether it is."""

MANY_ROWS = "SELECT l_orderkey, l_comment FROM lineitem"


@pytest.fixture
def mixed(joined: Open, tmp_path: Path) -> SessionContext:
    """A session with a table ``mixed`` of two files: the second has text that is no number, and a zero."""
    pq.write_table(pa.table({"g": [1, 2], "text": ["1", "2"], "divisor": [1, 2]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"g": [1, 2], "text": ["3", "hive"], "divisor": [3, 0]}), tmp_path / "1.parquet")
    ctx = joined()
    ctx.register_parquet("mixed", str(tmp_path))
    return ctx


class TestFailure:
    @pytest.mark.parametrize(
        ("sql", "words"),
        [
            ("SELECT g, sum(CAST(text AS INT)) AS s FROM mixed GROUP BY g", "hive"),
            ("SELECT g, sum(6 / divisor) AS s FROM mixed GROUP BY g", "Divide by zero"),
        ],
    )
    def test_first_cause_is_raised_with_task_node_and_cells(self, mixed: SessionContext, sql: str, words: str) -> None:
        with pytest.raises(TaskFailed, match=words) as caught:
            mixed.sql(sql).collect()
        details = caught.value.details
        assert details["node"] in {view.info.node_id for view in mixed.nodes()}
        assert details["task"] in {"0.0", "0.1"}
        assert details["cells"].endswith("1.parquet")
        assert details["cause"] == "execution_failed"
        check_nothing_left(str(mixed.storage))

    def test_error_of_the_root_stage_leaves_nothing(self, mixed: SessionContext) -> None:
        sql = "SELECT 1 / (count(*) - 4) AS x FROM mixed"
        with pytest.raises(ApiaryError, match="Divide by zero"):
            mixed.sql(sql).collect()
        check_nothing_left(str(mixed.storage))

    def test_same_session_answers_after_a_failure(self, mixed: SessionContext) -> None:
        with pytest.raises(TaskFailed):
            mixed.sql("SELECT sum(CAST(text AS INT)) FROM mixed").collect()
        assert mixed.sql("SELECT sum(g) AS s FROM mixed").to_pydict() == {"s": [6]}


class TestTimeout:
    def test_query_that_takes_too_long_is_given_up_and_cleaned_up(self, joined: Open) -> None:
        ctx = joined(timeout_s=0.3)
        with pytest.raises(QueryTimeout, match=r"timeout_s=0\.3") as caught:
            ctx.sql(SLOW).collect()
        assert caught.value.details["timeout_s"] == "0.3"
        check_nothing_left(str(ctx.storage))

    def test_its_bees_are_free_again(self, joined: Open) -> None:
        with pytest.raises(QueryTimeout):
            joined(timeout_s=0.3).sql(SLOW).collect()
        ctx = joined(timeout_s=60)
        assert ctx.sql("SELECT count(*) AS n FROM nation").to_pydict() == {"n": [25]}
        wait_until(lambda: not any(view.info.bees_busy for view in ctx.nodes()), "bees free")


class TestEarlyEnd:
    def test_stream_that_is_closed_early_leaves_nothing(self, shared: SessionContext) -> None:
        stream = shared.sql(MANY_ROWS).execute_stream()
        assert next(stream).to_pyarrow().num_rows > 0
        stream.close()
        check_nothing_left(str(shared.storage))
        assert list(stream) == []

    def test_stream_that_is_dropped_leaves_nothing(self, shared: SessionContext) -> None:
        stream = shared.sql(MANY_ROWS).execute_stream()
        next(stream)
        del stream
        check_nothing_left(str(shared.storage))

    def test_stream_that_is_never_read_leaves_nothing(self, shared: SessionContext) -> None:
        shared.sql(MANY_ROWS).execute_stream()
        check_nothing_left(str(shared.storage))

    def test_arrow_reader_that_stops_early_leaves_nothing(self, shared: SessionContext) -> None:
        reader = pa.RecordBatchReader.from_stream(shared.sql(MANY_ROWS))
        assert reader.read_next_batch().num_rows > 0
        reader.close()
        del reader
        check_nothing_left(str(shared.storage))

    def test_iteration_that_breaks_leaves_nothing(self, shared: SessionContext) -> None:
        assert len(list(itertools.islice(shared.sql(MANY_ROWS), 1))) == 1
        check_nothing_left(str(shared.storage))

    def test_interrupt_of_a_consumer_leaves_nothing(self, shared: SessionContext) -> None:
        def consume() -> None:
            for _ in shared.sql(MANY_ROWS):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            consume()
        check_nothing_left(str(shared.storage))

    def test_stream_that_is_closed_early_is_reported(self, joined: Open) -> None:
        ctx = joined()
        stream = ctx.sql(MANY_ROWS).execute_stream()
        first = next(stream).to_pyarrow()
        stream.close()
        assert ctx.last_query is not None
        assert ctx.last_query.rows == first.num_rows


class TestCancel:
    def test_running_query_is_cancelled_from_another_thread(self, joined: Open) -> None:
        ctx = joined()
        _end_at_work(ctx, lambda stream: stream.cancel())
        check_nothing_left(str(ctx.storage))

    def test_running_query_is_closed_from_another_thread(self, joined: Open) -> None:
        ctx = joined()
        _end_at_work(ctx, lambda stream: stream.close())
        check_nothing_left(str(ctx.storage))

    def test_cancelled_query_that_is_kept_is_not_worked_on_any_more(self, joined: Open) -> None:
        ctx = joined(keep=True)
        _end_at_work(ctx, lambda stream: stream.cancel())
        wait_until_idle(ctx)
        store = open_store(str(ctx.storage))
        (query_id,) = {keys.query_of(meta.key) for meta in store.list(keys.QUERIES)}
        assert query_id is not None
        kinds = {key.kind for meta in store.list(keys.QUERIES) if (key := keys.parse_query_key(meta.key))}
        assert {"manifest", "cancel", "outcome"} <= kinds
        assert "lease" not in kinds
        store.delete_prefix(keys.query_prefix(query_id))

    def test_cancelled_before_it_starts_it_never_runs(self, shared: SessionContext) -> None:
        stream = shared.sql(SLOW).execute_stream()
        stream.cancel()
        with pytest.raises(QueryCancelled):
            next(stream)
        check_nothing_left(str(shared.storage))


def _end_at_work(ctx: SessionContext, end: Callable[[RecordBatchStream], object]) -> None:
    """Have a query run until a node is at work on it, end it from another thread, and check how it ended."""
    stream = ctx.sql(SLOW).execute_stream()
    caught: list[BaseException] = []
    runner = threading.Thread(target=_catching, args=(lambda: next(stream), caught))
    runner.start()
    wait_until(lambda: any(view.heartbeat.queries for view in ctx.nodes()), "a node at work")
    end(stream)
    runner.join(LATE_S)
    assert not runner.is_alive()
    assert [type(error) for error in caught] == [QueryCancelled]


def _catching(work: Callable[[], object], caught: list[BaseException]) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - the test looks at it
        caught.append(error)
