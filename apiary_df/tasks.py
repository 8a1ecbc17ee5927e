"""Tasks from a stage, the swarm as it is seen, and what its input stages committed. Pure.

Where a stage's work goes is decided here, once its inputs are complete and their real sizes known: cells by
:mod:`apiary_df.planner`, shuffle partitions by balance over idle bees.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import itemgetter
from types import MappingProxyType

from apiary_df.adapt.skew import Skewed, SkewedPartition
from apiary_df.config import MIN_CELL_BYTES, Settings
from apiary_df.costs import ShufflePlanning
from apiary_df.errors import NoAliveNodes
from apiary_df.model import (
    BranchChoice,
    CellInfo,
    ExchangeInput,
    NodeInfo,
    PartialRef,
    ScanInput,
    SegmentRef,
    TaskSpec,
)
from apiary_df.plan.operators import source_bytes
from apiary_df.plan.scans import files_by_url, files_of_cells, scan_cells
from apiary_df.plan.stages import ExchangeLeaf, ScanLeaf, Stage, Variant
from apiary_df.planner import Balance, extract_alive_nodes, spread_shares

CELLS_PER_BEE = 4
"""Pieces that a scan is cut into for each bee: enough to balance, few enough that a piece is worth opening a file."""


EARLY_TASK_BYTES = 64 << 20
"""What a task reads at most whose rows go to the user as it commits: less than a second's work, far more than it takes
to send a task and to commit it."""

EARLY_TASKS_PER_BEE = 16
"""Most tasks a bee that a stage is cut into for that: the first rows come after a sixteenth of the time."""

INLINE_STAGE_BYTES = 64 << 10
"""Bytes of a stage's partials that lie in commit records at most: each task that reads them all gets them by mail."""

MIN_INLINE_BYTES = 1 << 10
"""Less than this is room for no partial: head and footer alone take it."""

EVEN: Skewed = MappingProxyType({})
"""No partition is far larger than its siblings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """Settings of task planning.

    Attributes:
        min_task_bytes: Shuffle partitions are put together into one task until it reads this much; 0 keeps one task
            a partition.
        min_cell_bytes: Smallest piece that a file is cut into, in bytes, >= 1.
        inline_partial_bytes: Partials of at most so many bytes lie in commit records.
        attached_partial_bytes: Larger ones of at most so many bytes lie behind them.
        shuffles: By what the tasks of a combining stage are cut.
        early: Whether rows of each task go to the user as it commits, so that tasks had better be small.
    """

    min_task_bytes: int = 0
    min_cell_bytes: int = MIN_CELL_BYTES
    inline_partial_bytes: int = 0
    attached_partial_bytes: int = 0
    shuffles: ShufflePlanning = field(default_factory=ShufflePlanning)
    early: bool = False

    @classmethod
    def of(cls, settings: Settings, *, early: bool = False) -> TaskOptions:
        """Return the options that a session's settings give."""
        return cls(
            min_task_bytes=settings.min_task_bytes,
            min_cell_bytes=settings.min_cell_bytes,
            inline_partial_bytes=settings.inline_partial_bytes,
            attached_partial_bytes=settings.attached_partial_bytes or 0,
            shuffles=ShufflePlanning.of(settings),
            early=early,
        )


