-- Order and limits: what is sorted where, which rows a LIMIT may take, and where an OFFSET is counted.

-- name: order_by_one_key
SELECT id, n FROM visits ORDER BY id;

-- name: order_by_desc
SELECT id FROM visits ORDER BY id DESC;

-- name: order_by_many_keys
SELECT hive_id, flower, id FROM visits ORDER BY hive_id, flower DESC, id;

-- name: order_by_nulls_first
SELECT flower, id FROM visits ORDER BY flower NULLS FIRST, id;

-- name: order_by_desc_nulls_last
SELECT hive_id, id FROM visits ORDER BY hive_id DESC NULLS LAST, id;

-- name: order_by_asc_nulls_mixed
SELECT bee, frac, id FROM visits ORDER BY bee ASC NULLS FIRST, frac DESC NULLS FIRST, id;

-- name: order_by_expression
SELECT id, n FROM visits ORDER BY n % 7, -id;

-- name: order_by_alias
SELECT id, n * 2 AS twice FROM visits ORDER BY twice, id;

-- name: order_by_ordinal
SELECT flower, id FROM visits ORDER BY 1 NULLS LAST, 2 DESC;

-- name: order_by_column_that_is_not_selected
SELECT id FROM visits ORDER BY day, id;

-- name: order_by_function_of_text
SELECT id, word FROM texts ORDER BY length(word), lower(word), id;

-- name: order_by_case
SELECT id, ok FROM visits ORDER BY CASE WHEN ok THEN 0 WHEN ok IS NULL THEN 1 ELSE 2 END, id;

-- name: order_by_floats_with_nan
SELECT nectar, id FROM visits ORDER BY nectar, id;

-- name: order_by_floats_with_nan_desc
SELECT num, id FROM wide_keys ORDER BY num DESC NULLS LAST, id;

-- name: order_by_decimal
SELECT amount, id FROM visits ORDER BY amount DESC, id;

-- name: order_by_timestamp_with_zone
SELECT at_utc, id FROM visits ORDER BY at_utc, id;

-- name: order_by_boolean
SELECT ok, id FROM visits ORDER BY ok, id;

-- name: order_by_struct
SELECT rec, id FROM wide_keys ORDER BY rec, id;

-- name: order_by_list
SELECT lst, id FROM wide_keys ORDER BY lst, id;

-- name: order_by_binary
SELECT bin, id FROM wide_keys ORDER BY bin DESC, id;

-- name: order_by_dictionary
SELECT grade, id FROM scales ORDER BY grade DESC, id;

-- name: order_by_unicode_text
SELECT flower, count(*) AS c FROM visits GROUP BY flower ORDER BY flower;

-- name: order_by_long_text
SELECT id, length(long) AS l FROM texts ORDER BY long NULLS FIRST, id;

-- name: order_by_random_column_order
SELECT n, bee, id, flower FROM visits ORDER BY flower, bee, n, id;

-- name: order_by_over_join
SELECT v.id, h.name, h.capacity FROM visits v JOIN hives h ON h.hive_id = v.hive_id ORDER BY h.name, v.id, h.capacity;

-- name: order_by_over_aggregate
SELECT hive_id, sum(n) AS s FROM visits GROUP BY hive_id ORDER BY s DESC, hive_id;

-- name: order_by_over_union
SELECT a, b FROM left_bag UNION ALL SELECT a, b FROM right_bag ORDER BY a, b;

-- name: order_by_over_window
SELECT id, rank() OVER (PARTITION BY flower ORDER BY n) AS r FROM visits ORDER BY r, id;

-- name: order_by_constant
SELECT id FROM visits ORDER BY 'x', id;

-- name: order_by_declared_order
SELECT tick, v FROM in_order ORDER BY tick;

-- name: order_by_declared_order_desc
SELECT tick FROM in_order ORDER BY tick DESC;

-- name: order_by_declared_order_and_more
SELECT tick, lane, v FROM in_order ORDER BY tick, lane;

-- name: order_by_declared_order_with_filter
SELECT tick, v FROM in_order WHERE v > 1 ORDER BY tick LIMIT 9;

-- name: order_by_over_nothing
-- empty: no rows
SELECT id FROM nothing ORDER BY id;

