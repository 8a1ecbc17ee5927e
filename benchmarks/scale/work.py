"""What an attempt takes a bee, and what it writes: requests, bytes and computing, by a query's profile.

What belongs here: the time of one attempt on its own. Which attempts there are, and when, is :mod:`.world`'s business.
"""

from __future__ import annotations

import functools
import random
from collections import Counter, defaultdict
from dataclasses import dataclass

from apiary_df.config import Settings
from apiary_df.costs import IN_FLIGHT
from apiary_df.fetching import Reading
from apiary_df.model import PartialRef, Segment, TaskSpec
from apiary_df.protocol.partial import PIECE_BYTES
from apiary_df.schedule import Dispatch
from apiary_df.store import UPLOAD_CONCURRENCY
from benchmarks.scale.assumptions import Assumptions
from benchmarks.scale.profiles import QueryShape
from benchmarks.scale.storage import ModelStore, Took

QUERY_PREFIX = "_queries"
"""Below it lie partials, commit records and leases: one limit of requests for all of them."""

MIN_SEGMENT_BYTES = 512
"""What a segment of an Arrow file takes however few rows it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted:
    """What an attempt comes to, if nothing stops it.

    Attributes:
        committed_s: Seconds until its commit record is there.
        over_s: Seconds until its bee is free.
        partial: What it writes.
    """

    committed_s: float
    over_s: float
    partial: PartialRef


class Work:
    """The work of all bees.

    Args:
        shape: The query.
        assumptions: What storage and nodes are like.
        settings: The session's, filled in for the store.
        store: Where requests are made.
        rng: Draws prefixes of tables.

    Attributes:
        bees_s: Seconds of bees so far, by what they went to.
        inlined: Keys of partials that lie in their commit records.
    """

    def __init__(
        self, shape: QueryShape, assumptions: Assumptions, settings: Settings, store: ModelStore, rng: random.Random
    ) -> None:
        self.bees_s: defaultdict[str, float] = defaultdict(float)
        self.inlined: set[str] = set()
        self._shape = shape
        self._given = assumptions
        self._store = store
        self._rng = rng
        self._reading = Reading.of(settings)

    def attempt(self, dispatch: Dispatch, now_s: float, *, slowness: float) -> Attempted:
        """Return how long an attempt takes, and what it writes. Manifest and fragment came with its mail.

        Args:
            dispatch: The attempt.
            now_s: When it begins.
            slowness: How many times as long its node computes.
        """
        spec, given, store = dispatch.spec, self._given, self._store
        stage = self._shape.stages[spec.stage]
        own_s = given.task_s
        network_s = given.node.network_bytes_s / given.node.bees
        took = [self._read_cells(spec, now_s, network_s), self._read_partials(spec, now_s, network_s)]
        compute_s = stage.byte_s * spec.input_bytes * slowness
        partial = self._partial(dispatch)
        parts = max(1, -(-partial.length // given.storage.part_bytes))
        is_attached = spec.inline_bytes < partial.length <= spec.attached_bytes
        if is_attached:
            # It is one object with the commit record.
            parts = 1
        elif partial.length <= spec.inline_bytes:
            # It lies in the commit record.
            parts = 0
            self.inlined.add(partial.key)
        # Its turn at the prefix is taken now, though it writes later: turns are taken in the order of events.
        upload = store.take(
            now_s, "put", QUERY_PREFIX, parts, partial.length, in_flight=UPLOAD_CONCURRENCY, bytes_s=network_s
        )
        took.append(upload)
        record_s = 0.0 if is_attached else store.one("put")
        latency_s = record_s + sum(t.latency_s for t in took)
        bytes_s, limit_s = sum(t.bytes_s for t in took), sum(t.limit_s for t in took)
        committed_s = own_s + compute_s + latency_s + bytes_s + limit_s
        # Once it is committed the bee looks whether the query is still wanted, for which nobody else waits.
        last_s = store.one("get")
        spent_s = {
            "computing": compute_s + own_s,
            "first bytes": latency_s + last_s,
            "bytes": bytes_s,
            "request limits": limit_s,
        }
        for name, seconds in spent_s.items():
            self.bees_s[name] += seconds
        return Attempted(committed_s=committed_s, over_s=committed_s + last_s, partial=partial)

    def _read_cells(self, spec: TaskSpec, now_s: float, network_s: float) -> Took:
        leaves = self._shape.stages[spec.stage].leaves
        given = self._given
        found = Took()
        for scan in spec.scans:
            leaf = leaves[scan.leaf]
            requests = len(scan.files) * (1 + given.group_requests)
            size_bytes = round(sum(file.bytes for file in scan.files) * leaf.read_share)
            prefix = f"{leaf.table}/{self._rng.randrange(given.table_prefixes)}"
            most_s = min(network_s, given.node.streams * given.storage.stream_bytes_s)
            took = self._store.take(now_s, "get", prefix, requests, size_bytes, in_flight=1, bytes_s=most_s)
            found = _sum(found, took)
        return found

    def _read_partials(self, spec: TaskSpec, now_s: float, network_s: float) -> Took:
        segments = [ref for exchange in spec.exchanges for ref in exchange.segments]
        objects = len({ref.key for ref in segments} - self.inlined)
        return self.fetch(now_s, objects, sum(ref.segment.length for ref in segments), network_s)

    def fetch(self, now_s: float, objects: int, size_bytes: int, most_s: float) -> Took:
        """Return what it takes to read from so many partials, as :mod:`apiary_df.fetching` does.

        Args:
            now_s: When.
            objects: How many partials.
            size_bytes: Bytes of all of them that are read.
            most_s: Bytes per second that the reader can take.
        """
        if not objects:
            return Took()
        reads = max(objects, -(-size_bytes // PIECE_BYTES))
        mean_bytes = size_bytes // reads
        in_flight = max(1, min(IN_FLIGHT, self._reading.budget_bytes // max(1, mean_bytes)))
        factor = self._reading.hedge_factor
        return self._store.take(
            now_s,
            "get",
            QUERY_PREFIX,
            reads,
            size_bytes,
            in_flight=in_flight,
            bytes_s=min(most_s, in_flight * self._given.storage.stream_bytes_s),
            hedge_s=None if factor is None else factor * self._reading.latencies.expected_s(mean_bytes),
        )

    def _partial(self, dispatch: Dispatch) -> PartialRef:
        spec = dispatch.spec
        stage = self._shape.stages[spec.stage]
        name = f"partial_{spec.stage}_{spec.task}_{dispatch.attempt}"
        if stage.combines:
            return _handed_on(name, spec)
        times = (spec.input_bytes / max(1.0, stage.task_in_bytes)) ** stage.growth
        length = max(MIN_SEGMENT_BYTES, _rounded(stage.task_out_bytes * times))
        count = spec.output_partitions
        # A few groups are in a few partitions; rows are in all.
        filled = min(count, max(1, length // MIN_SEGMENT_BYTES))
        return _partial_of(name, length, _segments(count, filled, length // filled))


def _handed_on(name: str, spec: TaskSpec) -> PartialRef:
    """Return what a task of a combining stage writes: what it read, a segment for each of its partitions."""
    lengths: Counter[int] = Counter()
    for exchange in spec.exchanges:
        for ref in exchange.segments:
            lengths[ref.segment.partition] += ref.segment.length
    segments: list[Segment] = []
    offset = 0
    for partition, length in sorted(lengths.items()):
        segments.append(Segment(partition=partition, offset=offset, length=length, rows=1, checksum=""))
        offset += length
    return _partial_of(name, offset, tuple(segments))


def _partial_of(name: str, length: int, segments: tuple[Segment, ...]) -> PartialRef:
    return PartialRef(key=name, length=length, footer_offset=length, footer_checksum="", segments=segments)


def _rounded(size_bytes: float) -> int:
    """Return a size to three digits: tasks that read about the same then share what describes their partials."""
    unit = int("1" + "0" * max(0, len(str(int(size_bytes))) - 3))
    return round(size_bytes / unit) * unit


@functools.lru_cache(maxsize=4_096)
def _segments(count: int, filled: int, each_bytes: int) -> tuple[Segment, ...]:
    """Return the segments of a partial of so many partitions, the first ones of which have rows."""
    full = (Segment(partition=p, offset=p * each_bytes, length=each_bytes, rows=1, checksum="") for p in range(filled))
    end = filled * each_bytes
    empty = (Segment(partition=p, offset=end, length=0, rows=0, checksum="") for p in range(filled, count))
    return (*full, *empty)


def _sum(a: Took, b: Took) -> Took:
    return Took(latency_s=a.latency_s + b.latency_s, bytes_s=a.bytes_s + b.bytes_s, limit_s=a.limit_s + b.limit_s)
