"""In-memory tables on real nodes: stored once a query, whatever the number of tasks, and gone afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datafusion
import pyarrow as pa
import pytest

from apiary_df import LocalSwarm, SessionContext, Settings
from apiary_df.errors import TaskFailed
from apiary_df.protocol import keys
from swarm.helpers import FORCED, check_nothing_left, check_same, check_was_distributed, wait_until_idle

BEES = 8
ROWS = 200_000

QUERIES = (
    "SELECT g, count(*) AS n, sum(k) AS s FROM big GROUP BY g ORDER BY g",
    "SELECT k, t FROM big WHERE k % 1000 = 7 ORDER BY k",
    "SELECT l.l_linenumber, count(*) AS n, min(b.t) AS t FROM lineitem l JOIN big b ON l.l_orderkey = b.k "
    "GROUP BY l.l_linenumber ORDER BY 1",
    "SELECT count(*) AS n FROM big a JOIN big b ON a.k = b.k WHERE a.g = 3",
    "SELECT o_orderkey FROM orders WHERE o_orderkey NOT IN (SELECT k FROM big) ORDER BY 1",
    "SELECT g, t FROM big WHERE k < 100 UNION SELECT 1, 'x' FROM region ORDER BY g, t",
    "SELECT k, sum(g) OVER (PARTITION BY g ORDER BY k) AS r FROM big WHERE k < 2000 ORDER BY k",
    "SELECT k FROM big ORDER BY t LIMIT 9 OFFSET 4",
)


@pytest.fixture(scope="module")
def big() -> pa.Table:
    """Ten megabytes that do not compress to nothing."""
    made = random.Random(5)
    return pa.table(
        {
            "k": pa.array(range(ROWS), pa.int64()),
            "g": pa.array([made.randrange(5) for _ in range(ROWS)], pa.int64()),
            "t": [f"{made.getrandbits(128):032x}" for _ in range(ROWS)],
        }
    )


def of_first_group(big: pa.Table) -> list[int]:
    return [g for g in big["g"].to_pylist() if g < 1]


@pytest.fixture(scope="module")
def eight_bees() -> Iterator[LocalSwarm]:
    """One node of eight bees, in this process."""
    with LocalSwarm(1, BEES, settings=Settings(heartbeat_s=0.2), in_process=True) as swarm:
        yield swarm


def test_queries_over_a_table_in_memory_equal_datafusion(
    joined: Any, plain: datafusion.SessionContext, big: pa.Table
) -> None:
    plain.register_record_batches("big", [big.to_batches(max_chunksize=20_000)])
    try:
        with joined() as ctx:
            ctx.register_record_batches("big", [big.to_batches(max_chunksize=20_000)])
            for sql in QUERIES:
                check_same(plain.sql(sql).to_arrow_table(), ctx.sql(sql).to_arrow_table())
                check_was_distributed(ctx)
            check_nothing_left(ctx.storage or "")
    finally:
        plain.deregister_table("big")


def test_a_table_is_stored_once_however_many_tasks_read_it(eight_bees: LocalSwarm, big: pa.Table) -> None:
    store = eight_bees.store
    with SessionContext(storage=eight_bees.storage, keep=True, **FORCED) as ctx:
        ctx.register_record_batches("big", [big.to_batches(max_chunksize=20_000)])
        wait_until_idle(ctx)
        assert ctx.sql("SELECT k, g, t FROM big WHERE g < 1").to_arrow_table().num_rows == len(of_first_group(big))
        report = ctx.last_query
        assert report is not None
        assert report.tasks == BEES
        sizes = {meta.key: meta.size_bytes for meta in store.list(keys.query_prefix(report.query_id))}
        store.delete_prefix(keys.query_prefix(report.query_id))
    stored = keys.partial(report.query_id, 0, 0, 0)
    assert big.nbytes <= sizes.pop(stored) < big.nbytes * 1.1
    # A fifth of the rows come back. What else there is (fragments, manifest, records) is small.
    written = sum(size for key, size in sizes.items() if key.endswith(".arrow"))
    assert written < big.nbytes * 0.3
    assert sum(sizes.values()) - written < 64 << 10, sizes
    assert report.bytes_through_storage < big.nbytes * 1.4


def test_one_table_in_two_places_of_a_plan_is_stored_once(eight_bees: LocalSwarm, big: pa.Table) -> None:
    with SessionContext(storage=eight_bees.storage, **FORCED) as ctx:
        ctx.register_record_batches("big", [big.to_batches(max_chunksize=20_000)])
        sql = "SELECT count(*) AS n FROM (SELECT * FROM big WHERE g < 2 UNION ALL SELECT * FROM big WHERE g > 3)"
        assert ctx.sql(sql).to_pydict()["n"] == [sum(1 for g in big["g"].to_pylist() if g < 2 or g > 3)]
        report = ctx.last_query
        assert report is not None
        assert report.distributed
        assert report.bytes_through_storage < big["g"].nbytes * 1.5, "only the column that is used, and once"


def test_explain_says_where_a_table_in_memory_is(eight_bees: LocalSwarm, big: pa.Table) -> None:
    with SessionContext(storage=eight_bees.storage, **FORCED) as ctx:
        ctx.register_record_batches("big", [big.to_batches(max_chunksize=20_000)])
        text = "\n".join(ctx.sql("EXPLAIN ANALYZE SELECT g, count(*) FROM big GROUP BY g").to_pydict()["plan"])
        assert "in-memory table of" in text
        assert f"stored once by this process) -> {BEES} parts" in text
        assert f"tasks by {BEES} parts of an in-memory table" in text


def test_what_cannot_be_stored_fails_with_a_typed_error_and_leaves_nothing(
    eight_bees: LocalSwarm, big: pa.Table, tmp_path: Path
) -> None:
    with SessionContext(storage=eight_bees.storage, scratch_dir=str(tmp_path / "absent"), **FORCED) as ctx:
        ctx.register_record_batches("big", [big.to_batches(max_chunksize=20_000)])
        with pytest.raises(TaskFailed, match="scratch_dir="):
            ctx.sql("SELECT g, count(*) FROM big GROUP BY g").collect()
        check_nothing_left(eight_bees.storage)


@pytest.mark.parametrize("source", ["pandas", "dict", "arrow", "values", "create_table", "cache", "polars"])
def test_every_way_to_make_a_table_in_memory(source: str, eight_bees: LocalSwarm) -> None:
    rows = 20_000
    table = pa.table({"a": pa.array(range(rows), pa.int64()), "b": [f"row {i % 17}" for i in range(rows)]})
    with SessionContext(storage=eight_bees.storage, **FORCED) as ctx:
        if source == "pandas":
            ctx.from_pandas(pytest.importorskip("pandas").DataFrame(table.to_pydict()), name="t")
        elif source == "dict":
            ctx.from_pydict(table.to_pydict(), name="t")
        elif source == "arrow":
            ctx.from_arrow(table, name="t")
        elif source == "polars":
            ctx.from_polars(pytest.importorskip("polars").from_arrow(table), name="t")
        elif source == "values":
            values = ", ".join(f"({i}, 'row {i % 17}')" for i in range(5_000))
            ctx.sql(f"CREATE VIEW t AS SELECT column1 AS a, column2 AS b FROM (VALUES {values})")
        elif source == "create_table":
            ctx.from_arrow(table, name="source")
            ctx.sql("CREATE TABLE t AS SELECT a, b FROM source")
        else:
            ctx.register_table("t", ctx.from_arrow(table).cache())
        count = 5_000 if source == "values" else rows
        answer = ctx.sql("SELECT b, count(*) AS n, sum(a) AS s FROM t GROUP BY b ORDER BY b").to_pydict()
        assert sum(answer["n"]) == count
        assert sum(answer["s"]) == count * (count - 1) // 2
        check_was_distributed(ctx)
