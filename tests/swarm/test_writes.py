"""Statements that write files: what a reader sees afterwards is what plain DataFusion's write would show."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apiary_df import SessionContext
from apiary_df.errors import ConfigError, SqlError, TaskFailed
from apiary_df.protocol import keys
from apiary_df.store import open_store
from swarm.conftest import Open
from swarm.helpers import check_nothing_left, check_same, check_was_distributed, wait_until

ROWS, FILES = 6_000, 3

PLACES = ["files/", "files", "files.d/", "one.{}", "deep/er/one.{}"]
"""Paths as users write them: folders by their slash or their missing extension, and files."""

FORMATS = ["parquet", "csv", "json"]


def rows_of_file(number: int) -> pa.Table:
    numbers = range(number * ROWS // FILES, (number + 1) * ROWS // FILES)
    return pa.table(
        {
            "k": pa.array(numbers, pa.int64()),
            "g": pa.array([None if n % 7 == 0 else f"g{n % 5}" for n in numbers], pa.string()),
            "x": pa.array([n / 8 for n in numbers], pa.float64()),
            "d": pa.array([Decimal(n).scaleb(-2) for n in numbers], pa.decimal128(12, 2)),
            "t": pa.array([datetime.fromtimestamp(n, tz=timezone.utc) for n in numbers], pa.timestamp("us", "UTC")),
        }
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of several files, each of several row groups."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(FILES):
        pq.write_table(rows_of_file(number), folder / f"{number}.parquet", row_group_size=500)
    return folder


@pytest.fixture
def ctx(joined: Open, source: Path) -> SessionContext:
    """A session on the shared swarm, with the table as ``t``."""
    ctx = joined()
    ctx.register_parquet("t", str(source))
    return ctx


@pytest.fixture
def there(source: Path) -> datafusion.SessionContext:
    """Plain DataFusion with the same table."""
    ctx = datafusion.SessionContext()
    ctx.register_parquet("t", str(source))
    return ctx


def files_in(folder: Path) -> list[str]:
    """Return all files below a folder, those of writes under way among them."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def check_no_trace(ctx: SessionContext) -> None:
    assert ctx.storage is not None
    check_nothing_left(ctx.storage)
    assert open_store(ctx.storage).list(keys.WRITES) == []


def read_back(place: Path, kind: str, partitioned_by: tuple[str, ...] = ()) -> pa.Table:
    """Read a file, or a folder, with plain DataFusion."""
    plain = datafusion.SessionContext()
    columns = [(name, pa.string()) for name in partitioned_by]
    extension = f".{kind}" if place.is_dir() else place.suffix
    path = f"{place}/" if place.is_dir() else str(place)
    read = getattr(plain, f"read_{kind}")
    table = read(path, file_extension=extension, table_partition_cols=columns).to_arrow_table()
    # Which column DataFusion finds first in JSON depends on which file it looks at first.
    return table.select(sorted(table.column_names)) if kind == "json" else table


def write_both(
    ctx: SessionContext, there: datafusion.SessionContext, folder: Path, statement: str, place: str
) -> tuple[Path, Path]:
    """Run a COPY on the swarm and in plain DataFusion; returns where each wrote."""
    places = []
    for name, session in (("swarm", ctx), ("plain", there)):
        (folder / name).mkdir(exist_ok=True)
        (answer,) = session.sql(statement.format(f"{folder / name}/{place}")).collect()
        places.append((folder / name / place, answer))
    (ours, counted), (theirs, expected) = places
    assert counted.equals(expected)
    assert counted.schema.equals(expected.schema)
    return ours, theirs


@pytest.mark.parametrize(("kind", "place"), itertools.product(FORMATS, PLACES))
def test_copy_reads_back_as_plain_datafusions_does(
    ctx: SessionContext, there: datafusion.SessionContext, tmp_path: Path, kind: str, place: str
) -> None:
    ours, theirs = write_both(ctx, there, tmp_path, f"COPY t TO '{{}}' STORED AS {kind}", place.format(kind))
    check_was_distributed(ctx)
    assert ours.is_dir() == theirs.is_dir()
    check_same(read_back(theirs, kind), read_back(ours, kind), ordered=False)
    check_no_trace(ctx)
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {f".{kind}"}


