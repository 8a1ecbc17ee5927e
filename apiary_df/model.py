"""Frozen values that several rooms share. No behaviour beyond validation and simple derived facts."""

from __future__ import annotations

import builtins
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class NodeState(enum.Enum):
    """How fresh a node's heartbeat is to the observer."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellInfo:
    """The unit of scan work: one object, or a row-group-aligned byte range of one.

    Attributes:
        storage_key: URL of the object (``file:///data/a.parquet``, ``s3://bucket/a.parquet``), or any stable key.
        bytes: Size of the cell in storage, in bytes, >= 0.
        partition: Hive partition values as (column, value) pairs of strings.
        range_start: First byte of the range, inclusive; None for a whole object.
        range_end: End of the range, exclusive; None for a whole object.
    """

    storage_key: str
    bytes: int
    partition: tuple[tuple[str, str], ...] = ()
    range_start: int | None = None
    range_end: int | None = None

    def __post_init__(self) -> None:
        if self.bytes < 0:
            raise ValueError(f"cell {self.storage_key!r}: bytes must be >= 0, got {self.bytes}")
        if (self.range_start is None) != (self.range_end is None):
            raise ValueError(f"cell {self.storage_key!r}: range_start and range_end go together")

    @property
    def sort_key(self) -> tuple[str, int, int, tuple[tuple[str, str], ...]]:
        """A total order over cells: by key, then range, then partition."""
        return (self.storage_key, self.range_start or 0, self.bytes, self.partition)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """What the planner knows of a node. All sizes in bytes.

    Attributes:
        node_id: Unique id of this incarnation of the node.
        state: Freshness of its heartbeat, as the observer sees it.
        cores: CPU cores that the node may use.
        memory_bytes: Memory that the node may use.
        memory_per_bee: Budget of one bee: no share of a wave exceeds it unless a single cell does.
        target_cell_size: Cells above this are worth splitting at row groups.
        bees_total: Execution slots.
        bees_busy: Slots that run a task now.
        idle_bees: Slots that are free now.
        cached_cells: Storage key to bytes that the node holds in its cell cache.
    """

    node_id: str
    state: NodeState
    cores: int
    memory_bytes: int
    memory_per_bee: int
    target_cell_size: int
    bees_total: int
    bees_busy: int
    idle_bees: int
    cached_cells: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class TaskKey:
    """Identity of one attempt at one task: (query, stage, task, attempt), all counted from 0."""

    query_id: str
    stage: int
    task: int
    attempt: int = 0

    def __str__(self) -> str:
        return f"{self.query_id}/{self.stage}.{self.task}.{self.attempt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanFile:
    """One file entry of a scan: what a task needs to put it back into a plan.

    Attributes:
        path: Path inside the scan's object store, without a leading slash.
        size_bytes: Size of the whole object.
        last_modified_ns: The object's modification time as the planner saw it, ns since the epoch.
        partition_values: Encoded partition column values, one per column, exactly as DataFusion planned them.
        range_start: First byte of the range, inclusive; None for a whole object.
        range_end: End of the range, exclusive; None for a whole object.
    """

    path: str
    size_bytes: int
    last_modified_ns: int = 0
    partition_values: tuple[builtins.bytes, ...] = ()
    range_start: int | None = None
    range_end: int | None = None

    @property
    def bytes(self) -> int:
        """Bytes of this entry: the range, or the whole object."""
        if self.range_start is None or self.range_end is None:
            return self.size_bytes
        return self.range_end - self.range_start


@dataclass(frozen=True, slots=True, kw_only=True)
class CellUse:
    """What a cell cache did for one attempt.

    Attributes:
        hits: Cells that were read from it, and were there.
        misses: Cells that were fetched into it, or read past it.
        hit_bytes: Bytes that were there.
        fetched_bytes: Bytes that were fetched into it.
        requests: Requests that it made to the cells' stores.
    """

    hits: int = 0
    misses: int = 0
    hit_bytes: int = 0
    fetched_bytes: int = 0
    requests: int = 0

    def plus(self, other: CellUse) -> CellUse:
        """Return both together."""
        return CellUse(
            hits=self.hits + other.hits,
            misses=self.misses + other.misses,
            hit_bytes=self.hit_bytes + other.hit_bytes,
            fetched_bytes=self.fetched_bytes + other.fetched_bytes,
            requests=self.requests + other.requests,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The part of a partial that belongs to one output partition.

    Attributes:
        partition: Output partition number, from 0.
        offset: First byte in the object.
        length: Bytes; 0 if the partition got no rows.
        rows: Rows in the segment.
        checksum: xxh3-64 of the bytes, as 16 hex digits.
    """

    partition: int
    offset: int
    length: int
    rows: int
    checksum: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Within:
    """Where a partial lies that is no object of its own: behind its commit record, in the record's object.

    Attributes:
        key: Storage key of the commit record.
        offset: Where the partial's first byte lies there.
    """

    key: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialRef:
    """A committed partial: an Arrow IPC file whose batches are grouped by output partition.

    Attributes:
        key: Storage key below the swarm's root; a mere name, if the partial lies elsewhere.
        length: Bytes of the partial.
        footer_offset: Where the IPC footer (and the end-of-stream marker before it) begins.
        footer_checksum: xxh3-64 of the bytes from ``footer_offset`` to the end, as 16 hex digits.
        segments: At least one entry for every output partition, in order of partition and offset.
        head_length: Bytes from the start to the first segment: magic, schema and dictionaries. Every
            reader needs them, whichever segment it reads.
        head_checksum: xxh3-64 of those bytes, as 16 hex digits.
        data: The partial itself, if it is small and no object lies at ``key``.
        within: Where it lies behind its commit record. None, and no ``data``: it is the object at ``key``.
    """

    key: str
    length: int
    footer_offset: int
    footer_checksum: str
    segments: tuple[Segment, ...]
    head_length: int = 0
    head_checksum: str = ""
    data: builtins.bytes | None = field(default=None, repr=False)
    within: Within | None = None

    @property
    def rows(self) -> int:
        """Rows over all segments."""
        return sum(s.rows for s in self.segments)

    @property
    def lies(self) -> str:
        """Where it lies, for people, if it is no object of its own."""
        if self.data is not None:
            return "in its record"
        return "" if self.within is None else "behind its record"

    def segment_ref(self, segment: Segment) -> SegmentRef:
        """Return what a consumer of one of the segments needs to know."""
        return SegmentRef(
            key=self.key,
            object_length=self.length,
            footer_offset=self.footer_offset,
            footer_checksum=self.footer_checksum,
            segment=segment,
            head_length=self.head_length,
            head_checksum=self.head_checksum,
            data=None if self.data is None else self.data[segment.offset : segment.offset + segment.length],
            within=self.within,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """A file that an attempt wrote for a statement that writes files; it counts once it is published.

    Attributes:
        path: Its key below the attempt's own folder; Hive folders are part of it.
        size_bytes: Its size.
    """

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRef:
    """One output partition of one committed partial, as a consumer needs it.

    Attributes:
        key: Storage key of the partial, or its name.
        object_length: Bytes of the whole partial.
        footer_offset: Where the IPC footer begins.
        footer_checksum: xxh3-64 of the bytes from ``footer_offset`` to the end, as 16 hex digits.
        segment: The partition's span.
        head_length: Bytes from the start to the first segment; see :class:`PartialRef`.
        head_checksum: xxh3-64 of those bytes, as 16 hex digits.
        data: The segment itself, if its partial lies in no object; None: it is to be read.
        within: Where its partial lies behind its commit record; see :class:`PartialRef`.
    """

    key: str
    object_length: int
    footer_offset: int
    footer_checksum: str
    segment: Segment
    head_length: int = 0
    head_checksum: str = ""
    data: builtins.bytes | None = field(default=None, repr=False)
    within: Within | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanInput:
    """What one leaf of a task's fragment reads from source files.

    Attributes:
        leaf: The leaf's number in the fragment, in pre-order.
        files: File entries.
        ordered: The order within each file is declared: every file gets a group of its own.
    """

    leaf: int
    files: tuple[ScanFile, ...]
    ordered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeInput:
    """What one leaf of a task's fragment reads from other stages' partials.

    Attributes:
        leaf: The leaf's number in the fragment, in pre-order.
        segments: What it reads, in order.
        ordered: Each segment's rows are in order and are merged above: every segment gets a group of its own.
    """

    leaf: int
    segments: tuple[SegmentRef, ...]
    ordered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchChoice:
    """Which branch of a union (counted in post-order) a task runs."""

    union: int
    branch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task of a stage, before it is sent: what it reads and where it goes.

    Attributes:
        stage: Stage number.
        task: Task number within the stage, from 0.
        node_id: The node that it is assigned to.
        output_partitions: Segments that its partial has.
        scans: Source files by leaf.
        exchanges: Partials by leaf.
        branches: Active union branches.
        input_bytes: Bytes of all that it reads, for balancing and for people.
        why: Why it went to that node.
        inline_bytes: A partial of at most so many bytes goes into the commit record, and no object is written.
        attached_bytes: A larger one of at most so many bytes goes behind the commit record, into its object.
        version: Which of the stage's fragments it is a share of.
    """

    stage: int
    task: int
    node_id: str
    output_partitions: int
    scans: tuple[ScanInput, ...] = ()
    exchanges: tuple[ExchangeInput, ...] = ()
    branches: tuple[BranchChoice, ...] = ()
    input_bytes: int = 0
    why: str = ""
    inline_bytes: int = 0
    attached_bytes: int = 0
    version: int = 0

    @property
    def carried_bytes(self) -> int:
        """Bytes of partials that come with the task itself."""
        return sum(len(ref.data) for e in self.exchanges for ref in e.segments if ref.data is not None)

    @property
    def cells(self) -> tuple[str, ...]:
        """The source files that it reads, as text for messages: path, and byte range where there is one."""
        return tuple(
            f.path if f.range_start is None else f"{f.path}:{f.range_start}..{f.range_end}"
            for scan in self.scans
            for f in scan.files
        )
