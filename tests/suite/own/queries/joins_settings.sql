-- Joins under settings that choose another way to the same rows: merging sorted sides, shuffling both, one partition.

-- name: merge_inner
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT v.id, h.name FROM visits v JOIN hives h ON v.hive_id = h.hive_id;

-- name: merge_inner_filter
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT v.id, h.name FROM visits v JOIN hives h ON v.hive_id = h.hive_id AND v.n > h.capacity;

-- name: merge_left
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT h.hive_id, v.id FROM hives h LEFT JOIN visits v ON v.hive_id = h.hive_id AND v.n < h.capacity;

-- name: merge_right
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT h.hive_id, v.id FROM hives h RIGHT JOIN visits v ON v.hive_id = h.hive_id AND v.n < h.capacity;

-- name: merge_full
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT h.hive_id, v.id FROM hives h FULL JOIN visits v ON v.hive_id = h.hive_id AND v.n < h.capacity;

-- name: merge_semi
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT h.hive_id, h.name FROM hives h WHERE EXISTS (SELECT 1 FROM visits v WHERE v.hive_id = h.hive_id AND v.n > h.capacity);

-- name: merge_anti
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT h.hive_id, h.name FROM hives h WHERE NOT EXISTS (SELECT 1 FROM visits v WHERE v.hive_id = h.hive_id AND v.n > h.capacity);

-- name: merge_mark
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT h.hive_id FROM hives h WHERE h.capacity > 50 OR EXISTS (SELECT 1 FROM visits v WHERE v.hive_id = h.hive_id AND v.n > 70);

-- name: merge_not_in
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT id FROM visits WHERE hive_id NOT IN (SELECT hive_id FROM hives WHERE capacity > 40 AND hive_id IS NOT NULL);

-- name: merge_two_keys_mixed_types
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT a.id, b.id AS other FROM visits a JOIN visits b ON a.bee = b.bee AND a.ok = b.ok WHERE a.id < b.id AND a.n > 60;

-- name: merge_three_tables_same_key
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT v.id, h.name, s.kg FROM visits v JOIN hives h ON v.hive_id = h.hive_id JOIN scales s ON s.hive_id = v.hive_id WHERE v.n > 40;

-- name: merge_then_group_by_key
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT v.hive_id, count(*) AS c, max(h.capacity) AS m FROM visits v JOIN hives h ON v.hive_id = h.hive_id GROUP BY v.hive_id;

-- name: merge_then_order_by_key
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT v.hive_id, v.id, h.name, h.capacity FROM visits v JOIN hives h ON v.hive_id = h.hive_id ORDER BY v.hive_id, v.id, h.capacity, h.name;

-- name: merge_declared_order
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT a.tick, a.v, b.v AS other FROM in_order a JOIN in_order b ON a.tick = b.tick + 1;

-- name: merge_is_not_distinct
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT a.a, b.b FROM left_bag a JOIN right_bag b ON a.a IS NOT DISTINCT FROM b.a;

-- name: merge_empty_side
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT h.hive_id, n.id FROM hives h LEFT JOIN nothing n ON n.hive_id = h.hive_id;

-- name: merge_nan_keys
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT a.id, b.id AS other FROM wide_keys a JOIN wide_keys b ON a.num = b.num WHERE a.id % 2 = 0;

-- name: merge_window_on_same_key
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT v.hive_id, v.id, row_number() OVER (PARTITION BY v.hive_id ORDER BY v.id, h.capacity, h.name) AS r FROM visits v JOIN hives h ON v.hive_id = h.hive_id;

-- name: merge_five_partitions_of_keys
-- set: datafusion.optimizer.prefer_hash_join=false
SELECT a.who, a.seq, b.seq AS later FROM steps a JOIN steps b ON a.who = b.who AND a.what = b.what WHERE a.seq < b.seq AND a.who > 3;

-- name: shuffled_inner
-- set: datafusion.optimizer.hash_join_single_partition_threshold=0
-- set: datafusion.optimizer.hash_join_single_partition_threshold_rows=0
SELECT v.id, h.name FROM visits v JOIN hives h ON v.hive_id = h.hive_id;

-- name: shuffled_left
-- set: datafusion.optimizer.hash_join_single_partition_threshold=0
-- set: datafusion.optimizer.hash_join_single_partition_threshold_rows=0
SELECT h.hive_id, v.id FROM hives h LEFT JOIN visits v ON v.hive_id = h.hive_id AND v.n > 50;

