"""A query that is kept can be read back: what became of each attempt, and any of its tasks once more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apiary_df import LocalSwarm, SessionContext, Settings
from apiary_df.demo import tpch_queries
from apiary_df.errors import ConfigError, ExecutionFailed, FunctionsRefused, TaskFailed
from apiary_df.protocol import keys
from apiary_df.replay.again import prepared, run
from apiary_df.replay.trace import UNENDED, UNREADABLE, find_queries, read_trace
from apiary_df.store import open_store
from swarm.conftest import Open, opening
from swarm.helpers import CALM, Held, kill_and_bury, wait_until

pytestmark = pytest.mark.processes

ONE_ATTEMPT: dict[str, Any] = {**CALM, "heartbeat_s": 0.2, "speculate": False}
"""One attempt a task, however busy the machine is."""

ATTACHED = {"inline_partial_bytes": 0, "attached_partial_bytes": 8 << 20}
"""Partials lie behind their commit records."""

Start = Callable[..., tuple[LocalSwarm, SessionContext]]

GROUPS = "SELECT l_returnflag, count(*) AS n FROM lineitem GROUP BY l_returnflag ORDER BY l_returnflag"


CHANGED = (tpch_queries()[3], tpch_queries()[17])
"""Queries of which a stage is joined where its rows are made, or leaves rows out."""


@pytest.fixture(scope="module")
def kept_swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSwarm]:
    """Two nodes on a folder of their own: what is kept there is in no other test's way."""
    storage = str(tmp_path_factory.mktemp("kept"))
    with LocalSwarm(2, storage=storage, in_process=True, settings=Settings(**ONE_ATTEMPT)) as swarm:
        yield swarm


@pytest.fixture
def keeping(kept_swarm: LocalSwarm, tpch_files: dict[str, Path]) -> Iterator[Open]:
    """Opens sessions on that swarm."""
    with opening(kept_swarm, tpch_files, **ONE_ATTEMPT) as open_session:
        yield open_session


