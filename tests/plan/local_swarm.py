"""A swarm without nodes, storage or schedule: stages, tasks and fragments run one after the other in this process.

It is the oracle of the planning rooms. Whatever differs from plain DataFusion here is the fault of a rule, the
cutter, the task planner or the way a fragment is filled, and of nothing else. Partials are ordinary Arrow files, one
a task, written here without the protocol's encoder.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
from datafusion.plan import ExecutionPlan
from pyarrow import ipc

from apiary_df.adapt.broadcasts import BroadcastOptions, Joined
from apiary_df.adapt.key_filters import Hold, KeyFilterOptions
from apiary_df.adapt.skew import SkewOptions
from apiary_df.config import Settings
from apiary_df.footers import FooterCache
from apiary_df.model import NodeInfo, NodeState, PartialRef, ScanFile, Segment, SegmentRef, TaskSpec
from apiary_df.plan.codec import decode, encode
from apiary_df.plan.fold import FoldOptions
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.scans import file_url, fill_fragment, segment_file
from apiary_df.plan.stages import ScanLeaf, Stage, StageGraph
from apiary_df.plan.tree import PlanNode
from apiary_df.planning import TWIN_OPTIONS, RunsHere, RunsOnSwarm, SwarmPlanner
from apiary_df.protocol.partial_writer import PartialWriter
from apiary_df.stage_planning import StagePlanning
from apiary_df.tasks import TaskOptions, plan_in_session, plan_root, plan_stage
from apiary_df.worker.engine import Engine

WritePartial = Callable[[Path, str, pa.Schema, Sequence[Sequence[pa.RecordBatch]]], PartialRef]
"""Writes the batches of each output partition as one file of a folder."""

MEMORY_BYTES = 256 * 1024 * 1024
"""Memory of the engine that runs the fragments: enough that nothing here spills."""


def node(node_id: str, **changes: object) -> NodeInfo:
    """Return an alive node of two idle bees, with some fields changed."""
    fields: dict[str, object] = {
        "node_id": node_id,
        "state": NodeState.ALIVE,
        "cores": 2,
        "memory_bytes": 2 << 30,
        "memory_per_bee": 1 << 30,
        "target_cell_size": 64 << 20,
        "bees_total": 2,
        "bees_busy": 0,
        "idle_bees": 2,
        **changes,
    }
    return NodeInfo(**fields)  # type: ignore[arg-type]


def twin(ctx: datafusion.SessionContext, partitions: int) -> datafusion.SessionContext:
    """Return a session that plans as the swarm's planner does."""
    config = ctx.copied_config()
    for name, value in TWIN_OPTIONS.items():
        config = config.set(name, value)
    return datafusion.SessionContext(config.with_target_partitions(partitions))


def planned_tree(
    ctx: datafusion.SessionContext, sql: str, partitions: int
) -> tuple[datafusion.SessionContext, PlanNode]:
    """Return a query's physical plan as the rules get it, and the session that can execute it."""
    planner = twin(ctx, partitions)
    frame = planner.create_dataframe_from_logical_plan(ctx.sql(sql).optimized_logical_plan())
    return planner, decode(frame.execution_plan().to_bytes(planner))


