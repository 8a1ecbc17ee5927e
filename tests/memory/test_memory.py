"""Queries over more than the bees' memory: they spill, or are cut finer, and give exactly their rows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .measure import generate, measured

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory of processes is looked up in /proc"),
]

BEE_BYTES = 16 << 20
TIMES = 3
"""Size of each table in budgets of a bee: enough to need what ten times need (``python -m tests.memory``)."""

NODE_BYTES = 512 << 20


def test_a_join_and_a_sort_over_several_budgets_finish_exactly_below_512_mib(tmp_path: Path) -> None:
    tables = generate(tmp_path, BEE_BYTES * TIMES)
    outcomes = measured(tables, bee_bytes=BEE_BYTES, bees=2, nodes=1, limit_bytes=NODE_BYTES)
    assert [(o.name, o.error, o.same, o.killed) for o in outcomes] == [("join", "", True, 0), ("sort", "", True, 0)]
    assert all(outcome.spilled_bytes for outcome in outcomes)
    assert all(outcome.node_bytes < NODE_BYTES for outcome in outcomes)
