"""Writes that are broken off: a node or a session is killed, somebody cancels, time is up, or an attempt fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import udf

from apiary_df import LocalSwarm, SessionContext, Settings
from apiary_df.errors import QueryCancelled, QueryTimeout
from apiary_df.protocol import keys
from apiary_df.store import open_store
from apiary_df.writes import STAGING
from swarm.helpers import FORCED, check_nothing_left, wait_until

ROWS, FILES = 4_000, 4

LIVES: dict[str, Any] = {"heartbeat_s": 0.2, "suspect_after_s": 2.0, "dead_after_s": 4.0}
"""Signs of life that are frequent, so that death is noticed soon."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(FILES):
        numbers = range(number * ROWS // FILES, (number + 1) * ROWS // FILES)
        pq.write_table(pa.table({"k": pa.array(numbers, pa.int64())}), folder / f"{number}.parquet", row_group_size=250)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with a file in it that none of these writes may touch."""
    (tmp_path / "out").mkdir()
    pq.write_table(pa.table({"k": pa.array([-1], pa.int64())}), tmp_path / "out" / "old.parquet")
    return tmp_path / "out"


def files_in(folder: Path) -> list[str]:
    """Return all files below a folder; others may be removing some of them meanwhile."""
    found = (Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
    return sorted(str(path.relative_to(folder)) for path in found)


def staged_in(folder: Path) -> list[str]:
    return [name for name in files_in(folder) if name.startswith(STAGING) and name.count("/") > 1]


def numbers_in(folder: Path) -> list[int]:
    return sorted(pq.read_table(folder).column("k").to_pylist())


def once(marker: Path, act: Callable[[], None]) -> Callable[[pa.Array], pa.Array]:
    """Return a function of SQL that does something in the first process that gets to row 1,600, and passes rows on."""
    path = str(marker)

    def passed(numbers: pa.Array) -> pa.Array:
        if 1_600 in numbers.to_pylist():
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return numbers
            act()
        return numbers

    return passed


def slow() -> Callable[[pa.Array], pa.Array]:
    """Return a function of SQL that takes its time; nodes cannot import this module, so it is a nested one."""

    def slowly(numbers: pa.Array) -> pa.Array:
        time.sleep(0.05)
        return numbers

    return slowly


def write_through(
    ctx: SessionContext, source: Path, out: Path, function: Callable[[pa.Array], pa.Array]
) -> list[dict[str, int]]:
    """Copy the table through a Python function."""
    ctx.register_parquet("t", str(source))
    ctx.register_udf(udf(function, [pa.int64()], pa.int64(), "volatile", name="passed"))
    answer: list[dict[str, int]] = ctx.sql(
        f"COPY (SELECT passed(k) AS k FROM t) TO '{out}/' STORED AS PARQUET"
    ).to_pylist()
    return answer


def check_written_once(ctx: SessionContext, out: Path) -> None:
    assert numbers_in(out) == list(range(-1, ROWS))
    assert not any(name.startswith("_") for name in files_in(out))
    assert ctx.storage is not None
    check_nothing_left(ctx.storage)
    assert open_store(ctx.storage).list(keys.WRITES) == []


@pytest.mark.processes
def test_a_bee_killed_in_the_midst_of_its_files_leaves_each_row_once(source: Path, out: Path, tmp_path: Path) -> None:
    tester = os.getpid()

    def die() -> None:
        if os.getpid() != tester:
            os.kill(os.getpid(), signal.SIGKILL)

    with SessionContext(nodes=2, **FORCED) as ctx:
        kill = once(tmp_path / "marker", die)
        assert write_through(ctx, source, out, kill) == [{"count": ROWS}]
        assert (tmp_path / "marker").exists()
        assert ctx.last_query is not None
        assert any(task.attempt for task in ctx.last_query.task_reports)
        check_written_once(ctx, out)


def test_of_two_attempts_at_a_task_the_files_of_one_are_there(source: Path, out: Path, tmp_path: Path) -> None:
    def fail() -> None:
        raise MemoryError("Resources exhausted: said by a test")

    with SessionContext(nodes=2, **FORCED) as ctx:
        assert write_through(ctx, source, out, once(tmp_path / "marker", fail)) == [{"count": ROWS}]
        assert ctx.last_query is not None
        assert any(task.attempt == 1 for task in ctx.last_query.task_reports)
        check_written_once(ctx, out)


@pytest.mark.parametrize("place", ["", "/one.parquet"])
def test_a_write_that_is_cancelled_leaves_nothing(source: Path, out: Path, place: str) -> None:
    before = files_in(out)
    with SessionContext(nodes=1, **FORCED) as ctx:
        ctx.register_parquet("t", str(source))
        ctx.register_udf(udf(slow(), [pa.int64()], pa.int64(), "volatile", name="slowly"))
        stream = ctx.sql(
            f"COPY (SELECT slowly(k) AS k FROM t) TO '{out}{place or '/'}' STORED AS PARQUET"
        ).execute_stream()
        errors: list[BaseException] = []

        def read() -> None:
            try:
                list(stream)
            except BaseException as error:  # noqa: BLE001 - handed to the test
                errors.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        wait_until(lambda: any(name.startswith(STAGING) for name in files_in(out)), "the write has begun")
        stream.cancel()
        reader.join()
        assert [type(error) for error in errors] == [QueryCancelled]
        wait_until(lambda: files_in(out) == before, "what attempts wrote is gone")
        assert ctx.storage is not None
        check_nothing_left(ctx.storage)
    assert files_in(out) == before


def test_a_write_that_takes_too_long_leaves_nothing(source: Path, out: Path) -> None:
    before = files_in(out)
    with SessionContext(nodes=1, timeout_s=0.5, **FORCED) as ctx:
        with pytest.raises(QueryTimeout):
            write_through(ctx, source, out, slow())
        wait_until(lambda: files_in(out) == before, "what attempts wrote is gone")


SESSION = """
import os, signal, sys, threading, time
from pathlib import Path
from apiary_df import SessionContext
from apiary_df.store import Store
from swarm.helpers import FORCED
from swarm.test_writes_broken import LIVES, slow, staged_in, write_through

source, out, when = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if when == "writing":
    def watch():
        while not staged_in(out):
            time.sleep(0.005)
        die()
    threading.Thread(target=watch, daemon=True).start()
else:
    moved, move = [], Store.move
    def dying(self, source, target):
        if len(moved) == 2:
            die()
        moved.append(target)
        move(self, source, target)
    Store.move = dying

place = {"nodes": 2} if len(sys.argv) < 5 else {"storage": sys.argv[4]}
with SessionContext(**place, **{**FORCED, **LIVES}) as ctx:
    write_through(ctx, source, out, slow())
"""


def killed(*arguments: object) -> None:
    """Run a session that is killed in the midst of a write."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path])}
    command = [sys.executable, "-c", SESSION, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.processes
@pytest.mark.parametrize("when", ["writing", "publishing"])
def test_nodes_that_leave_with_a_killed_session_take_its_files_back(source: Path, out: Path, when: str) -> None:
    killed(source, out, when)
    # The staging folder goes after the last file in it.
    alone = ["old.parquet"]
    wait_until(lambda: [path.name for path in out.iterdir()] == alone, "the write is taken back", within_s=60.0)


@pytest.mark.processes
def test_nodes_that_stay_take_a_killed_sessions_files_back_and_the_rerun_is_clean(source: Path, out: Path) -> None:
    settings = Settings().with_overrides(**FORCED).with_overrides(**LIVES)
    with LocalSwarm(2, settings=settings) as swarm:
        killed(source, out, "publishing", swarm.storage)
        wait_until(lambda: files_in(out) == ["old.parquet"], "the write is taken back", within_s=60.0)
        check_nothing_left(swarm.storage)
        with SessionContext(storage=swarm.storage, settings=settings) as ctx:
            assert write_through(ctx, source, out, slow()) == [{"count": ROWS}]
            check_written_once(ctx, out)
