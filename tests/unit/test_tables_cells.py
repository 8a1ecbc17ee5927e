"""Which objects become the cells of a table, and what is refused before any file is opened."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from apiary_df.errors import TableError
from apiary_df.model import CellInfo
from apiary_df.objects import parse_location
from apiary_df.tables import CellTable, CsvOptions


def touch(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def names(table: CellTable) -> list[str]:
    return [cell.storage_key.rsplit("/", 1)[-1] for cell in table.cells]


def test_a_folder_gives_its_files_with_their_sizes(tmp_path: Path) -> None:
    touch(tmp_path / "b.parquet", "1234")
    touch(tmp_path / "a.parquet", "12")
    table = CellTable.from_prefix(tmp_path)
    assert table.cells == (
        CellInfo(storage_key=f"file://{tmp_path}/a.parquet", bytes=2),
        CellInfo(storage_key=f"file://{tmp_path}/b.parquet", bytes=4),
    )
    assert table.bytes == 6


def test_hidden_other_and_nested_files_are_no_cells(tmp_path: Path) -> None:
    for name in ("a.parquet", "_a.parquet", ".b.parquet", "c.txt", "sub/d.parquet", "_tmp/e.parquet"):
        touch(tmp_path / name)
    assert names(CellTable.from_prefix(tmp_path)) == ["a.parquet"]


def test_nested_files_are_cells_when_asked_for(tmp_path: Path) -> None:
    touch(tmp_path / "a.parquet")
    touch(tmp_path / "x" / "y" / "d.parquet")
    touch(tmp_path / "_x" / "e.parquet")
    assert names(CellTable.from_prefix(tmp_path, recursive=True)) == ["a.parquet", "d.parquet"]


def test_empty_text_files_are_no_cells(tmp_path: Path) -> None:
    touch(tmp_path / "a.csv", "")
    touch(tmp_path / "b.csv", "x\n1\n")
    assert names(CellTable.from_prefix(tmp_path, format="csv")) == ["b.csv"]


def test_a_compression_adds_to_the_extension(tmp_path: Path) -> None:
    touch(tmp_path / "a.json")
    touch(tmp_path / "b.jsonl.gz")
    assert names(CellTable.from_prefix(tmp_path, format="json", compression="gzip")) == ["b.jsonl.gz"]


def test_a_single_file_is_a_table_whatever_its_name(tmp_path: Path) -> None:
    file = touch(tmp_path / "data")
    assert names(CellTable.from_prefix(file)) == ["data"]


def test_names_that_need_escapes_round_trip_through_their_urls(tmp_path: Path) -> None:
    odd = ["a b.parquet", "a%20b.parquet", "é.parquet", "q?.parquet", "h#.parquet", "st*r.parquet", "[x].parquet"]
    for name in odd:
        touch(tmp_path / name)
    table = CellTable.from_prefix(tmp_path)
    assert sorted(parse_location(cell.storage_key).path.name for cell in table.cells) == sorted(odd)
    assert CellTable.from_urls([cell.storage_key for cell in table.cells]).cells == table.cells


def test_hive_folders_make_typed_partition_columns(tmp_path: Path) -> None:
    touch(tmp_path / "year=2024" / "city=S%C3%A3o Paulo" / "a.parquet")
    touch(tmp_path / "year=2023" / "city=Bern" / "b.parquet")
    table = CellTable.from_prefix(tmp_path)
    assert table.partition_columns == (("year", pa.int64()), ("city", pa.string()))
    assert [cell.partition for cell in table.cells] == [
        (("year", "2023"), ("city", "Bern")),
        (("year", "2024"), ("city", "São Paulo")),
    ]


def test_given_partition_types_win(tmp_path: Path) -> None:
    touch(tmp_path / "k=1" / "a.parquet")
    assert CellTable.from_prefix(tmp_path, partition_types={"k": pa.string()}).partition_columns == (
        ("k", pa.string()),
    )


def test_without_hive_partition_folders_are_just_folders(tmp_path: Path) -> None:
    touch(tmp_path / "k=1" / "a.parquet")
    table = CellTable.from_prefix(tmp_path, hive=False, recursive=True)
    assert (names(table), table.partition_columns) == (["a.parquet"], ())


def test_urls_take_partition_values_from_their_paths_when_asked_to(tmp_path: Path) -> None:
    file = touch(tmp_path / "k=1" / "a.parquet")
    assert CellTable.from_urls([file]).partition_columns == ()
    assert CellTable.from_urls([file], hive=True).cells[0].partition == (("k", "1"),)


def test_cells_are_taken_as_they_are_without_a_look_at_the_store() -> None:
    cell = CellInfo(storage_key="s3://nowhere/b.parquet", bytes=7, partition=(("k", "x"),))
    table = CellTable.from_cells([cell])
    assert (table.cells, table.partition_columns) == ((cell,), (("k", pa.string()),))


def test_options_do_not_show_in_the_repr(tmp_path: Path) -> None:
    from apiary_df.store import StoreOptions

    touch(tmp_path / "a.parquet")
    options = StoreOptions(access_key_id="AKIA-SEEN", secret_access_key="hush")
    text = repr(CellTable.from_prefix(tmp_path, options=options))
    assert "hush" not in text
    assert "AKIA-SEEN" not in text


class TestRefusals:
    def test_a_missing_path(self, tmp_path: Path) -> None:
        with pytest.raises(TableError, match=r"nope: no such file or folder"):
            CellTable.from_prefix(tmp_path / "nope")

    def test_a_folder_without_cells_names_folder_and_extension(self, tmp_path: Path) -> None:
        touch(tmp_path / "a.txt")
        with pytest.raises(TableError, match=rf"{tmp_path}: no cells, that is no file ending in \.parquet among the 1"):
            CellTable.from_prefix(tmp_path)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(TableError, match=r"no cells.*among the 0 objects"):
            CellTable.from_prefix(tmp_path)

    def test_cells_that_lie_deeper_are_pointed_at(self, tmp_path: Path) -> None:
        touch(tmp_path / "x" / "a.parquet")
        with pytest.raises(TableError, match=r"x/a\.parquet; sub-folders are read with recursive=True"):
            CellTable.from_prefix(tmp_path)

    def test_a_stray_file_in_a_hive_tree(self, tmp_path: Path) -> None:
        touch(tmp_path / "k=1" / "a.parquet")
        touch(tmp_path / "stray.parquet")
        with pytest.raises(TableError, match=r"stray\.parquet has none"):
            CellTable.from_prefix(tmp_path)

    def test_a_hive_tree_that_is_none(self, tmp_path: Path) -> None:
        touch(tmp_path / "a.parquet")
        with pytest.raises(TableError, match="no folder is named column=value"):
            CellTable.from_prefix(tmp_path, hive=True)

    def test_a_missing_file_of_a_list(self, tmp_path: Path) -> None:
        there = touch(tmp_path / "a.parquet")
        with pytest.raises(TableError, match=r"b\.parquet as a cell: no such object \(1 of 2 are missing\)"):
            CellTable.from_urls([there, tmp_path / "b.parquet"])

    def test_a_file_that_stands_twice(self, tmp_path: Path) -> None:
        there = touch(tmp_path / "a.parquet")
        with pytest.raises(TableError, match=r"a\.parquet stands twice"):
            CellTable.from_urls([there, f"file://{there}"])

    def test_no_files_at_all(self) -> None:
        with pytest.raises(TableError, match="without cells"):
            CellTable.from_urls([])

    def test_a_byte_range(self) -> None:
        cell = CellInfo(storage_key="/a.parquet", bytes=5, range_start=0, range_end=5)
        with pytest.raises(TableError, match="whole objects"):
            CellTable.from_cells([cell])

    @pytest.mark.parametrize("place", ["ftp://host/a.parquet", "memory://x/a.parquet"])
    def test_an_unknown_scheme_names_the_known_ones(self, place: str) -> None:
        with pytest.raises(TableError, match=r"unknown scheme .*file://, s3://, gs://, az://"):
            CellTable.from_prefix(place)

    def test_an_unknown_format_names_the_known_ones(self, tmp_path: Path) -> None:
        with pytest.raises(TableError, match="'orc'; known are parquet, csv, json, arrow"):
            CellTable.from_prefix(tmp_path, format="orc")

    def test_a_compression_around_parquet(self, tmp_path: Path) -> None:
        with pytest.raises(TableError, match="compression inside"):
            CellTable.from_prefix(tmp_path, compression="gzip")

    def test_a_type_for_a_column_that_is_no_partition(self, tmp_path: Path) -> None:
        touch(tmp_path / "k=1" / "a.parquet")
        with pytest.raises(TableError, match=r"'year' a type: the cells are partitioned by \['k'\]"):
            CellTable.from_prefix(tmp_path, partition_types={"year": pa.int32()})

    def test_a_long_delimiter(self) -> None:
        with pytest.raises(TableError, match="one ASCII character"):
            CsvOptions(delimiter="||")
