-- Joins of every kind, by hash unless a setting says otherwise: what is emitted, what matches, what NULL does.

-- name: inner_on_key
SELECT v.id, h.name, h.capacity FROM visits v JOIN hives h ON v.hive_id = h.hive_id;

-- name: inner_with_filter_across_sides
SELECT v.id, h.name FROM visits v JOIN hives h ON v.hive_id = h.hive_id AND v.n > h.capacity AND h.region <> 'south';

-- name: inner_two_keys
SELECT a.id, b.id AS other FROM visits a JOIN visits b ON a.hive_id = b.hive_id AND a.bee = b.bee WHERE a.id < b.id AND b.id % 5 = 0;

-- name: inner_expression_keys
SELECT v.id, h.hive_id FROM visits v JOIN hives h ON v.hive_id + 1 = h.hive_id * 2 AND upper(v.flower) = 'CLOVER';

-- name: inner_different_key_types
SELECT v.id, r.rank FROM visits v JOIN regions r ON v.hive_id = r.rank;

-- name: inner_using
SELECT hive_id, v.id, h.name FROM visits v JOIN hives h USING (hive_id);

-- name: natural_join
SELECT * FROM hives NATURAL JOIN regions;

-- name: using_two_columns
SELECT hive_id, name, capacity, w FROM hives JOIN (SELECT hive_id, name, weight AS w FROM hives WHERE capacity > 10) x USING (hive_id, name);

-- name: star_with_duplicate_names
SELECT * FROM hives a JOIN hives b ON a.hive_id = b.hive_id WHERE a.capacity < b.capacity;

-- name: left_on_key
SELECT h.hive_id, h.name, v.id FROM hives h LEFT JOIN visits v ON h.hive_id = v.hive_id;

-- name: left_with_condition_on_left
SELECT h.hive_id, h.name, v.id FROM hives h LEFT JOIN visits v ON h.hive_id = v.hive_id AND h.capacity > 30;

-- name: left_with_condition_on_right
SELECT h.hive_id, v.id FROM hives h LEFT JOIN visits v ON h.hive_id = v.hive_id AND v.n > 60;

-- name: left_large_side_first
SELECT v.id, h.name FROM visits v LEFT JOIN hives h ON h.hive_id = v.hive_id AND h.capacity > v.n;

-- name: left_then_is_null
SELECT h.hive_id, h.name FROM hives h LEFT JOIN visits v ON h.hive_id = v.hive_id WHERE v.id IS NULL;

-- name: left_then_where_makes_it_inner
SELECT h.hive_id, v.id FROM hives h LEFT JOIN visits v ON h.hive_id = v.hive_id WHERE v.n > 70;

-- name: left_using_coalesces
SELECT hive_id, count(v.id) AS c FROM hives LEFT JOIN visits v USING (hive_id) GROUP BY hive_id;

-- name: right_on_key
SELECT h.name, v.id, v.hive_id FROM hives h RIGHT JOIN visits v ON h.hive_id = v.hive_id;

-- name: right_small_side_kept
SELECT v.id, h.hive_id, h.capacity FROM visits v RIGHT JOIN hives h ON h.hive_id = v.hive_id AND v.ok;

-- name: full_on_key
SELECT h.hive_id, h.name, v.id, v.hive_id AS seen FROM hives h FULL JOIN visits v ON h.hive_id = v.hive_id;

-- name: full_with_filter
SELECT h.hive_id, v.id FROM hives h FULL JOIN visits v ON h.hive_id = v.hive_id AND v.n > h.capacity;

-- name: full_using
SELECT hive_id, s.kg, h.name FROM hives h FULL JOIN scales s USING (hive_id);

-- name: full_of_three
SELECT a.a AS x, b.a AS y, c.hive_id AS z FROM (SELECT DISTINCT a FROM left_bag) a FULL JOIN (SELECT DISTINCT a FROM right_bag) b ON a.a = b.a FULL JOIN (SELECT DISTINCT hive_id FROM scales) c ON b.a = c.hive_id;

-- name: cross_small
SELECT a.rank AS x, b.rank AS y, a.region FROM regions a CROSS JOIN regions b;

-- name: cross_with_large
SELECT v.id, r.rank FROM visits v CROSS JOIN regions r WHERE v.n % 10 = r.rank % 10 OR v.n = 7;

-- name: cross_of_aggregates
SELECT x.c, y.m FROM (SELECT count(*) AS c FROM visits) x, (SELECT max(capacity) AS m FROM hives) y;

-- name: comma_join_with_where
SELECT v.id, h.name, r.rank FROM visits v, hives h, regions r WHERE v.hive_id = h.hive_id AND h.region = r.region;

