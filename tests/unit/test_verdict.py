"""The verdict over two answers: no false alarm where SQL leaves something open, an alarm wherever it does not."""

from __future__ import annotations

from collections.abc import Callable

import datafusion
import pyarrow as pa
import pytest

from apiary_df.verify.verdict import INNER_ORDER, WHICH_ROWS, Judge, Verdict

ROWS = 300
TABLE = pa.table(
    {
        "id": list(range(ROWS)),
        "g": [("a", "b", "c", None)[i % 4] for i in range(ROWS)],
        "n": [None if i % 7 == 0 else i % 5 for i in range(ROWS)],
        "x": [(-1) ** i * i / 7 for i in range(ROWS)],
    }
)

FIXED = (
    "SELECT * FROM t",
    "SELECT g, count(*) AS c, sum(x) AS s FROM t GROUP BY g ORDER BY g",
    "SELECT id FROM t ORDER BY x DESC, id",
    "SELECT id FROM t ORDER BY g, n",
    "SELECT t.id, u.id FROM t JOIN t u USING (id) ORDER BY t.n NULLS FIRST, t.id LIMIT 20 OFFSET 5",
    "SELECT t.id, u.id FROM t JOIN t u ON t.id = u.id ORDER BY t.id",
    "SELECT id, id + 1 AS j FROM (SELECT id FROM t ORDER BY id LIMIT 40) s",
    "SELECT g, array_agg(id ORDER BY id) AS ids FROM t GROUP BY g ORDER BY g",
    "SELECT id, rank() OVER (PARTITION BY g ORDER BY n) AS r FROM t",
)
"""Queries whose answers hold the same rows however they are run."""

OPEN = (
    "SELECT id FROM t LIMIT 10",
    "SELECT id FROM t OFFSET 290",
    "SELECT id, g FROM t ORDER BY g LIMIT 10",
    "SELECT id, g FROM t ORDER BY g, n DESC LIMIT 10 OFFSET 70",
    "SELECT id + 1, g AS h FROM (SELECT * FROM t ORDER BY n LIMIT 30) s",
    "SELECT id FROM t ORDER BY g LIMIT 7",
    "SELECT g, avg(x) AS a FROM t GROUP BY g ORDER BY count(*) LIMIT 2",
    "SELECT g, array_agg(id) AS ids FROM t GROUP BY g",
    "SELECT string_agg(g, ',') AS gs FROM t",
    "SELECT id, row_number() OVER (PARTITION BY g ORDER BY n) AS r FROM t",
    "SELECT DISTINCT ON (g) g, id FROM t ORDER BY g",
    "SELECT g, first_value(id) AS f FROM t GROUP BY g",
    "SELECT sum(id) FROM (SELECT id FROM t LIMIT 10) s",
    "SELECT id, random() AS r FROM t",
    "SELECT id, uuid() AS u FROM t ORDER BY id",
    "SELECT id, r, random() AS z FROM (SELECT id, random() AS r FROM t) q",
    "SELECT id, n, random() AS z FROM (SELECT id, row_number() OVER (ORDER BY g) AS n FROM t) q",
    "SELECT f + 1, random() AS z FROM (SELECT g, first_value(id) AS f FROM t GROUP BY g) q",
    "SELECT count(*), random() FROM t GROUP BY random() < 0.5",
    "SELECT count(*) FROM t WHERE random() < 0.5",
    "SELECT id FROM t WHERE x > (SELECT random()) ORDER BY id",
    "SELECT id FROM t ORDER BY random()",
    "SELECT approx_percentile_cont(0.3) WITHIN GROUP (ORDER BY x) AS p FROM t",
)
"""Queries of which SQL leaves something open."""


def session(partitions: int, batch_rows: int, table: pa.Table = TABLE) -> datafusion.SessionContext:
    """A session over the table in so many pieces."""
    config = datafusion.SessionConfig({"datafusion.execution.batch_size": str(batch_rows)})
    ctx = datafusion.SessionContext(config.with_target_partitions(partitions))
    batches = table.to_batches(max_chunksize=batch_rows)
    ctx.register_record_batches("t", [batches[i::partitions] for i in range(partitions)])
    return ctx


