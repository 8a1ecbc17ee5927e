"""How many requests of a stage a query waits for one after the other, where each takes as long as on a bucket."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from matrix.shapes import Planned, plan_shapes

from apiary_df.config import Settings
from apiary_df.coordinator import QueryRun
from apiary_df.footers import FooterCache
from apiary_df.protocol import keys
from apiary_df.store import open_store
from apiary_df.testing.slow import NotedRequest, SlowStore, sequences_of_stages
from apiary_df.view import SwarmView
from apiary_df.worker.node import Node
from swarm.helpers import LATE_S, wait_until

LATENCY_S = 0.03
RUNS = 3

SMALL = 4
"""Mail and record, each written and read."""

READ = 1
"""Partials of an earlier stage that did not come by mail are read."""

STORED = 1
"""A partial that lies neither in its record nor behind it is written before it."""

MOST = 5
"""Requests of a stage that a query waits for one after the other, unless partials are very large."""

NODES = ("node-0", "node-1")
SETTINGS = Settings(small_bytes=0, finish_here_bytes=0, min_task_bytes=0, speculate=False, heartbeat_s=0.5)


class Swarm:
    def __init__(self, *, inline_partial_bytes: int, attached_partial_bytes: int) -> None:
        given = SETTINGS.with_overrides(
            inline_partial_bytes=inline_partial_bytes, attached_partial_bytes=attached_partial_bytes
        )
        self.noted: list[NotedRequest] = []
        self._root = open_store(f"memory://{uuid.uuid4().hex}", environ={})
        self.nodes = [
            Node(self.store_of(name), bees=1, memory_bytes=64 << 20, settings=given, node_id=name) for name in NODES
        ]
        self._threads = [threading.Thread(target=node.run, daemon=True) for node in self.nodes]
        for thread in self._threads:
            thread.start()
        settings = given.for_store("bucket")
        self.view = SwarmView(self.store_of("session"), "session", settings)
        wait_until(lambda: sum(view.usable for view in self.view.refresh()) == len(NODES), "nodes are there", 60.0)
        self._settings = settings
        self.inlines = inline_partial_bytes > 0
        self.attaches = attached_partial_bytes > 0

    def store_of(self, process: str) -> SlowStore:
        return SlowStore(self._root, LATENCY_S, self.noted, process)

    def run(self, planned: Planned) -> tuple[list[tuple[object, ...]], dict[int, tuple[NotedRequest, ...]]]:
        """Return the rows, and of each stage the shortest row of requests of several runs.

        Where a machine is busy, a request that was made beside another begins after its end now and then.
        """
        best: dict[int, tuple[NotedRequest, ...]] = {}
        for _ in range(RUNS):
            rows, noted = self.run_once(planned)
            assert rows == planned.rows
            for stage, row in sequences_of_stages(noted, "session").items():
                best[stage] = min(best.get(stage, row), row, key=len)
        return rows, best

    def run_once(self, planned: Planned) -> tuple[list[tuple[object, ...]], list[NotedRequest]]:
        """Return the rows, and all requests."""
        begun = len(self.noted)
        run = QueryRun(planned.query, self.view, self._settings, FooterCache())
        rows = [tuple(row.values()) for batch in run for row in batch.to_pylist()]
        return sorted(rows), self.noted[begun:]

    def close(self) -> None:
        for node in self.nodes:
            node.stop()
        for thread in self._threads:
            thread.join(LATE_S)


WAYS = {"small": (16 << 10, 8 << 20), "attached": (0, 8 << 20), "stored": (0, 0)}
"""Where partials lie: in their records, behind them, in objects of their own."""


@pytest.fixture(scope="module", params=[*WAYS.values()], ids=[*WAYS])
def swarm(request: pytest.FixtureRequest) -> Iterator[Swarm]:
    inline_bytes, attached_bytes = request.param
    swarm = Swarm(inline_partial_bytes=inline_bytes, attached_partial_bytes=attached_bytes)
    yield swarm
    swarm.close()


@pytest.mark.parametrize("shape", ["scan", "aggregate", "sort"])
def test_what_a_stage_waits_for_is_no_more_than_it_must(swarm: Swarm, shape: str, tmp_path: Path) -> None:
    planned = plan_shapes(tmp_path)[shape]
    rows, stages = swarm.run(planned)
    assert rows == planned.rows
    assert stages, "no stage was seen"
    for stage, row in stages.items():
        verbs = [request.verb for request in row]
        reads, stores = "ranges" in verbs, "put" in verbs
        shown = [f"{request.process} {request.verb} {request.key}" for request in row]
        assert len(row) == SMALL + reads * READ + stores * STORED, f"stage {stage}: {shown}"
        assert stores != (swarm.inlines or swarm.attaches), f"stage {stage}: {shown}"
        assert not (swarm.inlines and reads), f"stage {stage}: {shown}"
        assert stores or len(row) <= MOST, f"stage {stage}: {shown}"
    assert swarm.inlines or len(stages) == 1 or max(map(len, stages.values())) > SMALL


def test_a_query_waits_for_little_before_its_first_stage_and_after_its_last(swarm: Swarm, tmp_path: Path) -> None:
    planned = plan_shapes(tmp_path)["aggregate"]
    beside = []
    for _ in range(RUNS):
        rows, noted = swarm.run_once(planned)
        assert rows == planned.rows
        own = [request for request in noted if request.process == "session"]
        manifest = next(request for request in own if request.key.endswith("/manifest.json") and request.verb == "put")
        mail = next(request for request in own if request.verb == "create")
        beside.append(manifest.start_s < mail.end_s and mail.start_s < manifest.end_s)
        # What it leaves is known, and needs no listing.
        prefix = keys.query_prefix(manifest.key.split("/")[1])
        ended = [request.verb for request in own if request.key.startswith(prefix)]
        assert [verb for verb in ended if verb in ("list", "delete")] == ["delete"]
        assert swarm.view.store.list(prefix) == []
    # What the mail encloses is written beside it; on a busy machine one may begin late.
    assert any(beside)
