"""A skewed join on real nodes: its partition is shared, the rows stay what they are, and the query says so."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from apiary_df import LocalSwarm, SessionContext
from benchmarks.skew import FORCED, SHUFFLING, Figures, run_skewed, write_tables
from swarm.helpers import wait_until_idle

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


def test_explain_analyze_says_what_was_dealt_out(tables: Path) -> None:
    sql = "EXPLAIN ANALYZE SELECT f.k, sum(f.v + d.w) FROM facts f JOIN dims d ON f.k = d.k GROUP BY {}"
    with SessionContext(storage=f"memory://{uuid.uuid4().hex}", settings=SKEWED, local_bees=2) as ctx:
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
