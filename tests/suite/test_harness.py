"""The harness finds what it is there to find, and nothing else."""

from __future__ import annotations

import datafusion
import pyarrow as pa
import pytest

from apiary_df.demo import TPCH_ORDER_COLUMNS, tpch_queries

from .answers import difference, fixed_by
from .harness import Outcome, misbehaviour
from .model import Query, Suite
from .report import summarise
from .tables import register_tables
from .tpch import TPCH


@pytest.fixture(scope="module")
def plain() -> datafusion.SessionContext:
    ctx = datafusion.SessionContext()
    table = pa.table({"a": [3, 1, 2, 2], "b": ["x", "y", "z", "w"], "f": [0.1, 0.2, 0.3, 0.4]})
    ctx.register_record_batches("t", [table.to_batches()])
    return ctx


@pytest.mark.parametrize(
    ("sql", "order", "limited"),
    [
        ("SELECT a, b FROM t", (), False),
        ("SELECT a, b FROM t ORDER BY b DESC, a", (1, 0), False),
        ("SELECT a + 1 FROM t ORDER BY a + 1 LIMIT 2", (0,), True),
        ("SELECT b AS a, a AS b FROM t ORDER BY 2 OFFSET 1", (1,), True),
        ("SELECT b, a FROM t ORDER BY a, f, b", (1,), False),
        ("SELECT t.a, u.b FROM t JOIN t u ON t.a = u.a ORDER BY u.b, u.a", (1,), False),
        ("SELECT t.a FROM t JOIN t u ON t.a < u.a ORDER BY u.a", (), False),
        ("SELECT a, count(*) FROM t GROUP BY a ORDER BY count(*) DESC, a", (1, 0), False),
        ("SELECT * FROM (SELECT a FROM t ORDER BY a) AS s", (), False),
        ("SELECT a FROM t UNION ALL SELECT a FROM t ORDER BY a", (0,), False),
    ],
)
def test_order_is_read_from_the_plan(
    sql: str, order: tuple[int, ...], limited: bool, plain: datafusion.SessionContext
) -> None:
    fixed = fixed_by(plain.sql(sql))
    assert (fixed.order, fixed.unlimited is not None) == (order, limited)


def test_order_of_tpch_is_that_of_its_order_by(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tpch-order")
    TPCH.write(folder)
    ctx = datafusion.SessionContext()
    register_tables(ctx, folder)
    for number, sql in tpch_queries().items():
        frame = ctx.sql(sql)
        names = frame.schema().names
        assert tuple(names[i] for i in fixed_by(frame).order) == TPCH_ORDER_COLUMNS[number], number


@pytest.mark.parametrize(
    ("sql", "answer", "wrong"),
    [
        ("SELECT a FROM t", [2, 3, 2, 1], None),
        ("SELECT a FROM t", [2, 3, 1, 1], "rows differ"),
        ("SELECT a FROM t", [2, 3, 2], "numbers of rows differ"),
        ("SELECT a FROM t ORDER BY a", [1, 2, 2, 3], None),
        ("SELECT a FROM t ORDER BY a", [2, 1, 2, 3], "position 0"),
        ("SELECT a FROM t LIMIT 2", [2, 2], None),
        ("SELECT a FROM t LIMIT 2", [3, 3], "not among the rows without LIMIT"),
        ("SELECT a FROM t LIMIT 2", [3], "numbers of rows differ"),
        ("SELECT a FROM t ORDER BY a LIMIT 2", [1, 2], None),
        ("SELECT a FROM t ORDER BY a LIMIT 2", [1, 3], "position 1"),
    ],
)
def test_answers_are_compared_in_what_sql_fixes(
    sql: str, answer: list[int], wrong: str | None, plain: datafusion.SessionContext
) -> None:
    frame = plain.sql(sql)
    found = difference(plain, frame, frame.to_arrow_table(), pa.table({"a": answer}).cast(frame.schema()), 14)
    assert found is None if wrong is None else wrong in str(found)


def test_rows_that_tie_at_a_limit_may_be_any_of_them(plain: datafusion.SessionContext) -> None:
    frame = plain.sql("SELECT a, b FROM t ORDER BY a LIMIT 2")
    for tied, same in (("z", True), ("w", True), ("x", False)):
        actual = pa.table({"a": [1, 2], "b": ["y", tied]}).cast(frame.schema())
        assert (difference(plain, frame, frame.to_arrow_table(), actual, 14) is None) is same, tied


def test_schemas_are_compared_whole(plain: datafusion.SessionContext) -> None:
    frame = plain.sql("SELECT count(*) AS n FROM t")
    expected = frame.to_arrow_table()
    for field in (
        pa.field("n", pa.int64()),
        pa.field("m", pa.int64(), nullable=False),
        pa.field("n", pa.int64(), nullable=False, metadata={"k": "v"}),
        pa.field("n", pa.int32(), nullable=False),
    ):
        found = difference(plain, frame, expected, pa.table([[4]], schema=pa.schema([field])), 14)
        assert "schemas differ" in str(found), field


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
