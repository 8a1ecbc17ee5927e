-- Subqueries: scalar, correlated, in every clause, within each other; and common table expressions.

-- name: scalar_in_where
SELECT id FROM visits WHERE n > (SELECT avg(n) FROM visits) + 20;

-- name: scalar_in_select
SELECT id, n - (SELECT min(n) FROM visits) AS d FROM visits;

-- name: scalar_twice
SELECT id FROM visits WHERE n BETWEEN (SELECT avg(capacity) FROM hives) AND (SELECT max(capacity) FROM hives WHERE region = 'north');

-- name: scalar_of_nothing_is_null
SELECT id, (SELECT max(n) FROM nothing) AS m, (SELECT n FROM nothing) AS k FROM visits WHERE id < 20;

-- name: scalar_of_nothing_in_comparison
-- empty: compared with NULL
SELECT id FROM visits WHERE n > (SELECT n FROM nothing);

-- name: scalar_in_having
SELECT flower, sum(n) AS s FROM visits GROUP BY flower HAVING sum(n) > (SELECT sum(n) / 12 FROM visits);

-- name: scalar_in_case
SELECT id, CASE WHEN n > (SELECT median(n) FROM visits) THEN 'high' ELSE 'low' END AS w FROM visits;

-- name: scalar_in_order_by
-- session: DataFusion cannot plan the query for division
SELECT id FROM visits ORDER BY abs(n - (SELECT max(capacity) FROM hives)), id LIMIT 12;

-- name: scalar_in_join_condition
SELECT v.id, h.name FROM visits v JOIN hives h ON v.hive_id = h.hive_id AND h.capacity > (SELECT avg(capacity) FROM hives);

-- name: scalar_in_aggregate
-- session: DataFusion cannot plan the query for division
SELECT sum(n - (SELECT min(n) FROM visits)) AS s, count(*) FILTER (WHERE n > (SELECT avg(n) FROM visits)) AS c FROM visits;

-- name: scalar_in_function_argument
SELECT id, coalesce(hive_id, (SELECT max(hive_id) FROM hives)) AS h FROM visits;

-- name: scalar_in_in_list
SELECT id FROM visits WHERE n IN (1, 2, (SELECT max(n) FROM visits));

-- name: scalar_without_from
SELECT (SELECT count(*) FROM visits WHERE n > 3) AS a, (SELECT max(name) FROM hives) AS b;

-- name: scalar_of_scalar
SELECT id FROM visits WHERE n = (SELECT max(n) FROM visits WHERE n < (SELECT max(n) FROM visits));

-- name: scalar_in_union_branches
SELECT (SELECT max(n) FROM visits) AS m UNION ALL SELECT (SELECT min(n) FROM visits) FROM regions;

-- name: scalar_in_window
-- session: DataFusion cannot plan the query for division
SELECT id, sum(n - (SELECT avg(capacity) FROM hives)) OVER (PARTITION BY hive_id ORDER BY id) AS s FROM visits;

-- name: scalar_of_join
SELECT id FROM visits WHERE n > (SELECT count(*) FROM hives h JOIN regions r ON h.region = r.region);

-- name: scalar_as_group_key
-- session: DataFusion cannot plan the query for division
SELECT n > (SELECT avg(n) FROM visits) AS high, count(*) AS c FROM visits GROUP BY n > (SELECT avg(n) FROM visits);

-- name: correlated_max
SELECT v.id FROM visits v WHERE v.n = (SELECT max(w.n) FROM visits w WHERE w.hive_id = v.hive_id);

-- name: correlated_avg_compare
SELECT v.id, v.n FROM visits v WHERE v.n > (SELECT avg(w.n) FROM visits w WHERE w.flower = v.flower);

-- name: correlated_count_keeps_zero
SELECT h.hive_id, h.name, (SELECT count(*) FROM visits v WHERE v.hive_id = h.hive_id) AS c FROM hives h;

-- name: correlated_sum_in_select
SELECT h.hive_id, (SELECT sum(v.amount) FROM visits v WHERE v.hive_id = h.hive_id AND v.ok) AS s FROM hives h;