@pytest.mark.parametrize("place", ["files/", "one.parquet", "one.csv"])
def test_an_empty_result_leaves_what_plain_datafusion_leaves(
    ctx: SessionContext, there: datafusion.SessionContext, tmp_path: Path, place: str
) -> None:
    statement = "COPY (SELECT * FROM t WHERE k < 0) TO '{}' STORED AS " + ("csv" if "csv" in place else "parquet")
    ours, theirs = write_both(ctx, there, tmp_path, statement, place)
    assert ours.exists() == theirs.exists()
    if theirs.exists():
        kind = "csv" if "csv" in place else "parquet"
        assert read_back(ours, kind).schema == read_back(theirs, kind).schema
    check_no_trace(ctx)


def test_partitioned_copies_have_the_same_folders(
    ctx: SessionContext, there: datafusion.SessionContext, tmp_path: Path
) -> None:
    ours, theirs = write_both(ctx, there, tmp_path, "COPY t TO '{}' STORED AS PARQUET PARTITIONED BY (g)", "tree")
    assert {p.name for p in ours.iterdir()} == {p.name for p in theirs.iterdir()}
    check_same(read_back(theirs, "parquet", ("g",)), read_back(ours, "parquet", ("g",)), ordered=False)
    check_no_trace(ctx)


def test_odd_values_of_a_partition_are_read_back(
    ctx: SessionContext, there: datafusion.SessionContext, tmp_path: Path
) -> None:
    odd = ["a/b", "100%", "x#1", "ü ?", "..", "a=b"]
    rows = pa.table({"n": pa.array(range(len(odd))), "v": odd})
    for session in (ctx, there):
        session.from_arrow(rows, name="odd")
    statement = "COPY (SELECT t.k, odd.v FROM t JOIN odd ON t.k % 6 = odd.n) TO '{}' STORED AS CSV PARTITIONED BY (v)"
    ours, theirs = write_both(ctx, there, tmp_path, statement, "odd/")
    check_same(read_back(theirs, "csv", ("v",)), read_back(ours, "csv", ("v",)), ordered=False)


@pytest.mark.parametrize(
    ("kind", "options", "check"),
    [
        ("csv", "'format.delimiter' '|', 'format.has_header' 'false'", lambda p: "|" in p.read_text()),
        ("csv", "'format.compression' 'gzip'", lambda p: p.read_bytes()[:2] == b"\x1f\x8b"),
        ("parquet", "'format.compression' 'snappy'", lambda p: codec_of(p) == "SNAPPY"),
        ("parquet", "'format.compression::x' 'gzip(3)'", lambda p: codec_of(p, 2) == "GZIP"),
    ],
)
def test_options_of_a_format_hold_for_every_file(
    ctx: SessionContext, tmp_path: Path, kind: str, options: str, check: Callable[[Path], bool]
) -> None:
    ctx.sql(f"COPY t TO '{tmp_path}/out/' STORED AS {kind} OPTIONS ({options})").collect()
    written = list((tmp_path / "out").iterdir())
    assert len(written) > 1
    assert all(check(path) for path in written)


def codec_of(path: Path, column: int = 0) -> str:
    return str(pq.ParquetFile(path).metadata.row_group(0).column(column).compression)


def test_one_file_keeps_the_order_of_all_rows(ctx: SessionContext, tmp_path: Path) -> None:
    ctx.sql(f"COPY (SELECT k FROM t ORDER BY k DESC) TO '{tmp_path}/one.parquet'").collect()
    assert pq.read_table(tmp_path / "one.parquet").column("k").to_pylist() == list(range(ROWS - 1, -1, -1))
    check_was_distributed(ctx)


def test_each_file_of_a_folder_keeps_the_order(ctx: SessionContext, tmp_path: Path) -> None:
    ctx.sql(f"COPY (SELECT k FROM t ORDER BY k) TO '{tmp_path}/many/' STORED AS PARQUET").collect()
    for path in (tmp_path / "many").iterdir():
        numbers = pq.read_table(path).column("k").to_pylist()
        assert numbers == sorted(numbers)


def test_a_limit_holds_once_over_all_tasks(ctx: SessionContext, tmp_path: Path) -> None:
    answer = ctx.sql(f"COPY (SELECT k FROM t LIMIT 100) TO '{tmp_path}/some/' STORED AS PARQUET").to_pylist()
    assert answer == [{"count": 100}]
    assert pq.read_table(tmp_path / "some").num_rows == 100