-- name: left_semi_join_syntax
SELECT h.hive_id, h.name FROM hives h LEFT SEMI JOIN visits v ON h.hive_id = v.hive_id AND v.n > 50;

-- name: left_anti_join_syntax
SELECT h.hive_id, h.name FROM hives h LEFT ANTI JOIN visits v ON h.hive_id = v.hive_id AND v.n > 50;

-- name: right_semi_join_syntax
SELECT v.id FROM hives h RIGHT SEMI JOIN visits v ON h.hive_id = v.hive_id AND h.capacity > 40;

-- name: right_anti_join_syntax
SELECT v.id FROM hives h RIGHT ANTI JOIN visits v ON h.hive_id = v.hive_id AND h.capacity > 5;

-- name: exists_correlated
SELECT h.hive_id, h.name FROM hives h WHERE EXISTS (SELECT 1 FROM visits v WHERE v.hive_id = h.hive_id AND v.flower = 'heather');

-- name: not_exists_correlated
SELECT h.hive_id, h.capacity FROM hives h WHERE NOT EXISTS (SELECT 1 FROM visits v WHERE v.hive_id = h.hive_id AND v.amount > 800);

-- name: exists_with_inequality
SELECT h.hive_id FROM hives h WHERE EXISTS (SELECT 1 FROM visits v WHERE v.hive_id = h.hive_id AND v.n > h.capacity);

-- name: exists_in_or_makes_a_mark
SELECT h.hive_id, h.name FROM hives h WHERE h.capacity > 50 OR EXISTS (SELECT 1 FROM visits v WHERE v.hive_id = h.hive_id AND v.n > 70);

-- name: not_exists_in_or
SELECT v.id FROM visits v WHERE v.n > 75 OR NOT EXISTS (SELECT 1 FROM hives h WHERE h.hive_id = v.hive_id);

-- name: two_marks
SELECT v.id FROM visits v WHERE v.hive_id IN (SELECT hive_id FROM hives WHERE capacity > 50) OR v.bee IN (SELECT bee FROM visits WHERE n = 80);

-- name: in_subquery
SELECT id, hive_id FROM visits WHERE hive_id IN (SELECT hive_id FROM hives WHERE region = 'north');

-- name: not_in_without_nulls
SELECT id, hive_id FROM visits WHERE hive_id NOT IN (SELECT hive_id FROM hives WHERE hive_id IS NOT NULL AND capacity > 20);

-- name: not_in_with_nulls_is_empty
-- empty: a NULL in the list leaves nothing true
SELECT id FROM visits WHERE hive_id NOT IN (SELECT hive_id FROM hives);

-- name: not_in_of_nothing_keeps_nulls
SELECT id, hive_id FROM visits WHERE hive_id NOT IN (SELECT hive_id FROM nothing);

-- name: not_in_with_null_only_list
-- empty: nothing is known not to be NULL
SELECT id FROM visits WHERE hive_id NOT IN (SELECT hive_id FROM hives WHERE hive_id IS NULL);

-- name: in_with_expression
SELECT id FROM visits WHERE hive_id % 7 IN (SELECT capacity / 8 FROM hives WHERE capacity < 40);

-- name: in_strings
SELECT id FROM visits WHERE flower IN (SELECT trim(flower) FROM visits WHERE n > 60);

-- name: not_in_strings_without_nulls
SELECT id, flower FROM visits WHERE flower NOT IN (SELECT flower FROM visits WHERE n > 76 AND flower IS NOT NULL);

-- name: nested_loop_inner
SELECT h.hive_id, r.rank FROM hives h JOIN regions r ON h.capacity > r.rank * 12;

-- name: nested_loop_left
SELECT r.rank, h.hive_id FROM regions r LEFT JOIN hives h ON h.capacity < r.rank * 2;

-- name: nested_loop_right
SELECT r.rank, h.hive_id FROM regions r RIGHT JOIN hives h ON h.capacity < r.rank * 2;

-- name: nested_loop_full
SELECT r.rank, h.hive_id FROM regions r FULL JOIN hives h ON h.capacity < r.rank * 2 AND r.rank > 2;

-- name: nested_loop_semi
SELECT h.hive_id FROM hives h WHERE EXISTS (SELECT 1 FROM regions r WHERE r.rank * 10 > h.capacity);

-- name: nested_loop_anti
SELECT h.hive_id FROM hives h WHERE NOT EXISTS (SELECT 1 FROM regions r WHERE r.rank * 9 > h.capacity);

-- name: nested_loop_mark
SELECT h.hive_id FROM hives h WHERE h.region = 'east' OR EXISTS (SELECT 1 FROM regions r WHERE r.rank * 9 > h.capacity);

