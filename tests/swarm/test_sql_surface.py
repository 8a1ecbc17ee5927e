"""What SQL can say: the same answers, schemas and refusals as plain DataFusion's, on the swarm where there are rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datafusion
import pytest
from datafusion import SQLOptions

from apiary_df import LocalSwarm, SessionContext
from apiary_df.errors import ApiaryError, SqlError
from swarm import surface
from swarm.surface import check_both

pytestmark = pytest.mark.processes

Both = tuple[SessionContext, datafusion.SessionContext]

DISTRIBUTED: dict[str, str] = {
    "cte": "WITH a AS (SELECT g, x FROM t WHERE b), c AS (SELECT g, sum(x) AS s FROM a GROUP BY g) SELECT * FROM c",
    "cte used twice": "WITH a AS (SELECT id, g FROM t WHERE id < 40) SELECT p.id, q.id FROM a p JOIN a q ON p.g = q.g",
    "nested cte": "WITH a AS (WITH b AS (SELECT i FROM t) SELECT i, count(*) AS n FROM b GROUP BY i) SELECT * FROM a",
    "exclude": "SELECT * EXCLUDE (s, st, m, ll) FROM t",
    "except columns": "SELECT * EXCEPT (s, st) FROM t",
    "replace": "SELECT * REPLACE (id * 2 AS id, upper(g) AS g) FROM t",
    "qualified star": "SELECT t.*, u.v FROM t JOIN u ON t.id = u.k",
    "duplicate names": "SELECT a.id, b.id, a.g, b.g FROM t a JOIN t b ON a.id = b.id + 1",
    "quoted names": 'SELECT id AS "Id", g AS "two words", x AS "a.b", i AS "select" FROM t ORDER BY "Id"',
    "names in capitals": "SELECT ID, T.G FROM T ORDER BY Id",
    "distinct on": "SELECT DISTINCT ON (g) g, id, x FROM t ORDER BY g, id DESC",
    "qualify": "SELECT id, g FROM t QUALIFY row_number() OVER (PARTITION BY g ORDER BY id DESC) <= 3",
    "grouping sets": "SELECT g, b, count(*) AS n, grouping(g) AS gg FROM t GROUP BY GROUPING SETS ((g, b), (g), ())",
    "rollup": "SELECT g, b, sum(i) AS s, grouping(g, b) AS k FROM t GROUP BY ROLLUP (g, b)",
    "cube": "SELECT g, b, max(x) AS m FROM t GROUP BY CUBE (g, b)",
    "group by all": "SELECT g, b, count(*) AS n FROM t GROUP BY ALL",
    "group by position": "SELECT g, count(*) FROM t GROUP BY 1 ORDER BY 1",
    "having": "SELECT g FROM t GROUP BY g HAVING sum(i) > 10 ORDER BY g NULLS FIRST",
    "unnest": "SELECT id, unnest(l) AS e FROM t",
    "unnest twice": "SELECT id, unnest(l) AS e, unnest(w) AS f FROM t",
    "unnest struct": "SELECT id, unnest(st) FROM t",
    "values joined": "SELECT t.id, z FROM t JOIN (VALUES ('a', 1), ('b', 2)) AS names(n, z) ON t.g = n",
    "range joined": "SELECT value FROM range(0, 50, 7) JOIN t ON id = value",
    "series joined": "SELECT value, count(id) AS n FROM generate_series(0, 20) "
    "LEFT JOIN t ON id = value GROUP BY value",
    "exists": "SELECT id FROM t WHERE EXISTS (SELECT 1 FROM u WHERE k = id)",
    "not in": "SELECT id FROM t WHERE i NOT IN (SELECT v FROM u WHERE v IS NOT NULL AND v > 5)",
    "scalar subquery": "SELECT id, x - (SELECT avg(x) FROM t) AS d FROM t",
    "correlated": "SELECT g, id FROM t o WHERE x = (SELECT max(x) FROM t i WHERE i.g = o.g)",
    "lateral": "SELECT t.id, s.n FROM t, LATERAL (SELECT count(*) AS n FROM u WHERE u.k = t.id) AS s",
    "union": "SELECT id FROM t UNION SELECT k FROM u ORDER BY id",
    "union by name": "SELECT id, i FROM t UNION ALL BY NAME SELECT v AS i, k AS id FROM u",
    "intersect all": "SELECT i FROM t INTERSECT ALL SELECT v FROM u",
    "except all": "SELECT i FROM t EXCEPT ALL SELECT v FROM u",
    "natural join": "SELECT * FROM (SELECT id, g FROM t) NATURAL JOIN (SELECT id, x FROM t) AS r",
    "join using": "SELECT id, a.g, b.x FROM t a FULL JOIN (SELECT id, x FROM t WHERE b) AS b USING (id)",
    "named windows": "SELECT id, sum(i) OVER p AS s, rank() OVER p FROM t WINDOW p AS (PARTITION BY g ORDER BY id)",
    "filter clause": "SELECT g, count(*) FILTER (WHERE b) AS n, sum(i) FILTER (WHERE x > 0.5) AS s FROM t GROUP BY g",
    "from first": "FROM t SELECT id, g WHERE id < 30",
    "pipe": "SELECT * FROM t |> WHERE id > 10 |> SELECT id, g |> ORDER BY id |> LIMIT 20",
    "case": "SELECT CASE g WHEN 'a' THEN 1 ELSE 2 END AS c, count(*) FROM t GROUP BY c",
    "field access": "SELECT id, st.a, st['b'] AS b, l[1] AS first, m['k'] AS k FROM t",
    "like and friends": "SELECT id FROM t WHERE s LIKE '%a%' OR s ILIKE 'B%' OR s SIMILAR TO 'x.*' OR g ~ '^c'",
    "intervals": "SELECT id, ts + INTERVAL '1 month 2 days' AS later, ts - TIMESTAMP '2024-01-01' AS since FROM t",
}  # fmt: skip
"""Queries that a swarm shares out."""

IN_SESSION: dict[str, str] = {
    "constant": "SELECT 1 AS a, 'x' AS b, NULL AS c",
    "values": "VALUES (1, 'a', NULL), (2, NULL, 2.5)",
    "values with names": "SELECT * FROM (VALUES (1), (2), (3)) AS v(n) ORDER BY n DESC",
    "generate_series": "SELECT * FROM generate_series(1, 10, 3)",
    "range": "SELECT value * 2 AS d FROM range(5)",
    "series of times": "SELECT * FROM range(TIMESTAMP '2024-01-01', TIMESTAMP '2024-01-03', INTERVAL '1 day')",
    "unnest of a constant": "SELECT unnest([1, 2, NULL]) AS n",
    "unnest as a table": "SELECT * FROM unnest([1, 2], ['a', 'b', 'c'])",
    "show tables": "SHOW TABLES",
    "show columns": "SHOW COLUMNS FROM t",
    "show a setting": "SHOW datafusion.execution.batch_size",
    "describe": "DESCRIBE t",
    "describe a query": "DESCRIBE SELECT id, g FROM t",
    "tables": "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1",
    "columns": "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = 't'",
    "schemata": "SELECT schema_name FROM information_schema.schemata",
    "views": "SELECT * FROM information_schema.views",
    "routines": "SELECT DISTINCT routine_name FROM information_schema.routines WHERE routine_name LIKE 'a%'",
    "recursive": "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 20) SELECT n FROM r",
    "recursive over a table": "WITH RECURSIVE r AS (SELECT id, 0 AS d FROM t WHERE id = 3 UNION ALL "
    "SELECT u.k, r.d + 1 FROM r JOIN u ON u.v = r.id AND u.k > r.id WHERE r.d < 3) "
    "SELECT d, count(*) AS n FROM r GROUP BY d",
    "count from statistics": "SELECT count(*) AS n FROM t",
    "information_schema joined": "SELECT c.column_name, count(t.id) AS n FROM t JOIN information_schema.columns c "
    "ON c.table_name = 't' AND c.ordinal_position = t.id GROUP BY c.column_name",
}  # fmt: skip
"""Queries that plain DataFusion answers in the session's process."""


