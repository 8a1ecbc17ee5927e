"""DataFrame writers, CREATE TABLE AS, and inserts into tables in memory: DataFusion's results, the swarm's work."""

from __future__ import annotations

from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import ParquetColumnOptions, ParquetWriterOptions, col
from datafusion.dataframe import InsertOp

from apiary_df import DataFrameWriteOptions, SessionContext
from apiary_df.errors import ConfigError, InputError, SqlError, TaskFailed
from swarm.conftest import Open
from swarm.helpers import check_same, check_was_distributed, wait_until
from swarm.test_writes import ROWS, check_no_trace, files_in, read_back, source, there

__all__ = ["source", "there"]


@pytest.fixture
def ctx(joined: Open, source: Path) -> SessionContext:
    ctx = joined()
    ctx.register_parquet("t", str(source))
    return ctx


def test_each_writer_reads_back_as_plain_datafusions_does(
    ctx: SessionContext,
    there: datafusion.SessionContext,
    tmp_path: Path,
) -> None:
    for name, session in (("swarm", ctx), ("plain", there)):
        frame = session.table("t")
        frame.write_parquet(tmp_path / name / "parquet")
        frame.write_csv(tmp_path / name / "csv", with_header=True)
        frame.write_json(tmp_path / name / "json")
        if session is ctx:
            check_was_distributed(ctx)
    for kind in ("parquet", "csv", "json"):
        expected, actual = (read_back(tmp_path / name / kind, kind) for name in ("plain", "swarm"))
        check_same(expected, actual, ordered=False)
    check_no_trace(ctx)


def test_write_csv_leaves_the_header_out_unless_asked(ctx: SessionContext, tmp_path: Path) -> None:
    ctx.table("t").select("k").sort("k").write_csv(tmp_path / "without.csv")
    ctx.table("t").select("k").sort("k").write_csv(tmp_path / "with.csv", with_header=True)
    assert (tmp_path / "without.csv").read_text().split()[:2] == ["0", "1"]
    assert (tmp_path / "with.csv").read_text().split()[:2] == ["k", "0"]


def test_a_single_file_is_written_and_sorted_when_asked(ctx: SessionContext, tmp_path: Path) -> None:
    options = DataFrameWriteOptions(single_file_output=True, sort_by=col("k").sort(ascending=False))
    ctx.table("t").write_parquet(tmp_path / "one", write_options=options)
    assert pq.read_table(tmp_path / "one").column("k").to_pylist() == list(range(ROWS - 1, -1, -1))
    check_was_distributed(ctx)


@pytest.mark.parametrize("made", [DataFrameWriteOptions, datafusion.DataFrameWriteOptions])
def test_partitions_are_folders_whoever_made_the_options(
    ctx: SessionContext, tmp_path: Path, made: type[datafusion.DataFrameWriteOptions]
) -> None:
    frame = ctx.sql("SELECT k, k % 3 AS m FROM t")
    frame.write_parquet(tmp_path / "tree", write_options=made(partition_by="m"))
    assert {path.name for path in (tmp_path / "tree").iterdir()} == {"m=0", "m=1", "m=2"}
    assert read_back(tmp_path / "tree", "parquet", ("m",)).num_rows == ROWS


def test_parquet_options_hold_for_the_whole_and_for_a_column(ctx: SessionContext, tmp_path: Path) -> None:
    options = ParquetWriterOptions(
        compression="gzip(4)",
        max_row_group_size=700,
        created_by="a test",
        column_specific_options={"x": ParquetColumnOptions(compression="snappy")},
    )
    ctx.table("t").write_parquet(tmp_path / "out", options)
    for path in (tmp_path / "out").iterdir():
        file = pq.ParquetFile(path).metadata
        assert file.created_by == "a test"
        for group in range(file.num_row_groups):
            assert file.row_group(group).num_rows <= 700
            assert file.row_group(group).column(0).compression == "GZIP"
            assert file.row_group(group).column(2).compression == "SNAPPY"


