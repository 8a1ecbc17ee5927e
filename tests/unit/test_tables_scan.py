"""Cell tables against DataFusion's own tables over the same files: the same rows, pruning, statistics and plans."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import SessionContext

from apiary_df.errors import TableError
from apiary_df.model import CellInfo
from apiary_df.tables import CellTable, CsvOptions, register, to_dataframe

PARTITIONS: list[tuple[str, str | pa.DataType]] = [("year", pa.int64()), ("city", pa.string())]


def write(path: Path, start: int, rows: int = 1_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = pa.table({"a": range(start, start + rows), "b": [f"text {i}" for i in range(rows)]})
    pq.write_table(data, path, row_group_size=250)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for number in range(3):
        write(tmp_path / f"{number}.parquet", number * 1_000)
    return tmp_path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number, folder in enumerate(["year=2023/city=Bern", "year=2023/city=Rome", "year=2024/city=Bern"]):
        write(tmp_path / folder / "part-0.parquet", number * 1_000)
    return tmp_path


def rows(ctx: SessionContext, sql: str) -> list[dict[str, object]]:
    return sorted(ctx.sql(sql).to_pylist(), key=repr)


def plan(ctx: SessionContext, sql: str) -> str:
    return ctx.sql(sql).execution_plan().display_indent()


def scans(ctx: SessionContext, sql: str) -> list[str]:
    """The lines of a plan that read files, with statistics."""
    ctx.sql("SET datafusion.explain.show_statistics = true").collect()
    text: str = ctx.sql(f"EXPLAIN {sql}").to_pydict()["plan"][-1]
    return [line.strip() for line in text.splitlines() if "DataSourceExec" in line]


def metric(ctx: SessionContext, sql: str, name: str) -> list[str]:
    text: str = ctx.sql(f"EXPLAIN ANALYZE {sql}").to_pydict()["plan"][-1]
    return sorted(re.findall(rf"\b{name}=([^,\]]+)", text))


class TestFlat:
    QUERIES: Sequence[str] = (
        "SELECT a FROM {t} WHERE a BETWEEN 900 AND 1100",
        "SELECT b FROM {t} WHERE b = 'text 7'",
        "SELECT max(b) AS b, sum(a) AS a FROM {t} WHERE a > 2500",
        "SELECT * FROM {t} ORDER BY a DESC LIMIT 3",
    )

    @pytest.fixture
    def ctx(self, flat: Path) -> SessionContext:
        ctx = SessionContext()
        ctx.register_parquet("native", str(flat))
        register(ctx, "cells", CellTable.from_prefix(flat))
        return ctx

    @pytest.mark.parametrize("query", QUERIES)
    def test_rows_are_those_of_the_native_table(self, ctx: SessionContext, query: str) -> None:
        assert rows(ctx, query.format(t="cells")) == rows(ctx, query.format(t="native"))

    @pytest.mark.parametrize("query", QUERIES)
    def test_scans_are_those_of_the_native_table(self, ctx: SessionContext, query: str) -> None:
        assert scans(ctx, query.format(t="cells")) == scans(ctx, query.format(t="native"))

    def test_row_groups_are_pruned_as_on_the_native_table(self, ctx: SessionContext) -> None:
        query = "SELECT a FROM {t} WHERE a > 2900"
        found = metric(ctx, query.format(t="cells"), "row_groups_pruned_statistics")
        assert found == metric(ctx, query.format(t="native"), "row_groups_pruned_statistics")
        assert found == ["4 total → 1 matched"]

    def test_a_count_is_answered_from_statistics(self, ctx: SessionContext) -> None:
        assert "DataSourceExec" not in plan(ctx, "SELECT count(*), max(a) FROM cells")

    def test_the_schema_is_that_of_the_native_table(self, ctx: SessionContext) -> None:
        assert ctx.table("cells").schema() == ctx.table("native").schema()

    def test_files_added_later_are_not_part_of_the_table(self, ctx: SessionContext, flat: Path) -> None:
        write(flat / "9.parquet", 9_000)
        assert rows(ctx, "SELECT count(*) AS n FROM cells") == [{"n": 3_000}]

    def test_a_table_of_some_files_reads_only_those(self, flat: Path) -> None:
        ctx = SessionContext()
        frame = to_dataframe(ctx, CellTable.from_urls([flat / "2.parquet", flat / "0.parquet"]))
        text = frame.execution_plan().display_indent()
        assert re.findall(r"(\d)\.parquet", text) == ["0", "2"]

    def test_registering_again_sees_new_files(self, ctx: SessionContext, flat: Path) -> None:
        write(flat / "9.parquet", 9_000)
        ctx.deregister_table("cells")
        register(ctx, "cells", CellTable.from_prefix(flat))
        assert rows(ctx, "SELECT count(*) AS n FROM cells") == [{"n": 4_000}]

    def test_a_taken_name_is_refused(self, ctx: SessionContext, flat: Path) -> None:
        with pytest.raises(TableError, match=r"cannot register the table cells: .*exists"):
            register(ctx, "cells", CellTable.from_prefix(flat))

    def test_a_subclass_of_the_session_works_as_well(self, flat: Path) -> None:
        class Mine(SessionContext):
            pass

        assert to_dataframe(Mine(), CellTable.from_prefix(flat)).count() == 3_000


class TestHiveTree:
    QUERIES: Sequence[str] = (
        "SELECT a FROM {t} WHERE year = 2024 AND a > 2900",
        "SELECT city, count(*) AS n, min(a) AS low FROM {t} WHERE city = 'Bern' GROUP BY city",
        "SELECT year, city, sum(a) AS s FROM {t} GROUP BY year, city",
        "SELECT count(*) AS n FROM {t} WHERE year > 2030",
        "SELECT a, year FROM {t} WHERE city LIKE 'R%' AND a < 1003",
    )

    @pytest.fixture
    def ctx(self, tree: Path) -> SessionContext:
        ctx = SessionContext()
        ctx.register_listing_table("native", str(tree), table_partition_cols=PARTITIONS)
        register(ctx, "cells", CellTable.from_prefix(tree))
        return ctx

    @pytest.fixture
    def listed(self, tree: Path, ctx: SessionContext) -> SessionContext:
        """The same cells with their partition values given, not listed by DataFusion."""
        register(ctx, "listed", CellTable.from_cells(CellTable.from_prefix(tree).cells))
        return ctx

    @pytest.mark.parametrize("query", QUERIES)
    @pytest.mark.parametrize("table", ["cells", "listed"])
    def test_rows_are_those_of_the_native_table(self, listed: SessionContext, table: str, query: str) -> None:
        assert rows(listed, query.format(t=table)) == rows(listed, query.format(t="native"))

    @pytest.mark.parametrize("query", QUERIES)
    def test_scans_are_those_of_the_native_table(self, ctx: SessionContext, query: str) -> None:
        assert scans(ctx, query.format(t="cells")) == scans(ctx, query.format(t="native"))

    @pytest.mark.parametrize("table", ["cells", "listed"])
    def test_partitions_that_do_not_match_are_not_scanned(self, listed: SessionContext, table: str) -> None:
        text = plan(listed, f"SELECT a FROM {table} WHERE year = 2023 AND city = 'Rome'")
        assert re.findall(r"year=\d+/city=\w+", text) == ["year=2023/city=Rome"]
        assert "Union" not in text

    @pytest.mark.parametrize("table", ["cells", "listed"])
    def test_filters_on_columns_prune_row_groups_below_partitions(self, listed: SessionContext, table: str) -> None:
        query = f"SELECT a FROM {table} WHERE year = 2024 AND a >= 2750"
        assert metric(listed, query, "row_groups_pruned_statistics")[0].startswith("4 total → 1 matched")

    def test_the_schema_is_that_of_the_native_table(self, listed: SessionContext) -> None:
        native = listed.table("native").schema()
        assert listed.table("cells").schema() == native
        assert listed.table("listed").schema() == native

    def test_a_stale_listing_of_the_session_loses_no_file(self, ctx: SessionContext, tree: Path) -> None:
        write(tree / "year=2025" / "city=Bern" / "part-0.parquet", 9_000)
        ctx.deregister_table("cells")
        register(ctx, "cells", CellTable.from_prefix(tree))
        assert rows(ctx, "SELECT count(*) AS n FROM cells") == [{"n": 4_000}]
        assert rows(ctx, "SELECT count(*) AS n FROM cells WHERE year = 2025") == [{"n": 1_000}]

    def test_many_partitions_make_one_plan(self, tmp_path: Path) -> None:
        write(tmp_path / "f.parquet", 0, rows=10)
        for number in range(300):
            (tmp_path / f"{number}.parquet").hardlink_to(tmp_path / "f.parquet")
        cells = [
            CellInfo(storage_key=str(tmp_path / f"{n}.parquet"), bytes=1, partition=(("k", str(n)),))
            for n in range(300)
        ]
        ctx = SessionContext()
        register(ctx, "t", CellTable.from_cells(cells))
        assert rows(ctx, "SELECT count(*) AS n, sum(k) AS s FROM t") == [{"n": 3_000, "s": 448_500}]


class TestPartitionValues:
    """What DataFusion's own listing gets wrong, or cannot express."""

    @pytest.mark.parametrize(
        ("folder", "type_", "condition"),
        [
            ("k=01", pa.int32(), "k = 1"),
            ("k=a%20b", pa.string(), "k = 'a b'"),
            ("k=a b", pa.string(), "k = 'a b'"),
            ("k=__HIVE_DEFAULT_PARTITION__", pa.int64(), "k IS NULL"),
            ("k=2.50", pa.float64(), "k = 2.5"),
            ("k=2024-02-29", pa.date32(), "k = DATE '2024-02-29'"),
            ("k=", pa.string(), "k = ''"),
        ],
    )
    def test_a_filter_finds_the_partition(
        self, tmp_path: Path, folder: str, type_: pa.DataType, condition: str
    ) -> None:
        write(tmp_path / folder / "x.parquet", 0, rows=2)
        ctx = SessionContext()
        register(ctx, "t", CellTable.from_prefix(tmp_path, partition_types={"k": type_}))
        assert rows(ctx, f"SELECT a FROM t WHERE {condition}") == [{"a": 0}, {"a": 1}]
        assert ctx.table("t").schema().field("k").type == type_

    def test_values_that_are_not_in_the_path_prune_too(self, flat: Path) -> None:
        ctx = SessionContext()
        cells = [
            CellInfo(
                storage_key=str(flat / f"{n}.parquet"), bytes=1, partition=(("Group", "even" if n % 2 == 0 else "odd"),)
            )
            for n in range(3)
        ]
        register(ctx, "t", CellTable.from_cells(cells))
        query = "SELECT a FROM t WHERE \"Group\" = 'odd'"
        assert re.findall(r"(\d)\.parquet", plan(ctx, query)) == ["1"]
        assert len(rows(ctx, query)) == 1_000

    def test_cells_of_one_partition_share_a_scan(self, flat: Path) -> None:
        ctx = SessionContext()
        cells = [CellInfo(storage_key=str(flat / f"{n}.parquet"), bytes=1, partition=(("k", "1"),)) for n in range(3)]
        register(ctx, "t", CellTable.from_cells(cells))
        assert len(scans(ctx, "SELECT a, k FROM t")) == 1

    def test_a_path_value_wins_over_a_column_of_the_same_name(self, tmp_path: Path) -> None:
        (tmp_path / "a=7").mkdir()
        pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "a=7" / "x.parquet")
        frame = to_dataframe(SessionContext(), CellTable.from_prefix(tmp_path))
        assert frame.to_pylist() == [{"a": 7, "b": 2}]


