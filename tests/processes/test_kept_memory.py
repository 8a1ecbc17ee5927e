"""A session's process keeps freed memory for a while; a node's says for itself how long, and the environment stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

VARIABLE = "MIMALLOC_PURGE_DELAY"

SESSION = f"""
import os
before = os.environ.get("{VARIABLE}")
from apiary_df import SessionContext
assert os.environ.get("{VARIABLE}") == before, "what this process starts inherits nothing"
"""

DATAFUSION = "import datafusion"


def purge_delays(code: str, given: str | None = None) -> list[str]:
    """Return what each allocator that a program loads says of its purge delay, in ms, as often as it says so."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {"MIMALLOC_VERBOSE": "1"} | ({} if given is None else {VARIABLE: given})
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if "option 'purge_delay'" in line]
    return [line.split(":")[-1].split()[0] for line in lines]


def test_a_session_keeps_freed_memory_for_a_second() -> None:
    default = purge_delays(DATAFUSION)
    assert "10" in default, "DataFusion's allocator has another default: look again whether this is worth it"
    assert set(purge_delays(SESSION)) == {"1000"}


@pytest.mark.parametrize("given", ["0", "77"])
def test_the_environment_wins(given: str) -> None:
    assert set(purge_delays(SESSION, given)) == {given}


def test_datafusion_that_is_loaded_stays_as_it_is() -> None:
    assert purge_delays(f"{DATAFUSION}\n{SESSION}") == purge_delays(DATAFUSION)
