-- Functions of texts, numbers and times over distributed scans.

-- name: text_case_and_length
SELECT id, upper(flower) AS u, lower(flower) AS l, initcap(flower) AS i, length(flower) AS n, octet_length(flower) AS o, bit_length(flower) AS b FROM visits;

-- name: text_trim
SELECT id, trim(word) AS a, ltrim(word) AS b, rtrim(word) AS c, btrim(word, 'te ') AS d FROM texts;

-- name: text_substrings
SELECT id, substr(flower, 2, 3) AS a, left(flower, 2) AS b, right(flower, 2) AS c, substring(flower FROM 3) AS d, substr_index(url, '/', 3) AS e FROM visits JOIN texts USING (id);

-- name: text_pad_repeat_reverse
SELECT id, lpad(flower, 8, '*') AS a, rpad(flower, 8, '-') AS b, repeat(bee, 2) AS c, reverse(flower) AS d FROM visits;

-- name: text_replace_and_translate
SELECT id, replace(flower, 'l', 'LL') AS a, translate(flower, 'aeiou', '12345') AS b, overlay(flower PLACING '##' FROM 2 FOR 1) AS c FROM visits;

-- name: text_concat
SELECT id, flower || '-' || bee AS a, concat(flower, bee, n) AS b, concat_ws('/', flower, NULL, bee) AS c FROM visits;

-- name: text_position
SELECT id, strpos(flower, 'o') AS a, position('e' IN flower) AS b, starts_with(flower, 'c') AS c, ends_with(flower, 'r') AS d, contains(flower, 'over') AS e FROM visits;

-- name: text_split_part
SELECT v.id, split_part(v.bee, '-', 2) AS a, split_part(t.url, '/', 3) AS b FROM visits v LEFT JOIN texts t ON t.id = v.id WHERE v.id < 100;

-- name: text_like
SELECT id, flower FROM visits WHERE flower LIKE '%over%' OR flower LIKE '_inden' OR flower NOT LIKE '%e%';

-- name: text_ilike_and_escape
SELECT id FROM texts WHERE word ILIKE '%STRASSE%' OR word ILIKE 'A%' OR word LIKE '%\_%';

-- name: text_similar
SELECT id, flower FROM visits WHERE flower SIMILAR TO '(cl|ra)%' OR flower ~ '^h.*r$';

-- name: text_regex_match
SELECT id, regexp_like(word, '[0-9]+') AS a, word ~* 'BEE' AS b, word !~ 'a' AS c FROM texts;

-- name: text_regex_replace
SELECT id, regexp_replace(word, '([a-z])([a-z])', '\2\1', 'g') AS a, regexp_count(word, '[aeiou]') AS b, regexp_instr(word, 'b') AS c FROM texts;

-- name: text_regex_groups
SELECT id, regexp_match(url, 'site([0-9]).*q=([0-9])') AS m FROM texts;

-- name: text_codes
SELECT id, ascii(flower) AS a, chr(65 + CAST(abs(n) % 26 AS BIGINT)) AS b, to_hex(abs(n)) AS c, levenshtein(flower, 'clover') AS d FROM visits;

-- name: text_hashes
SELECT id, md5(flower) AS a, encode(sha224(bee), 'hex') AS b, encode(digest(flower, 'blake3'), 'hex') AS c FROM visits WHERE id < 100;

-- name: text_find_in_set
SELECT id, find_in_set(flower, 'clover,rape,linden') AS a FROM visits;

-- name: text_compare_unicode
SELECT id, flower FROM visits WHERE flower > 'Z' AND flower < 'ア' ORDER BY flower, id;

-- name: text_min_by_length_key
SELECT length(flower) AS l, min(flower) AS a, max(flower) AS b FROM visits GROUP BY length(flower);

-- name: text_escape_literals
SELECT id, 'it''s' AS q, flower || ' "x"' AS d FROM visits WHERE flower <> 'it''s' AND id < 30;

-- name: number_rounding
SELECT id, round(frac) AS a, round(frac, 1) AS b, trunc(frac, 1) AS c, ceil(frac) AS d, floor(frac) AS e, signum(nectar) AS f FROM visits;

-- name: number_powers_and_roots
SELECT id, power(n, 2) AS a, sqrt(abs(n)) AS b, cbrt(n) AS c, exp(n / 50.0) AS d, ln(abs(n) + 1) AS e, log10(abs(n) + 1) AS f, log(2, abs(n) + 1) AS g FROM visits;

