"""``apiary sql`` in this process: what it writes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from apiary_df.cli.app import app

ROWS = pa.table({"city": ["Ulm", "Bonn", "Ulm"], "fare": [7.5, 12.0, 3.5]})
BY_CITY = "SELECT city, sum(fare) AS fares FROM trips GROUP BY city ORDER BY city"
ANSWER = [{"city": "Bonn", "fares": 12.0}, {"city": "Ulm", "fares": 11.0}]


@pytest.fixture(autouse=True)
def no_apiary_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APIARY_STORAGE", raising=False)
    monkeypatch.delenv("APIARY_CONFIG", raising=False)


@pytest.fixture
def trips(tmp_path: Path) -> str:
    pq.write_table(ROWS, tmp_path / "trips.parquet")
    return f"trips={tmp_path / 'trips.parquet'}"


def sql(*arguments: str, stdin: str | None = None, code: int = 0) -> tuple[bytes, str]:
    """Run a command and return its stdout and stderr."""
    result = CliRunner().invoke(app, ["sql", *arguments], input=stdin)
    assert result.exit_code == code, result.output
    return result.stdout_bytes, result.stderr


def lines_of_json(data: bytes) -> list[object]:
    return [json.loads(line) for line in data.splitlines()]


def test_table_is_the_default(trips: str) -> None:
    stdout, _ = sql("-t", trips, BY_CITY)
    assert stdout.decode().splitlines() == [
        "city | fares",
        "-----+------",
        "Bonn |    12",
        "Ulm  |    11",
        "(2 rows)",
    ]


def test_csv(trips: str) -> None:
    assert sql("-t", trips, "--format", "csv", BY_CITY)[0] == b'"city","fares"\n"Bonn",12\n"Ulm",11\n'


def test_json(trips: str) -> None:
    assert lines_of_json(sql("-t", trips, "--format", "json", BY_CITY)[0]) == ANSWER


def test_arrow(trips: str) -> None:
    stream = sql("-t", trips, "--format", "arrow", BY_CITY)[0]
    assert pa.ipc.open_stream(stream).read_all().to_pylist() == ANSWER


def test_parquet(trips: str) -> None:
    file = sql("-t", trips, "--format", "parquet", BY_CITY)[0]
    assert pq.read_table(pa.BufferReader(file)).to_pylist() == ANSWER


def test_statement_comes_from_stdin_after_others_ran(tmp_path: Path, trips: str) -> None:
    create = f"CREATE EXTERNAL TABLE trips STORED AS PARQUET LOCATION '{trips.partition('=')[2]}'"
    assert lines_of_json(sql("--format", "json", create, "-", stdin=BY_CITY)[0]) == ANSWER


def test_output_goes_to_the_file_in_the_format_of_its_name(trips: str, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    assert sql("-t", trips, "-o", str(target), BY_CITY)[0] == b""
    assert pq.read_table(target).to_pylist() == ANSWER


def test_failed_query_leaves_no_file(trips: str, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    _, stderr = sql("-t", trips, "-o", str(target), "SELECT CAST(city AS INT) AS x FROM trips", code=1)
    assert stderr.startswith("apiary: ")
    assert "Cannot cast string 'Ulm'" in stderr
    assert not target.exists()


def test_result_without_rows_has_its_columns(trips: str) -> None:
    assert sql("-t", trips, "--format", "csv", "SELECT city, fare FROM trips WHERE fare < 0")[0] == b'"city","fare"\n'


def test_stats_say_what_the_query_did(trips: str) -> None:
    _, stderr = sql("-t", trips, "--stats", BY_CITY)
    assert stderr.startswith("2 rows in ")
    assert "in this process" in stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("SELEC 1",), 2, "SELEC"),
        (("SELECT * FROM nowhere",), 2, "nowhere"),
        (("SELECT nothing FROM (VALUES (1)) t(x)",), 2, "nothing"),
        (("-t", "t=/no/such/folder", "SELECT 1"), 2, "/no/such/folder"),
        (("-s", "ftp://host/x", "SELECT 1"), 2, "unknown scheme 'ftp'"),
        (("-s", "/proc/no", "SELECT 1"), 3, "/proc/no"),
    ],
)
def test_failures_are_a_message_and_a_code(arguments: tuple[str, ...], code: int, message: str) -> None:
    _, stderr = sql(*arguments, code=code)
    assert stderr.startswith("apiary: ")
    assert message in stderr
