"""Sessions that verify: the same rows as without, only after they were compared, or a typed error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datafusion
import pyarrow as pa
import pytest
from datafusion import udf

from apiary_df import SessionContext
from apiary_df.errors import AnswerDiffers, QueryCancelled
from apiary_df.report import QueryReport, Verification
from swarm.conftest import Open, register
from swarm.helpers import FORCED, check_nothing_left, check_same

pytestmark = pytest.mark.processes

QUERIES: dict[str, tuple[str, Verification]] = {
    "ordered": (
        "SELECT o_orderstatus, count(*) AS n FROM orders GROUP BY o_orderstatus ORDER BY o_orderstatus",
        Verification(compared=("schema", "rows", "order")),
    ),
    "unordered": (
        "SELECT o_orderkey, o_custkey FROM orders WHERE o_orderkey < 1000",
        Verification(compared=("schema", "rows")),
    ),
    "order of a column that is not shown": (
        "SELECT o_orderpriority FROM orders ORDER BY o_orderstatus, o_orderkey",
        Verification(compared=("schema", "rows", "order")),
    ),
    "the time": ("SELECT o_orderkey, now() AS t FROM orders", Verification(compared=("schema", "rows"))),
    "volatile": (
        "SELECT o_orderkey, random() AS r FROM orders",
        Verification(
            compared=("schema", "row count", "columns o_orderkey"),
            open=("volatile functions give another value each time",),
        ),
    ),
    "empty": ("SELECT o_orderkey FROM orders WHERE o_orderkey < 0", Verification(compared=("schema", "rows"))),
}


@pytest.fixture(scope="module")
def verifying(swarm: Any, tpch_files: dict[str, Path]) -> Iterator[SessionContext]:
    with SessionContext(storage=swarm.storage, verify=True, **FORCED) as ctx:
        register(ctx, tpch_files)
        yield ctx


def report_of(ctx: SessionContext) -> QueryReport:
    assert ctx.last_query is not None
    return ctx.last_query


@pytest.mark.parametrize("name", QUERIES)
def test_the_report_says_what_was_compared(
    name: str, verifying: SessionContext, plain: datafusion.SessionContext
) -> None:
    sql, expected = QUERIES[name]
    answer = verifying.sql(sql).to_arrow_table()
    report = report_of(verifying)
    assert report.distributed, report.reason
    assert report.rows == len(answer)
    assert report.verified is not None
    assert (report.verified.compared, report.verified.open) == (expected.compared, expected.open)
    assert report.verified.complete == (not expected.open)
    if name not in ("the time", "volatile"):
        check_same(plain.sql(sql).to_arrow_table(), answer, ordered="order" in expected.compared)
    check_nothing_left(str(verifying.storage))


@pytest.mark.parametrize(
    ("sql", "why"),
    [("SELECT 1 AS one", "ran in this process"), ("SHOW ALL", "ran in this process")],
)
def test_what_was_not_compared_has_its_reason(sql: str, why: str, verifying: SessionContext) -> None:
    verifying.sql(sql).collect()
    verified = report_of(verifying).verified
    assert verified is not None
    assert (verified.compared, verified.complete) == ((), False)
    assert why in verified.open[0]


def test_without_the_setting_nothing_is_said(shared: SessionContext) -> None:
    shared.sql(QUERIES["ordered"][0]).collect()
    assert report_of(shared).verified is None


def test_the_setting_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APIARY_VERIFY", "yes")
    ctx = SessionContext()
    ctx.sql("SELECT 1").collect()
    assert report_of(ctx).verified is not None


@pytest.fixture
def lying(verifying: SessionContext) -> Iterator[SessionContext]:
    """A session with a function that says of itself that it depends on nothing but its argument."""

    def here(keys: pa.Array) -> pa.Array:
        return pa.array([os.getpid()] * len(keys), pa.int64())

    verifying.register_udf(udf(here, [pa.int64()], pa.int64(), "immutable", "here"))
    yield verifying
    verifying.deregister_udf("here")


LYING = "SELECT o_orderkey AS k, here(o_orderkey) AS p FROM orders ORDER BY k"


def test_a_difference_is_an_error_that_names_query_and_row(lying: SessionContext) -> None:
    with pytest.raises(AnswerDiffers) as caught:
        lying.sql(LYING).collect()
    error = caught.value
    assert error.code == "answer_differs"
    assert not error.retryable
    query_id = report_of(lying).query_id
    assert query_id
    assert error.details["query_id"] == query_id
    assert query_id in error.message
    assert LYING in error.message
    assert f"p: expected {os.getpid()}, actual " in error.message
    assert "row 0 of expected, row 0 of actual" in error.details["difference"]
    assert "keep=True" in error.message
    assert report_of(lying).verified is None
    check_nothing_left(str(lying.storage))


def test_no_row_is_handed_over_before_the_verdict(lying: SessionContext) -> None:
    stream = lying.sql(LYING).execute_stream()
    with pytest.raises(AnswerDiffers):
        next(stream)
    seen = []
    with pytest.raises(AnswerDiffers):
        for batch in lying.sql(LYING):
            seen.append(batch)
    assert seen == []


def test_a_stream_can_be_cancelled_and_closed_before_its_verdict(verifying: SessionContext) -> None:
    stream = verifying.sql("SELECT o_orderkey FROM orders").execute_stream()
    stream.cancel()
    with pytest.raises(QueryCancelled):
        next(stream)
    other = verifying.sql("SELECT o_orderkey FROM orders").execute_stream()
    other.close()
    assert list(other) == []
    check_nothing_left(str(verifying.storage))


def test_an_explanation_is_shown_as_ever(verifying: SessionContext) -> None:
    (text,) = verifying.sql("EXPLAIN ANALYZE SELECT sum(o_custkey) FROM orders").to_pydict()["plan"]
    assert "distributed:" in text
    assert "ran in" in text


def test_a_session_that_joins_can_verify_while_others_do_not(joined: Open) -> None:
    ctx = joined(verify=True)
    assert (
        ctx.sql("SELECT sum(l_orderkey) AS n FROM lineitem").to_pydict()
        == joined().sql("SELECT sum(l_orderkey) AS n FROM lineitem").to_pydict()
    )
    verified = report_of(ctx).verified
    assert verified is not None
    assert verified.complete


def test_a_write_is_not_done_twice(verifying: SessionContext, tmp_path: Path) -> None:
    verifying.sql(f"COPY (SELECT o_orderkey FROM orders) TO '{tmp_path}/out/' STORED AS PARQUET").collect()
    verified = report_of(verifying).verified
    assert verified is not None
    assert verified.open == ("a statement that writes is not run twice",)
    keys = datafusion.SessionContext().read_parquet(f"{tmp_path}/out/")
    assert (
        keys.count() == keys.distinct().count() == verifying.sql("SELECT count(*) AS n FROM orders").to_pydict()["n"][0]
    )


def test_rows_that_go_into_a_table_in_memory_go_there_once(verifying: SessionContext) -> None:
    verifying.sql("CREATE TABLE kept AS SELECT o_orderkey FROM orders WHERE o_orderkey < 500").collect()
    try:
        before = verifying.table("kept").count()
        verifying.sql("INSERT INTO kept SELECT o_orderkey FROM orders WHERE o_orderkey < 500").collect()
        assert verifying.table("kept").count() == 2 * before > 0
    finally:
        verifying.deregister_table("kept")
