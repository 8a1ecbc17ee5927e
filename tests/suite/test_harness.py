"""The harness finds what it is there to find, and nothing else."""

from __future__ import annotations

from pathlib import Path

import datafusion
import pyarrow as pa
import pytest

from .harness import Bench, Outcome, answer_faults, misbehaviour
from .model import Query, Suite
from .report import summarise


@pytest.fixture(scope="module")
def plain() -> datafusion.SessionContext:
    ctx = datafusion.SessionContext()
    table = pa.table({"a": [3, 1, 2, 2], "b": ["x", "y", "z", "w"], "f": [0.1, 0.2, 0.3, 0.4]})
    ctx.register_record_batches("t", [table.to_batches()])
    return ctx


@pytest.mark.parametrize(
    ("sql", "answer", "wrong"),
    [
        ("SELECT a FROM t", [2, 3, 2, 1], None),
        ("SELECT a FROM t", [2, 3, 1, 1], "rows differ"),
        ("SELECT a FROM t", [2, 3, 2], "numbers of rows differ"),
        ("SELECT a FROM t ORDER BY a", [1, 2, 2, 3], None),
        ("SELECT a FROM t ORDER BY a", [2, 1, 2, 3], "differ"),
        ("SELECT a FROM t LIMIT 2", [2, 2], None),
        ("SELECT a FROM t LIMIT 2", [3, 3], "differ"),
        ("SELECT a FROM t LIMIT 2", [3], "numbers of rows differ"),
        ("SELECT a FROM t ORDER BY a LIMIT 2", [1, 2], None),
        ("SELECT a FROM t ORDER BY a LIMIT 2", [1, 3], "differ"),
        ("SELECT first_value(a) AS a FROM t", [1], "SQL leaves open"),
    ],
)
def test_answers_are_compared_in_all_that_sql_fixes(
    sql: str, answer: list[int], wrong: str | None, plain: datafusion.SessionContext
) -> None:
    frame = plain.sql(sql)
    actual = pa.table({"a": answer}).cast(frame.schema())
    faults = list(answer_faults(Query(name="q", sql=sql), plain, frame, frame.to_arrow_table(), actual))
    assert (faults == []) if wrong is None else (len(faults) == 1 and wrong in faults[0])


def test_what_a_query_says_to_be_open_may_differ_but_not_the_number_of_rows(plain: datafusion.SessionContext) -> None:
    frame = plain.sql("SELECT first_value(a) AS a FROM t")
    query = Query(name="q", sql="", undetermined="any row may be the first")
    for answer, right in (([1], True), ([1, 1], False)):
        actual = pa.table({"a": answer}).cast(frame.schema())
        assert (not list(answer_faults(query, plain, frame, frame.to_arrow_table(), actual))) is right


def test_floats_share_the_digits_that_the_query_says(plain: datafusion.SessionContext) -> None:
    frame = plain.sql("SELECT sum(f) AS s FROM t")
    expected = frame.to_arrow_table()
    for digits, factor, right in (
        (14, 1 + 1e-15, True),
        (14, 1 + 1e-12, False),
        (10, 1 + 1e-12, True),
        (10, 1.1, False),
    ):
        actual = pa.table({"s": [expected["s"][0].as_py() * factor]}).cast(frame.schema())
        faults = list(answer_faults(Query(name="q", sql="", digits=digits), plain, frame, expected, actual))
        assert (not faults) is right, (digits, factor)


def test_schemas_are_compared_whole(plain: datafusion.SessionContext) -> None:
    frame = plain.sql("SELECT count(*) AS n FROM t")
    expected = frame.to_arrow_table()
    for field, right in (
        (pa.field("n", pa.int64(), nullable=False), True),
        (pa.field("n", pa.int64()), False),
        (pa.field("m", pa.int64(), nullable=False), False),
        (pa.field("n", pa.int64(), nullable=False, metadata={"k": "v"}), False),
        (pa.field("n", pa.int32(), nullable=False), False),
    ):
        actual = pa.table([[4]], schema=pa.schema([field]))
        assert (not list(answer_faults(Query(name="q", sql=""), plain, frame, expected, actual))) is right, field


def _outcome(**changes: object) -> Outcome:
    fields: dict[str, object] = {
        "suite": "s",
        "query": "q",
        "partitions": 3,
        "faults": (),
        "rows": 1,
        "divisible": True,
        "distributed": True,
        "widest": 3,
        **changes,
    }
    return Outcome(**fields)  # type: ignore[arg-type]


HERE = {"distributed": False, "widest": 0, "reason": "DataFusion cannot encode the plan: x"}


@pytest.mark.parametrize(
    ("query", "outcome", "fault"),
    [
        ({}, {}, None),
        ({}, HERE, "was not distributed"),
        ({}, {**HERE, "divisible": False}, None),
        ({}, {"widest": 1}, "no stage"),
        ({}, {"widest": 1, "partitions": 1}, None),
        ({"one_task": "all rows"}, {"widest": 1}, None),
        ({"one_task": "all rows"}, {}, "none should have two"),
        ({"session": "cannot encode"}, HERE, None),
        ({"session": "there is nothing to read"}, HERE, "not because"),
        ({"session": "cannot encode"}, {}, "was distributed"),
        ({}, {"rows": 0}, "nothing was compared"),
        ({"empty": "nobody"}, {"rows": 0}, None),
        ({"empty": "nobody"}, {}, "should give none"),
    ],
)
def test_ways_are_judged(query: dict[str, str], outcome: dict[str, object], fault: str | None) -> None:
    faults = list(misbehaviour(Query(name="q", sql="", **query), _outcome(**outcome)))  # type: ignore[arg-type]
    assert (faults == []) if fault is None else (len(faults) == 1 and fault in faults[0])


def test_share_counts_runs_that_could_have_had_several_tasks() -> None:
    runs = [{}, {"partitions": 1, "widest": 1}, {"divisible": False, "widest": 1}, {"widest": 1}, HERE]
    (summary,) = summarise(_outcome(**run) for run in runs)  # type: ignore[arg-type]
    assert (summary.runs, summary.divisible, summary.divided) == (5, 3, 1)
    assert [reason for _, reason in summary.alone] == ["one task a stage", HERE["reason"]]


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="two queries of the name 'q'"):
        Suite(name="s", queries=(Query(name="q", sql=""),) * 2, write=lambda _: None, register=lambda *_: None)


def test_digits_are_those_that_answers_are_compared_to() -> None:
    with pytest.raises(ValueError, match="not 12"):
        Query(name="q", sql="", digits=12)


def test_queries_that_fail_are_faults_of_theirs(tmp_path: Path) -> None:
    suite = Suite(name="s", queries=(), write=lambda _: None, register=lambda *_: None)
    with Bench(tmp_path) as bench:
        outcomes = [bench.run(suite, Query(name="q", sql=sql), 1) for sql in ("SELECT nothing", "SELECT 1 AS n")]
    assert [fault[:24] for fault in outcomes[0].faults] == ["plain DataFusion raises "]
    assert (outcomes[1].faults, outcomes[1].rows, outcomes[1].divisible) == ((), 1, False)
