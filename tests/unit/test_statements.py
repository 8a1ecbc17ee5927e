"""Statements as text: what is replaced, and that everything else stays as it was written."""

from __future__ import annotations

import datafusion
import pytest
from datafusion import ParquetColumnOptions, ParquetWriterOptions
from datafusion.dataframe import Compression

from apiary_df.statements import can_partition_by, copy_statement, creates_table_as, is_plain_name, reading_from
from apiary_df.writers import compression_options, file_write, parquet_options


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("copy t to 'x/' stored as arrow", "COPY src to 'x/' stored as arrow"),
        ("COPY (SELECT a AS to FROM t) /* TO */ TO 'x' OPTIONS (a 'b');", "COPY src TO 'x' OPTIONS (a 'b');"),
        ('-- AS\nCREATE TABLE "as" AS SELECT 1', '-- AS\nCREATE TABLE "as" AS SELECT * FROM src'),
        ("CREATE TABLE x (a INT) as (SELECT 1)", "CREATE TABLE x (a INT) AS SELECT * FROM src"),
        ('INSERT INTO a."B c".d (x, y) SELECT 1', 'INSERT INTO a."B c".d SELECT * FROM src'),
        ("insert into m values (1)", "insert into m SELECT * FROM src"),
        ("SELECT 1", None),
        ("", None),
    ],
)
def test_only_the_source_of_the_rows_is_replaced(statement: str, expected: str | None) -> None:
    assert reading_from(statement, "src") == expected


@pytest.mark.parametrize(
    ("statement", "answer"),
    [
        ("CREATE OR REPLACE TABLE x AS SELECT 1", True),
        ("create table if not exists q as\nselect 1", True),
        ("CREATE TABLE x (a INT)", False),
        ("CREATE VIEW v AS SELECT 1", False),
        ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x'", False),
    ],
)
def test_tables_made_of_a_query_are_known(statement: str, answer: bool) -> None:
    assert creates_table_as(statement) is answer


def test_a_copy_statement_means_what_it_was_given(tmp_path: object) -> None:
    ctx = datafusion.SessionContext()
    ctx.sql("CREATE TABLE src AS SELECT 1 AS a, 2 AS b")
    statement = copy_statement("src", f"{tmp_path}/it's/", "csv", {"delimiter": "|", "has_header": "true"}, ["b"])
    assert ctx.sql(statement).to_pydict() == {"count": [1]}
    read = ctx.read_csv(f"{tmp_path}/it's/", delimiter="|", has_header=True, table_partition_cols=[])
    assert read.to_pydict() == {"a": [1]}


def test_names_that_a_statement_cannot_hold_are_told_apart() -> None:
    assert can_partition_by(["a", "B_1"])
    assert not can_partition_by(["a b"])
    assert is_plain_name("public.t")
    assert not is_plain_name('"T"')


def test_codecs_get_datafusions_levels() -> None:
    assert compression_options("snappy", None) == {"compression": "snappy"}
    assert compression_options(Compression.ZSTD, None) == {"compression": "zstd(4)"}
    assert compression_options("gzip", 9) == {"compression": "gzip(9)"}
    with pytest.raises(ValueError, match="not a valid"):
        compression_options("best", None)


def test_every_parquet_option_has_a_name_that_datafusion_knows(tmp_path: object) -> None:
    given = ParquetWriterOptions(
        statistics_truncate_length=8,
        encoding="plain",
        bloom_filter_on_write=True,
        bloom_filter_fpp=0.1,
        bloom_filter_ndv=100,
        column_specific_options={
            "a": ParquetColumnOptions("plain", True, "snappy", "chunk", True, 0.2, 10),
        },
    )
    options = parquet_options(given)
    assert options is not None
    assert len(options) == 20 + 7
    ctx = datafusion.SessionContext()
    ctx.sql("CREATE TABLE src AS SELECT 1 AS a")
    ctx.sql(copy_statement("src", f"{tmp_path}/x.parquet", "parquet", options)).collect()


def test_what_only_datafusion_can_carry_out_is_left_to_it() -> None:
    assert parquet_options(ParquetWriterOptions(column_specific_options={"A": ParquetColumnOptions()})) is None
    assert file_write("x", "csv", {}, datafusion.DataFrameWriteOptions(partition_by="a")) is None
