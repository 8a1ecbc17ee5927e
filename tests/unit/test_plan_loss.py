"""What the plan format loses is seen before it is lost, and nothing else is."""

from __future__ import annotations

import gzip
from pathlib import Path

import datafusion
import pyarrow as pa
import pytest
from datafusion.plan import ExecutionPlan
from pyarrow import ipc

from apiary_df.plan.loss import lost_format, lost_in_plan_format, lost_in_scan, may_lose_scans

NEXT = "SELECT g, lead(x) {nulls} OVER (PARTITION BY g ORDER BY id) AS n FROM t"
FILTERED = "SELECT g, count(*) FILTER (WHERE x > 1) OVER (PARTITION BY g) AS n FROM t"
IGNORED = NEXT.format(nulls="IGNORE NULLS")


@pytest.fixture(scope="module")
def ctx() -> datafusion.SessionContext:
    ctx = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(1))
    rows = "(1, 1, 'a', 7), (2, 1, 'b', NULL), (3, 1, 'c', 5), (4, 2, 'd', 1)"
    ctx.sql(f"CREATE TABLE t (id INT, g INT, s VARCHAR, x INT) AS VALUES {rows}")
    return ctx


@pytest.mark.parametrize("sql", [IGNORED, FILTERED])
def test_the_plan_format_loses_it(sql: str, ctx: datafusion.SessionContext) -> None:
    frame = ctx.sql(sql)
    plan = frame.execution_plan()
    decoded = ExecutionPlan.from_bytes(ctx, plan.to_bytes(ctx))
    back = [row for batch in ctx.execute(decoded, 0) for row in batch.to_pyarrow().to_pylist()]
    assert sorted(map(str, back)) != sorted(map(str, frame.to_pylist())), "it is carried now: drop the entry"


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        (IGNORED, "IGNORE NULLS"),
        (FILTERED, "FILTER"),
        (f"SELECT max(n) FROM ({IGNORED}) GROUP BY g", "IGNORE NULLS"),
        (f"SELECT id FROM t WHERE g IN (SELECT n FROM ({FILTERED}))", "FILTER"),
        (f"SELECT g FROM t UNION ALL SELECT n FROM ({FILTERED})", "FILTER"),
        ("SELECT lag(s, 1, ')(') IGNORE NULLS OVER (ORDER BY id) AS n FROM t", "IGNORE NULLS"),
        ("SELECT lag(x, 1) OVER (ORDER BY id), lag(x, 2) IGNORE NULLS OVER (ORDER BY id) AS n FROM t", "IGNORE NULLS"),
        ("SELECT last_value(x) IGNORE NULLS OVER (ORDER BY id) + 1 AS n FROM t", "IGNORE NULLS"),
        (NEXT.format(nulls=""), None),
        (NEXT.format(nulls="RESPECT NULLS"), None),
        ("SELECT g, sum(x) FILTER (WHERE x > 1) AS n FROM t GROUP BY g", None),
        ("SELECT g, first_value(x ORDER BY id) IGNORE NULLS AS n FROM t GROUP BY g", None),
        ("SELECT rank() OVER (ORDER BY sum(x) FILTER (WHERE x > 1)) AS n FROM t GROUP BY g", None),
        ("SELECT sum(sum(x) FILTER (WHERE x > 1)) OVER (PARTITION BY g % 2) AS n FROM t GROUP BY g", None),
    ],
)
def test_it_is_seen_in_the_logical_plan(sql: str, what: str | None, ctx: datafusion.SessionContext) -> None:
    reason = lost_in_plan_format(ctx.sql(sql).optimized_logical_plan().display_indent())
    assert reason is None if what is None else reason is not None and reason.startswith(what)


@pytest.mark.parametrize(
    ("stored_as", "options", "lost"),
    [
        ("CSV", "", None),
        ("CSV", "'format.compression' 'gzip'", "gzip compression of CSV files"),
        ("CSV", "'format.compression' 'zstd'", "zstd compression of CSV files"),
        ("CSV", "'format.compression' 'uncompressed', 'format.delimiter' ';'", None),
        ("CSV", "'format.terminator' '~'", "the line terminator of CSV files"),
        ("JSON", "", None),
        ("JSON", "'format.compression' 'bzip2'", "bzip2 compression of JSON files"),
        ("JSON", "'format.compression' 'xz'", "xz compression of JSON files"),
        ("JSON", "'format.newline_delimited' 'false'", "that JSON files are one array each"),
        ("JSON", "'format.newline_delimited' 'true'", None),
        ("PARQUET", "", None),
    ],
)
def test_it_is_seen_in_a_scan_of_files(stored_as: str, options: str, lost: str | None, tmp_path: Path) -> None:
    ctx = datafusion.SessionContext()
    given = f"OPTIONS ({options})" if options else ""
    ctx.sql(f"CREATE EXTERNAL TABLE t (a VARCHAR) STORED AS {stored_as} LOCATION '{tmp_path}/' {given}")
    assert lost_in_scan(ctx.table("t").optimized_logical_plan().to_bytes(ctx)) == lost


def test_the_plan_format_loses_the_compression_of_a_scan(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    ctx = datafusion.SessionContext()
    ctx.sql(
        f"CREATE EXTERNAL TABLE t (a VARCHAR) STORED AS CSV LOCATION '{tmp_path}/' "
        "OPTIONS ('format.compression' 'gzip', 'format.has_header' 'false')"
    )
    plan = ctx.table("t").execution_plan()
    decoded = ExecutionPlan.from_bytes(ctx, plan.to_bytes(ctx))
    try:
        rows = [row for batch in ctx.execute(decoded, 0) for row in batch.to_pyarrow().to_pylist()]
    except Exception as error:  # noqa: BLE001 - DataFusion raises bare Exception
        rows = [{"error": str(error)}]
    assert rows != [{"a": "one"}, {"a": "two"}], "it is carried now: drop the entry"


def test_scans_that_the_bytes_do_not_tell_apart_are_told_by_their_text(tmp_path: Path) -> None:
    table = pa.table({"a": [1]})
    for name, make in (("file", ipc.new_file), ("stream", ipc.new_stream)):
        (tmp_path / name).mkdir()
        with make(str(tmp_path / name / "0.arrow"), table.schema) as writer:
            writer.write_table(table)
    ctx = datafusion.SessionContext()
    for name in ("file", "stream"):
        ctx.sql(f"CREATE EXTERNAL TABLE {name} STORED AS ARROW LOCATION '{tmp_path / name}/'")
    texts = {name: ctx.table(name).execution_plan().display_indent() for name in ("file", "stream")}
    assert lost_format(texts["file"]) is None
    assert not may_lose_scans(texts["file"])
    assert lost_format(texts["stream"]) == "that Arrow files are streams"
    assert may_lose_scans(texts["stream"])
