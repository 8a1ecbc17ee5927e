"""What all tests of processes need of the process that runs them."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def interrupts_are_heard() -> Iterator[None]:
    """Tests that run in the background may be deaf to interrupts, and so would be the processes that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
