-- Statements about the session, and recursion: what belongs to this process, and what rests on it.

-- name: information_schema_tables
-- set: datafusion.catalog.information_schema=true
SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name;

-- name: information_schema_columns
-- set: datafusion.catalog.information_schema=true
SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns WHERE table_schema = 'public' ORDER BY table_name, ordinal_position;

-- name: information_schema_counts
-- set: datafusion.catalog.information_schema=true
SELECT table_name, count(*) AS c FROM information_schema.columns WHERE table_name IN ('visits', 'hives') GROUP BY table_name;

-- name: information_schema_views
-- set: datafusion.catalog.information_schema=true
SELECT table_name FROM information_schema.views WHERE table_name LIKE 'hive%';

-- name: information_schema_settings
-- set: datafusion.catalog.information_schema=true
SELECT name, value FROM information_schema.df_settings WHERE name LIKE 'datafusion.sql_parser%';

-- name: information_schema_routines
-- set: datafusion.catalog.information_schema=true
SELECT DISTINCT routine_name FROM information_schema.routines WHERE routine_name IN ('upper', 'sum', 'abs');

-- name: information_schema_joined_with_scan
-- set: datafusion.catalog.information_schema=true
-- session: StreamingTableExec
SELECT c.column_name, v.c FROM information_schema.columns c CROSS JOIN (SELECT count(DISTINCT flower) AS c FROM visits) v WHERE c.table_name = 'hives';

-- name: show_tables
-- set: datafusion.catalog.information_schema=true
SHOW TABLES;

-- name: show_columns
-- set: datafusion.catalog.information_schema=true
SHOW COLUMNS FROM visits;

-- name: show_setting
-- set: datafusion.catalog.information_schema=true
SHOW datafusion.sql_parser.dialect;

-- name: describe_table
DESCRIBE visits;

-- name: recursive_counter
WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 20) SELECT n FROM t;

-- name: recursive_tree_walk
-- session: RecursiveQueryExec
WITH RECURSIVE t AS (SELECT src, dst, 1 AS depth FROM edges WHERE src = 1 UNION ALL SELECT e.src, e.dst, t.depth + 1 FROM edges e JOIN t ON e.src = t.dst WHERE t.depth < 10) SELECT depth, count(*) AS c, max(dst) AS m FROM t GROUP BY depth;

-- name: recursive_reachable
-- session: RecursiveQueryExec
WITH RECURSIVE t AS (SELECT 100 AS node, 0 AS d UNION ALL SELECT e.dst, t.d + 1 FROM t JOIN edges e ON e.src = t.node WHERE t.d < 7) SELECT node, min(d) AS d FROM t GROUP BY node;

-- name: recursive_joined_with_scan
-- session: RecursiveQueryExec
WITH RECURSIVE t AS (SELECT 0 AS n UNION ALL SELECT n + 5 FROM t WHERE n < 40) SELECT t.n, count(v.id) AS c FROM t LEFT JOIN visits v ON v.hive_id = t.n GROUP BY t.n;

-- name: recursive_over_aggregate
-- session: RecursiveQueryExec
WITH RECURSIVE t AS (SELECT max(n) AS n FROM visits UNION ALL SELECT n - 7 FROM t WHERE n > 10) SELECT count(*) AS c, min(n) AS m FROM t;

-- name: recursive_running_product
WITH RECURSIVE t AS (SELECT 1 AS i, CAST(1 AS BIGINT) AS f UNION ALL SELECT i + 1, f * (i + 1) FROM t WHERE i < 12) SELECT i, f FROM t ORDER BY i;

-- name: recursive_dates
WITH RECURSIVE d AS (SELECT DATE '2024-02-26' AS day UNION ALL SELECT day + INTERVAL '1 day' FROM d WHERE day < DATE '2024-03-03') SELECT day FROM d;
