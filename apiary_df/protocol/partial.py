"""Partials: what an attempt writes, one Arrow IPC file whose batches are grouped by output partition.

::

    +---------------------+-----------+-----------+-----+-----------+---------------------+
    | head                | segment 0 | segment 1 | ... | segment n | footer              |
    | magic, schema,      | batches   | batches   |     | batches   | end mark, block     |
    | dictionaries        |           |           |     |           | offsets, magic      |
    +---------------------+-----------+-----------+-----+-----------+---------------------+

The file is a plain Arrow file that any reader opens whole. A consumer of one partition fetches head, footer and
its segment into a sparse file of the same length, and has DataFusion scan that segment's byte range: DataFusion
reads the batches whose offset in the footer lies in the range. The head ends with a batch of no rows, which makes
pyarrow write all dictionaries before the first segment.

A partial is an object of its own, or lies behind its commit record in that one's object, or came with whoever speaks of
it. All offsets are those within the partial.

A partition has one segment, or several: a writer that is told to write in runs appends what has come of every partition
whenever enough is there, rather than hold all of it in memory until the end.

What belongs here: verifying and reading partials. What does not: writing them (``partial_writer``), where they lie
(``keys``) and who is to read them (``messages``).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash
from pyarrow import ipc

from apiary_df.errors import ObjectDamaged, PlanError, StorageTransient
from apiary_df.model import PartialRef, Segment, SegmentRef
from apiary_df.protocol.ipc import END_OF_STREAM
from apiary_df.store import Data, Store

STRONG_CHARS = 64
"""Length of a strong checksum, by which readers tell it from the other."""

MAGIC_BYTES = 8
"""Length of the magic that a file has in front of what is otherwise a stream, padding included."""

PIECE_BYTES = 16 * 1024 * 1024
"""Larger segments are fetched in pieces of this size, several at once: one stream gives about 50 MiB a second."""

WINDOW_BYTES = 8 * 1024 * 1024
"""Bytes of a file that are mapped at a time while it is verified; smaller windows take longer to map than to read."""

PIECES_AT_ONCE = 4
"""Pieces in flight for one object, which bounds the memory that a fetch takes to 64 MiB."""


def checksum(data: bytes | memoryview, *, strong: bool = False) -> str:
    """Return the xxh3-64 of some bytes as 16 hex digits or, if it is to be strong, their SHA-256 as 64."""
    hasher = _hasher(strong=strong)
    hasher.update(data)
    return str(hasher.hexdigest())


def _hasher(*, strong: bool) -> Any:
    return hashlib.sha256() if strong else xxhash.xxh3_64()


def place_of(ref: PartialRef | SegmentRef) -> tuple[str, int]:
    """Return the key of the object in which a partial lies, and where it begins there."""
    return (ref.key, 0) if ref.within is None else (ref.within.key, ref.within.offset)


def read_partial(
    source: Store | bytes | pa.Buffer, ref: PartialRef | SegmentRef, partition: int | None = None
) -> list[pa.RecordBatch]:
    """Read one partition of a partial.

    Args:
        source: The store that holds it, unless it came with its commit record; or the whole partial's bytes.
        ref: The commit record's words about the partial, or about one segment of it.
        partition: Output partition; not needed with a :class:`~apiary_df.model.SegmentRef`.

    Returns:
        The partition's batches, none of them empty.

    Raises:
        ObjectMissing: The object is not there.
        ObjectDamaged: Length, checksum, encoding or row count is not what the commit record says.
        PlanError: There is no such partition.
        StorageTransient: The store failed, still after the retries.
        StorageError: The store refused.
    """
    return list(open_partial(source, ref, partition))


def open_partial(
    source: Store | bytes | pa.Buffer, ref: PartialRef | SegmentRef, partition: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Read one partition of a partial, and decode its batches one by one, as they are asked for.

    Takes and raises what :func:`read_partial` does, before it returns; but a batch that does not decode is asked for.
    """
    segments = [segment for segment in _segments(ref, partition) if segment.length]
    length = ref.length if isinstance(ref, PartialRef) else ref.object_length
    if not segments:
        return iter(())
    if isinstance(ref, PartialRef) and ref.data is not None:
        source = ref.data
    spans = [(0, ref.head_length), *((segment.offset, segment.length) for segment in segments)]
    if isinstance(source, Store):
        key, begin = place_of(ref)
        starts, lengths = [begin + start for start, _ in spans], [size for _, size in spans]
        head, *bodies = (memoryview(b) for b in source.get_ranges(key, starts, lengths))
    else:
        whole = memoryview(source).cast("B")
        if len(whole) != length:
            raise _damaged(ref.key, f"it has {len(whole)} bytes instead of {length}")
        head, *bodies = (whole[start : start + size] for start, size in spans)
    verify(ref.key, "head", head, ref.head_checksum)
    name = f"partition {segments[0].partition}"
    for segment, body in zip(segments, bodies, strict=True):
        verify(ref.key, name, body, segment.checksum)
    stream = pa.py_buffer(b"".join((head[MAGIC_BYTES:], *bodies, END_OF_STREAM)))
    return _decoded(ref.key, name, stream, sum(segment.rows for segment in segments))


