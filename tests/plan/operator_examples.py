# ruff: noqa: E501 - a query is one string
"""One SQL query for each use of each operator, over the awkward tables: docs/coverage.md shows them, a test runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plan.sample_queries import SHUFFLED, SMJ

ONE_BY_ONE = {"datafusion.optimizer.repartition_aggregations": "false"}
PIECEWISE = {"datafusion.optimizer.enable_piecewise_merge_join": "true"}
WINDOW_TOPN = {"datafusion.optimizer.enable_window_topn": "true"}
CATALOG = {"datafusion.catalog.information_schema": "true"}
SUBQUERY = {"datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery": "true"}


@dataclass(frozen=True, kw_only=True)
class Example:
    """A query that plans an operator in one use.

    Attributes:
        sql: The query.
        settings: DataFusion options that it takes.
        order: Output columns that its ORDER BY fixes.
        natively: Only a plan of plain DataFusion has the operator: the swarm's planner goes without it.
        runs: Whether it can be run for its rows (a COPY would write, an EXPLAIN tells of a plan).
    """

    sql: str
    settings: Mapping[str, str] | None = None
    order: tuple[str, ...] = ()
    natively: bool = False
    runs: bool = True


def _x(
    sql: str, *order: str, settings: Mapping[str, str] | None = None, natively: bool = False, runs: bool = True
) -> Example:
    return Example(sql=sql, settings=settings, order=order, natively=natively, runs=runs)


_EMITTING = "Left, Full, LeftSemi, LeftAnti, LeftMark"
_NOT_EMITTING = "Inner, Right, RightSemi, RightAnti, RightMark"

EXAMPLES: Mapping[str, tuple[Example, ...]] = {
    "DataSourceExec: file_type=parquet": (_x("SELECT id, g FROM facts"),),
    "DataSourceExec: file_type=csv": (_x("SELECT id, t FROM lines"),),
    "DataSourceExec: file_type=json": (_x("SELECT id, tag FROM docs"),),
    "DataSourceExec: file_type=arrow": (_x("SELECT a, b FROM arrows"),),
    "DataSourceExec: file_type=avro": (_x("SELECT a, b FROM avros"),),
    "DataSourceExec: partitions=": (_x("SELECT f.id, m.m FROM facts f JOIN mem m ON f.k = m.k"),),
    "LazyMemoryExec": (_x("SELECT s.value, f.id FROM generate_series(1, 40) s JOIN facts f ON f.k = s.value"),),
    "EmptyExec": (_x("SELECT id FROM facts LIMIT 0"),),
    "PlaceholderRowExec": (_x("SELECT id FROM facts UNION ALL SELECT 7"),),
    "ProjectionExec": (_x("SELECT g, count(*) + 1 AS c FROM facts GROUP BY g"),),
    "FilterExec": (_x("SELECT id FROM facts WHERE v > 50"),),
    "UnnestExec": (_x("SELECT id, unnest(parts) AS e FROM facts"),),
    "UnionExec": (_x("SELECT id FROM facts UNION ALL SELECT w FROM dims"),),
    "LocalLimitExec": (_x("SELECT count(*) AS c FROM (SELECT DISTINCT k FROM facts LIMIT 3)"),),
    "GlobalLimitExec": (_x("SELECT id FROM facts ORDER BY id LIMIT 9 OFFSET 2", "id"),),
    "SortExec: preserve_partitioning=[false]": (
        _x("SELECT g, count(*) AS c FROM facts GROUP BY g ORDER BY g", "g", settings=ONE_BY_ONE),
    ),
    "SortExec: preserve_partitioning=[true]": (_x("SELECT id, v FROM facts ORDER BY v, id", "v", "id"),),
    "AggregateExec: mode=Partial": (_x("SELECT g, count(*) AS c FROM facts GROUP BY g"),),
    "AggregateExec: mode=FinalPartitioned": (_x("SELECT g, sum(v) AS s FROM facts GROUP BY g"),),
    "AggregateExec: mode=SinglePartitioned": (
        _x("SELECT f.k, count(*) AS c FROM facts f JOIN dims d ON f.k = d.k GROUP BY f.k", settings=SHUFFLED),
    ),
    "AggregateExec: mode=Final": (
        _x("SELECT count(*) AS c, sum(v) AS s FROM facts WHERE v > 3"),
        _x("SELECT g, count(*) AS c FROM facts GROUP BY g", settings=ONE_BY_ONE),
    ),
    "AggregateExec: mode=Single": (
        _x("SELECT f.id FROM facts f JOIN (SELECT max(column1) AS m FROM (VALUES (3), (5), (4))) x ON f.k = x.m"),
    ),
    "BoundedWindowAggExec: PARTITION BY": (
        _x("SELECT id, row_number() OVER (PARTITION BY g ORDER BY id) AS r FROM facts"),
    ),
    "BoundedWindowAggExec: no PARTITION BY": (_x("SELECT id, rank() OVER (ORDER BY v) AS r FROM facts"),),
    "WindowAggExec: PARTITION BY": (_x("SELECT id, sum(v) OVER (PARTITION BY g) AS s FROM facts"),),
    "WindowAggExec: no PARTITION BY": (_x("SELECT id, sum(v) OVER () AS s FROM facts"),),
    "HashJoinExec: null_aware": (_x("SELECT f.id FROM facts f WHERE f.k NOT IN (SELECT k FROM keys)"),),
    "HashJoinExec: mode=Partitioned": (
        _x("SELECT f.id, d.name FROM facts f JOIN dims d ON f.k = d.k", settings=SHUFFLED),
    ),
    f"HashJoinExec: mode=CollectLeft, join_type={_EMITTING}": (
        _x("SELECT d.w, f.id FROM dims d LEFT JOIN facts f ON d.k = f.k"),
    ),
    f"HashJoinExec: mode=CollectLeft, join_type={_NOT_EMITTING}": (
        _x("SELECT f.id, d.name FROM facts f JOIN dims d ON f.k = d.k"),
    ),
    "SortMergeJoinExec": (_x("SELECT f.id, d.name FROM facts f JOIN dims d ON f.k = d.k", settings=SMJ),),
    f"NestedLoopJoinExec: join_type={_EMITTING}": (
        _x("SELECT o.label, f.id FROM one o LEFT JOIN facts f ON f.v < o.k AND f.id > 440"),
    ),
    f"NestedLoopJoinExec: join_type={_NOT_EMITTING}": (_x("SELECT d.w, f.id FROM dims d JOIN facts f ON d.w < f.v"),),
    "CrossJoinExec": (_x("SELECT f.id, o.label FROM facts f CROSS JOIN one o"),),
    "RepartitionExec: RoundRobinBatch": (_x("SELECT value % 3 AS m, count(*) AS c FROM range(0, 30000) GROUP BY m"),),
    "RepartitionExec: Hash": (_x("SELECT DISTINCT g FROM facts"),),
    "RepartitionExec: Hash, preserve_order=true": (
        _x("SELECT ts, count(*) AS c FROM ordered GROUP BY ts ORDER BY ts", "ts"),
    ),
    "CoalescePartitionsExec": (_x("SELECT count(*) AS c FROM facts WHERE v > 3"),),
    "SortPreservingMergeExec": (_x("SELECT id FROM facts ORDER BY id", "id"),),
    "InterleaveExec": (
        _x(
            "SELECT k, sum(c) AS s FROM (SELECT k, count(*) AS c FROM facts GROUP BY k UNION ALL SELECT k, count(*) FROM dims GROUP BY k) GROUP BY k"
        ),
    ),
    "ScalarSubqueryExec": (
        _x("SELECT id FROM facts WHERE v > (SELECT avg(w) FROM dims)", settings=SUBQUERY, natively=True),
    ),
    "ExplainExec": (_x("EXPLAIN SELECT 1", runs=False),),
    "AnalyzeExec": (_x("EXPLAIN ANALYZE SELECT 1", runs=False),),
    "DataSinkExec: sink=ParquetSink": (_x("COPY (SELECT id FROM facts) TO 'target.parquet'", runs=False),),
    "DataSinkExec: sink=CsvSink": (_x("COPY (SELECT id FROM facts) TO 'target.csv'", runs=False),),
    "DataSinkExec: sink=JsonSink": (_x("COPY (SELECT id FROM facts) TO 'target.json'", runs=False),),
    "DataSinkExec: sink=MemoryTable": (_x("INSERT INTO mem SELECT k, label FROM one", runs=False),),
    "RecursiveQueryExec": (
        _x(
            "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT r.n, f.id FROM r JOIN facts f ON f.k = r.n"
        ),
    ),
    "WorkTableExec": (
        _x("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT n FROM r"),
    ),
    "StreamingTableExec": (_x("SELECT table_name FROM information_schema.tables", settings=CATALOG),),
    "DatasetExec": (_x("SELECT a, b FROM dataset"),),
    "PiecewiseMergeJoin": (
        _x("SELECT f.id, d.w FROM facts f JOIN dims d ON f.v < d.w", settings=PIECEWISE, natively=True),
    ),
}
"""Name of a row of the table to queries that plan it."""

NOT_PLANNED: Mapping[str, str] = {
    "DataSourceExec: file_type=parquet, partitioned by file group": "the swarm's planner switches it off",
    "DataSourceExec: file_type=csv, partitioned by file group": "the swarm's planner switches it off",
    "DataSourceExec: file_type=json, partitioned by file group": "the swarm's planner switches it off",
    "DataSourceExec: file_type=arrow, partitioned by file group": "the swarm's planner switches it off",
    "DataSourceExec: file_type=avro, partitioned by file group": "the swarm's planner switches it off",
    "CoalesceBatchesExec": "operators put batches together themselves since DataFusion 52",
    "CooperativeExec": "it is put around sources while a plan starts, in the process that runs it",
    "BufferExec": "no option that SQL can set plans it",
    "AggregateExec: mode=PartialReduce": "it is for other distributed systems to plan",
    "HashJoinExec: mode=Auto": "the planner always decides",
    "RepartitionExec: Range": "no table of SQL declares it",
    "SymmetricHashJoinExec": "only for unbounded tables",
    "AsyncFuncExec": "Python has no asynchronous functions for it",
    "(custom operator)": "the bindings have no codec for one",
    "PartitionedTopKExec": "the swarm's planner switches it off",
    "PartialSortExec": "only for unbounded tables",
    "DmlResultExec": "only for tables whose provider can change rows",
    "ForeignExecutionPlan": "only for providers from other libraries",
}
"""Name of a row of the table to the reason why no query here plans it."""
