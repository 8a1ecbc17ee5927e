"""The session and its DataFrames stand in for datafusion's: the same names, results, schemas and types."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
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
from swarm.helpers import check_nothing_left, check_same, check_was_distributed

BY_STATUS = (
    "SELECT o_orderstatus, count(*) AS n, sum(o_totalprice) AS total, min(o_orderdate) AS first "
    "FROM orders GROUP BY o_orderstatus ORDER BY o_orderstatus"
)
"""Rows in a fixed order, of several types, exact ones all."""

PAIRS = ((datafusion.SessionContext, apiary_df.SessionContext), (datafusion.DataFrame, apiary_df.DataFrame))
PUBLIC = [
    pytest.param(theirs, ours, name, id=f"{theirs.__name__}.{name}")
    for theirs, ours in PAIRS
    for name in dir(theirs)
    if not name.startswith("_")
]

Terminal = Callable[[Any], Any]


async def _collect_async(df: Any) -> list[pa.RecordBatch]:
    return [batch.to_pyarrow() async for batch in df]


def _table(df: Any, batches: list[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches, schema=df.schema()).combine_chunks()


def _printed(work: Callable[[], object]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        work()
    return out.getvalue()


def _html_without_ids(df: Any) -> list[str]:
    return [line for line in df._repr_html_().splitlines() if "<td" in line or "<th" in line]


TERMINALS: dict[str, Terminal] = {
    "collect": lambda df: _table(df, df.collect()),
    "collect_partitioned": lambda df: _table(df, [b for part in df.collect_partitioned() for b in part]),
    "collect_column": lambda df: df.collect_column("total").to_pylist(),
    "to_arrow_table": lambda df: df.to_arrow_table().combine_chunks(),
    "to_pandas": lambda df: df.to_pandas().to_dict(),
    "to_polars": lambda df: df.to_polars().rows(),
    "to_polars_schema": lambda df: df.to_polars().schema,
    "to_pylist": lambda df: df.to_pylist(),
    "to_pydict": lambda df: df.to_pydict(),
    "count": lambda df: df.count(),
    "show": lambda df: _printed(df.show),
    "show_two": lambda df: _printed(lambda: df.show(2)),
    "execute_stream": lambda df: _table(df, [batch.to_pyarrow() for batch in df.execute_stream()]),
    "execute_stream_next": lambda df: df.execute_stream().next().to_pyarrow().num_columns,
    "execute_stream_partitioned": lambda df: _table(
        df, [batch.to_pyarrow() for stream in df.execute_stream_partitioned() for batch in stream]
    ),
    "arrow_c_stream": lambda df: pa.table(df).combine_chunks(),
    "iteration": lambda df: _table(df, [batch.to_pyarrow() for batch in df]),
    "async_iteration": lambda df: _table(df, asyncio.run(_collect_async(df))),
    "head": lambda df: df.head(2).to_pydict(),
    "tail": lambda df: df.tail(2).to_pydict(),
    "describe": lambda df: df.describe().to_pydict(),
    "cache": lambda df: df.cache().to_pydict(),
    "cache_schema": lambda df: df.cache().schema(),
    "repr": repr,
    "html": _html_without_ids,
    "schema": lambda df: df.schema(),
}

NOT_ONE_QUERY = ("schema", "describe", "cache", "cache_schema")
"""Terminals after which the newest query, if any, is not the frame's own."""

