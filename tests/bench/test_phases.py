"""The profile of TPC-H measures functions by name: they must be there."""

from __future__ import annotations

import pytest

from benchmarks.phases import BEE_PHASES, SESSION_PHASES, Meter
from benchmarks.tracing import owner_of


@pytest.mark.parametrize("phases", [BEE_PHASES, SESSION_PHASES], ids=["bee", "session"])
def test_every_function_of_a_phase_is_there(phases: dict[str, tuple[tuple[str, str], ...]]) -> None:
    for module, path in (place for places in phases.values() for place in places):
        assert callable(getattr(*owner_of(module, path)))


def test_seconds_go_to_the_innermost_phase() -> None:
    meter = Meter()
    inner = meter._measured("inner", lambda: sum(range(300_000)))
    meter._measured("outer", inner)()
    taken = meter.take()
    assert taken["inner"] > taken["outer"] >= 0
    assert meter.take() == {}