-- name: order_by_partition_column
SELECT year, season, id FROM seasons ORDER BY year DESC, season, id;

-- name: order_by_csv
SELECT id, sky FROM weather ORDER BY sky NULLS FIRST, id DESC;

-- name: order_by_memory
SELECT keeper, age FROM keepers ORDER BY keeper, age, hive_id;

-- name: limit_top_k
SELECT id, n FROM visits ORDER BY n DESC, id LIMIT 10;

-- name: limit_top_k_with_offset
SELECT id, n FROM visits ORDER BY n, id LIMIT 10 OFFSET 25;

-- name: limit_top_k_nulls_first
SELECT hive_id, id FROM visits ORDER BY hive_id DESC, id LIMIT 90;

-- name: limit_top_k_of_expression
SELECT id FROM visits ORDER BY abs(n - 30), id DESC LIMIT 12;

-- name: limit_top_k_with_filter
SELECT id, amount FROM visits WHERE ok AND amount IS NOT NULL ORDER BY amount DESC, id LIMIT 6;

-- name: limit_top_k_wider_than_table
SELECT id FROM visits ORDER BY id LIMIT 100000;

-- name: limit_ties_are_any
SELECT id, n FROM visits ORDER BY n LIMIT 33;

-- name: limit_without_order
SELECT id, n FROM visits LIMIT 17;

-- name: limit_without_order_with_offset
SELECT id FROM visits LIMIT 40 OFFSET 700;

-- name: limit_without_order_with_filter
SELECT id, flower FROM visits WHERE n > 40 LIMIT 30;

-- name: limit_more_than_rows
SELECT id FROM visits WHERE n > 79 LIMIT 1000;

-- name: limit_zero
-- empty: no row is asked for
SELECT id FROM visits LIMIT 0;

-- name: limit_zero_with_order
-- empty: no row is asked for
SELECT id FROM visits ORDER BY n LIMIT 0;

-- name: limit_one
SELECT id FROM visits ORDER BY at DESC NULLS LAST, id LIMIT 1;

-- name: offset_only
SELECT id FROM visits ORDER BY id OFFSET 750;

-- name: offset_beyond_the_end
-- empty: there are fewer rows
SELECT id FROM visits ORDER BY id OFFSET 5000;

-- name: offset_without_order
SELECT id FROM visits OFFSET 760;

-- name: limit_in_subquery
SELECT count(*) AS c, sum(n) AS s FROM (SELECT n FROM visits ORDER BY id LIMIT 100);

-- name: limit_in_subquery_with_offset
SELECT min(id) AS lo, max(id) AS hi FROM (SELECT id FROM visits ORDER BY id LIMIT 50 OFFSET 300);

-- name: limit_without_order_in_subquery
SELECT count(*) AS c FROM (SELECT id FROM visits LIMIT 123);

-- name: limit_over_limit
SELECT id FROM (SELECT id FROM visits ORDER BY id LIMIT 50) ORDER BY id DESC LIMIT 10;

-- name: limit_over_offset_over_limit
SELECT id FROM (SELECT id FROM (SELECT id FROM visits ORDER BY id LIMIT 60) ORDER BY id OFFSET 20) ORDER BY id LIMIT 15 OFFSET 5;

-- name: limit_below_join
SELECT a.id, b.id AS other FROM (SELECT id, bee FROM visits ORDER BY id LIMIT 20) a JOIN (SELECT id, bee FROM visits ORDER BY id DESC LIMIT 20) b ON a.bee = b.bee;

-- name: limit_above_join
SELECT v.id, h.name, h.capacity FROM visits v JOIN hives h ON h.hive_id = v.hive_id ORDER BY v.id, h.capacity, h.name LIMIT 20;

-- name: limit_above_left_join
SELECT h.hive_id, h.capacity, v.id FROM hives h LEFT JOIN visits v ON h.hive_id = v.hive_id ORDER BY h.capacity, h.hive_id, v.id LIMIT 25;

-- name: limit_above_aggregate
SELECT flower, count(*) AS c FROM visits GROUP BY flower ORDER BY c, flower LIMIT 3;

-- name: limit_above_aggregate_without_order
SELECT count(*) AS c FROM (SELECT hive_id FROM visits GROUP BY hive_id LIMIT 5);

