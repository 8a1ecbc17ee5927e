-- Lists, structs and maps: unnesting, building, taking apart, and carrying them through exchanges.

-- name: unnest_list
SELECT id, unnest(tags) AS t FROM visits;

-- name: unnest_drops_empty_lists
SELECT count(*) AS c, count(t) AS not_null, count(DISTINCT id) AS ids FROM (SELECT id, unnest(tags) AS t FROM visits);

-- name: unnest_two_lists_side_by_side
SELECT id, unnest(tags) AS t, unnest(nums) AS k FROM visits WHERE id < 200;

-- name: unnest_then_group
SELECT t, count(*) AS c, min(id) AS lo FROM (SELECT id, unnest(tags) AS t FROM visits) GROUP BY t;

-- name: unnest_then_join
SELECT u.id, h.hive_id FROM (SELECT id, unnest(nums) AS k FROM visits) u JOIN hives h ON h.hive_id = u.k;

-- name: unnest_then_window
SELECT id, k, rank() OVER (PARTITION BY k ORDER BY id) AS r FROM (SELECT id, unnest(nums) AS k FROM visits WHERE id % 5 = 1);

-- name: unnest_in_from
SELECT v.id, u.x FROM visits v CROSS JOIN UNNEST(ARRAY[1, 2, NULL]) AS u(x) WHERE v.n > 75;

-- name: unnest_nested_list
SELECT id, unnest(lists) AS l FROM kinds;

-- name: unnest_twice
SELECT id, unnest(l) AS i FROM (SELECT id, unnest(lists) AS l FROM kinds);

-- name: unnest_struct
SELECT id, unnest(pos) FROM visits WHERE id < 100;

-- name: unnest_list_of_structs
SELECT id, r['k'] AS k FROM (SELECT id, unnest(recs) AS r FROM kinds);

-- name: unnest_after_aggregate
SELECT ok, unnest(ids) AS id FROM (SELECT ok, array_agg(id ORDER BY id) AS ids FROM visits WHERE n > 60 GROUP BY ok);

-- name: unnest_of_range
SELECT id, unnest(range(0, hive_id)) AS k FROM visits WHERE hive_id < 5;

-- name: unnest_of_split_text
SELECT id, unnest(string_to_array(word, ' ')) AS w FROM texts WHERE word <> '';

-- name: unnest_of_json_lists
SELECT id, unnest(labels) AS l FROM notes;

-- name: unnest_over_nothing
-- empty: no rows
SELECT id, unnest(tags) AS t FROM nothing;

-- name: unnest_filter_and_order
SELECT id, t FROM (SELECT id, unnest(tags) AS t FROM visits) WHERE t IN ('t1', 't4') ORDER BY id DESC, t LIMIT 40;

-- name: list_length_and_items
SELECT id, array_length(tags) AS l, cardinality(nums) AS c, tags[1] AS a, tags[-1] AS z, nums[9] AS none FROM visits;

-- name: list_slices
SELECT id, tags[2:3] AS a, array_slice(nums, 1, 2) AS b FROM visits;

-- name: list_contains
SELECT id FROM visits WHERE array_has(tags, 't3') AND NOT array_has_any(nums, [4]);

-- name: list_has_all
SELECT id, array_has_all(tags, ['t1', 't2']) AS a FROM visits WHERE tags IS NOT NULL;

-- name: list_append_prepend_concat
SELECT id, array_append(nums, 7) AS a, array_prepend(0, nums) AS b, array_concat(nums, nums) AS c FROM visits WHERE id < 60;

-- name: list_sort_reverse_distinct
SELECT id, array_sort(nums, 'DESC', 'NULLS LAST') AS a, array_reverse(tags) AS b, array_distinct(array_concat(tags, tags)) AS c FROM visits WHERE id < 150;

-- name: list_position_and_remove
SELECT id, array_position(tags, 't2') AS p, array_remove(tags, 't2') AS r, array_replace(nums, 1, 100) AS s FROM visits WHERE id < 150;

-- name: list_set_functions
SELECT id, array_union(nums, [1, 9]) AS u, array_intersect(nums, [1, 2]) AS i, array_except(nums, [1]) AS e FROM visits WHERE nums IS NOT NULL;

-- name: list_to_text
SELECT id, array_to_string(tags, '/') AS a, array_to_string(tags, ',', '*') AS b FROM visits;

-- name: list_make_and_flatten
SELECT id, make_array(id, n) AS a, flatten([nums, [id]]) AS f FROM visits WHERE id < 80;

-- name: list_repeat_and_range
SELECT id, array_repeat(bee, 2) AS r, range(1, 4) AS g, generate_series(0, id % 3) AS s FROM visits WHERE id < 40;