def _is_ordered(sql: str) -> bool:
    return "ORDER BY" in sql.rsplit(")", 1)[-1]


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_a_query_over_tables_is_shared_out(name: str, both: Both) -> None:
    sql = DISTRIBUTED[name]
    check_both(lambda ctx: ctx.sql(sql), *both, ordered=_is_ordered(sql))


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_a_query_over_empty_tables_has_the_same_rows_and_schema(name: str, both_empty: Both) -> None:
    check_both(lambda ctx: ctx.sql(DISTRIBUTED[name]), *both_empty, distributed=None)


@pytest.mark.parametrize("name", IN_SESSION)
def test_a_query_of_the_sessions_own_is_answered_here_with_its_reason(name: str, both: Both) -> None:
    sql = IN_SESSION[name]
    check_both(lambda ctx: ctx.sql(sql), *both, ordered=_is_ordered(sql), distributed=False)
    assert both[0].last_query is not None
    assert both[0].last_query.reason


@pytest.fixture(scope="module")
def both_empty(swarm: LocalSwarm, surface_files: dict[str, Path]) -> Iterator[Both]:
    """The same tables without a row."""
    with surface.open_both(swarm.storage, {"t": surface_files["nothing"], "u": surface_files["no_u"]}) as both:
        yield both


# -- parameters and prepared statements -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "values"),
    [
        ("SELECT id FROM t WHERE g = $g AND id < $n", {"g": "a", "n": 100}),
        ("SELECT id, $label AS label FROM t WHERE x > $x", {"label": "l", "x": 0.5}),
        ("SELECT g, count(*) AS n FROM t WHERE i IN ($a, $b) GROUP BY g", {"a": 3, "b": 4}),
    ],
)
def test_parameters_are_put_in(sql: str, values: dict[str, Any], both: Both) -> None:
    check_both(lambda ctx: ctx.sql(sql, param_values=values), *both)


