from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.engines.adapter import KINDS, Kind
from benchmarks.places import Storage
from benchmarks.record import SAME, Record, read_record, total, write_record
from benchmarks.runs import Chosen, Wanted, in_turn, parse_engines, run_suite
from benchmarks.suites import SUITES

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

START_S = 300
"""Engines are processes with nodes of their own; on a busy machine they take their time."""


def measure(folder: Path, engines: tuple[Chosen, ...], queries: tuple[str, ...], suite: str = "tpch") -> Record:
    wanted = Wanted(
        suite=SUITES[suite],
        scale=0.01,
        storage=Storage.FOLDER,
        engines=engines,
        repeat=2,
        queries=queries,
        folder=folder,
        timeout_s=START_S,
    )
    return list(run_suite(wanted))[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tables are made, once."""
    return tmp_path_factory.mktemp("bench")


def test_engines_run_the_same_queries_in_turn_and_answer_alike(folder: Path, tmp_path: Path) -> None:
    record = measure(folder, parse_engines("swarm:small_bytes=0,datafusion,duckdb"), ("Q1", "Q6"))

    assert [engine.failure for engine in record.engines] == [None] * 3
    assert all(len(engine.first_row_s) == 1 and engine.version for engine in record.engines)
    assert [query.name for query in record.queries] == ["Q1", "Q6"]
    for query in record.queries:
        for outcome in query.outcomes.values():
            assert (outcome.failure, outcome.answer, len(outcome.seconds)) == (None, SAME, 2)
            assert outcome.peak_memory_bytes > 1 << 20
    report = record.queries[0].outcomes["swarm:small_bytes=0"].report
    assert report is not None and report["distributed"] and sum(report["requests"].values()) > 0
    found = total(record, "duckdb")
    assert found is not None and found.queries == 2
    write_record(tmp_path / "run.json", record)
    assert read_record(tmp_path / "run.json") == record


def test_an_engine_that_is_not_there_and_a_query_that_fails_do_not_end_a_run(folder: Path) -> None:
    missing = Kind(name="missing", adapter="benchmarks.engines.missing:Missing", package="missing", what="nothing")
    engines = (
        Chosen(name="missing", kind=missing),
        Chosen(name="datafusion", kind=KINDS["datafusion"]),
        # Too little for any group by.
        Chosen(name="duckdb", kind=KINDS["duckdb"], options={"memory_limit": "1MB"}),
    )
    record = measure(folder, engines, ("Q6", "Q18"))

    assert "No module named 'benchmarks.engines.missing'" in (record.engines[0].failure or "")
    assert record.engines[1].failure is None
    assert total(record, "datafusion") is not None
    assert (record.engines[2].failure or record.queries[1].outcomes["duckdb"].failure or "").startswith("OutOfMemory")


def test_no_engine_always_follows_the_same_one() -> None:
    engines = ["swarm", "datafusion", "sail", "spark"]
    rounds = [in_turn(engines, turn) for turn in range(66)]
    assert all(sorted(order) == sorted(engines) for order in rounds)
    assert rounds == [in_turn(engines, turn) for turn in range(66)]
    neighbours = Counter(pair for order in rounds for pair in pairwise(order))
    assert len(neighbours) == len(engines) * (len(engines) - 1)
    assert min(neighbours.values()) >= 66 // 10