def _decoded(key: str, name: str, stream: pa.Buffer, expected_rows: int) -> Iterator[pa.RecordBatch]:
    rows = 0
    try:
        for batch in ipc.open_stream(stream):
            rows += batch.num_rows
            if batch.num_rows:
                yield batch
    except (pa.ArrowException, OSError) as error:
        raise _damaged(key, f"{name} does not decode: {error}") from error
    if rows != expected_rows:
        raise _damaged(key, f"{name} has {rows} rows instead of {expected_rows}")


def materialize(store: Store, refs: Sequence[SegmentRef], target: Path) -> Path:
    """Make some segments of one partial readable as a local file, for an Arrow scan of their byte ranges.

    On a folder store this is the object itself, whose checksums are verified where it lies. Otherwise, or if the
    partial is no object of its own, a sparse file of its length is written to ``target``: head, footer and the wanted
    segments are at their places, the rest is a hole.

    Args:
        store: The store that holds it.
        refs: The segments, all of the same partial.
        target: Where to write the file, if one must be written; replaced atomically.

    Returns:
        The path of the local file, which holds at least these segments.

    Raises:
        ObjectMissing: The object is not there.
        ObjectDamaged: Length or checksum is not what the commit record says.
        PlanError: No segments, or segments of several partials.
        StorageTransient: The store failed, still after the retries, or the disk did.
        StorageError: The store refused.
    """
    if len({ref.key for ref in refs}) != 1:
        raise PlanError(f"segments of exactly one partial are wanted, not of {sorted({r.key for r in refs})}")
    key, length = refs[0].key, refs[0].object_length
    local = store.local_path(key)
    if local is not None and refs[0].within is None:
        try:
            _verify_file(key, local, refs)
        except FileNotFoundError:
            store.head(key)  # raises the fitting error
            raise
        return local
    staged = target.with_name(f"{target.name}.{secrets.token_hex(8)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("wb") as file:
            file.truncate(length)
            _fetch(store, place_of(refs[0]), [(start, size) for _, start, size, _ in _spans(refs)], file.fileno())
        _verify_file(key, staged, refs)
        staged.replace(target)
    except OSError as error:
        raise StorageTransient(
            f"copy {key!r} from {store.url} to the scratch file {target}: {error}; make room there", key=key
        ) from error
    finally:
        staged.unlink(missing_ok=True)
    return target


def _fetch(store: Store, place: tuple[str, int], spans: Sequence[tuple[int, int]], descriptor: int) -> None:
    """Copy spans of a partial to the same offsets of a file."""
    key, begin = place
    if sum(size for _, size in spans) <= PIECE_BYTES:
        starts, sizes = [begin + start for start, _ in spans], [size for _, size in spans]
        for start, data in zip(starts, store.get_ranges(key, starts, sizes), strict=True):
            write_at(descriptor, data, start - begin)
        return
    pieces = [
        (start + done, min(PIECE_BYTES, size - done)) for start, size in spans for done in range(0, size, PIECE_BYTES)
    ]

    def copy(start: int, size: int) -> None:
        write_at(descriptor, store.get_range(key, begin + start, size), start)

    with ThreadPoolExecutor(PIECES_AT_ONCE, thread_name_prefix="apiary-fetch") as pool:
        copies = [pool.submit(copy, start, size) for start, size in pieces]
        try:
            for done in copies:
                done.result()
        finally:
            for rest in copies:
                rest.cancel()


def write_at(descriptor: int, data: Data, offset: int) -> None:
    """Write all of some bytes to a place of a file.

    Raises:
        OSError: If the disk cannot take them.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _spans(refs: Sequence[SegmentRef]) -> Iterator[tuple[str, int, int, str]]:
    """Yield name, start, length and checksum of all that these segments need, without what is empty."""
    first = refs[0]
    footer_length = first.object_length - first.footer_offset
    yield "head", 0, first.head_length, first.head_checksum
    for ref in refs:
        if ref.segment.length:
            name = f"partition {ref.segment.partition}"
            yield name, ref.segment.offset, ref.segment.length, ref.segment.checksum
    yield "footer", first.footer_offset, footer_length, first.footer_checksum


def _verify_file(key: str, path: Path, refs: Sequence[SegmentRef]) -> None:
    """Verify what these segments need of a file, a window at a time: what is mapped counts as memory once read."""
    with path.open("rb", buffering=0) as file:
        length, wanted = os.fstat(file.fileno()).st_size, refs[0].object_length
        if length != wanted:
            raise _damaged(key, f"it has {length} bytes instead of {wanted}")
        for name, start, size, expected in _spans(refs):
            hasher = _hasher(strong=len(expected) == STRONG_CHARS)
            for offset, skipped, taken in _windows(start, size):
                with mmap.mmap(file.fileno(), skipped + taken, access=mmap.ACCESS_READ, offset=offset) as window:
                    hasher.update(window if not skipped else memoryview(window)[skipped:])
            _compare(key, name, str(hasher.hexdigest()), expected)


def _windows(start: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield where windows over a span begin, how many bytes of each come before the span's own, and how many follow."""
    end = start + size
    while start < end:
        skipped = start % mmap.ALLOCATIONGRANULARITY
        taken = min(WINDOW_BYTES, end - start)
        yield start - skipped, skipped, taken
        start += taken


def verify(key: str, name: str, data: memoryview, expected: str) -> None:
    """Compare the checksum of a part of a partial with the one that was committed.

    Raises:
        ObjectDamaged: If it is another.
    """
    _compare(key, name, checksum(data, strong=len(expected) == STRONG_CHARS), expected)


def _compare(key: str, name: str, found: str, expected: str) -> None:
    if found != expected:
        raise _damaged(key, f"the checksum of its {name} is {found} instead of {expected or 'none'}")


def _damaged(key: str, what: str) -> ObjectDamaged:
    return ObjectDamaged(f"the partial {key!r} is damaged: {what}; its task has to run again", key=key)


def _segments(ref: PartialRef | SegmentRef, partition: int | None) -> list[Segment]:
    if isinstance(ref, SegmentRef):
        return [ref.segment]
    found = [segment for segment in ref.segments if segment.partition == partition]
    if not found:
        count = len({segment.partition for segment in ref.segments})
        raise PlanError(f"the partial {ref.key!r} has {count} partitions, and none of number {partition}")
    return found


def mapped(path: Path) -> memoryview:
    """Return the bytes of a file without reading them into memory of our own. They stay valid while referenced."""
    if not path.stat().st_size:
        return memoryview(b"")
    return memoryview(pa.memory_map(str(path)).read_buffer()).cast("B")
