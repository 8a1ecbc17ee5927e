"""All of TPC-H on real nodes equals plain DataFusion, whatever the storage root is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import datafusion
import pytest

from apiary_df import SessionContext, Settings, StoreOptions
from apiary_df.demo import tpch_queries
from apiary_df.store import open_store
from swarm.conftest import Open, register
from swarm.helpers import FORCED, check_nothing_left, check_tpch, check_was_distributed, wait_until_idle

QUERIES = tpch_queries()
ON_S3 = (1, 2, 6, 13, 15, 18, 21)
"""A gather, deep joins, one stage, an outer join, a shared subquery, a large group by, an anti join."""

CHANGED = (2, 9, 17, 20, 21)
"""Queries in which a side of a join is small enough for its keys to be handed to stages that make the other."""


def check_was_changed(ctx: SessionContext, number: int) -> None:
    """Check that stages of the last query left rows out, if there are any in it that can."""
    assert ctx.last_query is not None
    assert number not in CHANGED or ctx.last_query.changes


@pytest.mark.processes
@pytest.mark.parametrize("number", QUERIES)
def test_folder_swarm_answers_as_plain_datafusion(
    number: int, shared: SessionContext, plain: datafusion.SessionContext
) -> None:
    wait_until_idle(shared)
    check_tpch(number, QUERIES[number], plain, shared)
    check_was_distributed(shared, tasks=2)
    check_was_changed(shared, number)
    check_nothing_left(str(shared.storage))


@pytest.mark.processes
def test_default_settings_answer_as_plain_datafusion(joined: Open, plain: datafusion.SessionContext) -> None:
    with joined(**{name: getattr(Settings(), name) for name in FORCED}) as ctx:
        for number, sql in QUERIES.items():
            check_tpch(number, sql, plain, ctx)
    check_nothing_left(str(ctx.storage))


@pytest.fixture(scope="module")
def in_memory(tpch_files: dict[str, Path]) -> Iterator[SessionContext]:
    with SessionContext(storage="memory://", nodes=2, **FORCED) as ctx:
        register(ctx, tpch_files)
        yield ctx


@pytest.mark.parametrize("number", QUERIES)
def test_nodes_in_memory_answer_as_plain_datafusion(
    number: int, in_memory: SessionContext, plain: datafusion.SessionContext
) -> None:
    wait_until_idle(in_memory)
    check_tpch(number, QUERIES[number], plain, in_memory)
    check_was_distributed(in_memory, tasks=2)
    check_was_changed(in_memory, number)
    check_nothing_left("memory://")


@pytest.mark.parametrize("number", [3, 5, 8, 9, 10])
def test_sides_that_came_out_small_are_read_whole(
    number: int, tpch_files: dict[str, Path], plain: datafusion.SessionContext
) -> None:
    with SessionContext(storage="memory://", nodes=2, **FORCED) as ctx:
        register(ctx, tpch_files)
        # Nothing is known of sizes when the query is planned.
        for known in ("threshold", "threshold_rows"):
            ctx.sql(f"SET datafusion.optimizer.hash_join_single_partition_{known} = 0").collect()
        check_tpch(number, QUERIES[number], plain, ctx)
        assert ctx.last_query is not None
        assert any(change.left_out for change in ctx.last_query.changes)
        ((_, told),) = (row.values() for row in ctx.sql(f"EXPLAIN ANALYZE {QUERIES[number]}").to_pylist())
        assert "not run: another stage did its work" in told
    check_nothing_left("memory://")


@pytest.fixture(scope="module")
def on_s3(tpch_files: dict[str, Path], s3_endpoint: StoreOptions, s3_bucket: str) -> Iterator[SessionContext]:
    """Cells and root in one bucket, reached by explicit options; the environment knows nothing of it."""
    store = open_store(f"s3://{s3_bucket}/tpch-swarm", s3_endpoint)
    for name, folder in tpch_files.items():
        for part in sorted(folder.glob("*.parquet")):
            store.put(f"cells/{name}/{part.name}", part)
    with SessionContext(storage=f"{store.url}/root", nodes=2, storage_options=s3_endpoint, **FORCED) as ctx:
        for name in tpch_files:
            ctx.register_parquet(name, f"{store.url}/cells/{name}/")
        yield ctx


@pytest.mark.processes
@pytest.mark.s3
@pytest.mark.parametrize("number", ON_S3)
def test_bucket_swarm_answers_as_plain_datafusion(
    number: int, on_s3: SessionContext, s3_endpoint: StoreOptions, plain: datafusion.SessionContext
) -> None:
    wait_until_idle(on_s3)
    check_tpch(number, QUERIES[number], plain, on_s3)
    check_was_distributed(on_s3, tasks=2)
    check_nothing_left(str(on_s3.storage), s3_endpoint)
