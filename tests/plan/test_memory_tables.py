"""In-memory tables of all shapes: stored once, shared out among tasks, and the same rows as plain DataFusion's."""

from __future__ import annotations

from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion.plan import ExecutionPlan

from apiary_df.model import TaskSpec
from apiary_df.plan import codec
from apiary_df.plan.rules import RewriteOptions
from apiary_df.planning import RunsHere, RunsOnSwarm
from apiary_df.tasks import TaskOptions
from plan.checks import check_rows
from plan.local_swarm import LocalSwarm, Ran, node, write_real_partial

ROWS = 600

QUERIES = {
    "filter": "SELECT * FROM {t} WHERE v < 3",
    "computed": "SELECT k + v AS x FROM {t}",
    "no_columns": "SELECT 1 AS one FROM {t}",
    "count_of_some": "SELECT count(*) AS n FROM {t} WHERE v IS NOT NULL",
    "groups": "SELECT g, count(*) AS n, sum(k) AS s, min(v) AS low FROM {t} GROUP BY g",
    "distinct": "SELECT DISTINCT g, v FROM {t}",
    "join_itself": "SELECT a.k, b.v FROM {t} a JOIN {t} b ON a.k = b.v",
    "left_join_itself": "SELECT a.k, b.g FROM {t} a LEFT JOIN {t} b ON a.v = b.k AND b.v = 2",
    "full_join_files": "SELECT t.k, f.w FROM {t} t FULL JOIN files f ON t.k = f.id",
    "semi_join": "SELECT id FROM files WHERE id IN (SELECT v FROM {t})",
    "anti_join": "SELECT id FROM files WHERE NOT EXISTS (SELECT 1 FROM {t} t WHERE t.k = files.id)",
    "not_in": "SELECT id FROM files WHERE id NOT IN (SELECT v FROM {t} WHERE v IS NOT NULL)",
    "build_side": "SELECT f.id, t.g FROM files f JOIN {t} t ON f.id = t.k",
    "cross_join": "SELECT count(*) AS n FROM files f CROSS JOIN {t} t WHERE f.id < t.v",
    "union_all": "SELECT k FROM {t} UNION ALL SELECT id FROM files",
    "union_itself": "SELECT k, g FROM {t} UNION SELECT v, g FROM {t}",
    "except": "SELECT id FROM files EXCEPT SELECT k FROM {t}",
    "window": "SELECT k, row_number() OVER (PARTITION BY g ORDER BY k) AS r FROM {t}",
    "window_over_all": "SELECT k, sum(v) OVER (ORDER BY k) AS r FROM {t}",
    "scalar_subquery": "SELECT id FROM files WHERE id > (SELECT avg(k) FROM {t})",
}
ORDERED = {
    "sorted": ("SELECT k, g FROM {t} ORDER BY k", ("k",)),
    "sorted_down": ("SELECT k, g FROM {t} ORDER BY k DESC", ("k",)),
    "top": ("SELECT k, v FROM {t} ORDER BY k DESC LIMIT 7", ("k",)),
    "page": ("SELECT k FROM {t} ORDER BY k LIMIT 5 OFFSET 3", ("k",)),
    "merge_files": ("SELECT k FROM {t} UNION ALL SELECT id FROM files ORDER BY 1", ("k",)),
}
TABLES = ("one_batch", "many_batches", "parts", "in_order", "empty", "no_batch", "nested")


def rows() -> pa.Table:
    """Return rows whose key is unique, with NULLs, duplicates, a dictionary, and a nested column."""
    ids = range(ROWS)
    return pa.table(
        {
            "k": pa.array(ids, pa.int64()),
            "v": pa.array([None if i % 7 == 0 else i % 11 for i in ids], pa.int64()),
            "g": pa.array([None if i % 13 == 0 else f"g{i % 5}" for i in ids]),
        }
    )


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> datafusion.SessionContext:
    """A plain session with in-memory tables of several shapes and one of files; tests read only."""
    folder = tmp_path_factory.mktemp("memory-files")
    for part in range(3):
        ids = range(part * 40, part * 40 + 40)
        pq.write_table(
            pa.table({"id": pa.array(ids, pa.int64()), "w": [i % 4 for i in ids]}), folder / f"{part}.parquet"
        )
    # Small batches: DataFusion shares nothing out that is less than one.
    ctx = datafusion.SessionContext(datafusion.SessionConfig({"datafusion.execution.batch_size": "50"}))
    ctx.register_parquet("files", str(folder))
    table = rows()
    ctx.register_record_batches("one_batch", [table.to_batches()])
    ctx.register_record_batches("many_batches", [table.to_batches(max_chunksize=37)])
    ctx.register_record_batches("parts", [[batch] for batch in table.to_batches(max_chunksize=250)])
    ctx.register_record_batches("few", [[batch] for batch in table.slice(0, 30).to_batches(max_chunksize=10)])
    ctx.register_table("in_order", ctx.from_arrow(table).sort(datafusion.col("k").sort()).cache())
    ctx.sql("CREATE TABLE empty AS SELECT * FROM one_batch WHERE k < 0")
    ctx.register_record_batches("no_batch", [[pa.RecordBatch.from_pylist([], schema=table.schema)]])
    nested = table.append_column("d", table["g"].combine_chunks().dictionary_encode())
    nested = nested.append_column("l", pa.array([[i] * (i % 3) for i in range(ROWS)]))
    ctx.register_record_batches("nested", [nested.to_batches(max_chunksize=100)])
    return ctx