-- name: number_trigonometry
SELECT id, sin(n) AS a, cos(n) AS b, atan2(n, id + 1) AS c, degrees(n) AS d, radians(n) AS e, tanh(n) AS f FROM visits;

-- name: number_bits
SELECT id, id & 12 AS a, id | 5 AS b, id ^ 3 AS c, id << 2 AS d, id >> 1 AS e FROM visits;

-- name: number_gcd_lcm_factorial
SELECT id, gcd(id, 12) AS a, lcm(abs(n) + 1, 6) AS b, factorial(abs(n) % 6) AS c FROM visits;

-- name: number_abs_mod_least_greatest
SELECT id, abs(n) AS a, n % 5 AS b, least(n, hive_id, 3) AS c, greatest(n, hive_id) AS d FROM visits;

-- name: number_pi_and_constants
SELECT id, pi() * n AS a, 1e3 + n AS b, 0.1 + n AS c FROM visits WHERE id < 50;

-- name: conditional_nullif_coalesce
SELECT id, nullif(hive_id, 5) AS a, coalesce(flower, bee, 'none') AS b, nvl(hive_id, 0) AS c, nvl2(hive_id, 1, 2) AS d, ifnull(flower, '?') AS e FROM visits;

-- name: conditional_case_forms
SELECT id, CASE flower WHEN 'rape' THEN 1 WHEN 'clover' THEN 2 ELSE 0 END AS a, CASE WHEN n > 50 THEN 'big' WHEN n > 0 THEN 'small' END AS b FROM visits;

-- name: conditional_case_guards_division
SELECT id, CASE WHEN hive_id <> 0 THEN n / hive_id ELSE 0 END AS a FROM visits;

-- name: conditional_case_nested
SELECT id, CASE WHEN ok THEN CASE WHEN n > 10 THEN 'a' ELSE 'b' END ELSE coalesce(flower, 'c') END AS x FROM visits;

-- name: conditional_in_aggregate
SELECT flower, sum(CASE WHEN ok THEN 1 ELSE 0 END) AS yes, count(CASE WHEN n > 40 THEN 1 END) AS high FROM visits GROUP BY flower;

-- name: time_parts
SELECT id, extract(year FROM at) AS y, date_part('month', at) AS m, extract(dow FROM day) AS w, extract(doy FROM day) AS d, extract(hour FROM at) AS h, extract(epoch FROM at) AS e FROM visits;

-- name: time_parts_small
SELECT id, date_part('minute', at) AS a, date_part('second', at) AS b, date_part('millisecond', at) AS c, date_part('week', day) AS d, date_part('quarter', day) AS e FROM visits;

-- name: time_trunc
SELECT id, date_trunc('day', at) AS a, date_trunc('month', day) AS b, date_trunc('quarter', at) AS c, date_trunc('hour', at_utc) AS d FROM visits;

-- name: time_bin
SELECT date_bin(INTERVAL '6 hours', at) AS b, count(*) AS c FROM visits GROUP BY date_bin(INTERVAL '6 hours', at);

-- name: time_bin_with_origin
SELECT date_bin(INTERVAL '10 days', at, TIMESTAMP '2023-12-01T00:00:00') AS b, sum(n) AS s FROM visits GROUP BY 1;

-- name: time_add_intervals
SELECT id, day + INTERVAL '1 month' AS a, day - INTERVAL '3 days' AS b, at + INTERVAL '90 minutes' AS c, day + INTERVAL '7 days' AS d FROM visits;

-- name: time_month_ends
SELECT day, day + INTERVAL '1 month' AS next, DATE '2024-01-31' + INTERVAL '1 month' AS feb FROM kinds WHERE day < DATE '9999-01-01';

-- name: time_differences
SELECT id, at - TIMESTAMP '2024-01-01T00:00:00' AS a, day - DATE '2024-01-01' AS b FROM visits;

-- name: time_compare
SELECT id FROM visits WHERE day BETWEEN '2023-12-20' AND '2024-01-05' AND at > TIMESTAMP '2023-12-22T06:00:00';

-- name: time_to_text
SELECT id, to_char(at, '%Y/%m/%d %H:%M') AS a, to_char(day, '%j') AS b FROM visits;

-- name: time_from_text
SELECT id, to_date(day, '%Y-%m-%d') AS d FROM (SELECT id, CAST(day AS VARCHAR) AS day FROM weather);