def test_named_arguments_are_put_in(both: Both) -> None:
    check_both(lambda ctx: ctx.sql("SELECT id FROM $source WHERE id > $low", source="t", low=200), *both)
    check_both(lambda ctx: ctx.sql("SELECT count(*) AS n FROM $df WHERE id > 5", df=ctx.table("t")), *both)


def test_prepared_statements_run_on_the_swarm(both: Both) -> None:
    for ctx in both:
        ctx.sql("PREPARE by_group(VARCHAR, BIGINT) AS SELECT id, x FROM t WHERE g = $1 AND id > $2").collect()
        ctx.sql("PREPARE untyped AS SELECT g, sum(i) AS s FROM t WHERE id < $1 GROUP BY g").collect()
    check_both(lambda ctx: ctx.sql("EXECUTE by_group('a', 50)"), *both)
    check_both(lambda ctx: ctx.sql("EXECUTE by_group('b', 200)"), *both)
    check_both(lambda ctx: ctx.sql("EXECUTE untyped(100)"), *both)
    for ctx in both:
        ctx.sql("DEALLOCATE by_group").collect()
        ctx.sql("DEALLOCATE PREPARE untyped").collect()
        with pytest.raises(Exception, match="by_group"):
            ctx.sql("EXECUTE by_group('a', 50)").collect()


# -- statements that change what is there -----------------------------------------------------------------------------

STORIES: dict[str, tuple[list[str], str]] = {
    "view": (["CREATE VIEW v AS SELECT id, g FROM t WHERE b"], "SELECT g, count(*) AS n FROM v GROUP BY g"),
    "view of a view": (
        ["CREATE VIEW v AS SELECT id, g FROM t WHERE b", "CREATE VIEW w AS SELECT g, max(id) AS m FROM v GROUP BY g"],
        "SELECT * FROM w JOIN v ON v.id = w.m",
    ),
    "view with column names": (["CREATE VIEW v(a, c) AS SELECT id, g FROM t"], "SELECT c, sum(a) FROM v GROUP BY c"),
    "view replaced": (
        ["CREATE VIEW v AS SELECT id FROM t", "CREATE OR REPLACE VIEW v AS SELECT id + 1 AS j FROM t WHERE id < 9"],
        "SELECT * FROM v",
    ),
    "view shadowed by a cte": (
        ["CREATE VIEW v AS SELECT id FROM t"],
        "WITH v AS (SELECT k FROM u) SELECT * FROM v",
    ),
    "table as": (
        ["CREATE TABLE made AS SELECT id, g FROM t WHERE b"],
        "SELECT t.id, made.g FROM made JOIN t USING (id)",
    ),
    "table of values": (
        ["CREATE TABLE made(a INT, b VARCHAR NOT NULL) AS VALUES (1, 'x'), (2, 'y')"],
        "SELECT made.b, t.id FROM made JOIN t ON t.id = made.a",
    ),
    "table filled": (
        ["CREATE TABLE made(a BIGINT, c VARCHAR)", "INSERT INTO made SELECT id, g FROM t WHERE id < 30"],
        "SELECT c, count(*) AS n, sum(t.i) AS s FROM made JOIN t ON t.id = a GROUP BY c",
    ),
    "table dropped and made again": (
        ["CREATE TABLE made AS SELECT 1 AS a", "DROP TABLE made", "CREATE TABLE made AS SELECT id AS a FROM t"],
        "SELECT made.a FROM made JOIN t ON made.a = t.id",
    ),
    "schema": (
        ["CREATE SCHEMA other", "CREATE TABLE other.made AS SELECT id AS a FROM t WHERE id < 20"],
        "SELECT m.a, t.g FROM other.made m JOIN public.t ON m.a = t.id",
    ),
    "catalog": (
        ["CREATE DATABASE elsewhere", "CREATE SCHEMA elsewhere.s", "CREATE VIEW elsewhere.s.v AS SELECT id FROM t"],
        "SELECT e.id, t.x FROM elsewhere.s.v AS e JOIN datafusion.public.t ON e.id = t.id",
    ),
    "function": (
        ["CREATE FUNCTION plus_one(BIGINT) RETURNS BIGINT RETURN $1 + 1"],
        "SELECT id FROM t",
    ),
    "case of names": (
        ['CREATE VIEW "V" AS SELECT id AS "Id", g AS "G" FROM t', 'CREATE VIEW v AS SELECT id AS small FROM t'],
        'SELECT "V"."Id", "V"."G", v.small FROM "V" JOIN v ON "V"."Id" = v.small',
    ),
    "time zone": (
        ["SET datafusion.execution.time_zone = '+02:00'"],
        "SELECT id, CAST(ts AS TIMESTAMPTZ) AS z FROM t",
    ),
    "dialect": (["SET datafusion.sql_parser.dialect = 'PostgreSQL'"], "SELECT id, 7 / 2 AS q FROM t"),
    "names kept as written": (
        ["SET datafusion.sql_parser.enable_ident_normalization = false"],
        "SELECT id AS Id FROM t",
    ),
    "small batches": (["SET datafusion.execution.batch_size = 7"], "SELECT g, sum(i) AS s FROM t GROUP BY g"),
}  # fmt: skip
"""What was said before, and a query after it."""