@pytest.fixture(scope="module")
def plain() -> datafusion.SessionContext:
    return session(1, 8192)


@pytest.fixture(scope="module")
def other() -> datafusion.SessionContext:
    """The same rows, met in another order."""
    order = [(i * 7919) % ROWS for i in range(ROWS)]
    return session(3, 16, TABLE.take(order))


def judge(ctx: datafusion.SessionContext, sql: str, actual: pa.Table) -> Verdict:
    frame = ctx.sql(sql)
    return Judge(ctx, frame.logical_plan()).judge(frame.to_arrow_table(), actual)


@pytest.mark.parametrize("sql", FIXED)
def test_a_right_answer_is_found_right_in_all(
    sql: str, plain: datafusion.SessionContext, other: datafusion.SessionContext
) -> None:
    verdict = judge(plain, sql, other.sql(sql).to_arrow_table())
    assert verdict.difference is None, str(verdict.difference)
    assert verdict.compared[:2] == ("schema", "rows")
    ordered = "ORDER BY" in sql.rsplit(")", 1)[-1]
    assert ("order" in verdict.compared) == ordered
    assert not [reason for reason in verdict.open if "floats" not in reason]


@pytest.mark.parametrize("sql", OPEN)
def test_what_sql_leaves_open_raises_no_alarm(
    sql: str, plain: datafusion.SessionContext, other: datafusion.SessionContext
) -> None:
    verdict = judge(plain, sql, other.sql(sql).to_arrow_table())
    assert verdict.difference is None, str(verdict.difference)


def _without_last(table: pa.Table) -> pa.Table:
    return table.slice(0, len(table) - 1)


def _with_last_twice(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(len(table) - 1)])


def _with_first_for_last(table: pa.Table) -> pa.Table:
    return pa.concat_tables([_without_last(table), table.slice(0, 1)])


def _renamed(table: pa.Table) -> pa.Table:
    return table.rename_columns([*table.column_names[:-1], "other"])


def _nullable_no_more(table: pa.Table) -> pa.Table:
    field = table.schema.field(0)
    return pa.Table.from_arrays(table.columns, schema=table.schema.set(0, field.with_nullable(not field.nullable)))


