-- Aggregates: over groups and over nothing, in one step and in several, with DISTINCT, FILTER and ORDER BY inside.

-- name: count_star
SELECT count(*) AS c FROM visits WHERE n > 10;

-- name: count_column_skips_nulls
SELECT count(hive_id) AS a, count(flower) AS b, count(nectar) AS c, count(*) AS d FROM visits WHERE id >= 0;

-- name: basic_five
SELECT count(*) AS c, sum(n) AS s, avg(n) AS a, min(n) AS lo, max(n) AS hi FROM visits;

-- name: group_by_one_key
SELECT hive_id, count(*) AS c, sum(n) AS s FROM visits GROUP BY hive_id;

-- name: group_by_two_keys
SELECT flower, bee, count(*) AS c, min(day) AS first FROM visits GROUP BY flower, bee;

-- name: group_by_expression
SELECT n % 10 AS digit, length(flower) AS l, count(*) AS c FROM visits GROUP BY n % 10, length(flower);

-- name: group_by_ordinal
SELECT flower, ok, avg(frac) AS f FROM visits GROUP BY 1, 2;

-- name: group_by_alias
SELECT upper(flower) AS u, count(*) AS c FROM visits GROUP BY u;

-- name: group_by_all
SELECT bee, ok, sum(n) AS s FROM visits GROUP BY ALL;

-- name: group_by_unique_key
SELECT id, count(*) AS c, sum(n) AS s FROM visits GROUP BY id;

-- name: group_by_constant
SELECT 'all' AS k, count(*) AS c FROM visits GROUP BY 'all';

-- name: group_by_null_constant
SELECT NULL AS k, sum(n) AS s FROM visits GROUP BY NULL;

-- name: group_by_boolean
SELECT ok, count(*) AS c FROM visits GROUP BY ok;

-- name: group_by_date
SELECT day, count(*) AS c, sum(amount) AS s FROM visits GROUP BY day;

-- name: group_by_timestamp_truncated
SELECT date_trunc('week', at) AS w, count(*) AS c FROM visits GROUP BY date_trunc('week', at);

-- name: group_by_timestamp_with_zone
SELECT at_utc, count(*) AS c FROM visits GROUP BY at_utc;

-- name: group_by_decimal
SELECT dec, count(*) AS c, sum(id) AS s FROM wide_keys GROUP BY dec;

-- name: group_by_float_with_nan_and_zeros
SELECT num, count(*) AS c FROM wide_keys GROUP BY num;

-- name: group_by_struct
SELECT rec, count(*) AS c FROM wide_keys GROUP BY rec;

-- name: group_by_list
SELECT lst, count(*) AS c FROM wide_keys GROUP BY lst;

-- name: group_by_binary
SELECT bin, max(id) AS m FROM wide_keys GROUP BY bin;

-- name: group_by_struct_field_and_list_item
SELECT pos['x'] AS x, nums[1] AS first, count(*) AS c FROM visits GROUP BY pos['x'], nums[1];

-- name: group_by_many_keys
SELECT hive_id, flower, bee, ok, day, count(*) AS c FROM visits GROUP BY hive_id, flower, bee, ok, day;

-- name: group_by_dictionary
SELECT grade, count(*) AS c, sum(kg) AS kg FROM scales GROUP BY grade;

-- name: group_by_interval_column
SELECT span, count(*) AS c FROM scales GROUP BY span;

-- name: group_by_long_text
SELECT long, count(*) AS c FROM texts GROUP BY long;

-- name: group_by_partition_columns
SELECT year, season, count(*) AS c, sum(honey) AS h FROM seasons GROUP BY year, season;

-- name: having_on_aggregate
SELECT hive_id, sum(n) AS s FROM visits GROUP BY hive_id HAVING sum(n) > 400 AND count(*) > 5;

-- name: having_without_group
SELECT sum(n) AS s FROM visits HAVING count(*) > 10;

-- name: having_false_without_group
-- empty: the one group does not pass
SELECT sum(n) AS s FROM visits HAVING count(*) < 0;