@pytest.fixture
def fresh(swarm: LocalSwarm, surface_files: dict[str, Path]) -> Iterator[Both]:
    """Sessions whose catalogs and settings a test may change."""
    with surface.open_both(swarm.storage, surface_files) as both:
        yield both


def _outcome(ctx: Any, statement: str) -> Any:
    try:
        return ctx.sql(statement).to_arrow_table()
    except Exception as error:  # noqa: BLE001 - DataFusion raises bare Exception
        return error


@pytest.mark.parametrize("name", STORIES)
def test_a_statement_has_its_effect_on_what_comes_later(name: str, fresh: Both) -> None:
    statements, query = STORIES[name]
    for statement in statements:
        ours, plain = (_outcome(ctx, statement) for ctx in fresh)
        if isinstance(plain, Exception):
            assert isinstance(ours, ApiaryError), f"{statement}: plain DataFusion raised {plain}, ours gave {ours}"
        else:
            assert ours == plain, f"{statement}: {ours}"
    check_both(lambda ctx: ctx.sql(query), *fresh, distributed=True)


@pytest.mark.parametrize(
    ("statement", "gone"),
    [
        ("DROP TABLE t", "SELECT * FROM t"),
        ("DROP VIEW v", "SELECT * FROM v"),
        ("DROP TABLE IF EXISTS t", "SELECT id FROM t"),
    ],
)
def test_what_was_dropped_is_not_there_any_more(statement: str, gone: str, fresh: Both) -> None:
    for ctx in fresh:
        ctx.sql("CREATE VIEW v AS SELECT id FROM u JOIN (SELECT 1 AS id) ON true")
        ctx.sql(statement).collect()
        with pytest.raises(Exception, match="not found"):
            ctx.sql(gone).collect()
    assert (
        fresh[0].sql("SELECT count(v) AS n FROM u WHERE k > 3").to_pydict()
        == fresh[1].sql("SELECT count(v) AS n FROM u WHERE k > 3").to_pydict()
    )


def test_a_frame_that_was_made_before_a_table_was_dropped_still_has_it(fresh: Both) -> None:
    frames = {ctx: ctx.sql("SELECT g, sum(i) AS s FROM t GROUP BY g") for ctx in fresh}
    for ctx in fresh:
        ctx.sql("DROP TABLE t").collect()
    check_both(lambda ctx: frames[ctx], *fresh)


def test_a_setting_can_be_set_shown_and_reset(fresh: Both) -> None:
    for statement in ("SET datafusion.execution.batch_size = 123", "RESET datafusion.execution.batch_size"):
        for ctx in fresh:
            ctx.sql(statement).collect()
        check_both(lambda ctx: ctx.sql("SHOW datafusion.execution.batch_size"), *fresh, distributed=False)
        check_both(lambda ctx: ctx.sql("SELECT g, avg(x) AS a FROM t GROUP BY g"), *fresh)
    for ctx in fresh:
        with pytest.raises(Exception, match="no_such"):
            ctx.sql("SET datafusion.no_such = 1").collect()


