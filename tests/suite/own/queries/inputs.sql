-- Inputs: formats, partitioned trees, tables without rows or files, declared order, memory, and all of them mixed.

-- name: csv_scan
SELECT * FROM weather;

-- name: csv_quotes_and_nulls
SELECT sky, count(*) AS c FROM weather WHERE sky LIKE '%"%' OR sky IS NULL GROUP BY sky;

-- name: csv_inferred_dates
SELECT day, arrow_typeof(day) AS t, count(*) AS c FROM weather GROUP BY day, arrow_typeof(day);

-- name: csv_top
SELECT id, temp FROM weather ORDER BY temp DESC NULLS LAST, id LIMIT 8;

-- name: json_scan
SELECT * FROM notes;

-- name: json_lists_and_unicode
SELECT text, count(*) AS c, sum(array_length(labels)) AS l FROM notes GROUP BY text;

-- name: arrow_scan
SELECT id, hive_id, kg, grade FROM scales WHERE kg > 3;

-- name: arrow_with_interval_and_duration
SELECT hive_id, max(wait) AS w, count(DISTINCT span) AS s FROM scales GROUP BY hive_id;

-- name: partitions_scan
SELECT * FROM seasons;

-- name: partitions_pruned
SELECT id, honey FROM seasons WHERE year = 2023 AND season = 'fall';

-- name: partitions_pruned_by_range
SELECT year, season, sum(honey) AS h FROM seasons WHERE year > 2022 GROUP BY year, season;

-- name: partitions_pruned_to_none
-- empty: there is no such year
SELECT id FROM seasons WHERE year = 1999;

-- name: partitions_only_columns_of_path
SELECT DISTINCT year, season FROM seasons;

-- name: partitions_counted_only
SELECT year, count(*) AS c FROM seasons GROUP BY year ORDER BY year;

-- name: partitions_in_expression
SELECT year * 10 + length(season) AS k, max(id) AS m FROM seasons GROUP BY year * 10 + length(season);

-- name: partitions_joined_to_values
SELECT s.id, x.label FROM seasons s JOIN (VALUES (2022, 'old'), (2024, 'new')) AS x(y, label) ON s.year = x.y;

-- name: partitions_in_subquery
SELECT id FROM seasons WHERE year = (SELECT max(year) FROM seasons);

-- name: memory_scan
SELECT * FROM keepers;

-- name: memory_filter_and_order
SELECT keeper, age FROM keepers WHERE age > 30 ORDER BY age, keeper, hive_id;

-- name: memory_with_itself
SELECT a.keeper, b.age FROM keepers a JOIN keepers b ON a.hive_id = b.hive_id WHERE a.age < b.age;

-- name: memory_probe_of_large_build
SELECT k.keeper, count(v.id) AS c FROM keepers k LEFT JOIN visits v ON v.hive_id = k.hive_id GROUP BY k.keeper;

-- name: memory_anti
SELECT k.keeper, k.hive_id FROM keepers k WHERE NOT EXISTS (SELECT 1 FROM visits v WHERE v.hive_id = k.hive_id AND v.n > 60);

-- name: memory_window_and_scan
SELECT v.id, k.r FROM visits v JOIN (SELECT hive_id, row_number() OVER (ORDER BY age, keeper, hive_id) AS r FROM keepers) k ON k.hive_id = v.hive_id WHERE v.n > 50;

-- name: nothing_scanned
-- empty: files without rows
SELECT * FROM nothing;

-- name: nothing_has_its_types
SELECT count(id) AS c, max(amount) AS a, min(at_utc) AS t, array_agg(tags) AS g FROM nothing;

-- name: no_files_scanned
-- empty: no files
SELECT * FROM no_files;

-- name: no_files_in_union
SELECT id, name FROM no_files UNION ALL SELECT hive_id, name FROM hives;

-- name: no_files_not_in
SELECT hive_id FROM hives WHERE hive_id NOT IN (SELECT hive_id FROM no_files);

-- name: one_row_scanned
SELECT * FROM one_row;

-- name: one_row_self_cross
SELECT a.id, b.flower FROM one_row a, one_row b;

-- name: pruned_to_one_cell
SELECT id, flower FROM visits WHERE id = 300;

-- name: pruned_by_statistics
SELECT count(*) AS c, sum(n) AS s FROM visits WHERE id BETWEEN 200 AND 320;

-- name: pruned_by_in_list
SELECT id, bee FROM visits WHERE id IN (1, 130, 259, 700);

-- name: pruned_to_nothing
-- empty: beyond all statistics
SELECT id FROM visits WHERE id > 100000;

-- name: counted_from_statistics
SELECT count(*) AS c FROM visits;

-- name: extremes_from_statistics
SELECT min(id) AS lo, max(id) AS hi FROM visits;

-- name: filter_on_text_pages
SELECT id FROM visits WHERE flower = 'heather' AND bee = 'bee-03';

