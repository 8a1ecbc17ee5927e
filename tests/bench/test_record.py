from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import datafusion
import pyarrow as pa
import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.answers import Answers
from benchmarks.compare import changes
from benchmarks.plot import draw
from benchmarks.record import (
    SAME,
    EngineRecord,
    Outcome,
    QueryRecord,
    Record,
    read_record,
    times_as_fast,
    total,
    write_record,
)
from benchmarks.runs import parse_engines
from benchmarks.show import is_all_right, show

REPORT: dict[str, object] = {
    "distributed": True,
    "reason": "",
    "stages": 2,
    "tasks": 2,
    "bytes_through_storage": 512,
    "requests": {"get": 3},
}


def outcome(*seconds: float, answer: str = SAME, report: dict[str, object] | None = None) -> Outcome:
    return Outcome(answer=answer, seconds=seconds, peak_memory_bytes=1 << 20, report=report)


def record(swarm: tuple[float, ...] = (1.1, 1.2, 1.3), repeat: int = 3) -> Record:
    """Two queries on three engines, of which one fails the second, and a fourth that did not start."""
    engines = (
        EngineRecord(name="swarm", what="", version="1", first_row_s=(0.9,)),
        EngineRecord(name="datafusion", what="", version="55", first_row_s=(0.4,)),
        EngineRecord(name="daft-ray", what="", version="0", first_row_s=(6.0,), target=1.9),
        EngineRecord(name="spark", what="", failure="FileNotFoundError: no java"),
    )
    plain = outcome(*[1.0] * repeat)
    queries = (
        QueryRecord(
            name="Q1",
            rows=4,
            outcomes={
                "swarm": outcome(*swarm, report=REPORT),
                "datafusion": plain,
                "daft-ray": outcome(*[2.4] * repeat),
            },
        ),
        QueryRecord(
            name="Q21",
            rows=4,
            outcomes={
                "swarm": outcome(*[1.0] * repeat, report=REPORT),
                "datafusion": plain,
                "daft-ray": Outcome(failure="DaftError: no"),
            },
        ),
    )
    return Record(
        suite="tpch",
        scale=1,
        storage="folder",
        workers=2,
        repeat=repeat,
        started_at="2026-01-01T00:00:00+00:00",
        facts={"versions": {"commit": "abc"}},
        engines=engines,
        queries=queries,
    )


def test_a_total_counts_only_queries_that_both_engines_ran() -> None:
    swarm, ray = total(record(), "swarm"), total(record(), "daft-ray")

    assert swarm is not None
    assert ray is not None
    assert swarm.ratio == pytest.approx(1.1)
    assert [swarm.lowest, swarm.highest, swarm.worst[0]] == pytest.approx([1.05, 1.15, 1.2])
    assert swarm.worst[1] == "Q1"
    assert (ray.queries, ray.failed) == (1, ("Q21",))
    assert {engine.name: times for engine, times in times_as_fast(record())} == pytest.approx({"daft-ray": 2.0})


def test_a_saved_record_reads_back_the_same(tmp_path: Path) -> None:
    write_record(tmp_path / "run.json", record())

    assert read_record(tmp_path / "run.json") == record()


def test_a_record_of_another_layout_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path / "run.json", replace(record(), format=99))

    with pytest.raises(ValueError, match="layout 99"):
        read_record(tmp_path / "run.json")


def test_changes_are_beyond_noise_only_if_no_rounds_overlap() -> None:
    slower = {change.query: change for change in changes(record(), record((1.5, 1.6, 1.7))) if change.engine == "swarm"}
    noisy = {change.query: change for change in changes(record(), record((1.2, 1.6, 1.7))) if change.engine == "swarm"}

    assert slower["Q1"].beyond_noise and slower["Q1"].factor == pytest.approx(1.6 / 1.2)
    assert slower["total"].beyond_noise
    assert not slower["Q21"].beyond_noise
    assert not noisy["Q1"].beyond_noise