-- name: having_on_key_and_alias
SELECT hive_id, avg(frac) AS f FROM visits GROUP BY hive_id HAVING hive_id > 20 AND f IS NOT NULL;

-- name: having_subquery
SELECT hive_id, count(*) AS c FROM visits GROUP BY hive_id HAVING count(*) > (SELECT avg(capacity) / 3 FROM hives);

-- name: nothing_global
SELECT count(*) AS c, sum(n) AS s, avg(n) AS a, min(day) AS d, count(DISTINCT bee) AS b FROM nothing;

-- name: nothing_grouped
-- empty: no rows, no groups
SELECT hive_id, count(*) AS c FROM nothing GROUP BY hive_id;

-- name: nothing_after_filter_global
SELECT count(*) AS c, sum(n) AS s, max(bee) AS m, array_agg(id) AS ids FROM visits WHERE n > 100000;

-- name: nothing_after_filter_grouped
-- empty: no rows, no groups
SELECT flower, sum(n) AS s FROM visits WHERE n > 100000 GROUP BY flower;

-- name: no_files_global
SELECT count(*) AS c, min(name) AS m FROM no_files;

-- name: nothing_in_grouping_sets
SELECT hive_id, count(*) AS c FROM nothing GROUP BY GROUPING SETS ((hive_id), ());

-- name: nothing_in_subquery_of_global
SELECT count(*) AS c, sum(s) AS t FROM (SELECT sum(n) AS s FROM nothing);

-- name: one_row_aggregates
SELECT count(*) AS c, stddev(n) AS sd, var_pop(n) AS vp, median(n) AS m FROM one_row;

-- name: all_null_column
SELECT count(nil) AS c, max(nil) AS m, count(*) AS n FROM kinds;

-- name: grouping_sets_three
SELECT flower, ok, count(*) AS c FROM visits GROUP BY GROUPING SETS ((flower), (ok), (flower, ok));

-- name: grouping_sets_with_empty
SELECT hive_id, sum(n) AS s, grouping(hive_id) AS g FROM visits GROUP BY GROUPING SETS ((hive_id), ());

-- name: grouping_sets_duplicate
SELECT ok, count(*) AS c FROM visits GROUP BY GROUPING SETS ((ok), (ok));

-- name: grouping_sets_nulls_apart
SELECT bee, grouping(bee) AS g, count(*) AS c FROM visits GROUP BY ROLLUP (bee);

-- name: rollup_three
SELECT ok, flower, bee, count(*) AS c FROM visits GROUP BY ROLLUP (ok, flower, bee);

-- name: cube_two
SELECT ok, n % 4 AS m, sum(n) AS s, grouping(ok) AS go, grouping(n % 4) AS gm FROM visits GROUP BY CUBE (ok, n % 4);

-- name: cube_three_having
SELECT ok, flower, n % 2 AS p, count(*) AS c FROM visits GROUP BY CUBE (ok, flower, n % 2) HAVING count(*) > 20;

-- name: rollup_with_plain_key
SELECT hive_id % 3 AS k, flower, ok, count(*) AS c FROM visits GROUP BY hive_id % 3, ROLLUP (flower, ok);

-- name: grouping_sets_distinct
SELECT ok, n % 3 AS m, count(DISTINCT bee) AS b FROM visits GROUP BY GROUPING SETS ((ok), (n % 3), ());

-- name: grouping_id_of_two
SELECT flower, ok, grouping(flower, ok) AS g, count(*) AS c FROM visits GROUP BY CUBE (flower, ok);

-- name: select_distinct
SELECT DISTINCT flower FROM visits;

-- name: select_distinct_many_columns
SELECT DISTINCT hive_id, bee, ok FROM visits;

-- name: select_distinct_expression
SELECT DISTINCT n % 7, upper(left(flower, 1)) AS f FROM visits;

-- name: select_distinct_over_join
SELECT DISTINCT h.region, v.flower FROM visits v JOIN hives h ON h.hive_id = v.hive_id;

