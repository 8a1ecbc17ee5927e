"""The cell cache over an S3 service: which requests a swarm makes for cells that it holds, counted on their way."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from swarm.helpers import FORCED, wait_until

from apiary_df import LocalSwarm, SessionContext, Settings, StoreOptions
from apiary_df.errors import ApiaryError
from apiary_df.store import Store, open_store
from s3.proxy import Proxy, proxy_before

pytestmark = pytest.mark.s3

FILES = 3
ROWS = 2_000
GROUP_BY = "SELECT k % 7 AS g, count(*) AS n, sum(v) AS s FROM t GROUP BY k % 7 ORDER BY g"


@pytest.fixture
def proxy(s3_endpoint: StoreOptions) -> Iterator[Proxy]:
    with proxy_before(s3_endpoint) as running:
        yield running


def write(store: Store, prefix: str, number: int, version: int = 0) -> None:
    """Put a file of a table into the bucket; of each version all files have the same size."""
    keys = pa.array(range(number * ROWS, (number + 1) * ROWS), pa.int64())
    values = pa.array([version * 1_000 + 100] * ROWS, pa.int64())
    sink = pa.BufferOutputStream()
    table = pa.table({"k": keys, "v": values})
    pq.write_table(table, sink, row_group_size=500, compression="none", use_dictionary=False)
    store.put(f"{prefix}/{number}.parquet", sink.getvalue().to_pybytes())


class Table:
    """A table in the bucket, and what is asked of the service for it."""

    def __init__(self, proxy: Proxy, url: str) -> None:
        self.proxy = proxy
        self.url = f"{url}/cells"
        bucket, _, self.prefix = self.url.removeprefix("s3://").partition("/")
        self.store = open_store(f"s3://{bucket}", proxy.options, environ={})
        for number in range(FILES):
            write(self.store, self.prefix, number)

    def asked(self) -> Counter[str]:
        """Return the requests for the table's objects since this was asked last, by method."""
        with self.proxy.lock:
            requests = list(self.proxy.requests)
            self.proxy.requests.clear()
        wanted = re.compile(re.escape(self.prefix) + r"/\d")
        return Counter(method for method, path in requests if wanted.search(path))


@pytest.fixture
def table(proxy: Proxy, s3_url: str) -> Table:
    return Table(proxy, s3_url)


def settings(tmp_path: Path, **more: Any) -> Settings:
    return Settings().with_overrides(
        **{**FORCED, "speculate": False, "cache_dir": str(tmp_path / "cells"), "min_cell_bytes": 1, **more}
    )


def session(swarm: LocalSwarm, table: Table, chosen: Settings) -> SessionContext:
    ctx = SessionContext(storage=swarm.storage, storage_options=table.proxy.options, settings=chosen)
    ctx.register_parquet("t", f"{table.url}/")
    return ctx


def nodes(table: Table, chosen: Settings) -> LocalSwarm:
    return LocalSwarm(2, options=table.proxy.options, settings=chosen, in_process=True)


def rows(ctx: SessionContext, sql: str = GROUP_BY) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ctx.sql(sql).to_pylist()
    return found


def expected(version: int = 0) -> list[dict[str, Any]]:
    counts = Counter(k % 7 for k in range(FILES * ROWS))
    return [{"g": g, "n": counts[g], "s": counts[g] * (version * 1_000 + 100)} for g in range(7)]