def test_single_rounds_say_nothing_about_noise() -> None:
    assert not any(change.beyond_noise for change in changes(record((1.0,), 1), record((9.0,), 1)))


def test_runs_of_different_scales_are_not_compared() -> None:
    with pytest.raises(ValueError, match="scale is 1 in the first, 10 in the second"):
        list(changes(record(), replace(record(), scale=10)))


def test_the_commands_on_saved_runs(tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    write_record(before, record())
    write_record(after, record((1.5, 1.6, 1.7)))
    run = CliRunner().invoke

    assert run(app, ["compare", str(before), str(before)]).exit_code == 0
    slower = run(app, ["compare", str(before), str(after)])
    assert slower.exit_code == 1 and "slower" in slower.output
    assert run(app, ["compare", str(before), str(tmp_path / "none.json")]).exit_code == 2
    shown = run(app, ["show", str(before)])
    assert "spark did not run: FileNotFoundError: no java" in shown.output
    assert "Q21 on daft-ray failed: DaftError: no" in shown.output
    assert "2.00 times as fast" in shown.output
    assert run(app, ["list"]).exit_code == 0


def test_a_record_is_drawn_whatever_it_lacks(tmp_path: Path) -> None:
    draw(record(), tmp_path / "run.png")
    draw(replace(record(), queries=()), tmp_path / "starts.png")

    for name in ("run.png", "starts.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_wrong_answer_of_the_swarm_is_not_all_right() -> None:
    right = record()
    first = right.queries[0]
    wrong = replace(first, outcomes={**first.outcomes, "swarm": outcome(1, 1, 1, answer="rows differ", report=REPORT)})
    console = Console(record=True, width=160, quiet=True)
    show(console, replace(right, queries=(wrong,)))

    assert is_all_right(right)
    assert not is_all_right(replace(right, queries=(wrong,)))


def test_engines_are_read_with_their_options() -> None:
    plain, changed = parse_engines("swarm, swarm:small_bytes=0:timeout_s=5")

    assert (plain.name, dict(plain.options)) == ("swarm", {})
    assert dict(changed.options) == {"small_bytes": "0", "timeout_s": "5"}
    for text in ("nobody", "swarm,swarm", "swarm:small_bytes"):
        with pytest.raises(ValueError):
            parse_engines(text)


DECIMAL = pa.decimal128(10, 4)


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [
        (pa.table({"y": pa.array([1, 2]), "avg(x)": [1.50004, 0.3333333]}), True),
        (pa.table({"y": pa.array([2, 1]), "avg(x)": [0.3333333, 1.50004]}), True),
        (pa.table({"y": pa.array([1, 2]), "avg(x)": [1.5, 0.3334]}), True),
        (pa.table({"y": pa.array([1, 2]), "avg(x)": [1.6, 0.3333333]}), False),
        (pa.table({"y": pa.array([1, 2]), "avg(x)": [1.5, None]}), False),
        (pa.table({"y": pa.array([1, 2])}), False),
        (pa.table({"y": pa.array(["one", "two"]), "avg(x)": [1.5, 0.3333]}), False),
    ],
)
def test_answers_of_other_engines_are_compared_by_value(theirs: pa.Table, verdict: bool) -> None:
    session = datafusion.SessionContext()
    values = "(1, CAST(1.5 AS DECIMAL(10, 4))), (2, CAST(0.3333 AS DECIMAL(10, 4)))"
    sql = f"SELECT CAST(column1 AS INT) AS y, column2 AS a FROM (VALUES {values}) t"
    answers = Answers(session)
    expected = answers.expected(sql)

    assert expected.column("a").to_pylist() == [Decimal("1.5000"), Decimal("0.3333")]
    assert (answers.judge(sql, expected, theirs, exact=False) == SAME) is verdict
    assert answers.judge(sql, expected, expected, exact=True) == SAME
