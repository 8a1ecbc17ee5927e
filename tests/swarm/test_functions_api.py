"""Every function of ``datafusion.functions``, called through the DataFrame API, on the swarm and without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datafusion
import pytest
from datafusion import Expr, col, lit
from datafusion import functions as f

from apiary_df import SessionContext
from swarm.surface import check_both

pytestmark = pytest.mark.processes

Both = tuple[SessionContext, datafusion.SessionContext]
Make = Callable[[], Expr]

ID, X, N, S, G, B, TS, DEC, BIN = (col(name) for name in ("id", "x", "i", "s", "g", "b", "ts", "dec", "bin"))
L, W, LL, M, ST = (col(name) for name in ("l", "w", "ll", "m", "st"))
BY_ID: list[Any] = [ID.sort()]

AS_ARGUMENTS: tuple[tuple[tuple[Any, ...], str], ...] = (
    ((X,), "abs acos acosh asin asinh atan atanh cbrt ceil cos cosh cot degrees exp floor is_nan isnan iszero ln log10 "
           "log2 radians round signum sin sinh sqrt tan tanh trunc arrow_typeof arrow_field arrow_metadata"),
    ((N,), "chr factorial from_unixtime gen_series generate_series range to_hex to_unixtime"),
    ((S,), "ascii bit_length btrim char_length character_length initcap length lower ltrim md5 octet_length reverse "
           "rtrim sha224 sha256 sha384 sha512 trim upper"),
    ((X, N), "array coalesce greatest least make_array make_list row struct"),
    ((S, G), "concat"),
    ((X, N), "atan2 ifnull nanvl nullif nvl"),
    ((N, ID), "gcd lcm"),
    ((X, N, ID), "nvl2"),
    ((X, 2), "pow power"),
    ((2, N), "log"),
    ((S, "a"), "contains ends_with find_in_set instr levenshtein position regexp_count regexp_instr regexp_like "
               "regexp_match starts_with string_to_array string_to_list strpos"),
    ((S, "a", "o"), "regexp_replace replace translate"),
    ((S, "a", 2), "overlay split_part substr_index substring_index"),
    ((S, 2), "left lpad repeat right rpad substr"),
    ((S, 2, 3), "substring"),
    ((",", S, G), "concat_ws"),
    ((S, "md5"), "digest"),
    ((BIN, "base64"), "encode"),
    ((f.encode(BIN, "base64"), "base64"), "decode"),
    ((N, [lit(1), lit(5)]), "in_list"),
    ((TS, "%Y-%m-%d"), "date_format to_char"),
    (("day", TS), "date_part date_trunc datepart datetrunc extract"),
    ((TS,), "to_date to_local_time to_time to_timestamp to_timestamp_micros to_timestamp_millis to_timestamp_nanos "
            "to_timestamp_seconds"),
    ((2024, 2, 29), "make_date"),
    ((1, 2, 3), "make_time"),
    ((N, "Float64"), "arrow_cast arrow_try_cast"),
    ((N, lit(1.5)), "cast_to_type try_cast_to_type"),
    ((L,), "array_any_value array_avg array_cat array_compact array_concat array_dims array_distinct array_empty "
           "array_length array_max array_min array_ndims array_pop_back array_pop_front array_product array_reverse "
           "array_sort array_sum arrays_zip cardinality empty list_any_value list_avg list_cat list_compact "
           "list_concat list_dims list_distinct list_empty list_length list_max list_min list_ndims list_pop_back "
           "list_pop_front list_product list_reverse list_sort list_sum list_zip"),
    ((LL,), "flatten"),
    ((f.make_array(X, lit(2.0)),), "array_normalize list_normalize"),
    ((W, W), "array_distance cosine_distance dot_product inner_product list_distance"),
    ((f.make_array(X, lit(2.0)), f.make_array(lit(1.0), X)), "array_add array_subtract list_add list_subtract"),
    ((W, 0.5), "array_scale list_scale"),
    ((L, f.make_array(lit(2), N)), "array_except array_has_all array_has_any array_intersect array_union "
                                   "arrays_overlap list_except list_has_all list_has_any list_intersect list_overlap "
                                   "list_union"),
    ((L, lit(2)), "array_append array_contains array_has array_indexof array_position array_positions array_push_back "
                  "array_remove array_remove_all list_append list_contains list_has list_indexof list_position "
                  "list_positions list_push_back list_remove list_remove_all"),
    ((L, 2), "array_element array_extract list_element list_extract"),
    ((lit(2), L), "array_prepend array_push_front list_prepend list_push_front"),
    ((L, ","), "array_join array_to_string list_join list_to_string"),
    ((L, lit(2), 1), "array_remove_n list_remove_n"),
    ((N, 2), "array_repeat list_repeat"),
    ((L, lit(2), N), "array_replace array_replace_all list_replace list_replace_all"),
    ((L, lit(2), N, 1), "array_replace_n list_replace_n"),
    ((L, 3, N), "array_resize list_resize"),
    ((L, 1, 2), "array_slice list_slice"),
    ((L, lambda v: v > lit(1)), "any_match array_any_match array_filter array_first list_any_match list_filter "
                                "list_first"),
    ((L, lambda v: v * lit(2)), "array_transform list_transform"),
    ((M,), "map_entries map_keys map_values"),
    ((M, lit("k")), "element_at map_extract"),
    ((), "pi version"),
)  # fmt: skip
"""Scalar functions that are called with these arguments."""

SCALARS: dict[str, Make] = {
    name: lambda name=name, arguments=arguments: getattr(f, name)(*arguments)
    for arguments, names in AS_ARGUMENTS
    for name in names.split()
    if hasattr(f, name)
} | {
    "alias": lambda: f.alias(X, "other"),
    "case": lambda: f.case(N).when(lit(1), lit("one")).otherwise(lit("more")),
    "when": lambda: f.when(lit(3) < N, lit("more")).otherwise(lit("few")),
    "col": lambda: f.col("x") + lit(1),
    "date_bin": lambda: f.date_bin("1 day", TS, lit("2024-01-01")),
    "get_field": lambda: f.get_field(ST, "b"),
    "make_map": lambda: f.make_map({"a": N, "b": ID}),
    "named_struct": lambda: f.named_struct([("p", X), ("q", S)]),
    "lambda_": lambda: f.array_transform(L, f.lambda_(["v"], f.lambda_var("v") + lit(1))),
    "lambda_var": lambda: f.array_filter(L, f.lambda_(["v"], f.lambda_var("v") > lit(1))),
    "with_metadata": lambda: f.with_metadata(X, {"unit": "m"}),
}

AGGREGATES: dict[str, Make] = {
    name: lambda name=name, arguments=arguments: getattr(f, name)(*arguments)
    for arguments, names in (
        ((X,), "avg max mean median min stddev stddev_pop stddev_samp sum var var_pop var_population var_samp "
               "var_sample"),
        ((N,), "approx_distinct bit_and bit_or bit_xor count"),
        ((B,), "bool_and bool_or"),
        ((X, N), "corr covar covar_pop covar_samp regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope "
                 "regr_sxx regr_sxy regr_syy"),
        ((), "count_star"),
        ((X.sort(), 0.4), "percentile_cont quantile_cont"),
    )
    for name in names.split()
} | {
    "any_value": lambda: f.any_value(f.length(G)),
    "array_agg": lambda: f.array_agg(X, order_by=BY_ID),
    "first_value": lambda: f.first_value(X, order_by=BY_ID),
    "last_value": lambda: f.last_value(X, order_by=BY_ID),
    "nth_value": lambda: f.nth_value(X, 3, order_by=BY_ID),
    "string_agg": lambda: f.string_agg(S, ",", order_by=BY_ID),
    "order_by": lambda: f.array_agg(N, order_by=[f.order_by(ID, ascending=False)]),
}  # fmt: skip

WINDOWS: dict[str, Make] = {
    "cume_dist": lambda: f.cume_dist([G], BY_ID),
    "dense_rank": lambda: f.dense_rank([G], [N.sort()]),
    "lag": lambda: f.lag(X, 2, 0.0, [G], BY_ID),
    "lead": lambda: f.lead(X, 1, None, [G], BY_ID),
    "ntile": lambda: f.ntile(4, [G], BY_ID),
    "percent_rank": lambda: f.percent_rank([G], [N.sort()]),
    "rank": lambda: f.rank([G], [N.sort()]),
    "row_number": lambda: f.row_number([G], BY_ID),
}

NOT_HERE = {
    "approx_median": "an approximation that depends on how rows are divided",
    "approx_percentile_cont": "likewise",
    "approx_percentile_cont_with_weight": "likewise",
    "current_date": "differs by the time of the call", "current_time": "likewise", "current_timestamp": "likewise",
    "now": "likewise", "today": "likewise",
    "rand": "volatile", "random": "volatile", "uuid": "volatile",
    "grouping": "needs grouping sets: in the test of those",
    "union_extract": "Parquet has no unions", "union_tag": "likewise",
    "file_row_index": "only a scan itself answers it: in a test of its own", "input_file_name": "likewise",
    "spark": "a module of functions that a session must first enable",
}  # fmt: skip
"""Functions whose answers cannot be compared here, and why."""

CHUNK = 60
"""Expressions of one query."""


def chunks(table: dict[str, Make]) -> list[list[str]]:
    names = sorted(table)
    return [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]


def test_every_function_is_called_or_has_its_reason() -> None:
    known = {*SCALARS, *AGGREGATES, *WINDOWS}
    assert known | set(NOT_HERE) == set(f.__all__)
    assert not known & set(NOT_HERE)


@pytest.mark.parametrize("names", chunks(SCALARS), ids=lambda names: f"{names[0]}-{names[-1]}")
def test_scalar_functions_give_the_same(names: list[str], both: Both) -> None:
    check_both(lambda ctx: ctx.table("t").select("id", *(SCALARS[n]().alias(n) for n in names)), *both)


@pytest.mark.parametrize("grouped", [True, False], ids=["grouped", "ungrouped"])
@pytest.mark.parametrize("names", chunks(AGGREGATES), ids=lambda names: f"{names[0]}-{names[-1]}")
def test_aggregate_functions_give_the_same(names: list[str], grouped: bool, both: Both) -> None:
    groups = [col("g")] if grouped else []
    check_both(lambda ctx: ctx.table("t").aggregate(groups, [AGGREGATES[n]().alias(n) for n in names]), *both)


def test_aggregates_with_distinct_and_filter_give_the_same(both: Both) -> None:
    over = [
        f.count(N, distinct=True).alias("a"),
        f.sum(N, distinct=True).alias("b"),
        f.avg(X, filter=B).alias("c"),
        f.array_agg(N, distinct=True, order_by=[N.sort()]).alias("d"),
        f.count_star(filter=lit(0.5) < X).alias("e"),
    ]
    check_both(lambda ctx: ctx.table("t").aggregate([col("g")], over), *both)


@pytest.mark.parametrize("names", chunks(WINDOWS), ids=lambda names: f"{names[0]}-{names[-1]}")
def test_window_functions_give_the_same(names: list[str], both: Both) -> None:
    check_both(lambda ctx: ctx.table("t").select("id", *(WINDOWS[n]().alias(n) for n in names)), *both)


def test_aggregates_as_windows_give_the_same(both: Both) -> None:
    window = datafusion.expr.Window(
        partition_by=[G], order_by=BY_ID, window_frame=datafusion.expr.WindowFrame("rows", 3, 1)
    )
    over = [f.sum(X).over(window).alias("s"), f.count(N).over(window).alias("n"), f.max(S).over(window).alias("m")]
    check_both(lambda ctx: ctx.table("t").select("id", *over), *both)


@pytest.mark.parametrize("name", ["file_row_index", "input_file_name"])
def test_functions_of_a_scans_own_give_the_same(name: str, both: Both) -> None:
    check_both(lambda ctx: ctx.table("t").select("id", getattr(f, name)()), *both, distributed=None)