-- name: filter_pushed_into_parquet
-- set: datafusion.execution.parquet.pushdown_filters=true
SELECT id, flower FROM visits WHERE n > 50 AND flower LIKE 'c%' AND ok;

-- name: filter_pushed_with_list_and_struct
-- set: datafusion.execution.parquet.pushdown_filters=true
SELECT id, tags, pos FROM visits WHERE pos['x'] = 2 AND n > 0;

-- name: parquet_without_pruning
-- set: datafusion.execution.parquet.pruning=false
-- set: datafusion.execution.parquet.enable_page_index=false
SELECT count(*) AS c FROM visits WHERE id > 500;

-- name: parquet_bloom_and_metadata_off
-- set: datafusion.execution.parquet.bloom_filter_on_read=false
-- set: datafusion.execution.parquet.skip_metadata=false
SELECT flower, count(*) AS c FROM visits WHERE flower = 'rape' GROUP BY flower;

-- name: parquet_reordered_filters
-- set: datafusion.execution.parquet.pushdown_filters=true
-- set: datafusion.execution.parquet.reorder_filters=true
SELECT id FROM visits WHERE hive_id > 3 AND n < 40 AND amount > 10;

-- name: scan_without_repartition
-- set: datafusion.optimizer.repartition_file_scans=false
SELECT flower, count(*) AS c FROM visits GROUP BY flower;

-- name: scan_repartitioned_from_one_byte
-- set: datafusion.optimizer.repartition_file_min_size=1
SELECT sky, count(*) AS c FROM weather GROUP BY sky;

-- name: tiny_batches_of_everything
-- set: datafusion.execution.batch_size=2
SELECT id, long FROM texts;

-- name: tiny_batches_join
-- set: datafusion.execution.batch_size=3
SELECT v.id, h.name FROM visits v JOIN hives h ON v.hive_id = h.hive_id WHERE v.n > 30;

-- name: coalesce_batches_off
-- set: datafusion.execution.coalesce_batches=false
SELECT hive_id, count(*) AS c FROM visits WHERE n > 10 GROUP BY hive_id;

-- name: all_formats_joined
SELECT v.id, w.temp, n.stars, s.grade, e.honey, k.keeper FROM visits v LEFT JOIN weather w ON w.id = v.id LEFT JOIN notes n ON n.id = v.id LEFT JOIN scales s ON s.id = v.id LEFT JOIN seasons e ON e.id = v.id + 2022600 LEFT JOIN keepers k ON k.hive_id = v.hive_id AND k.age > 60;

-- name: all_formats_counted
SELECT 'visits' AS t, count(*) AS c FROM visits WHERE id > 1 UNION ALL SELECT 'weather', count(*) FROM weather UNION ALL SELECT 'notes', count(*) FROM notes UNION ALL SELECT 'scales', count(*) FROM scales UNION ALL SELECT 'seasons', count(*) FROM seasons UNION ALL SELECT 'keepers', count(*) FROM keepers UNION ALL SELECT 'nothing', count(*) FROM nothing;

-- name: values_only
SELECT * FROM (VALUES (1, 'a'), (2, 'b'), (3, NULL)) AS t(x, y) ORDER BY x;

-- name: values_grouped
SELECT y, sum(x) AS s FROM (VALUES (1, 'a'), (2, 'b'), (3, 'a')) AS t(x, y) GROUP BY y;

-- name: values_many_joined
SELECT v.id, t.y FROM visits v JOIN (VALUES (1, 'a'), (2, 'b'), (3, 'c'), (5, 'e'), (8, 'h'), (13, 'm')) AS t(x, y) ON v.hive_id = t.x;

-- name: series_only
SELECT value * value AS sq FROM generate_series(1, 20);

-- name: series_of_dates
SELECT count(v.id) AS c, g.value AS d FROM generate_series(TIMESTAMP '2023-12-09', TIMESTAMP '2023-12-20', INTERVAL '1 day') g LEFT JOIN visits v ON v.day = g.value GROUP BY g.value;

-- name: series_downwards
SELECT value FROM generate_series(10, 1, -3) ORDER BY value;

-- name: range_with_cross_join
SELECT r.value AS x, count(*) AS c FROM range(0, 4) r CROSS JOIN visits v WHERE v.n % 4 = r.value GROUP BY r.value;

-- name: series_fills_gaps
SELECT g.value AS n, coalesce(c, 0) AS c FROM generate_series(-20, 80) g LEFT JOIN (SELECT n, count(*) AS c FROM visits WHERE ok GROUP BY n) v ON v.n = g.value WHERE coalesce(c, 0) < 6;

-- name: select_without_from
SELECT 1 + 1 AS two, 'x' AS x, now() IS NOT NULL AS n;

-- name: empty_relation_aggregated
SELECT count(*) AS c, sum(x) AS s FROM (SELECT 1 AS x WHERE false);
