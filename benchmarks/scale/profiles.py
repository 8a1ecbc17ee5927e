"""What a query was measured to need: its stages as they were really cut, and bytes and seconds of each.

A profile is made by running TPC-H queries on a swarm of one bee, at two scales: how a stage's output grows with its
input is the slope between them. Thresholds are set for that so that tables are shuffled which a larger scale would
shuffle, and only those stay whole that have the same few rows at any scale. So the stages are those of the large scale,
made by the real planner; :func:`graph_of` gives them as many bytes, files and partitions as one wishes.
"""

from __future__ import annotations

import functools
import math
import os
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
from datafusion import SessionConfig

import apiary_df
from apiary_df.config import Settings
from apiary_df.demo import tpch_queries
from apiary_df.demo.data import generate_tpch, tpch_paths
from apiary_df.errors import InternalError
from apiary_df.model import ScanFile
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.stages import ExchangeLeaf, ScanLeaf, Stage, StageGraph, Variant
from apiary_df.plan.tree import PlanNode
from apiary_df.planning import MIN_PARTITIONS, RunsOnSwarm, SwarmPlanner
from apiary_df.report import QueryReport
from benchmarks.harness import BENCH_FOLDER, register_tables

FIXED_TABLES = frozenset({"nation", "region"})
"""Tables that have the same rows at any scale."""

SMALL_BYTES = 8 << 10
"""What stays whole while a profile is made: the fixed tables and nothing else, at any scale from 0.02 on."""

START_TIMEOUT_S = 300.0
"""A profile may be made on a machine that does other things as well."""

TASK_S = 0.010
"""A bee's own time for a task: engine, plan, partial. What is above it is put down to bytes."""

SHAPES: Mapping[int, str] = {
    1: "scan, aggregate to 4 groups",
    6: "scan, filter, one sum",
    3: "3 tables, shuffle joins, top 10",
    9: "6 tables, shuffle joins, 175 groups",
    18: "group by order, shuffle joins, top 100",
}
"""The queries that stand for all: what is scanned and aggregated, and what is shuffled and joined."""

_BROADCAST_OPTIONS = {
    "datafusion.optimizer.hash_join_single_partition_threshold": str(SMALL_BYTES),
    "datafusion.optimizer.hash_join_single_partition_threshold_rows": "100",
}
_NOTHING = PlanNode("placeholder_row", b"")
_COMBINING = PlanNode("repartition", b"", (PlanNode("arrow_scan", b""),))
"""All that is asked of fragments here: whether they only hand on what they read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafShape:
    """A leaf of a stage.

    Attributes:
        table: The table that it scans; empty if it reads a stage.
        table_bytes: Bytes of that table's files at the profile's scale.
        read_share: Share of them that are of columns which the query names.
        stage: The stage that it reads; -1 if it scans.
        ordered: See :class:`apiary_df.plan.stages.ExchangeLeaf`.
    """

    table: str = ""
    table_bytes: int = 0
    read_share: float = 1.0
    stage: int = -1
    ordered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StageShape:
    """A stage, as it was cut and measured.

    Attributes:
        output: See :class:`apiary_df.plan.stages.Stage`.
        leaves: Its leaves.
        variants: How tasks run it; its shuffles' partition counts are the model's to choose.
        unions: Its unions.
        task_in_bytes: Mean bytes that a task of it read.
        task_out_bytes: Mean bytes that a task of it wrote, or handed to the user.
        growth: Exponent by which a task's output grows with its input: 0 for a few groups, 1 for rows.
        byte_s: Seconds of a bee for each byte read.
        combines: It only hands on what a shuffle brought, in fewer pieces: see :mod:`benchmarks.scale.levels`.
    """

    output: str
    leaves: tuple[LeafShape, ...]
    variants: tuple[Variant, ...]
    unions: int = 0
    task_in_bytes: float = 1.0
    task_out_bytes: float = 1.0
    growth: float = 1.0
    byte_s: float = 1e-8
    combines: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryShape:
    """A query's stages, at the scale of its profile; the last one is the root.

    Attributes:
        name: What to call it.
        scale: TPC-H scale factor of the profile.
        stages: Its stages.
    """

    name: str
    scale: float
    stages: tuple[StageShape, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What was measured, and where.

    Attributes:
        made_on: The machine and the versions, for people.
        queries: By TPC-H number.
    """

    made_on: str
    queries: Mapping[int, QueryShape]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What reports tell of the mean task of a stage.

    Attributes:
        in_bytes: Bytes that it read.
        out_bytes: Bytes that it wrote, or handed to the user.
        seconds: How long it took.
    """

    in_bytes: float
    out_bytes: float
    seconds: float


def load(path: Path) -> Profile:
    return msgspec.json.decode(path.read_bytes(), type=Profile)


def save(profile: Profile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n")


def graph_of(shape: QueryShape, scale: float, partitions: int, cell_bytes: int) -> StageGraph:
    """Return a query's stages at a scale, over shuffles of so many partitions and files of about so many bytes."""
    stages = []
    for number, stage in enumerate(shape.stages):
        leaves = tuple(_leaf(leaf, scale / shape.scale, cell_bytes) for leaf in stage.leaves)
        variants = tuple(_variant(variant, stage, partitions) for variant in stage.variants)
        stages.append(
            Stage(
                stage=number,
                fragment=_COMBINING if stage.combines else _NOTHING,
                output=stage.output,
                partitions=partitions if stage.output == "hash" else 1,
                leaves=leaves,
                variants=variants,
                unions=stage.unions,
                schema=None,
            )
        )
    return StageGraph(stages=tuple(stages))