-- name: correlated_two_keys
SELECT l.a, l.b FROM left_bag l WHERE l.c < (SELECT max(r.c) + 0.1 FROM right_bag r WHERE r.a = l.a AND r.b = l.b);

-- name: correlated_two_subqueries
SELECT h.hive_id, (SELECT min(v.n) FROM visits v WHERE v.hive_id = h.hive_id) AS lo, (SELECT max(s.kg) FROM scales s WHERE s.hive_id = h.hive_id) AS kg FROM hives h;

-- name: correlated_with_case_of_count
SELECT r.region, (SELECT CASE WHEN count(*) > 10 THEN 'many' ELSE 'few' END FROM hives h WHERE h.region = r.region) AS w FROM regions r;

-- name: correlated_in_having
SELECT h.region, count(*) AS c FROM hives h GROUP BY h.region HAVING count(*) > (SELECT max(r.rank) FROM regions r WHERE r.region = h.region);

-- name: correlated_exists_nested
SELECT r.region FROM regions r WHERE EXISTS (SELECT 1 FROM hives h WHERE h.region = r.region AND EXISTS (SELECT 1 FROM visits v WHERE v.hive_id = h.hive_id AND v.n > 70));

-- name: correlated_not_exists_nested
SELECT h.hive_id FROM hives h WHERE NOT EXISTS (SELECT 1 FROM visits v WHERE v.hive_id = h.hive_id AND NOT EXISTS (SELECT 1 FROM scales s WHERE s.hive_id = v.hive_id));

-- name: correlated_in_with_inner_filter
SELECT h.hive_id FROM hives h WHERE h.capacity IN (SELECT v.n FROM visits v WHERE v.hive_id = h.hive_id);

-- name: correlated_on_empty
SELECT h.hive_id, (SELECT max(x.id) FROM nothing x WHERE x.hive_id = h.hive_id) AS m, (SELECT count(*) FROM nothing x WHERE x.hive_id = h.hive_id) AS c FROM hives h;

-- name: exists_uncorrelated
SELECT id FROM visits WHERE id < 10 AND EXISTS (SELECT 1 FROM hives WHERE capacity > 60);

-- name: not_exists_uncorrelated
-- empty: such hives exist
SELECT id FROM visits WHERE NOT EXISTS (SELECT 1 FROM hives WHERE capacity > 60);

-- name: exists_of_nothing
-- empty: nothing exists
SELECT id FROM visits WHERE EXISTS (SELECT 1 FROM nothing);

-- name: in_subquery_with_group
SELECT id FROM visits WHERE hive_id IN (SELECT hive_id FROM visits GROUP BY hive_id HAVING count(*) > 12);

-- name: in_subquery_with_union
SELECT id FROM visits WHERE n IN (SELECT capacity FROM hives UNION SELECT rank FROM regions);

-- name: in_subquery_with_window
SELECT id FROM visits WHERE id IN (SELECT first_value(id) OVER (PARTITION BY bee ORDER BY n, id) FROM visits);

-- name: in_subquery_nested
SELECT id FROM visits WHERE hive_id IN (SELECT hive_id FROM hives WHERE region IN (SELECT region FROM regions WHERE rank < 2));

-- name: not_in_nested
SELECT id FROM visits WHERE n NOT IN (SELECT capacity FROM hives WHERE capacity IN (SELECT id FROM weather WHERE sky = 'fog'));

-- name: in_and_not_in_together
SELECT id FROM visits WHERE flower IN (SELECT flower FROM visits WHERE n > 70) AND id NOT IN (SELECT id FROM weather WHERE sky IS NULL);

-- name: derived_table_chain
SELECT x, count(*) AS c FROM (SELECT y % 5 AS x FROM (SELECT n + 1 AS y FROM (SELECT n FROM visits WHERE ok) a) b) c GROUP BY x;

-- name: derived_table_with_column_names
SELECT t.p, t.q FROM (SELECT id, flower FROM visits WHERE n > 75) AS t(p, q);

