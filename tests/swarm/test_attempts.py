"""What is lost or damaged between tasks is made again: exactly the rows, and no more attempts than it takes."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from apiary_df import SessionContext, Settings
from apiary_df.errors import ExecutionFailed, TaskFailed
from apiary_df.replay.trace import read_trace
from apiary_df.store import open_store
from apiary_df.testing.faults import Fault, Faults, FaultyStore
from apiary_df.worker.node import Node
from swarm.helpers import FORCED, check_nothing_left

HEARTBEAT_S = 0.05
"""Heartbeats often enough to tell of forgotten work."""

ROWS = 300
GROUPED = "SELECT k, count(*) AS n, sum(v) AS s FROM t GROUP BY k"
RESULT = [{"k": k, "n": ROWS // 10, "s": sum(range(k, ROWS, 10))} for k in range(10)]

Opened = Callable[..., SessionContext]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three files of a hundred rows."""
    folder = tmp_path / "t"
    folder.mkdir()
    for part in range(3):
        numbers = range(part, ROWS, 3)
        pq.write_table(pa.table({"k": [n % 10 for n in numbers], "v": list(numbers)}), folder / f"{part}.parquet")
    return folder


@pytest.fixture
def opened(table: Path) -> Iterator[Opened]:
    """Opens a session on two nodes in this process whose stores have faults."""
    ends: list[Callable[[], None]] = []

    def start(*faults: Fault, **overrides: Any) -> SessionContext:
        root = f"memory://{uuid.uuid4().hex}"
        shared = Faults(list(faults))
        given = {**FORCED, "retry_after_s": 0.01, "speculate": False, **overrides}
        settings = Settings().with_overrides(**{"heartbeat_s": HEARTBEAT_S, **given})
        for name in ("node-0", "node-1"):
            store = FaultyStore(open_store(root), shared, process=name)
            node = Node(store, bees=1, memory_bytes=64 << 20, settings=settings, node_id=name)
            thread = threading.Thread(target=node.run, daemon=True)
            thread.start()
            ends.extend((node.stop, thread.join))
            assert node.ready.wait(60)
        # What is lost here is objects, before a row is handed over: when a task sees the loss, others may be done.
        ctx = SessionContext(storage=root, **{"inline_partial_bytes": 0, "stream_result": False, **given})
        ends.insert(0, ctx.close)
        ctx.register_parquet("t", str(table))
        return ctx

    yield start
    for end in ends:
        end()


def attempts(ctx: SessionContext) -> dict[tuple[int, int], list[str]]:
    """Return how the attempts at each task of the newest query ended, but for those in this process."""
    report = ctx.last_query
    assert report is not None
    found: dict[tuple[int, int], list[str]] = {}
    for attempt in report.attempts:
        if not attempt.here:
            found.setdefault((attempt.stage, attempt.task), []).append(attempt.outcome)
    return found


def grouped(ctx: SessionContext) -> list[dict[str, int]]:
    return sorted(ctx.sql(GROUPED).to_arrow_table().to_pylist(), key=lambda row: row["k"])


LOST = {
    "damaged": Fault(what="flipped", request="put", key="*/partial_0_1_0.arrow"),
    "cut off": Fault(what="truncated", request="put", key="*/partial_0_1_0.arrow"),
    "never there": Fault(what="missing", request="put", key="*/partial_0_1_0.arrow"),
}


@pytest.mark.parametrize("how", LOST)
def test_a_partial_that_a_task_finds_lost_is_made_again(how: str, opened: Opened) -> None:
    ctx = opened(LOST[how])
    assert grouped(ctx) == RESULT
    made = attempts(ctx)
    assert made.pop((0, 1)) == ["undone", "committed"]
    assert {outcomes[-1] for outcomes in made.values()} == {"committed"}
    assert any(outcomes == ["superseded", "committed"] for (stage, _), outcomes in made.items() if stage == 1)
    assert all(outcomes == ["committed"] for (stage, _), outcomes in made.items() if stage == 0)
    check_nothing_left(str(ctx.storage))


def test_a_partial_that_the_root_finds_lost_is_made_again_before_anybody_sees_a_row(opened: Opened) -> None:
    ctx = opened(Fault(what="flipped", request="put", key="*/partial_0_0_0.arrow"))
    table = ctx.sql("SELECT v FROM t WHERE k < 100").to_arrow_table()
    assert sorted(table["v"].to_pylist()) == list(range(ROWS))
    made = attempts(ctx)
    assert made.pop((0, 0)) == ["undone", "committed"]
    assert set(map(tuple, made.values())) == {("committed",)}