def test_overwriting_files_is_refused_before_any_work(ctx: SessionContext, tmp_path: Path) -> None:
    options = DataFrameWriteOptions(insert_operation=InsertOp.OVERWRITE)
    with pytest.raises(ConfigError, match="only appends"):
        ctx.table("t").write_json(tmp_path / "out", write_options=options)
    assert files_in(tmp_path) == []


def test_a_writer_that_fails_leaves_nothing(ctx: SessionContext, tmp_path: Path) -> None:
    with pytest.raises(TaskFailed, match="Divide by zero"):
        ctx.sql("SELECT 1 / (k - 10) AS k FROM t").write_parquet(tmp_path / "out")
    wait_until(lambda: list(tmp_path.iterdir()) == [], "what attempts wrote is gone")


def test_the_view_that_a_writer_uses_is_gone_afterwards(ctx: SessionContext, tmp_path: Path) -> None:
    before = ctx.catalog().schema().names()
    ctx.table("t").write_parquet(tmp_path / "out")
    with pytest.raises(InputError):
        ctx.table("t").write_csv("http://nowhere.invalid/x/")
    assert ctx.catalog().schema().names() == before


def test_write_table_appends_to_files_and_to_memory(ctx: SessionContext, tmp_path: Path) -> None:
    ctx.sql(f"CREATE EXTERNAL TABLE kept (k BIGINT) STORED AS PARQUET LOCATION '{tmp_path}/kept/'")
    ctx.sql("CREATE TABLE held (k BIGINT)")
    for name in ("kept", "held"):
        ctx.table("t").select("k").write_table(name)
        check_was_distributed(ctx)
        ctx.table("t").select("k").write_table(name)
        assert ctx.table(name).count() == 2 * ROWS


def test_write_table_refuses_other_columns_as_datafusion_does(ctx: SessionContext) -> None:
    ctx.sql("CREATE TABLE held (k BIGINT)")
    with pytest.raises(Exception, match="same schema"):
        ctx.table("t").write_table("held")


CREATED = [
    "CREATE TABLE made AS SELECT g, count(*) AS n, sum(x) AS s FROM t GROUP BY g",
    "CREATE TABLE IF NOT EXISTS made AS SELECT k FROM t",
    "CREATE OR REPLACE TABLE made AS SELECT k, d, t FROM t",
    "CREATE TABLE made (a INT, b VARCHAR) AS SELECT k, g FROM t",
    'CREATE TABLE public.made AS WITH w AS (SELECT k AS "as" FROM t) SELECT * FROM w WHERE "as" > 5',
]


@pytest.mark.parametrize("statement", CREATED)
def test_created_tables_are_as_plain_datafusions(
    ctx: SessionContext,
    there: datafusion.SessionContext,
    statement: str,
) -> None:
    ctx.sql(statement)
    check_was_distributed(ctx)
    there.sql(statement)
    expected, actual = there.table("made"), ctx.table("made")
    assert actual.schema() == expected.schema()
    check_same(expected.to_arrow_table(), actual.to_arrow_table(), ordered=False)


def test_a_table_of_an_odd_name_can_be_created(ctx: SessionContext) -> None:
    ctx.sql('CREATE TABLE "As is; ""so""" AS SELECT max(k) AS m FROM t')
    assert ctx.sql('SELECT * FROM "As is; ""so"""').to_pydict() == {"m": [ROWS - 1]}


def test_a_table_that_exists_is_left_alone(ctx: SessionContext) -> None:
    ctx.sql("CREATE TABLE made AS SELECT 1 AS one")
    with pytest.raises(SqlError, match="already exists"):
        ctx.sql("CREATE TABLE made AS SELECT k FROM t")
    ctx.sql("CREATE TABLE IF NOT EXISTS made AS SELECT k FROM t")
    assert ctx.table("made").to_pydict() == {"one": [1]}
    ctx.sql("CREATE OR REPLACE TABLE made AS SELECT one + k AS two FROM made, t WHERE k < 2")
    assert sorted(ctx.table("made").to_pydict()["two"]) == [1, 2]