@pytest.fixture
def bad_text(tmp_path: Path) -> str:
    """A folder of two files: the second has text that is no number."""
    pq.write_table(pa.table({"g": [1, 2], "text": ["1", "2"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"g": [1, 2], "text": ["3", "hive"]}), tmp_path / "1.parquet")
    return str(tmp_path)


class TestOfAQueryThatSucceeded:
    def test_every_attempt_is_told_with_its_moments(self, keeping: Open) -> None:
        ctx = keeping(keep=True)
        expected = ctx.sql(GROUPS).to_pydict()
        report = ctx.last_query
        assert report is not None
        assert report.kept
        trace = read_trace(open_store(str(ctx.storage)), report.query_id)
        assert (trace.found.state, trace.found.error, trace.rows) == ("done", None, len(expected["n"]))
        assert trace.found.sql == GROUPS
        assert trace.attempts == report.attempts
        on_nodes = [attempt for attempt in trace.attempts if not attempt.here]
        assert len(on_nodes) == report.tasks > 1
        for attempt in on_nodes:
            assert attempt.outcome == "committed"
            assert attempt.sent_s is not None
            assert attempt.started_s is not None
            assert attempt.ended_s is not None
            assert 0 <= attempt.sent_s <= attempt.started_s <= attempt.ended_s <= (trace.found.seconds or 0)
        assert [attempt.stage for attempt in trace.attempts if attempt.here] == [trace.root]

    @pytest.mark.parametrize(("sql", "placed"), [(GROUPS, {}), *((sql, {}) for sql in CHANGED), (CHANGED[0], ATTACHED)])
    def test_every_task_gives_the_rows_again_that_were_committed(
        self, keeping: Open, sql: str, placed: dict[str, int]
    ) -> None:
        ctx = keeping(keep=True, **placed)
        for known in ("threshold", "threshold_rows"):
            ctx.sql(f"SET datafusion.optimizer.hash_join_single_partition_{known} = 0").collect()
        ctx.sql(sql).collect()
        assert ctx.last_query is not None
        assert bool(ctx.last_query.changes) == (sql in CHANGED)
        store = open_store(str(ctx.storage))
        trace = read_trace(store, ctx.last_query.query_id)
        for attempt in trace.attempts:
            with prepared(store, Settings(), trace, attempt.stage, attempt.task) as ready:
                assert ready.commit is None or (ready.commit.partial.within is not None) == bool(placed)
                again = run(ready, 5)
            assert again.equal is (None if attempt.here else True)
            assert sum(again.rows) == attempt.rows
            assert sum(batch.num_rows for batch in again.first) == min(5, attempt.rows)

    def test_python_functions_run_again_only_if_they_are_allowed_to(self, keeping: Open) -> None:
        ctx = keeping(keep=True)
        ctx.register_udf(datafusion.udf(lambda flags: flags, [pa.string_view()], pa.string_view(), "stable", "same"))
        ctx.sql("SELECT same(l_returnflag) AS f, count(*) AS n FROM lineitem GROUP BY f").collect()
        assert ctx.last_query is not None
        store = open_store(str(ctx.storage))
        trace = read_trace(store, ctx.last_query.query_id)
        with pytest.raises(FunctionsRefused), prepared(store, Settings(), trace, 0, 0):
            pass
        with prepared(store, Settings(), trace, 0, 0, allow_udfs=True) as ready:
            assert run(ready, 1).equal

    def test_nothing_is_kept_of_it_if_only_failures_are_to_be(self, keeping: Open) -> None:
        ctx = keeping(keep_failed=True)
        ctx.sql(GROUPS).collect()
        assert ctx.last_query is not None
        assert not ctx.last_query.kept
        with pytest.raises(ConfigError, match="removed at its end"):
            read_trace(open_store(str(ctx.storage)), ctx.last_query.query_id)


class TestOfAQueryThatFailed:
    def test_the_cause_is_told_and_the_task_fails_again(self, keeping: Open, bad_text: str) -> None:
        ctx = keeping(keep_failed=True)
        ctx.register_parquet("mixed", bad_text)
        with pytest.raises(TaskFailed) as caught:
            ctx.sql("SELECT g, sum(CAST(text AS INT)) AS s FROM mixed GROUP BY g").collect()
        report = ctx.last_query
        assert report is not None
        assert (report.state, report.kept) == ("failed", True)
        assert report.error == caught.value.to_info()
        store = open_store(str(ctx.storage))
        trace = read_trace(store, report.query_id)
        (failed,) = (attempt for attempt in trace.attempts if attempt.outcome == "failed")
        assert failed.error is not None
        assert failed.error.code == "execution_failed"
        with (
            pytest.raises(ExecutionFailed, match="hive"),
            prepared(store, Settings(), trace, failed.stage, failed.task) as ready,
        ):
            run(ready, 1)

    def test_its_report_tells_of_it_though_nothing_is_kept(self, keeping: Open, bad_text: str) -> None:
        ctx = keeping()
        ctx.register_parquet("mixed", bad_text)
        with pytest.raises(TaskFailed):
            ctx.sql("SELECT g, sum(CAST(text AS INT)) AS s FROM mixed GROUP BY g").collect()
        report = ctx.last_query
        assert report is not None
        assert (report.state, report.kept) == ("failed", False)
        assert "failed" in {attempt.outcome for attempt in report.attempts}
        store, left = open_store(str(ctx.storage)), keys.query_prefix(report.query_id)
        wait_until(lambda: not store.list(left), "the query gone")


def test_of_a_query_that_was_closed_early_it_is_told_what_it_did(keeping: Open) -> None:
    ctx = keeping(keep=True)
    stream = ctx.sql("SELECT l_orderkey, l_comment FROM lineitem").execute_stream()
    first = next(stream).to_pyarrow()
    stream.close()
    assert ctx.last_query is not None
    trace = read_trace(open_store(str(ctx.storage)), ctx.last_query.query_id)
    assert (trace.found.state, trace.found.error, trace.rows) == ("cancelled", None, first.num_rows)
    assert trace.attempts[-1].outcome == "stopped"
    assert not [key for key in trace.objects if keys.number_of_mail(key) is not None]


def test_of_a_query_without_an_outcome_its_objects_tell(keeping: Open) -> None:
    ctx = keeping(keep=True)
    ctx.sql(GROUPS).collect()
    report = ctx.last_query
    assert report is not None
    store = open_store(str(ctx.storage))
    store.delete([keys.outcome(report.query_id), *(keys.tasks(report.query_id, s, 0) for s in range(report.stages))])
    trace = read_trace(store, report.query_id)
    assert (trace.found.state, trace.found.sql) == (UNENDED, GROUPS)
    assert [(a.stage, a.task, a.attempt, a.node_id, a.outcome, a.rows) for a in trace.attempts] == [
        (a.stage, a.task, a.attempt, a.node_id, a.outcome, a.rows) for a in report.task_reports
    ]
    store.put(keys.outcome(report.query_id), b"nothing of ours")
    refused = read_trace(store, report.query_id)
    assert refused.found.state == UNREADABLE
    assert any("outcome.json" in words for words in refused.unreadable)
    with (
        pytest.raises(ConfigError, match="was not kept"),
        prepared(store, Settings(), trace, trace.attempts[0].stage, trace.attempts[0].task),
    ):
        pass


def test_what_is_there_is_listed(kept_swarm: LocalSwarm, keeping: Open) -> None:
    ctx = keeping(keep=True)
    ctx.sql(GROUPS).collect()
    assert ctx.last_query is not None
    found = {query.query_id: query for query in find_queries(open_store(kept_swarm.storage))}
    listed = found[ctx.last_query.query_id]
    assert (listed.state, listed.kept, listed.sql) == ("done", True, GROUPS)
    assert listed.objects > 4


def test_a_query_that_never_left_this_process_is_not_kept(keeping: Open) -> None:
    ctx = keeping(keep=True)
    ctx.sql("SELECT 1 AS x").collect()
    assert ctx.last_query is not None
    assert (ctx.last_query.state, ctx.last_query.kept, ctx.last_query.attempts) == ("done", False, ())


def test_a_query_that_failed_in_this_process_is_reported(keeping: Open) -> None:
    ctx = keeping()
    with pytest.raises(ExecutionFailed, match="Divide by zero"):
        ctx.sql("SELECT 1 / (n_nationkey - n_nationkey) AS x FROM nation LIMIT 1").collect()
    assert ctx.last_query is not None
    assert ctx.last_query.state == "failed"
    assert ctx.last_query.error is not None
    assert ctx.last_query.error.code == "execution_failed"


def test_the_attempt_that_a_killed_node_had_is_told(
    own_swarm: Callable[..., tuple[LocalSwarm, SessionContext]], tmp_path: Path
) -> None:
    swarm, ctx = own_swarm(2, keep=True, **ONE_ATTEMPT)
    killed = swarm.node_ids[0]
    held = Held(tmp_path, ctx)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: ctx.sql(f"EXPLAIN ANALYZE {Held.SQL}").to_pydict())
        wait_until(lambda: _is_busy(ctx, killed), "the node at work")
        kill_and_bury(swarm, killed)
        held.let_go()
        (explained,) = answer.result()["plan"]
    assert ctx.last_query is not None
    trace = read_trace(open_store(swarm.storage), ctx.last_query.query_id)
    lost = [attempt for attempt in trace.attempts if attempt.outcome == "lost"]
    assert lost
    for attempt in lost:
        assert attempt.node_id == killed
        assert attempt.error is not None
        assert attempt.sent_s is not None
        assert attempt.ended_s is not None
        assert attempt.ended_s > attempt.sent_s
        assert f"    attempt {attempt.attempt} on {killed} lost after " in explained
        counting = [a for a in trace.attempts if (a.stage, a.task) == (attempt.stage, attempt.task)][-1]
        assert (counting.outcome, counting.node_id) == ("committed", swarm.node_ids[1])


def _is_busy(ctx: SessionContext, node_id: str) -> bool:
    return any(view.info.node_id == node_id and view.heartbeat.queries for view in ctx.nodes())