def cells_of(leaf: LeafShape, times: float, cell_bytes: int) -> tuple[int, int]:
    """Return how many bytes a scanned table has, so many times as large as in the profile, and how many cells."""
    size_bytes = leaf.table_bytes if leaf.table in FIXED_TABLES else round(leaf.table_bytes * times)
    return size_bytes, max(1, round(size_bytes / cell_bytes))


@functools.lru_cache(maxsize=32)
def _leaf(leaf: LeafShape, times: float, cell_bytes: int) -> ScanLeaf | ExchangeLeaf:
    if leaf.stage >= 0:
        return ExchangeLeaf(stage=leaf.stage, ordered=leaf.ordered)
    total_bytes, count = cells_of(leaf, times, cell_bytes)
    files = tuple(
        ScanFile(path=f"{leaf.table}/{number:06}.parquet", size_bytes=max(1, total_bytes // count))
        for number in range(count)
    )
    return ScanLeaf(files=files, store_url="s3://tables/", ordered=False, splittable=False, format="parquet_scan")


def _variant(variant: Variant, stage: StageShape, partitions: int) -> Variant:
    if variant.kind == "hash":
        return replace(variant, partitions=partitions)
    leaf = stage.leaves[0] if len(stage.leaves) == 1 else None
    if variant.kind == "single" and leaf is not None and leaf.stage < 0 and leaf.table not in FIXED_TABLES:
        # A table of one row group was planned as one piece; one of many files never is.
        return replace(variant, kind="cells", whole=(), split=(0,))
    return variant


def measure(queries: Sequence[int], scales: Sequence[float], made_on: str, *, repeat: int = 3) -> Profile:
    """Run queries on a swarm of one bee as if its tables were large, and return what each stage of them needed.

    Args:
        queries: TPC-H numbers.
        scales: Scale factors; with two, how a stage's output grows is measured, else rows are taken to stay rows.
        made_on: Where, for people.
        repeat: Runs of each query.

    Raises:
        ApiaryError: If a query fails, or cannot be run by stages.
    """
    found = [_measured(queries, scale, repeat) for scale in sorted(scales)]
    shapes = {number: _grown(found[0][number], found[-1][number]) for number in queries}
    return Profile(made_on=made_on, queries=shapes)


def _measured(queries: Sequence[int], scale: float, repeat: int) -> dict[int, QueryShape]:
    tables = tables_of(scale)
    config = functools.reduce(lambda c, option: c.set(*option), _BROADCAST_OPTIONS.items(), SessionConfig())
    settings = Settings(
        progress=False,
        node_start_timeout_s=START_TIMEOUT_S,
        small_bytes=SMALL_BYTES,
        finish_here_bytes=0,
        min_task_bytes=0,
    )
    with apiary_df.SessionContext(config, nodes=1, settings=settings) as ctx:
        register_tables(ctx, {name: str(path) for name, path in tables.items()})
        return {number: shape_of(ctx, number, tables, scale, repeat, alone=False) for number in queries}


def tables_of(scale: float) -> dict[str, Path]:
    """Make the tables of a scale, unless they are there, and return where they are."""
    folder = BENCH_FOLDER / f"tpch-{scale:g}-1"
    generate_tpch(folder, scale)
    return {name: path.resolve() for name, path in tpch_paths(folder).items()}


def shape_of(
    ctx: apiary_df.SessionContext, number: int, tables: Mapping[str, Path], scale: float, repeat: int, *, alone: bool
) -> QueryShape:
    """Run a query on a swarm of one bee, and return what each of its stages needed.

    Args:
        ctx: A session with such a swarm.
        number: The query's TPC-H number.
        tables: Its tables.
        scale: Their scale factor.
        repeat: Runs.
        alone: Take a stage's seconds in its fastest run for its bee's. If not, they are what bees had of their cores in
            all runs: on a machine that does other things as well, they wait.

    Raises:
        ApiaryError: If the query fails, or cannot be run by stages.
    """
    sql = tpch_queries()[number]
    reports: list[QueryReport] = []
    before_s = _node_cpu_s(ctx)
    for _ in range(repeat):
        ctx.sql(sql).to_arrow_table()
        report = ctx.last_query
        if report is None or not report.distributed:
            raise InternalError(f"query {number} did not run on the swarm: {report.reason if report else 'no report'}")
        reports.append(report)
    took_s = sum(attempt.seconds for report in reports for attempt in report.attempts if not attempt.here)
    # The fastest run was disturbed least; but what a bee had of its core on the whole, it had of all runs.
    one_of = min if alone else statistics.fmean
    busy = 1.0 if alone else min(1.0, (_node_cpu_s(ctx) - before_s) / max(took_s, TASK_S))
    graph = _cut(ctx, number)
    if len(graph.stages) != reports[0].stages:
        raise InternalError(f"query {number} was not cut as it ran")
    told = [_told(reports, stage.stage, one_of) for stage in graph.stages]
    shapes = []
    for stage in graph.stages:
        leaves = tuple(_leaf_shape(leaf, sql, tables) for leaf in stage.leaves)
        in_bytes = told[stage.stage].in_bytes
        if stage is graph.root:
            in_bytes = sum(told[ended].out_bytes for ended in _ends(graph, reports[-1]))
        shapes.append(
            StageShape(
                output=stage.output,
                leaves=leaves,
                variants=stage.variants,
                unions=stage.unions,
                task_in_bytes=in_bytes,
                task_out_bytes=told[stage.stage].out_bytes,
                byte_s=max(0.0, told[stage.stage].seconds * busy - TASK_S) / max(1.0, in_bytes),
            )
        )
    return QueryShape(name=f"Q{number}", scale=scale, stages=tuple(shapes))


def _cut(ctx: apiary_df.SessionContext, number: int) -> StageGraph:
    """Return a query's stages as the session's swarm of one bee runs them."""
    planner = SwarmPlanner(ctx, lambda _twin: None)
    options = RewriteOptions(
        partitions=MIN_PARTITIONS,
        small_bytes=ctx.settings.small_bytes,
        bee_bytes=min(view.info.memory_per_bee for view in ctx.nodes()),
    )
    plan = planner.plan(ctx.sql(tpch_queries()[number]).logical_plan(), options)
    if not isinstance(plan, RunsOnSwarm):
        raise InternalError(f"query {number} is not cut: {plan.reason}")
    return plan.graph


def _node_cpu_s(ctx: apiary_df.SessionContext) -> float:
    """Return the CPU seconds that the swarm's node processes and their bees have used so far."""
    wanted = {view.heartbeat.pid for view in ctx.nodes()}
    ticks = 0
    for stat in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parent.name)):
        try:
            words = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        pid, parent = int(stat.parent.name), int(words[1])
        if pid in wanted or parent in wanted:
            wanted.add(pid)
            ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _told(reports: Sequence[QueryReport], stage: int, one_of: Callable[[list[float]], float]) -> Told:
    """Return what a stage's mean task was told to have taken, its seconds as one of those of the runs."""
    runs = [[a for a in report.attempts if a.stage == stage and a.outcome == "committed"] for report in reports]
    done = [attempts for attempts in runs if attempts]
    if not done:
        return Told(in_bytes=0.0, out_bytes=0.0, seconds=0.0)
    last = done[-1]
    return Told(
        in_bytes=sum(attempt.input_bytes for attempt in last) / len(last),
        out_bytes=sum(attempt.output_bytes for attempt in last) / len(last),
        seconds=one_of([statistics.fmean(attempt.seconds for attempt in attempts) for attempts in done]),
    )


