"""What is kept of a query's attempts, however many there were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from swarm.planted import manifest

from apiary_df import history, query_objects
from apiary_df.errors import ApiaryError, QueryCancelled, TaskFailed
from apiary_df.history import History, ending_of
from apiary_df.model import ScanFile, ScanInput, TaskSpec
from apiary_df.protocol.kept import Outcome
from apiary_df.protocol.storage import limit_of, write_message
from apiary_df.query_objects import QueryObjects
from apiary_df.replay.trace import read_task, read_trace
from apiary_df.report import AttemptReport, QueryReport
from apiary_df.store import open_store

QUERY, SESSION, NODE = "q1", "session-1", "n1"


def attempt(task: int, outcome: str = "committed", seconds: float = 0.1) -> AttemptReport:
    return AttemptReport(stage=0, task=task, attempt=0, node_id=NODE, outcome=outcome, seconds=seconds)


def outcome_of(*attempts: AttemptReport) -> Outcome:
    report = QueryReport(
        query_id=QUERY,
        sql=None,
        distributed=True,
        reason="",
        stages=2,
        tasks=len(attempts),
        rows=0,
        bytes_through_storage=0,
        elapsed_s=1.0,
        attempts=attempts,
    )
    return History(QUERY, SESSION, 1).outcome(report, "")


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        (None, "done"),
        (TaskFailed("t"), "failed"),
        (ZeroDivisionError("z"), "failed"),
        (QueryCancelled("c"), "cancelled"),
        (KeyboardInterrupt(), "cancelled"),
        (GeneratorExit(), "cancelled"),
    ],
)
def test_how_a_query_ended_is_told_by_what_broke_it_off(failure: BaseException | None, state: str) -> None:
    ended, error = ending_of(failure)
    assert ended == state
    assert (error is not None) is (state == "failed")
    if isinstance(failure, ApiaryError) and state == "failed":
        assert error == failure.to_info()


def test_of_too_many_attempts_those_are_kept_that_went_wrong_or_were_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_KEPT", 3)
    fast = [attempt(task) for task in range(10)]
    kept = outcome_of(*fast, attempt(10, "failed"), attempt(11, seconds=9.0), attempt(12, "lost"))
    assert [a.task for a in kept.attempts] == [10, 11, 12]
    assert kept.omitted == 10
    assert outcome_of(*fast[:3]).omitted == 0


def test_as_many_attempts_as_are_kept_fit_into_a_message() -> None:
    longest = replace(attempt(10**6), node_id="n" * 64, why="w" * 100, sent_s=1 / 3, started_s=1 / 3, ended_s=1 / 3)
    assert history.MOST_KEPT * len(msgspec.json.encode(longest)) < limit_of(Outcome)


def test_tasks_of_a_large_stage_lie_in_several_objects_and_each_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_objects, "KEPT_TASKS_BYTES", 2_000)
    store = open_store(str(tmp_path))
    scan = ScanInput(leaf=0, files=(ScanFile(path="a.parquet", size_bytes=1),))
    specs = [TaskSpec(stage=0, task=n, node_id=NODE, output_partitions=1, scans=(scan,)) for n in range(40)]
    write_message(store, f"_queries/{QUERY}/manifest.json", manifest(QUERY, coordinator=SESSION, stages=()))
    outcome = outcome_of(*(attempt(spec.task) for spec in specs))
    QueryObjects(QUERY, store, SESSION).keep(outcome, {0: specs}, None)
    trace = read_trace(store, QUERY)
    assert sum("tasks_0_" in key for key in trace.objects) > 3
    assert [read_task(store, trace, 0, spec.task)[0] for spec in specs] == specs