-- name: shuffled_right
-- set: datafusion.optimizer.hash_join_single_partition_threshold=0
-- set: datafusion.optimizer.hash_join_single_partition_threshold_rows=0
SELECT h.hive_id, v.id FROM hives h RIGHT JOIN visits v ON v.hive_id = h.hive_id AND h.capacity > 50;

-- name: shuffled_full
-- set: datafusion.optimizer.hash_join_single_partition_threshold=0
-- set: datafusion.optimizer.hash_join_single_partition_threshold_rows=0
SELECT h.hive_id, v.id FROM hives h FULL JOIN visits v ON v.hive_id = h.hive_id AND h.capacity > 50;

-- name: shuffled_semi
-- set: datafusion.optimizer.hash_join_single_partition_threshold=0
-- set: datafusion.optimizer.hash_join_single_partition_threshold_rows=0
SELECT v.id FROM visits v WHERE v.bee IN (SELECT bee FROM visits WHERE n > 75);

-- name: shuffled_anti
-- set: datafusion.optimizer.hash_join_single_partition_threshold=0
-- set: datafusion.optimizer.hash_join_single_partition_threshold_rows=0
SELECT v.id FROM visits v WHERE NOT EXISTS (SELECT 1 FROM hives h WHERE h.hive_id = v.hive_id AND h.capacity > 20);

-- name: shuffled_mark
-- set: datafusion.optimizer.hash_join_single_partition_threshold=0
-- set: datafusion.optimizer.hash_join_single_partition_threshold_rows=0
SELECT v.id FROM visits v WHERE v.n > 70 OR v.hive_id IN (SELECT hive_id FROM hives WHERE capacity > 50);

-- name: shuffled_not_in
-- set: datafusion.optimizer.hash_join_single_partition_threshold=0
-- set: datafusion.optimizer.hash_join_single_partition_threshold_rows=0
SELECT v.id FROM visits v WHERE v.hive_id NOT IN (SELECT hive_id FROM keepers WHERE age > 30 AND hive_id IS NOT NULL);

-- name: shuffled_many_keys_and_group
-- set: datafusion.optimizer.hash_join_single_partition_threshold=0
-- set: datafusion.optimizer.hash_join_single_partition_threshold_rows=0
SELECT a.bee, a.flower, count(*) AS c FROM visits a JOIN visits b ON a.bee = b.bee AND a.flower = b.flower GROUP BY a.bee, a.flower;

-- name: shuffled_dictionary_and_memory
-- set: datafusion.optimizer.hash_join_single_partition_threshold=0
-- set: datafusion.optimizer.hash_join_single_partition_threshold_rows=0
SELECT s.grade, k.keeper, count(*) AS c FROM scales s JOIN keepers k ON s.hive_id = k.hive_id GROUP BY s.grade, k.keeper;

-- name: no_join_repartition
-- set: datafusion.optimizer.repartition_joins=false
SELECT v.id, h.name FROM visits v JOIN hives h ON v.hive_id = h.hive_id;

-- name: no_join_repartition_left
-- set: datafusion.optimizer.repartition_joins=false
SELECT h.hive_id, v.id FROM hives h LEFT JOIN visits v ON v.hive_id = h.hive_id AND v.n > 60;

-- name: no_join_repartition_full
-- set: datafusion.optimizer.repartition_joins=false
SELECT h.hive_id, v.id FROM hives h FULL JOIN visits v ON v.hive_id = h.hive_id AND v.n > 60;

-- name: no_join_reordering
-- set: datafusion.optimizer.join_reordering=false
SELECT v.id, h.name, r.rank FROM visits v JOIN hives h ON v.hive_id = h.hive_id JOIN regions r ON r.region = h.region;

-- name: joins_without_statistics
-- set: datafusion.execution.collect_statistics=false
SELECT v.id, h.name FROM visits v LEFT JOIN hives h ON v.hive_id = h.hive_id WHERE v.n > 0;

-- name: top_down_join_order
-- set: datafusion.optimizer.top_down_join_key_reordering=false
SELECT a.id, b.id AS other FROM visits a JOIN visits b ON a.bee = b.bee AND a.flower = b.flower AND a.hive_id = b.hive_id;

-- name: piecewise_range_join
-- set: datafusion.optimizer.enable_piecewise_merge_join=true
SELECT h.hive_id, r.rank FROM hives h JOIN regions r ON h.capacity < r.rank * 10;
