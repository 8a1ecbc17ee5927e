-- Set operations: what stays double, what types meet in, and branches of different make.

-- name: union_all
SELECT a, b FROM left_bag UNION ALL SELECT a, b FROM right_bag;

-- name: union_distinct
SELECT a, b FROM left_bag UNION SELECT a, b FROM right_bag;

-- name: intersect_distinct
SELECT a, b FROM left_bag INTERSECT SELECT a, b FROM right_bag;

-- name: intersect_all
SELECT a, b FROM left_bag INTERSECT ALL SELECT a, b FROM right_bag;

-- name: except_distinct
SELECT a, b FROM left_bag EXCEPT SELECT a, b FROM right_bag;

-- name: except_all
SELECT a, b, c FROM left_bag EXCEPT ALL SELECT a, b, c FROM right_bag;

-- name: except_other_way
SELECT a FROM right_bag EXCEPT SELECT a FROM left_bag;

-- name: except_itself
-- empty: nothing is left
SELECT a, b FROM left_bag EXCEPT SELECT a, b FROM left_bag;

-- name: intersect_with_itself
SELECT a, b FROM left_bag INTERSECT SELECT a, b FROM left_bag;

-- name: union_with_itself
SELECT count(*) AS c FROM (SELECT id FROM visits UNION ALL SELECT id FROM visits);

-- name: union_of_three_mixed
SELECT a FROM left_bag UNION SELECT a FROM right_bag UNION ALL SELECT hive_id FROM scales;

-- name: intersect_binds_tighter
SELECT a FROM left_bag UNION SELECT a FROM right_bag INTERSECT SELECT hive_id FROM hives;

-- name: nested_set_operations
(SELECT a FROM left_bag EXCEPT SELECT a FROM right_bag) UNION ALL (SELECT a FROM right_bag INTERSECT SELECT a FROM left_bag);

-- name: except_of_union
(SELECT a, b FROM left_bag UNION SELECT a, b FROM right_bag) EXCEPT (SELECT a, b FROM left_bag INTERSECT SELECT a, b FROM right_bag);

-- name: union_of_ten
SELECT 0 AS w, count(*) AS c FROM visits WHERE id % 10 = 0 UNION ALL SELECT 1, count(*) FROM visits WHERE id % 10 = 1 UNION ALL SELECT 2, sum(n) FROM visits UNION ALL SELECT 3, max(id) FROM visits WHERE ok UNION ALL SELECT 4, count(*) FROM hives WHERE capacity > 3 UNION ALL SELECT 5, min(n) FROM visits WHERE ok UNION ALL SELECT 6, count(DISTINCT bee) FROM visits UNION ALL SELECT 7, sum(id) FROM weather UNION ALL SELECT 8, count(*) FROM notes WHERE text IS NULL UNION ALL SELECT 9, max(hive_id) FROM scales WHERE kg > 1;

-- name: union_of_ten_scans
SELECT id FROM visits WHERE n = 1 UNION ALL SELECT id FROM visits WHERE n = 2 UNION ALL SELECT id FROM visits WHERE n = 3 UNION ALL SELECT id FROM visits WHERE n = 4 UNION ALL SELECT id FROM visits WHERE n = 5 UNION ALL SELECT id FROM texts UNION ALL SELECT id FROM kinds UNION ALL SELECT id FROM weather UNION ALL SELECT id FROM notes UNION ALL SELECT id FROM scales;

-- name: union_coerces_numbers
SELECT hive_id AS x FROM visits UNION ALL SELECT amount FROM visits UNION ALL SELECT frac FROM visits;

-- name: union_coerces_int_and_text
SELECT CAST(a AS VARCHAR) AS x FROM left_bag UNION SELECT b FROM right_bag;

-- name: union_coerces_dates
SELECT day AS d FROM visits UNION SELECT at FROM wide_keys;

-- name: union_coerces_null
SELECT NULL AS x, id FROM texts UNION ALL SELECT hive_id, id FROM visits WHERE id < 20;

-- name: union_text_and_dictionary
SELECT grade AS x FROM scales UNION SELECT flower FROM visits;

-- name: union_takes_first_names
SELECT a AS first, b AS second FROM left_bag UNION ALL SELECT hive_id, name FROM hives;

-- name: union_by_name
SELECT a, b FROM left_bag UNION ALL BY NAME SELECT b, a, c FROM right_bag;

-- name: union_distinct_by_name
SELECT a, b FROM left_bag UNION BY NAME SELECT c, a FROM right_bag;

-- name: union_scan_and_values
SELECT id, flower FROM visits WHERE n > 75 UNION ALL VALUES (1000, 'made up'), (1001, NULL);

-- name: union_scan_and_constant_row
SELECT id FROM visits WHERE n > 70 UNION ALL SELECT -1;

-- name: union_scan_and_memory
SELECT hive_id, keeper AS who FROM keepers UNION ALL SELECT hive_id, bee FROM visits WHERE n > 60;

-- name: union_scan_and_series
SELECT value FROM generate_series(1, 5) UNION ALL SELECT id FROM visits WHERE id < 5;

-- name: union_scan_and_aggregate
SELECT id, n FROM visits WHERE n > 78 UNION ALL SELECT count(*), sum(n) FROM visits;

-- name: union_scan_and_shuffled
SELECT hive_id, n FROM visits WHERE n > 78 UNION ALL SELECT hive_id, sum(n) FROM visits GROUP BY hive_id;

-- name: union_shuffled_and_single
SELECT flower AS k, count(*) AS c FROM visits GROUP BY flower UNION ALL SELECT * FROM (SELECT bee, id FROM visits ORDER BY id LIMIT 4);

