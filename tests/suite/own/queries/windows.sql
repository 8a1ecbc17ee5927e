-- Windows: ranking, neighbours, running totals; frames of rows, ranges and groups; by key and over everything.

-- name: row_number_by_key
SELECT id, hive_id, row_number() OVER (PARTITION BY hive_id ORDER BY id) AS r FROM visits;

-- name: row_number_global
SELECT id, row_number() OVER (ORDER BY n, id) AS r FROM visits;

-- name: row_number_of_distinct_rows
SELECT f, row_number() OVER (ORDER BY f) AS r FROM (SELECT DISTINCT flower AS f FROM visits);

-- name: rank_and_dense_rank
SELECT id, rank() OVER (PARTITION BY ok ORDER BY n) AS r, dense_rank() OVER (PARTITION BY ok ORDER BY n) AS d FROM visits;

-- name: rank_global_desc
SELECT id, rank() OVER (ORDER BY n DESC) AS r FROM visits;

-- name: percent_rank_and_cume_dist
SELECT id, percent_rank() OVER (PARTITION BY flower ORDER BY n) AS p, cume_dist() OVER (PARTITION BY flower ORDER BY n) AS c FROM visits;

-- name: ntile_by_key
SELECT id, ntile(4) OVER (PARTITION BY hive_id ORDER BY id) AS q FROM visits;

-- name: ntile_global
SELECT id, ntile(7) OVER (ORDER BY id DESC) AS q FROM visits;

-- name: lag_and_lead
SELECT id, lag(n) OVER (PARTITION BY bee ORDER BY id) AS prev, lead(n) OVER (PARTITION BY bee ORDER BY id) AS next FROM visits;

-- name: lag_offset_and_default
SELECT id, lag(n, 3, -1) OVER (PARTITION BY bee ORDER BY id) AS p, lead(flower, 2, 'none') OVER (PARTITION BY bee ORDER BY id) AS f FROM visits;

-- name: lag_ignore_nulls
-- session: IGNORE NULLS of a window function is not carried
SELECT id, lag(flower) IGNORE NULLS OVER (PARTITION BY ok ORDER BY id) AS f FROM visits;

-- name: lead_ignore_nulls
-- session: IGNORE NULLS of a window function is not carried
SELECT id, lead(frac, 1) IGNORE NULLS OVER (PARTITION BY hive_id ORDER BY id) AS f FROM visits;

-- name: first_last_nth_value
SELECT id, first_value(id) OVER w AS a, last_value(id) OVER w AS b, nth_value(id, 2) OVER w AS c FROM visits WINDOW w AS (PARTITION BY hive_id ORDER BY n, id);

-- name: first_value_ignore_nulls_window
-- session: IGNORE NULLS of a window function is not carried
SELECT id, first_value(frac) IGNORE NULLS OVER (PARTITION BY hive_id ORDER BY id) AS f FROM visits;

