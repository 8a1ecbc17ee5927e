"""What deciding costs: a plan into stages, stages into tasks, and following these to their end. No task is run.

    python -m benchmarks.planner

Two promises: a hundred thousand cells are planned over a thousand nodes in less than a second, and any TPC-H plan is
decoded, rewritten and cut in less than 10 ms. Figures are seconds of this process's CPU, the best of a few rounds, so
that a busy machine changes them little.
"""

from __future__ import annotations

import functools
import gc
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datafusion
import typer

from apiary_df.demo import tpch_queries
from apiary_df.demo.data import generate_tpch, tpch_paths
from apiary_df.model import CellInfo, NodeInfo, NodeState, PartialRef, ScanFile, Segment, TaskKey, TaskSpec
from apiary_df.plan import codec
from apiary_df.plan.rules import RewriteOptions, rewrite
from apiary_df.plan.schema import ExchangeSchemas
from apiary_df.plan.stages import ExchangeLeaf, ScanLeaf, Stage, StageGraph, Variant, cut
from apiary_df.plan.tree import PlanNode
from apiary_df.planner import Distributed, plan_query, waves
from apiary_df.planning import TWIN_OPTIONS
from apiary_df.schedule import NodeSight, NodesSeen, Schedule, SendTasks, StagePlanned, Started, TaskCommitted, Tick
from apiary_df.tasks import TaskOptions, plan_stage

CELLS = 100_000
NODES = 1_000
BEES = 4
SHUFFLED = 512
"""Producers, and partitions, of the shuffle whose reading end is planned: a quarter of a million segments."""

READINGS = 4
"""Readings of heartbeats, and looks for news, while the tasks run."""

CACHED_ONCE = 100
CACHED_FIVE_TIMES = 500
ROUNDS = 3
TPCH_ROUNDS = 5
FEW_BEES = 8
MANY_BEES = 1_024
"""Plans grow with the bees that they are made for: a scan of one file has a range of it for each."""

TPCH_SCALE = 0.001
PLAN_LIMIT_S = 1.0
CUT_LIMIT_MS = 10.0
MB = 1_000_000
GB = 1_000 * MB