def _with_metadata(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({"made": "up"})


ALL_ARE_WRONG = (_without_last, _with_last_twice, _with_first_for_last, _renamed, _nullable_no_more, _with_metadata)


@pytest.mark.parametrize("sql", FIXED)
@pytest.mark.parametrize("spoil", ALL_ARE_WRONG, ids=lambda spoil: spoil.__name__.strip("_"))
def test_a_wrong_answer_is_found_wrong(
    sql: str, spoil: Callable[[pa.Table], pa.Table], plain: datafusion.SessionContext
) -> None:
    right = plain.sql(sql).to_arrow_table()
    assert judge(plain, sql, spoil(right)).difference is not None


@pytest.mark.parametrize("sql", [sql for sql in FIXED if "ORDER BY" in sql.rsplit(")", 1)[-1]])
def test_the_order_that_a_query_fixes_counts(sql: str, plain: datafusion.SessionContext) -> None:
    right = plain.sql(sql).to_arrow_table()
    turned = right.take(list(reversed(range(len(right)))))
    assert judge(plain, sql, turned).difference is not None


def test_rows_that_are_equal_in_a_hidden_key_may_change_places_and_no_others(plain: datafusion.SessionContext) -> None:
    sql = "SELECT id FROM t ORDER BY n NULLS FIRST"
    rows = plain.sql(sql).to_arrow_table()
    within, across = list(range(ROWS)), list(range(ROWS))
    within[0], within[1] = 1, 0
    across[0], across[-1] = ROWS - 1, 0
    assert judge(plain, sql, rows.take(within)).difference is None
    assert judge(plain, sql, rows.take(across)).difference is not None


@pytest.mark.parametrize(
    ("sql", "ids", "right"),
    [
        ("SELECT id FROM t LIMIT 2", [7, 250], True),
        ("SELECT id FROM t LIMIT 2", [7, 7], False),
        ("SELECT id FROM t LIMIT 2", [7, ROWS], False),
        ("SELECT id FROM t LIMIT 2", [7], False),
        ("SELECT id FROM t ORDER BY g LIMIT 2", [4, 0], True),
        ("SELECT id FROM t ORDER BY g LIMIT 2", [0, 1], False),
        ("SELECT id FROM t ORDER BY id LIMIT 2", [1, 0], False),
        ("SELECT id FROM (SELECT id FROM t ORDER BY id LIMIT 2) s", [1, 0], True),
        ("SELECT id FROM (SELECT id FROM t ORDER BY id LIMIT 2) s", [0, 2], False),
        ("SELECT id FROM t ORDER BY g OFFSET 299", [299], True),
        ("SELECT id FROM t ORDER BY g OFFSET 299", [298], False),
    ],
)
def test_a_limit_takes_any_of_what_it_may_take(
    sql: str, ids: list[int], right: bool, plain: datafusion.SessionContext
) -> None:
    verdict = judge(plain, sql, pa.table({"id": ids}, schema=plain.sql(sql).schema()))
    assert (verdict.difference is None) == right


def test_what_was_not_compared_is_said(plain: datafusion.SessionContext) -> None:
    assert WHICH_ROWS in judge(plain, "SELECT id FROM t LIMIT 2", pa.table({"id": [7, 250]})).open
    lists = pa.table({"l": pa.array([list(reversed(range(ROWS)))])})
    verdict = judge(plain, "SELECT array_agg(id) AS l FROM t", lists)
    assert (verdict.difference, verdict.open) == (None, (INNER_ORDER,))
    fewer = pa.table({"l": pa.array([list(range(ROWS - 1))])})
    assert judge(plain, "SELECT array_agg(id) AS l FROM t", fewer).difference is not None


def test_columns_without_volatile_functions_are_compared(plain: datafusion.SessionContext) -> None:
    sql = "SELECT id, random() AS r, x FROM t"
    again = plain.sql(sql).to_arrow_table()
    assert judge(plain, sql, again).compared == ("schema", "row count", "columns id, x")
    wrong = again.set_column(0, again.schema.field("id"), pa.array([1] * ROWS, pa.int64()))
    assert judge(plain, sql, wrong).difference is not None
    assert judge(plain, sql, again.slice(1)).difference is not None


def test_of_rows_in_a_random_order_the_rows_are_compared(plain: datafusion.SessionContext) -> None:
    sql = "SELECT id, x FROM t ORDER BY random()"
    answer = plain.sql(sql).to_arrow_table()
    assert judge(plain, sql, answer).compared == ("schema", "row count", "rows")
    wrong = answer.set_column(0, answer.schema.field("id"), pa.array([1] * ROWS, pa.int64()))
    assert judge(plain, sql, wrong).difference is not None


def test_a_users_volatile_function_is_known_by_its_registration(plain: datafusion.SessionContext) -> None:
    ctx = session(1, 8192)
    for name, volatility in (("dice", "volatile"), ("same", "immutable")):
        ctx.register_udf(datafusion.udf(lambda a: a, [pa.int64()], pa.int64(), volatility, name))
    answer = pa.table({"d": [1] * ROWS, "s": list(range(ROWS))})
    named = "SELECT {}(id) AS d, id AS s FROM t"
    assert judge(ctx, named.format("dice"), answer).compared == ("schema", "row count", "columns s")
    assert judge(ctx, named.format("same"), answer).difference is not None


def test_sums_of_floats_may_differ_in_their_last_digits_and_other_floats_not(plain: datafusion.SessionContext) -> None:
    total = plain.sql("SELECT sum(x) AS s FROM t").to_arrow_table()
    near = pa.table({"s": [total["s"][0].as_py() * (1 + 1e-12)]})
    assert judge(plain, "SELECT sum(x) AS s FROM t", near).difference is None
    one = plain.sql("SELECT x AS s FROM t WHERE id = 5").to_arrow_table()
    near = pa.table({"s": [one["s"][0].as_py() * (1 + 1e-12)]})
    assert judge(plain, "SELECT x AS s FROM t WHERE id = 5", near).difference is not None
