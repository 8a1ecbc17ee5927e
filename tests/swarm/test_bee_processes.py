"""Bees that crash, are killed, hold too much or do not stop: it costs an attempt, and the node stays up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import udf

from apiary_df import LocalSwarm, SessionContext, Settings
from apiary_df.errors import QueryCancelled
from apiary_df.report import AttemptReport, QueryReport
from swarm.helpers import FORCED, LATE_S, check_nothing_left, wait_until, wait_until_idle

cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc"),
]

ROWS = 4_000
FILES = 4
SUM = "SELECT sum(strange(x)) AS s FROM t"
BEES = 2
MEMORY_BYTES = BEES * (64 << 20)
HUNGER_BYTES = 400 << 20
"""More than a bee of these nodes may hold, whatever its margin."""


class Once:
    """Does something strange in one call of all, in whichever process; the others give back what they got.

    The mark becomes a file that says which process it was.
    """

    def __init__(self, mark: Path, strange: Callable[[], object]) -> None:
        self.mark, self.strange = mark, strange

    def __call__(self, values: pa.Array) -> pa.Array:
        said = self.mark.with_name(f"by-{os.getpid()}")
        try:
            self.mark.rename(said)
        except FileNotFoundError:
            return values
        self.strange()
        return values


def crash() -> None:
    os.abort()


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(7)


def be_hungry() -> None:
    hoard = []
    while True:
        hoard.append(b"x" * HUNGER_BYTES)


def think() -> None:
    # Within one call of native code, which holds the interpreter and looks for no signal: longer than any test.
    re.match(r"(a+)+b", "a" * 60)


@pytest.fixture(scope="module")
def swarm() -> Iterator[LocalSwarm]:
    """A node of two bees, so that a second attempt can only go to it again."""
    settings = Settings(heartbeat_s=0.1)
    with LocalSwarm(1, BEES, settings=settings, memory_bytes=MEMORY_BYTES) as swarm:
        yield swarm


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strange")
    step = ROWS // FILES
    for number in range(FILES):
        values = pa.array(range(number * step, (number + 1) * step), pa.int64())
        pq.write_table(pa.table({"x": values}), folder / f"{number}.parquet")
    return folder


@contextmanager
def session(swarm: LocalSwarm, table: Path, tmp_path: Path, strange: Callable[[], object]) -> Iterator[SessionContext]:
    """A session in which the function ``strange`` does this once."""
    mark = tmp_path / "once"
    mark.touch()
    overrides: dict[str, Any] = {**FORCED, "timeout_s": 90.0}
    with SessionContext(storage=swarm.storage, **overrides) as ctx:
        ctx.register_parquet("t", str(table))
        ctx.register_udf(udf(Once(mark, strange), [pa.int64()], pa.int64(), "volatile", "strange"))
        yield ctx


def processes_below(pid: int) -> set[int]:
    """Return all living descendants of a process."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def attempts_of(ctx: SessionContext) -> list[AttemptReport]:
    report = ctx.last_query
    assert isinstance(report, QueryReport)
    assert report.distributed, report.reason
    return list(report.attempts)


def test_partials_of_megabytes_come_out_of_bees_to_lie_behind_their_records(swarm: LocalSwarm, tmp_path: Path) -> None:
    rows = 400_000
    for number in range(2):
        values = pa.array(range(number, 2 * rows, 2), pa.int64())
        pq.write_table(pa.table({"x": values}), tmp_path / f"{number}.parquet")
    placed: dict[str, Any] = {"inline_partial_bytes": 0, "attached_partial_bytes": 64 << 20, "stream_result": False}
    with SessionContext(storage=swarm.storage, **FORCED, **placed) as ctx:
        ctx.register_parquet("t", str(tmp_path))
        found = ctx.sql("SELECT x, x * 3 AS y FROM t").to_arrow_table().sort_by("x")
        made = [attempt for attempt in attempts_of(ctx) if not attempt.here]
    assert found["x"].to_pylist() == list(range(2 * rows))
    assert found["y"].to_pylist() == list(range(0, 6 * rows, 3))
    # A record with what it commits is one request to write, and its bytes are counted.
    assert {attempt.requests["put"] for attempt in made} == {1}
    assert all(attempt.requests["bytes_out"] >= attempt.output_bytes > 4 << 20 for attempt in made)


