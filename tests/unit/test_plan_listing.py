"""Logical scans over explicit lists of files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import SessionContext
from datafusion.plan import LogicalPlan

from apiary_df.errors import PlanError
from apiary_df.plan import listing


@pytest.fixture
def scan(tmp_path: Path) -> tuple[SessionContext, bytes, list[str]]:
    ctx = SessionContext()
    urls = []
    for number in range(3):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"a": [number]}), path)
        urls.append(f"file://{path}")
    return ctx, ctx.read_parquet(urls[0]).logical_plan().to_bytes(ctx), urls


def test_exactly_the_listed_files_are_read(scan: tuple[SessionContext, bytes, list[str]]) -> None:
    ctx, plan, urls = scan
    listed = listing.with_paths(plan, [urls[2], urls[1]])
    frame = ctx.create_dataframe_from_logical_plan(LogicalPlan.from_bytes(ctx, listed))
    assert sorted(frame.to_pydict()["a"]) == [1, 2]
    assert listing.paths_of(listed) == (urls[2], urls[1])


def test_no_files_make_no_scan(scan: tuple[SessionContext, bytes, list[str]]) -> None:
    with pytest.raises(PlanError, match="without files"):
        listing.with_paths(scan[1], [])


def test_other_plans_are_refused(scan: tuple[SessionContext, bytes, list[str]]) -> None:
    ctx, _, urls = scan
    other = ctx.read_parquet(urls[0]).limit(1).logical_plan().to_bytes(ctx)
    with pytest.raises(PlanError, match="single file scan"):
        listing.with_paths(other, urls)


def test_a_partitioned_scan_is_refused(scan: tuple[SessionContext, bytes, list[str]], tmp_path: Path) -> None:
    ctx, _, urls = scan
    frame = ctx.read_parquet(str(tmp_path), table_partition_cols=[("k", pa.int32())], schema=pa.schema([]))
    with pytest.raises(PlanError, match="partition columns"):
        listing.with_paths(frame.logical_plan().to_bytes(ctx), urls)


def test_declared_columns_keep_their_types(scan: tuple[SessionContext, bytes, list[str]]) -> None:
    ctx, plan, _ = scan
    sql = "EXPLAIN CREATE EXTERNAL TABLE t (a SMALLINT NOT NULL, d DECIMAL(9, 2)) STORED AS CSV LOCATION '/x'"
    declared = listing.with_declared_columns(plan, ctx.sql(sql).logical_plan().to_bytes(ctx))
    assert declared is not None
    schema = ctx.create_dataframe_from_logical_plan(LogicalPlan.from_bytes(ctx, declared)).schema()
    assert schema == pa.schema([pa.field("a", pa.int16(), nullable=False), ("d", pa.decimal128(9, 2))])


@pytest.mark.parametrize("sql", ["SELECT 1", "EXPLAIN CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/x'"])
def test_statements_without_declared_columns_declare_none(
    scan: tuple[SessionContext, bytes, list[str]], sql: str
) -> None:
    ctx, plan, _ = scan
    assert listing.with_declared_columns(plan, ctx.sql(sql).logical_plan().to_bytes(ctx)) is None
