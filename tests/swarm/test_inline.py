"""Partials that lie in their commit records, or behind them: the same rows, and no objects for them."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apiary_df import SessionContext, Settings
from apiary_df.store import open_store
from apiary_df.testing.faults import Faults, FaultyStore
from apiary_df.worker.node import Node
from swarm import helpers

FORCED = {**helpers.FORCED, "speculate": False}
"""One attempt a task, however busy the machine is."""

SHUFFLED = "SELECT k, count(*) AS n, sum(v) AS total, min(s) AS least FROM t GROUP BY k ORDER BY k"
JOINED = "SELECT a.k, b.s FROM t a JOIN (SELECT k, max(s) AS s FROM t GROUP BY k) b ON a.k = b.k ORDER BY 1, 2 LIMIT 20"


@pytest.fixture(params=["memory", "folder"])
def swarm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Faults]]:
    """Two nodes in this process, whose requests are noted."""
    root = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else str(tmp_path / "root")
    noted = Faults()
    nodes = []
    for name in ("node-0", "node-1"):
        store = FaultyStore(open_store(root), noted, process=name)
        node = Node(
            store, bees=1, memory_bytes=64 << 20, settings=Settings(heartbeat_s=0.1, **helpers.CALM), node_id=name
        )
        thread = threading.Thread(target=node.run, daemon=True)
        thread.start()
        nodes.append((node, thread))
        assert node.ready.wait(60)
    yield root, noted
    for node, thread in nodes:
        node.stop()
        thread.join()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "t"
    folder.mkdir()
    for part in range(3):
        numbers = range(part, 300, 3)
        columns = {"k": [n % 10 for n in numbers], "v": [*numbers], "s": [f"text {n}" for n in numbers]}
        pq.write_table(pa.table(columns), folder / f"{part}.parquet")
    return folder


@pytest.mark.parametrize("sql", [SHUFFLED, JOINED])
@pytest.mark.parametrize(
    ("inline", "attached"), [(16384, 0), (0, 8 << 20), (0, 0)], ids=["inline", "attached", "stored"]
)
def test_small_partials_are_no_objects_of_their_own(
    swarm: tuple[str, Faults], table: Path, sql: str, inline: int, attached: int
) -> None:
    root, noted = swarm
    plain = datafusion.SessionContext()
    plain.register_parquet("t", str(table))
    told = {**FORCED, "inline_partial_bytes": inline, "attached_partial_bytes": attached}
    with SessionContext(storage=root, **told) as ctx:
        ctx.register_parquet("t", str(table))
        assert ctx.sql(sql).to_pylist() == plain.sql(sql).to_pylist()
        report = ctx.last_query
        assert report is not None
        assert report.distributed
    lies = "in its record" if inline else "behind its record" if attached else ""
    assert {attempt.lies for attempt in report.attempts if not attempt.here} == {lies}
    put = [made.keys[0] for made in noted.made if made.request == "put" and "/partial_" in made.keys[0]]
    assert len(put) == (0 if inline or attached else report.tasks)
    # A scan wants a file that begins with the partial, so one behind its record is fetched from a folder too.
    read = [made for made in noted.made if made.request == "ranges" and "/commit_" in made.keys[0]]
    assert bool(read) == bool(attached)
    assert open_store(root).list("_queries") == []