-- name: nested_loop_large_left_kept
SELECT v.id, r.rank FROM visits v LEFT JOIN regions r ON v.n > r.rank * 20 AND v.id % 4 = 0;

-- name: between_join
SELECT v.id, r.lo FROM visits v JOIN (SELECT rank * 20 - 20 AS lo, rank * 20 - 1 AS hi FROM regions) r ON v.n BETWEEN r.lo AND r.hi;

-- name: like_join
SELECT h.name, r.region FROM hives h JOIN regions r ON h.region LIKE r.region || '%';

-- name: or_join
SELECT h.hive_id, s.id FROM hives h JOIN scales s ON h.hive_id = s.hive_id OR h.capacity = s.id;

-- name: join_on_true
SELECT count(*) AS c FROM hives JOIN regions ON true;

-- name: join_on_false
-- empty: no pair is true
SELECT h.hive_id FROM hives h JOIN regions r ON false;

-- name: left_join_on_false
SELECT h.hive_id, r.rank FROM hives h LEFT JOIN regions r ON false;

-- name: full_join_on_constant_false
SELECT r.rank, b.a FROM regions r FULL JOIN right_bag b ON 1 = 2;

-- name: is_not_distinct_from_inner
SELECT a.a, a.b, b.c FROM left_bag a JOIN right_bag b ON (a.a IS NOT DISTINCT FROM b.a) AND (a.b IS NOT DISTINCT FROM b.b);

-- name: is_not_distinct_from_left
SELECT h.hive_id, s.region FROM hives h LEFT JOIN regions s ON h.region IS NOT DISTINCT FROM s.region;

-- name: is_distinct_from_join
SELECT a.rank, b.rank AS other FROM regions a JOIN regions b ON a.region IS DISTINCT FROM b.region;

-- name: null_keys_never_match
SELECT count(*) AS c FROM left_bag a JOIN right_bag b ON a.a = b.a WHERE a.a IS NULL;

-- name: null_keys_stay_in_full
SELECT count(*) AS c, count(a.a) AS l, count(b.a) AS r FROM left_bag a FULL JOIN right_bag b ON a.a = b.a AND a.b = b.b;

-- name: left_side_empty_inner
-- empty: one side has no rows
SELECT n.id, h.name FROM nothing n JOIN hives h ON n.hive_id = h.hive_id;

-- name: left_side_empty_left
-- empty: the kept side has no rows
SELECT n.id, h.name FROM nothing n LEFT JOIN hives h ON n.hive_id = h.hive_id;

-- name: left_side_empty_right
SELECT n.id, h.name FROM nothing n RIGHT JOIN hives h ON n.hive_id = h.hive_id;

-- name: left_side_empty_full
SELECT n.id, h.name FROM nothing n FULL JOIN hives h ON n.hive_id = h.hive_id;

-- name: right_side_empty_left
SELECT v.id, n.bee FROM visits v LEFT JOIN nothing n ON n.id = v.id;

-- name: right_side_filtered_to_nothing
SELECT v.id, h.name FROM visits v LEFT JOIN (SELECT * FROM hives WHERE capacity > 1000) h ON h.hive_id = v.hive_id;

-- name: right_side_empty_anti
SELECT h.hive_id FROM hives h WHERE NOT EXISTS (SELECT 1 FROM nothing n WHERE n.hive_id = h.hive_id);

-- name: right_side_empty_semi
-- empty: nothing exists
SELECT h.hive_id FROM hives h WHERE EXISTS (SELECT 1 FROM nothing n WHERE n.hive_id = h.hive_id);

-- name: right_side_empty_mark
SELECT h.hive_id FROM hives h WHERE h.capacity > 40 OR h.hive_id IN (SELECT hive_id FROM nothing);

-- name: both_sides_empty_full
-- empty: both sides have no rows
SELECT a.id, b.id AS other FROM nothing a FULL JOIN nothing b ON a.id = b.id;

-- name: table_without_files_left
SELECT h.hive_id, f.name FROM hives h LEFT JOIN no_files f ON f.hive_id = h.hive_id;

-- name: table_without_files_inner
-- empty: one side has no files
SELECT h.hive_id, f.name FROM hives h JOIN no_files f ON f.hive_id = h.hive_id;

-- name: one_row_with_large
SELECT o.id AS one, v.id FROM one_row o JOIN visits v ON v.hive_id = o.hive_id;

-- name: one_row_left_large
SELECT o.id AS one, v.id FROM one_row o LEFT JOIN visits v ON v.id = o.id + 100000;