-- name: select_distinct_on
SELECT DISTINCT ON (hive_id) hive_id, id, n FROM visits ORDER BY hive_id, n DESC, id;

-- name: select_distinct_on_two
SELECT DISTINCT ON (flower, ok) flower, ok, id FROM visits ORDER BY flower, ok, id DESC;

-- name: count_distinct_one
SELECT count(DISTINCT bee) AS b FROM visits;

-- name: count_distinct_several
SELECT count(DISTINCT bee) AS b, count(DISTINCT flower) AS f, count(DISTINCT hive_id) AS h, count(*) AS c FROM visits;

-- name: count_distinct_by_group
SELECT hive_id, count(DISTINCT flower) AS f FROM visits GROUP BY hive_id;

-- name: distinct_and_plain_by_group
SELECT ok, count(DISTINCT bee) AS b, sum(n) AS s, max(frac) AS m FROM visits GROUP BY ok;

-- name: sum_and_avg_distinct
SELECT sum(DISTINCT n) AS s, avg(DISTINCT n) AS a, min(DISTINCT n) AS lo FROM visits;

-- name: several_distinct_by_group
SELECT flower, count(DISTINCT bee) AS b, sum(DISTINCT n % 10) AS s, count(DISTINCT ok) AS o FROM visits GROUP BY flower;

-- name: count_distinct_of_types
SELECT count(DISTINCT dec) AS a, count(DISTINCT num) AS b, count(DISTINCT day) AS c, count(DISTINCT rec) AS d, count(DISTINCT lst) AS e FROM wide_keys;

-- name: count_distinct_expression
SELECT count(DISTINCT n % 5 + hive_id) AS c FROM visits;

-- name: count_distinct_of_distinct
SELECT count(DISTINCT f) AS c FROM (SELECT DISTINCT upper(flower) AS f, ok FROM visits);

-- name: filter_clause
SELECT sum(n) FILTER (WHERE ok) AS yes, sum(n) FILTER (WHERE NOT ok) AS no, count(*) FILTER (WHERE ok IS NULL) AS nil FROM visits;

-- name: filter_clause_by_group
SELECT hive_id, count(*) FILTER (WHERE flower = 'clover') AS clover, avg(frac) FILTER (WHERE n > 0) AS f FROM visits GROUP BY hive_id;

-- name: filter_with_distinct
SELECT ok, count(DISTINCT bee) FILTER (WHERE n > 50) AS b, count(DISTINCT bee) AS all_b FROM visits GROUP BY ok;

-- name: filter_that_passes_nothing
SELECT flower, sum(n) FILTER (WHERE n > 100000) AS s, count(*) FILTER (WHERE false) AS c FROM visits GROUP BY flower;

-- name: array_agg_ordered
SELECT hive_id, array_agg(id ORDER BY id) AS ids FROM visits GROUP BY hive_id;

-- name: array_agg_ordered_desc_with_nulls
SELECT ok, array_agg(flower ORDER BY n DESC, id) AS f FROM visits WHERE id % 9 = 0 GROUP BY ok;

-- name: array_agg_distinct_ordered
SELECT ok, array_agg(DISTINCT bee ORDER BY bee) AS bees FROM visits GROUP BY ok;

-- name: array_agg_global_ordered
SELECT array_agg(bee ORDER BY id) AS bees FROM visits WHERE id < 40;

-- name: array_agg_sorted_afterwards
SELECT hive_id, array_sort(array_agg(n)) AS ns FROM visits GROUP BY hive_id;

-- name: array_agg_of_structs
SELECT ok, array_agg(named_struct('i', id, 'f', flower) ORDER BY id) AS s FROM visits WHERE id % 11 = 0 GROUP BY ok;

-- name: array_agg_filtered
SELECT hive_id, array_agg(id ORDER BY id) FILTER (WHERE n > 40) AS ids FROM visits GROUP BY hive_id;

