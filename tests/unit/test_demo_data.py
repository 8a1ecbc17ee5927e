from __future__ import annotations

from pathlib import Path

import datafusion
import pyarrow.parquet as pq
import pytest

from apiary_df.demo import TPCH_ORDER_COLUMNS, TPCH_TABLES, tpch_queries
from apiary_df.demo.data import generate_tpch, tpch_paths
from apiary_df.errors import ConfigError, TableError

TINY_SCALE = 0.001
ROWS_AT_TINY_SCALE = {"customer": 150, "nation": 25, "orders": 1500, "part": 200, "region": 5, "supplier": 10}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tpch")
    generate_tpch(folder, TINY_SCALE)
    return folder


def test_there_are_22_queries_in_order_each_one_statement() -> None:
    queries = tpch_queries()
    assert list(queries) == list(range(1, 23))
    assert list(TPCH_ORDER_COLUMNS) == list(queries)
    assert not [n for n, sql in queries.items() if ";" in sql]


def test_data_has_the_rows_of_its_scale(tiny: Path) -> None:
    rows = {name: pq.read_metadata(tpch_paths(tiny)[name]).num_rows for name in ROWS_AT_TINY_SCALE}
    assert rows == ROWS_AT_TINY_SCALE


def test_every_query_plans_and_has_its_order_columns(tiny: Path) -> None:
    ctx = datafusion.SessionContext()
    for name, path in tpch_paths(tiny).items():
        ctx.register_parquet(name, str(path))
    for number, sql in tpch_queries().items():
        assert set(TPCH_ORDER_COLUMNS[number]) <= set(ctx.sql(sql).schema().names), number


def test_a_second_call_leaves_the_files_alone(tiny: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in tiny.iterdir()}
    generate_tpch(tiny, TINY_SCALE)
    assert {p: p.stat().st_mtime_ns for p in tiny.iterdir()} == before


def test_parts_make_a_folder_per_table(tmp_path: Path) -> None:
    generate_tpch(tmp_path, TINY_SCALE, parts=2)
    assert {name: path.name for name, path in tpch_paths(tmp_path).items()} == {t: t for t in TPCH_TABLES}
    assert len(list((tmp_path / "lineitem").iterdir())) == 2


def test_another_shape_replaces_the_old_tables(tmp_path: Path) -> None:
    generate_tpch(tmp_path, TINY_SCALE, parts=2)
    generate_tpch(tmp_path, TINY_SCALE)
    assert not (tmp_path / "lineitem").exists()
    assert (tmp_path / "lineitem.parquet").is_file()


def test_unfinished_data_is_made_again(tmp_path: Path) -> None:
    generate_tpch(tmp_path, TINY_SCALE)
    (tmp_path / "tpch.json").rename(tmp_path / "tpch.unfinished.json")
    (tmp_path / "orders.parquet").write_bytes(b"half a file")
    generate_tpch(tmp_path, TINY_SCALE)
    assert pq.read_metadata(tmp_path / "orders.parquet").num_rows == 1500


def test_a_folder_with_other_files_is_refused_and_kept(tmp_path: Path) -> None:
    mine = tmp_path / "orders.parquet"
    mine.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="name an empty folder"):
        generate_tpch(tmp_path, TINY_SCALE)
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_senseless_scale_is_named(tmp_path: Path, scale: float) -> None:
    with pytest.raises(ConfigError, match=f"scale must be a number above 0, got {scale}"):
        generate_tpch(tmp_path, scale)


def test_no_parts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1 part"):
        generate_tpch(tmp_path, TINY_SCALE, parts=0)


def test_a_missing_generator_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / name))
    with pytest.raises(ConfigError, match=r"pip install 'apiary-df\[demo\]'"):
        generate_tpch(tmp_path / "data", TINY_SCALE)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="'customer'"):
        tpch_paths(tmp_path)
