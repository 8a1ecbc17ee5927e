"""What a node that has nothing to do asks of a bucket, in an hour of virtual time."""

from __future__ import annotations

from pathlib import Path
from random import Random

from apiary_df.config import Settings
from apiary_df.worker.node import Node

from .kernel import Process, World
from .simulation import BEE_BYTES
from .storage import Backend, Faults, SimStore
from .workers import SimExecutor, WorkModel

HOUR_S = 3600.0
SETTLED_S = 1200.0
"""After so long without work, waits have grown as far as they do."""

MOST_AN_HOUR = {"get": 1_800, "put": 720, "list": 280, "head": 0, "delete": 0}
"""What docs/performance.md promises."""


def test_an_idle_hour_on_a_bucket_takes_no_more_requests_than_is_promised(tmp_path: Path) -> None:
    world = World(7)
    process = Process(world, "node")
    store = SimStore(Backend(world, Random(7), Faults(), lambda _: False), process)
    model = WorkModel(random=Random(7), task_s=0.1, straggles=0.0, exhausts=0.0)
    node = Node(
        store,
        bees=1,
        memory_bytes=BEE_BYTES,
        settings=Settings(scratch_dir=str(tmp_path)),
        node_id="idle",
        executors=lambda folder: SimExecutor(store, process, folder, model, BEE_BYTES),
        host=process.host,
    )
    process.start("main", node.run)
    world.run(lambda: False, SETTLED_S)
    before = store.counts.snapshot()
    world.run(lambda: False, SETTLED_S + HOUR_S)
    after = store.counts.snapshot()
    process.kill()
    asked = {kind: after[kind] - before[kind] for kind in MOST_AN_HOUR}
    assert all(asked[kind] <= most for kind, most in MOST_AN_HOUR.items()), asked
    assert asked["put"] > 700, "a node that is idle gives signs of life"