-- name: limit_above_distinct
SELECT count(*) AS c FROM (SELECT DISTINCT bee FROM visits LIMIT 4);

-- name: limit_above_union
SELECT id FROM (SELECT id FROM visits UNION ALL SELECT id + 10000 FROM visits) ORDER BY id DESC LIMIT 12;

-- name: limit_in_each_branch
(SELECT id FROM visits ORDER BY id LIMIT 3) UNION ALL (SELECT id FROM visits ORDER BY id DESC LIMIT 3) ORDER BY id;

-- name: limit_in_in_subquery
SELECT id FROM visits WHERE hive_id IN (SELECT hive_id FROM hives WHERE hive_id IS NOT NULL ORDER BY capacity DESC, hive_id LIMIT 6);

-- name: limit_in_scalar_subquery
SELECT id FROM visits WHERE n = (SELECT n FROM visits ORDER BY n DESC, id LIMIT 1 OFFSET 5);

-- name: limit_above_unnest
SELECT id, t FROM (SELECT id, unnest(tags) AS t FROM visits) ORDER BY id, t LIMIT 25;

-- name: limit_above_window
SELECT id, s FROM (SELECT id, sum(n) OVER (ORDER BY id) AS s FROM visits) ORDER BY id LIMIT 12 OFFSET 100;

-- name: limit_large_offset_small_limit
SELECT id FROM visits ORDER BY n, id LIMIT 2 OFFSET 766;

-- name: limit_zero_in_branch
SELECT id FROM visits WHERE id < 5 UNION ALL (SELECT id FROM visits LIMIT 0);

-- name: limit_zero_below_aggregate
SELECT count(*) AS c, max(id) AS m FROM (SELECT id FROM visits LIMIT 0);

-- name: limit_by_expression
SELECT id FROM visits ORDER BY id LIMIT 2 + 3 * 2;

-- name: sort_below_aggregate_is_free
SELECT sum(n) AS s FROM (SELECT n FROM visits ORDER BY n DESC);

-- name: sort_below_limit_below_aggregate
SELECT flower, count(*) AS c FROM (SELECT flower FROM visits ORDER BY n DESC, id LIMIT 77) GROUP BY flower;

-- name: top_k_per_group
SELECT flower, id, n FROM (SELECT flower, id, n, row_number() OVER (PARTITION BY flower ORDER BY n DESC, id) AS r FROM visits) WHERE r <= 3 ORDER BY flower, n DESC, id;

-- name: nth_per_group
SELECT hive_id, id FROM (SELECT hive_id, id, dense_rank() OVER (PARTITION BY hive_id ORDER BY n) AS r FROM visits) WHERE r = 2;

-- name: bottom_and_top_in_one
(SELECT 'lo' AS w, id, n FROM visits ORDER BY n, id LIMIT 2) UNION ALL (SELECT 'hi', id, n FROM visits ORDER BY n DESC, id LIMIT 2) ORDER BY w, id;

-- name: pages_by_key
SELECT id, flower FROM visits WHERE (flower, id) > ('heather', 300) ORDER BY flower, id LIMIT 15;

-- name: sort_spread_over_tiny_batches
-- set: datafusion.execution.batch_size=3
SELECT id FROM visits ORDER BY n, id LIMIT 40;

-- name: sort_parallel_off
-- set: datafusion.optimizer.repartition_sorts=false
SELECT id, n FROM visits ORDER BY n, id;

-- name: sort_existing_preferred
-- set: datafusion.optimizer.prefer_existing_sort=true
SELECT tick, count(*) AS c FROM in_order GROUP BY tick ORDER BY tick;

-- name: sort_existing_preferred_join
-- set: datafusion.optimizer.prefer_existing_sort=true
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT a.tick, b.lane FROM in_order a JOIN in_order b ON a.tick = b.tick ORDER BY a.tick;

-- name: topk_aggregation_off
-- set: datafusion.optimizer.enable_topk_aggregation=false
SELECT bee, max(id) AS m FROM visits GROUP BY bee ORDER BY m DESC LIMIT 4;

-- name: topk_aggregation_on
SELECT bee, min(id) AS m FROM visits GROUP BY bee ORDER BY m LIMIT 4;