-- name: lateral_with_limit_free_aggregate
SELECT h.hive_id, x.c, x.m FROM hives h CROSS JOIN LATERAL (SELECT count(*) AS c, max(v.n) AS m FROM visits v WHERE v.hive_id = h.hive_id) x;

-- name: lateral_left_join
SELECT h.hive_id, x.n FROM hives h LEFT JOIN LATERAL (SELECT v.n FROM visits v WHERE v.hive_id = h.hive_id AND v.n > 70) x ON true;

-- name: any_as_in
SELECT id FROM visits WHERE n = ANY (SELECT capacity FROM hives WHERE region = 'south');

-- name: cte_once
WITH big AS (SELECT * FROM visits WHERE n > 60) SELECT flower, count(*) AS c FROM big GROUP BY flower;

-- name: cte_twice
WITH t AS (SELECT hive_id, sum(n) AS s FROM visits GROUP BY hive_id) SELECT a.hive_id, a.s, b.s AS other FROM t a JOIN t b ON a.s < b.s WHERE a.hive_id < 4;

-- name: cte_three_times_in_union
WITH t AS (SELECT flower, count(*) AS c FROM visits GROUP BY flower) SELECT 'max' AS w, max(c) AS c FROM t UNION ALL SELECT 'min', min(c) FROM t UNION ALL SELECT 'sum', sum(c) FROM t;

-- name: cte_chain
WITH a AS (SELECT id, n FROM visits WHERE ok), b AS (SELECT id, n * 2 AS m FROM a WHERE n > 0), c AS (SELECT m % 10 AS d, count(*) AS c FROM b GROUP BY m % 10) SELECT * FROM c WHERE c > 3;

-- name: cte_in_subquery
SELECT id FROM visits WHERE hive_id IN (WITH t AS (SELECT hive_id FROM hives WHERE capacity > 40) SELECT hive_id FROM t);

-- name: cte_shadows_table
WITH hives AS (SELECT 5 AS hive_id, 'mine' AS name) SELECT v.id, h.name FROM visits v JOIN hives h ON v.hive_id = h.hive_id;

-- name: cte_with_column_names
WITH t(k, total) AS (SELECT bee, sum(n) FROM visits GROUP BY bee) SELECT k, total FROM t WHERE total > 500;

-- name: cte_nested
WITH a AS (WITH b AS (SELECT id FROM visits WHERE n > 70) SELECT count(*) AS c FROM b) SELECT c + 1 AS c FROM a;

-- name: cte_with_limit_used_twice
WITH t AS (SELECT id, n FROM visits ORDER BY id LIMIT 30) SELECT a.id, b.n FROM t a JOIN t b ON a.id = b.id + 1;

-- name: cte_scalar_from_it
WITH t AS (SELECT flower, sum(n) AS s FROM visits GROUP BY flower) SELECT flower, s FROM t WHERE s = (SELECT max(s) FROM t);

-- name: cte_left_join_itself_days
WITH d AS (SELECT day, count(*) AS c FROM visits GROUP BY day) SELECT a.day, a.c, b.c AS before FROM d a LEFT JOIN d b ON a.day = b.day + INTERVAL '1 day';

-- name: view_simple
SELECT count(*) AS c, sum(n) AS s FROM good_visits;

-- name: view_of_aggregate
SELECT * FROM hive_totals WHERE visits > 10;

-- name: view_joined_with_its_table
SELECT t.hive_id, count(v.id) AS c, max(t.visits) AS m FROM hive_totals t JOIN visits v ON v.hive_id = t.hive_id GROUP BY t.hive_id;

-- name: view_of_views
SELECT title, sum(visits) AS s FROM nested_view GROUP BY title;

-- name: view_with_column_names
SELECT n.no, n.title FROM hive_names n WHERE n.title = 'nameless';

-- name: view_joined_with_itself
SELECT a.hive_id, a.visits, b.hive_id AS other FROM hive_totals a JOIN hive_totals b ON a.visits = b.visits AND a.hive_id < b.hive_id;
