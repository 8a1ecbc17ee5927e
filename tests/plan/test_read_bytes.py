"""How many bytes a plan reads: of files whose columns lie apart, those of the columns that it asks for."""

from __future__ import annotations

from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from apiary_df.plan import codec
from apiary_df.plan.operators import read_bytes, source_bytes
from apiary_df.plan.tree import PlanNode

ROWS = 10_000


@pytest.fixture
def session(tmp_path: Path) -> datafusion.SessionContext:
    wide = {f"w{i}": pa.array([f"{i} {row * row}" for row in range(ROWS)]) for i in range(9)}
    table = pa.table({"n": pa.array(range(ROWS), pa.int64()), **wide})
    pq.write_table(table, tmp_path / "t.parquet", use_dictionary=False)
    pyarrow.csv.write_csv(table, tmp_path / "t.csv")
    ctx = datafusion.SessionContext()
    ctx.register_parquet("t", str(tmp_path / "t.parquet"))
    ctx.register_csv("text", str(tmp_path / "t.csv"))
    return ctx


def tree_of(ctx: datafusion.SessionContext, sql: str) -> PlanNode:
    return codec.decode(ctx.sql(sql).execution_plan().to_bytes(ctx))


def test_only_the_columns_that_are_asked_for_count(session: datafusion.SessionContext) -> None:
    one = tree_of(session, "SELECT n FROM t WHERE n > 5")
    three = tree_of(session, "SELECT n, w1, w2 FROM t")
    assert 0 < read_bytes(one) < read_bytes(three) < source_bytes(three) / 2
    assert source_bytes(one) == source_bytes(three)


def test_all_columns_are_the_whole_file(session: datafusion.SessionContext) -> None:
    tree = tree_of(session, "SELECT * FROM t")
    assert read_bytes(tree) == source_bytes(tree)


def test_lines_of_text_are_read_whole(session: datafusion.SessionContext) -> None:
    tree = tree_of(session, "SELECT n FROM text")
    assert read_bytes(tree) == source_bytes(tree) > 0


def test_a_value_counts_as_a_byte_however_well_it_is_compressed(tmp_path: Path) -> None:
    rows = 1_000_000
    pq.write_table(pa.table({"same": [7] * rows, "too": [7] * rows}), tmp_path / "t.parquet")
    ctx = datafusion.SessionContext()
    ctx.register_parquet("t", str(tmp_path / "t.parquet"))
    assert read_bytes(tree_of(ctx, "SELECT sum(same) FROM t")) == rows
