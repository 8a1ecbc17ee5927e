"""Tables of files in every format and state: cut into cells of a few bytes, and the same rows as plain DataFusion's.

The other session reads in one partition with its usual settings, so it never splits a file; the swarm's is told to
split files of any size, except where a test is about that.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from apiary_df.model import TaskSpec
from apiary_df.plan.rules import RewriteOptions
from apiary_df.planning import RunsHere, RunsOnSwarm
from apiary_df.tasks import TaskOptions
from plan.checks import check_rows
from plan.local_swarm import LocalSwarm, Ran, node

FILES, ROWS = 3, 60
COLUMNS = "(a BIGINT, b VARCHAR, c DOUBLE)"
SPLITTING = {"datafusion.optimizer.repartition_file_min_size": "0", "datafusion.execution.target_partitions": "4"}
WHOLE = {"datafusion.execution.target_partitions": "1"}

QUERIES = (
    "SELECT * FROM {t}",
    "SELECT 1 AS one FROM {t}",
    "SELECT count(*) AS n FROM {t}",
    "SELECT b, count(*) AS n, sum(a) AS s, max(c) AS m FROM {t} GROUP BY b",
    "SELECT c, a FROM {t} WHERE a % 7 = 3",
    "SELECT x.a, y.b FROM {t} x JOIN {t} y ON x.a = y.a WHERE y.c > 2",
    "SELECT x.a, p.b FROM {t} x LEFT JOIN parquet p ON x.a = p.a",
)


def rows(number: int) -> pa.Table:
    """Return the rows of a file: its own keys, repeated strings, NULLs."""
    ids = range(number * ROWS, (number + 1) * ROWS)
    return pa.table(
        {
            "a": pa.array(ids, pa.int64()),
            "b": [None if i % 11 == 0 else f"b{i % 5}" for i in ids],
            "c": [None if i % 13 == 0 else i / 4 for i in ids],
        }
    )


def csv_of(table: pa.Table, *, header: bool = True, delimiter: str = ",") -> bytes:
    sink = pa.BufferOutputStream()
    pa_csv.write_csv(table, sink, pa_csv.WriteOptions(include_header=header, delimiter=delimiter))
    return bytes(sink.getvalue())


def json_of(table: pa.Table, *, indent: int | None = None) -> bytes:
    return "".join(json.dumps(row, indent=indent) + "\n" for row in table.to_pylist()).encode()


def array_of(table: pa.Table) -> bytes:
    return json.dumps(table.to_pylist()).encode()


def parquet_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=13)
    return bytes(sink.getvalue())


def arrow_of(table: pa.Table, *, stream: bool = False) -> bytes:
    sink = pa.BufferOutputStream()
    with (ipc.new_stream if stream else ipc.new_file)(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=7):
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def avro_of(table: pa.Table) -> bytes:
    """Write an Avro object file by hand: blocks of a few records, no codec."""
    schema = {
        "type": "record",
        "name": "row",
        "fields": [
            {"name": "a", "type": "long"},
            {"name": "b", "type": ["null", "string"]},
            {"name": "c", "type": ["null", "double"]},
        ],
    }
    sync = bytes(range(16))
    meta = json.dumps(schema).encode()
    out = b"Obj\x01" + _long(1) + _bytes(b"avro.schema") + _bytes(meta) + _long(0) + sync
    for batch in table.to_batches(max_chunksize=9):
        body = b"".join(map(_avro_row, batch.to_pylist()))
        out += _long(batch.num_rows) + _long(len(body)) + body + sync
    return out


def _avro_row(row: dict[str, object]) -> bytes:
    a, b, c = row["a"], row["b"], row["c"]
    assert isinstance(a, int)
    text = _long(0) if b is None else _long(1) + _bytes(str(b).encode())
    number = _long(0) if c is None else _long(1) + pa.array([c], pa.float64()).buffers()[1].to_pybytes()[:8]
    return _long(a) + text + number


def _long(value: int) -> bytes:
    value = value << 1 if value >= 0 else ((-value) << 1) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _bytes(value: bytes) -> bytes:
    return _long(len(value)) + value


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A table: its files' names and bytes, the statement's end that makes it, and whether it can be distributed."""

    files: dict[str, bytes]
    stored_as: str
    columns: str = COLUMNS
    options: str = ""
    here: str | None = None


