"""Tables that only the session's process can read: right rows, in that process, and a reason that names them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from datafusion import SessionConfig, Table, udtf

from apiary_df import LocalSwarm, SessionContext
from swarm.helpers import FORCED, check_same, check_was_distributed

QUERIES = {
    "alone": ("SELECT count(*) AS n, sum(a) AS s FROM foreign_rows", "foreign_rows"),
    "joined_with_files": (
        "SELECT f.b, count(*) AS n FROM foreign_rows f JOIN files p ON f.a = p.a GROUP BY f.b ORDER BY f.b",
        "foreign_rows",
    ),
    "in_a_subquery": (
        "SELECT a FROM files WHERE a IN (SELECT a FROM foreign_rows WHERE a < 9) ORDER BY a",
        "foreign_rows",
    ),
    "behind_a_view": ("SELECT a FROM seen WHERE a < 5 ORDER BY a", "foreign_rows"),
    "beside_files": ("SELECT a FROM files UNION ALL SELECT a FROM foreign_rows ORDER BY a LIMIT 9", "foreign_rows"),
    "function": ("SELECT count(*) AS n FROM made(3)", "made()"),
    "system": ("SELECT table_name FROM information_schema.tables ORDER BY 1", "tables of the system"),
}


def register(ctx: datafusion.SessionContext, folder: Path) -> None:
    ctx.register_parquet("files", str(folder))
    ctx.register_dataset("foreign_rows", ds.dataset(str(folder)))
    ctx.sql("CREATE VIEW seen AS SELECT a FROM foreign_rows")
    table = Table(ds.dataset(str(folder)))
    ctx.register_udtf(udtf(lambda *_: table, "made"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of the same rows under other numbers."""
    path = tmp_path_factory.mktemp("foreign")
    for part in range(3):
        ids = range(part * 10, part * 10 + 10)
        pq.write_table(
            pa.table({"a": pa.array(ids, pa.int64()), "b": [f"b{i % 3}" for i in ids]}), path / f"{part}.parquet"
        )
    return path


@pytest.fixture(scope="module")
def plain_foreign(folder: Path) -> datafusion.SessionContext:
    """Plain DataFusion with the same tables."""
    ctx = datafusion.SessionContext(SessionConfig().with_information_schema(True))
    register(ctx, folder)
    return ctx


@pytest.fixture(scope="module")
def session(swarm: LocalSwarm, folder: Path) -> Iterator[SessionContext]:
    """A session on the shared swarm with the same tables."""
    with SessionContext(SessionConfig().with_information_schema(True), storage=swarm.storage, **FORCED) as ctx:
        register(ctx, folder)
        yield ctx


@pytest.mark.parametrize("query", QUERIES)
def test_what_only_this_process_can_read_is_read_here_and_said_so(
    query: str, session: SessionContext, plain_foreign: datafusion.SessionContext
) -> None:
    sql, table = QUERIES[query]
    check_same(plain_foreign.sql(sql).to_arrow_table(), session.sql(sql).to_arrow_table())
    report = session.last_query
    assert report is not None
    assert not report.distributed
    assert table in report.reason
    assert table in "\n".join(session.sql(f"EXPLAIN {sql}").to_pydict()["plan"]).splitlines()[0]


def test_the_advice_works(session: SessionContext) -> None:
    session.register_table("copied", session.table("foreign_rows").cache())
    sql = "SELECT f.b, count(*) AS n FROM copied f JOIN files p ON f.a = p.a GROUP BY f.b ORDER BY f.b"
    assert session.sql(sql).to_pydict() == {"b": ["b0", "b1", "b2"], "n": [10, 10, 10]}
    check_was_distributed(session)
