"""What random queries found wrong with DataFusion itself. A new version that repairs one says so here.

The generator then may draw again what it leaves out because of it, and docs/testing.md loses a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")

TABLES = (
    "CREATE TABLE t (a INT, b INT, s VARCHAR) AS VALUES (1, 2, 'x'), (1, NULL, 'y'), (NULL, 3, 'x'), (2, 2, NULL)",
    "CREATE TABLE u (a INT) AS VALUES (1), (NULL)",
    "CREATE TABLE d (id BIGINT, c DECIMAL(10, 2)) AS VALUES (0, 0.88)",
)

MERGE_JOINS = {"datafusion.optimizer.prefer_hash_join": "false"}
TRIES = 2_000
"""Runs in which a race goes wrong at least once."""

PUSHED_FILTERS = {"datafusion.execution.parquet.pushdown_filters": "true"}

WRONG_ROWS: Mapping[str, tuple[list[Any], list[Any]]] = {
    "SELECT b FROM t WHERE (a IN (SELECT a FROM u)) IS NULL ORDER BY b": ([], [2, 3]),
    "SELECT v FROM (VALUES (1), (1), (1)) AS x(v) EXCEPT ALL SELECT 1": ([], [1, 1]),
    "SELECT v FROM (VALUES (1), (1), (1)) AS x(v) INTERSECT ALL SELECT 1": ([1, 1, 1], [1]),
    "SELECT n FROM (SELECT count(*) AS n FROM u) g FULL JOIN t ON n = a ORDER BY b DESC, n DESC NULLS LAST LIMIT 1": (
        [None],
        [2],
    ),
}
"""SQL to what it gives, and what it should give."""

WRONG_ERRORS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "SELECT b, first_value(a ORDER BY a, s, a DESC) FROM t GROUP BY b": ("left == right", {}),
    "SELECT b, array_agg(a ORDER BY a, b, a DESC) FROM t GROUP BY b": ("column types must match schema types", {}),
    "SELECT CAST(CAST(a AS BIGINT) AS INT) AS p, a AS q FROM t GROUP BY CAST(CAST(a AS BIGINT) AS INT), a, 1 + 1": (
        "Optimizer rule 'eliminate_group_by_constant' failed",
        {},
    ),
    "SELECT avg(CAST(a AS DOUBLE)) AS p, avg(a) AS q FROM t GROUP BY b HAVING avg(a) > 0": (
        'duplicate unqualified field name "avg(t.a)"',
        {},
    ),
    "SELECT DISTINCT a, count(*) OVER (PARTITION BY b) FROM t WHERE CASE WHEN a = 1 THEN b END = b": (
        "All partition by columns should have an ordering",
        {},
    ),
    "WITH w AS (SELECT y.c AS o FROM d x JOIN d y USING (c) JOIN (SELECT c AS o FROM d) z ON x.c = z.o "
    "AND x.id <> y.id) SELECT q.o FROM w p FULL JOIN w q USING (o)": (
        "expected Int64 but found Decimal128",
        MERGE_JOINS,
    ),
}
"""SQL that is right to what DataFusion says of it, and under which settings."""


WRONG_OVER_FILES: Mapping[str, tuple[list[Any], Any, Any, Mapping[str, str]]] = {
    "SELECT max(x + 1) AS m, min(x) FROM f": ([[1, 2, None], [5, 9, 7], [3, 4, 8]], [3], [10], {}),
    "SELECT x FROM f": ([[1.5, float("nan"), 1.5]], [1.5, 1.5, 1.5], [1.5, float("nan"), 1.5], {}),
    "SELECT p.x FROM f o RIGHT JOIN f p ON o.x = p.x + 9 WHERE o.x IS NOT NULL OR p.x = 3": (
        [[1, 2, 3, None]],
        [1, 2, 3],
        [3],
        PUSHED_FILTERS,
    ),
}
"""SQL to the column x of each file, what the first column of the answer is and should be, and under which settings."""


def session(settings: Mapping[str, str]) -> datafusion.SessionContext:
    ctx = datafusion.SessionContext(datafusion.SessionConfig(dict(settings)).with_target_partitions(2))
    for sql in TABLES:
        ctx.sql(sql).collect()
    return ctx


@pytest.mark.parametrize("sql", WRONG_ROWS)
def test_datafusion_still_gives_wrong_rows(sql: str) -> None:
    given, right = WRONG_ROWS[sql]
    found = session({}).sql(sql).to_arrow_table().column(0).to_pylist()
    assert found == given
    assert found != right


@pytest.mark.parametrize("sql", WRONG_OVER_FILES)
def test_datafusion_still_gives_wrong_rows_over_files(sql: str, tmp_path: Path) -> None:
    files, given, right, settings = WRONG_OVER_FILES[sql]
    for number, values in enumerate(files):
        pq.write_table(pa.table({"x": values}), tmp_path / f"{number}.parquet")
    ctx = session(settings)
    ctx.register_parquet("f", tmp_path)
    assert given != right
    # One of them is a race between partitions, which goes well most of the time on a busy machine.
    assert any(ctx.sql(sql).to_arrow_table().column(0).to_pylist() == given for _ in range(TRIES))


@pytest.mark.parametrize("sql", WRONG_ERRORS)
def test_datafusion_still_refuses_what_is_right(sql: str) -> None:
    said, settings = WRONG_ERRORS[sql]
    # A panic comes as an exception that is none of Exception's.
    with pytest.raises(BaseException, match=re.escape(said)):
        session(settings).sql(sql).to_arrow_table()


@pytest.mark.parametrize("sql", [*WRONG_ROWS, *WRONG_OVER_FILES, *WRONG_ERRORS])
def test_the_page_tells_of_it(sql: str) -> None:
    assert sql in PAGE