def test_a_partial_that_is_lost_every_time_ends_the_query_with_every_attempt(opened: Opened) -> None:
    ctx = opened(Fault(what="flipped", request="put", key="*/partial_0_1_*", times=None), max_attempts=3)
    with pytest.raises(TaskFailed, match=r"task 0\.1 .* after 3 attempts: a committed partial was lost") as caught:
        grouped(ctx)
    assert caught.value.details["cause"] == "partial_lost"
    assert caught.value.details["attempts"].count("undone") == 3
    check_nothing_left(str(ctx.storage))


def test_a_query_that_is_kept_tells_of_every_attempt_at_its_task(opened: Opened) -> None:
    fault = Fault(what="fail", request="put", key="*/partial_0_1_*", times=None)
    ctx = opened(fault, max_attempts=3, keep_failed=True)
    with pytest.raises(TaskFailed, match="after 3 attempts"):
        grouped(ctx)
    assert ctx.last_query is not None
    trace = read_trace(open_store(str(ctx.storage)), ctx.last_query.query_id)
    tries = [attempt for attempt in trace.attempts if (attempt.stage, attempt.task) == (0, 1)]
    assert [(attempt.attempt, attempt.outcome) for attempt in tries] == [(n, "failed") for n in range(3)]
    assert {attempt.error.code for attempt in tries if attempt.error is not None} == {"storage_transient"}
    moments = [moment for attempt in tries for moment in (attempt.sent_s, attempt.started_s, attempt.ended_s)]
    assert moments == sorted(moment for moment in moments if moment is not None)


def test_a_commit_record_that_cannot_be_read_is_made_again(opened: Opened) -> None:
    ctx = opened(Fault(what="flipped", request="create", key="*/commit_0_1_0.json"))
    assert grouped(ctx) == RESULT
    assert attempts(ctx)[0, 1] == ["undone", "committed"]
    check_nothing_left(str(ctx.storage))


def test_files_of_a_write_are_those_of_the_attempts_that_count(opened: Opened, tmp_path: Path) -> None:
    ctx = opened(Fault(what="flipped", request="put", key="*/partial_0_1_0.arrow"))
    ctx.sql(f"COPY ({GROUPED}) TO '{tmp_path / 'out'}/' STORED AS PARQUET").collect()
    rows = ds.dataset(str(tmp_path / "out")).to_table().to_pylist()
    assert sorted(rows, key=lambda row: row["k"]) == RESULT


def test_a_read_that_is_damaged_once_costs_no_attempt(opened: Opened) -> None:
    ctx = opened(Fault(what="flipped", request="ranges", key="*/partial_0_1_0.arrow"))
    assert grouped(ctx) == RESULT
    assert set(map(tuple, attempts(ctx).values())) == {("committed",)}


def test_a_task_that_fails_by_its_environment_is_tried_on_the_other_node(opened: Opened) -> None:
    ctx = opened(Fault(what="fail", request="put", key="*/partial_0_1_0.arrow"))
    assert grouped(ctx) == RESULT
    assert attempts(ctx)[0, 1] == ["failed", "committed"]
    report = ctx.last_query
    assert report is not None
    assert len({attempt.node_id for attempt in report.attempts if (attempt.stage, attempt.task) == (0, 1)}) == 2


def test_a_task_that_hangs_is_done_by_the_other_node(opened: Opened) -> None:
    let_go = threading.Event()

    def hang(_process: str, _key: str) -> None:
        let_go.wait(60)

    ctx = opened(
        Fault(what="act", request="put", key="*/partial_0_1_0.arrow", act=hang),
        speculate=True,
        speculate_after_s=0.1,
        speculate_factor=1.0,
    )
    try:
        assert grouped(ctx) == RESULT
    finally:
        let_go.set()
    assert attempts(ctx)[0, 1] == ["superseded", "committed"]
    check_nothing_left(str(ctx.storage))


def test_an_error_of_the_data_is_not_tried_again(opened: Opened) -> None:
    ctx = opened()
    with pytest.raises(TaskFailed, match="Divide by zero") as caught:
        ctx.sql("SELECT k, sum(1 / (v - 299)) AS s FROM t GROUP BY k").collect()
    assert isinstance(caught.value.__cause__, ExecutionFailed)
    assert max(len(outcomes) for outcomes in attempts(ctx).values()) == 1