TRANSFORMATIONS: dict[str, Callable[[Any], Any]] = {
    "aggregate": lambda df: df.aggregate([col("o_orderstatus")], [f.count(lit(1)).alias("n")]),
    "alias": lambda df: df.alias("o").select(col("o.o_orderkey")),
    "cast": lambda df: df.select("o_shippriority").cast({"o_shippriority": pa.int64()}),
    "distinct": lambda df: df.select("o_orderpriority").distinct(),
    "distinct_on": lambda df: df.distinct_on([col("o_orderstatus")], [col("o_orderstatus")]).select("o_orderstatus"),
    "drop": lambda df: df.drop("o_comment", "o_clerk"),
    "except_all": lambda df: df.select("o_orderstatus").except_all(df.select("o_orderstatus").limit(0)),
    "fill_null": lambda df: df.select("o_orderstatus").fill_null("?"),
    "filter": lambda df: df.filter(col("o_totalprice") > lit(300_000)),
    "getitem": lambda df: df["o_orderkey", "o_orderstatus"],
    "head": lambda df: df.sort(col("o_orderkey")).head(7),
    "intersect": lambda df: df.select("o_orderstatus").intersect(df.select("o_orderstatus"), distinct=True),
    "join": lambda df: df.select("o_orderkey").join(
        df.select(col("o_orderkey").alias("k"), col("o_custkey")), left_on="o_orderkey", right_on="k"
    ),
    "join_on": lambda df: df.select("o_orderkey").join_on(
        df.select(col("o_orderkey").alias("k")), col("o_orderkey") == col("k")
    ),
    "limit": lambda df: df.sort(col("o_orderkey")).limit(5, offset=3),
    "repartition": lambda df: df.select("o_orderkey").repartition(3),
    "repartition_by_hash": lambda df: df.select("o_orderkey").repartition_by_hash(col("o_orderkey"), num=3),
    "select": lambda df: df.select(col("o_orderkey"), (col("o_totalprice") * lit(2)).alias("twice")),
    "select_exprs": lambda df: df.select_exprs("o_orderkey", "o_custkey + 1 AS c"),
    "sort": lambda df: df.sort(col("o_totalprice").sort(ascending=False), col("o_orderkey")).limit(10),
    "sort_by": lambda df: df.sort_by(col("o_orderkey")).limit(4),
    "tail": lambda df: df.sort(col("o_orderkey")).tail(4),
    "transform": lambda df: df.transform(lambda inner: inner.select("o_custkey")),
    "union": lambda df: df.select("o_orderkey").union(df.select("o_orderkey")),
    "union_by_name": lambda df: df.select("o_orderkey", "o_custkey").union_by_name(
        df.select("o_custkey", "o_orderkey")
    ),
    "union_distinct": lambda df: df.select("o_orderstatus").union_distinct(df.select("o_orderstatus")),
    "window": lambda df: df.window(
        f.row_number(partition_by=[col("o_orderstatus")], order_by=[col("o_orderkey").sort()]).alias("rank")
    ).select("o_orderkey", "rank"),
    "with_column": lambda df: df.select("o_orderkey").with_column("next", col("o_orderkey") + lit(1)),
    "with_column_renamed": lambda df: df.select("o_orderkey").with_column_renamed("o_orderkey", "k"),
    "with_columns": lambda df: df.select("o_orderkey").with_columns((col("o_orderkey") % lit(3)).alias("m")),
}

