# ruff: noqa: E501 - a query is one string
"""SQL over the awkward tables: every operator that a plan is made of, and what makes distributed answers wrong."""

from __future__ import annotations

from dataclasses import dataclass

SMJ = {"datafusion.optimizer.prefer_hash_join": "false"}
"""Joins as sort-merge joins."""

SHUFFLED = {
    "datafusion.optimizer.hash_join_single_partition_threshold": "0",
    "datafusion.optimizer.hash_join_single_partition_threshold_rows": "0",
}
"""Joins with both sides shuffled, however small they are."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A query and what makes two of its answers equal.

    Attributes:
        name: For test ids.
        sql: The query.
        order: Output columns that its ORDER BY fixes; none: rows come in any order.
        settings: DataFusion options that it is planned and run under.
        superset: For a LIMIT without an ORDER BY: the query without it, of which any rows will do.
    """

    name: str
    sql: str
    order: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    superset: str | None = None


def _q(name: str, sql: str, *order: str, settings: dict[str, str] | None = None, superset: str | None = None) -> Sample:
    return Sample(name=name, sql=sql, order=order, settings=tuple((settings or {}).items()), superset=superset)


SAMPLES: tuple[Sample, ...] = (
    # scans, filters, expressions
    _q("scan", "SELECT * FROM facts"),
    _q("filter", "SELECT id, v + 1 AS v1, upper(g) AS u FROM facts WHERE v > 50 OR g IS NULL"),
    _q("csv", "SELECT t, count(*) AS c, sum(id) AS s FROM lines GROUP BY t"),
    _q("json", "SELECT tag, count(*) AS c FROM docs GROUP BY tag"),
    _q("csv_join_json", "SELECT l.id, l.t, d.tag FROM lines l JOIN docs d ON l.t = d.tag AND l.id < d.id"),
    _q("memory", "SELECT m, count(*) AS c FROM mem GROUP BY m"),
    _q("memory_join", "SELECT f.id, m.m FROM facts f JOIN mem m ON f.k = m.k"),
    _q("memory_left_join", "SELECT m.k, m.m, f.id FROM mem m LEFT JOIN facts f ON f.k = m.k"),
    _q("hive", "SELECT year, sum(amount) AS s FROM hive WHERE year > 2020 GROUP BY year"),
    _q("hive_all", "SELECT year, amount FROM hive"),
    _q("values", "SELECT f.id, x.n FROM facts f JOIN (VALUES (1, 'one'), (5, 'five')) AS x(k, n) ON f.k = x.k"),
    _q(
        "series",
        "SELECT s.value AS n, count(f.id) AS c FROM generate_series(1, 8) s LEFT JOIN facts f ON f.k = s.value GROUP BY s.value",
    ),
    _q("unnest", "SELECT id, unnest(parts) AS e FROM facts"),
    _q("unnest_sum", "SELECT e, count(*) AS c FROM (SELECT unnest(parts) AS e FROM facts) GROUP BY e"),
    _q("struct", "SELECT pair['q'] AS q, max(pair['p']) AS p FROM facts GROUP BY pair['q']"),
    _q("nested_key", "SELECT pair, count(*) AS c FROM facts GROUP BY pair"),
    # aggregates
    _q(
        "global",
        "SELECT count(*) AS c, sum(v) AS s, min(day) AS lo, max(day) AS hi, avg(frac) AS af FROM facts WHERE v < 90",
    ),
    _q("group", "SELECT g, k, count(*) AS c, sum(v) AS s, avg(v) AS a FROM facts GROUP BY g, k"),
    _q("distinct", "SELECT DISTINCT g, day FROM facts"),
    _q("count_distinct", "SELECT count(DISTINCT g) AS a, count(DISTINCT k) AS b, sum(v) AS s FROM facts"),
    _q("distinct_by_group", "SELECT g, count(DISTINCT k) AS b FROM facts GROUP BY g"),
    _q("having", "SELECT k, sum(v) AS s FROM facts GROUP BY k HAVING sum(v) > 700"),
    _q(
        "grouping_sets",
        "SELECT g, k % 3 AS m, count(*) AS c, grouping(g) AS gg FROM facts GROUP BY GROUPING SETS ((g), (k % 3), (g, k % 3), ())",
    ),
    _q("rollup", "SELECT g, day, sum(v) AS s FROM facts GROUP BY ROLLUP (g, day)"),
    _q("filtered_aggregate", "SELECT g, sum(v) FILTER (WHERE k = 5) AS s FROM facts GROUP BY g"),
    _q("ordered_aggregate", "SELECT g, array_agg(id ORDER BY id) AS ids FROM facts GROUP BY g"),
    _q("median", "SELECT g, median(v) AS m, stddev(v) AS sd FROM facts GROUP BY g"),
    _q("nothing_global", "SELECT count(*) AS c, sum(v) AS s FROM nothing WHERE v > 3"),
    _q("nothing_group", "SELECT g, count(*) AS c FROM nothing GROUP BY g"),
    _q("nothing_join", "SELECT f.id, n.v FROM facts f LEFT JOIN nothing n ON f.k = n.k"),
    _q("filtered_to_nothing", "SELECT count(*) AS c, max(id) AS m FROM facts WHERE v > 100000"),
    # joins
    _q("inner", "SELECT f.id, d.name FROM facts f JOIN dims d ON f.k = d.k"),
    _q("inner_shuffled", "SELECT f.id, d.name FROM facts f JOIN dims d ON f.k = d.k", settings=SHUFFLED),
    *(
        _q(
            f"{kind.lower()}{suffix}",
            f"SELECT f.id, f.k, d.k AS dk, d.name FROM dims d {kind} JOIN facts f ON f.k = d.k AND d.w < f.v",
            settings=settings,
        )
        for kind in ("LEFT", "RIGHT", "FULL")
        for suffix, settings in (("_join", {}), ("_join_shuffled", SHUFFLED), ("_join_merge", SMJ))
    ),
    *(
        _q(
            f"{name}{suffix}",
            f"SELECT d.k, d.w FROM dims d WHERE {how} (SELECT 1 FROM facts f WHERE f.k = d.k AND f.v > 60)",
            settings=settings,
        )
        for name, how in (("semi", "EXISTS"), ("anti", "NOT EXISTS"))
        for suffix, settings in (("", {}), ("_shuffled", SHUFFLED), ("_merge", SMJ))
    ),
    _q(
        "mark",
        "SELECT d.k, d.w FROM dims d WHERE d.w > 50 OR EXISTS (SELECT 1 FROM facts f WHERE f.k = d.k AND f.v > 60)",
    ),
    _q("mark_big", "SELECT f.id FROM facts f WHERE f.v > 95 OR f.k IN (SELECT k FROM keys)"),
    # the small side is the build side, and emits its rows
    _q("left_small", "SELECT o.label, f.id FROM one o LEFT JOIN facts f ON f.k = o.k AND f.v > 60"),
    _q("semi_small", "SELECT o.label FROM one o WHERE EXISTS (SELECT 1 FROM facts f WHERE f.k = o.k AND f.v > 60)"),
    _q("anti_small", "SELECT o.label FROM one o WHERE NOT EXISTS (SELECT 1 FROM facts f WHERE f.k = o.k AND f.v > 99)"),
    _q(
        "mark_small",
        "SELECT o.label FROM one o WHERE o.k > 7 OR EXISTS (SELECT 1 FROM facts f WHERE f.k = o.k AND f.v > 60)",
    ),
    _q("loop_left_small", "SELECT o.label, f.id FROM one o LEFT JOIN facts f ON f.v < o.k AND f.id > 440"),
    _q("loop_full_small", "SELECT o.label, f.id FROM one o FULL JOIN facts f ON f.v < o.k AND f.id > 440"),
    _q(
        "loop_semi_small",
        "SELECT o.label FROM one o WHERE EXISTS (SELECT 1 FROM facts f WHERE f.v < o.k AND f.id > 440)",
    ),
    _q(
        "loop_anti_small",
        "SELECT o.label FROM one o WHERE NOT EXISTS (SELECT 1 FROM facts f WHERE f.v < o.k AND f.id > 440)",
    ),
    _q("in", "SELECT f.id FROM facts f WHERE f.k IN (SELECT k FROM keys)"),
    _q("not_in", "SELECT f.id FROM facts f WHERE f.k NOT IN (SELECT k FROM keys)"),
    _q("not_in_nulls", "SELECT f.id FROM facts f WHERE f.k NOT IN (SELECT k FROM dims)"),
    _q("not_in_nothing", "SELECT f.id FROM facts f WHERE f.k NOT IN (SELECT k FROM nothing)"),
    _q("cross", "SELECT o.label, d.k, d.w FROM one o CROSS JOIN dims d"),
    _q("cross_big", "SELECT count(*) AS c, sum(f.v * d.w) AS s FROM facts f CROSS JOIN dims d"),
    _q("loop", "SELECT f.id, d.w FROM facts f JOIN dims d ON f.v < d.w AND f.id > 400"),
    _q("loop_left", "SELECT d.w, f.id FROM dims d LEFT JOIN facts f ON f.v < d.w AND f.id > 440"),
    _q("loop_full", "SELECT d.w, f.id FROM dims d FULL JOIN facts f ON f.v < d.w AND f.id > 440 AND d.w < 20"),
    _q("loop_semi", "SELECT d.w FROM dims d WHERE EXISTS (SELECT 1 FROM facts f WHERE f.v < d.w AND f.id > 470)"),
    _q("merge_inner", "SELECT f.id, d.name FROM facts f JOIN dims d ON f.k = d.k", settings=SMJ),
    _q(
        "self_join",
        "SELECT a.id, b.id AS other FROM facts a JOIN facts b ON a.v = b.v AND a.id < b.id WHERE a.g = 'g1'",
    ),
    _q(
        "duplicate_names",
        "SELECT count(*) AS c FROM (SELECT a.k, b.k, a.g, b.g FROM facts a JOIN facts b ON a.k = b.k) AS x(p, q, r, s) WHERE r = s",
    ),
    _q(
        "three_way",
        "SELECT o.label, d.name, count(*) AS c, sum(f.v) AS s FROM facts f JOIN dims d ON f.k = d.k JOIN one o ON o.k = d.k GROUP BY o.label, d.name",
        settings=SHUFFLED,
    ),
    _q(
        "aggregates_joined",
        "SELECT a.k, a.c, b.s FROM (SELECT k, count(*) AS c FROM facts GROUP BY k) a JOIN (SELECT k, sum(w) AS s FROM dims GROUP BY k) b ON a.k = b.k",
        settings=SHUFFLED,
    ),
    _q(
        "aggregates_merged",
        "SELECT a.k, a.c, b.s FROM (SELECT k, count(*) AS c FROM facts GROUP BY k) a FULL JOIN (SELECT k, sum(w) AS s FROM dims GROUP BY k) b ON a.k = b.k",
        settings=SMJ,
    ),
    _q("small_side_shuffled", "SELECT o.label, f.id FROM one o JOIN facts f ON o.k = f.k", settings=SHUFFLED),
    _q("small_side_left", "SELECT o.label, f.id FROM one o LEFT JOIN facts f ON o.k = f.k", settings=SHUFFLED),
    _q(
        "scalar_subquery",
        "SELECT id FROM facts WHERE v > (SELECT avg(w) FROM dims) AND id < (SELECT max(id) FROM facts)",
    ),
    _q("correlated", "SELECT f.id FROM facts f WHERE f.v > (SELECT avg(d.w) FROM dims d WHERE d.k = f.k)"),
    _q(
        "build_of_build",
        "SELECT f.id FROM facts f JOIN (SELECT avg(w) AS m FROM dims) x ON f.v < x.m JOIN (SELECT sum(k) / 20 AS lo FROM keys) y ON f.k > y.lo",
    ),
    _q("subquery_in_aggregate", "SELECT sum(v + (SELECT max(w) FROM dims)) AS s FROM facts"),
    _q(
        "subquery_in_order",
        "SELECT id FROM facts ORDER BY abs(id - (SELECT max(w) FROM dims)), id LIMIT 20",
        "id",
    ),
    _q(
        "subquery_in_join",
        "SELECT f.id, d.w FROM facts f LEFT JOIN dims d ON f.k = d.k AND f.v > (SELECT avg(w) FROM dims)",
    ),
    # sets
    _q("union_all", "SELECT k, g FROM facts UNION ALL SELECT k, name FROM dims UNION ALL SELECT k, label FROM one"),
    _q("union", "SELECT k FROM facts UNION SELECT k FROM dims UNION SELECT k FROM mem"),
    _q(
        "union_counts",
        "SELECT src, count(*) AS c, sum(k) AS s FROM (SELECT 'f' AS src, k FROM facts UNION ALL SELECT 'd', k FROM dims UNION ALL SELECT 'm', k FROM mem) GROUP BY src",
    ),
    _q(
        "union_of_groups",
        "SELECT k, count(*) AS c FROM facts GROUP BY k UNION ALL SELECT k, count(*) AS c FROM dims GROUP BY k",
    ),
    _q(
        "groups_of_union_of_groups",
        "SELECT k, sum(c) AS c FROM (SELECT k, count(*) AS c FROM facts GROUP BY k UNION ALL SELECT k, count(*) AS c FROM dims GROUP BY k) GROUP BY k",
    ),
    _q(
        "union_big_and_small",
        "SELECT k, count(*) AS c FROM facts GROUP BY k UNION ALL SELECT k, count(*) AS c FROM one GROUP BY k",
    ),
    _q("union_of_globals", "SELECT count(*) AS c FROM facts WHERE v > 3 UNION ALL SELECT sum(w) FROM dims WHERE w > 3"),
    _q(
        "union_joined",
        "SELECT o.label, u.k FROM one o JOIN (SELECT k FROM facts UNION ALL SELECT k FROM dims) u ON o.k = u.k",
    ),
    _q(
        "union_nested",
        "SELECT k FROM (SELECT k FROM facts WHERE v > 90 UNION ALL (SELECT DISTINCT k FROM dims UNION ALL SELECT k FROM one)) WHERE k IS NOT NULL",
    ),
    _q("intersect", "SELECT k FROM facts INTERSECT SELECT k FROM dims"),
    _q("except", "SELECT k FROM dims EXCEPT SELECT k FROM facts"),
    _q("except_all", "SELECT k FROM facts EXCEPT ALL SELECT k FROM keys"),
    _q(
        "recursive",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT r.n, count(*) AS c FROM r JOIN facts f ON f.k = r.n GROUP BY r.n",
    ),
    # order, limits
    _q("order", "SELECT id, g, v FROM facts ORDER BY g NULLS FIRST, v DESC, id", "g", "v", "id"),
    _q("top", "SELECT id, v FROM facts ORDER BY v DESC, id LIMIT 7", "v", "id"),
    _q("offset", "SELECT id, v FROM facts ORDER BY v, id LIMIT 10 OFFSET 25", "v", "id"),
    _q("offset_only", "SELECT id FROM facts ORDER BY id OFFSET 470", "id"),
    _q("limit", "SELECT id FROM facts LIMIT 9", superset="SELECT id FROM facts"),
    _q("limit_filtered", "SELECT id FROM facts WHERE v > 80 LIMIT 9", superset="SELECT id FROM facts WHERE v > 80"),
    _q("limit_offset", "SELECT id FROM facts LIMIT 5 OFFSET 477", superset="SELECT id FROM facts"),
    _q(
        "limit_join",
        "SELECT f.id, d.w FROM facts f JOIN dims d ON f.k = d.k LIMIT 30",
        superset="SELECT f.id, d.w FROM facts f JOIN dims d ON f.k = d.k",
        settings=SHUFFLED,
    ),
    _q("limit_zero", "SELECT id FROM facts LIMIT 0"),
    _q("limit_below", "SELECT count(*) AS c FROM (SELECT id FROM facts LIMIT 50)"),
    _q("limit_of_union", "SELECT count(*) AS c FROM (SELECT k FROM facts UNION ALL SELECT k FROM dims LIMIT 33)"),
    _q("top_of_groups", "SELECT k, sum(v) AS s FROM facts GROUP BY k ORDER BY s DESC, k LIMIT 5", "s", "k"),
    _q("top_by_group", "SELECT k, max(id) AS m FROM facts GROUP BY k ORDER BY m DESC LIMIT 4", "m"),
    _q("declared_order", "SELECT ts, x FROM ordered ORDER BY ts", "ts"),
    _q("declared_order_top", "SELECT ts, x FROM ordered ORDER BY ts LIMIT 20", "ts"),
    _q("declared_order_group", "SELECT ts, count(*) AS c FROM ordered GROUP BY ts ORDER BY ts", "ts"),
    _q(
        "declared_order_group_top",
        "SELECT ts, x, count(*) AS c FROM ordered GROUP BY ts, x ORDER BY ts LIMIT 20",
        "ts",
    ),
    _q("declared_order_distinct", "SELECT DISTINCT ts FROM ordered ORDER BY ts LIMIT 31", "ts"),
    _q("declared_order_list", "SELECT ts, array_agg(x ORDER BY ts) AS xs FROM ordered GROUP BY ts"),
    _q(
        "declared_order_ranked",
        "SELECT ts, c, row_number() OVER (ORDER BY ts) AS r FROM (SELECT ts, count(*) AS c FROM ordered GROUP BY ts)",
    ),
    _q(
        "declared_order_part",
        "SELECT ts, x, sum(x) OVER (PARTITION BY ts) AS s FROM ordered",
        settings={"datafusion.optimizer.prefer_existing_sort": "true"},
    ),
    _q(
        "declared_order_merged",
        "SELECT a.ts, b.x FROM ordered a JOIN ordered b ON a.ts = b.ts ORDER BY a.ts",
        "ts",
        settings={**SMJ, "datafusion.optimizer.prefer_existing_sort": "true"},
    ),
    _q(
        "series_order",
        "SELECT value AS n, count(*) AS c FROM generate_series(1, 100) GROUP BY value ORDER BY value",
        "n",
    ),
    _q("declared_order_window", "SELECT ts, sum(x) OVER (ORDER BY ts) AS r FROM ordered"),
    _q("declared_order_join", "SELECT o.ts, f.v FROM ordered o JOIN facts f ON o.ts = f.id ORDER BY o.ts", "ts"),
    _q("union_ordered", "SELECT id AS n FROM facts UNION ALL SELECT w FROM dims ORDER BY n LIMIT 40", "n"),
    # windows
    _q(
        "window",
        "SELECT id, row_number() OVER (PARTITION BY g ORDER BY id) AS r, sum(v) OVER (PARTITION BY g) AS s FROM facts",
    ),
    _q("window_whole", "SELECT id, rank() OVER (ORDER BY v) AS r FROM facts"),
    _q(
        "window_frame",
        "SELECT id, sum(v) OVER (PARTITION BY k ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS s, lag(v) OVER (PARTITION BY k ORDER BY id) AS l FROM facts",
    ),
    _q(
        "window_of_groups",
        "SELECT g, c, rank() OVER (ORDER BY c DESC, g) AS r FROM (SELECT g, count(*) AS c FROM facts GROUP BY g)",
    ),
    _q(
        "top_in_window",
        "SELECT * FROM (SELECT id, g, row_number() OVER (PARTITION BY g ORDER BY v DESC, id) AS r FROM facts) WHERE r <= 2",
    ),
    _q(
        "window_of_constant_key",
        "SELECT id, sum(id) OVER (PARTITION BY k ORDER BY id DESC) AS s FROM facts WHERE k = 5",
    ),
    _q(
        "window_of_one_key_twice",
        "SELECT c, sum(c) OVER (PARTITION BY a, b ORDER BY c) AS s FROM (SELECT k AS a, k AS b, id AS c FROM facts)",
    ),
    _q(
        "window_of_constants_alone",
        "SELECT f.id, count(*) OVER (PARTITION BY n) AS c FROM (SELECT id, k, g IS NULL AS n FROM facts WHERE g IS NULL) f JOIN dims d ON f.k = d.k",
        settings=SHUFFLED,
    ),
    _q(
        "window_ordered_through_a_shuffle",
        "SELECT v, min(v) OVER (ORDER BY v DESC) AS a, count(v) OVER (PARTITION BY v) AS b FROM (SELECT DISTINCT v % 9 AS v FROM facts) ORDER BY v DESC",
        "v",
    ),
    _q(
        "window_ordered_below_a_join",
        "SELECT o0, rank() OVER (PARTITION BY o0 ORDER BY o0) AS r FROM (SELECT k AS o0 FROM facts ORDER BY k LIMIT 50) LEFT ANTI JOIN (VALUES (3), (4)) AS x(v) ON o0 = v",
        settings=SHUFFLED,
    ),
    _q(
        "window_of_one_row_through_a_shuffle",
        "SELECT dense_rank() OVER (PARTITION BY a.m) AS r FROM (SELECT 'x' AS n, max(v) AS m FROM facts) a LEFT SEMI JOIN (SELECT 'x' AS n) b ON a.n = b.n",
        settings=SMJ,
    ),
    _q(
        "window_of_join",
        "SELECT f.id, d.w, row_number() OVER (PARTITION BY f.k ORDER BY f.id, d.w, d.name) AS r FROM facts f JOIN dims d ON f.k = d.k",
    ),
)
"""All of them; :func:`by_name` finds one."""

STAYS_HERE = {
    "limit_zero": "nothing to distribute",
    "recursive": "cannot encode the plan",
    "subquery_in_aggregate": "cannot plan the query for division: ScalarSubqueryExec",
    "subquery_in_order": "cannot plan the query for division: ScalarSubqueryExec",
    "subquery_in_join": "cannot plan the query for division: ScalarSubqueryExec",
}
"""Queries of which no part is ever distributed, and a piece of the reason."""

WITHOUT_A_PLAN = {name for name, why in STAYS_HERE.items() if "cannot encode" in why or "cannot plan" in why}
"""Queries whose plan for the swarm does not exist, or has no encoding."""


def by_name(name: str) -> Sample:
    """Return the query of that name."""
    return next(sample for sample in SAMPLES if sample.name == name)