def each(encode: Callable[[pa.Table], bytes], extension: str) -> dict[str, bytes]:
    return {f"{number}.{extension}": encode(rows(number)) for number in range(FILES)}


def hive(encode: Callable[[pa.Table], bytes], extension: str) -> dict[str, bytes]:
    return {f"y={2000 + n}/z=s {n % 2}/{n}.{extension}": encode(rows(n)) for n in range(FILES)}


def compressed(name: str) -> str:
    return f"OPTIONS ('format.has_header' 'true', 'format.compression' '{name}')"


def quoted(number: int) -> bytes:
    """Records over several lines, in quotes, with quotes and delimiters within."""
    lines = (
        f'{i},"line one of {i}\nline ""two"", {i}\n{i},x,1.5",{i}.25\n'
        for i in range(number * ROWS, (number + 1) * ROWS)
    )
    return ("a,b,c\n" + "".join(lines)).encode()


HEADER = "OPTIONS ('format.has_header' 'true')"
HIVE = "PARTITIONED BY (y, z)"
HIVE_COLUMNS = "(a BIGINT, b VARCHAR, c DOUBLE, y INT, z VARCHAR)"
LOST = "is not carried by DataFusion's plan format"

SOURCES: dict[str, Source] = {
    "parquet": Source(files=each(parquet_of, "parquet"), stored_as="PARQUET", columns=""),
    "csv": Source(files=each(csv_of, "csv"), stored_as="CSV", options=HEADER),
    "csv_inferred": Source(files=each(csv_of, "csv"), stored_as="CSV", columns="", options=HEADER),
    "csv_no_header": Source(
        files=each(lambda t: csv_of(t, header=False), "csv"),
        stored_as="CSV",
        options="OPTIONS ('format.has_header' 'false')",
    ),
    "csv_delimiter": Source(
        files=each(lambda t: csv_of(t, delimiter=";"), "csv"),
        stored_as="CSV",
        options="OPTIONS ('format.has_header' 'true', 'format.delimiter' ';')",
    ),
    "csv_crlf": Source(files=each(lambda t: csv_of(t).replace(b"\n", b"\r\n"), "csv"), stored_as="CSV", options=HEADER),
    "csv_no_last_line_end": Source(files=each(lambda t: csv_of(t)[:-1], "csv"), stored_as="CSV", options=HEADER),
    "csv_quoted_lines_declared": Source(
        files={f"{n}.csv": quoted(n) for n in range(FILES)},
        stored_as="CSV",
        options="OPTIONS ('format.has_header' 'true', 'format.newlines_in_values' 'true')",
    ),
    "csv_comments": Source(
        files=each(lambda t: csv_of(t) + b"# 1,2,3\n", "csv"),
        stored_as="CSV",
        options="OPTIONS ('format.has_header' 'true', 'format.comment' '#')",
    ),
    "json": Source(files=each(json_of, "json"), stored_as="JSON"),
    "json_inferred": Source(files=each(json_of, "json"), stored_as="JSON", columns=""),
    "arrow": Source(files=each(arrow_of, "arrow"), stored_as="ARROW", columns=""),
    "avro": Source(files=each(avro_of, "avro"), stored_as="AVRO", columns="", here="only this process can read"),
    "hive_parquet": Source(files=hive(parquet_of, "parquet"), stored_as="PARQUET", columns=HIVE_COLUMNS, options=HIVE),
    "hive_csv": Source(files=hive(csv_of, "csv"), stored_as="CSV", columns=HIVE_COLUMNS, options=f"{HIVE} {HEADER}"),
    "hive_json": Source(files=hive(json_of, "json"), stored_as="JSON", columns=HIVE_COLUMNS, options=HIVE),
    "hive_arrow": Source(
        files=hive(arrow_of, "arrow"),
        stored_as="ARROW",
    ),
    "hive_avro": Source(
        files=hive(avro_of, "avro"),
        stored_as="AVRO",
        columns=HIVE_COLUMNS,
        options=HIVE,
        here="only this process can read",
    ),
    "some_files_empty": Source(
        files={**each(parquet_of, "parquet"), "e.parquet": parquet_of(rows(0).slice(0, 0))},
        stored_as="PARQUET",
        columns="",
    ),
    "some_csv_empty": Source(
        files={**each(csv_of, "csv"), "e.csv": b"", "f.csv": b"a,b,c\n"}, stored_as="CSV", options=HEADER
    ),
    "some_json_empty": Source(files={**each(json_of, "json"), "e.json": b"", "f.json": b"\n\n"}, stored_as="JSON"),
    "some_arrow_empty": Source(
        files={**each(arrow_of, "arrow"), "e.arrow": arrow_of(rows(0).slice(0, 0))}, stored_as="ARROW", columns=""
    ),
    "no_parquet": Source(files={}, stored_as="PARQUET", here=""),
    "no_csv": Source(files={}, stored_as="CSV", here=""),
    "columns_missing": Source(
        files={
            "0.parquet": parquet_of(rows(0)),
            "1.parquet": parquet_of(rows(1).select(["c", "a"])),
            "2.parquet": parquet_of(rows(2).select(["b", "a"]).append_column("more", pa.array(range(ROWS)))),
        },
        stored_as="PARQUET",
    ),
    "types_wider": Source(
        files={
            "0.parquet": parquet_of(rows(0).set_column(0, "a", pa.array(range(ROWS), pa.int32()))),
            "1.parquet": parquet_of(rows(1).set_column(2, "c", rows(1)["c"].cast(pa.float32()))),
            "2.parquet": parquet_of(rows(2).set_column(1, "b", rows(2)["b"].cast(pa.large_string()))),
        },
        stored_as="PARQUET",
    ),
    "json_keys_missing": Source(
        files={"0.json": json_of(rows(0).select(["c", "a"])), "1.json": json_of(rows(1)), "2.json": b'{"a": 7}\n' * 40},
        stored_as="JSON",
    ),
    "ordered_parquet": Source(files=each(parquet_of, "parquet"), stored_as="PARQUET", options="WITH ORDER (a ASC)"),
    "ordered_csv": Source(files=each(csv_of, "csv"), stored_as="CSV", options=f"WITH ORDER (a ASC) {HEADER}"),
    "ordered_json": Source(files=each(json_of, "json"), stored_as="JSON", options="WITH ORDER (a ASC)"),
    "arrow_stream": Source(
        files=each(lambda t: arrow_of(t, stream=True), "arrow"), stored_as="ARROW", columns="", here=LOST
    ),
    "json_array": Source(
        files=each(array_of, "json"),
        stored_as="JSON",
        options="OPTIONS ('format.newline_delimited' 'false')",
        here=LOST,
    ),
    "csv_terminator": Source(
        files=each(lambda t: csv_of(t).replace(b"\n", b"~"), "csv"),
        stored_as="CSV",
        options="OPTIONS ('format.has_header' 'true', 'format.terminator' '~')",
        here=LOST,
    ),
}
for _name, _compress, _extension in (
    ("gzip", gzip.compress, "gz"),
    ("bzip2", bz2.compress, "bz2"),
    ("xz", lzma.compress, "xz"),
    ("zstd", zstd, "zst"),
):
    SOURCES[f"csv_{_name}"] = Source(
        files={f"{name}.{_extension}": _compress(data) for name, data in each(csv_of, "csv").items()},
        stored_as="CSV",
        options=compressed(_name),
        here=LOST,
    )
    SOURCES[f"json_{_name}"] = Source(
        files={f"{name}.{_extension}": _compress(data) for name, data in each(json_of, "json").items()},
        stored_as="JSON",
        options=f"OPTIONS ('format.compression' '{_name}')",
        here=LOST,
    )

