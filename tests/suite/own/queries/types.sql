-- Every Arrow type through scans and exchanges, casts between them, and arithmetic at their ends.

-- name: all_types_scanned
SELECT * FROM kinds;

-- name: all_types_ordered
SELECT * FROM kinds ORDER BY id DESC;

-- name: all_types_shuffled
SELECT a.*, b.id AS other FROM kinds a JOIN kinds b ON a.id = b.id AND b.i64 IS NOT NULL;

-- name: all_types_gathered
SELECT * FROM kinds ORDER BY id LIMIT 20 OFFSET 3;

-- name: all_types_windowed
SELECT *, row_number() OVER (PARTITION BY yes ORDER BY id) AS r FROM kinds;

-- name: all_scalar_types_grouped
SELECT i8, i16, i32, i64, u8, u16, u32, u64, f32, f64, d128, d256, yes, count(*) AS c FROM kinds GROUP BY i8, i16, i32, i64, u8, u16, u32, u64, f32, f64, d128, d256, yes;

-- name: all_time_types_grouped
SELECT day, t32, t64, ts_ms, ts_us, ts_ns, ts_berlin, dur, count(*) AS c FROM kinds GROUP BY day, t32, t64, ts_ms, ts_us, ts_ns, ts_berlin, dur;

-- name: all_text_types_grouped
SELECT txt, big_txt, bin, big_bin, fix_bin, dict, count(*) AS c FROM kinds GROUP BY txt, big_txt, bin, big_bin, fix_bin, dict;

-- name: all_null_column_grouped
SELECT nil, count(*) AS c, count(nil) AS d FROM kinds GROUP BY nil;

-- name: all_null_column_joined
-- empty: NULL equals nothing
SELECT a.id FROM kinds a JOIN kinds b ON a.nil = b.nil;

-- name: all_types_of_arrow_file
SELECT * FROM scales;

-- name: intervals_and_durations_ordered
SELECT id, span, wait FROM scales ORDER BY wait DESC LIMIT 20;

-- name: dictionary_kept_through_exchange
SELECT id, grade, dict FROM scales LEFT JOIN kinds USING (id);

-- name: dictionary_compared_and_concatenated
SELECT id, grade || '!' AS g, grade = 'b' AS b, upper(grade) AS u FROM scales WHERE grade IN ('a', 'b');

-- name: long_texts_gathered
SELECT id, long, length(long) AS l FROM texts ORDER BY id DESC;

-- name: long_texts_shuffled
SELECT a.id, a.long FROM texts a JOIN texts b ON a.long = b.long;

-- name: long_texts_grouped
SELECT long, count(*) AS c, max(id) AS m FROM texts GROUP BY long;

-- name: zero_columns_counted
SELECT count(*) AS c FROM (SELECT id FROM visits WHERE n > 0) x CROSS JOIN (SELECT 1 FROM regions) y;

-- name: zero_columns_exists
SELECT id FROM visits WHERE n > 70 AND EXISTS (SELECT FROM regions);

-- name: integers_at_their_ends
SELECT id, i8 + 1 AS a, i16 - 1 AS b, i32 + 1 AS c, u8 * 2 AS d, u32 + 1 AS e FROM kinds WHERE i64 <> 9223372036854775807 OR i64 IS NULL;

-- name: integers_mixed_widths
SELECT id, i8 + i16 AS a, i32 + u8 AS b, i16 * f32 AS c, u16 - i8 AS d FROM kinds;

-- name: integer_division_and_modulo
SELECT id, n / 7 AS a, n % 7 AS b, -n / 7 AS c, -n % 7 AS d, n / 7.0 AS e FROM visits WHERE id < 150;

-- name: unsigned_compare
SELECT id FROM kinds WHERE u64 > 5 AND u8 < i16;

-- name: floats_special_values
SELECT id, isnan(f64) AS nan, iszero(f64) AS zero, f64 = f64 AS same, f64 > 0 AS pos, -f64 AS neg, nanvl(f64, 0) AS v FROM kinds;

-- name: floats_filter_infinity
SELECT id, nectar FROM visits WHERE nectar = 'Infinity'::DOUBLE OR nectar < -50 OR isnan(nectar);

-- name: floats_zero_and_minus_zero
SELECT num, count(*) AS c FROM wide_keys WHERE num = 0 GROUP BY num;

-- name: floats_between_with_nan
SELECT id FROM visits WHERE nectar BETWEEN -5 AND 5 OR NOT nectar <= 100;

-- name: decimals_add_subtract_multiply
SELECT id, amount + 1 AS a, amount - 0.005 AS b, amount * amount AS c, -amount AS d FROM visits;

-- name: decimals_divide_and_modulo
SELECT id, amount / 3 AS a, amount % 7 AS b, amount / 0.25 AS c FROM visits WHERE id < 200;

-- name: decimals_round
SELECT id, round(amount, 1) AS a, round(amount) AS b, trunc(amount) AS c, ceil(amount) AS d, floor(amount) AS e FROM visits WHERE id < 200;

-- name: decimals_compare_with_other_types
SELECT id FROM visits WHERE amount > n AND amount < frac * 3 AND amount <> 12.5;

-- name: decimals_wide
SELECT id, d256, d256 + d256 AS twice, d128 FROM kinds;

-- name: decimals_wide_aggregated
SELECT yes, min(d256) AS lo, max(d256) AS hi, count(d128) AS c FROM kinds GROUP BY yes;