@pytest.mark.parametrize(
    ("strange", "expected"),
    [
        (crash, ("bee_lost", "SIGABRT")),
        (leave, ("bee_lost", "exit code 7")),
        (be_killed, ("bee_out_of_memory", "SIGKILL")),
    ],
)
def test_a_bee_that_dies_costs_one_attempt(
    swarm: LocalSwarm, table: Path, tmp_path: Path, strange: Callable[[], object], expected: tuple[str, str]
) -> None:
    (process,) = swarm.processes.values()
    with session(swarm, table, tmp_path, strange) as ctx:
        assert ctx.sql(SUM).to_pydict() == {"s": [ROWS * (ROWS - 1) // 2]}
        attempts = attempts_of(ctx)
    failed = [attempt for attempt in attempts if attempt.outcome != "committed"]
    committed = {(attempt.stage, attempt.task) for attempt in attempts if attempt.outcome == "committed"}
    assert len(failed) == 1
    assert len(attempts) == len(committed) + 1
    assert failed[0].error is not None
    assert (failed[0].error.code, failed[0].error.details["ending"]) == expected
    assert int(failed[0].error.details["peak_bytes"]) > 0
    assert process.poll() is None
    check_nothing_left(swarm.storage)


def test_a_bee_that_holds_too_much_is_killed_by_its_node(swarm: LocalSwarm, table: Path, tmp_path: Path) -> None:
    with session(swarm, table, tmp_path, be_hungry) as ctx:
        assert ctx.sql(SUM).to_pydict() == {"s": [ROWS * (ROWS - 1) // 2]}
        attempts = attempts_of(ctx)
    failed = [attempt for attempt in attempts if attempt.outcome != "committed"]
    assert len(failed) == 1
    assert failed[0].error is not None
    assert failed[0].error.code == "bee_out_of_memory"
    (again,) = (a for a in attempts if (a.stage, a.task, a.attempt) == (failed[0].stage, failed[0].task, 1))
    assert (failed[0].slots, again.slots) == (1, 2)
    budget_bytes, held_bytes = (int(failed[0].error.details[name]) for name in ("budget_bytes", "held_bytes"))
    assert budget_bytes == MEMORY_BYTES // BEES
    assert held_bytes > budget_bytes


def test_cancelling_ends_a_bee_that_is_deep_in_native_code(swarm: LocalSwarm, table: Path, tmp_path: Path) -> None:
    (process,) = swarm.processes.values()
    before = processes_below(process.pid)
    assert len(before) == 1 + BEES
    cancelled = threading.Event()
    with session(swarm, table, tmp_path, think) as ctx:
        stream = ctx.sql(SUM).execute_stream()
        thread = threading.Thread(target=lambda: _take_all(stream, cancelled))
        thread.start()
        wait_until(lambda: not (tmp_path / "once").exists(), "the function at work")
        (bee,) = (int(said.name.removeprefix("by-")) for said in tmp_path.glob("by-*"))
        assert bee in before
        stream.cancel()
        thread.join(LATE_S)
        assert cancelled.is_set()
        wait_until(lambda: bee not in processes_below(process.pid), "its bee ended")
        wait_until(lambda: len(processes_below(process.pid)) == 1 + BEES, "another bee in its place")
        wait_until_idle(ctx)
    assert process.poll() is None
    check_nothing_left(swarm.storage)


def _take_all(stream: Any, cancelled: threading.Event) -> None:
    try:
        for _ in stream:
            continue
    except QueryCancelled:
        cancelled.set()


def test_a_bee_that_is_killed_while_it_has_nothing_to_do_is_replaced_unnoticed(
    swarm: LocalSwarm, table: Path, tmp_path: Path
) -> None:
    (process,) = swarm.processes.values()
    with session(swarm, table, tmp_path, be_killed) as ctx:
        (tmp_path / "once").unlink()
        assert ctx.sql(SUM).to_pydict() == {"s": [ROWS * (ROWS - 1) // 2]}
        (nursery,) = _children(process.pid)
        bees = _children(nursery)
        assert len(bees) == BEES
        for pid in bees:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not bees & processes_below(process.pid), "the bees dead")
        wait_until(lambda: all(_threads(pid) == 1 for pid in bees), "all of their threads as well")
        assert ctx.sql(SUM).to_pydict() == {"s": [ROWS * (ROWS - 1) // 2]}
        assert all(attempt.outcome == "committed" for attempt in attempts_of(ctx))
    assert process.poll() is None


def _children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_bees_end_with_their_node_however_it_ends(how: signal.Signals) -> None:
    with LocalSwarm(1, BEES, memory_bytes=MEMORY_BYTES) as swarm:
        (process,) = swarm.processes.values()
        bees = processes_below(process.pid)
        assert len(bees) == 1 + BEES
        process.send_signal(how)
        process.wait(LATE_S)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in bees), "all processes of the node gone")


def test_a_node_whose_nursery_is_lost_leaves() -> None:
    with LocalSwarm(1, BEES, settings=Settings(heartbeat_s=0.1), memory_bytes=MEMORY_BYTES) as swarm:
        (process,) = swarm.processes.values()
        (nursery,) = _children(process.pid)
        os.kill(nursery, signal.SIGKILL)
        wait_until(lambda: process.poll() is not None, "the node gone")


SILENT_BEES = """
import time
from pathlib import Path
from apiary_df.errors import ApiaryError
from apiary_df.host import SYSTEM
from apiary_df.worker import process_executor
from apiary_df.worker.nursery import open_nursery

nursery = open_nursery(lambda pipe: time.sleep(600))
process_executor.READY_WITHIN_S = 0.05
scratch = Path({scratch!r})
try:
    process_executor.ProcessExecutor(nursery, scratch, SYSTEM, lambda: None, check=True)
except ApiaryError as error:
    print(error.code, error)
executor = process_executor.ProcessExecutor(nursery, scratch, SYSTEM, lambda: None, check=False)
try:
    executor._living_bee()
except ApiaryError as error:
    print(error.code, error)
nursery.close()
nursery.wait()
"""


def test_bees_that_never_say_that_they_are_ready_are_not_waited_for(tmp_path: Path) -> None:
    """In a process of its own, since nurseries are forked before there are threads."""
    script = SILENT_BEES.format(scratch=str(tmp_path / "bee"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=150, check=True)
    at_start, for_a_job = done.stdout.splitlines()
    assert "node_start_failed" in at_start and "it was not ready within 0.05 s" in at_start
    assert "bee_lost" in for_a_job and "3 processes for a bee died, or were never ready" in for_a_job
