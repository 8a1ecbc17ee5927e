-- What analysts write: several steps that together answer one question.

-- name: pivot_by_case
SELECT flower, sum(CASE WHEN ok THEN n END) AS yes, sum(CASE WHEN NOT ok THEN n END) AS no, sum(CASE WHEN ok IS NULL THEN n END) AS unknown FROM visits GROUP BY flower;

-- name: pivot_by_filter_wide
SELECT date_trunc('month', day) AS m, count(*) FILTER (WHERE flower = 'clover') AS clover, count(*) FILTER (WHERE flower = 'linden') AS linden, count(*) FILTER (WHERE flower IS NULL) AS nil FROM visits GROUP BY date_trunc('month', day);

-- name: unpivot_by_union
SELECT id, 'n' AS k, CAST(n AS DOUBLE) AS v FROM visits WHERE n IS NOT NULL UNION ALL SELECT id, 'frac', frac FROM visits WHERE frac IS NOT NULL;

-- name: unpivot_by_unnest
SELECT id, e['k'] AS k, e['v'] AS v FROM (SELECT id, unnest([named_struct('k', 'a', 'v', n), named_struct('k', 'b', 'v', n * 2)]) AS e FROM visits WHERE id < 150);

-- name: gaps_and_islands_by_difference
SELECT bee, min(id) AS first, max(id) AS last, count(*) AS c FROM (SELECT bee, id, id / 17 - row_number() OVER (PARTITION BY bee ORDER BY id) AS g FROM visits WHERE ok) GROUP BY bee, g;

-- name: gaps_in_days
SELECT day, next, next - day AS gap FROM (SELECT day, lead(day) OVER (ORDER BY day) AS next FROM (SELECT DISTINCT day FROM visits WHERE n > 40 AND day IS NOT NULL)) WHERE next - day > 1;

-- name: longest_streaks
SELECT flower, max(len) AS best FROM (SELECT flower, g, count(*) AS len FROM (SELECT flower, row_number() OVER (PARTITION BY flower ORDER BY id) - row_number() OVER (PARTITION BY flower, ok ORDER BY id) AS g, ok FROM visits) GROUP BY flower, ok, g) GROUP BY flower;

-- name: sessions_by_gap
SELECT who, s, count(*) AS c, min(at) AS start, max(at) AS stop FROM (SELECT who, at, seq, sum(new) OVER (PARTITION BY who ORDER BY at, seq) AS s FROM (SELECT who, at, seq, CASE WHEN at - lag(at) OVER (PARTITION BY who ORDER BY at, seq) < INTERVAL '1 hour' THEN 0 ELSE 1 END AS new FROM steps)) GROUP BY who, s;

-- name: sessions_counted
SELECT count(*) AS sessions, count(DISTINCT who) AS people FROM (SELECT who, at, CASE WHEN at - lag(at) OVER (PARTITION BY who ORDER BY at, seq) < INTERVAL '2 hours' THEN 0 ELSE 1 END AS new FROM steps) WHERE new = 1;

-- name: funnel_by_min_times
WITH t AS (SELECT who, min(at) FILTER (WHERE what = 'land') AS a, min(at) FILTER (WHERE what = 'look') AS b, min(at) FILTER (WHERE what = 'sip') AS c FROM steps GROUP BY who) SELECT count(a) AS landed, count(CASE WHEN b > a THEN 1 END) AS looked, count(CASE WHEN b > a AND c > b THEN 1 END) AS sipped FROM t;

-- name: funnel_by_joins
SELECT count(DISTINCT l.who) AS a, count(DISTINCT k.who) AS b FROM (SELECT who, min(at) AS at FROM steps WHERE what = 'land' GROUP BY who) l LEFT JOIN (SELECT who, at FROM steps WHERE what = 'look') k ON k.who = l.who AND k.at > l.at;

-- name: next_event_transition_counts
SELECT what, next, count(*) AS c FROM (SELECT what, lead(what) OVER (PARTITION BY who ORDER BY at, seq) AS next FROM steps) GROUP BY what, next;

-- name: first_and_last_event_of_each
SELECT who, first_value(what ORDER BY at, seq) AS first, last_value(what ORDER BY at, seq) AS last, count(*) AS c FROM steps GROUP BY who;

