"""Rows of a result come as tasks commit: each once and none missing, whatever becomes of the others meanwhile."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apiary_df import SessionContext, Settings
from apiary_df.errors import PartialLost
from apiary_df.protocol import keys
from apiary_df.store import Store, open_store
from apiary_df.testing.faults import Fault, Faults, FaultyStore
from apiary_df.worker.node import Node
from swarm.helpers import FORCED, check_nothing_left, wait_until

HEARTBEAT_S = 0.05
"""Heartbeats often enough to tell of forgotten work."""

DEAD_S = 3.0
"""How long a node must be silent where one is to be taken for dead."""

HELD_S = 120.0
"""How long a task is held back at most: a test that never lets it go has failed by then."""

NODES = ("node-0", "node-1", "node-2")
ROWS = 300
ALL = "SELECT v FROM t"
GROUPED = "SELECT k, count(*) AS n FROM t GROUP BY k"


@dataclass(slots=True, kw_only=True)
class Gate:
    """Holds whoever comes to it until it is opened.

    Attributes:
        faults: Of the nodes, some of which may be paused while they are held.
        came: Processes that came.
    """

    faults: Faults
    came: list[str] = field(default_factory=list)
    _open: threading.Event = field(default_factory=threading.Event)

    def hold(self, process: str, _key: str) -> None:
        self.came.append(process)
        assert self._open.wait(HELD_S), "it was never opened"
        self.faults.check_alive(process)

    def open(self) -> None:
        self._open.set()

    @property
    def is_shut(self) -> bool:
        return not self._open.is_set()


@dataclass(slots=True, kw_only=True)
class Swarm:
    """Nodes in this process whose requests can be held back, and a session on them."""

    ctx: SessionContext
    faults: Faults
    store: Store
    gates: list[Gate] = field(default_factory=list)

    def gate(self, request: Any, key: str, process: str = "node-*", times: int | None = 1) -> Gate:
        """Hold back the first request of a kind, or the first so many; None is all."""
        gate = Gate(faults=self.faults)
        self.faults.add(Fault(what="act", request=request, key=key, process=process, act=gate.hold, times=times))
        self.gates.append(gate)
        return gate

    def open_all(self) -> None:
        for gate in self.gates:
            gate.open()

    def stream(self, sql: str) -> Iterator[list[dict[str, int]]]:
        """Yield the rows of each batch."""
        for batch in self.ctx.sql(sql).execute_stream():
            yield batch.to_pyarrow().to_pylist()

    def attempts(self, stage: int, task: int) -> list[str]:
        report = self.ctx.last_query
        assert report is not None
        return [a.outcome for a in report.attempts if not a.here and (a.stage, a.task) == (stage, task)]


Opened = Callable[..., Swarm]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens a session on three nodes of one bee, with a table of three files, one for each node."""
    for part in range(3):
        numbers = range(part * ROWS // 3, (part + 1) * ROWS // 3)
        pq.write_table(pa.table({"k": [n % 10 for n in numbers], "v": list(numbers)}), tmp_path / f"{part}.parquet")
    ends: list[Callable[[], None]] = []

    def start(**overrides: Any) -> Swarm:
        root = f"memory://{uuid.uuid4().hex}"
        faults = Faults()
        settings = {**FORCED, "retry_after_s": 0.01, "inline_partial_bytes": 0, "speculate": False, **overrides}
        of_nodes = Settings().with_overrides(**{"heartbeat_s": HEARTBEAT_S, **settings})
        for name in NODES:
            store = FaultyStore(open_store(root), faults, process=name)
            node = Node(store, bees=1, memory_bytes=64 << 20, settings=of_nodes, node_id=name)
            thread = threading.Thread(target=node.run, daemon=True)
            thread.start()
            ends.extend((node.stop, thread.join))
            assert node.ready.wait(60)
        swarm = Swarm(ctx=SessionContext(storage=root, **settings), faults=faults, store=open_store(root))
        ends[:0] = [swarm.open_all, swarm.ctx.close]
        swarm.ctx.register_parquet("t", str(tmp_path))
        return swarm

    yield start
    for end in ends:
        end()


def values(batches: Iterator[list[dict[str, int]]]) -> list[int]:
    return [row["v"] for rows in batches for row in rows]


def test_the_first_rows_come_while_other_tasks_are_still_at_work(opened: Opened) -> None:
    swarm = opened()
    gates = [swarm.gate("create", f"*/commit_0_{task}_*") for task in (0, 2)]
    stream = swarm.stream(ALL)
    first = values(iter([next(stream)]))
    assert first, "no rows"
    assert all(gate.is_shut for gate in gates)
    for gate in gates:
        gate.open()
    assert sorted(first + values(stream)) == list(range(ROWS))
    report = swarm.ctx.last_query
    assert report is not None
    assert report.first_row_s is not None
    assert report.first_row_s <= report.elapsed_s
    check_nothing_left(str(swarm.ctx.storage))


def test_rows_come_in_task_order_once_all_are_made_if_that_is_asked_for(opened: Opened) -> None:
    swarm = opened(stream_result=False)
    gate = swarm.gate("create", "*/commit_0_0_*")
    rows: list[int] = []
    reader = threading.Thread(target=lambda: rows.extend(values(swarm.stream(ALL))))
    reader.start()
    wait_until(lambda: gate.came, "the first task is ready to commit", HELD_S)
    gate.open()
    reader.join()
    assert rows == list(range(ROWS))


def test_what_a_cut_off_node_had_comes_once_from_another(opened: Opened) -> None:
    swarm = opened(heartbeat_s=0.2, suspect_after_s=DEAD_S / 2, dead_after_s=DEAD_S)
    lost, last = (swarm.gate("create", f"*/commit_0_{task}_0.json") for task in (1, 2))
    stream = swarm.stream(ALL)
    rows = values(iter([next(stream)]))
    wait_until(lambda: lost.came and last.came, "the others are ready to commit", HELD_S)
    cut_off = lost.came[0]
    swarm.faults.pause(cut_off)
    lost.open()
    while len(rows) < ROWS * 2 // 3:
        rows += values(iter([next(stream)]))
    # It comes back, and commits what another has committed meanwhile and the reader has seen.
    swarm.faults.resume(cut_off)
    last.open()
    rows += values(stream)
    assert sorted(rows) == list(range(ROWS))
    assert swarm.attempts(0, 1)[:1] == ["lost"]
    assert swarm.attempts(0, 1)[-1] == "committed"


def test_a_partial_that_is_lost_before_its_turn_is_made_again_beside_rows_that_went_out(opened: Opened) -> None:
    swarm = opened()
    swarm.faults.add(Fault(what="flipped", request="put", key="*/partial_0_1_0.arrow"))
    gate = swarm.gate("create", "*/commit_0_1_0.json")
    stream = swarm.stream(ALL)
    rows = values(iter([next(stream)]))
    gate.open()
    assert sorted(rows + values(stream)) == list(range(ROWS))
    assert swarm.attempts(0, 0) == ["committed"]
    assert swarm.attempts(0, 1) == ["undone", "committed"]


def test_what_rows_were_made_from_is_not_made_again(opened: Opened) -> None:
    swarm = opened()
    # One task of the last stage has read nothing yet when another's rows go out, and what it is to read is lost.
    gate = swarm.gate("ranges", "*/partial_0_0_0.arrow", process="node-1", times=None)
    stream = swarm.stream(GROUPED)
    seen = [row["k"] for row in next(stream)]
    wait_until(lambda: gate.came, "a task is ready to read", HELD_S)
    lost = [meta.key for meta in swarm.store.list(keys.QUERIES) if meta.key.endswith("partial_0_0_0.arrow")]
    assert len(lost) == 1
    swarm.store.delete(lost)
    gate.open()
    with pytest.raises(PartialLost, match="handed over already"):
        seen += [row["k"] for rows in stream for row in rows]
    assert len(seen) == len(set(seen)), "rows came twice"
    check_nothing_left(str(swarm.ctx.storage))


def test_a_limit_ends_the_query_while_tasks_are_still_at_work(opened: Opened) -> None:
    swarm = opened()
    gates = [swarm.gate("create", f"*/commit_0_{task}_*") for task in (0, 1)]
    rows = values(swarm.stream("SELECT v FROM t WHERE k >= 0 LIMIT 50"))
    assert len(set(rows)) == 50
    assert all(gate.is_shut for gate in gates)
    assert [swarm.attempts(0, task) for task in range(3)] == [["stopped"], ["stopped"], ["committed"]]
    for gate in gates:
        gate.open()
    check_nothing_left(str(swarm.ctx.storage))


@pytest.mark.parametrize(
    ("sql", "settings", "words"),
    [
        (ALL, {}, "rows: handed over as tasks commit\n"),
        ("SELECT v FROM t WHERE k >= 0 LIMIT 7", {}, "rows: handed over as tasks commit, until there are 7\n"),
        ("SELECT v FROM t ORDER BY v", {}, "rows: handed over once all tasks have committed: it merges"),
        (ALL, {"stream_result": False}, "rows: handed over once all tasks have committed: stream_result is off\n"),
    ],
)
def test_explain_says_when_rows_come_and_why(opened: Opened, sql: str, settings: dict[str, Any], words: str) -> None:
    ctx = opened(**settings).ctx
    told = ctx.sql(f"EXPLAIN ANALYZE {sql}").to_pylist()[-1]["plan"]
    assert words in told
    assert "rows, the first after" in told
