"""What the plan format loses is seen before it is lost, and nothing else is."""

from __future__ import annotations

import datafusion
import pytest
from datafusion.plan import ExecutionPlan

from apiary_df.plan.loss import lost_in_plan_format

NEXT = "SELECT g, lead(x) {nulls} OVER (PARTITION BY g ORDER BY id) AS n FROM t"
FILTERED = "SELECT g, count(*) FILTER (WHERE x > 1) OVER (PARTITION BY g) AS n FROM t"
IGNORED = NEXT.format(nulls="IGNORE NULLS")


@pytest.fixture(scope="module")
def ctx() -> datafusion.SessionContext:
    ctx = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(1))
    rows = "(1, 1, 'a', 7), (2, 1, 'b', NULL), (3, 1, 'c', 5), (4, 2, 'd', 1)"
    ctx.sql(f"CREATE TABLE t (id INT, g INT, s VARCHAR, x INT) AS VALUES {rows}")
    return ctx


@pytest.mark.parametrize("sql", [IGNORED, FILTERED])
def test_the_plan_format_loses_it(sql: str, ctx: datafusion.SessionContext) -> None:
    frame = ctx.sql(sql)
    plan = frame.execution_plan()
    decoded = ExecutionPlan.from_bytes(ctx, plan.to_bytes(ctx))
    back = [row for batch in ctx.execute(decoded, 0) for row in batch.to_pyarrow().to_pylist()]
    assert sorted(map(str, back)) != sorted(map(str, frame.to_pylist())), "it is carried now: drop the entry"


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        (IGNORED, "IGNORE NULLS"),
        (FILTERED, "FILTER"),
        (f"SELECT max(n) FROM ({IGNORED}) GROUP BY g", "IGNORE NULLS"),
        (f"SELECT id FROM t WHERE g IN (SELECT n FROM ({FILTERED}))", "FILTER"),
        (f"SELECT g FROM t UNION ALL SELECT n FROM ({FILTERED})", "FILTER"),
        ("SELECT lag(s, 1, ')(') IGNORE NULLS OVER (ORDER BY id) AS n FROM t", "IGNORE NULLS"),
        ("SELECT lag(x, 1) OVER (ORDER BY id), lag(x, 2) IGNORE NULLS OVER (ORDER BY id) AS n FROM t", "IGNORE NULLS"),
        ("SELECT last_value(x) IGNORE NULLS OVER (ORDER BY id) + 1 AS n FROM t", "IGNORE NULLS"),
        (NEXT.format(nulls=""), None),
        (NEXT.format(nulls="RESPECT NULLS"), None),
        ("SELECT g, sum(x) FILTER (WHERE x > 1) AS n FROM t GROUP BY g", None),
        ("SELECT g, first_value(x ORDER BY id) IGNORE NULLS AS n FROM t GROUP BY g", None),
        ("SELECT rank() OVER (ORDER BY sum(x) FILTER (WHERE x > 1)) AS n FROM t GROUP BY g", None),
        ("SELECT sum(sum(x) FILTER (WHERE x > 1)) OVER (PARTITION BY g % 2) AS n FROM t GROUP BY g", None),
    ],
)
def test_it_is_seen_in_the_logical_plan(sql: str, what: str | None, ctx: datafusion.SessionContext) -> None:
    reason = lost_in_plan_format(ctx.sql(sql).optimized_logical_plan().display_indent())
    assert reason is None if what is None else reason is not None and reason.startswith(what)