-- name: retention_by_cohort
WITH f AS (SELECT bee, min(day) AS born FROM visits GROUP BY bee) SELECT f.born, v.day - f.born AS age, count(DISTINCT v.bee) AS bees FROM visits v JOIN f ON f.bee = v.bee WHERE v.day IS NOT NULL GROUP BY f.born, v.day - f.born;

-- name: new_and_returning
SELECT day, count(*) FILTER (WHERE r = 1) AS new, count(*) FILTER (WHERE r > 1) AS back FROM (SELECT day, row_number() OVER (PARTITION BY bee ORDER BY day, id) AS r FROM visits WHERE day IS NOT NULL) GROUP BY day;

-- name: running_total_of_days
SELECT day, s, sum(s) OVER (ORDER BY day) AS total FROM (SELECT day, sum(n) AS s FROM visits WHERE day IS NOT NULL GROUP BY day);

-- name: moving_average_of_days
SELECT day, avg(c) OVER (ORDER BY day ROWS BETWEEN 6 PRECEDING AND CURRENT ROW) AS a FROM (SELECT day, count(*) AS c FROM visits WHERE day IS NOT NULL GROUP BY day);

-- name: running_distinct_count
SELECT day, count(*) AS new_bees, sum(count(*)) OVER (ORDER BY day) AS seen FROM (SELECT bee, min(day) AS day FROM visits WHERE bee IS NOT NULL GROUP BY bee) GROUP BY day;

-- name: month_over_month
SELECT m, s, s - lag(s) OVER (ORDER BY m) AS d FROM (SELECT date_trunc('month', at) AS m, sum(amount) AS s FROM visits WHERE at IS NOT NULL GROUP BY 1);

-- name: median_per_group_by_rank
SELECT hive_id, avg(n) AS median FROM (SELECT hive_id, n, row_number() OVER (PARTITION BY hive_id ORDER BY n, id) AS r, count(*) OVER (PARTITION BY hive_id) AS c FROM visits) WHERE r IN ((c + 1) / 2, (c + 2) / 2) GROUP BY hive_id;

-- name: mode_per_group
SELECT hive_id, flower, c FROM (SELECT hive_id, flower, count(*) AS c, row_number() OVER (PARTITION BY hive_id ORDER BY count(*) DESC, flower) AS r FROM visits GROUP BY hive_id, flower) WHERE r = 1;

-- name: percent_of_parent
SELECT region, name, c, c * 100.0 / sum(c) OVER (PARTITION BY region) AS pct FROM (SELECT h.region, h.name, count(*) AS c FROM hives h JOIN visits v ON v.hive_id = h.hive_id GROUP BY h.region, h.name);

-- name: pareto_share
SELECT hive_id, s FROM (SELECT hive_id, s, sum(s) OVER (ORDER BY s DESC, hive_id) AS run, sum(s) OVER () AS total FROM (SELECT hive_id, sum(abs(n)) AS s FROM visits GROUP BY hive_id)) WHERE run - s < total * 0.5;

-- name: histogram
SELECT floor(frac / 20) * 20 AS bucket, count(*) AS c FROM visits WHERE frac IS NOT NULL GROUP BY floor(frac / 20) * 20;

-- name: quantile_buckets
SELECT q, count(*) AS c, min(n) AS lo, max(n) AS hi FROM (SELECT n, ntile(5) OVER (ORDER BY n, id) AS q FROM visits) GROUP BY q;

-- name: z_scores
SELECT id, (n - a) / s AS z FROM (SELECT id, n, avg(n) OVER (PARTITION BY ok) AS a, stddev(n) OVER (PARTITION BY ok) AS s FROM visits) WHERE abs(n - a) > 1.6 * s;

-- name: outliers_against_group
SELECT v.id, v.n FROM visits v JOIN (SELECT flower, avg(n) AS a, stddev(n) AS s FROM visits GROUP BY flower) g ON g.flower = v.flower WHERE v.n > g.a + 1.5 * g.s;

-- name: deduplicate_keep_latest
SELECT hive_id, name, capacity FROM (SELECT *, row_number() OVER (PARTITION BY hive_id ORDER BY opened DESC, capacity DESC, name) AS r FROM hives) WHERE r = 1;

