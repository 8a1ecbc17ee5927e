"""Every fault at every place: exact rows or the error that the table says, the attempts that it says, nothing left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cells import Cell, all_cells, differences, run, some_cells
from .lab import Lab
from .page import as_markdown, with_table
from .shapes import SHAPES, Planned, plan_shapes
from .table import EXPECTED, KINDS, PLACES, Expected, lay

PAGE = Path(__file__).parents[2] / "docs" / "failures.md"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Planned]:
    return plan_shapes(tmp_path_factory.mktemp("matrix"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    yield made
    made.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_without_a_fault_each_task_is_tried_once(lab: Lab, planned: dict[str, Planned], shape: str) -> None:
    lab.ensure_nodes()
    seen = lab.try_query(planned[shape])
    assert (seen.error, seen.extra, seen.left) == (None, 0, ())
    assert seen.rows == planned[shape].rows
    assert len(seen.attempts) >= 2


@pytest.mark.parametrize("cell", some_cells(), ids=str)
def test_cell(lab: Lab, planned: dict[str, Planned], cell: Cell) -> None:
    found = differences(cell, planned[cell.shape], run(lab, planned[cell.shape], cell))
    assert not found, "; ".join(found)


def test_a_difference_from_the_table_is_told(lab: Lab, planned: dict[str, Planned]) -> None:
    """What the cells rest on: rows, errors, attempts and what is left are all looked at."""
    cell = Cell("partial written", "once", "scan")
    seen = run(lab, planned["scan"], cell)
    assert differences(cell, planned["scan"], seen) == []
    seen.rows = (seen.rows or [])[1:]
    seen.left = ("a key",)
    seen.attempts = dict.fromkeys(seen.attempts, 1)
    told = "; ".join(differences(cell, planned["scan"], seen))
    assert all(words in told for words in ("left behind: a key", "rows, not the", "0 more attempts"))


def test_every_kind_and_place_is_in_the_table(lab: Lab) -> None:
    assert set(EXPECTED) == set(PLACES)
    assert {kind for outcomes in EXPECTED.values() for kind in outcomes} == set(KINDS)
    assert all(outcomes for outcomes in EXPECTED.values())
    lab.ensure_nodes()
    for cell in all_cells():
        assert PLACES[cell.place].request == "run" or lay(lab, PLACES[cell.place], cell.kind), str(cell)


def test_the_page_is_made_of_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert as_markdown() in page, "python -m tests.matrix --page docs/failures.md"
    assert with_table(page) == page
    assert re.search(r"python -m tests\.matrix\b", page)


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (Expected(), "rows"),
        (Expected(more=1, more_by_shape={"join": 2}), "rows; +1, +2 (join)"),
        (Expected(error="task_failed", cause="plan", tries=4, more=None), "`task_failed` of `plan`; 4 tries"),
        (Expected(collected=True), "rows; nodes collect what is left"),
    ],
)
def test_outcomes_are_told_in_short(expected: Expected, words: str) -> None:
    assert str(expected) == words
