from __future__ import annotations

import datetime
import io
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from apiary_df.cli.output import Format, choose_format, open_output, render_table, write_result
from apiary_df.errors import ConfigError

TABLE = pa.table(
    {
        "city": ["Ulm", None, "a,b"],
        "count": pa.array([3, None, 14], pa.int64()),
        "tags": [["x"], None, []],
    }
)
EMPTY = TABLE.slice(0, 0)


def written(format_: Format, table: pa.Table, *, seekable: bool = False, rows: int = 0) -> bytes:
    sink = io.BytesIO()
    write_result(format_, table.schema, table.to_batches(max_chunksize=2), sink, seekable=seekable, rows=rows)
    return sink.getvalue()


def json_rows(table: pa.Table) -> list[object]:
    return [json.loads(line) for line in written(Format.JSON, table).splitlines()]


def test_table_aligns_names_values_and_numbers() -> None:
    assert written(Format.TABLE, TABLE).decode().splitlines() == [
        "city | count | tags",
        "-----+-------+------",
        'Ulm  |     3 | ["x"]',
        "NULL |  NULL | NULL",
        "a,b  |    14 | []",
        "(3 rows)",
    ]


def test_table_of_more_rows_than_asked_for_says_so() -> None:
    lines = written(Format.TABLE, TABLE, rows=2).decode().splitlines()
    assert lines[-1] == "(the first 2 rows; there are more: see --max-rows)"
    assert len(lines) == 2 + 2 + 1


def test_table_of_exactly_the_rows_asked_for_is_complete() -> None:
    assert written(Format.TABLE, TABLE, rows=3).decode().splitlines()[-1] == "(3 rows)"


def test_table_pulls_no_more_batches_than_it_shows() -> None:
    batches = iter(TABLE.to_batches(max_chunksize=1))
    list(render_table(TABLE.schema, batches, 1))
    assert len(list(batches)) == 1


def test_table_without_rows_shows_its_columns() -> None:
    assert written(Format.TABLE, EMPTY).decode().splitlines() == [
        "city | count | tags",
        "-----+-------+-----",
        "(0 rows)",
    ]


def test_table_keeps_wide_and_control_characters_in_line() -> None:
    table = pa.table({"x": ["東京", "a\nb", "y" * 200], "y": [1, 2, 3]})
    lines = written(Format.TABLE, table).decode().splitlines()
    assert lines[2].startswith("東京 ")
    assert lines[3].startswith(r"a\nb ")
    assert lines[4].startswith("y" * 79 + "…")


def test_plans_are_shown_with_their_own_lines() -> None:
    plans = pa.table({"plan_type": ["logical", "physical"], "plan": ["a\n  b\n", "c" * 100]})
    assert written(Format.TABLE, plans).decode().splitlines() == ["-- logical", "a", "  b", "-- physical", "c" * 100]


def test_csv_reads_back() -> None:
    plain = TABLE.select(["city", "count"])
    convert = pyarrow.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
    assert pyarrow.csv.read_csv(io.BytesIO(written(Format.CSV, plain)), convert_options=convert) == plain


def test_csv_holds_nested_values_as_json() -> None:
    assert written(Format.CSV, TABLE).decode().splitlines()[1] == '"Ulm",3,"[""x""]"'


def test_csv_without_rows_has_its_header() -> None:
    assert written(Format.CSV, EMPTY) == b'"city","count","tags"\n'


def test_json_is_one_object_a_line() -> None:
    assert json_rows(TABLE) == [
        {"city": "Ulm", "count": 3, "tags": ["x"]},
        {"city": None, "count": None, "tags": None},
        {"city": "a,b", "count": 14, "tags": []},
    ]


@pytest.mark.parametrize(
    ("column", "line"),
    [
        (pa.array([Decimal("12345678901234567890.12")]), b'{"x":12345678901234567890.12}'),
        (pa.array([float("nan")]), b'{"x":null}'),
        (pa.array([datetime.date(2020, 1, 2)]), b'{"x":"2020-01-02"}'),
        (pa.array([1577836800123456789], pa.timestamp("ns")), b'{"x":"2020-01-01 00:00:00.123456789"}'),
        (pa.array([[1]], pa.list_(pa.time64("ns"))), b'{"x":["00:00:00.000000001"]}'),
        (pa.array([b"\xff"]), b'{"x":"/w=="}'),
        (pa.array(["a"]).dictionary_encode(), b'{"x":"a"}'),
        (pa.array([{"a": 1}]), b'{"x":{"a":1}}'),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), b'{"x":[["k",1]]}'),
        (pa.array([5], pa.duration("ns")), b'{"x":5}'),
    ],
)
def test_json_keeps_values_that_json_has_no_type_for(column: pa.Array, line: bytes) -> None:
    assert written(Format.JSON, pa.table({"x": column})) == line + b"\n"


def test_json_refuses_to_drop_a_column_of_the_same_name() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["id", "id"])
    with pytest.raises(ConfigError, match="two columns are called 'id'"):
        written(Format.JSON, table)


@pytest.mark.parametrize("table", [TABLE, EMPTY], ids=["rows", "no rows"])
def test_binary_formats_read_back(table: pa.Table) -> None:
    assert pa.ipc.open_stream(written(Format.ARROW, table)).read_all() == table
    assert pa.ipc.open_file(written(Format.ARROW, table, seekable=True)).read_all() == table
    assert pq.read_table(io.BytesIO(written(Format.PARQUET, table))) == table


def test_type_that_parquet_cannot_hold_is_named() -> None:
    table = pa.table({"x": pa.array([pa.MonthDayNano([1, 2, 3])])})
    with pytest.raises(ConfigError, match=r"Parquet cannot hold this result: .*month_day_nano"):
        written(Format.PARQUET, table)


@pytest.mark.parametrize(
    ("asked", "output", "chosen"),
    [
        (None, None, Format.TABLE),
        (None, "a.csv", Format.CSV),
        (None, "a.PARQUET", Format.PARQUET),
        (None, "a.ndjson", Format.JSON),
        (None, "a.txt", Format.TABLE),
        (Format.JSON, "a.csv", Format.JSON),
    ],
)
def test_format_follows_the_request_then_the_extension(
    asked: Format | None, output: str | None, chosen: Format
) -> None:
    assert choose_format(asked, Path(output) if output else None, stdout_is_terminal=True) is chosen


def test_binary_format_is_not_written_to_a_terminal() -> None:
    with pytest.raises(ConfigError, match="--format parquet is binary: name a file with -o"):
        choose_format(Format.PARQUET, None, stdout_is_terminal=True)
    assert choose_format(Format.PARQUET, None, stdout_is_terminal=False) is Format.PARQUET


def test_output_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    with pytest.raises(ZeroDivisionError), open_output(target) as sink:
        sink.write(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with open_output(target) as sink:
        sink.write(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [target]


def test_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"cannot write .*absent/out\.csv: No such file"),
        open_output(tmp_path / "absent" / "out.csv"),
    ):
        pass
