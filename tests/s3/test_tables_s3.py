"""Cell tables over HTTP on an S3 service."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import SessionContext

from apiary_df.errors import ApiaryError, TableError
from apiary_df.footers import read_row_groups
from apiary_df.store import StoreOptions, open_store
from apiary_df.tables import CellTable, register, register_object_store_for, to_dataframe

pytestmark = pytest.mark.s3


def upload(url: str, options: StoreOptions, key: str, values: list[int]) -> int:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": values}), sink, row_group_size=2)
    open_store(url, options).put(key, sink.getvalue())
    return len(sink.getvalue())


def test_a_prefix(s3_url: str, s3_endpoint: StoreOptions) -> None:
    size = upload(s3_url, s3_endpoint, "t/x y.parquet", [1, 2, 3])
    upload(s3_url, s3_endpoint, "t/z.parquet", [4])
    upload(s3_url, s3_endpoint, "t2/other.parquet", [5])
    table = CellTable.from_prefix(f"{s3_url}/t", options=s3_endpoint)
    assert (table.cells[0].storage_key, table.cells[0].bytes) == (f"{s3_url}/t/x%20y.parquet", size)
    assert sorted(to_dataframe(SessionContext(), table).to_pydict()["a"]) == [1, 2, 3, 4]


def test_a_hive_tree_prunes(s3_url: str, s3_endpoint: StoreOptions) -> None:
    upload(s3_url, s3_endpoint, "k=1/a.parquet", [1])
    upload(s3_url, s3_endpoint, "k=2/a.parquet", [2])
    ctx = SessionContext()
    register(ctx, "t", CellTable.from_prefix(s3_url, options=s3_endpoint))
    frame = ctx.sql("SELECT a FROM t WHERE k = 2")
    assert frame.to_pylist() == [{"a": 2}]
    assert "k=1" not in frame.execution_plan().display_indent()


def test_a_list_of_urls(s3_url: str, s3_endpoint: StoreOptions) -> None:
    for number in range(3):
        upload(s3_url, s3_endpoint, f"{number}.parquet", [number])
    table = CellTable.from_urls([f"{s3_url}/{n}.parquet" for n in (2, 0)], options=s3_endpoint)
    assert sorted(to_dataframe(SessionContext(), table).to_pydict()["a"]) == [0, 2]


def test_cells_of_two_stores_make_one_table(s3_url: str, s3_endpoint: StoreOptions, tmp_path: Path) -> None:
    upload(s3_url, s3_endpoint, "remote.parquet", [1])
    pq.write_table(pa.table({"a": [2]}), tmp_path / "local.parquet")
    places: list[str | Path] = [f"{s3_url}/remote.parquet", tmp_path / "local.parquet"]
    table = CellTable.from_urls(places, options=s3_endpoint)
    assert sorted(to_dataframe(SessionContext(), table).to_pydict()["a"]) == [1, 2]


def test_a_single_object_is_a_prefix_too(s3_url: str, s3_endpoint: StoreOptions) -> None:
    upload(s3_url, s3_endpoint, "one.parquet", [1])
    assert len(CellTable.from_prefix(f"{s3_url}/one.parquet", options=s3_endpoint).cells) == 1


def test_row_groups_are_read_by_range(s3_url: str, s3_endpoint: StoreOptions) -> None:
    size = upload(s3_url, s3_endpoint, "a.parquet", [1, 2, 3])
    assert [g.rows for g in read_row_groups(f"{s3_url}/a.parquet", size, s3_endpoint)] == [2, 1]


def test_an_empty_prefix_is_refused(s3_url: str, s3_endpoint: StoreOptions) -> None:
    with pytest.raises(TableError, match="nothing is stored there"):
        CellTable.from_prefix(f"{s3_url}/nope", options=s3_endpoint)


def test_a_missing_object_is_refused(s3_url: str, s3_endpoint: StoreOptions) -> None:
    with pytest.raises(TableError, match="no such object"):
        CellTable.from_urls([f"{s3_url}/nope.parquet"], options=s3_endpoint)


def test_a_missing_bucket_is_refused(s3_endpoint: StoreOptions) -> None:
    with pytest.raises(ApiaryError, match="no-such-bucket"):
        CellTable.from_prefix("s3://no-such-bucket/x", options=s3_endpoint)


def test_a_corrupt_object_is_named(s3_url: str, s3_endpoint: StoreOptions) -> None:
    open_store(s3_url, s3_endpoint).put("bad.parquet", b"this is no parquet")
    with pytest.raises(TableError, match=r"bad\.parquet \(18 bytes\)"):
        register(SessionContext(), "t", CellTable.from_prefix(s3_url, options=s3_endpoint))


def test_a_store_that_the_caller_registered_for_another_bucket_stays(s3_url: str, s3_endpoint: StoreOptions) -> None:
    upload(s3_url, s3_endpoint, "a.parquet", [1])
    ctx = SessionContext()
    register_object_store_for(ctx, s3_url, s3_endpoint)
    register_object_store_for(ctx, "s3://elsewhere/x", s3_endpoint)
    assert ctx.read_parquet(f"{s3_url}/a.parquet").to_pydict() == {"a": [1]}