-- name: decimal_casts
SELECT id, CAST(amount AS INT) AS a, CAST(amount AS DOUBLE) AS b, CAST(amount AS VARCHAR) AS c, CAST(n AS DECIMAL(20, 4)) AS d, CAST(frac AS DECIMAL(10, 1)) AS e FROM visits WHERE id < 200;

-- name: casts_between_numbers
SELECT id, CAST(n AS SMALLINT) AS a, CAST(frac AS BIGINT) AS b, CAST(ok AS INT) AS c, CAST(n AS BOOLEAN) AS d, CAST(n AS REAL) AS e FROM visits;

-- name: casts_to_and_from_text
SELECT id, CAST(n AS VARCHAR) AS a, CAST(day AS VARCHAR) AS b, CAST(at AS VARCHAR) AS c, CAST(ok AS VARCHAR) AS d, CAST(CAST(n AS VARCHAR) AS BIGINT) AS e FROM visits;

-- name: try_cast_bad_text
SELECT id, try_cast(word AS DOUBLE) AS a, try_cast(word AS DATE) AS b, try_cast(word AS INT) AS c FROM texts;

-- name: casts_of_times
SELECT v.id, CAST(v.at AS DATE) AS a, CAST(v.day AS TIMESTAMP) AS b, CAST(v.at AS TIME) AS c, CAST(k.ts_ns AS TIMESTAMP) AS d FROM visits v LEFT JOIN kinds k ON k.id = v.id WHERE v.id < 100;

-- name: arrow_cast_types
SELECT id, arrow_cast(n, 'Int16') AS a, arrow_cast(flower, 'LargeUtf8') AS b, arrow_cast(flower, 'Dictionary(Int32, Utf8)') AS c, arrow_cast(at, 'Timestamp(Second, None)') AS d FROM visits WHERE id < 120;

-- name: arrow_cast_dictionary_grouped
SELECT k, count(*) AS c FROM (SELECT arrow_cast(flower, 'Dictionary(Int32, Utf8)') AS k FROM visits) GROUP BY k;

-- name: arrow_typeof_of_expressions
SELECT DISTINCT arrow_typeof(n + hive_id) AS a, arrow_typeof(amount * 2) AS b, arrow_typeof(day - day) AS c, arrow_typeof(at_utc) AS d, arrow_typeof(flower || 'x') AS e FROM visits;

-- name: binary_functions
SELECT id, encode(bin, 'hex') AS h, encode(bin, 'base64') AS b, sha256(bin) AS s FROM kinds;

-- name: binary_literals
SELECT id FROM kinds WHERE bin = X'00ff' OR bin < X'01';

-- name: booleans_three_valued
SELECT id, ok AND n > 5 AS a, ok OR n > 5 AS b, NOT ok AS c, CASE WHEN ok IS TRUE THEN 'yes' WHEN ok IS NOT FALSE THEN 'nil' END AS d FROM visits WHERE ok IS UNKNOWN OR n > 9;

-- name: nulls_in_arithmetic
SELECT id, n + hive_id AS a, frac * NULL AS b, NULL || flower AS c, coalesce(NULL, hive_id, -1) AS d FROM visits;

-- name: nulls_in_in_lists
SELECT id FROM visits WHERE hive_id IN (1, 2, NULL) OR flower NOT IN ('rape', 'linden');

-- name: not_in_list_with_null_is_empty
-- empty: never true with a NULL in the list
SELECT id FROM visits WHERE hive_id NOT IN (1, NULL);

-- name: is_distinct_from
SELECT id FROM visits WHERE (hive_id IS DISTINCT FROM 5) AND (flower IS NOT DISTINCT FROM NULL);

-- name: literals_of_all_kinds
SELECT 1 AS i, 1.5 AS d, 'x' AS s, true AS b, NULL AS n, DATE '2024-02-29' AS day, TIMESTAMP '2024-02-29T12:00:00' AS ts, INTERVAL '1 month 2 days' AS iv, X'ff' AS bin, [1, 2] AS l, count(*) AS c FROM visits WHERE id > 3;

-- name: union_widens_case_branches
SELECT id, CASE WHEN ok THEN 1 WHEN n > 5 THEN 2.5 ELSE NULL END AS x FROM visits;

-- name: case_mixed_int_and_decimal
SELECT id, CASE hive_id WHEN 5 THEN n ELSE amount END AS x, CASE WHEN ok THEN NULL ELSE day END AS y FROM visits;

-- name: nullability_of_outer_joins
SELECT count(*) AS c, count(v.id) AS d, h.capacity FROM hives h LEFT JOIN visits v ON h.hive_id = v.hive_id GROUP BY h.capacity;

-- name: schema_force_view_types_off
-- set: datafusion.execution.parquet.schema_force_view_types=false
SELECT flower, count(*) AS c, min(bee) AS b FROM visits GROUP BY flower;

-- name: binary_as_string
-- set: datafusion.execution.parquet.binary_as_string=true
SELECT id, bin FROM wide_keys WHERE id < 20;

-- name: views_expanded_at_output
-- set: datafusion.optimizer.expand_views_at_output=true
SELECT id, flower FROM visits WHERE n > 60;

-- name: float_literals_as_decimals
-- set: datafusion.sql_parser.parse_float_as_decimal=true
SELECT id, n * 1.25 AS a FROM visits WHERE n > 0.5;

-- name: identifiers_keep_case
-- set: datafusion.sql_parser.enable_ident_normalization=false
SELECT id AS ID, n AS N FROM visits WHERE n > 60;

-- name: all_types_distinct
-- session: an aggregate of maps from Parquet stands over an exchange
SELECT count(*) AS c FROM (SELECT DISTINCT * FROM kinds UNION ALL SELECT * FROM kinds);