-- name: find_duplicates
SELECT a, b, count(*) AS c FROM left_bag GROUP BY a, b HAVING count(*) > 1;

-- name: rows_in_one_table_only
SELECT coalesce(l.a, r.a) AS a, l.c AS lc, r.c AS rc FROM (SELECT a, count(*) AS c FROM left_bag GROUP BY a) l FULL JOIN (SELECT a, count(*) AS c FROM right_bag GROUP BY a) r ON l.a IS NOT DISTINCT FROM r.a WHERE l.c IS DISTINCT FROM r.c;

-- name: slowly_changing_valid_from_to
SELECT hive_id, opened AS since, lead(opened) OVER (PARTITION BY hive_id ORDER BY opened, name, capacity) AS until FROM hives WHERE hive_id IS NOT NULL;

-- name: last_known_value
SELECT v.id, max(w.temp) AS temp FROM visits v LEFT JOIN weather w ON w.day = v.day AND w.temp IS NOT NULL WHERE v.id % 9 = 2 GROUP BY v.id;

-- name: basket_pairs
SELECT a.flower AS f, b.flower AS g, count(*) AS c FROM visits a JOIN visits b ON a.bee = b.bee AND b.id BETWEEN a.id - 90 AND a.id + 90 AND a.flower < b.flower GROUP BY a.flower, b.flower HAVING count(*) > 0;

-- name: bees_at_every_region
SELECT v.bee FROM visits v JOIN hives h ON h.hive_id = v.hive_id WHERE h.region IS NOT NULL GROUP BY v.bee HAVING count(DISTINCT h.region) = (SELECT count(DISTINCT region) FROM hives);

-- name: division_by_double_negation
SELECT bee FROM (SELECT DISTINCT bee FROM visits WHERE bee IS NOT NULL) b WHERE NOT EXISTS (SELECT 1 FROM (SELECT p.bee, r.region FROM (SELECT DISTINCT bee FROM visits) p CROSS JOIN (SELECT DISTINCT region FROM regions WHERE rank < 2) r EXCEPT SELECT w.bee, h.region FROM visits w JOIN hives h ON h.hive_id = w.hive_id) m WHERE m.bee = b.bee);

-- name: graph_triangles
SELECT count(*) AS c FROM edges a JOIN edges b ON a.dst = b.src JOIN edges c ON b.dst = c.src AND c.dst = a.src;

-- name: graph_degrees
SELECT node, sum(o) AS outs, sum(i) AS ins FROM (SELECT src AS node, 1 AS o, 0 AS i FROM edges UNION ALL SELECT dst, 0, 1 FROM edges) GROUP BY node;

-- name: graph_common_neighbours
SELECT a.src AS x, b.src AS y, count(*) AS c FROM edges a JOIN edges b ON a.dst = b.dst AND a.src < b.src GROUP BY a.src, b.src
UNION ALL SELECT 0, 0, count(*) FROM edges;

-- name: calendar_fill
SELECT c.day, coalesce(v.c, 0) AS visits FROM (SELECT DISTINCT day FROM weather) c LEFT JOIN (SELECT day, count(*) AS c FROM visits WHERE n > 30 GROUP BY day) v ON v.day = c.day;

-- name: weekday_profile
SELECT extract(dow FROM at) AS d, extract(hour FROM at) AS h, count(*) AS c, avg(n) AS a FROM visits WHERE at IS NOT NULL GROUP BY 1, 2;

-- name: cumulative_share_of_rows
SELECT n, cume_dist() OVER (ORDER BY n) AS p FROM (SELECT DISTINCT n FROM visits);

-- name: subtotals_with_labels
SELECT coalesce(flower, CASE WHEN grouping(flower) = 1 THEN 'all flowers' ELSE 'none' END) AS f, CASE WHEN grouping(ok) = 1 THEN 'all' ELSE coalesce(CAST(ok AS VARCHAR), 'none') END AS o, count(*) AS c FROM visits GROUP BY ROLLUP (flower, ok);