def test_insert_appends_to_a_table_of_files(ctx: SessionContext, tmp_path: Path) -> None:
    ctx.sql(f"CREATE EXTERNAL TABLE kept (k BIGINT, g VARCHAR) STORED AS PARQUET LOCATION '{tmp_path}/kept/'")
    for _ in range(2):
        assert ctx.sql("INSERT INTO kept SELECT k, g FROM t").to_pylist() == [{"count": ROWS}]
        check_was_distributed(ctx)
    assert ctx.sql("SELECT count(*) AS n, sum(k) AS s FROM kept").to_pylist() == [
        {"n": 2 * ROWS, "s": ROWS * (ROWS - 1)}
    ]
    check_no_trace(ctx)


def test_insert_fills_the_folders_of_a_partitioned_table(ctx: SessionContext, tmp_path: Path) -> None:
    ctx.sql(
        f"CREATE EXTERNAL TABLE tree (k BIGINT, g VARCHAR) STORED AS CSV PARTITIONED BY (g) LOCATION '{tmp_path}/tree/'"
    )
    ctx.sql("INSERT INTO tree SELECT k, coalesce(g, 'none') FROM t").collect()
    assert ctx.sql("SELECT count(*) AS n FROM tree WHERE g = 'none'").to_pylist() == [{"n": -(-ROWS // 7)}]
    assert {path.name for path in (tmp_path / "tree").iterdir()} == {"g=none", *(f"g=g{n}" for n in range(5))}


def test_an_overwrite_is_refused_as_in_plain_datafusion(ctx: SessionContext, tmp_path: Path) -> None:
    ctx.sql(f"CREATE EXTERNAL TABLE kept (k BIGINT) STORED AS PARQUET LOCATION '{tmp_path}/kept/'")
    with pytest.raises(SqlError, match="not implemented"):
        ctx.sql("INSERT OVERWRITE kept SELECT k FROM t").collect()


@pytest.mark.parametrize("place", ["files/", "one.parquet"])
def test_a_write_that_fails_leaves_what_was_there(ctx: SessionContext, tmp_path: Path, place: str) -> None:
    ctx.sql(f"COPY (SELECT k FROM t) TO '{tmp_path}/{place}' STORED AS PARQUET").collect()
    before = files_in(tmp_path)
    with pytest.raises(TaskFailed, match="Divide by zero"):
        ctx.sql(f"COPY (SELECT 1 / (k - 5000) AS k FROM t) TO '{tmp_path}/{place}' STORED AS PARQUET").collect()
    # Attempts that still ran when the query failed remove what they wrote at their end.
    wait_until(lambda: files_in(tmp_path) == before, "what attempts wrote is gone")
    assert pq.read_table(tmp_path / place).num_rows == ROWS
    check_no_trace(ctx)


def test_a_write_that_fails_leaves_no_folder_that_it_made(ctx: SessionContext, tmp_path: Path) -> None:
    with pytest.raises(TaskFailed):
        ctx.sql(f"COPY (SELECT 1 / (k - 5000) AS k FROM t) TO '{tmp_path}/a/b/' STORED AS PARQUET").collect()
    wait_until(lambda: list(tmp_path.iterdir()) == [], "the folders are gone")


def test_a_target_that_nodes_cannot_reach_is_refused_before_any_work(ctx: SessionContext) -> None:
    frame = ctx.sql("COPY t TO 'http://example.invalid/files/' STORED AS PARQUET")
    with pytest.raises((ConfigError, SqlError), match="http"):
        frame.collect()
    check_no_trace(ctx)


def test_explain_says_who_writes(ctx: SessionContext, tmp_path: Path) -> None:
    many = ctx.sql(f"EXPLAIN COPY t TO '{tmp_path}/files/' STORED AS PARQUET").to_pylist()[0]["plan"]
    one = ctx.sql(f"EXPLAIN COPY t TO '{tmp_path}/one.parquet'").to_pylist()[0]["plan"]
    assert "each task writes files of its own" in many
    assert "one file, written in this process" in one
    assert files_in(tmp_path) == []


def test_a_write_in_this_process_is_staged_as_well(source: Path, tmp_path: Path) -> None:
    with SessionContext() as ctx:
        ctx.register_parquet("t", str(source))
        ctx.sql(f"COPY t TO '{tmp_path}/files/' STORED AS PARQUET").collect()
        before = files_in(tmp_path)
        with pytest.raises(Exception, match="Divide by zero"):
            ctx.sql(f"COPY (SELECT 1 / (k - 5000) AS k FROM t) TO '{tmp_path}/files/' STORED AS PARQUET").collect()
    assert files_in(tmp_path) == before
    assert pq.read_table(tmp_path / "files").num_rows == ROWS