def drain(ctx: datafusion.SessionContext, plan: ExecutionPlan) -> list[list[pa.RecordBatch]]:
    """Execute all partitions of a plan at once, a thread each, and return each one's batches.

    Raises:
        Exception: What DataFusion raised first.
    """
    outputs: list[list[pa.RecordBatch]] = [[] for _ in range(plan.partition_count)]
    errors: list[BaseException] = []

    def read(partition: int) -> None:
        try:
            outputs[partition] = [batch.to_pyarrow() for batch in ctx.execute(plan, partition)]
        except Exception as error:  # noqa: BLE001 - handed to the caller's thread
            errors.append(error)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(plan.partition_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return outputs


def table_of(outputs: Iterable[Iterable[pa.RecordBatch]], schema: pa.Schema) -> pa.Table:
    """Return all batches as one table whose columns are named and typed by ``schema``, matched by position."""
    batches = [batch for partition in outputs for batch in partition]
    columns = [
        pa.chunked_array([batch.column(i).cast(field.type) for batch in batches], type=field.type)
        for i, field in enumerate(schema)
    ]
    return pa.Table.from_arrays(columns, schema=pa.schema([f.with_nullable(True) for f in schema]))


def run_tree(ctx: datafusion.SessionContext, tree: PlanNode, schema: pa.Schema) -> pa.Table:
    """Execute a plan tree on one node, all partitions together."""
    return table_of(drain(ctx, ExecutionPlan.from_bytes(ctx, encode(tree))), schema)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a query did: its rows, the stages and tasks that made them (none if it ran here), and what was changed."""

    table: pa.Table
    planned: RunsHere | RunsOnSwarm
    tasks: Mapping[int, tuple[TaskSpec, ...]] = field(default_factory=dict)
    partials: Mapping[int, tuple[PartialRef, ...]] = field(default_factory=dict)
    changes: Mapping[int, str] = field(default_factory=dict)
    folded_how: str = ""


@dataclass(kw_only=True)
class LocalSwarm:
    """Plans queries of a session for a swarm, and runs their tasks in this process.

    Attributes:
        session: The user's session; tables are registered there.
        rewrite: Settings of the rules.
        nodes: The nodes that tasks are planned for.
        options: Settings of task planning.
        scratch: Where partials go; a folder of its own for every query is made in it.
        key_filters: When stages wait for keys of others.
        broadcasts: When rows are joined where they are made.
        skew: When rows of a partition are dealt out to several tasks.
        fold: In how many threads what is left is done, where it is folded.
        write: Writes partials; :func:`write_partial` if tests are to rest on nothing of the protocol.
    """

    session: datafusion.SessionContext
    rewrite: RewriteOptions
    nodes: Sequence[NodeInfo]
    scratch: Path
    options: TaskOptions = field(default_factory=TaskOptions)
    write: WritePartial = field(default_factory=lambda: write_partial)
    key_filters: KeyFilterOptions = field(default_factory=lambda: KeyFilterOptions(most_bytes=0, from_bytes=0))

    broadcasts: BroadcastOptions = field(default_factory=lambda: BroadcastOptions(most_bytes=0, from_bytes=0))
    skew: SkewOptions = field(default_factory=lambda: SkewOptions(factor=0, from_bytes=0))
    fold: FoldOptions = field(default_factory=lambda: FoldOptions(threads=1, part_bytes=0))

    def __post_init__(self) -> None:
        self.planner = SwarmPlanner(self.session, lambda _twin: None)

    def plan(self, sql: str) -> RunsHere | RunsOnSwarm:
        return self.planner.plan(self.session.sql(sql).optimized_logical_plan(), self.rewrite)

    def run(self, sql: str, fold_after: int | None = None) -> Ran:
        """Run a query, in stages if it can be cut.

        Args:
            sql: The query.
            fold_after: Run only so many stages, and the rest as one root if it can be folded into one.
        """
        planned = self.plan(sql)
        schema = self.session.sql(sql).schema()
        if isinstance(planned, RunsHere):
            return Ran(table=self.session.sql(sql).to_arrow_table(), planned=planned)
        folder = Path(mkdtemp(dir=self.scratch))
        engine = Engine(planned.settings, MEMORY_BYTES, folder)
        partials: dict[int, tuple[PartialRef, ...]] = {}
        tasks: dict[int, tuple[TaskSpec, ...]] = {}
        planning = StagePlanning(planned.graph, Settings(), FooterCache(), None)
        planning.skew_options, planning.fold_options = self.skew, self.fold
        planning.key_options, planning.broadcast_options = self.key_filters, self.broadcasts
        for stage in _in_order(planning, planned.graph, partials, self.nodes):
            if fold_after is not None and len(partials) >= fold_after and planning.can_fold(partials):
                planning.fold(partials)
                break
            specs: tuple[TaskSpec, ...]
            if stage.in_session:
                specs = (plan_in_session(stage, "here"),)
            else:
                skewed = planning.skewed(stage, self.nodes, partials)
                specs = plan_stage(stage, self.nodes, partials, row_group_starts(stage), self.options, skewed=skewed)
            tasks[stage.stage] = specs
            partials[stage.stage] = tuple(_run_task(engine, stage, spec, folder, self.write) for spec in specs)
        root = planning.root
        spec = plan_root(root, partials, "here")
        tasks[root.stage] = (spec,)
        outputs = drain(engine.ctx, engine.decode(_filled(root, spec, folder)))
        assert len(outputs) == 1, f"the root stage has {len(outputs)} output partitions"
        changes = {change.stage: change.what for change in planning.changes}
        return Ran(
            table=table_of(outputs, schema),
            planned=planned,
            tasks=tasks,
            partials=partials,
            changes=changes,
            folded_how=planning.folded_how,
        )


def _in_order(
    planning: StagePlanning,
    graph: StageGraph,
    partials: Mapping[int, tuple[PartialRef, ...]],
    nodes: Sequence[NodeInfo],
) -> Iterator[Stage]:
    """Yield the stages that are run but for the root, each when it may be, as it is to be run then.

    Args:
        planning: What decides about it.
        graph: The stages.
        partials: What was committed; the caller adds to it.
        nodes: Who would run them.
    """
    held: dict[int, int] = {}
    as_run = graph
    open_ = list(range(len(graph.stages) - 1))
    while open_:
        known = [as_run.stages[number] for number in open_]
        number = next(s.stage for s in known if partials.keys() >= {*s.inputs} and held.get(s.stage, -1) not in open_)
        found = planning.next(number, as_run, partials, held, nodes)
        if isinstance(found, Hold):
            assert found.until in open_
            held[number] = found.until
            continue
        open_.remove(number)
        if isinstance(found, Joined):
            as_run = as_run.with_stage(found.stage).with_stage(found.left_out)
            continue
        as_run = as_run.with_stage(found)
        yield found


def _run_task(engine: Engine, stage: Stage, spec: TaskSpec, folder: Path, write: WritePartial) -> PartialRef:
    outputs = drain(engine.ctx, engine.decode(_filled(stage, spec, folder)))
    assert len(outputs) == spec.output_partitions, f"stage {stage.stage} was cut for {spec.output_partitions}"
    assert stage.schema is not None
    return write(folder, f"{stage.stage}-{spec.task}.arrow", stage.schema.arrow, outputs)


def _filled(stage: Stage, spec: TaskSpec, folder: Path) -> PlanNode:
    def locate(ref: SegmentRef) -> ScanFile:
        return segment_file(ref, folder / ref.key)

    return fill_fragment(stage.fragment, spec.scans, spec.exchanges, spec.branches, locate_segment=locate)


def write_partial(folder: Path, key: str, schema: pa.Schema, outputs: Sequence[Sequence[pa.RecordBatch]]) -> PartialRef:
    """Write the batches of each output partition, one partition after the other, as one Arrow file."""
    segments: list[Segment] = []
    with pa.OSFile(str(folder / key), "wb") as sink:
        writer = ipc.new_file(sink, schema)
        writer.write_batch(pa.RecordBatch.from_pylist([], schema=schema))
        for partition, batches in enumerate(outputs):
            start = sink.tell()
            for batch in batches:
                if not batch.num_columns:
                    writer.write_batch(batch)
                    continue
                columns = [batch.column(i).cast(column.type) for i, column in enumerate(schema)]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            rows = sum(batch.num_rows for batch in batches)
            segments.append(
                Segment(partition=partition, offset=start, length=sink.tell() - start, rows=rows, checksum="")
            )
        footer = sink.tell()
        writer.close()
        length = sink.tell()
    return PartialRef(key=key, length=length, footer_offset=footer, footer_checksum="", segments=tuple(segments))


def write_real_partial(
    folder: Path, key: str, schema: pa.Schema, outputs: Sequence[Sequence[pa.RecordBatch]]
) -> PartialRef:
    """Write the same with the protocol's own encoder, which knows every type."""
    with PartialWriter(schema, len(outputs), folder / "scratch", MEMORY_BYTES) as writer:
        for partition, batches in enumerate(outputs):
            for batch in batches:
                writer.write(partition, batch)
        finished = writer.finish()
        assert isinstance(finished.data, pa.Buffer)
        (folder / key).write_bytes(finished.data)
    return finished.ref(key)


def row_group_starts(stage: Stage) -> Mapping[str, Sequence[int]]:
    """Return the first byte of each row group of every Parquet file that a stage scans, by its URL."""
    return {
        file_url(leaf.store_url, file.path): _starts(Path("/", file.path))
        for leaf in stage.leaves
        if isinstance(leaf, ScanLeaf) and leaf.format == "parquet_scan"
        for file in leaf.files
    }


def _starts(path: Path) -> list[int]:
    metadata = pq.read_metadata(path)
    first_columns = [metadata.row_group(i).column(0) for i in range(metadata.num_row_groups)]
    return [
        column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        for column in first_columns
    ]