-- name: union_of_joins
SELECT v.id, h.name FROM visits v JOIN hives h ON v.hive_id = h.hive_id WHERE v.ok UNION ALL SELECT v.id, k.keeper FROM visits v LEFT JOIN keepers k ON v.hive_id = k.hive_id WHERE v.n > 60;

-- name: union_formats
SELECT id FROM visits UNION ALL SELECT id FROM weather UNION ALL SELECT id FROM notes UNION ALL SELECT id FROM scales UNION ALL SELECT id FROM seasons;

-- name: union_with_nothing
SELECT id, bee FROM nothing UNION ALL SELECT id, bee FROM visits WHERE n > 70;

-- name: union_of_nothings
-- empty: no branch has rows
SELECT id FROM nothing UNION ALL SELECT id FROM nothing UNION ALL SELECT id FROM no_files;

-- name: union_distinct_with_nothing
SELECT flower FROM nothing UNION SELECT flower FROM visits;

-- name: except_nothing
SELECT flower FROM visits EXCEPT SELECT flower FROM nothing;

-- name: nothing_except
-- empty: nothing to take from
SELECT flower FROM nothing EXCEPT SELECT flower FROM visits;

-- name: intersect_nothing
-- empty: nothing in common
SELECT flower FROM visits INTERSECT SELECT flower FROM nothing;

-- name: union_then_group
SELECT src, count(*) AS c, count(DISTINCT a) AS d FROM (SELECT 'l' AS src, a FROM left_bag UNION ALL SELECT 'r', a FROM right_bag) GROUP BY src;

-- name: union_then_group_across
SELECT a, b, count(*) AS c FROM (SELECT a, b FROM left_bag UNION ALL SELECT a, b FROM right_bag) GROUP BY a, b;

-- name: union_then_join
SELECT u.x, h.name FROM (SELECT a AS x FROM left_bag UNION SELECT hive_id FROM scales) u JOIN hives h ON h.hive_id = u.x;

-- name: union_as_build_side
SELECT v.id FROM visits v WHERE v.hive_id IN (SELECT a FROM left_bag UNION ALL SELECT a FROM right_bag WHERE a IS NOT NULL);

-- name: union_then_window
SELECT id, rank() OVER (PARTITION BY src ORDER BY n, id) AS r FROM (SELECT 1 AS src, id, n FROM visits WHERE ok UNION ALL SELECT 2, id, n FROM visits WHERE NOT ok);

-- name: union_of_groups_grouped_again
SELECT k, sum(c) AS c FROM (SELECT flower AS k, count(*) AS c FROM visits GROUP BY flower UNION ALL SELECT bee, count(*) FROM visits GROUP BY bee) GROUP BY k;

-- name: union_of_same_group_keys
SELECT flower, sum(c) AS c FROM (SELECT flower, count(*) AS c FROM visits WHERE ok GROUP BY flower UNION ALL SELECT flower, count(*) FROM visits WHERE NOT ok GROUP BY flower) GROUP BY flower;

-- name: union_of_windows
SELECT id, row_number() OVER (PARTITION BY flower ORDER BY id) AS r FROM visits WHERE id < 100 UNION ALL SELECT id, count(*) OVER (PARTITION BY bee) FROM visits WHERE id >= 700;

-- name: union_nested_with_filter_above
SELECT * FROM (SELECT id, 'a' AS t FROM visits UNION ALL (SELECT id, 'b' FROM visits UNION ALL SELECT id, 'c' FROM weather)) WHERE t <> 'b' AND id % 50 = 3;

-- name: union_distinct_of_floats_with_nan
SELECT num FROM wide_keys UNION SELECT nectar FROM visits;

-- name: intersect_with_nan_and_null
SELECT num FROM wide_keys INTERSECT SELECT nectar FROM visits;

-- name: except_structs
SELECT rec FROM wide_keys EXCEPT SELECT rec FROM wide_keys WHERE id % 3 = 0;

-- name: intersect_decimals_of_two_scales
SELECT dec FROM wide_keys INTERSECT SELECT weight / 10 FROM hives;

-- name: union_without_columns
SELECT count(*) AS c FROM (SELECT 1 FROM visits UNION ALL SELECT 2 FROM hives UNION ALL SELECT 3 FROM visits WHERE ok);

-- name: union_of_limits_limited
SELECT count(*) AS c FROM ((SELECT id FROM visits LIMIT 30) UNION ALL (SELECT id FROM visits LIMIT 50 OFFSET 10) LIMIT 60);

-- name: union_of_sorted_branches
(SELECT id FROM visits ORDER BY id) UNION ALL (SELECT id FROM weather ORDER BY id) ORDER BY id LIMIT 20;

-- name: union_of_declared_orders
SELECT tick, lane FROM in_order UNION ALL SELECT tick + 1, lane + 10 FROM in_order ORDER BY tick, lane;

-- name: union_of_two_partition_filters
SELECT id FROM seasons WHERE year = 2022 UNION ALL SELECT id FROM seasons WHERE season = 'fall' AND year > 2022;

-- name: symmetric_difference
SELECT 'l' AS side, * FROM (SELECT a, b FROM left_bag EXCEPT SELECT a, b FROM right_bag) UNION ALL SELECT 'r', * FROM (SELECT a, b FROM right_bag EXCEPT SELECT a, b FROM left_bag);

-- name: union_all_of_nested_types
SELECT tags AS t, pos FROM visits WHERE id < 30 UNION ALL SELECT tags, pos FROM visits WHERE id > 740;

-- name: interleaved_distinct_unions
SELECT a, count(*) AS c FROM (SELECT a FROM left_bag GROUP BY a UNION ALL SELECT a FROM right_bag GROUP BY a) GROUP BY a;