-- name: list_min_max
SELECT id, array_max(nums) AS hi, array_min(nums) AS lo FROM visits;

-- name: list_any_value_and_dims
SELECT id, array_ndims(lists) AS d, array_dims(ints) AS e, empty(ints) AS f FROM kinds;

-- name: list_compare
SELECT id FROM visits WHERE nums = [1, NULL, 0] OR nums < [1] OR tags = [];

-- name: list_as_group_key
SELECT tags, count(*) AS c FROM visits GROUP BY tags;

-- name: list_distinct
SELECT DISTINCT nums FROM visits;

-- name: list_of_lists_through_shuffle
SELECT yes, array_agg(lists ORDER BY id) AS l FROM kinds GROUP BY yes;

-- name: list_as_join_payload
SELECT v.id, v.tags, h.name FROM visits v JOIN hives h ON v.hive_id = h.hive_id WHERE v.n > 60;

-- name: struct_fields
SELECT id, pos['x'] AS x, pos.y AS y, rec['b']['c'] AS c FROM (SELECT v.id, v.pos, k.rec FROM visits v LEFT JOIN kinds k ON k.id = v.id);

-- name: struct_build
SELECT id, struct(id, flower) AS s, named_struct('a', n, 'b', named_struct('c', bee)) AS t FROM visits WHERE id < 90;

-- name: struct_compare_and_nulls
SELECT id, pos IS NULL AS nil, pos = named_struct('x', 1, 'y', 'y3') AS same FROM visits;

-- name: struct_as_group_key_with_aggregates
SELECT pos, count(*) AS c, max(id) AS m FROM visits GROUP BY pos;

-- name: struct_distinct_count
SELECT count(DISTINCT pos) AS c, count(DISTINCT pos['x']) AS x FROM visits;

-- name: struct_sort
SELECT id, pos FROM visits ORDER BY pos DESC NULLS LAST, id LIMIT 30;

-- name: struct_field_filter_pushdown
SELECT id FROM visits WHERE pos['x'] > 3 AND pos['y'] = 'y1';

-- name: struct_of_aggregates
SELECT flower, named_struct('lo', min(n), 'hi', max(n)) AS range FROM visits GROUP BY flower;

-- name: map_access
SELECT id, m['a'] AS a, map_keys(m) AS k, map_values(m) AS v FROM kinds;

-- name: map_build
SELECT id, map(['n', 'i'], [n, id]) AS m, map {'k': n} AS l FROM visits WHERE id < 30;

-- name: map_entries_unnested
SELECT id, e['key'] AS k, e['value'] AS v FROM (SELECT id, unnest(map_entries(m)) AS e FROM kinds);

-- name: map_extract_and_cardinality
SELECT id, map_extract(m, 'b') AS b, cardinality(m) AS c FROM kinds;

-- name: map_as_payload
SELECT a.id, b.m FROM kinds a JOIN kinds b ON a.id = b.id + 1;

-- name: nested_everything_scanned
SELECT ints, big_ints, lists, rec, recs, m FROM kinds;

-- name: nested_everything_ordered
SELECT id, ints, lists, rec, recs, m FROM kinds ORDER BY id DESC;

-- name: nested_first_value
SELECT yes, first_value(rec ORDER BY id) AS r, last_value(ints ORDER BY id) AS i FROM kinds GROUP BY yes;

-- name: nested_union_distinct
SELECT ints FROM kinds UNION SELECT nums FROM visits;

-- name: nested_in_case
SELECT id, CASE WHEN ok THEN tags ELSE ['none'] END AS t, coalesce(pos, named_struct('x', -1, 'y', '')) AS p FROM visits WHERE id < 120;

-- name: nested_lag
SELECT id, lag(tags) OVER (PARTITION BY bee ORDER BY id) AS t FROM visits WHERE id < 200;

-- name: arrow_typeof_of_all
SELECT arrow_typeof(ints) AS a, arrow_typeof(rec) AS b, arrow_typeof(recs) AS c, count(*) AS n FROM kinds GROUP BY 1, 2, 3;

-- name: map_as_group_key
-- session: an aggregate of maps from Parquet stands over an exchange
SELECT m, count(*) AS c FROM kinds GROUP BY m;

-- name: map_distinct_in_union
-- session: an aggregate of maps from Parquet stands over an exchange
SELECT m FROM kinds WHERE id < 9 UNION SELECT m FROM kinds;

-- name: map_built_as_group_key
SELECT map(['k'], [n % 3]) AS m, count(*) AS c FROM visits GROUP BY 1;

-- name: map_first_of_group
-- session: an aggregate of maps from Parquet stands over an exchange
SELECT yes, first_value(m ORDER BY id) AS m FROM kinds GROUP BY yes;
