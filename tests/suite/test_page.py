"""docs/testing.md tells what there is, and what a run of all of it gave."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from .__main__ import main
from .catalogue import SUITES
from .harness import PARTITIONS
from .report import LEAST_SHARE, MADE

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")

PUBLIC = {"tpch": 22, "ssb": 13, "clickbench": 43}
"""Suites that others made, and how many queries they have."""


def _rows(text: str) -> dict[str, list[str]]:
    """Return the rows of tables whose first cell is code, by that cell."""
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}


def test_the_public_suites_are_whole() -> None:
    assert {name: len(SUITES[name].queries) for name in PUBLIC} == PUBLIC


def test_the_page_describes_every_suite_and_count() -> None:
    described = _rows(PAGE.split("## Suites")[1].split("<!--")[0])
    assert list(described) == list(SUITES)
    assert all(str(number) in described[name][0] for name, number in PUBLIC.items())
    *first, last = map(str, PARTITIONS)
    assert f"{', '.join(first)} and {last}." in PAGE


@pytest.mark.parametrize("name", SUITES)
def test_the_last_run_was_whole_and_right(name: str) -> None:
    made = MADE.search(PAGE)
    assert made is not None
    queries, runs, right, divisible, divided = (int(cell) for cell in _rows(made[1])[name][:5])
    # The own suite grows; what others made does not.
    assert queries == len(SUITES[name].queries) if name in PUBLIC else queries <= len(SUITES[name].queries)
    assert runs == right == queries * len(PARTITIONS)
    assert divided >= LEAST_SHARE * divisible > 0


def test_commands_of_the_page_have_options_that_are_there() -> None:
    options = {"json" if name == "json_file" else name for name in inspect.signature(main).parameters}
    used = {option for line in re.findall(r"tests\.suite[^`]*", PAGE) for option in re.findall(r"--(\w+)", line)}
    assert used
    assert used <= options
