"""A query that is kept in a bucket is read back and run again from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apiary_df import SessionContext, Settings, StoreOptions
from apiary_df.protocol import keys
from apiary_df.replay.again import prepared, run
from apiary_df.replay.trace import UNENDED, find_queries, read_trace
from apiary_df.store import open_store

pytestmark = pytest.mark.s3


def test_a_query_in_a_bucket_tells_its_attempts_and_any_task_runs_again(
    s3_url: str, s3_endpoint: StoreOptions, tmp_path: Path
) -> None:
    for number in range(3):
        pq.write_table(pa.table({"g": [1, 2], "v": [number, number]}), tmp_path / f"{number}.parquet")
    forced: dict[str, Any] = {"small_bytes": 0, "finish_here_bytes": 0, "min_task_bytes": 0}
    settings = Settings(local_bees=2, keep=True, speculate=False, allow_roots=str(tmp_path), **forced)
    with SessionContext(storage=s3_url, storage_options=s3_endpoint, settings=settings) as ctx:
        ctx.register_parquet("t", str(tmp_path))
        ctx.sql("SELECT g, sum(v) AS s FROM t GROUP BY g").collect()
        report = ctx.last_query
    assert report is not None
    store = open_store(s3_url, s3_endpoint, environ={})
    assert [(query.query_id, query.state) for query in find_queries(store)] == [(report.query_id, "done")]
    trace = read_trace(store, report.query_id)
    assert trace.attempts == report.attempts
    for attempt in trace.attempts:
        with prepared(store, settings, trace, attempt.stage, attempt.task, options=s3_endpoint) as ready:
            again = run(ready, 1)
        assert sum(again.rows) == attempt.rows
        assert again.equal is (None if attempt.here else True)
    store.delete([keys.outcome(report.query_id)])
    pieced = read_trace(store, report.query_id)
    assert pieced.found.state == UNENDED
    assert [(a.stage, a.task, a.rows) for a in pieced.attempts] == [
        (a.stage, a.task, a.rows) for a in report.task_reports
    ]