-- name: self_join_pairs
SELECT a.id, b.id AS next FROM visits a JOIN visits b ON b.id = a.id + 1 WHERE a.flower = b.flower OR a.ok <> b.ok;

-- name: self_join_parent_child
SELECT a.src, a.dst, b.dst AS grandchild FROM edges a JOIN edges b ON a.dst = b.src;

-- name: self_join_three_hops
SELECT a.src, c.dst FROM edges a JOIN edges b ON a.dst = b.src JOIN edges c ON b.dst = c.src;

-- name: five_way_chain
SELECT v.id, h.name, r.rank, s.kg, k.keeper FROM visits v JOIN hives h ON v.hive_id = h.hive_id JOIN regions r ON h.region = r.region JOIN scales s ON s.hive_id = h.hive_id JOIN keepers k ON k.hive_id = s.hive_id WHERE v.n > 60;

-- name: five_way_star_with_outer
SELECT v.id, h.name, r.rank, s.kg, w.temp FROM visits v LEFT JOIN hives h ON v.hive_id = h.hive_id LEFT JOIN regions r ON h.region = r.region LEFT JOIN (SELECT hive_id, max(kg) AS kg FROM scales GROUP BY hive_id) s ON s.hive_id = v.hive_id LEFT JOIN weather w ON w.id = v.id;

-- name: seven_tables_counted
SELECT count(*) AS c, sum(v.n) AS s FROM visits v JOIN hives h ON v.hive_id = h.hive_id JOIN regions r ON h.region = r.region JOIN scales s ON s.hive_id = h.hive_id JOIN keepers k ON k.hive_id = s.hive_id JOIN notes n ON n.hive_id = k.hive_id JOIN left_bag l ON l.a = n.hive_id WHERE v.id < 200;

-- name: inner_left_and_semi_mixed
SELECT v.id, s.kg FROM visits v JOIN hives h ON v.hive_id = h.hive_id LEFT JOIN scales s ON s.id = v.id WHERE EXISTS (SELECT 1 FROM regions r WHERE r.region = h.region) AND v.bee IN (SELECT bee FROM visits WHERE n > 70);

-- name: right_join_chain
SELECT r.region, h.name, v.id FROM visits v RIGHT JOIN hives h ON v.hive_id = h.hive_id AND v.n > 70 RIGHT JOIN regions r ON r.region = h.region;

-- name: join_decimals
SELECT a.id, b.id AS other FROM wide_keys a JOIN wide_keys b ON a.dec = b.dec AND a.id < b.id;

-- name: join_decimals_of_other_scale
SELECT a.id, h.hive_id FROM wide_keys a JOIN hives h ON a.dec = h.weight / 10;

-- name: join_floats_with_nan
SELECT a.id, b.id AS other, a.num FROM wide_keys a JOIN wide_keys b ON a.num = b.num;

-- name: join_text_is_exact
SELECT a.id, b.id AS other, a.txt FROM wide_keys a JOIN wide_keys b ON a.txt = b.txt WHERE a.id <> b.id;

-- name: join_text_folded
SELECT a.id, b.id AS other FROM wide_keys a JOIN wide_keys b ON lower(trim(a.txt)) = lower(trim(b.txt)) WHERE a.id < b.id;

-- name: join_dates
SELECT w.id, k.id AS key FROM visits w JOIN wide_keys k ON w.day = k.day;

-- name: join_date_to_timestamp
SELECT a.id, b.id AS other FROM wide_keys a JOIN wide_keys b ON a.day = b.at;

-- name: join_timestamps_with_zone
SELECT a.id, b.id AS other FROM visits a JOIN visits b ON a.at_utc = b.at_utc WHERE a.id < 200;

-- name: join_structs
SELECT a.id, b.id AS other FROM wide_keys a JOIN wide_keys b ON a.rec = b.rec WHERE a.id < b.id;

-- name: join_struct_field
SELECT a.id, b.id AS other FROM wide_keys a JOIN wide_keys b ON a.rec['a'] = b.rec['a'] AND a.id + 6 = b.id;

-- name: join_lists
SELECT a.id, b.id AS other FROM wide_keys a JOIN wide_keys b ON a.lst = b.lst WHERE a.id < b.id;

-- name: join_binary_and_bool
SELECT a.id, b.id AS other FROM wide_keys a JOIN wide_keys b ON a.bin = b.bin AND a.yes = b.yes;

-- name: join_dictionary_to_text
SELECT s.id, h.hive_id FROM scales s JOIN hives h ON s.grade = lower(substr(h.name, 6, 1));

-- name: join_hive_partition_column
SELECT a.id, b.honey, a.year FROM seasons a JOIN seasons b ON a.year = b.year AND a.season = b.season AND a.id = b.id;

