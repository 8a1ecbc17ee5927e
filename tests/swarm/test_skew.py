"""A skewed join on real nodes: its partition is shared, the rows stay what they are, and the query says so."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest

from apiary_df import LocalSwarm, SessionContext
from apiary_df.store import open_store
from apiary_df.testing.faults import Fault, Faults, FaultyStore
from apiary_df.worker.node import Node
from benchmarks.skew import FORCED, SHUFFLING, Figures, run_skewed, write_tables
from swarm.helpers import START_S, check_nothing_left, wait_until_idle

ROWS = 4_000
FILES = 4
SKEWED = FORCED.with_overrides(skew_from_bytes=0, min_task_bytes=0, min_cell_bytes=1, inline_partial_bytes=0)
AS_ONE = SKEWED.with_overrides(skew_factor=0)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    write_tables(tmp_path, ROWS, 0.9, FILES)
    return tmp_path


def check_dealt(as_one: Figures, dealt: Figures, bees: int) -> None:
    """Check that one of as many partitions as there are bees was dealt out to all of them."""
    assert as_one.equal
    assert dealt.equal
    assert not as_one.report.changes
    assert len(dealt.report.changes) == 1, [(task.stage, task.why) for task in dealt.report.task_reports]
    (change,) = dealt.report.changes
    assert f"is read by {bees} tasks: each has a share of its rows of stage" in change.what
    assert len(as_one.tasks) == bees
    assert len(dealt.tasks) == 2 * bees - 1
    assert sum(f"of {bees} of partition" in task.why for task in dealt.tasks) == bees
    assert sum(task.rows for task in dealt.tasks) == sum(task.rows for task in as_one.tasks) == ROWS
    assert dealt.most_rows < as_one.most_rows * 1.5 / bees


def both_ways(tables: Path, root: str, local_bees: int = 0) -> tuple[Figures, Figures]:
    """Run the join with the partition as one task, and dealt out; a node that looks busy would be given less."""
    as_one, dealt = (
        run_skewed(tables, root, settings, local_bees=local_bees, before=wait_until_idle)
        for settings in (AS_ONE, SKEWED)
    )
    return as_one, dealt


@pytest.mark.processes
def test_node_processes_share_a_skewed_partition(swarm: LocalSwarm, tables: Path) -> None:
    check_dealt(*both_ways(tables, swarm.storage), bees=2)


def test_bees_of_the_session_share_a_skewed_partition(tables: Path) -> None:
    check_dealt(*both_ways(tables, f"memory://{uuid.uuid4().hex}", local_bees=4), bees=4)


@pytest.mark.parametrize("stage", [0, 1], ids=["of one side", "of the other"])
def test_a_partition_is_dealt_out_anew_once_what_was_lost_is_made_again(stage: int, tables: Path) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    settings = SKEWED.with_overrides(heartbeat_s=0.05, retry_after_s=0.01)
    faults = Faults([Fault(what="flipped", request="put", key=f"*/partial_{stage}_1_0.arrow")])
    store = FaultyStore(open_store(root), faults, process="node")
    node = Node(store, bees=2, memory_bytes=128 << 20, settings=settings, node_id="node")
    thread = threading.Thread(target=node.run)
    thread.start()
    try:
        assert node.ready.wait(START_S)
        figures = run_skewed(tables, root, settings, before=wait_until_idle)
    finally:
        node.stop()
        thread.join()
    assert figures.equal
    assert len(figures.report.changes) == 1
    assert len(figures.tasks) == 3
    outcomes: dict[tuple[int, int], list[str]] = {}
    for attempt in figures.report.attempts:
        if not attempt.here:
            outcomes.setdefault((attempt.stage, attempt.task), []).append(attempt.outcome)
    assert outcomes.pop((stage, 1)) == ["undone", "committed"]
    assert {found[-1] for found in outcomes.values()} == {"committed"}
    assert ["superseded", "committed"] in outcomes.values()
    check_nothing_left(root)


def test_explain_analyze_says_what_was_dealt_out(tables: Path) -> None:
    sql = "EXPLAIN ANALYZE SELECT f.k, sum(f.v + d.w) FROM facts f JOIN dims d ON f.k = d.k GROUP BY {}"
    # Groups are shuffled anew: where they lie together already, they are made in the join's stage, which stays whole.
    settings = SKEWED.with_overrides(reuse_from_values=0)
    with SessionContext(storage=f"memory://{uuid.uuid4().hex}", settings=settings, local_bees=2) as ctx:
        for option, value in SHUFFLING.items():
            ctx.sql(f"SET {option} = {value}").collect()
        for name in ("facts", "dims"):
            ctx.register_parquet(name, str(tables / name))
        wait_until_idle(ctx)
        (row,) = ctx.sql(sql.format("f.k, f.v")).to_pylist()
        assert "changed as it ran: partition " in row["plan"]
        assert "(part 2 of 2 of partition " in row["plan"]
        (row,) = ctx.sql(sql.format("f.k")).to_pylist()
        assert "changed as it ran" not in row["plan"]
        assert "and stays one task: AggregateExec: mode=SinglePartitioned: all rows of a group must" in row["plan"]