class TestOtherFormats:
    def test_csv(self, tmp_path: Path) -> None:
        (tmp_path / "1.csv").write_text("a;b\n1;x\n")
        (tmp_path / "2.csv").write_text("a;b\n2.5;\n")
        table = CellTable.from_prefix(tmp_path, format="csv", csv=CsvOptions(delimiter=";"))
        frame = to_dataframe(SessionContext(), table)
        assert sorted(r["a"] for r in frame.to_pylist()) == [1.0, 2.5]
        assert frame.schema().types == [pa.float64(), pa.string()]

    def test_csv_without_a_header_in_a_hive_tree(self, tmp_path: Path) -> None:
        (tmp_path / "k=1").mkdir()
        (tmp_path / "k=1" / "x.csv").write_text("5,6\n")
        table = CellTable.from_prefix(tmp_path, format="csv", csv=CsvOptions(has_header=False))
        assert to_dataframe(SessionContext(), table).to_pylist() == [{"column_1": 5, "column_2": 6, "k": 1}]

    def test_compressed_json(self, tmp_path: Path) -> None:
        import gzip

        (tmp_path / "1.json.gz").write_bytes(gzip.compress(b'{"a": 1}\n'))
        (tmp_path / "2.json.gz").write_bytes(gzip.compress(b'{"b": "x"}\n'))
        table = CellTable.from_prefix(tmp_path, format="json", compression="gzip")
        found = to_dataframe(SessionContext(), table).to_pylist()
        assert sorted(found, key=repr) == [{"a": 1, "b": None}, {"a": None, "b": "x"}]

    def test_arrow(self, tmp_path: Path) -> None:
        for number in range(2):
            with pa.ipc.new_file(tmp_path / f"{number}.arrow", pa.schema([("a", pa.int8())])) as writer:
                writer.write(pa.record_batch({"a": pa.array([number], pa.int8())}))
        frame = to_dataframe(SessionContext(), CellTable.from_prefix(tmp_path, format="arrow"))
        assert sorted(frame.to_pydict()["a"]) == [0, 1]

    def test_a_declared_schema_is_not_guessed(self, tmp_path: Path) -> None:
        (tmp_path / "1.csv").write_text("a\n01\n")
        schema = pa.schema([("a", pa.string())])
        table = CellTable.from_prefix(tmp_path, format="csv", schema=schema)
        assert to_dataframe(SessionContext(), table).to_pylist() == [{"a": "01"}]


