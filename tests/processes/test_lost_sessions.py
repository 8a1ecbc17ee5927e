"""Sessions that are killed or paused for long leave nothing: nodes drop their queries, and remove them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from swarm.helpers import START_S, left_over, wait_until

from apiary_df import LocalSwarm, SessionContext, Settings
from apiary_df.protocol import keys

pytestmark = pytest.mark.processes

PATIENCE_S = 120.0

SETTINGS = Settings(
    heartbeat_s=0.2,
    suspect_after_s=1.0,
    dead_after_s=2.0,
    gc_grace_s=4.0,
    small_bytes=0,
    finish_here_bytes=0,
    min_task_bytes=0,
    node_start_timeout_s=START_S,
)

SLOW = "SELECT a.x FROM t a JOIN t b ON a.g = b.g WHERE (a.x * b.x) % 1000 = 7"

QUICK = "SELECT count(*) AS n FROM t a JOIN t b ON a.g = b.g WHERE a.x < 2500 AND (a.x * b.x) % 1000003 = 7"
QUICK_ROWS = 86

SCRIPT = """
import json, sys
from apiary_df import SessionContext
from apiary_df.errors import ApiaryError
storage, table, sql = sys.argv[1:]
with SessionContext(storage=storage) as ctx:
    ctx.register_parquet("t", table)
    try:
        said = {"rows": ctx.sql(sql).to_pylist()}
    except ApiaryError as error:
        said = {"error": error.code, "message": error.message}
print(json.dumps(said), flush=True)
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("lost-sessions")
    for part in range(2):
        rows = range(part * 60_000, (part + 1) * 60_000)
        pq.write_table(pa.table({"x": rows, "g": [x % 3 for x in rows]}), folder / f"{part}.parquet")
    return str(folder)


@pytest.fixture(scope="module")
def swarm() -> Iterator[LocalSwarm]:
    with LocalSwarm(2, settings=SETTINGS) as swarm:
        yield swarm


@contextmanager
def started(swarm: LocalSwarm, table: str, sql: str) -> Iterator[subprocess.Popen[str]]:
    """Run a query in a process of its own; nodes are at work on it."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, swarm.storage, table, sql],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **SETTINGS.to_environ()},
    )
    try:
        wait_until(lambda: queries_at_work(swarm), "nodes at work", PATIENCE_S)
        yield process
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def queries_at_work(swarm: LocalSwarm) -> set[str]:
    with SessionContext(storage=swarm.storage, settings=SETTINGS) as ctx:
        return {query for view in ctx.nodes() for query in view.heartbeat.queries}


def test_query_of_a_killed_session_is_dropped_and_removed(swarm: LocalSwarm, table: str) -> None:
    with started(swarm, table, SLOW) as session:
        session.send_signal(signal.SIGKILL)
        wait_until(lambda: not queries_at_work(swarm), "nodes idle", PATIENCE_S)
        wait_until(lambda: not left_over(swarm.store), "root clean", PATIENCE_S)
    folder = swarm.store.local_path(keys.QUERIES.rstrip("/"))
    assert folder is not None
    assert list(folder.iterdir()) == []
    with SessionContext(storage=swarm.storage, settings=SETTINGS) as ctx:
        ctx.register_parquet("t", table)
        assert ctx.sql("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 120_000}]


def test_session_that_was_paused_past_the_grace_learns_that_its_query_is_gone(swarm: LocalSwarm, table: str) -> None:
    with started(swarm, table, SLOW) as session:
        session.send_signal(signal.SIGSTOP)
        wait_until(lambda: not left_over(swarm.store), "root clean", PATIENCE_S)
        session.send_signal(signal.SIGCONT)
        stdout, _ = session.communicate(timeout=PATIENCE_S)
        said = json.loads(stdout)
        assert said.get("error") == "query_lost", said
        wait_until(lambda: not left_over(swarm.store), "root clean", PATIENCE_S)


def test_session_that_was_paused_for_less_gives_its_work_out_again(table: str) -> None:
    settings = SETTINGS.with_overrides(gc_grace_s=600)
    with LocalSwarm(1, settings=settings) as swarm, started(swarm, table, QUICK) as session:
        session.send_signal(signal.SIGSTOP)
        wait_until(lambda: not queries_at_work(swarm), "nodes idle", PATIENCE_S)
        session.send_signal(signal.SIGCONT)
        stdout, _ = session.communicate(timeout=PATIENCE_S)
        assert json.loads(stdout) == {"rows": [{"n": QUICK_ROWS}]}
        wait_until(lambda: not left_over(swarm.store), "root clean", PATIENCE_S)
