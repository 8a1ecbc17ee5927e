"""Tables in a bucket are reached by the session's own storage options, however they are registered."""

from __future__ import annotations

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apiary_df import SessionContext, StoreOptions
from apiary_df.store import open_store

TABLE = pa.table({"x": [1, 2, 3]})


@pytest.fixture
def url(s3_endpoint: StoreOptions, s3_bucket: str) -> str:
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink)
    open_store(f"s3://{s3_bucket}", s3_endpoint).put("plain/t.parquet", sink.getvalue().to_pybytes())
    return f"s3://{s3_bucket}/plain/t.parquet"


@pytest.mark.s3
def test_register_parquet_reaches_a_bucket_by_the_sessions_options(url: str, s3_endpoint: StoreOptions) -> None:
    with SessionContext(storage_options=s3_endpoint) as ctx:
        ctx.register_parquet("t", url)
        assert ctx.sql("SELECT sum(x) AS s FROM t").to_pylist() == [{"s": 6}]


@pytest.mark.s3
def test_read_parquet_reaches_a_bucket_and_gives_our_frame(url: str, s3_endpoint: StoreOptions) -> None:
    with SessionContext(storage_options=s3_endpoint) as ctx:
        frame = ctx.read_parquet(url)
        assert type(frame) is not datafusion.DataFrame
        assert frame.count() == 3


@pytest.mark.s3
def test_create_external_table_reaches_a_bucket(url: str, s3_endpoint: StoreOptions) -> None:
    with SessionContext(storage_options=s3_endpoint) as ctx:
        ctx.sql(f"CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{url}'")
        assert ctx.sql("SELECT max(x) AS m FROM t").to_pylist() == [{"m": 3}]