-- name: time_to_timestamp
SELECT id, to_timestamp(id * 86400) AS a, to_timestamp_millis(id) AS b, to_timestamp_seconds(n) AS c, from_unixtime(id) AS d, to_unixtime(at) AS e FROM visits;

-- name: time_make_date
SELECT id, make_date(2020 + CAST(id % 5 AS INT), 1 + CAST(id % 12 AS INT), 1) AS d FROM visits;

-- name: time_zone_columns
SELECT id, at_utc, date_part('hour', at_utc) AS h, CAST(at_utc AS DATE) AS d FROM visits;

-- name: time_zone_conversion
SELECT id, at_utc AT TIME ZONE 'Europe/Berlin' AS b, to_local_time(at_utc AT TIME ZONE 'Asia/Kolkata') AS l FROM visits;

-- name: time_zone_grouped_by_local_day
SELECT date_trunc('day', at_utc AT TIME ZONE 'America/New_York') AS d, count(*) AS c FROM visits GROUP BY 1;

-- name: time_zone_of_file_column
SELECT id, ts_berlin, date_trunc('day', ts_berlin) AS d, date_part('hour', ts_berlin) AS h FROM kinds WHERE ts_berlin > '1960-01-01T00:00:00Z';

-- name: time_zone_of_session
-- set: datafusion.execution.time_zone=+05:30
SELECT id, CAST('2024-01-01T00:00:00' AS TIMESTAMPTZ) AS t, CAST(at AS TIMESTAMPTZ) AS z FROM visits WHERE id < 100;

-- name: time_zone_of_session_compare
-- set: datafusion.execution.time_zone=America/New_York
SELECT id FROM visits WHERE at_utc > TIMESTAMPTZ '2023-12-31 20:00:00';

-- name: interval_column_arithmetic
SELECT id, TIMESTAMP '2024-01-31T00:00:00' + span AS t FROM scales;

-- name: duration_column_arithmetic
SELECT id, wait + wait AS a, TIMESTAMP '2024-01-01T00:00:00' + wait AS b FROM scales;

-- name: now_is_one_moment
SELECT count(DISTINCT now()) AS c, count(*) FILTER (WHERE now() > at) AS past, min(current_date() - current_date()) AS d FROM visits;

-- name: random_in_determinate_form
SELECT count(*) AS c FROM visits WHERE random() < 2 AND random() >= 0;

-- name: random_differs_by_row
SELECT count(DISTINCT r) > 700 AS many, min(r) >= 0 AS lo, max(r) < 1 AS hi FROM (SELECT random() AS r FROM visits);

-- name: uuids_are_all_different
SELECT count(DISTINCT u) = count(*) AS ok, min(length(u)) AS l FROM (SELECT uuid() AS u FROM visits);

-- name: random_drawn_once_a_row
SELECT count(*) AS c FROM (SELECT id, random() AS r FROM visits) WHERE r = r;

-- name: higher_order_free_json_like_text
SELECT id, '{"id":' || id || ',"f":"' || coalesce(flower, '') || '"}' AS j FROM visits WHERE id < 40;

-- name: struct_functions_in_filter
SELECT id FROM visits WHERE named_struct('a', n)['a'] > 60 AND get_field(pos, 'x') < 4;

-- name: arrow_metadata_and_version_free
SELECT count(*) AS c, arrow_typeof(count(*)) AS t FROM visits WHERE n > 2;

-- name: coercion_text_and_number
SELECT id FROM visits WHERE CAST(n AS VARCHAR) = '42' OR n = '7' OR amount > '900';

-- name: coercion_date_and_text
SELECT id FROM visits WHERE day = '2024-01-06' OR at < '2023-12-10';

-- name: constant_folding_kept_right
SELECT id, 1 + 2 * 3 AS a, 'a' || 'b' AS b, DATE '2024-01-31' + INTERVAL '1 day' AS c FROM visits WHERE 1 = 1 AND id < 10 + 10;

-- name: filter_that_is_always_false
-- empty: no row passes
SELECT id FROM visits WHERE 1 = 0 AND n > 3;

-- name: filter_that_is_null
-- empty: NULL passes nothing
SELECT id FROM visits WHERE NULL;

-- name: many_expressions
SELECT id, n, n + 1 AS a, n + 2 AS b, n * 3 AS c, n - 4 AS d, (n + 1) * (n + 2) AS e, (n + 1) * (n + 2) - (n * 3) AS f, abs(n) AS g, n % 3 AS h, n % 3 = 0 AS i, coalesce(frac, 0) * n AS j FROM visits;
