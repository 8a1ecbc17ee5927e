"""Which bytes of an object a scan of one of its ranges reads. Pure.

What belongs here: intervals, and the layout of Parquet files as far as caching parts of them asks for it. What is held
of an object is the business of :mod:`apiary_df.worker.cell_index`, where it lies that of
:mod:`apiary_df.worker.cell_files`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from itertools import pairwise
from typing import TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

Span: TypeAlias = tuple[int, int]
"""First byte, inclusive, and end, exclusive."""

TRAILER_BYTES = 8
"""The end of a Parquet file: the length of its footer, and the magic."""

_MAGIC = b"PAR1"


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Where the row groups of a Parquet file lie.

    Attributes:
        starts: For each row group, the byte by which DataFusion gives it to a range: its first column's first.
        spans: For each row group, all bytes from its first to the next one's first: columns, and what a writer puts
            behind them (Bloom filters).
        tail: Where what belongs to all of them begins: indexes of pages, and the footer.
    """

    starts: tuple[int, ...]
    spans: tuple[Span, ...]
    tail: int


def footer_bytes(end: bytes) -> int | None:
    """Return how many bytes at the end of a Parquet file are its footer; None if it is none that can be read.

    Args:
        end: The file's end, at least :data:`TRAILER_BYTES`.
    """
    if len(end) < TRAILER_BYTES or end[-len(_MAGIC) :] != _MAGIC:
        return None
    return int.from_bytes(end[-TRAILER_BYTES : -len(_MAGIC)], "little") + TRAILER_BYTES


def layout_of(end: bytes) -> Layout | None:
    """Return the layout of a Parquet file; None if its row groups do not lie one after the other.

    Args:
        end: The file's end, with the whole footer.
    """
    try:
        metadata = pq.read_metadata(BytesIO(end))
    except (pa.ArrowException, OSError):
        return None
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    bounds = [_bounds(group) for group in groups if group.num_columns]
    if not bounds or any(high > after for (_, _, high), (_, after, _) in pairwise(bounds)):
        return None
    tail = bounds[-1][2]
    # From the file's first byte on: all row groups and the tail are then the whole file.
    lows = [0, *(low for _, low, _ in bounds[1:]), tail]
    return Layout(
        starts=tuple(start for start, _, _ in bounds),
        spans=tuple(pairwise(lows)),
        tail=tail,
    )


def _bounds(group: pq.RowGroupMetaData) -> tuple[int, int, int]:
    """Return the byte that a row group is found by, its first byte, and its end."""
    columns = [group.column(index) for index in range(group.num_columns)]
    firsts = [
        min(column.dictionary_page_offset or column.data_page_offset, column.data_page_offset) for column in columns
    ]
    ends = [first + column.total_compressed_size for first, column in zip(firsts, columns, strict=True)]
    return columns[0].dictionary_page_offset or columns[0].data_page_offset, min(firsts), max(ends)


def spans_read(size_bytes: int, ranges: Iterable[Span | None], layout: Layout | None) -> tuple[Span, ...]:
    """Return what scans of these ranges of an object read of it, at most; without a layout: all of it.

    Args:
        size_bytes: Size of the object.
        ranges: Ranges as the scans have them; None is the whole object.
        layout: Where its row groups lie; None if nobody knows, or it is of another format.
    """
    read: list[Span] = []
    for wanted in ranges:
        if wanted is None or layout is None:
            return ((0, size_bytes),) if size_bytes else ()
        first, end = wanted
        read += [span for start, span in zip(layout.starts, layout.spans, strict=True) if first <= start < end]
        read.append((layout.tail, size_bytes))
    return united(read)


def united(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return the same bytes as the fewest spans, in order."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if start >= end:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return tuple(found)


def missing(wanted: Iterable[Span], held: Iterable[Span]) -> tuple[Span, ...]:
    """Return the wanted bytes that are not held, in order."""
    there = united(held)
    gaps: list[Span] = []
    for start, end in united(wanted):
        at = start
        for first, last in there:
            if last <= at or first >= end:
                continue
            if first > at:
                gaps.append((at, first))
            at = max(at, last)
        if at < end:
            gaps.append((at, end))
    return tuple(gaps)


def overlap(span: Span, others: Iterable[Span]) -> bool:
    """Whether a span has a byte of any of others."""
    return any(span[0] < end and start < span[1] for start, end in others)


def total_bytes(spans: Iterable[Span]) -> int:
    """Return how many bytes spans have that do not overlap."""
    return sum(end - start for start, end in spans)


def pieces_of(spans: Sequence[Span], most_bytes: int) -> tuple[Span, ...]:
    """Return the same spans cut into pieces of at most so many bytes."""
    return tuple((at, min(at + most_bytes, end)) for start, end in spans for at in range(start, end, most_bytes))
