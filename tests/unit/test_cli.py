from __future__ import annotations

import re
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from apiary_df.cli.app import app
from apiary_df.cli.exits import ExitCode, ending_well, exit_code_of
from apiary_df.cli.inputs import find_table, register_tables, settings_from
from apiary_df.cli.node import check_bees, check_memory
from apiary_df.errors import (
    ApiaryError,
    ConfigError,
    NodeStartFailed,
    ObjectMissing,
    QueryTimeout,
    SqlError,
    StorageUnreachable,
    TableError,
    TaskFailed,
)
from apiary_df.machine import Machine
from apiary_df.units import GIB

ROWS = pa.table({"x": [1, 2, 3], "y": ["a", "b", "c"]})
MACHINE = Machine(cores=4, memory_bytes=8 * GIB, source="cgroup v2")


@pytest.fixture(autouse=True)
def no_apiary_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APIARY_STORAGE", raising=False)
    monkeypatch.delenv("APIARY_CONFIG", raising=False)


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize("command", ["sql", "node", "status", "replay", "demo"])
def test_help_of_every_command_has_examples(command: str) -> None:
    code, output = invoke(command, "--help")
    assert code == 0
    assert f"apiary {command}" in output.split("Examples")[1]


def test_help_of_the_whole_documents_every_exit_code() -> None:
    _, output = invoke("--help")
    described = output.split("Exit codes")[1]
    assert all(f" {code.value} " in described for code in ExitCode)


def test_version_names_both_engines() -> None:
    code, output = invoke("--version")
    assert code == 0
    assert re.fullmatch(r"apiary-df \S+, DataFusion 55\.\S+", output)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("m"), 2),
        (SqlError("m"), 2),
        (TableError("m"), 2),
        (StorageUnreachable("m"), 3),
        (ObjectMissing("m"), 3),
        (QueryTimeout("m"), 4),
        (TaskFailed("m"), 1),
        (NodeStartFailed("m"), 1),
        (ApiaryError("m"), 1),
    ],
)
def test_errors_have_the_exit_code_of_their_kind(error: ApiaryError, code: int) -> None:
    assert exit_code_of(error) == code


def test_error_becomes_one_line_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, ending_well():
        raise StorageUnreachable("cannot reach the root")
    assert caught.value.exit_code == 3
    assert capsys.readouterr().err == "apiary: cannot reach the root\n"


def test_interrupt_has_the_shells_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, ending_well():
        raise KeyboardInterrupt
    assert caught.value.exit_code == 130
    assert capsys.readouterr().err == "apiary: interrupted\n"


def test_bare_error_of_datafusion_becomes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, ending_well():
        datafusion.SessionContext().sql("SELECT CAST('a' AS INT)").collect()
    assert caught.value.exit_code == 1
    assert capsys.readouterr().err.startswith("apiary: DataFusion error")


def test_defect_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), ending_well():
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("node", "-s", "x", "--bees", "0"), "apiary: --bees 0: a node has 1 to 1024 bees"),
        (("node", "-s", "x", "--bees", "-3"), "apiary: --bees -3: a node has 1 to 1024 bees"),
        (("node", "-s", "x", "--bees", "9999999"), "apiary: --bees 9999999: a node has 1 to 1024 bees"),
        (("node", "-s", "x", "--bees", "many"), "Invalid value for '--bees'"),
        (("node", "-s", "x", "--memory", "lots"), "apiary: --memory 'lots' is not a size: write a number and a unit"),
        (("node", "-s", "x", "--memory", "0"), "apiary: --memory '0' is not a size above zero bytes"),
        (("node", "-s", "x", "--memory", "9999T"), "apiary: --memory 9999T: this process may use"),
        (("node", "-s", "x", "--set", "timeout=3"), "did you mean 'timeout_s'?"),
        (("node", "-s", "x", "--node-id", "Not/An Id"), "apiary: --node-id 'Not/An Id'"),
        (("node",), "Missing option"),
        (("sql",), "Missing argument"),
        (("sql", " ; "), "apiary: a statement is empty"),
        (("sql", "-n", "0", "SELECT 1"), "apiary: --nodes 0: at least 1 node process is needed"),
        (("sql", "--set", "x", "SELECT 1"), "apiary: --set 'x': write name=value"),
        (("sql", "--timeout", "0", "SELECT 1"), "apiary: setting timeout_s in the arguments is 0.0; allowed is"),
        (("sql", "--config", "/absent.toml", "SELECT 1"), "apiary: cannot read the settings file /absent.toml"),
        (("sql", "--format", "xml", "SELECT 1"), "Invalid value for '--format'"),
        (("status",), "apiary: which swarm? give its root with -s URL"),
        (("demo", "--scale", "0"), "apiary: --scale 0: a demo has a scale above 0"),
        (("demo", "--scale", "nan"), "apiary: --scale nan: a demo has a scale above 0"),
        (("demo", "--nodes", "0"), "apiary: --nodes 0: a demo has 1 to 64 nodes"),
    ],
)
def test_nonsense_ends_with_a_message_and_code_2(arguments: tuple[str, ...], message: str) -> None:
    code, output = invoke(*arguments)
    assert code == 2
    assert message in output