def swarm(session: datafusion.SessionContext, scratch: Path, partitions: int, small_bytes: int = 0) -> LocalSwarm:
    return LocalSwarm(
        session=session,
        rewrite=RewriteOptions(partitions=partitions, small_bytes=small_bytes, embed_bytes=0),
        nodes=[node("a"), node("b")],
        scratch=scratch,
        options=TaskOptions(min_cell_bytes=1),
        write=write_real_partial,
    )


def stored(ran: Ran) -> list[tuple[TaskSpec, ...]]:
    """Return the tasks of the stages that the session ran."""
    assert isinstance(ran.planned, RunsOnSwarm)
    return [ran.tasks[stage.stage] for stage in ran.planned.graph.stages if stage.in_session]


@pytest.mark.parametrize(("table", "partitions"), zip(TABLES, (2, 7, 3, 2, 3, 2, 7), strict=True))
@pytest.mark.parametrize("query", QUERIES)
def test_any_query_over_an_in_memory_table_equals_datafusion(
    query: str, table: str, partitions: int, session: datafusion.SessionContext, tmp_path: Path
) -> None:
    sql = QUERIES[query].format(t=table)
    ran = swarm(session, tmp_path, partitions).run(sql)
    check_rows(session.sql(sql).to_arrow_table(), ran.table, ())


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("query", ORDERED)
def test_any_order_over_an_in_memory_table_equals_datafusion(
    query: str, table: str, session: datafusion.SessionContext, tmp_path: Path
) -> None:
    template, columns = ORDERED[query]
    sql = template.format(t=table)
    ran = swarm(session, tmp_path, 3).run(sql)
    check_rows(session.sql(sql).to_arrow_table(), ran.table, columns)


@pytest.mark.parametrize("query", [*QUERIES, *ORDERED])
def test_folded_queries_over_in_memory_tables_equal_datafusion(
    query: str, session: datafusion.SessionContext, tmp_path: Path
) -> None:
    template, columns = ORDERED.get(query, (QUERIES.get(query, ""), ()))
    for table, done in (("parts", 0), ("in_order", 0), ("many_batches", 1)):
        sql = template.format(t=table)
        ran = swarm(session, tmp_path, 3).run(sql, fold_after=done)
        check_rows(session.sql(sql).to_arrow_table(), ran.table, columns)


@pytest.mark.parametrize("table", ["one_batch", "many_batches", "parts"])
def test_tasks_share_an_in_memory_table(table: str, session: datafusion.SessionContext, tmp_path: Path) -> None:
    ran = swarm(session, tmp_path, 4).run(QUERIES["groups"].format(t=table))
    ((store,),) = stored(ran)
    assert store.output_partitions == 4
    assert isinstance(ran.planned, RunsOnSwarm)
    (aggregate, *_) = [s for s in ran.planned.graph.stages if not s.in_session]
    assert len(ran.tasks[aggregate.stage]) == 4
    read = [ref.segment.rows for task in ran.tasks[aggregate.stage] for ref in task.exchanges[0].segments]
    assert sum(read) == ROWS


def test_a_table_that_is_read_twice_is_stored_once(session: datafusion.SessionContext, tmp_path: Path) -> None:
    sql = "SELECT a.g, count(*) AS n FROM parts a JOIN parts b ON a.k = b.k AND a.g = b.g AND a.v = b.v GROUP BY a.g"
    assert len(stored(swarm(session, tmp_path, 3).run(sql))) == 1


def test_a_build_side_in_memory_is_read_as_it_was_stored(session: datafusion.SessionContext, tmp_path: Path) -> None:
    planned = swarm(session, tmp_path, 3).plan("SELECT f.w, t.g FROM files f JOIN few t ON f.id = t.k")
    assert isinstance(planned, RunsOnSwarm)
    kinds = [stage.output for stage in planned.graph.stages]
    assert kinds == ["spread", "gather", "result"], "no stage may do nothing but copy the table"


def test_a_query_of_in_memory_tables_alone_that_has_one_part_stays_here(
    session: datafusion.SessionContext, tmp_path: Path
) -> None:
    planned = swarm(session, tmp_path, 3, small_bytes=1 << 20).plan("SELECT g, count(*) FROM parts GROUP BY g")
    assert isinstance(planned, RunsHere)
    assert planned.reason.startswith("nothing to distribute")


def test_a_small_table_travels_inside_the_fragment(session: datafusion.SessionContext, tmp_path: Path) -> None:
    local = swarm(session, tmp_path, 3)
    local.rewrite = RewriteOptions(partitions=3, small_bytes=0)
    planned = local.plan("SELECT f.w, t.g FROM files f JOIN parts t ON f.id = t.k")
    assert isinstance(planned, RunsOnSwarm)
    assert not any(stage.in_session for stage in planned.graph.stages)


@pytest.mark.parametrize(("table", "partitions"), [("one_batch", 1), ("parts", 3), ("empty", 1), ("nested", 1)])
def test_an_emptied_table_has_its_schema_one_partition_and_no_rows(
    table: str, partitions: int, session: datafusion.SessionContext
) -> None:
    plan = session.sql(f"SELECT g, k FROM {table}").execution_plan()
    node = codec.decode(plan.to_bytes(session))
    assert node.kind == "memory_scan"
    count = codec.table_partitions(node)
    assert count >= partitions
    emptied = codec.emptied_table(node)
    assert codec.fields_of(emptied) == codec.fields_of(codec.replace(node, partitions=[b""]))
    decoded = ExecutionPlan.from_bytes(session, codec.encode(emptied))
    assert decoded.partition_count == 1
    assert sum(batch.to_pyarrow().num_rows for batch in session.execute(decoded, 0)) == 0