ORDERED = ("ordered_parquet", "ordered_csv", "ordered_json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of all tables' files."""
    path = tmp_path_factory.mktemp("inputs")
    for name, source in SOURCES.items():
        write(path / name, source.files.items())
    return path


def write(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def session_with(folder: Path, settings: dict[str, str]) -> datafusion.SessionContext:
    ctx = datafusion.SessionContext(datafusion.SessionConfig(settings))
    for name, source in SOURCES.items():
        if name == "hive_arrow":
            # In SQL, partition columns need all columns, and declared strings are views, which Arrow files lack.
            parts = [("y", pa.int32()), ("z", pa.string())]
            ctx.register_arrow(name, str(folder / name), table_partition_cols=parts)
            continue
        ctx.sql(
            f"CREATE EXTERNAL TABLE {name} {source.columns} STORED AS {source.stored_as} "
            f"{'' if source.options.startswith('OPTIONS') else source.options.split('OPTIONS')[0]} "
            f"LOCATION '{folder / name}/' "
            f"{'OPTIONS' + source.options.split('OPTIONS')[1] if 'OPTIONS' in source.options else ''}"
        )
    return ctx


@pytest.fixture(scope="module")
def session(folder: Path) -> datafusion.SessionContext:
    """The session that plans for the swarm; tests read only."""
    return session_with(folder, SPLITTING)


@pytest.fixture(scope="module")
def plain(folder: Path) -> datafusion.SessionContext:
    """Plain DataFusion; tests read only."""
    return session_with(folder, WHOLE)


def swarm(session: datafusion.SessionContext, scratch: Path, cell_bytes: int = 100) -> LocalSwarm:
    return LocalSwarm(
        session=session,
        rewrite=RewriteOptions(partitions=3, small_bytes=0),
        nodes=[node(name, target_cell_size=cell_bytes) for name in "ab"],
        scratch=scratch,
        options=TaskOptions(min_cell_bytes=1),
    )


def ranges(ran: Ran) -> int:
    """Return how many byte ranges of files the tasks read."""
    specs: Iterable[TaskSpec] = (spec for tasks in ran.tasks.values() for spec in tasks)
    return sum(file.range_start is not None for spec in specs for scan in spec.scans for file in scan.files)


@pytest.mark.parametrize("table", SOURCES)
def test_tables_of_any_files_equal_datafusion(
    table: str, session: datafusion.SessionContext, plain: datafusion.SessionContext, tmp_path: Path
) -> None:
    source = SOURCES[table]
    local = swarm(session, tmp_path)
    # DataFusion plans ranges of JSON arrays, however it is told to split, and then cannot read them.
    for query in QUERIES if table != "json_array" else ():
        sql = query.format(t=table)
        ran = local.run(sql)
        check_rows(plain.sql(sql).to_arrow_table(), ran.table, ())
        if source.here is not None:
            continue
        assert isinstance(ran.planned, RunsOnSwarm) or "count(*) AS n FROM" in query, ran.planned
    if source.here is not None:
        planned = local.plan(f"SELECT b, max(a) AS m FROM {table} GROUP BY b")
        assert isinstance(planned, RunsHere)
        assert source.here in planned.reason
        assert not source.here or f"table {table}:" in planned.reason


@pytest.mark.parametrize("table", ORDERED)
def test_declared_order_survives_cells(
    table: str, session: datafusion.SessionContext, plain: datafusion.SessionContext, tmp_path: Path
) -> None:
    for query, columns in (
        ("SELECT a, b FROM {t} ORDER BY a", ("a",)),
        ("SELECT a FROM {t} ORDER BY a LIMIT 70 OFFSET 50", ("a",)),
        ("SELECT a, row_number() OVER (ORDER BY a) AS r FROM {t}", ()),
        ("SELECT a, count(*) AS n FROM {t} GROUP BY a ORDER BY a", ("a",)),
        ("SELECT x.a, y.c FROM {t} x JOIN {t} y ON x.a = y.a ORDER BY x.a", ("a",)),
    ):
        sql = query.format(t=table)
        check_rows(plain.sql(sql).to_arrow_table(), swarm(session, tmp_path).run(sql).table, columns)


@pytest.mark.parametrize(
    "table", ["parquet", "csv", "csv_no_header", "csv_crlf", "json", "arrow", "hive_csv", "hive_json"]
)
def test_files_are_really_read_in_pieces(table: str, session: datafusion.SessionContext, tmp_path: Path) -> None:
    ran = swarm(session, tmp_path).run(f"SELECT b, sum(a) AS s FROM {table} GROUP BY b")
    assert ranges(ran) > FILES


@pytest.mark.parametrize("cell_bytes", [1, 17, 50, 333])
def test_no_record_of_text_is_lost_wherever_a_range_ends(
    cell_bytes: int, session: datafusion.SessionContext, plain: datafusion.SessionContext, tmp_path: Path
) -> None:
    for table in ("csv", "csv_crlf", "csv_no_last_line_end", "json"):
        sql = f"SELECT a, b, c FROM {table}"
        check_rows(plain.sql(sql).to_arrow_table(), swarm(session, tmp_path, cell_bytes).run(sql).table, ())


def test_tables_of_all_formats_in_one_query(
    session: datafusion.SessionContext, plain: datafusion.SessionContext, tmp_path: Path
) -> None:
    branches = " UNION ALL ".join(f"SELECT a, b FROM {t}" for t in ("parquet", "csv", "json", "arrow", "hive_csv"))
    for sql in (
        f"SELECT b, count(*) AS n, sum(a) AS s FROM ({branches}) GROUP BY b",
        "SELECT p.a, c.b, j.c, r.b AS rb FROM parquet p JOIN csv c ON p.a = c.a JOIN json j ON c.a = j.a "
        "LEFT JOIN arrow r ON r.a = j.a + 1",
        "SELECT a FROM parquet WHERE a IN (SELECT a FROM csv_gzip) EXCEPT SELECT a FROM arrow_stream WHERE a > 5",
        "SELECT y, z, count(*) AS n FROM hive_parquet WHERE y > 2000 GROUP BY y, z",
    ):
        check_rows(plain.sql(sql).to_arrow_table(), swarm(session, tmp_path).run(sql).table, ())


# -- records over several lines ---------------------------------------------------------------------------------------


def lines_sessions(folder: Path, settings: dict[str, str]) -> datafusion.SessionContext:
    ctx = datafusion.SessionContext(datafusion.SessionConfig(settings))
    ctx.sql(f"CREATE EXTERNAL TABLE quoted {COLUMNS} STORED AS CSV LOCATION '{folder}/csv/' {HEADER}")
    ctx.sql(f"CREATE EXTERNAL TABLE spread_out {COLUMNS} STORED AS JSON LOCATION '{folder}/json/'")
    return ctx


@pytest.mark.parametrize("table", ["quoted", "spread_out"])
def test_text_that_datafusion_reads_whole_is_read_whole(table: str, tmp_path: Path) -> None:
    """A range begins at a line. What is below DataFusion's own limit may have records of several lines."""
    write(tmp_path / "csv", ((f"{n}.csv", quoted(n)) for n in range(FILES)))
    write(tmp_path / "json", ((f"{n}.json", json_of(rows(n), indent=2)) for n in range(FILES)))
    session = lines_sessions(tmp_path, {"datafusion.execution.target_partitions": "4"})
    plain = lines_sessions(tmp_path, WHOLE)
    (tmp_path / "scratch").mkdir()
    for query in ("SELECT * FROM {t}", "SELECT b, count(*) AS n FROM {t} GROUP BY b"):
        sql = query.format(t=table)
        ran = swarm(session, tmp_path / "scratch").run(sql)
        check_rows(plain.sql(sql).to_arrow_table(), ran.table, ())
        assert isinstance(ran.planned, RunsOnSwarm)
        assert ranges(ran) == 0