class TestDifferingFiles:
    def test_missing_columns_are_null(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "1.parquet")
        pq.write_table(pa.table({"a": [2], "c": [0.5]}), tmp_path / "2.parquet")
        found = to_dataframe(SessionContext(), CellTable.from_prefix(tmp_path)).to_pylist()
        assert sorted(found, key=repr) == [{"a": 1, "b": "x", "c": None}, {"a": 2, "b": None, "c": 0.5}]

    def test_conflicting_types_name_the_files_and_the_column(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
        pq.write_table(pa.table({"a": ["x"]}), tmp_path / "2.parquet")
        with pytest.raises(
            TableError, match=r"column 'a' is int64 in file://.*/1.parquet and string_view in file://.*/2"
        ):
            register(SessionContext(), "t", CellTable.from_prefix(tmp_path))

    @pytest.mark.parametrize("declared", [None, pa.schema([("a", pa.int64())])])
    def test_a_corrupt_parquet_file_is_named(self, tmp_path: Path, declared: pa.Schema | None) -> None:
        pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
        (tmp_path / "2.parquet").write_bytes(b"PAR1 but not really PAR1")
        with pytest.raises(
            TableError, match=r"2\.parquet \(24 bytes\) as parquet: its footer.*longer than the object.*damaged"
        ) as caught:
            register(SessionContext(), "t", CellTable.from_prefix(tmp_path, schema=declared))
        assert caught.value.details["file"].endswith("2.parquet")

    def test_an_empty_parquet_file_is_corrupt(self, tmp_path: Path) -> None:
        (tmp_path / "1.parquet").touch()
        with pytest.raises(TableError, match=r"1\.parquet \(0 bytes\)"):
            register(SessionContext(), "t", CellTable.from_prefix(tmp_path))

    def test_an_empty_arrow_file_is_corrupt(self, tmp_path: Path) -> None:
        (tmp_path / "1.arrow").touch()
        with pytest.raises(TableError, match=r"1\.arrow \(0 bytes\) as arrow: it has no Arrow schema"):
            register(SessionContext(), "t", CellTable.from_prefix(tmp_path, format="arrow"))

    def test_a_file_that_went_away_is_called_missing(self, flat: Path) -> None:
        table = CellTable.from_prefix(flat)
        (flat / "1.parquet").unlink()
        with pytest.raises(TableError, match=r"1\.parquet as a cell: no such object"):
            register(SessionContext(), "t", table)

    def test_of_many_files_the_first_and_last_are_looked_at(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"a": [1]}), tmp_path / "00.parquet")
        for number in range(1, 80):
            (tmp_path / f"{number:02}.parquet").hardlink_to(tmp_path / "00.parquet")
        (tmp_path / "40.parquet").unlink()
        (tmp_path / "40.parquet").write_bytes(b"no parquet in the middle")
        ctx = SessionContext()
        register(ctx, "t", CellTable.from_prefix(tmp_path))
        with pytest.raises(Exception, match="Parquet"):
            ctx.sql("SELECT sum(a) FROM t").collect()