def _ends(graph: StageGraph, report: QueryReport) -> set[int]:
    """Return the stages whose partials the root read: those that no other stage did which ran by itself."""
    ran = {stage.stage for stage in graph.stages[:-1]} - set(report.folded_stages)
    return ran - {read for stage in graph.stages[:-1] if stage.stage in ran for read in stage.inputs}


def _leaf_shape(leaf: ScanLeaf | ExchangeLeaf, sql: str, tables: Mapping[str, Path]) -> LeafShape:
    if isinstance(leaf, ExchangeLeaf):
        return LeafShape(stage=leaf.stage, ordered=leaf.ordered)
    name = Path(leaf.files[0].path).stem
    size_bytes = sum(file.size_bytes for file in leaf.files)
    return LeafShape(table=name, table_bytes=size_bytes, read_share=_named_bytes(tables[name], sql) / size_bytes)


def _named_bytes(path: Path, sql: str) -> int:
    """Return the bytes of a Parquet file's columns whose names stand in a query's text."""
    words = set(re.findall(r"[a-z_]+", sql.lower()))
    metadata = pq.read_metadata(path)
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    columns = (group.column(index) for group in groups for index in range(group.num_columns))
    return sum(column.total_compressed_size for column in columns if column.path_in_schema in words)


def _grown(small: QueryShape, large: QueryShape) -> QueryShape:
    """Return the larger of two profiles of a query, with the slopes between them if they were cut alike."""
    if [stage.output for stage in small.stages] != [stage.output for stage in large.stages]:
        return large
    pairs = zip(small.stages, large.stages, strict=True)
    return replace(large, stages=tuple(replace(b, growth=_growth(a, b)) for a, b in pairs))


def _growth(small: StageShape, large: StageShape) -> float:
    if min(small.task_in_bytes, small.task_out_bytes) <= 0 or large.task_in_bytes <= small.task_in_bytes:
        return 1.0
    slope = math.log(large.task_out_bytes / small.task_out_bytes) / math.log(large.task_in_bytes / small.task_in_bytes)
    return min(1.0, max(0.0, slope))
