"""Which nodes run Python functions: those that allow them, of the session's Python; otherwise the query is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]
import datafusion
import pytest

from apiary_df import LocalSwarm, SessionContext
from apiary_df.coordinator import QueryRun
from apiary_df.errors import FunctionsRefused, TaskFailed
from apiary_df.footers import FooterCache
from apiary_df.plan.rules import RewriteOptions
from apiary_df.planning import RunsOnSwarm, SwarmPlanner
from apiary_df.protocol import keys
from apiary_df.protocol.messages import Heartbeat
from apiary_df.protocol.storage import read_message, write_message
from apiary_df.query import Query
from apiary_df.store import Store, open_store
from apiary_df.view import SwarmView
from swarm.helpers import FORCED, check_same, check_was_distributed
from swarm.python_functions import ROWS, register

pytestmark = pytest.mark.processes


@pytest.fixture
def closed(facts: Path) -> Iterator[tuple[LocalSwarm, SessionContext]]:
    """A swarm whose node does not run Python functions, and a session on it."""
    with (
        LocalSwarm(1, allow_udfs=False, in_process=True) as swarm,
        SessionContext(storage=swarm.storage, **FORCED) as session,
    ):
        register(session, facts)
        yield swarm, session


def all_keys(store: Store) -> set[str]:
    return {meta.key for meta in store.list("")}


def test_a_query_with_functions_is_refused_before_any_work(closed: tuple[LocalSwarm, SessionContext]) -> None:
    swarm, session = closed
    frame = session.sql("SELECT shout(w) AS k, mean(y) AS m FROM facts GROUP BY shout(w)")
    before = all_keys(swarm.store)
    with pytest.raises(FunctionsRefused, match="--allow-udfs") as caught:
        frame.collect()
    assert caught.value.details["functions"] == "mean (aggregate), shout (scalar)"
    assert swarm.node_ids[0] in caught.value.message
    assert not caught.value.retryable
    assert all_keys(swarm.store) == before
    assert session.last_query is None


def test_a_write_with_functions_is_refused_before_any_work(
    closed: tuple[LocalSwarm, SessionContext], tmp_path: Path
) -> None:
    _, session = closed
    with pytest.raises(FunctionsRefused, match="--allow-udfs"):
        session.sql(f"COPY (SELECT shout(w) AS a FROM facts) TO '{tmp_path / 'out'}/' STORED AS PARQUET").collect()
    assert list(tmp_path.iterdir()) == []


def test_a_query_without_functions_is_not_refused(closed: tuple[LocalSwarm, SessionContext]) -> None:
    _, session = closed
    assert session.sql("SELECT count(*) AS n, max(abs(x)) AS m FROM facts").to_pydict() == {"n": [ROWS], "m": [22]}
    check_was_distributed(session)


def test_a_literal_that_looks_like_a_function_is_none(closed: tuple[LocalSwarm, SessionContext]) -> None:
    _, session = closed
    tagged = b"DFPYUDF\x01\x03\x0b" + cloudpickle.dumps(("twice",))
    sql = f"SELECT count(*) AS n FROM facts WHERE arrow_cast(w, 'Binary') <> X'{tagged.hex()}'"
    assert session.sql(sql).to_pydict() == {"n": [363]}
    check_was_distributed(session)


def test_explain_tells_of_the_refusal_and_runs_nothing(closed: tuple[LocalSwarm, SessionContext]) -> None:
    _, session = closed
    text = session.sql("SELECT plus_one(x) FROM facts").explain_text()
    assert text.startswith("refused: the query's tasks run Python functions (plus_one (scalar))")
    assert "--allow-udfs" in text
    with pytest.raises(FunctionsRefused):
        session.sql("EXPLAIN ANALYZE SELECT plus_one(x) FROM facts").collect()


def test_functions_of_the_results_stage_need_no_node(closed: tuple[LocalSwarm, SessionContext]) -> None:
    _, session = closed
    rows = session.sql("SELECT plus_one(n) AS a FROM (SELECT max(id) AS n FROM facts WHERE g >= 0)").to_pydict()
    assert rows == {"a": [ROWS]}
    check_was_distributed(session)


def test_only_nodes_that_allow_functions_are_given_any(
    closed: tuple[LocalSwarm, SessionContext], oracle: datafusion.SessionContext
) -> None:
    plain_nodes, session = closed
    with LocalSwarm(1, storage=plain_nodes.storage, in_process=True) as open_nodes:
        sql = "SELECT g, mean(y) AS m, longest(w) AS l, longest_of_eight(w) AS e FROM facts GROUP BY g"
        frame = session.sql(sql)
        check_same(oracle.sql(sql).to_arrow_table(), frame.to_arrow_table(), ordered=False)
        report = session.last_query
        assert report is not None
        assert {task.node_id for task in report.task_reports} == set(open_nodes.node_ids)
        text = frame.explain_text()
        assert f"on the nodes {open_nodes.node_ids[0]}; left out: {plain_nodes.node_ids[0]} (it was not star" in text
        assert "Python functions: longest (aggregate), longest_of_eight (aggregate), mean (aggregate)" in text


def run_unchecked(session: SessionContext, swarm: LocalSwarm, sql: str) -> QueryRun:
    """Return a run of a query whose functions its coordinator does not know of."""
    planned = SwarmPlanner(session, lambda _twin: None).plan(
        session.sql(sql).logical_plan(), RewriteOptions(partitions=2, small_bytes=0)
    )
    assert isinstance(planned, RunsOnSwarm)
    assert planned.functions
    query = Query(
        sql=sql, graph=planned.graph, settings=planned.settings, schema=session.sql(sql).schema, reason="forced"
    )
    view = SwarmView(swarm.store, "session-unchecked", session.settings)
    return QueryRun(query, view, session.settings, FooterCache())


def test_a_node_refuses_a_task_with_functions_by_itself(closed: tuple[LocalSwarm, SessionContext]) -> None:
    swarm, session = closed
    with pytest.raises(TaskFailed, match="which this node was not started for") as caught:
        list(run_unchecked(session, swarm, "SELECT shout(w) AS a FROM facts"))
    assert isinstance(caught.value.__cause__, FunctionsRefused)
    assert caught.value.details["functions"] == "shout (scalar)"
    assert "attempts" not in caught.value.message


def test_a_task_that_a_node_refused_is_done_elsewhere(closed: tuple[LocalSwarm, SessionContext]) -> None:
    swarm, session = closed
    with LocalSwarm(1, storage=swarm.storage, in_process=True) as others:
        run = run_unchecked(session, swarm, "SELECT plus_one(id) AS a FROM facts")
        ids = [value for batch in run for value in batch.column(0).to_pylist()]
        assert sorted(ids) == list(range(1, ROWS + 1))
        assert {task.node_id for task in run.report().task_reports} == set(others.node_ids)
        assert 1 in {task.attempt for task in run.report().task_reports}


def beat_of(swarm: LocalSwarm) -> Heartbeat:
    key = keys.heartbeat(swarm.node_ids[0])
    beat = read_message(swarm.store, key, Heartbeat)
    assert beat is not None
    return beat


def test_a_node_of_another_python_is_not_fit_for_functions(facts: Path, tmp_path: Path) -> None:
    import msgspec

    store = open_store(str(tmp_path / "root"))
    with LocalSwarm(1, allow_udfs=True, in_process=True) as other:
        beat = msgspec.structs.replace(beat_of(other), node_id="older", python_version="3.9")
    write_message(store, keys.heartbeat("older"), beat)
    with SessionContext(storage=store.url, **FORCED) as session:
        register(session, facts)
        with pytest.raises(FunctionsRefused, match=r"older \(it runs Python 3.9, this session 3\.\d+\)"):
            session.sql("SELECT plus_one(x) FROM facts").collect()
    assert [meta.key for meta in store.list(keys.QUERIES)] == []


def test_nodes_that_a_session_starts_run_functions_and_no_other(swarm: LocalSwarm, tmp_path: Path) -> None:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (beat_of(swarm).allow_udfs, beat_of(swarm).python_version) == (True, own)
    with LocalSwarm(1, allow_udfs=False) as plain_node:  # `apiary node`, without a flag
        assert (beat_of(plain_node).allow_udfs, beat_of(plain_node).python_version) == (False, own)
    with SessionContext(storage=(tmp_path / "root").as_uri(), local_bees=1) as session:
        assert [view.heartbeat.allow_udfs for view in session.nodes()] == [True]
