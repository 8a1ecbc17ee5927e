"""Cell tables by name: schema provider and CREATE EXTERNAL TABLE."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import SessionContext

from apiary_df.errors import TableError
from apiary_df.tables import CellSchemaProvider, install


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"a": [value]}), path)


class TestSchemaProvider:
    @pytest.fixture
    def warehouse(self, tmp_path: Path) -> Path:
        write(tmp_path / "single.parquet", 1)
        write(tmp_path / "folder" / "x.parquet", 2)
        write(tmp_path / "tree" / "k=5" / "x.parquet", 3)
        write(tmp_path / "_hidden" / "x.parquet", 4)
        (tmp_path / "readme.txt").write_text("no table")
        return tmp_path

    @pytest.fixture
    def ctx(self, warehouse: Path) -> SessionContext:
        ctx = SessionContext()
        ctx.catalog().register_schema("lake", CellSchemaProvider(ctx, warehouse))
        return ctx

    def test_files_and_folders_are_tables(self, ctx: SessionContext) -> None:
        assert ctx.catalog().schema("lake").table_names() == {"single", "folder", "tree"}

    def test_tables_answer_sql(self, ctx: SessionContext) -> None:
        sql = "SELECT s.a, f.a AS b, t.a AS c, t.k FROM lake.single s, lake.folder f, lake.tree t WHERE t.k = 5"
        assert ctx.sql(sql).to_pylist() == [{"a": 1, "b": 2, "c": 3, "k": 5}]

    def test_filters_reach_the_files(self, ctx: SessionContext) -> None:
        text = ctx.sql("SELECT a FROM lake.tree WHERE a > 2 AND k = 5").execution_plan().display_indent()
        assert "pruning_predicate=" in text

    def test_an_unknown_table_is_not_found(self, ctx: SessionContext) -> None:
        with pytest.raises(Exception, match=r"lake\.nope' not found"):
            ctx.sql("SELECT * FROM lake.nope")

    def test_tables_of_a_session_that_is_gone_say_so(self, warehouse: Path) -> None:
        provider = CellSchemaProvider(SessionContext(), warehouse)
        with pytest.raises(TableError, match="gone"):
            provider.table("single")

    def test_new_tables_show_after_a_refresh(self, warehouse: Path) -> None:
        ctx = SessionContext()
        provider = CellSchemaProvider(ctx, warehouse)
        assert not provider.table_exist("late")
        write(warehouse / "late.parquet", 9)
        provider.refresh()
        assert provider.table_exist("late")

    def test_a_broken_table_is_reported_where_it_is_used(self, ctx: SessionContext, warehouse: Path) -> None:
        (warehouse / "folder" / "bad.parquet").write_text("no parquet at all")
        with pytest.raises(TableError, match=r"bad\.parquet"):
            ctx.sql("SELECT * FROM lake.folder")

    def test_a_name_of_both_a_file_and_a_folder_is_refused(self, warehouse: Path) -> None:
        write(warehouse / "folder.parquet", 5)
        with pytest.raises(TableError, match="which table 'folder'"):
            CellSchemaProvider(SessionContext(), warehouse).table_names()


class TestCreateExternalTable:
    @pytest.fixture
    def ctx(self) -> SessionContext:
        ctx = SessionContext()
        install(ctx)
        return ctx

    def test_a_folder(self, ctx: SessionContext, tmp_path: Path) -> None:
        write(tmp_path / "a.parquet", 1)
        write(tmp_path / "b.parquet", 2)
        ctx.sql(f"CREATE EXTERNAL TABLE t STORED AS CELLS LOCATION '{tmp_path}'")
        assert ctx.sql("SELECT sum(a) AS s FROM t WHERE a > 0").to_pylist() == [{"s": 3}]

    def test_partition_columns_by_name(self, ctx: SessionContext, tmp_path: Path) -> None:
        write(tmp_path / "k=1" / "a.parquet", 1)
        ctx.sql(f"CREATE EXTERNAL TABLE t STORED AS CELLS PARTITIONED BY (k) LOCATION '{tmp_path}'")
        assert ctx.table("t").to_pylist() == [{"a": 1, "k": 1}]

    def test_several_places(self, ctx: SessionContext, tmp_path: Path) -> None:
        write(tmp_path / "x" / "a.parquet", 1)
        write(tmp_path / "y" / "b.parquet", 2)
        ctx.sql(f"CREATE EXTERNAL TABLE t STORED AS CELLS LOCATION ('{tmp_path}/x', '{tmp_path}/y')")
        assert ctx.sql("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 2}]

    @pytest.mark.parametrize("prefix", ["cells.", ""])
    def test_options(self, ctx: SessionContext, tmp_path: Path, prefix: str) -> None:
        (tmp_path / "data.txt").write_text("1|2\n")
        options = {"format": "csv", "file_extension": ".txt", "delimiter": "|", "has_header": "false"}
        words = ", ".join(f"'{prefix}{name}' '{value}'" for name, value in options.items())
        ctx.sql(f"CREATE EXTERNAL TABLE t STORED AS CELLS LOCATION '{tmp_path}' OPTIONS ({words})")
        assert ctx.table("t").to_pylist() == [{"column_1": 1, "column_2": 2}]

    @pytest.mark.parametrize(
        ("clauses", "message"),
        [
            ("OPTIONS ('cells.colour' 'red')", "unknown option 'colour'"),
            ("OPTIONS ('cells.has_header' 'maybe')", "true or false, not 'maybe'"),
            ("OPTIONS ('cells.schema_infer_max_rows' 'all')", "number of rows, not 'all'"),
            ("OPTIONS ('cells.format' 'orc')", "unknown table format 'orc'"),
            ("PARTITIONED BY (year)", r"no folder is named column=value"),
        ],
    )
    def test_what_cannot_be_done_is_said(self, ctx: SessionContext, tmp_path: Path, clauses: str, message: str) -> None:
        write(tmp_path / "a.parquet", 1)
        with pytest.raises(Exception, match=message):
            ctx.sql(f"CREATE EXTERNAL TABLE t STORED AS CELLS {clauses} LOCATION '{tmp_path}'")

    def test_declared_columns_need_a_session_that_carries_their_types(
        self, ctx: SessionContext, tmp_path: Path
    ) -> None:
        write(tmp_path / "a.parquet", 1)
        with pytest.raises(Exception, match="their names only"):
            ctx.sql(f"CREATE EXTERNAL TABLE t (a BIGINT) STORED AS CELLS LOCATION '{tmp_path}'")


class TestStatement:
    """What a session gains by running statements inside the factory's ``statement``."""

    def test_declared_columns_have_their_types(self, tmp_path: Path) -> None:
        (tmp_path / "k=1").mkdir()
        (tmp_path / "k=1" / "a.csv").write_text("a,b\n01,2\n")
        ctx = SessionContext()
        factory = install(ctx)
        sql = (
            "CREATE EXTERNAL TABLE t (a VARCHAR, b SMALLINT, k INT) STORED AS CELLS PARTITIONED BY (k) "
            f"LOCATION '{tmp_path}' OPTIONS ('cells.format' 'csv')"
        )
        with factory.statement(sql):
            ctx.sql(sql)
        frame = ctx.table("t")
        assert frame.to_pylist() == [{"a": "01", "b": 2, "k": 1}]
        assert frame.schema().types[1:] == [pa.int16(), pa.int32()]

    def test_errors_keep_their_type(self, tmp_path: Path) -> None:
        ctx = SessionContext()
        factory = install(ctx)
        sql = f"CREATE EXTERNAL TABLE t STORED AS CELLS LOCATION '{tmp_path}/nope'"
        with pytest.raises(TableError, match="no such file or folder"), factory.statement(sql):
            ctx.sql(sql)

    def test_errors_of_other_statements_pass_through(self) -> None:
        ctx = SessionContext()
        factory = install(ctx)
        with pytest.raises(Exception, match="nope") as caught, factory.statement("SELECT * FROM nope"):
            ctx.sql("SELECT * FROM nope")
        assert not isinstance(caught.value, TableError)

    def test_nothing_is_created_by_looking_at_a_statement(self, tmp_path: Path) -> None:
        write(tmp_path / "a.parquet", 1)
        ctx = SessionContext()
        factory = install(ctx)
        with factory.statement(f"CREATE EXTERNAL TABLE t STORED AS CELLS LOCATION '{tmp_path}'"):
            pass
        assert not ctx.table_exist("t")
