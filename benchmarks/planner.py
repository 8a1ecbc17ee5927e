"""Prints how long the planner takes for a hundred thousand cells over a thousand nodes.

Run with ``python benchmarks/planner.py``. The promise is under a second for the whole plan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from apiary_df.model import CellInfo, NodeInfo, NodeState
from apiary_df.planner import Distributed, plan_query, waves

CELLS = 100_000
NODES = 1_000
CACHED_ONCE = 100
CACHED_FIVE_TIMES = 500
ROUNDS = 3
MB = 1_000_000
GB = 1_000 * MB


def make_cells(size_bytes: Callable[[int], int]) -> list[CellInfo]:
    return [CellInfo(storage_key=f"s3://bucket/{i:06}.parquet", bytes=size_bytes(i)) for i in range(CELLS)]


def make_nodes(cached_per_node: int) -> list[NodeInfo]:
    """Nodes of 1 to 64 bees, some of them busy, each with so many of the cells in its cache."""
    nodes = []
    for number in range(NODES):
        bees = 1 + number * 7 % 64
        busy = number * 13 % (bees + 1)
        cached = (f"s3://bucket/{(number * 97 + i * 31) % CELLS:06}.parquet" for i in range(cached_per_node))
        nodes.append(
            NodeInfo(
                node_id=f"node-{number:04}",
                state=NodeState.ALIVE,
                cores=bees,
                memory_bytes=bees * GB,
                memory_per_bee=GB,
                target_cell_size=128 * MB,
                bees_total=bees,
                bees_busy=busy,
                idle_bees=bees - busy,
                cached_cells=dict.fromkeys(cached, 128 * MB),
            )
        )
    return nodes


def best_s(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few rounds: the others measure the machine."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def pack_all(assignments: Mapping[str, tuple[CellInfo, ...]], nodes: Mapping[str, NodeInfo]) -> None:
    for node_id, cells in assignments.items():
        waves(cells, nodes[node_id])


def main() -> None:
    one_size = make_cells(lambda _: 128 * MB)
    many_sizes = make_cells(lambda i: 1 + i * 7_919 % (128 * MB))
    small = make_cells(lambda i: 1 + i * 7_919 % MB)
    cases = {
        "one size, nothing cached": (one_size, make_nodes(0)),
        "many sizes, nothing cached": (many_sizes, make_nodes(0)),
        "many sizes, each cached once": (many_sizes, make_nodes(CACHED_ONCE)),
        "many sizes, each cached five times": (many_sizes, make_nodes(CACHED_FIVE_TIMES)),
        "small cells, each cached once": (small, make_nodes(CACHED_ONCE)),
    }
    print(f"{CELLS:,} cells over {NODES:,} nodes, best of {ROUNDS}")
    for name, (cells, nodes) in cases.items():
        plan = plan_query(cells, nodes, nodes[0].node_id)
        assert isinstance(plan, Distributed)
        by_id = {node.node_id: node for node in nodes}
        plan_s = best_s(partial(plan_query, cells, nodes, nodes[0].node_id))
        waves_s = best_s(partial(pack_all, plan.assignments, by_id))
        used = len(plan.assignments)
        print(f"  {name:36} plan {plan_s:6.3f} s   waves {waves_s:6.3f} s   {used:5,} nodes used")


if __name__ == "__main__":
    main()