-- name: array_agg_ignore_nulls
SELECT array_agg(flower ORDER BY id) FILTER (WHERE flower IS NOT NULL) AS f FROM visits WHERE id < 60;

-- name: array_agg_two_orders
SELECT ok, array_agg(id ORDER BY id) AS up, array_agg(id ORDER BY id DESC) AS down FROM visits WHERE id < 100 GROUP BY ok;

-- name: string_agg_ordered
SELECT ok, string_agg(flower, '|' ORDER BY id) AS f FROM visits WHERE id < 90 GROUP BY ok;

-- name: string_agg_global
SELECT string_agg(bee, ',' ORDER BY n, id) AS b FROM visits WHERE id % 20 = 1;

-- name: first_and_last_value
SELECT hive_id, first_value(id ORDER BY n, id) AS lo, last_value(id ORDER BY n, id) AS hi FROM visits GROUP BY hive_id;

-- name: first_value_desc_nulls_last
SELECT flower, first_value(bee ORDER BY frac DESC NULLS LAST, id) AS b FROM visits GROUP BY flower;

-- name: first_value_ignore_nulls
SELECT ok, first_value(flower ORDER BY id) IGNORE NULLS AS f FROM visits GROUP BY ok;

-- name: first_value_global
SELECT first_value(bee ORDER BY id DESC) AS b, last_value(flower ORDER BY id DESC) AS f FROM visits;

-- name: nth_value_aggregate
SELECT ok, nth_value(id, 3 ORDER BY id) AS third FROM visits GROUP BY ok;

-- name: median_by_group
SELECT hive_id, median(n) AS m FROM visits GROUP BY hive_id;

-- name: median_of_decimal_and_float
SELECT median(amount) AS a, median(frac) AS f, median(DISTINCT n) AS d FROM visits;

-- name: percentile_cont
SELECT ok, percentile_cont(0.25) WITHIN GROUP (ORDER BY frac) AS p FROM visits GROUP BY ok;

-- name: percentile_cont_desc_ends
SELECT percentile_cont(0) WITHIN GROUP (ORDER BY frac) AS lo, percentile_cont(1) WITHIN GROUP (ORDER BY frac) AS hi, percentile_cont(0.9) WITHIN GROUP (ORDER BY n DESC) AS d FROM visits;

-- name: approx_distinct_small
SELECT approx_distinct(ok) AS o, approx_distinct(hive_id % 4) AS h FROM visits;

-- name: approx_distinct_by_group
SELECT ok, approx_distinct(flower) AS f FROM visits GROUP BY ok;

-- name: approx_distinct_many
SELECT approx_distinct(id) AS i, approx_distinct(bee) AS b FROM visits;

-- name: approx_median_of_one_value
SELECT approx_median(n - n + 7) AS m, approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY n - n) AS p FROM visits;

-- name: approx_percentile_few_values
SELECT ok, approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY n % 2 * 0 + 3) AS p FROM visits GROUP BY ok;

-- name: stddev_and_variance
SELECT stddev(n) AS a, stddev_pop(n) AS b, var(n) AS c, var_pop(n) AS d, var_samp(frac) AS e FROM visits;

-- name: stddev_by_group
SELECT hive_id, stddev(n) AS sd, var_samp(n) AS v FROM visits GROUP BY hive_id;

-- name: covariance_and_correlation
SELECT covar_samp(n, frac) AS a, covar_pop(n, frac) AS b, corr(n, frac) AS c FROM visits;

-- name: correlation_by_group
SELECT ok, corr(n, id) AS c FROM visits GROUP BY ok;

-- name: regression
SELECT regr_slope(frac, n) AS s, regr_intercept(frac, n) AS i, regr_r2(frac, n) AS r, regr_count(frac, n) AS c, regr_avgx(frac, n) AS x, regr_avgy(frac, n) AS y FROM visits;

-- name: regression_sums
SELECT ok, regr_sxx(frac, n) AS sxx, regr_syy(frac, n) AS syy, regr_sxy(frac, n) AS sxy FROM visits GROUP BY ok;

