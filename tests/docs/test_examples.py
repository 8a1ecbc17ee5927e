"""Everything in ``examples/`` runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

EXAMPLES = Path(__file__).parents[2] / "examples"
WAIT_S = 120


def run_example(name: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, cwd=cwd, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_every_example_has_a_test() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"sales_app.py", "notebook.py"}


def test_sales_app_reports_without_blocking_its_loop(tmp_path: Path) -> None:
    lines = run_example("sales_app.py", tmp_path).splitlines()
    assert lines[1].startswith("revenue by shop: ")
    assert lines[2].startswith("best in March: ")
    assert int(lines[3].split()[4]) >= 1
    assert re.fullmatch(r"sold in all: [\d,.]+ \([1-9]\d* tasks on nodes, [\d.]+ s\)", lines[4])
    assert list(tmp_path.iterdir()) == []


def test_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    shown = run_example("notebook.py", tmp_path)
    assert "50000" in shown
    assert "rides took longer than an hour" in shown
    assert list(tmp_path.iterdir()) == []
