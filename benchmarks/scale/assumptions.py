"""What the model assumes, as values with their sources. Nothing here computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from apiary_df.costs import Prices
from apiary_df.protocol.storage import AT_ONCE
from apiary_df.store import PART_BYTES

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageModel:
    """What requests take, may be and cost.

    Attributes:
        kind: The kind of store, which the settings of polling and heartbeats go by.
        read_s: Median time to the first byte of a read or a listing.
        write_s: Median time of a small write.
        spread: Sigma of the logarithm of both: the 95th percentile is exp(1.645 sigma) medians.
        slow_share: Share of requests that take seconds.
        slowest_s: The longest of these; they are log-uniform between a second and this.
        stream_bytes_s: Bytes per second of one stream.
        reads_s: Reads and listings per second that one prefix answers.
        writes_s: Writes per second that one prefix takes.
        read_usd: Price of a read.
        write_usd: Price of a write or a listing.
        part_bytes: Size of the parts of a large write, a request each.
    """

    kind: str
    read_s: float
    write_s: float
    spread: float
    slow_share: float
    slowest_s: float
    stream_bytes_s: float
    reads_s: float
    writes_s: float
    read_usd: float
    write_usd: float
    part_bytes: int


BUCKET = StorageModel(
    kind="bucket",
    read_s=0.027,  # Bodner et al. 2025: median of small S3 Standard reads
    write_s=0.040,  # ... and of writes
    spread=0.62,  # ... 95th percentile of reads 75 ms = 2.8 medians
    slow_share=0.0001,  # Starling (SIGMOD 2020): p99.99 above a second
    slowest_s=10.0,  # Bodner et al.: slowest over ten seconds
    stream_bytes_s=MIB / 0.020,  # Durner et al. 2023: 20 ms a MiB
    reads_s=5_500.0,  # Bodner et al.: limits of a prefix
    writes_s=3_500.0,
    read_usd=Prices().get / 1_000,
    write_usd=Prices().put / 1_000,
    part_bytes=PART_BYTES,
)
"""S3 Standard."""

FOLDER = StorageModel(
    kind="folder",
    read_s=0.00006,  # measured: obstore on a local folder
    write_s=0.0002,
    spread=0.3,
    slow_share=0.0,
    slowest_s=1.0,
    stream_bytes_s=2.0 * GIB,
    reads_s=50_000.0,
    writes_s=10_000.0,
    read_usd=0.0,
    write_usd=0.0,
    part_bytes=1 << 60,  # a file is one, however large
)
"""A folder on a local disk, its files in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeModel:
    """The machines.

    Attributes:
        bees: Bees of a node, a core each.
        bee_bytes: Memory of a bee.
        network_bytes_s: What a node's network carries, shared by its bees.
        streams: Streams that one bee reads a cell with.
        price_usd_h: Price of a node for an hour.
        speed: Cores' speed, as a multiple of the machine that the profile was made on.
        uneven: Sigma of the logarithm of nodes' speeds.
        slow_share: Share of nodes that are stragglers.
        slow_factor: How many times as long these take.
        deaths_h: Deaths of a node per hour.
        replaced_s: Seconds until another node takes the place of a dead one; infinite if none does.
    """

    bees: int = 1
    bee_bytes: int = 4 * GIB
    network_bytes_s: float = 0.3e9
    streams: int = 2
    price_usd_h: float = 0.0425
    speed: float = 1.0
    uneven: float = 0.05
    slow_share: float = 0.0
    slow_factor: float = 4.0
    deaths_h: float = 0.0
    replaced_s: float = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorModel:
    """The session's process: one thread of Python, and requests.

    Seconds of its CPU were measured by ``python -m benchmarks.planner`` and rounded up. The run itself measures what
    the real planner and schedule took, and tells it beside the model's sum.

    Attributes:
        in_flight: Requests of one kind that it has under way at a time, on a bucket; on a folder it is one.
        request_cpu_s: CPU seconds of one request.
        start_s: From the SQL to the first request: DataFusion's planning, the rules, the cut.
        start_partition_s: The same, for each partition that a shuffle is planned with.
        cell_s: Planning, for each cell.
        segment_s: Planning, sending and reading back, for each segment of a partial.
        task_s: Planning, sending and completing, for each task.
        open_task_s: A look for news, for each open task.
        listed_s: A listing, for each key.
        heartbeat_s: A reading of heartbeats, for each node.
        bytes_s: Bytes per second that it reads partials with, over all streams.
    """

    in_flight: int = AT_ONCE
    request_cpu_s: float = 0.0003
    start_s: float = 0.02
    start_partition_s: float = 250e-6
    cell_s: float = 25e-6
    segment_s: float = 8e-6
    task_s: float = 150e-6
    open_task_s: float = 8e-6
    listed_s: float = 5e-6
    heartbeat_s: float = 100e-6
    bytes_s: float = 1.25e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """All of them.

    Attributes:
        storage: The store, of tables and of the swarm's root.
        node: The nodes.
        coordinator: The session.
        table_prefixes: Prefixes that each table's objects are spread over.
        task_s: A bee's own time for a task: engine, plan, partial.
        group_requests: Reads of one cell beside that of its footer, one after the other.
        combine_byte_s: Seconds of a bee for each byte that a combining stage hands on.
    """

    storage: StorageModel = BUCKET
    node: NodeModel = NodeModel()
    coordinator: CoordinatorModel = CoordinatorModel()
    table_prefixes: int = 1
    task_s: float = 0.010
    group_requests: int = 2
    combine_byte_s: float = 3e-9


SPOT = NodeModel(deaths_h=0.05, slow_share=0.01)
"""Nodes that are taken away now and then, and of which one in a hundred is slow."""


def told(assumptions: Assumptions) -> Iterator[tuple[str, str]]:
    """Yield every assumption's name and value, for people."""
    for field in fields(assumptions):
        value = getattr(assumptions, field.name)
        if field.name in {"storage", "node", "coordinator"}:
            for inner in fields(value):
                yield f"{field.name}.{inner.name}", _plain(getattr(value, inner.name))
        else:
            yield field.name, _plain(value)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
