"""The queries of the matrix: five shapes over two small tables, each planned once for two nodes of one bee."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq

from apiary_df.plan.rules import RewriteOptions
from apiary_df.planning import RunsOnSwarm, SwarmPlanner, batch_schema
from apiary_df.query import Query

ROWS = 60
"""Rows of a file: enough that every task of every stage has some."""

SHAPES: Mapping[str, str] = {
    "scan": "SELECT k, v FROM facts WHERE v % 3 <> 1",
    "aggregate": "SELECT g, count(*) AS n, sum(v) AS total FROM facts GROUP BY g",
    "join": "SELECT k, name FROM facts JOIN names ON facts.g = names.g",
    "sort": "SELECT k, v FROM facts ORDER BY v, k LIMIT 7",
    "write": "COPY (SELECT k, v FROM facts) TO '{out}/' STORED AS PARQUET",
}
"""Shape to its query: scan and gather, two-phase aggregate, shuffle join, sort with a limit, files written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A query of the matrix, and its answer.

    Attributes:
        shape: Its shape.
        query: It, planned for the swarm.
        rows: What plain DataFusion gives, sorted; of a write, the rows that the files hold.
        out: Where it writes files; None if it writes none.
    """

    shape: str
    query: Query
    rows: list[tuple[object, ...]]
    out: Path | None


def sorted_rows(table: pa.Table) -> list[tuple[object, ...]]:
    """Return a table's rows in an order of their own."""
    return sorted(tuple(row.values()) for row in table.to_pylist())


def plan_shapes(folder: Path) -> dict[str, Planned]:
    """Write the tables and plan all shapes.

    Args:
        folder: Where tables lie and files are written to.
    """
    tables = {"facts": folder / "facts", "names": folder / "names"}
    for path in tables.values():
        path.mkdir()
    for number in range(2):
        keys = range(number * ROWS, (number + 1) * ROWS)
        facts = pa.table({"k": keys, "g": [k % 7 for k in keys], "v": [k * 37 % 101 for k in keys]})
        pq.write_table(facts, tables["facts"] / f"{number}.parquet")
        groups = range(number, 7, 2)
        names = pa.table({"g": groups, "name": [f"group {g}" for g in groups]})
        pq.write_table(names, tables["names"] / f"{number}.parquet")
    config = (
        datafusion.SessionConfig()
        .set("datafusion.optimizer.hash_join_single_partition_threshold", "0")
        .set("datafusion.optimizer.hash_join_single_partition_threshold_rows", "0")
    )
    ctx = datafusion.SessionContext(config)
    for name, path in tables.items():
        ctx.register_parquet(name, str(path))
    planner = SwarmPlanner(ctx, lambda _: None)
    return {shape: _planned(ctx, planner, shape, sql, folder / "out") for shape, sql in SHAPES.items()}


def _planned(ctx: datafusion.SessionContext, planner: SwarmPlanner, shape: str, sql: str, out: Path) -> Planned:
    df = ctx.sql(sql.format(out=out))
    plan = planner.plan(df.logical_plan(), RewriteOptions(partitions=2, small_bytes=0))
    assert isinstance(plan, RunsOnSwarm), plan
    query = Query(
        sql=sql, graph=plan.graph, settings=plan.settings, schema=lambda: batch_schema(ctx, df), reason="it is a test's"
    )
    writes = shape == "write"
    answer = ctx.sql("SELECT k, v FROM facts" if writes else sql).to_arrow_table()
    return Planned(shape=shape, query=query, rows=sorted_rows(answer), out=out if writes else None)