@pytest.mark.parametrize(
    "sql",
    ["SELECT id, floor(x) AS f FROM t", "SELECT id, concat(s, g) AS c FROM t", "SELECT max(hex(id)) AS h FROM t"],
)
def test_functions_of_spark_are_sparks_own_on_both(sql: str, fresh: Both) -> None:
    for ctx in fresh:
        ctx.enable_spark_functions()
    check_both(lambda ctx: ctx.sql(sql), *fresh, distributed=False)
    assert fresh[0].last_query is not None
    assert "Spark" in fresh[0].last_query.reason


# -- explanations -----------------------------------------------------------------------------------------------------

QUERY = "SELECT g, sum(i) AS s FROM t GROUP BY g"


@pytest.mark.parametrize("format_", ["indent", "tree", "pgjson", "graphviz"])
def test_an_explain_with_a_format_is_datafusions(format_: str, both: Both) -> None:
    ctx, plain = both
    sql = f"EXPLAIN FORMAT {format_} {QUERY}"
    ours, theirs = ctx.sql(sql).to_pydict(), plain.sql(sql).to_pydict()
    assert ours["plan_type"] == theirs["plan_type"]
    assert ours == theirs


@pytest.mark.parametrize("words", ["EXPLAIN", "EXPLAIN VERBOSE", "EXPLAIN ANALYZE", "EXPLAIN ANALYZE VERBOSE"])
def test_an_explain_tells_of_the_swarm_under_datafusions_schema(words: str, both: Both) -> None:
    ctx, plain = both
    answer = ctx.sql(f"{words} {QUERY}").to_arrow_table()
    assert answer.schema == plain.sql(f"{words} {QUERY}").schema()
    (text,) = answer.column("plan").to_pylist()
    assert text.startswith("distributed: ")
    assert ("ran in" in text) == ("ANALYZE" in words)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sql"),
    [
        (SQLOptions().with_allow_ddl(False), "CREATE TABLE no AS SELECT 1 AS a"),
        (SQLOptions().with_allow_ddl(False), "CREATE VIEW no AS SELECT * FROM t"),
        (SQLOptions().with_allow_dml(False), "INSERT INTO t SELECT * FROM t"),
        (SQLOptions().with_allow_dml(False), "COPY t TO 'no.csv'"),
        (SQLOptions().with_allow_statements(False), "SET datafusion.execution.batch_size = 1"),
        (SQLOptions().with_allow_statements(False), "PREPARE p AS SELECT * FROM t"),
    ],
)
def test_what_the_options_forbid_is_refused(options: SQLOptions, sql: str, fresh: Both) -> None:
    ctx, plain = fresh
    for session, error in ((plain, Exception), (ctx, SqlError)):
        for ask in (session.sql_with_options, session.sql):
            with pytest.raises(error, match="not supported"):
                ask(sql, options)
    check_both(lambda session: session.sql_with_options(QUERY, options), *fresh)


@pytest.mark.parametrize(
    "sql",
    [
        "SELEC 1", "SELECT * FROM no_such_table", "SELECT no_such_column FROM t", "SELECT no_such_function(id) FROM t",
        "SELECT g, id FROM t GROUP BY g", "SELECT 1; SELECT 2", "EXECUTE never_prepared(1)", "DROP TABLE no_such_table",
        "SELECT * FROM t WHERE g = $missing",
    ],
)  # fmt: skip
def test_what_datafusion_refuses_is_a_typed_error(sql: str, both: Both) -> None:
    ctx, plain = both
    with pytest.raises(Exception):  # noqa: B017 - DataFusion raises bare Exception
        plain.sql(sql).collect()
    with pytest.raises(ApiaryError):
        ctx.sql(sql).collect()


@pytest.mark.parametrize("sql", ["SELECT id / 0 FROM t", "SELECT CAST(g AS INT) FROM t", "SELECT l[1] + x / 0 FROM t"])
def test_what_fails_on_the_data_fails_on_both(sql: str, both: Both) -> None:
    ctx, plain = both
    if isinstance(_outcome(plain, sql), Exception):
        assert isinstance(_outcome(ctx, sql), ApiaryError)
    else:
        check_both(lambda session: session.sql(sql), *both)