_NOTHING = PlanNode("placeholder_row", b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCost:
    """What one TPC-H plan costs beside DataFusion's own planning, in milliseconds.

    Attributes:
        query: Its number.
        decode_ms: Bytes to tree.
        rewrite_ms: All rules.
        cut_ms: The cut, with what DataFusion is asked about schemas, in a session that has met the columns' types.
        known_ms: The cut of a query whose exchanges have been seen before.
        stages: Stages, the root among them.
    """

    query: int
    decode_ms: float
    rewrite_ms: float
    cut_ms: float
    known_ms: float
    stages: int

    @property
    def total_ms(self) -> float:
        """All of it, for a query that was never seen before."""
        return self.decode_ms + self.rewrite_ms + self.cut_ms


def make_cells(size_bytes: Callable[[int], int]) -> list[CellInfo]:
    return [CellInfo(storage_key=f"s3://bucket/{i:06}.parquet", bytes=size_bytes(i)) for i in range(CELLS)]


def make_node(number: int, bees: int, busy: int = 0, cached: Mapping[str, int] | None = None) -> NodeInfo:
    return NodeInfo(
        node_id=f"node-{number:04}",
        state=NodeState.ALIVE,
        cores=bees,
        memory_bytes=bees * GB,
        memory_per_bee=GB,
        target_cell_size=128 * MB,
        bees_total=bees,
        bees_busy=busy,
        idle_bees=bees - busy,
        cached_cells=cached or {},
    )


def make_nodes(cached_per_node: int) -> list[NodeInfo]:
    """Nodes of 1 to 64 bees, some of them busy, each with so many of the cells in its cache."""
    nodes = []
    for number in range(NODES):
        bees = 1 + number * 7 % 64
        nodes.append(make_node(number, bees, number * 13 % (bees + 1), cached_by(number, cached_per_node)))
    return nodes


def cached_by(number: int, cells: int) -> dict[str, int]:
    """Return so many of the cells, as one of the nodes caches them."""
    keys = (f"s3://bucket/{(number * 97 + i * 31) % CELLS:06}.parquet" for i in range(cells))
    return dict.fromkeys(keys, 128 * MB)


def against(taken: float, limit: float) -> str:
    """Say whether a figure is within its limit."""
    return f"{taken / limit:4.0%} of the limit" + (", OVER" if taken > limit else "")


def best_s(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """CPU seconds of the best of a few rounds: the others measure the machine."""
    taken = []
    for _ in range(rounds):
        gc.collect()
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def pack_all(assignments: Mapping[str, tuple[CellInfo, ...]], nodes: Mapping[str, NodeInfo]) -> None:
    for node_id, cells in assignments.items():
        waves(cells, nodes[node_id])


def scan_stage(cells: int) -> Stage:
    """Return a stage that scans so many files of 100 MB, a cell each, and shuffles what it finds."""
    files = tuple(ScanFile(path=f"{number:06}.parquet", size_bytes=100 * MB) for number in range(cells))
    leaf = ScanLeaf(files=files, store_url="s3://bucket/", ordered=False, splittable=True, format="parquet_scan")
    return _stage(0, leaf, Variant(kind="cells", split=(0,)), "hash", SHUFFLED)


def shuffle_stage() -> Stage:
    """Return a stage that reads what the scan made, a task a partition."""
    leaf = ExchangeLeaf(stage=0, ordered=False)
    return _stage(1, leaf, Variant(kind="hash", split=(0,), partitions=SHUFFLED), "gather", 1)


def _stage(number: int, leaf: ScanLeaf | ExchangeLeaf, variant: Variant, output: str, partitions: int) -> Stage:
    return Stage(
        stage=number,
        fragment=_NOTHING,
        output=output,
        partitions=partitions,
        leaves=(leaf,),
        variants=(variant,),
        unions=0,
        schema=None,
    )


def make_partials(producers: int, partitions: int) -> tuple[PartialRef, ...]:
    """Return what so many tasks committed, with a segment of a megabyte for each partition."""
    return tuple(
        PartialRef(
            key=f"partial-{number}",
            length=partitions * MB,
            footer_offset=partitions * MB,
            footer_checksum="0" * 16,
            segments=tuple(
                Segment(partition=partition, offset=partition * MB, length=MB, rows=1_000, checksum="0" * 16)
                for partition in range(partitions)
            ),
        )
        for number in range(producers)
    )


def follow(specs: tuple[TaskSpec, ...], nodes: list[NodeInfo]) -> None:
    """Let a schedule send, watch and complete so many tasks.

    While they run, heartbeats are read and news looked for a few times; each time some more are committed.
    """
    root = _stage(1, ExchangeLeaf(stage=0, ordered=False), Variant(kind="single", whole=(0,)), "result", 1)
    schedule = Schedule("q", StageGraph(stages=(scan_stage(0), root)))
    schedule.handle(Started(), 0.0)
    sights = tuple(NodeSight(node_id=node.node_id, incarnation="1", bees_total=BEES) for node in nodes)
    schedule.handle(NodesSeen(nodes=sights), 0.0)
    sent = schedule.handle(StagePlanned(stage=0, specs=specs), 0.0)
    assert sum(len(command.tasks) for command in sent if isinstance(command, SendTasks)) == len(specs)
    partial = make_partials(1, 1)[0]
    for reading in range(READINGS):
        now_s = float(reading)
        schedule.handle(NodesSeen(nodes=sights), now_s)
        schedule.pending()
        open_tasks = schedule.open_tasks()
        for task in open_tasks[: -(-len(specs) // READINGS)]:
            schedule.handle(TaskCommitted(key=TaskKey(query_id="q", stage=0, task=task.task), partial=partial), now_s)
        schedule.handle(Tick(), now_s)
    assert schedule.progress() == (len(specs), len(specs))


def tpch_costs(folder: Path, bees: int, rounds: int) -> list[PlanCost]:
    """Decode, rewrite and cut every TPC-H plan, as for so many bees."""
    generate_tpch(folder, TPCH_SCALE)
    config = datafusion.SessionConfig().with_target_partitions(bees)
    for name, value in TWIN_OPTIONS.items():
        config = config.set(name, value)
    twin = datafusion.SessionContext(config)
    for name, path in tpch_paths(folder).items():
        twin.register_parquet(name, str(path))
    return [_plan_cost(twin, number, sql, bees, rounds) for number, sql in tpch_queries().items()]


def _plan_cost(twin: datafusion.SessionContext, number: int, sql: str, bees: int, rounds: int) -> PlanCost:
    encoded = twin.sql(sql).execution_plan().to_bytes(twin)
    options = RewriteOptions(partitions=bees, small_bytes=0, bee_bytes=GB)
    tree = codec.decode(encoded)
    rewritten = rewrite(tree, options)[-1].plan
    schemas = ExchangeSchemas()
    schema_of = functools.partial(schemas.of, twin)

    def cut_anew() -> None:
        schemas.forget()
        cut(rewritten, schema_of)

    graph = cut(rewritten, schema_of)
    return PlanCost(
        query=number,
        decode_ms=1_000 * best_s(lambda: codec.decode(encoded), rounds),
        rewrite_ms=1_000 * best_s(lambda: rewrite(tree, options), rounds),
        cut_ms=1_000 * best_s(cut_anew, rounds),
        known_ms=1_000 * best_s(lambda: cut(rewritten, schema_of), rounds),
        stages=len(graph.stages),
    )


def report_placing() -> None:
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
    print(
        f"placing {CELLS:,} cells on {NODES:,} nodes, and tasks of them; each is to take less than {PLAN_LIMIT_S:g} s"
    )
    for name, (cells, nodes) in cases.items():
        plan = plan_query(cells, nodes, nodes[0].node_id)
        assert isinstance(plan, Distributed)
        by_id = {node.node_id: node for node in nodes}
        plan_s = best_s(functools.partial(plan_query, cells, nodes, nodes[0].node_id))
        waves_s = best_s(functools.partial(pack_all, plan.assignments, by_id))
        used = len(plan.assignments)
        told = against(plan_s, PLAN_LIMIT_S)
        print(f"  {name:36} plan {plan_s:6.3f} s ({told})   waves {waves_s:6.3f} s   {used:5,} nodes used")


def report_tasks() -> None:
    nodes = [make_node(number, BEES) for number in range(NODES)]
    caching = [make_node(number, BEES, cached=cached_by(number, CACHED_FIVE_TIMES)) for number in range(NODES)]
    whole, halved = scan_stage(CELLS), scan_stage(CELLS // 2)
    starts = {f"s3://bucket/{number:06}.parquet": (4, 50 * MB) for number in range(CELLS // 2)}
    cases: dict[str, tuple[Stage, list[NodeInfo], Mapping[str, Sequence[int]], TaskOptions]] = {
        "a file each": (whole, nodes, {}, TaskOptions()),
        "a file each, cached on five nodes": (whole, caching, {}, TaskOptions()),
        "half a file each": (halved, nodes, starts, TaskOptions(min_cell_bytes=50 * MB)),
    }
    print(f"tasks, over {NODES:,} nodes of {BEES} bees")
    for name, (stage, swarm, row_groups, options) in cases.items():
        plan = functools.partial(plan_stage, stage, swarm, {}, row_groups, options)
        tasks = len(plan())
        took_s = best_s(plan)
        print(f"  {CELLS:,} cells, {name:33} {took_s:6.3f} s ({against(took_s, PLAN_LIMIT_S)})   {tasks:,} tasks")
    shuffle = shuffle_stage()
    partials = {0: make_partials(SHUFFLED, SHUFFLED)}
    took_s = best_s(lambda: plan_stage(shuffle, nodes, partials, {}, TaskOptions()))
    print(f"  a shuffle of {SHUFFLED} x {SHUFFLED} into {SHUFFLED:,} tasks {took_s:14.3f} s")
    one_each = tuple(
        TaskSpec(stage=0, task=number, node_id=nodes[number % NODES].node_id, output_partitions=1)
        for number in range(CELLS)
    )
    took_s = best_s(lambda: follow(one_each, nodes), rounds=1)
    print(f"  a schedule of {CELLS:,} tasks from first to last {took_s:9.3f} s")


def report_plans() -> None:
    with tempfile.TemporaryDirectory() as folder:
        costs = tpch_costs(Path(folder), FEW_BEES, TPCH_ROUNDS)
        wide = tpch_costs(Path(folder), MANY_BEES, 1)
    print(f"TPC-H plans for {FEW_BEES} bees, in ms; each is to take less than {CUT_LIMIT_MS:g}")
    print("  query  stages  decode  rewrite     cut   total   cut if seen before")
    for cost in costs:
        print(
            f"  {cost.query:5}  {cost.stages:6}  {cost.decode_ms:6.2f}  {cost.rewrite_ms:7.2f}  {cost.cut_ms:6.2f}"
            f"  {cost.total_ms:6.2f}  {cost.known_ms:6.2f}"
        )
    worst = max(costs, key=lambda cost: cost.total_ms)
    print(f"  the longest: query {worst.query}, {worst.total_ms:.2f} ms ({against(worst.total_ms, CUT_LIMIT_MS)})")
    worst = max(wide, key=lambda cost: cost.total_ms)
    print(f"  the longest for {MANY_BEES:,} bees: query {worst.query}, {worst.total_ms:.2f} ms")


def main() -> None:
    """Measure placing, handing out and scheduling many cells, and cutting TPC-H's plans."""
    report_placing()
    report_tasks()
    report_plans()


if __name__ == "__main__":
    typer.run(main)
