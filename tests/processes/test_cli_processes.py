"""The command line as processes: what only real stdin, stdout, signals and exit codes show."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from swarm.helpers import PATIENT, wait_until

pytestmark = pytest.mark.processes

APIARY = [sys.executable, "-m", "apiary_df.cli"]
WAIT_S = 120
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith("APIARY_")}
ENVIRON = {**OUTSIDE, **PATIENT, "COLUMNS": "200"}
ROWS = pa.table({"city": ["Ulm", "Bonn", "Ulm"], "fare": [7.5, 12.0, 3.5]})
BY_CITY = "SELECT city, sum(fare) AS fares FROM trips GROUP BY city ORDER BY city"
ANSWER = [{"city": "Bonn", "fares": 12.0}, {"city": "Ulm", "fares": 11.0}]


@pytest.fixture
def trips(tmp_path: Path) -> str:
    pq.write_table(ROWS, tmp_path / "trips.parquet")
    return f"trips={tmp_path / 'trips.parquet'}"


def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*APIARY, *arguments],
        capture_output=True,
        env=ENVIRON,
        timeout=WAIT_S,
        check=False,
    )


def status_of_node(storage: str) -> dict[str, Any]:
    """Return what the status command says of the only node."""
    (facts,) = json.loads(run("status", "-s", storage, "--json").stdout)["nodes"]
    assert isinstance(facts, dict)
    return facts


def start_node(storage: Path, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*APIARY, "node", "--storage", str(storage), "--bees", "1", "--memory", "256M", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRON,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "is ready: 1 bee, 256.0 MiB" in line, line + process.stderr.read()
    return process


@pytest.fixture
def node(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = start_node(tmp_path / "swarm", "--node-id", "n1", "--allow-root", str(tmp_path))
    yield process
    process.kill()
    process.communicate(timeout=WAIT_S)


def test_sql_runs_on_nodes_of_its_own_and_leaves_nothing(trips: str, tmp_path: Path) -> None:
    storage = tmp_path / "swarm"
    arguments = ["-n", "2", "-s", str(storage), "-t", trips, "--set", "small_bytes=0", "--stats"]
    done = run("sql", *arguments, "--format", "json", BY_CITY)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == ANSWER
    assert re.search(rb"2 rows in [\d.]+ s; ", done.stderr)
    assert [path for path in storage.rglob("*") if path.is_file()] == []


def test_reader_that_leaves_early_ends_the_query_quietly() -> None:
    text = "SELECT value FROM generate_series(1, 20000000)"
    process = subprocess.Popen(
        [*APIARY, "sql", "--format", "csv", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRON
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b'"value"\n'
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(WAIT_S) == 141


def test_interrupted_query_has_the_shells_code(tmp_path: Path) -> None:
    flag = tmp_path / "flag.csv"
    endless = "SELECT sum(value % 7) FROM generate_series(1, 1000000000000)"
    first = f"COPY (SELECT 1) TO '{flag}'"
    process = subprocess.Popen(
        [*APIARY, "sql", first, endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRON,
    )
    try:
        wait_until(flag.exists, "the first statement is done", WAIT_S)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert stderr == b"apiary: interrupted\n"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_node_says_goodbye_when_told_to_leave(node: subprocess.Popen[str], tmp_path: Path, how: signal.Signals) -> None:
    node.send_signal(how)
    assert node.wait(WAIT_S) == 0
    assert [path for path in (tmp_path / "swarm").rglob("*") if path.is_file()] == []


def test_node_interrupted_twice_leaves_its_task_at_once(node: subprocess.Popen[str], tmp_path: Path) -> None:
    storage = str(tmp_path / "swarm")
    pq.write_table(pa.table({"x": range(100_000)}), tmp_path / "x.parquet")
    endless = "SELECT count(*) FROM t a, t b, t c WHERE a.x * b.x * c.x < 0"
    flags = [
        "-s",
        storage,
        "-t",
        f"t={tmp_path / 'x.parquet'}",
        "--set",
        "small_bytes=0",
        "--set",
        "finish_here_bytes=0",
    ]
    query = subprocess.Popen([*APIARY, "sql", *flags, endless], stderr=subprocess.PIPE, env=ENVIRON)
    try:
        wait_until(lambda: status_of_node(storage)["bees_busy"], "the node at work", WAIT_S)
        node.send_signal(signal.SIGINT)
        # One that is not seen yet would be the same as another.
        wait_until(lambda: status_of_node(storage)["reason"] == "leaving", "the first interrupt seen", WAIT_S)
        assert node.poll() is None
        node.send_signal(signal.SIGINT)
        assert node.wait(WAIT_S) == 130
    finally:
        query.kill()
        query.communicate(timeout=WAIT_S)


def test_status_shows_a_node_to_people_and_programs(node: subprocess.Popen[str], tmp_path: Path) -> None:
    storage = str(tmp_path / "swarm")
    facts = json.loads(run("status", "-s", storage, "--json").stdout)
    assert facts["storage"] == storage
    [fact] = facts["nodes"]
    assert (fact["node_id"], fact["bees_total"], fact["bees_busy"], fact["gets_work"]) == ("n1", 1, 0, True)
    assert (fact["pid"], fact["queries"]) == (node.pid, [])
    shown = run("status", "-s", storage).stdout.decode()
    assert "1 node at work of 1, 0 of 1 bee busy, 0 queries running" in shown

    assert re.search(r"n1\b.*alive.*0/1.*256\.0 MiB", shown)


def test_watch_looks_again_until_it_is_interrupted(node: subprocess.Popen[str], tmp_path: Path) -> None:
    arguments = ["status", "-s", str(tmp_path / "swarm"), "--watch", "--json"]
    process = subprocess.Popen([*APIARY, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRON)
    assert process.stdout is not None
    looks = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=WAIT_S)
    assert (process.returncode, stderr) == (0, b"")
    assert [look["nodes"][0]["node_id"] for look in looks] == ["n1", "n1"]


def test_status_of_an_empty_swarm_says_how_to_start_a_node(tmp_path: Path) -> None:
    done = run("status", "-s", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert b"no node yet; start one with: apiary node --storage" in done.stdout


def test_node_on_a_root_that_cannot_be_written_ends_with_the_storage_code() -> None:
    done = run("node", "--storage", "/proc/no")
    assert done.returncode == 3, done.stderr
    assert b"/proc/no" in done.stderr


def test_demo_checks_every_answer_and_cleans_up(tmp_path: Path) -> None:
    done = run("demo", "--scale", "0.01", "--dir", str(tmp_path / "demo"))
    shown = done.stdout.decode()
    assert done.returncode == 0, shown + done.stderr.decode()
    assert "22 of 22 answers equal those of DataFusion in one process" in shown
    assert len(re.findall(r"Q\d+ .* equal", shown)) == 22
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["tpch-0.01-4"]