def test_a_third_query_reads_no_byte_of_a_cell_from_the_bucket(table: Table, tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    with nodes(table, chosen) as swarm, session(swarm, table, chosen) as ctx:
        assert rows(ctx) == expected()
        report = ctx.last_query
        assert report is not None
        assert (report.cache.hits, report.cache.fetched_bytes, report.cache.requests) == (0, 0, 0)
        assert rows(ctx) == expected()
        report = ctx.last_query
        assert report is not None
        assert report.cache.fetched_bytes > 0
        table.asked()
        assert rows(ctx) == expected()
        assert table.asked()["GET"] == 0
        report = ctx.last_query
        assert report is not None
        assert report.distributed
        assert report.cache.misses == report.cache.fetched_bytes == 0
        assert report.cache.hits == sum(task.cells for task in report.attempts) >= FILES
        assert sum(task.cache.hit_bytes for task in report.task_reports) == report.cache.hit_bytes > 0
        text = "\n".join(row["plan"] for row in rows(ctx, f"EXPLAIN ANALYZE {GROUP_BY}"))
        assert " from the cache, 0 not; " in text


def test_nodes_tell_what_they_hold_and_the_planner_knows(table: Table, tmp_path: Path) -> None:
    chosen = settings(tmp_path, cache_admission="first_use")
    with nodes(table, chosen) as swarm, session(swarm, table, chosen) as ctx:
        rows(ctx)
        wait_until(lambda: all(len(view.info.cached_cells) == FILES for view in ctx.nodes()), "all cells announced")
        assert rows(ctx) == expected()
        report = ctx.last_query
        assert report is not None
        assert all(f"{task.cells} cached there" in task.why for task in report.task_reports if task.cells == 1)
        assert any("cached there" in task.why and "0 cached" not in task.why for task in report.task_reports)


def test_a_changed_object_is_read_as_it_is_now(table: Table, tmp_path: Path) -> None:
    chosen = settings(tmp_path, cache_admission="first_use")
    with nodes(table, chosen) as swarm:
        with session(swarm, table, chosen) as ctx:
            assert rows(ctx) == rows(ctx) == expected()
        for number in range(FILES):
            write(table.store, table.prefix, number, version=1)
        with session(swarm, table, chosen) as ctx:
            assert rows(ctx) == rows(ctx) == expected(version=1)


def test_an_object_that_is_gone_is_an_error_as_without_a_cache(table: Table, tmp_path: Path) -> None:
    chosen = settings(tmp_path, cache_admission="first_use")
    with nodes(table, chosen) as swarm, session(swarm, table, chosen) as ctx:
        frame = ctx.sql(GROUP_BY)
        assert frame.to_pylist() == expected()
        table.store.delete([f"{table.prefix}/1.parquet"])
        with pytest.raises(ApiaryError, match=r"1\.parquet"):
            ctx.sql("SELECT sum(v + k) AS s FROM t").collect()


def test_other_nodes_of_the_machine_use_what_was_kept_before(table: Table, tmp_path: Path) -> None:
    chosen = settings(tmp_path, cache_admission="first_use")
    with nodes(table, chosen) as swarm, session(swarm, table, chosen) as ctx:
        assert rows(ctx) == expected()
    with nodes(table, chosen) as swarm, session(swarm, table, chosen) as ctx:
        assert rows(ctx) == expected()
        report = ctx.last_query
        assert report is not None
        assert (report.cache.misses, report.cache.fetched_bytes) == (0, 0)


def test_without_room_every_query_reads_from_the_bucket(table: Table, tmp_path: Path) -> None:
    chosen = settings(tmp_path, cache_admission="first_use", cache_bytes=10)
    with nodes(table, chosen) as swarm, session(swarm, table, chosen) as ctx:
        assert rows(ctx) == rows(ctx) == expected()
        report = ctx.last_query
        assert report is not None
        assert report.cache.hits == 0


def test_what_runs_in_the_session_is_served_too(table: Table, tmp_path: Path) -> None:
    chosen = settings(tmp_path, small_bytes=1 << 30, cache_admission="first_use")
    with nodes(table, chosen) as swarm, session(swarm, table, chosen) as ctx:
        assert rows(ctx) == expected()
        table.asked()
        assert rows(ctx) == expected()
        assert table.asked()["GET"] == 0
        report = ctx.last_query
        assert report is not None
        assert not report.distributed
        assert report.cache.hits == FILES
        ctx.sql(f"CREATE EXTERNAL TABLE other STORED AS PARQUET LOCATION '{table.url}/0.parquet'")
        assert rows(ctx, "SELECT max(k) AS m FROM other") == [{"m": ROWS - 1}]


def test_the_stage_with_the_result_is_served_in_the_session(table: Table, tmp_path: Path) -> None:
    chosen = settings(tmp_path, finish_here_bytes=1 << 30, cache_admission="first_use")
    sql = "SELECT count(*) AS n FROM (SELECT k FROM t GROUP BY k) a JOIN (SELECT k FROM t GROUP BY k) b ON a.k = b.k"
    with nodes(table, chosen) as swarm, session(swarm, table, chosen) as ctx:
        assert rows(ctx, sql) == [{"n": FILES * ROWS}]
        table.asked()
        assert rows(ctx, sql) == [{"n": FILES * ROWS}]
        assert table.asked()["GET"] == 0
        report = ctx.last_query
        assert report is not None
        assert report.distributed