-- name: weighted_average
SELECT hive_id, sum(n * coalesce(frac, 0)) / nullif(sum(coalesce(frac, 0)), 0) AS w FROM visits GROUP BY hive_id;

-- name: top_share_per_region
SELECT region, hive_id, s FROM (SELECT h.region, v.hive_id, sum(v.n) AS s, rank() OVER (PARTITION BY h.region ORDER BY sum(v.n) DESC, v.hive_id) AS r FROM visits v JOIN hives h ON h.hive_id = v.hive_id GROUP BY h.region, v.hive_id) WHERE r <= 2;

-- name: compare_to_previous_visit
SELECT bee, id, n - p AS d FROM (SELECT bee, id, n, lag(n) OVER (PARTITION BY bee ORDER BY at, id) AS p FROM visits WHERE at IS NOT NULL) WHERE n - p > 60;

-- name: state_durations
SELECT what, sum(epoch) AS total FROM (SELECT what, extract(epoch FROM lead(at) OVER (PARTITION BY who ORDER BY at, seq)) - extract(epoch FROM at) AS epoch FROM steps) GROUP BY what;

-- name: events_in_overlapping_minutes
SELECT a.who, count(*) AS c FROM steps a JOIN steps b ON a.who <> b.who AND b.at BETWEEN a.at AND a.at + INTERVAL '20 minutes' GROUP BY a.who;

-- name: text_word_count
SELECT w, count(*) AS c FROM (SELECT unnest(string_to_array(lower(word), ' ')) AS w FROM texts) WHERE w <> '' GROUP BY w;

-- name: url_parts
SELECT split_part(split_part(url, '//', 2), '/', 1) AS host, count(*) AS c, max(regexp_replace(url, '.*q=([0-9]).*', '\1')) AS q FROM texts GROUP BY 1;

-- name: exception_report
SELECT 'no hive' AS problem, count(*) AS c FROM visits WHERE hive_id IS NULL UNION ALL SELECT 'unknown hive', count(*) FROM visits v WHERE v.hive_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM hives h WHERE h.hive_id = v.hive_id) UNION ALL SELECT 'twice', count(*) FROM (SELECT hive_id FROM hives GROUP BY hive_id HAVING count(*) > 1);

-- name: fill_down_by_window_and_group
SELECT g, max(flower) AS f, count(*) AS c FROM (SELECT flower, count(flower) OVER (ORDER BY id) AS g FROM visits WHERE id < 300) GROUP BY g;

-- name: bitmask_of_flags
SELECT hive_id, bit_or(CASE WHEN ok THEN 1 ELSE 0 END + CASE WHEN n > 50 THEN 2 ELSE 0 END + CASE WHEN flower IS NULL THEN 4 ELSE 0 END) AS flags FROM visits GROUP BY hive_id;

-- name: two_level_top
SELECT flower, bee, c FROM (SELECT flower, bee, c, dense_rank() OVER (ORDER BY t DESC, flower) AS fr, row_number() OVER (PARTITION BY flower ORDER BY c DESC, bee) AS br FROM (SELECT flower, bee, count(*) AS c, sum(count(*)) OVER (PARTITION BY flower) AS t FROM visits GROUP BY flower, bee)) WHERE fr <= 3 AND br <= 2;

-- name: self_correlation_lag
SELECT corr(a.n, b.n) AS r, count(*) AS c FROM visits a JOIN visits b ON b.id = a.id + 7;

-- name: everything_at_once
WITH h AS (SELECT hive_id, max(region) AS region FROM hives WHERE hive_id IS NOT NULL GROUP BY hive_id), v AS (SELECT hive_id, flower, sum(n) AS s, count(*) AS c FROM visits WHERE n > (SELECT avg(capacity) - 20 FROM hives) GROUP BY hive_id, flower) SELECT h.region, v.flower, sum(v.s) AS s, rank() OVER (PARTITION BY h.region ORDER BY sum(v.s) DESC, v.flower) AS r FROM v LEFT JOIN h ON h.hive_id = v.hive_id WHERE EXISTS (SELECT 1 FROM scales k WHERE k.hive_id = v.hive_id) GROUP BY h.region, v.flower HAVING sum(v.c) > 1 ORDER BY h.region NULLS LAST, r LIMIT 20;
