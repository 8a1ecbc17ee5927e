"""What ``apiary replay`` prints, from values."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from apiary_df.cli.timeline import MOST_SHOWN, render_found, render_task, render_trace
from apiary_df.errors import ErrorInfo, NoAliveNodes, StorageTransient, TaskFailed
from apiary_df.model import ExchangeInput, ScanFile, ScanInput, Segment, SegmentRef, TaskSpec
from apiary_df.replay.trace import UNENDED, Found, Trace
from apiary_df.report import OUTCOMES, AttemptReport

FAILED = StorageTransient("read 'a': 503 Slow Down").to_info()


def attempt(stage: int, task: int, number: int = 0, outcome: str = "committed", **facts: Any) -> AttemptReport:
    moments = {"sent_s": 0.0, "started_s": 0.1, "ended_s": 0.5, "seconds": 0.4}
    return AttemptReport(
        stage=stage, task=task, attempt=number, node_id="n1", outcome=outcome, **{**moments, "rows": 3, **facts}
    )


def found(**facts: Any) -> Found:
    values: dict[str, Any] = {
        "query_id": "q1",
        "state": "done",
        "kept": True,
        "started_at": "2026-01-02T03:04:05.678+00:00",
        "seconds": 1.0,
        "sql": "SELECT  1\nAS x",
        "error": None,
        "objects": 7,
        "size_bytes": 2048,
        **facts,
    }
    return Found(**values)


def trace(*attempts: AttemptReport, **facts: Any) -> Trace:
    of_query = {name: facts.pop(name) for name in ("state", "error", "seconds", "sql") if name in facts}
    return Trace(found=found(**of_query), attempts=attempts, **{"rows": 3, "coordinator": "session-1", **facts})


def shown(what: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


def rows_of(text: str, *names: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(names)]


def test_head_tells_the_end_the_text_and_who_ran_it() -> None:
    lines = shown(render_trace(trace(attempt(0, 0)))).splitlines()
    assert lines[0] == "query q1: done after 1.00 s"
    assert lines[1].strip() == "SELECT 1 AS x"
    assert lines[2].strip() == "started 2026-01-02 03:04:05 by session-1"
    assert lines[3].split(";")[0].strip() == "1 attempt (1 committed) at 1 task of 1 stage, on 1 node"


def test_a_failed_query_tells_its_error_and_the_cause_of_each_attempt() -> None:
    lost = NoAliveNodes("node n2 was lost while it had the task").to_info()
    text = shown(
        render_trace(
            trace(
                attempt(0, 0, outcome="failed", error=FAILED),
                attempt(0, 0, 1, outcome="lost", error=lost, started_s=None, seconds=0.0),
                state="failed",
                error=TaskFailed("task 0.0 failed").to_info(),
            )
        )
    )
    assert "failed after 1.00 s" in text
    assert "task_failed: task 0.0 failed" in text
    assert "0.0 on n1: failed after 400 ms\n  storage_transient: read 'a': 503 Slow Down\n" in text
    assert "0.0 #1 on n1: lost\n  no_alive_nodes: node n2 was lost while it had the task\n" in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_bars_lie_where_the_attempts_were_in_time(width: int) -> None:
    text = shown(
        render_trace(
            trace(
                attempt(0, 0, sent_s=0.0, started_s=0.0, ended_s=0.5),
                attempt(0, 1, sent_s=0.0, started_s=0.5, ended_s=1.0),
            )
        ),
        width,
    )
    first, second = (line for line in rows_of(text, "0.0", "0.1"))
    begin, end = first.index("█"), first.rindex("█") + 1
    assert second.index("·") == begin
    assert second.index("█") == end
    assert abs((second.rindex("█") + 1 - end) - (end - begin)) <= 1


def test_attempts_without_moments_have_an_empty_bar_and_lost_ones_a_full_one() -> None:
    unknown = attempt(0, 0, outcome="waiting", sent_s=None, started_s=None, ended_s=None, seconds=0.0)
    lost = attempt(0, 1, outcome="lost", sent_s=0.2, started_s=None, ended_s=None, seconds=0.0)
    first, second = rows_of(shown(render_trace(trace(unknown, lost))), "0.0", "0.1")
    assert not set(first) & set("█▓▒░·")
    assert "▓▓▓▓" in second


def test_without_any_moment_there_is_no_axis() -> None:
    unknown = attempt(0, 0, outcome="running", sent_s=None, started_s=None, ended_s=None, seconds=0.0)
    assert "0 s" not in shown(render_trace(trace(unknown, seconds=None, state=UNENDED)))


def test_an_instant_at_the_very_end_is_seen() -> None:
    text = shown(render_trace(trace(attempt(0, 0), attempt(1, 0, sent_s=1.0, started_s=1.0, ended_s=1.0))))
    (last,) = rows_of(text, "1.0 n1")
    assert last.count("█") == 1


def test_of_many_attempts_those_that_went_wrong_and_the_slowest_are_shown() -> None:
    many = [attempt(0, task, seconds=0.1) for task in range(100)]
    many[40] = attempt(0, 40, outcome="failed", error=FAILED, seconds=0.01)
    many[70] = attempt(0, 70, seconds=0.9)
    few = shown(render_trace(trace(*many)))
    assert f"and {100 - MOST_SHOWN} more" in few
    assert len(rows_of(few, "0.")) == MOST_SHOWN + 1  # and the cause of the failed one
    assert rows_of(few, "0.40 ")
    assert rows_of(few, "0.70 ")
    assert len(rows_of(shown(render_trace(trace(*many), every=True)), "0.")) == 101


def test_what_storage_holds_cannot_move_the_terminals_cursor() -> None:
    evil = "\x1b[2J\x07[red]x"
    attempts = [attempt(0, 0, outcome=evil, why=evil, error=TaskFailed(evil).to_info(), speculative=True)]
    text = shown(render_trace(trace(*attempts, reason=evil, sql=evil, unreadable=(evil,)), every=True))
    text += shown(render_task(trace(*attempts), 0, 0, None, None)) + shown(render_found("s", [found(sql=evil)]))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\\x1b[2J" in text
    assert "[red]x" in text


NUMBERS = st.integers(-(2**63), 2**63)
SECONDS = st.floats(allow_nan=False, allow_infinity=False)
MOMENTS = st.none() | SECONDS
TEXT = st.text(max_size=30)
ATTEMPTS = st.builds(
    AttemptReport,
    stage=NUMBERS,
    task=NUMBERS,
    attempt=NUMBERS,
    node_id=TEXT,
    outcome=st.sampled_from([*OUTCOMES, "running", "waiting"]) | TEXT,
    here=st.booleans(),
    error=st.none() | st.builds(ErrorInfo, code=TEXT, message=TEXT),
    why=TEXT,
    sent_s=MOMENTS,
    started_s=MOMENTS,
    ended_s=MOMENTS,
    seconds=SECONDS,
    queued_s=SECONDS,
    rows=NUMBERS,
    input_bytes=NUMBERS,
    output_bytes=NUMBERS,
    epoch=NUMBERS,
    slots=NUMBERS,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ATTEMPTS, max_size=5), MOMENTS, st.integers(20, 200))
def test_whatever_an_outcome_holds_can_be_printed(
    attempts: list[AttemptReport], seconds: float | None, width: int
) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(render_trace(trace(*attempts, seconds=seconds)))


def test_a_task_tells_what_it_reads() -> None:
    segment = Segment(partition=2, offset=0, length=2048, rows=1_000, checksum="c")
    ref = SegmentRef(
        key="_queries/q1/partial_0_0_0.arrow", object_length=1, footer_offset=0, footer_checksum="c", segment=segment
    )
    files = (ScanFile(path="data/a.parquet", size_bytes=4096, range_start=0, range_end=1024),)
    spec = TaskSpec(
        stage=1,
        task=0,
        node_id="n1",
        output_partitions=1,
        scans=(ScanInput(leaf=0, files=files),),
        exchanges=(ExchangeInput(leaf=1, segments=(ref,) * (MOST_SHOWN + 3)),),
        input_bytes=5120,
        why="least loaded",
    )
    text = shown(render_task(trace(attempt(1, 0)), 1, 0, spec, None), 120)
    assert "reads 5.0 KiB on n1: least loaded" in text
    assert "leaf 0: data/a.parquet bytes 0 to 1,024 (1.0 KiB)" in text
    assert "leaf 1: partition 2 of _queries/q1/partial_0_0_0.arrow, 1,000 rows, 2.0 KiB" in text
    assert "and 4 more" in text


def test_a_task_of_which_nothing_was_kept_says_so() -> None:
    assert "what it reads was not kept" in shown(render_task(trace(attempt(0, 0)), 0, 0, None, None))


def test_queries_are_listed_with_their_end_and_their_text() -> None:
    failed = found(query_id="q2", state="failed", error=FAILED, seconds=0.0123)
    unended = found(query_id="q3", state=UNENDED, seconds=None, started_at="", sql=None)
    lines = shown(render_found("s3://b/swarm", [found(), failed, unended])).splitlines()
    assert lines == [
        "s3://b/swarm: 3 queries, 6.0 KiB",
        "q1  2026-01-02 03:04:05  done, 1.00 s, 2.0 KiB",
        "  SELECT 1 AS x",
        "q2  2026-01-02 03:04:05  failed: storage_transient, 12 ms, 2.0 KiB",
        "  SELECT 1 AS x",
        "q3  at a time unknown  no end recorded, 2.0 KiB",
    ]


def test_an_empty_list_says_how_queries_stay() -> None:
    assert "keep_failed" in shown(render_found("s3://b/swarm", []))