SCHEMAS = (
    "SELECT * FROM orders LIMIT 3",
    "SELECT o_orderkey, NULL AS nothing, 1 AS one, 'x' AS text FROM orders",
    "SELECT count(*), sum(o_totalprice), avg(o_totalprice), max(o_orderdate) FROM orders",
    "SELECT c_name, o_orderkey FROM customer LEFT JOIN orders ON c_custkey = o_custkey",
    "SELECT o_orderstatus, array_agg(o_shippriority) AS a FROM orders GROUP BY o_orderstatus",
    "SELECT arrow_cast(o_orderstatus, 'Dictionary(Int32, Utf8)') AS d, count(*) FROM orders GROUP BY 1",
    "SELECT struct(o_orderkey, o_orderstatus) AS s FROM orders WHERE o_orderkey < 0",
)
"""Names, types and nullability that are not obvious, with no rows at all among them."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, tpch_files: dict[str, Path]) -> SessionContext:
    """A session without a swarm."""
    ctx = SessionContext()
    for name, path in tpch_files.items():
        ctx.register_parquet(name, str(path))
    return ctx


@pytest.mark.parametrize(("theirs", "ours", "name"), PUBLIC)
def test_public_name_is_there_with_a_compatible_signature(theirs: type, ours: type, name: str) -> None:
    original, own = getattr(theirs, name), getattr(ours, name)
    assert callable(original) == callable(own)
    if original is own or not inspect.isroutine(original):
        return
    wanted = inspect.signature(original).parameters
    given = inspect.signature(own).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in given.values())
    assert open_ended or list(given)[: len(wanted)] == list(wanted)
    assert {n: p.default for n, p in wanted.items() if n in given or not open_ended} == {
        n: given[n].default for n in wanted if n in given
    }


@pytest.mark.parametrize("name", TERMINALS)
def test_without_a_swarm_results_are_datafusions(
    name: str, here: SessionContext, plain: datafusion.SessionContext
) -> None:
    assert TERMINALS[name](here.sql(BY_STATUS)) == TERMINALS[name](plain.sql(BY_STATUS))
    if name != "schema":
        assert here.last_query is not None
        assert not here.last_query.distributed


@pytest.mark.processes
@pytest.mark.parametrize("name", TERMINALS)
def test_on_a_swarm_results_are_datafusions(
    name: str, shared: SessionContext, plain: datafusion.SessionContext
) -> None:
    assert TERMINALS[name](shared.sql(BY_STATUS)) == TERMINALS[name](plain.sql(BY_STATUS))
    if name not in NOT_ONE_QUERY:
        check_was_distributed(shared)
    check_nothing_left(str(shared.storage))


@pytest.mark.processes
def test_cache_runs_on_the_swarm_and_what_reads_it_does_not(shared: SessionContext) -> None:
    cached = shared.sql(BY_STATUS).cache()
    check_was_distributed(shared)
    assert type(cached) is apiary_df.DataFrame
    assert cached.count() == 3
    assert shared.last_query is not None
    assert not shared.last_query.distributed


@pytest.mark.processes
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformation_gives_our_frame_and_datafusions_rows(
    name: str, shared: SessionContext, plain: datafusion.SessionContext
) -> None:
    frame = TRANSFORMATIONS[name](shared.table("orders"))
    assert type(frame) is apiary_df.DataFrame
    original = TRANSFORMATIONS[name](plain.table("orders"))
    check_same(original.to_arrow_table(), frame.to_arrow_table(), ordered=False)
    check_was_distributed(shared)


@pytest.mark.processes
@pytest.mark.parametrize("sql", SCHEMAS)
def test_schema_of_a_result_is_datafusions(sql: str, shared: SessionContext, plain: datafusion.SessionContext) -> None:
    expected = plain.sql(sql).to_arrow_table().schema
    frame = shared.sql(sql)
    table = frame.to_arrow_table()
    assert table.schema.equals(expected, check_metadata=True)
    assert frame.schema().equals(expected, check_metadata=True)
    assert all(batch.schema.equals(expected) for batch in frame.collect())
    assert pa.table(frame).schema.equals(expected)


@pytest.mark.processes
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT CASE WHEN o_orderkey < 9 THEN date_part('year', o_orderdate) ELSE o_orderkey END AS x FROM orders",
        "SELECT date_part('year', o_orderdate) AS x FROM orders UNION ALL SELECT o_orderkey FROM orders",
        "SELECT CASE WHEN true THEN date_part('year', DATE '2024-01-01') ELSE -1 - count(*) END AS x FROM orders",
    ],
)
def test_types_that_only_analysis_finds_are_those_of_the_rows(
    sql: str, shared: SessionContext, plain: datafusion.SessionContext, here: SessionContext
) -> None:
    expected = plain.sql(sql).to_arrow_table()
    assert expected.schema.field("x").type == pa.int64()
    assert plain.sql(sql).schema().field("x").type == pa.int32()
    for ctx in (shared, here):
        check_same(expected, ctx.sql(sql).to_arrow_table(), ordered=False)


class TestWhatStaysInTheSession:
    """DDL, views, tables in memory, Python functions and settings take effect at once, as with datafusion."""

    @pytest.fixture
    def ctx(self, joined: Callable[..., SessionContext]) -> SessionContext:
        return joined()

    pytestmark = pytest.mark.processes

    def test_view_is_distributed(self, ctx: SessionContext, plain: datafusion.SessionContext) -> None:
        ctx.sql("CREATE VIEW dear AS SELECT * FROM orders WHERE o_totalprice > 300000")
        sql = "SELECT count(*) AS n FROM {}"
        expected = plain.sql(sql.format("orders WHERE o_totalprice > 300000")).to_arrow_table()
        check_same(expected, ctx.sql(sql.format("dear")).to_arrow_table())
        check_was_distributed(ctx)

    def test_table_of_a_frame_is_joined_with_files(self, ctx: SessionContext) -> None:
        ctx.from_pydict({"k": [1, 2], "word": ["a", "b"]}, name="words")
        rows = ctx.sql("SELECT word, o_orderkey FROM words JOIN orders ON k = o_orderkey ORDER BY word").to_pylist()
        assert rows == [{"word": "a", "o_orderkey": 1}, {"word": "b", "o_orderkey": 2}]

    def test_insert_takes_effect(self, ctx: SessionContext) -> None:
        ctx.sql("CREATE TABLE t (x BIGINT)").collect()
        ctx.sql("INSERT INTO t VALUES (1), (2)").collect()
        assert ctx.sql("SELECT sum(x) AS s FROM t").to_pydict() == {"s": [3]}

    def test_python_function_is_applied(self, ctx: SessionContext, plain: datafusion.SessionContext) -> None:
        def twice(values: pa.Array) -> pa.Array:
            return pa.compute.multiply(values, 2)

        import pyarrow.compute  # noqa: F401

        for session in (ctx, plain):
            session.register_udf(datafusion.udf(twice, pa.int64(), pa.int64(), "stable", "twice"))
        sql = "SELECT sum(twice(o_orderkey)) AS s FROM orders"
        check_same(plain.sql(sql).to_arrow_table(), ctx.sql(sql).to_arrow_table())

    def test_setting_reaches_the_tasks(self, ctx: SessionContext) -> None:
        sql = "SELECT o_orderstatus AS s, count(*) AS n FROM orders GROUP BY s"
        ctx.sql("SET datafusion.execution.batch_size = 2")
        assert max(batch.num_rows for batch in ctx.sql(sql).collect()) <= 2
        check_was_distributed(ctx)

    def test_result_is_written_to_files(
        self, ctx: SessionContext, plain: datafusion.SessionContext, tmp_path: Path
    ) -> None:
        ctx.sql(BY_STATUS).write_parquet(str(tmp_path / "out"))
        written = datafusion.SessionContext().read_parquet(str(tmp_path / "out")).to_arrow_table()
        # A folder has no order: which of its files is read first is nobody's promise.
        assert sorted(map(repr, written.to_pylist())) == sorted(map(repr, plain.sql(BY_STATUS).to_pylist()))

    def test_parameters_are_bound(self, ctx: SessionContext) -> None:
        frame = ctx.sql("SELECT count(*) AS n FROM orders WHERE o_orderkey <= $most", param_values={"most": 7})
        assert frame.to_pydict() == {"n": [7]}

    @pytest.mark.parametrize(
        "handle_on",
        [lambda ctx: ctx.enable_url_table(), lambda ctx: ctx.with_python_udf_inlining(enabled=True)],
        ids=["enable_url_table", "with_python_udf_inlining"],
    )
    def test_frames_of_a_handle_on_the_session_run_on_the_swarm(
        self, ctx: SessionContext, handle_on: Callable[[SessionContext], SessionContext]
    ) -> None:
        handle = handle_on(ctx)
        assert type(handle) is SessionContext
        assert handle.sql("SELECT count(*) AS n FROM orders WHERE o_orderkey > 0").to_pydict() == {"n": [15_000]}
        check_was_distributed(ctx)
        check_was_distributed(handle)