-- name: bool_aggregates
SELECT hive_id, bool_and(ok) AS a, bool_or(ok) AS o, bool_or(n > 75) AS t FROM visits GROUP BY hive_id;

-- name: bit_aggregates
SELECT ok, bit_and(id) AS a, bit_or(n + 30) AS o, bit_xor(id) AS x FROM visits GROUP BY ok;

-- name: bit_xor_distinct
SELECT bit_xor(DISTINCT n + 30) AS x FROM visits;

-- name: min_max_integers
SELECT min(i8) AS a, max(i16) AS b, min(i32) AS c, max(i64) AS d, min(u8) AS e, max(u16) AS f, max(u32) AS g, max(u64) AS h FROM kinds WHERE id > -1;

-- name: min_max_floats_with_nan
SELECT min(f32) AS a, max(f32) AS b, min(f64) AS c, max(f64) AS d FROM kinds WHERE id > -1;

-- name: min_max_decimals
SELECT min(d128) AS a, max(d128) AS b, min(d256) AS c, max(d256) AS d FROM kinds WHERE id > -1;

-- name: min_max_times
SELECT min(day) AS a, max(t32) AS b, min(t64) AS c, max(ts_ms) AS d, min(ts_us) AS e, max(ts_ns) AS f, min(ts_berlin) AS g, max(dur) AS h FROM kinds WHERE id > -1;

-- name: min_max_texts_and_binaries
SELECT min(txt) AS a, max(txt) AS b, max(big_txt) AS c, min(bin) AS d, max(big_bin) AS e, max(fix_bin) AS f FROM kinds WHERE id > -1;

-- name: min_max_bool_and_struct
SELECT min(yes) AS a, max(yes) AS b FROM kinds;

-- name: min_max_by_group_of_texts
SELECT yes, min(txt) AS lo, max(txt) AS hi, min(bin) AS b FROM kinds GROUP BY yes;

-- name: min_max_list
SELECT min(lst) AS a, max(lst) AS b FROM wide_keys;

-- name: min_max_dictionary
SELECT min(grade) AS a, max(grade) AS b FROM scales;

-- name: min_max_intervals_and_durations
SELECT max(wait) AS w, min(wait) AS v FROM scales;

-- name: min_max_long_texts
SELECT length(max(long)) AS a, length(min(long)) AS b FROM texts;

-- name: sum_decimal_widths
SELECT sum(amount) AS a, avg(amount) AS b, sum(amount * 100) AS c FROM visits;

-- name: sum_decimal_by_group
SELECT flower, sum(amount) AS s, avg(amount) AS a FROM visits GROUP BY flower;

-- name: sum_with_infinities
SELECT hive_id, sum(nectar) AS s, min(nectar) AS lo, max(nectar) AS hi FROM visits WHERE NOT isnan(nectar) GROUP BY hive_id;

-- name: sum_unsigned_and_float32
SELECT sum(u8) AS a, sum(u32) AS b, sum(kg) AS c FROM kinds k LEFT JOIN scales s ON s.id = k.id;

-- name: avg_of_small_ints
SELECT avg(i8) AS a, avg(u16) AS b, avg(i32) AS c FROM kinds;

-- name: avg_duration
SELECT avg(wait) AS w FROM scales;

-- name: sum_wraps_not
SELECT sum(i32) AS a, sum(i16) AS b FROM kinds;

-- name: aggregate_of_expression
SELECT sum(CASE WHEN ok THEN n ELSE -n END) AS s, avg(n * n + 1) AS a, max(length(flower) || '') AS m FROM visits;

-- name: expression_of_aggregates
SELECT hive_id, sum(n) * 1.0 / count(*) AS mean, max(n) - min(n) AS spread, coalesce(sum(amount), 0) AS a FROM visits GROUP BY hive_id;

-- name: aggregate_twice
SELECT c, count(*) AS hives FROM (SELECT hive_id, count(*) AS c FROM visits GROUP BY hive_id) GROUP BY c;