def test_bees_default_to_the_cores() -> None:
    assert check_bees(None, MACHINE) == 4
    assert check_bees(7, MACHINE) == 7


def test_memory_defaults_to_most_of_what_there_is() -> None:
    assert check_memory(None, MACHINE) == int((8 * GIB - 192 * 2**20) * 0.8)
    assert check_memory("2GiB", MACHINE) == 2 * GIB


def test_memory_above_the_limit_names_where_the_limit_comes_from() -> None:
    with pytest.raises(ConfigError, match=r"--memory 9GiB: this process may use 8\.0 GiB \(cgroup v2\)"):
        check_memory("9GiB", MACHINE)


def test_flags_go_over_assignments_and_assignments_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("timeout_s = 1\nlocal_bees = 1\nmax_attempts = 1")
    settings = settings_from(file, ["timeout_s=2", "local_bees = 2"], timeout_s=3.0, keep=None)
    assert (settings.timeout_s, settings.local_bees, settings.max_attempts) == (3.0, 2, 1)


def write_rows(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(ROWS, path)
    elif path.suffix == ".json":
        path.write_text("".join(f'{{"x":{row["x"]},"y":"{row["y"]}"}}\n' for row in ROWS.to_pylist()))
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, ROWS.schema) as writer:
            writer.write_table(ROWS)
    else:
        pq.write_table(ROWS, path)


@pytest.mark.parametrize("extension", ["parquet", "csv", "json", "arrow"])
@pytest.mark.parametrize("as_folder", [False, True], ids=["file", "folder"])
def test_table_is_found_by_file_or_folder_in_every_format(tmp_path: Path, extension: str, as_folder: bool) -> None:
    file = tmp_path / "rows" / f"part.{extension}"
    write_rows(file)
    ctx = datafusion.SessionContext()
    register_tables(ctx, [f"t={file.parent if as_folder else file}"])
    assert ctx.sql("SELECT sum(x) AS x, max(y) AS y FROM t").to_pylist() == [{"x": 6, "y": "c"}]


def test_table_may_have_any_name(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.parquet")
    ctx = datafusion.SessionContext()
    register_tables(ctx, [f"my-rows={tmp_path / 'a.parquet'}", f"Rows={tmp_path}"])
    assert ctx.sql('SELECT (SELECT count(*) FROM "my-rows") + (SELECT count(*) FROM Rows) AS n').to_pylist() == [
        {"n": 6}
    ]


def test_folder_of_several_formats_is_the_parquet_in_it(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv")
    write_rows(tmp_path / "a.parquet")
    assert find_table(str(tmp_path)).format == "parquet"


def test_folder_without_tables_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(TableError, match=re.escape(str(tmp_path))):
        find_table(str(tmp_path))


@pytest.mark.parametrize("text", ["t", "t=", "=x", ""])
def test_table_without_name_or_path_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write name=value"):
        register_tables(datafusion.SessionContext(), [text])
