"""What tests of whole queries check over and over."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datafusion
import pyarrow as pa

from apiary_df import LocalSwarm, SessionContext
from apiary_df.demo import TPCH_ORDER_COLUMNS
from apiary_df.protocol import keys
from apiary_df.store import Store, open_store
from apiary_df.store_options import StoreOptions
from apiary_df.testing.compare import compare_tables

START_S = 120.0
"""How long a node may take to start; it takes one second, and a busy machine needs patience."""

CALM: Mapping[str, Any] = {"suspect_after_s": 300.0, "dead_after_s": 600.0}
"""Settings under which nobody is taken for silent: a busy machine may stand still for seconds, or one process of it.

Tests of what follows from silence say themselves when it begins.
"""

FORCED: Mapping[str, Any] = {
    **CALM,
    "small_bytes": 0,
    "finish_here_bytes": 0,
    "min_task_bytes": 0,
    "key_filter_from_bytes": 0,
    "broadcast_from_bytes": 0,
    "node_start_timeout_s": START_S,
}
"""Settings under which nothing is too small to be distributed, and no node is left out of it."""

PATIENT: Mapping[str, str] = {
    f"APIARY_{name.upper()}": str(value) for name, value in {**CALM, "node_start_timeout_s": START_S}.items()
}
"""The same, and time to start, in the environment of processes."""

SIGNIFICANT_DIGITS = 14
"""Digits of floats that must agree, though sums are added up in another order."""

HELD_S = 120.0
"""How long a task is held back at most: a test that never lets it go has failed by then."""

LATE_S = 60.0
"""How long a node may take to notice that a query is over. Most need a heartbeat; a busy machine needs patience."""


def wait_until(true: Callable[[], object], what: str, within_s: float = LATE_S) -> None:
    """Look until something is true; a bounded wait for what another process does in its own time."""
    give_up_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up_s, f"{what}: not so within {within_s:g} s"
        time.sleep(0.01)


def left_over(store: Store) -> list[str]:
    """Return the keys of whatever queries have left under a storage root."""
    found = [meta.key for meta in store.list(keys.QUERIES)]
    nodes = [keys.node_of_heartbeat(meta.key) for meta in store.list(keys.NODES)]
    return found + [meta.key for node in nodes if node for meta in store.list(keys.inbox_prefix(node))]


def check_nothing_left(storage: str, options: StoreOptions | None = None) -> None:
    """Check that nothing of any query remains; late writes of nodes may take a moment to go."""
    store = open_store(storage, options)
    wait_until(lambda: not left_over(store), f"queries gone from {storage} (left: {left_over(store)[:5]})")


class Held:
    """A query of TPC-H tables whose tasks do not end before they are let go: whatever a test does comes in their midst.

    Args:
        folder: An empty one of the test's own.
        ctx: The session that is to run it.
    """

    SQL = "SELECT l_linenumber, count(*) AS n FROM lineitem WHERE held(l_orderkey) > 0 GROUP BY l_linenumber ORDER BY 1"
    PLAIN = SQL.replace("held(l_orderkey)", "l_orderkey")
    """What gives the same rows."""

    def __init__(self, folder: Path, ctx: SessionContext) -> None:
        self._gate = folder / "gate"
        gate = str(self._gate)

        def held(numbers: pa.Array) -> pa.Array:
            import os
            import time

            give_up_s = time.monotonic() + HELD_S
            while not os.path.exists(gate):  # noqa: PTH110 - looked at often, by what is pickled by value
                assert time.monotonic() < give_up_s, "it was never let go"
                time.sleep(0.01)
            return numbers

        ctx.register_udf(datafusion.udf(held, [pa.int64()], pa.int64(), "stable", "held"))

    def let_go(self) -> None:
        """Let its tasks end, wherever they are."""
        self._gate.touch()


def kill_and_bury(swarm: LocalSwarm, node_id: str) -> None:
    """Kill a node and take its heartbeat away, so that its death is seen at once.

    By its silence it would be seen later, and on a busy machine another node may be silent for as long.
    """
    swarm.processes[node_id].kill()
    swarm.processes[node_id].wait()
    swarm.store.delete([keys.heartbeat(node_id)])


def check_same(
    expected: pa.Table, actual: pa.Table, *, ordered: bool = True, order_columns: tuple[str, ...] | None = None
) -> None:
    """Check that two answers hold the same rows under the same schema."""
    assert actual.schema.equals(expected.schema), f"{actual.schema} is not {expected.schema}"
    difference = compare_tables(
        expected,
        actual,
        ordered=ordered,
        order_columns=order_columns,
        significant_digits=SIGNIFICANT_DIGITS,
    )
    assert difference is None, str(difference)


def check_tpch(number: int, sql: str, plain: datafusion.SessionContext, ctx: SessionContext) -> None:
    """Run a TPC-H query and check its answer against plain DataFusion's."""
    columns = TPCH_ORDER_COLUMNS[number]
    expected = plain.sql(sql).to_arrow_table()
    check_same(expected, ctx.sql(sql).to_arrow_table(), ordered=bool(columns), order_columns=columns or None)


def check_was_distributed(ctx: SessionContext, tasks: int = 1) -> None:
    """Check that the newest query really ran on nodes, in at least so many tasks.

    How many tasks there are depends on which nodes look idle, so only tests that have the swarm to themselves ask for
    more than one.
    """
    report = ctx.last_query
    assert report is not None
    assert report.distributed, report.reason
    assert report.tasks >= tasks, report.task_reports


def wait_until_idle(ctx: SessionContext) -> None:
    """Wait until the heartbeats of all nodes say that they have nothing to do."""
    wait_until(lambda: not any(view.info.bees_busy for view in ctx.nodes()), "all nodes idle")