def test_a_table_whose_query_fails_is_not_created(ctx: SessionContext) -> None:
    before = ctx.catalog().schema().names()
    with pytest.raises(TaskFailed):
        ctx.sql("CREATE TABLE made AS SELECT 1 / (k - 10) AS x FROM t")
    with pytest.raises(SqlError):
        ctx.sql("CREATE TABLE made AS SELECT nothing FROM t")
    assert ctx.catalog().schema().names() == before


def test_a_view_runs_on_the_swarm_when_it_is_read(ctx: SessionContext) -> None:
    ctx.sql("CREATE VIEW seen AS SELECT k % 4 AS m FROM t")
    assert ctx.sql("SELECT m, count(*) AS n FROM seen GROUP BY m ORDER BY m").to_pydict() == {
        "m": [0, 1, 2, 3],
        "n": [ROWS // 4] * 4,
    }
    check_was_distributed(ctx)


@pytest.mark.parametrize(
    "statement", ["INSERT INTO held SELECT k, g FROM t", "INSERT INTO held (b) SELECT g FROM t WHERE k > 100"]
)
def test_inserts_into_memory_are_as_plain_datafusions(
    ctx: SessionContext,
    there: datafusion.SessionContext,
    statement: str,
) -> None:
    for session in (ctx, there):
        session.sql("CREATE TABLE held (a BIGINT, b VARCHAR)")
    expected, actual = there.sql(statement).to_arrow_table(), ctx.sql(statement).to_arrow_table()
    check_was_distributed(ctx)
    check_same(expected, actual)
    check_same(there.table("held").to_arrow_table(), ctx.table("held").to_arrow_table(), ordered=False)


def test_a_failing_insert_into_memory_adds_nothing(ctx: SessionContext) -> None:
    ctx.sql("CREATE TABLE held (a BIGINT)")
    with pytest.raises(TaskFailed):
        ctx.sql("INSERT INTO held SELECT 1 / (k - 5000) FROM t").collect()
    assert ctx.table("held").count() == 0


def test_a_format_whose_writer_cannot_be_sent_is_written_here(ctx: SessionContext, tmp_path: Path) -> None:
    assert ctx.sql(f"COPY t TO '{tmp_path}/one.arrow'").to_pylist() == [{"count": ROWS}]
    check_was_distributed(ctx)
    assert pa.ipc.open_file(str(tmp_path / "one.arrow")).read_all().num_rows == ROWS


def test_rows_inserted_are_seen_by_a_session_that_has_read_the_table_before(
    ctx: SessionContext, tmp_path: Path
) -> None:
    ctx.table("t").select("k").write_parquet(tmp_path / "kept")
    ctx.register_parquet("kept", str(tmp_path / "kept"))
    for times in (1, 2, 3):
        assert ctx.sql("SELECT count(*) AS n FROM kept").to_pylist() == [{"n": times * ROWS}]
        assert ctx.table("kept").limit(10**6).to_arrow_table().num_rows == times * ROWS
        ctx.sql("INSERT INTO kept SELECT k FROM t").collect()


def test_explain_tells_of_the_query_whose_rows_are_inserted(ctx: SessionContext) -> None:
    ctx.sql("CREATE TABLE held (a BIGINT)")
    text = ctx.sql("EXPLAIN INSERT INTO held SELECT k FROM t").to_pylist()[0]["plan"]
    assert text.startswith("the statement is carried out in this process, over the rows of this query:\ndistributed")
    assert ctx.table("held").count() == 0
    text = ctx.sql("EXPLAIN CREATE TABLE made AS SELECT k FROM t").to_pylist()[0]["plan"]
    assert text.startswith("the statement is carried out in this process, over the rows of this query:\ndistributed")
    assert not ctx.table_exist("made")