def cell_target_bytes(total_bytes: int, nodes: Iterable[NodeInfo], min_cell_bytes: int) -> int:
    """Return the size to cut a scan's files into, in bytes.

    Args:
        total_bytes: Size of all files of the scan.
        nodes: The nodes that can take work.
        min_cell_bytes: Never less than this, in bytes.
    """
    alive = list(nodes)
    bees = max(1, sum(node.bees_total for node in alive))
    ceiling = min((node.target_cell_size for node in alive), default=total_bytes)
    return max(min_cell_bytes, min(ceiling, -(-total_bytes // (bees * CELLS_PER_BEE))))


def early_task_bytes(total_bytes: int, nodes: Iterable[NodeInfo]) -> int:
    """Return what a task may read whose rows go to the user as it commits, in bytes.

    Args:
        total_bytes: What all tasks of the stage read.
        nodes: The nodes that can take work.
    """
    bees = max(1, sum(node.bees_total for node in nodes))
    return max(EARLY_TASK_BYTES, -(-total_bytes // (bees * EARLY_TASKS_PER_BEE)))


def parts_of(sizes_bytes: Sequence[int], share: Sequence[int], most_bytes: int) -> list[list[int]]:
    """Cut a share into parts of at most so many bytes, and of at least one cell; the order stays.

    Args:
        sizes_bytes: The sizes of all cells.
        share: Positions of its cells.
        most_bytes: What a part has at most, unless it is a single cell.
    """
    parts: list[list[int]] = []
    filled_bytes = 0
    for position in share:
        size_bytes = sizes_bytes[position]
        if not parts or filled_bytes + size_bytes > most_bytes:
            parts.append([])
            filled_bytes = 0
        parts[-1].append(position)
        filled_bytes += size_bytes
    return parts


def plan_stage(
    stage: Stage,
    nodes: Sequence[NodeInfo],
    partials: Mapping[int, Sequence[PartialRef]],
    row_group_starts: Mapping[str, Sequence[int]],
    options: TaskOptions,
    *,
    skewed: Skewed = EVEN,
) -> tuple[TaskSpec, ...]:
    """Return the tasks of a stage.

    Args:
        stage: The stage; all stages that it reads are complete.
        nodes: All nodes seen.
        partials: For each input stage, its tasks' committed partials, in task order.
        row_group_starts: File URL to the first byte of each row group, for Parquet files that may be split.
        options: Settings.
        skewed: Partitions of the stage that are far larger than their siblings.

    Raises:
        NoAliveNodes: If no alive node has a bee.
    """
    workers = [node for node in extract_alive_nodes(nodes) if node.bees_total > 0]
    if not workers:
        seen = ", ".join(f"{n.node_id} ({n.state.value}, {n.bees_total} bees)" for n in nodes) or "none"
        raise NoAliveNodes(f"cannot plan stage {stage.stage}: no alive node has a bee; nodes seen: {seen}")
    planner = _StagePlanner(stage, workers, partials, row_group_starts, options, skewed=skewed)
    specs = [spec for variant in stage.variants for spec in planner.variant(variant)]
    inline_bytes = inline_bytes_of(len(specs), options.inline_partial_bytes)
    attached_bytes = options.attached_partial_bytes
    return tuple(
        replace(spec, task=number, inline_bytes=inline_bytes, attached_bytes=attached_bytes)
        for number, spec in enumerate(specs)
    )


def inline_bytes_of(tasks: int, most_bytes: int) -> int:
    """Return up to which size the partials of a stage lie in its commit records; 0: each lies in an object.

    Args:
        tasks: Tasks of the stage; all of their partials may have to go to one reader.
        most_bytes: The setting.
    """
    share_bytes = min(most_bytes, INLINE_STAGE_BYTES // max(1, tasks))
    return share_bytes if share_bytes >= MIN_INLINE_BYTES else 0


def plan_in_session(stage: Stage, node_id: str) -> TaskSpec:
    """Return the one task of a stage that the session runs: it stores an in-memory table."""
    return TaskSpec(
        stage=stage.stage,
        task=0,
        node_id=node_id,
        output_partitions=stage.partitions,
        input_bytes=source_bytes(stage.fragment),
        why="an in-memory table: stored once, by the session that has it",
    )


def plan_root(stage: Stage, partials: Mapping[int, Sequence[PartialRef]], node_id: str) -> TaskSpec:
    """Return the one task of the root stage, which the coordinator runs itself."""
    (variant,) = stage.variants
    planner = _StagePlanner(stage, [], partials, {}, TaskOptions())
    return replace(planner.whole_task(variant), node_id=node_id, why="the result is gathered here")


class _StagePlanner:
    def __init__(
        self,
        stage: Stage,
        workers: Sequence[NodeInfo],
        partials: Mapping[int, Sequence[PartialRef]],
        row_group_starts: Mapping[str, Sequence[int]],
        options: TaskOptions,
        *,
        skewed: Skewed = EVEN,
    ) -> None:
        self._stage = stage
        self._workers = workers
        self._partials = partials
        self._row_group_starts = row_group_starts
        self._options = options
        self._skewed = skewed
        self._balance = Balance(workers)
        self._by_partition: dict[int, dict[int, list[tuple[int, SegmentRef]]]] = {}

    def variant(self, variant: Variant) -> list[TaskSpec]:
        if variant.kind == "cells":
            return self._by_cells(variant)
        if self._stage.combines:
            return self._combining(variant)
        if variant.kind in {"hash", "spread"}:
            return self._by_partitions(variant)
        spec = self.whole_task(variant)
        return [self._placed(spec, "one task: the plan needs all rows in one place")]

    def whole_task(self, variant: Variant) -> TaskSpec:
        """Return the task that reads the variant's whole leaves, and nothing of its split ones."""
        scans: list[ScanInput] = []
        exchanges: list[ExchangeInput] = []
        for index in variant.whole:
            leaf = self._stage.leaves[index]
            if isinstance(leaf, ScanLeaf):
                scans.append(ScanInput(leaf=index, files=leaf.files, ordered=leaf.ordered))
            else:
                segments = self._segments(leaf)
                exchanges.append(ExchangeInput(leaf=index, segments=segments, ordered=leaf.ordered))
        return self._spec(variant, scans, exchanges)

    def _segments(self, leaf: ExchangeLeaf) -> tuple[SegmentRef, ...]:
        """Return all segments with rows that a leaf reads, in order of task and offset."""
        return tuple(
            partial.segment_ref(segment)
            for partial in self._partials[leaf.stage]
            for segment in partial.segments
            if segment.rows
        )

    def _segments_of(self, leaf: ExchangeLeaf, partitions: Sequence[int]) -> tuple[SegmentRef, ...]:
        """Return those of some partitions, in the same order; sought once for all tasks, since there are many."""
        if leaf.stage not in self._by_partition:
            found: dict[int, list[tuple[int, SegmentRef]]] = {}
            for place, ref in enumerate(self._segments(leaf)):
                found.setdefault(ref.segment.partition, []).append((place, ref))
            self._by_partition[leaf.stage] = found
        known = self._by_partition[leaf.stage]
        placed = [pair for partition in partitions for pair in known.get(partition, ())]
        return tuple(ref for _, ref in sorted(placed, key=itemgetter(0)))

    def _spec(
        self,
        variant: Variant,
        scans: Sequence[ScanInput],
        exchanges: Sequence[ExchangeInput],
        *,
        node_id: str = "",
        why: str = "",
    ) -> TaskSpec:
        read = sum([f.bytes for s in scans for f in s.files])
        read += sum([ref.segment.length for e in exchanges for ref in e.segments])
        return TaskSpec(
            stage=self._stage.stage,
            task=0,
            node_id=node_id,
            output_partitions=self._stage.partitions,
            scans=tuple(scans),
            exchanges=tuple(exchanges),
            branches=tuple(BranchChoice(union=u, branch=b) for u, b in variant.choices),
            input_bytes=read,
            why=why,
            version=self._stage.version,
        )

    def _placed(self, spec: TaskSpec, why: str) -> TaskSpec:
        """Give a task to the node with the least work for its idle bees, counting what this stage gave it."""
        node_id = self._balance.least_loaded(spec.input_bytes)
        self._balance.give(node_id, spec.input_bytes + 1)
        return replace(spec, node_id=node_id, why=why)

    def _by_cells(self, variant: Variant) -> list[TaskSpec]:
        (index,) = variant.split
        leaf = self._stage.leaves[index]
        assert isinstance(leaf, ScanLeaf)
        total_bytes = sum(f.size_bytes for f in leaf.files)
        target_bytes = cell_target_bytes(total_bytes, self._workers, self._options.min_cell_bytes)
        spread = spread_shares(scan_cells(leaf, self._row_group_starts, target_bytes), self._workers)
        cells, sizes_bytes, shares = spread.cells, spread.sizes_bytes, spread.shares
        base = self.whole_task(variant)
        by_url = files_by_url(leaf)
        if cached_alike({node.node_id: node for node, _ in shares}.values(), cells):
            dealt = contiguous_shares(sizes_bytes, [share for _, share in shares])
            redealt = [(node, share) for (node, _), share in zip(shares, dealt, strict=True) if share]
            if all(_fits(sizes_bytes, share, node) for node, share in redealt):
                shares = redealt
        if self._options.early:
            most_bytes = early_task_bytes(total_bytes, self._workers)
            shares = [(node, part) for node, share in shares for part in parts_of(sizes_bytes, share, most_bytes)]
        specs = []
        for node, share in shares:
            read = [cells[position] for position in share]
            scan = ScanInput(leaf=index, files=files_of_cells(by_url, read), ordered=leaf.ordered)
            specs.append(self._cell_task(variant, base, scan, read, node))
        # A scan of no files still has a task: an aggregate without groups gives a row over nothing.
        return specs or [self._placed(base, "the scan has no cells")]

    def _cell_task(
        self, variant: Variant, base: TaskSpec, scan: ScanInput, share: Sequence[CellInfo], node: NodeInfo
    ) -> TaskSpec:
        cached = sum([cell.storage_key in node.cached_cells for cell in share])
        why = f"{len(share)} cells, {cached} cached there"
        spec = self._spec(variant, [*base.scans, scan], base.exchanges, node_id=node.node_id, why=why)
        self._balance.give(node.node_id, spec.input_bytes - base.input_bytes + 1)
        return spec

    def _by_partitions(self, variant: Variant) -> list[TaskSpec]:
        base = self.whole_task(variant)
        sizes = [0] * variant.partitions
        for index in variant.split:
            leaf = self._stage.leaves[index]
            assert isinstance(leaf, ExchangeLeaf)
            for partial in self._partials[leaf.stage]:
                for segment in partial.segments:
                    sizes[segment.partition] += segment.length
        specs: list[TaskSpec] = []
        least_bytes = 0 if self._stage.rests_on_partition_order else self._options.min_task_bytes
        skewed = {found.partition: found for found in self._skewed.get(variant, ())}
        dealt = {partition for partition, found in skewed.items() if found.parts}
        for group in _grouped(sizes, least_bytes, dealt):
            if group[0] in dealt:
                specs += self._parts(variant, base, skewed[group[0]])
                continue
            exchanges = self._inputs(variant, group)
            size = sum(sizes[p] for p in group)
            spec = replace(base, exchanges=(*base.exchanges, *exchanges), input_bytes=base.input_bytes + size)
            label = f"partition {group[0]}" if len(group) == 1 else f"partitions {group[0]}..{group[-1]}"
            whole = "".join(f"; {skewed[p].why}" for p in group if p in skewed)
            specs.append(self._placed(spec, f"{label} of {variant.partitions}, least loaded{whole}"))
        return specs

    def _inputs(self, variant: Variant, partitions: Sequence[int]) -> list[ExchangeInput]:
        """Return what a task reads of the variant's split leaves that has all of some partitions."""
        return [
            ExchangeInput(leaf=index, segments=self._segments_of(leaf, partitions), ordered=leaf.ordered)
            for index in variant.split
            if isinstance(leaf := self._stage.leaves[index], ExchangeLeaf)
        ]

    def _parts(self, variant: Variant, base: TaskSpec, skewed: SkewedPartition) -> list[TaskSpec]:
        """Return the tasks that one partition is dealt out to."""
        inputs = self._inputs(variant, [skewed.partition])
        specs: list[TaskSpec] = []
        for number, part in enumerate(skewed.parts):
            shares = [replace(read, segments=part) if read.leaf == skewed.leaf else read for read in inputs]
            size = sum(ref.segment.length for read in shares for ref in read.segments)
            spec = replace(base, exchanges=(*base.exchanges, *shares), input_bytes=base.input_bytes + size)
            label = f"part {number + 1} of {len(skewed.parts)} of partition {skewed.partition} of {variant.partitions}"
            specs.append(self._placed(spec, f"{label}, least loaded"))
        return specs

    def _combining(self, variant: Variant) -> list[TaskSpec]:
        """Return tasks that each hand on, as they are, neighbouring partitions of neighbouring producers."""
        (index,) = variant.split
        leaf = self._stage.leaves[index]
        assert isinstance(leaf, ExchangeLeaf)
        partials = self._partials[leaf.stage]
        total_bytes = sum(segment.length for partial in partials for segment in partial.segments)
        shuffles = replace(self._options.shuffles, bees=sum(node.bees_total for node in self._workers))
        shape = shuffles.shape(max(1, len(partials)), variant.partitions, total_bytes)
        base = self.whole_task(variant)
        specs: list[TaskSpec] = []
        for producers in _stretches(len(partials), shape.producer_groups):
            shares: list[list[SegmentRef]] = [[] for _ in range(shape.partition_groups)]
            for partial in partials[producers.start : producers.stop]:
                for segment in partial.segments:
                    if segment.rows:
                        number = segment.partition * shape.partition_groups // variant.partitions
                        shares[number].append(partial.segment_ref(segment))
            for number, refs in enumerate(shares):
                if not refs:
                    continue
                size = sum(ref.segment.length for ref in refs)
                read = ExchangeInput(leaf=index, segments=tuple(refs), ordered=False)
                spec = replace(base, exchanges=(*base.exchanges, read), input_bytes=base.input_bytes + size)
                label = f"share {number} of {shape.partition_groups} of the partitions"
                why = f"{label}, of tasks {producers[0]}..{producers[-1]}: their pieces are put together"
                specs.append(self._placed(spec, why))
        return specs or [self._placed(base, "there is nothing to put together")]


def _stretches(count: int, groups: int) -> list[range]:
    """Cut so many places into stretches that differ by one at most; none is empty."""
    ends = [count * group // groups for group in range(groups + 1)]
    return [range(start, end) for start, end in pairwise(ends) if start < end]


def _fits(sizes_bytes: Sequence[int], share: Sequence[int], node: NodeInfo) -> bool:
    """Whether a share is within a bee's budget; a single cell always is."""
    return len(share) == 1 or sum([sizes_bytes[position] for position in share]) <= node.memory_per_bee


def cached_alike(nodes: Collection[NodeInfo], cells: Iterable[CellInfo]) -> bool:
    """Whether it makes no difference to caches which of these nodes reads which cell: all hold as much of each."""
    if not any(node.cached_cells for node in nodes):
        return True
    keys = {cell.storage_key for cell in cells}
    held = ({key: size for key, size in node.cached_cells.items() if size and key in keys} for node in nodes)
    first = next(held)
    return all(other == first for other in held)


def contiguous_shares(sizes_bytes: Sequence[int], shares: Sequence[Sequence[int]]) -> list[range]:
    """Deal the same cells out again, in storage order, so that each share is one stretch of about its old size.

    A task opens a file, and reads its footer, once for every stretch of it; the planner looks at sizes only. Where
    nothing is cached, which of the cells a share has does not matter otherwise.

    Args:
        sizes_bytes: The sizes of all cells, in storage order.
        shares: Positions of cells by share; each is in one of them.

    Returns:
        As many shares, each within one cell of its old size; the cells are the same in all.
    """
    dealt: list[range] = []
    start, due_bytes, given_bytes = 0, 0, 0
    for number, share in enumerate(shares):
        due_bytes += sum([sizes_bytes[position] for position in share])
        end = start
        last = number == len(shares) - 1
        # A cell goes to the share in which more than half of it lies.
        while end < len(sizes_bytes) and (last or given_bytes + sizes_bytes[end] / 2 <= due_bytes):
            given_bytes += sizes_bytes[end]
            end += 1
        dealt.append(range(start, end))
        start = end
    return dealt


def _grouped(sizes_bytes: Sequence[int], min_task_bytes: int, alone: Collection[int]) -> list[list[int]]:
    """Put adjacent partitions together until a group reaches the least size worth a task; some stay alone."""
    groups: list[list[int]] = []
    filled = min_task_bytes
    for partition, size in enumerate(sizes_bytes):
        if filled >= min_task_bytes or partition in alone:
            groups.append([])
            filled = 0
        groups[-1].append(partition)
        filled = min_task_bytes if partition in alone else filled + size
    return groups
