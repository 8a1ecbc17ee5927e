"""What a shuffle takes in requests, counted one by one."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from benchmarks.shuffle import count_shuffle

SIDE = 16


@pytest.fixture
def root() -> str:
    return f"memory://{uuid.uuid4().hex}"


@pytest.mark.parametrize("attached_bytes", [8 << 20, 0])
def test_a_shuffle_writes_an_object_or_two_a_task_and_reads_one_range_of_each(
    root: str, tmp_path: Path, attached_bytes: int
) -> None:
    counts = count_shuffle(tmp_path, SIDE, SIDE, root, attached_bytes=attached_bytes)
    writes = SIDE if attached_bytes else 2 * SIDE
    assert counts.equal
    assert (counts.producers, counts.consumers) == (SIDE, SIDE)
    assert counts.puts == writes
    assert counts.gets == SIDE * SIDE
    assert counts.lists == 0
    # What each attempt says of itself adds up to what the store saw of all: record and lease, partials or inputs.
    told = [attempt.requests for attempt in counts.report.task_reports if attempt.stage == 1]
    looks = counts.made["get", "lease.json"] + counts.made["get", "manifest.json"]
    assert sum(requests["put"] for requests in told) == writes
    assert SIDE * SIDE + SIDE <= sum(requests["get"] for requests in told) <= SIDE * SIDE + looks + SIDE


def test_pieces_that_are_put_together_on_their_way_are_read_by_groups(root: str, tmp_path: Path) -> None:
    counts = count_shuffle(tmp_path, SIDE, SIDE, root, combine=True)
    assert counts.equal
    assert (counts.producers, counts.combiners, counts.consumers) == (SIDE, SIDE, SIDE)
    assert counts.puts == SIDE + SIDE
    # Four groups of producers by four of partitions: each side is read four times.
    assert counts.gets == 4 * SIDE + 4 * SIDE
    assert counts.lists == 0


def test_small_partials_of_few_tasks_take_no_requests_of_their_own(root: str, tmp_path: Path) -> None:
    counts = count_shuffle(tmp_path, 4, 4, root, inline_bytes=1 << 20)
    assert counts.equal
    assert counts.puts == 4
    assert counts.gets == 0