-- name: last_value_carried_forward
-- session: IGNORE NULLS of a window function is not carried
SELECT id, last_value(flower) IGNORE NULLS OVER (PARTITION BY hive_id ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS f FROM visits;

-- name: last_value_whole_frame
SELECT id, last_value(n) OVER (PARTITION BY bee ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS l FROM visits;

-- name: running_sum
SELECT id, sum(n) OVER (PARTITION BY hive_id ORDER BY id) AS s FROM visits;

-- name: running_sum_with_peers
SELECT id, n, sum(id) OVER (PARTITION BY ok ORDER BY n) AS s FROM visits;

-- name: running_sum_global
SELECT id, sum(n) OVER (ORDER BY id) AS s FROM visits;

-- name: sum_over_key_without_order
SELECT id, hive_id, sum(n) OVER (PARTITION BY hive_id) AS s, count(*) OVER (PARTITION BY hive_id) AS c FROM visits;

-- name: aggregate_over_everything
SELECT id, n, avg(n) OVER () AS a, count(*) OVER () AS c FROM visits;

-- name: share_of_total
SELECT hive_id, sum(n) AS s, sum(n) * 1.0 / sum(sum(n)) OVER () AS share FROM visits GROUP BY hive_id;

-- name: rows_frame_moving_average
SELECT id, avg(frac) OVER (PARTITION BY bee ORDER BY id ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING) AS a FROM visits;

-- name: rows_frame_ahead_only
SELECT id, max(n) OVER (PARTITION BY bee ORDER BY id ROWS BETWEEN 1 FOLLOWING AND 3 FOLLOWING) AS m FROM visits;

-- name: rows_frame_behind_only
SELECT id, min(n) OVER (PARTITION BY bee ORDER BY id ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING) AS m FROM visits;

-- name: rows_frame_to_the_end
SELECT id, count(*) OVER (PARTITION BY hive_id ORDER BY id ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS c FROM visits;

-- name: range_frame_numbers
SELECT id, n, count(*) OVER (PARTITION BY ok ORDER BY n RANGE BETWEEN 5 PRECEDING AND 5 FOLLOWING) AS c FROM visits;

-- name: range_frame_dates
SELECT id, day, sum(n) OVER (PARTITION BY flower ORDER BY day RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW) AS s FROM visits WHERE day IS NOT NULL;

-- name: range_frame_timestamps
SELECT id, count(*) OVER (PARTITION BY bee ORDER BY at RANGE BETWEEN INTERVAL '2 days' PRECEDING AND INTERVAL '1 day' FOLLOWING) AS c FROM visits WHERE at IS NOT NULL;

-- name: range_frame_desc
SELECT id, n, sum(id) OVER (PARTITION BY ok ORDER BY n DESC RANGE BETWEEN 3 PRECEDING AND CURRENT ROW) AS s FROM visits;

-- name: range_frame_with_nulls
SELECT id, hive_id, count(*) OVER (PARTITION BY ok ORDER BY hive_id NULLS FIRST RANGE BETWEEN 2 PRECEDING AND 2 FOLLOWING) AS c FROM visits;

-- name: range_current_row
SELECT id, count(*) OVER (PARTITION BY ok ORDER BY n RANGE CURRENT ROW) AS c FROM visits;

-- name: groups_frame
SELECT id, n, count(*) OVER (PARTITION BY ok ORDER BY n GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS c FROM visits;

-- name: groups_frame_behind
SELECT id, sum(n) OVER (PARTITION BY flower ORDER BY day GROUPS BETWEEN 2 PRECEDING AND CURRENT ROW) AS s FROM visits;

-- name: groups_frame_global
SELECT id, max(id) OVER (ORDER BY n GROUPS BETWEEN CURRENT ROW AND 2 FOLLOWING) AS m FROM visits;

-- name: two_windows_same_key
SELECT id, row_number() OVER (PARTITION BY hive_id ORDER BY id) AS r, sum(n) OVER (PARTITION BY hive_id ORDER BY n, id) AS s FROM visits;

-- name: two_windows_different_keys
SELECT id, row_number() OVER (PARTITION BY hive_id ORDER BY id) AS r, rank() OVER (PARTITION BY flower ORDER BY n) AS k FROM visits;

-- name: keyed_and_global_windows
SELECT id, row_number() OVER (PARTITION BY hive_id ORDER BY id) AS r, row_number() OVER (ORDER BY id DESC) AS g FROM visits;

-- name: four_windows
SELECT id, count(*) OVER (PARTITION BY ok) AS a, max(n) OVER (PARTITION BY ok, flower) AS b, lag(id) OVER (PARTITION BY bee ORDER BY id) AS c, dense_rank() OVER (ORDER BY day, hive_id) AS d FROM visits;

-- name: named_windows
SELECT id, sum(n) OVER a AS s, avg(n) OVER b AS t FROM visits WINDOW a AS (PARTITION BY hive_id ORDER BY id), b AS (PARTITION BY hive_id);

-- name: qualify_top_per_key
SELECT hive_id, id, n FROM visits QUALIFY row_number() OVER (PARTITION BY hive_id ORDER BY n DESC, id) <= 2;

-- name: qualify_with_alias
SELECT flower, id, rank() OVER (PARTITION BY flower ORDER BY n DESC, id) AS r FROM visits QUALIFY r = 1;

-- name: qualify_over_groups
SELECT hive_id, flower, count(*) AS c FROM visits GROUP BY hive_id, flower QUALIFY rank() OVER (PARTITION BY hive_id ORDER BY count(*) DESC, flower) = 1;

-- name: qualify_with_where
SELECT id FROM visits WHERE ok QUALIFY count(*) OVER (PARTITION BY bee) > 20;

-- name: window_over_aggregate
SELECT flower, count(*) AS c, rank() OVER (ORDER BY count(*) DESC, flower) AS r FROM visits GROUP BY flower;

-- name: window_over_aggregate_by_key
SELECT hive_id, flower, sum(n) AS s, sum(sum(n)) OVER (PARTITION BY hive_id ORDER BY flower) AS running FROM visits GROUP BY hive_id, flower;

-- name: aggregate_over_window
SELECT r, count(*) AS c, sum(n) AS s FROM (SELECT n, row_number() OVER (PARTITION BY hive_id ORDER BY id) AS r FROM visits) GROUP BY r;

-- name: window_over_window
SELECT id, sum(r) OVER (PARTITION BY flower ORDER BY id) AS s FROM (SELECT id, flower, row_number() OVER (PARTITION BY hive_id ORDER BY id) AS r FROM visits);

-- name: window_over_join
SELECT v.id, h.name, sum(v.n) OVER (PARTITION BY h.region ORDER BY v.id, h.name, h.capacity) AS s FROM visits v JOIN hives h ON v.hive_id = h.hive_id;

-- name: window_over_union
SELECT x, row_number() OVER (PARTITION BY src ORDER BY x, y) AS r FROM (SELECT a AS x, 'l' AS src, b AS y FROM left_bag UNION SELECT a, 'r', b FROM right_bag);

-- name: window_filter_above
SELECT id, r FROM (SELECT id, row_number() OVER (PARTITION BY flower ORDER BY id) AS r FROM visits) WHERE r BETWEEN 3 AND 5;

-- name: window_expression_key
SELECT id, count(*) OVER (PARTITION BY n % 5, upper(flower)) AS c FROM visits;

-- name: window_partition_by_struct
SELECT id, count(*) OVER (PARTITION BY rec) AS c FROM wide_keys;

-- name: window_partition_by_nan
SELECT id, count(*) OVER (PARTITION BY num) AS c, max(id) OVER (PARTITION BY dec) AS m FROM wide_keys;

-- name: window_order_by_nan_and_infinities
SELECT id, rank() OVER (ORDER BY nectar) AS r FROM visits;

-- name: window_order_nulls_last_desc
SELECT id, row_number() OVER (PARTITION BY ok ORDER BY frac DESC NULLS LAST, id) AS r FROM visits;

-- name: window_order_by_expression
SELECT id, row_number() OVER (PARTITION BY hive_id ORDER BY abs(n), id DESC) AS r FROM visits;

-- name: window_min_max_text
SELECT id, min(flower) OVER (PARTITION BY bee ORDER BY id ROWS 4 PRECEDING) AS lo, max(flower) OVER (PARTITION BY bee ORDER BY id ROWS 4 PRECEDING) AS hi FROM visits;

-- name: window_count_distinct
SELECT id, count(DISTINCT flower) OVER (PARTITION BY hive_id) AS c FROM visits;

-- name: window_array_agg
SELECT id, array_agg(id) OVER (PARTITION BY bee ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS a FROM visits;

-- name: window_string_agg
SELECT id, string_agg(bee, '+') OVER (PARTITION BY hive_id ORDER BY id) AS a FROM visits;

-- name: window_filter_clause
-- session: FILTER of a window function is not carried
SELECT id, count(*) FILTER (WHERE ok) OVER (PARTITION BY hive_id ORDER BY id) AS c FROM visits;

-- name: window_decimal_sum
SELECT id, sum(amount) OVER (PARTITION BY flower ORDER BY id) AS s FROM visits;

-- name: window_stddev
SELECT id, stddev(n) OVER (PARTITION BY hive_id) AS s, corr(n, id) OVER (PARTITION BY ok) AS c FROM visits;

-- name: window_bool_and_bit
SELECT id, bool_and(ok) OVER (PARTITION BY hive_id) AS a, bit_or(id) OVER (PARTITION BY bee) AS b FROM visits;

-- name: window_median_over_key
SELECT id, median(n) OVER (PARTITION BY flower) AS m FROM visits;

-- name: window_over_nothing
-- empty: no rows
SELECT id, row_number() OVER (ORDER BY id) AS r FROM nothing;

-- name: window_over_one_row
SELECT id, row_number() OVER (ORDER BY id) AS r, lag(id) OVER (ORDER BY id) AS l FROM one_row;

-- name: window_over_memory
SELECT keeper, age, rank() OVER (PARTITION BY keeper ORDER BY age) AS r FROM keepers;

-- name: window_over_csv
SELECT id, sky, avg(temp) OVER (PARTITION BY sky ORDER BY id ROWS 3 PRECEDING) AS t FROM weather;

-- name: window_over_partitioned_table
SELECT id, year, rank() OVER (PARTITION BY year, season ORDER BY id) AS r FROM seasons;

-- name: window_on_declared_order
SELECT tick, sum(v) OVER (ORDER BY tick) AS s FROM in_order;

-- name: window_on_declared_order_by_lane
SELECT tick, lane, lag(v) OVER (PARTITION BY lane ORDER BY tick) AS p FROM in_order;

-- name: window_on_skewed_key
SELECT who, seq, row_number() OVER (PARTITION BY who ORDER BY at, seq) AS r FROM steps;

-- name: window_in_order_by
SELECT id FROM visits ORDER BY row_number() OVER (PARTITION BY flower ORDER BY id), id LIMIT 30;

-- name: window_then_limit
SELECT id, sum(n) OVER (PARTITION BY flower ORDER BY id) AS s FROM visits ORDER BY id LIMIT 15 OFFSET 5;

-- name: window_difference_to_first
SELECT id, n - first_value(n) OVER (PARTITION BY bee ORDER BY id) AS d FROM visits;

-- name: window_ratio_to_previous
SELECT day, c, c * 1.0 / lag(c) OVER (ORDER BY day) AS r FROM (SELECT day, count(*) AS c FROM visits GROUP BY day);

-- name: window_in_scalar_subquery
SELECT id FROM visits WHERE n > (SELECT max(r) FROM (SELECT rank() OVER (PARTITION BY region ORDER BY capacity) AS r FROM hives)) + 55;

-- name: window_in_case
SELECT id, CASE WHEN row_number() OVER (PARTITION BY hive_id ORDER BY id) = 1 THEN 'first' ELSE 'later' END AS w FROM visits;

-- name: window_topk_fetch
-- set: datafusion.optimizer.enable_window_topn=true
SELECT hive_id, id FROM (SELECT hive_id, id, row_number() OVER (PARTITION BY hive_id ORDER BY n DESC, id) AS r FROM visits) WHERE r <= 3;

-- name: window_without_repartition
-- set: datafusion.optimizer.repartition_windows=false
SELECT id, row_number() OVER (PARTITION BY hive_id ORDER BY id) AS r FROM visits;

-- name: window_tiny_batches
-- set: datafusion.execution.batch_size=5
SELECT id, sum(n) OVER (PARTITION BY hive_id ORDER BY id ROWS 3 PRECEDING) AS s FROM visits;

-- name: window_filter_below
SELECT id, r FROM (SELECT id, flower, row_number() OVER (PARTITION BY flower ORDER BY id) AS r FROM visits) WHERE flower = 'linden';
