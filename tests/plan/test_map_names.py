"""Aggregates of maps from Parquet run in the session, since beyond an exchange their entries have another name."""

from __future__ import annotations

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apiary_df.plan.rules import RewriteOptions
from apiary_df.planning import RunsHere, RunsOnSwarm, SwarmPlanner

OPTIONS = RewriteOptions(partitions=3, small_bytes=0)


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> datafusion.SessionContext:
    folder = tmp_path_factory.mktemp("maps")
    for number in range(3):
        entries = pa.array([[("a", number)], [], None], pa.map_(pa.string(), pa.int64()))
        pq.write_table(
            pa.table({"m": entries, "key_value": [1, 2, 3], "map": list("xyz")}), folder / f"{number}.parquet"
        )
    ctx = datafusion.SessionContext()
    ctx.register_parquet("t", str(folder))
    return ctx


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT DISTINCT m FROM t",
        "SELECT named_struct('in', m) AS s, count(*) FROM t GROUP BY 1",
        "SELECT map, first_value(m ORDER BY key_value) FROM t GROUP BY map",
    ],
)
def test_aggregates_of_maps_from_parquet_run_in_the_session(sql: str, ctx: datafusion.SessionContext) -> None:
    planned = SwarmPlanner(ctx, lambda _: None).plan(ctx.sql(sql).logical_plan(), OPTIONS)
    assert isinstance(planned, RunsHere)
    assert "maps from Parquet" in planned.reason


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT map, key_value, count(*) FROM t GROUP BY map, key_value",
        "SELECT a.m, b.map FROM t a JOIN t b ON a.map = b.map",
    ],
)
def test_other_uses_of_maps_and_their_names_are_divided(sql: str, ctx: datafusion.SessionContext) -> None:
    planned = SwarmPlanner(ctx, lambda _: None).plan(ctx.sql(sql).logical_plan(), OPTIONS)
    assert isinstance(planned, RunsOnSwarm)