-- name: join_csv_with_json_and_arrow
SELECT w.id, w.sky, n.text, s.grade FROM weather w JOIN notes n ON w.id = n.id JOIN scales s ON s.id = w.id;

-- name: join_memory_build
SELECT v.id, k.keeper FROM visits v JOIN keepers k ON v.hive_id = k.hive_id;

-- name: join_memory_kept
SELECT k.keeper, k.hive_id, v.id FROM keepers k LEFT JOIN visits v ON v.hive_id = k.hive_id AND v.n > 70;

-- name: join_memory_full
SELECT k.keeper, v.id FROM keepers k FULL JOIN (SELECT * FROM visits WHERE n > 50) v ON v.hive_id = k.hive_id;

-- name: join_memory_not_in
SELECT v.id FROM visits v WHERE v.hive_id NOT IN (SELECT hive_id FROM keepers WHERE hive_id IS NOT NULL);

-- name: join_values
SELECT v.id, x.label FROM visits v JOIN (VALUES (5, 'five'), (7, 'seven'), (NULL, 'none'), (5, 'again')) AS x(k, label) ON v.hive_id = x.k;

-- name: join_aggregated_sides
SELECT a.hive_id, a.c, b.kg FROM (SELECT hive_id, count(*) AS c FROM visits GROUP BY hive_id) a JOIN (SELECT hive_id, sum(kg) AS kg FROM scales GROUP BY hive_id) b ON a.hive_id = b.hive_id;

-- name: join_after_limit
SELECT v.id, h.name FROM (SELECT id, hive_id FROM visits ORDER BY id LIMIT 50) v JOIN hives h ON h.hive_id = v.hive_id;

-- name: join_with_window_inside
SELECT v.id, h.name, v.r FROM (SELECT id, hive_id, row_number() OVER (PARTITION BY hive_id ORDER BY id) AS r FROM visits) v JOIN hives h ON h.hive_id = v.hive_id AND v.r <= 2;

-- name: join_same_column_twice
SELECT v.id, a.name, b.name AS other FROM visits v JOIN hives a ON v.hive_id = a.hive_id JOIN hives b ON v.hive_id = b.hive_id AND a.name <> b.name;

-- name: join_without_columns
SELECT count(*) AS c FROM visits v JOIN hives h ON v.hive_id = h.hive_id;

-- name: join_literal_columns
SELECT 1 AS one, 'x' AS x FROM visits v JOIN regions r ON r.rank = v.n;

-- name: lateral_join_series
SELECT r.rank, x.m FROM regions r CROSS JOIN LATERAL (SELECT max(h.capacity) AS m FROM hives h WHERE h.region = r.region) x;

-- name: skewed_key_join
SELECT a.who, count(*) AS c FROM steps a JOIN steps b ON a.who = b.who GROUP BY a.who;

-- name: asof_by_join_and_window
SELECT id, day, temp FROM (SELECT v.id, v.day, w.temp, row_number() OVER (PARTITION BY v.id ORDER BY w.day DESC, w.id DESC) AS r FROM visits v JOIN weather w ON w.day <= v.day WHERE v.id % 25 = 0) WHERE r = 1;

-- name: interval_overlap_join
SELECT a.id, b.id AS other FROM (SELECT id, n AS lo, n + 2 AS hi FROM visits WHERE id < 120) a JOIN (SELECT id, n AS lo, n + 2 AS hi FROM visits WHERE id < 120) b ON a.lo <= b.hi AND b.lo <= a.hi AND a.id < b.id;

-- name: anti_join_two_keys_with_nulls
SELECT a.a, a.b FROM left_bag a LEFT ANTI JOIN right_bag b ON a.a = b.a AND a.b = b.b;

-- name: semi_join_duplicates_once
SELECT a.a, count(*) AS c FROM left_bag a LEFT SEMI JOIN right_bag b ON a.a = b.a GROUP BY a.a;

-- name: outer_join_then_aggregate
SELECT r.region, count(h.hive_id) AS hives, sum(h.capacity) AS room FROM regions r LEFT JOIN hives h ON h.region = r.region GROUP BY r.region;

-- name: outer_join_coalesce_key
SELECT coalesce(a.a, b.a) AS a, count(a.c) AS l, count(b.c) AS r FROM left_bag a FULL JOIN right_bag b ON a.a = b.a GROUP BY coalesce(a.a, b.a);

-- name: join_series
SELECT g.value AS n, count(v.id) AS c FROM generate_series(0, 60) g LEFT JOIN visits v ON v.hive_id = g.value GROUP BY g.value;
