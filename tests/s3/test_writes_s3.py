"""Writes into a bucket: staged, published and taken back with nothing but puts, copies and deletes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apiary_df import SessionContext, Settings, StoreOptions
from apiary_df.errors import ApiaryError, StorageError, TaskFailed
from apiary_df.lost_writes import WriteWatch, open_folder
from apiary_df.model import WrittenFile
from apiary_df.plan.sinks import SinkTarget
from apiary_df.protocol import keys
from apiary_df.publish import Write
from apiary_df.store import Store, open_store
from apiary_df.writes import staging_folder

pytestmark = pytest.mark.s3

ROWS = 3_000
ODD = ["a/b", "100%", "x#1", "ü ?"]


@pytest.fixture
def ctx(tmp_path: Path, s3_endpoint: StoreOptions) -> Iterator[SessionContext]:
    """A session with a node of its own, on a folder; only what is written lies in the bucket."""
    (tmp_path / "source").mkdir()
    for number in range(3):
        numbers = pa.array(range(number * ROWS // 3, (number + 1) * ROWS // 3), pa.int64())
        names = pa.array([ODD[n % 4] for n in numbers.to_pylist()])
        pq.write_table(pa.table({"k": numbers, "v": names}), tmp_path / "source" / f"{number}.parquet")
    settings = Settings(small_bytes=0, finish_here_bytes=0, min_task_bytes=0, local_bees=2)
    with SessionContext(storage=str(tmp_path / "root"), storage_options=s3_endpoint, settings=settings) as ctx:
        ctx.register_parquet("t", str(tmp_path / "source"))
        yield ctx


@pytest.fixture
def bucket(s3_url: str, s3_endpoint: StoreOptions) -> Store:
    return open_store(s3_url, s3_endpoint, environ={})


def keys_in(store: Store) -> list[str]:
    return [meta.key for meta in store.list("")]


def test_each_task_writes_into_the_bucket(ctx: SessionContext, bucket: Store) -> None:
    assert ctx.sql(f"COPY t TO '{bucket.url}/out/' STORED AS PARQUET").to_pylist() == [{"count": ROWS}]
    assert ctx.last_query is not None
    assert ctx.last_query.distributed
    written = keys_in(bucket)
    assert len(written) > 1
    assert all(key.startswith("out/q") and key.endswith(".parquet") for key in written)
    assert ctx.read_parquet(f"{bucket.url}/out/").count() == ROWS


def test_one_file_and_odd_folders(ctx: SessionContext, bucket: Store) -> None:
    ctx.sql(f"COPY (SELECT k FROM t ORDER BY k) TO '{bucket.url}/one.csv'").collect()
    assert keys_in(bucket) == ["one.csv"]
    assert bucket.get("one.csv").split() == [b"k", *(str(k).encode() for k in range(ROWS))]
    ctx.sql(f"COPY t TO '{bucket.url}/tree/' STORED AS PARQUET PARTITIONED BY (v)").collect()
    read = ctx.read_parquet(f"{bucket.url}/tree/", table_partition_cols=[("v", pa.string())])
    assert sorted(read.select("v").distinct().to_pydict()["v"]) == sorted(ODD)
    assert read.count() == ROWS


def test_a_failure_leaves_nothing_in_the_bucket(ctx: SessionContext, bucket: Store) -> None:
    with pytest.raises(TaskFailed):
        ctx.sql(f"COPY (SELECT 1 / (k - 2000) AS k FROM t) TO '{bucket.url}/out/' STORED AS PARQUET").collect()
    assert keys_in(bucket) == []


def test_a_bucket_that_is_not_there_is_refused_before_any_work(ctx: SessionContext) -> None:
    with pytest.raises(StorageError, match="no-such-bucket"):
        ctx.sql("COPY t TO 's3://no-such-bucket/out/' STORED AS PARQUET").collect()
    assert ctx.storage is not None
    assert open_store(ctx.storage).list(keys.WRITES) == []


@pytest.mark.parametrize("moves", range(3))
def test_what_a_lost_session_left_in_a_bucket_is_taken_back(
    tmp_path: Path, bucket: Store, s3_endpoint: StoreOptions, moves: int
) -> None:
    root = open_store(str(tmp_path / "root"))
    bucket.put("out/old.csv", b"old")
    target = SinkTarget(url=f"{bucket.url}/out/", extension="csv", single_file=False)
    write = Write(target, "q1-a", "session-1", options=s3_endpoint, settings=Settings(), root=root)
    write.begin()
    staged = [f"{staging_folder('q1-a')}/0_0_0/a=1/x_{n}.staged" for n in range(2)]
    for key in staged:
        bucket.put(f"out/{key}", b"new")
    missing = [WrittenFile(path="gone.staged", size_bytes=1)]
    files = [WrittenFile(path=f"a=1/x_{n}.staged", size_bytes=3) for n in range(moves)]
    with pytest.raises(ApiaryError):
        write.publish([("0_0_0", [*files, *missing])])
    write._over.set()  # the session is killed here
    assert len([key for key in keys_in(bucket) if key.startswith("out/a=1/")]) == moves
    watch = WriteWatch(root, s3_endpoint, 30.0, "a node")
    assert watch.look(0.0) == 1
    assert watch.look(31.0) == 0
    assert keys_in(bucket) == ["out/old.csv"]
    assert root.list("") == []


def test_names_below_a_prefix_are_found_without_listing_all(bucket: Store, s3_endpoint: StoreOptions) -> None:
    for key in ("out/_apiary_q1-a/journal", "out/_apiary_q1-a/x/y", "out/_apiary_q2-b/journal", "out/a", "out/z/z"):
        bucket.put(key, b"")
    base = open_folder(f"{bucket.url}/out", s3_endpoint)
    assert base.list_names("_apiary_") == ("_apiary_q1-a", "_apiary_q2-b")