-- name: aggregate_three_times
SELECT max(t) AS m FROM (SELECT flower, sum(c) AS t FROM (SELECT flower, bee, count(*) AS c FROM visits GROUP BY flower, bee) GROUP BY flower);

-- name: aggregate_coarser_key_again
SELECT hive_id, sum(c) AS c FROM (SELECT hive_id, bee, count(*) AS c FROM visits GROUP BY hive_id, bee) GROUP BY hive_id;

-- name: aggregate_without_aggregates
SELECT flower, ok FROM visits GROUP BY flower, ok;

-- name: same_aggregate_under_two_names
SELECT sum(n) AS a, sum(n) AS b, sum(n) + sum(n) AS c FROM visits;

-- name: many_aggregates
SELECT ok, count(*) AS a, count(n) AS b, sum(n) AS c, min(n) AS d, max(n) AS e, avg(n) AS f, sum(frac) AS g, min(flower) AS h, max(flower) AS i, min(day) AS j, max(at) AS k, sum(amount) AS l, count(DISTINCT hive_id) AS m, bool_or(ok) AS o, median(n) AS p, stddev(n) AS q FROM visits GROUP BY ok;

-- name: aggregate_in_order_by_only
SELECT flower FROM visits GROUP BY flower ORDER BY count(*) DESC, flower;

-- name: group_by_order_of_subquery
SELECT hive_id, count(*) AS c FROM (SELECT hive_id, n FROM visits ORDER BY hive_id) GROUP BY hive_id;

-- name: distinct_with_limit_and_order
SELECT DISTINCT hive_id FROM visits ORDER BY hive_id DESC NULLS LAST LIMIT 7;

-- name: group_by_with_limit_on_group
SELECT hive_id FROM visits GROUP BY hive_id ORDER BY hive_id LIMIT 5;

-- name: top_groups_by_max
SELECT hive_id, max(n) AS m FROM visits GROUP BY hive_id ORDER BY m DESC, hive_id LIMIT 4;

-- name: skewed_group_counts
SELECT who, count(*) AS c, sum(secs) AS s, count(DISTINCT what) AS w FROM steps GROUP BY who;

-- name: csv_groups
SELECT sky, count(*) AS c, avg(temp) AS t FROM weather GROUP BY sky;

-- name: json_groups
SELECT text, count(*) AS c, sum(stars) AS s FROM notes GROUP BY text;

-- name: memory_groups
SELECT keeper, count(*) AS c, max(age) AS m FROM keepers GROUP BY keeper;

-- name: partial_aggregate_not_skipped
-- set: datafusion.execution.skip_partial_aggregation_probe_rows_threshold=1
-- set: datafusion.execution.skip_partial_aggregation_probe_ratio_threshold=0.0
SELECT id % 400 AS k, count(*) AS c, sum(n) AS s FROM visits GROUP BY id % 400;

-- name: tiny_batches
-- set: datafusion.execution.batch_size=7
SELECT flower, count(*) AS c, sum(n) AS s, array_agg(id ORDER BY id) AS ids FROM visits GROUP BY flower;

-- name: no_aggregate_repartition
-- set: datafusion.optimizer.repartition_aggregations=false
SELECT flower, count(*) AS c, sum(n) AS s FROM visits GROUP BY flower;

-- name: group_by_declared_order
SELECT tick, count(*) AS c, sum(v) AS s FROM in_order GROUP BY tick;

-- name: group_by_declared_order_and_more
SELECT tick, lane, max(v) AS m FROM in_order GROUP BY tick, lane;

-- name: group_by_declared_order_sorted
SELECT tick, count(*) AS c, sum(v) AS s FROM in_order GROUP BY tick ORDER BY tick;

-- name: group_by_declared_order_lagged
SELECT tick, c - lag(c) OVER (ORDER BY tick) AS d FROM (SELECT tick, count(*) AS c FROM in_order GROUP BY tick);
