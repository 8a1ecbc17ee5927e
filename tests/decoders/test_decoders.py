"""A few seconds of ``python -m tests.decoders``: no crash, no hang, errors of the tree only."""

from __future__ import annotations

import pytest

from .campaign import run_target
from .targets import TARGETS

SECONDS = 2.0


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_hostile_bytes_are_damage_and_nothing_else(name: str) -> None:
    outcome = run_target(name, 0, SECONDS)
    assert outcome.defect == ""
    # Some are still what they were, and most are not: else the bytes are not hostile, or not close to honest ones.
    assert outcome.ends["taken"] > 0
    assert outcome.ends.total() > outcome.ends["taken"]
