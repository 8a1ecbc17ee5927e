"""The whole DataFrame API on the swarm: each public method has a class, and each method is asked on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datafusion
import pyarrow as pa
import pytest
from datafusion import col, lit
from datafusion import functions as f

import apiary_df
from apiary_df import SessionContext
from apiary_df.errors import ApiaryError, SqlError
from swarm.surface import check_both

pytestmark = pytest.mark.processes

Both = tuple[SessionContext, datafusion.SessionContext]

FRAME = "gives one of our DataFrames, which is run when rows are asked for"
RUNS = "runs the query, on the swarm"
ABOUT = "tells about the query or the session, without running it"
WRITES = "writes"
CHANGES = "changes what the session knows"
HANDLE = "gives another handle on the same session"
HERE = "runs in this process: it is given a physical plan, or asks for DataFusion's own explanation"

FRAME_METHODS = {
    FRAME: "aggregate alias cast distinct distinct_on drop except_all fill_nan fill_null filter head intersect join "
    "join_on limit repartition repartition_by_hash select select_exprs sort sort_by tail transform union union_by_name "
    "union_distinct unnest_columns window with_column with_column_renamed with_columns __getitem__",
    RUNS: "collect collect_column collect_partitioned count describe cache execute_stream execute_stream_partitioned "
    "show to_arrow_table to_pandas to_polars to_pydict to_pylist __iter__ __aiter__ __arrow_c_stream__ __repr__ "
    "_repr_html_",
    ABOUT: "col column find_qualified_columns into_view logical_plan optimized_logical_plan execution_plan "
    "parse_sql_expr schema explain default_str_repr",
    WRITES: "write_csv write_json write_parquet write_parquet_with_options write_table",
}
"""Every public method of datafusion.DataFrame. ``tail`` counts rows on the swarm first; ``explain`` runs with
``analyze`` alone, and with one of DataFusion's own formats that is DataFusion's own measurement, in this process."""

SESSION_METHODS = {
    FRAME: "create_dataframe create_dataframe_from_logical_plan empty_table execute_logical_plan from_arrow "
    "from_pandas from_polars from_pydict from_pylist read_arrow read_avro read_batch read_batches read_csv read_empty "
    "read_json read_parquet read_table sql sql_with_options table",
    CHANGES: "add_physical_optimizer_rule deregister_object_store deregister_table deregister_udaf deregister_udf "
    "deregister_udtf deregister_udwf enable_spark_functions refresh_catalogs register_arrow register_avro "
    "register_batch register_catalog_provider register_catalog_provider_list register_csv register_dataset "
    "register_json register_listing_table register_object_store register_parquet register_record_batches "
    "register_table register_table_factory register_table_provider register_udaf register_udf register_udtf "
    "register_udwf register_view remove_optimizer_rule set_query_planner",
    ABOUT: "catalog catalog_names copied_config enable_ident_normalization global_ctx logical_extension_codec_ids "
    "parse_capacity_limit parse_sql_expr physical_extension_codec_ids session_id session_start_time table_exist "
    "table_provider udaf udafs udf udfs udwf udwfs",
    HANDLE: "enable_url_table with_extensions with_logical_extension_codec with_physical_extension_codec "
    "with_python_udf_inlining",
    HERE: "execute",
}
"""Every public method of datafusion.SessionContext."""

SPECIAL = ("__getitem__", "__iter__", "__aiter__", "__arrow_c_stream__", "__repr__", "_repr_html_")


@pytest.mark.parametrize(
    ("cls", "methods"),
    [(datafusion.DataFrame, FRAME_METHODS), (datafusion.SessionContext, SESSION_METHODS)],
    ids=["DataFrame", "SessionContext"],
)
def test_every_public_method_has_a_class(cls: type, methods: dict[str, str]) -> None:
    known = [name for names in methods.values() for name in names.split()]
    assert len(known) == len(set(known))
    public = {name for name in dir(cls) if not name.startswith("_")}
    if cls is datafusion.DataFrame:
        public |= set(SPECIAL)
    assert set(known) == public


@pytest.mark.parametrize(
    ("own", "methods"),
    [(apiary_df.DataFrame, FRAME_METHODS), (apiary_df.SessionContext, SESSION_METHODS)],
    ids=["DataFrame", "SessionContext"],
)
def test_what_runs_or_gives_frames_is_our_own(own: type, methods: dict[str, str]) -> None:
    for kind in (FRAME, RUNS):
        for name in methods.get(kind, "").split():
            theirs = getattr(own.__mro__[1], name)
            assert getattr(own, name) is not theirs, f"{name} is datafusion's own, and would bypass the swarm"


# -- transformations --------------------------------------------------------------------------------------------------

Transform = Callable[[Any, Any], Any]
"""Takes the frames of ``t`` and ``u``."""

RANK = f.row_number(partition_by=[col("g")], order_by=[col("id").sort()])

HOWS = ("inner", "left", "right", "full", "semi", "anti")


def _joining(how: Any) -> Transform:
    return lambda t, u: t.select("id", "g").join(u, left_on="id", right_on="k", how=how)


def _joining_on(how: Any) -> Transform:
    near = (col("i") == col("v"), col("id") < col("k"))
    return lambda t, u: t.select("id", "i").join_on(u.filter(col("k") < lit(40)), *near, how=how)


TRANSFORMS: dict[str, Transform] = {
    "aggregate": lambda t, u: t.aggregate([col("g")], [f.sum(col("x")).alias("s"), f.count(lit(1)).alias("n")]),
    "aggregate by name": lambda t, u: t.aggregate("g", f.max(col("ts")).alias("m")),
    "aggregate without groups": lambda t, u: t.aggregate([], [f.avg(col("x")).alias("a")]),
    "aggregate without aggregates": lambda t, u: t.aggregate(["g", "b"], []),
    "alias": lambda t, u: t.alias("o").select(col("o.id"), col("o.g")),
    "cast": lambda t, u: t.select("id", "i").cast({"id": pa.int32(), "i": pa.string()}),
    "distinct": lambda t, u: t.select("g", "b").distinct(),
    "distinct_on": lambda t, u: t.distinct_on([col("g")], [col("g"), col("id")], [col("g").sort(), col("id").sort()]),
    "drop": lambda t, u: t.drop("s", "st", "m"),
    "except_all": lambda t, u: t.select("i").except_all(u.select(col("v").alias("i"))),
    "except distinct": lambda t, u: t.select("i").except_all(u.select(col("v").alias("i")), distinct=True),
    "fill_nan": lambda t, u: t.select("id", (col("x") * lit(0.0) / (col("x") - lit(0.5))).alias("x")).fill_nan(-1.0),
    "fill_null": lambda t, u: t.select("id", "i", "x").fill_null(0),
    "fill_null of some": lambda t, u: t.select("id", "g", "s").fill_null("?", subset=["g"]),
    "filter": lambda t, u: t.filter(col("x") > lit(0.5), col("b")),
    "filter in words": lambda t, u: t.filter("x > 0.5 OR g IS NULL"),
    "getitem": lambda t, u: t["id", "g"],
    "head": lambda t, u: t.sort(col("id")).head(7),
    "intersect": lambda t, u: t.select("i").intersect(u.select(col("v").alias("i"))),
    "intersect distinct": lambda t, u: t.select("i").intersect(u.select(col("v").alias("i")), distinct=True),
    **{f"join {how}": _joining(how) for how in HOWS},
    "join on one name": lambda t, u: t.select("id", "g").join(u.select(col("k").alias("id"), "v").alias("r"), on="id"),
    "join keeping both keys": lambda t, u: t.select("id", "g").join(
        u.select(col("k").alias("id"), "v").alias("r"), on="id", coalesce_duplicate_keys=False
    ),
    **{f"join_on {how}": _joining_on(how) for how in HOWS},
    "limit": lambda t, u: t.sort(col("id")).limit(5, offset=3),
    "repartition": lambda t, u: t.select("id").repartition(3),
    "repartition_by_hash": lambda t, u: t.select("id", "g").repartition_by_hash(col("g"), num=3),
    "select": lambda t, u: t.select("id", (col("x") * lit(2)).alias("twice"), "g"),
    "select_exprs": lambda t, u: t.select_exprs("id", "i + 1 AS j", "upper(s)"),
    "sort": lambda t, u: t.select("id", "g", "x").sort(
        col("g").sort(ascending=False, nulls_first=False), col("x"), col("id")
    ),
    "sort_by": lambda t, u: t.select("g", "id").sort_by(col("g"), col("id")),
    "tail": lambda t, u: t.select("id").sort(col("id")).tail(4),
    "transform": lambda t, u: t.transform(lambda inner, name: inner.select(name), "id"),
    "union": lambda t, u: t.select("i").union(u.select("v")),
    "union distinct": lambda t, u: t.select("i").union(u.select("v"), distinct=True),
    "union_by_name": lambda t, u: t.select("id", "i").union_by_name(u.select(col("v").alias("i"), col("k"))),
    "union_by_name distinct": lambda t, u: t.select("i", "g").union_by_name(t.select("g", "i"), distinct=True),
    "union_distinct": lambda t, u: t.select("g").union_distinct(t.select("g")),
    "unnest_columns": lambda t, u: t.select("id", "l").unnest_columns("l"),
    "unnest_columns without nulls": lambda t, u: t.select("id", "l", "w").unnest_columns("l", preserve_nulls=False),
    "unnest_columns of structs": lambda t, u: t.select("id", "st").unnest_columns("st"),
    "unnest_columns twice": lambda t, u: t.select("id", "ll").unnest_columns("ll", recursions=[("ll", "flat", 2)]),
    "window": lambda t, u: t.select("id", "g").window(RANK.alias("rank")),
    "with_column": lambda t, u: t.select("id").with_column("next", col("id") + lit(1)),
    "with_column in place": lambda t, u: t.select("id", "g").with_column("id", col("id") * lit(2)),
    "with_column of a window": lambda t, u: t.select("id", "g").with_column("rank", RANK),
    "with_column_renamed": lambda t, u: t.select("id", "g").with_column_renamed("g", "Group"),
    "with_columns": lambda t, u: t.select("id").with_columns((col("id") % lit(3)).alias("m"), n=col("id") + lit(1)),
    "parse_sql_expr": lambda t, u: t.select("id", t.parse_sql_expr("x * 2 + i").alias("e")),
    "find_qualified_columns": lambda t, u: t.select(*t.find_qualified_columns("id", "g")),
    "column": lambda t, u: t.select(t.column("id"), t.col("g")),
    "everything": lambda t, u: t,
}  # fmt: skip

ORDERED = ("head", "limit", "sort", "sort_by", "tail")


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transformation_gives_the_same_rows_and_schema(name: str, both: Both) -> None:
    make = TRANSFORMS[name]

    def ask(ctx: Any) -> Any:
        frame = make(ctx.table("t"), ctx.table("u"))
        assert isinstance(ctx, SessionContext) == isinstance(frame, apiary_df.DataFrame)
        return frame

    check_both(ask, *both, ordered=name in ORDERED)


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name not in ("tail", "unnest_columns twice")])
def test_a_transformation_of_no_rows_gives_the_same_schema(name: str, both: Both) -> None:
    def ask(ctx: Any) -> Any:
        return TRANSFORMS[name](ctx.table("nothing"), ctx.table("u").limit(0))

    check_both(ask, *both, distributed=None)


def test_all_transformations_are_asked() -> None:
    asked = {name.split()[0] for name in TRANSFORMS} | {"__getitem__"}
    assert set(FRAME_METHODS[FRAME].split()) <= asked


def test_frames_can_be_combined_at_length(both: Both) -> None:
    def ask(ctx: Any) -> Any:
        t, u = ctx.table("t"), ctx.table("u")
        per_group = t.aggregate(["g"], [f.avg(col("x")).alias("mean"), f.count(lit(1)).alias("n")])
        named = per_group.with_column_renamed("g", "h")
        joined = t.select("id", "g", "x").join(named, left_on="g", right_on="h").join(u, left_on="id", right_on="k")
        return joined.filter(col("x") >= col("mean")).sort(col("id"), col("v")).select("id", "n", "v").limit(20)

    check_both(ask, *both, ordered=True)


# -- what runs --------------------------------------------------------------------------------------------------------


def _query(ctx: Any) -> Any:
    return ctx.table("t").select("id", "g", "i", "x", "ts").sort(col("id"))


def _batches(df: Any, batches: list[Any]) -> pa.Table:
    found = [batch if isinstance(batch, pa.RecordBatch) else batch.to_pyarrow() for batch in batches]
    return pa.Table.from_batches(found).combine_chunks()


async def _collect(df: Any) -> list[Any]:
    return [batch async for batch in df]


def _printed(work: Callable[[], object]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        work()
    return out.getvalue()


RUNNING: dict[str, Callable[[Any], Any]] = {
    "collect": lambda df: _batches(df, df.collect()),
    "collect_column": lambda df: df.collect_column("x").to_pylist(),
    "collect_partitioned": lambda df: _batches(df, [b for part in df.collect_partitioned() for b in part]),
    "count": lambda df: df.filter(col("x") > lit(0.1)).count(),  # not to be had from statistics
    "describe": lambda df: df.describe(),
    "cache": lambda df: df.cache(),
    "execute_stream": lambda df: _batches(df, list(df.execute_stream())),
    "execute_stream_partitioned": lambda df: _batches(df, [b for s in df.execute_stream_partitioned() for b in s]),
    "show": lambda df: _printed(df.show),
    "to_arrow_table": lambda df: df.to_arrow_table().combine_chunks(),
    "to_pandas": lambda df: df.to_pandas().to_csv(),
    "to_polars": lambda df: df.to_polars().rows(),
    "to_pydict": lambda df: df.to_pydict(),
    "to_pylist": lambda df: df.to_pylist(),
    "__iter__": lambda df: _batches(df, list(df)),
    "__aiter__": lambda df: _batches(df, asyncio.run(_collect(df))),
    "__arrow_c_stream__": lambda df: pa.table(df).combine_chunks(),
    "__repr__": repr,
    "_repr_html_": lambda df: [x for x in df.drop("ts")._repr_html_().splitlines() if "<td" in x],
}


def test_all_methods_that_run_are_asked() -> None:
    assert set(RUNNING) == set(FRAME_METHODS[RUNS].split())


@pytest.mark.parametrize("name", RUNNING)
def test_a_method_that_runs_does_so_on_the_swarm(name: str, both: Both) -> None:
    ctx, plain = both
    ctx.sql("SELECT 1").collect()
    before = ctx.last_query
    work = RUNNING[name]
    frame = _query(ctx)
    assert ctx.last_query is before, "a query ran before its rows were asked for"
    answer, expected = work(frame), work(_query(plain))
    assert ctx.last_query is not before
    assert ctx.last_query is not None
    assert ctx.last_query.distributed, ctx.last_query.reason
    if isinstance(expected, datafusion.DataFrame):
        assert type(answer) is apiary_df.DataFrame
        check_both(lambda session: answer if session is ctx else expected, *both, ordered=True, distributed=False)
    else:
        assert answer == expected


@pytest.mark.parametrize("columns", [["id"], ["g", "s"], ["b"], ["i", "x", "dec"], ["ts", "bin", "l"]])
@pytest.mark.parametrize("table", ["t", "nothing"])
def test_describe_is_datafusions(columns: list[str], table: str, both: Both) -> None:
    check_both(lambda ctx: ctx.table(table).select(*columns).describe(), *both, ordered=True, distributed=None)


def test_describe_of_what_cannot_be_described_is_a_typed_error(both: Both) -> None:
    ctx, plain = both
    for session, error in ((plain, Exception), (ctx, SqlError)):
        with pytest.raises(error, match="Struct"):
            session.table("t").select("id", "st").describe()
        with pytest.raises(error, match="duplicate"):
            session.sql("SELECT t.id, w.id FROM t JOIN t w USING (id)").describe()


def test_a_cached_frame_knows_the_sessions_functions_and_settings(both: Both) -> None:
    ctx, plain = both

    def ask(session: Any) -> Any:
        twice = datafusion.udf(lambda a: pa.compute.multiply(a, 2), [pa.int64()], pa.int64(), "immutable", "twice")
        session.register_udf(twice)
        session.sql("SET datafusion.execution.time_zone = '+05:00'").collect()
        try:
            cached = session.table("t").select("id").cache()
            table = cached.select("id", cached.parse_sql_expr("twice(id)").alias("d")).to_arrow_table()
            zone = cached.select(f.now().alias("n")).schema()
        finally:
            session.deregister_udf("twice")
            session.sql("RESET datafusion.execution.time_zone").collect()
        return session.from_arrow(table), zone

    (ours, our_zone), (theirs, their_zone) = ask(ctx), ask(plain)
    assert our_zone == their_zone
    assert sorted(ours.to_pydict()["d"]) == sorted(theirs.to_pydict()["d"])


# -- other ways to come by a frame ------------------------------------------------------------------------------------


def test_a_view_of_a_frame_runs_on_the_swarm(both: Both) -> None:
    def ask(ctx: Any) -> Any:
        ctx.register_table("a_view", ctx.table("t").filter(col("b")).into_view())
        ctx.register_view("another", ctx.sql("SELECT id, g FROM a_view WHERE id > 10"))
        try:
            return ctx.sql("SELECT g, count(*) AS n FROM another GROUP BY g")
        finally:
            ctx.deregister_table("a_view")
            ctx.deregister_table("another")

    check_both(ask, *both)
    check_both(lambda ctx: ctx.read_table(ctx.table("t").into_view()), *both)
    check_both(lambda ctx: ctx.sql("SELECT count(*) AS n, sum(i) AS m FROM $df", df=ctx.table("t")), *both)


def test_a_logical_plan_runs_on_the_swarm(both: Both) -> None:
    query = "SELECT g, sum(i) AS s FROM t GROUP BY g"
    check_both(lambda ctx: ctx.create_dataframe_from_logical_plan(ctx.sql(query).logical_plan()), *both)
    check_both(lambda ctx: ctx.execute_logical_plan(ctx.sql(query).logical_plan()), *both)
    check_both(lambda ctx: ctx.create_dataframe_from_logical_plan(ctx.sql(query).optimized_logical_plan()), *both)


def test_a_substrait_plan_runs_on_the_swarm(both: Both) -> None:
    from datafusion import substrait

    def ask(ctx: Any) -> Any:
        plan = substrait.Serde.serialize_to_plan("SELECT g, count(*) AS n FROM t GROUP BY g", ctx)
        return ctx.create_dataframe_from_logical_plan(substrait.Consumer.from_substrait_plan(ctx, plan))

    check_both(ask, *both)


def test_reading_files_without_a_table_runs_on_the_swarm(both: Both, surface_files: dict[str, Path]) -> None:
    check_both(lambda ctx: ctx.read_parquet(str(surface_files["t"])).aggregate(["g"], [f.max(col("x"))]), *both)


def test_other_libraries_take_a_frame_as_a_stream(both: Both) -> None:
    ctx, plain = both
    import polars

    frame: Any = polars.from_arrow(_query(ctx))
    assert ctx.last_query is not None
    assert ctx.last_query.distributed
    assert frame.equals(polars.from_arrow(_query(plain)))
    again = plain.from_arrow(_query(ctx))
    assert again.to_arrow_table().combine_chunks() == _query(plain).to_arrow_table().combine_chunks()


def test_an_explanation_in_datafusions_own_formats_is_datafusions(both: Both) -> None:
    ctx, _ = both
    for options in ({"format": datafusion.ExplainFormat.TREE}, {"format": datafusion.ExplainFormat.INDENT}):
        text = _printed(lambda options=options: _query(ctx).explain(**options))  # type: ignore[misc]
        assert "plan" in text
        assert "stage" not in text


@pytest.mark.parametrize("wrong", ["no_such_column", "g + "])
def test_a_wrong_transformation_raises_as_datafusion_does(wrong: str, both: Both) -> None:
    ctx, plain = both
    for session in (ctx, plain):
        with pytest.raises(Exception, match=r"no_such_column|expression|Expected|EOF"):
            session.table("t").select_exprs(wrong).collect()
    with pytest.raises((ApiaryError, Exception)):
        ctx.table("no_such_table")
