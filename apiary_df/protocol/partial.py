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

A partition has one segment, or several: a writer that is told to write in runs appends what has come of every partition
whenever enough is there, rather than hold all of it in memory until the end.

What belongs here: encoding and decoding partials. What does not: where they lie (``keys``) and who is to read
them (``messages``).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import xxhash
from pyarrow import ipc

from apiary_df.errors import ApiaryError, ObjectDamaged, PlanError, StorageTransient
from apiary_df.model import PartialRef, Segment, SegmentRef
from apiary_df.protocol.arrow import GROUP_ROWS, DictionaryUnifier, compact, conform, grouped, has_dictionaries, pieces
from apiary_df.protocol.ipc import END_OF_STREAM
from apiary_df.store import Data, Store

Compression: TypeAlias = Literal["lz4", "zstd"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedPartial:
    """A partial that is complete but not stored yet.

    Attributes:
        data: The object's bytes, or the scratch file that holds them (gone once the writer is closed).
        length: Bytes of the object.
        segments: At least one entry for every output partition, in order of partition and offset.
        head_length: Bytes before the first segment.
        head_checksum: xxh3-64 of those bytes.
        footer_offset: Where end mark and footer begin.
        footer_checksum: xxh3-64 of the bytes from there to the end.
        has_dictionaries: Whether its segments cannot be read without its head.
    """

    data: pa.Buffer | Path
    length: int
    segments: tuple[Segment, ...]
    head_length: int
    head_checksum: str
    footer_offset: int
    footer_checksum: str
    has_dictionaries: bool = False

    def inline(self, limit_bytes: int) -> bytes | None:
        """Return its bytes if it may lie in its commit record: it is small, and readers need its segments only."""
        if isinstance(self.data, Path) or self.length > limit_bytes or self.has_dictionaries:
            return None
        return bytes(memoryview(self.data))

    def ref(self, key: str) -> PartialRef:
        """Return what the commit record says of this partial once it is stored at ``key``."""
        return PartialRef(
            key=key,
            length=self.length,
            footer_offset=self.footer_offset,
            footer_checksum=self.footer_checksum,
            segments=self.segments,
            head_length=self.head_length,
            head_checksum=self.head_checksum,
        )


class PartialWriter:
    """Collects the output of one attempt, partition by partition, and makes one partial of it.

    Batches may come in any order of partitions. Up to ``memory_bytes`` of them are kept in memory; beyond that they
    go to scratch files, and the partial is put together on disk.

    Args:
        schema: Schema of the stage's output; batches are conformed to it by position.
        partitions: Number of output partitions, at least 1.
        scratch_dir: Folder for scratch files; made if it is absent.
        memory_bytes: Bytes of batches to hold before they go to disk.
        compression: Compression of the batches' buffers.
        run_bytes: Write a run of segments to a scratch file whenever this many bytes have come. Where the store can
            link files and reads any range at no cost, that saves touching fresh memory for all of the partial, which
            takes longer than writing it. None: one segment a partition, as fits a bucket.
        batch_rows: Rows of a batch in the partial: what its readers take at a time, so that they need not slice.
        strong: Take checksums that nobody can forge other bytes for, at a tenth of the speed: in a swarm with a key.
    """

    def __init__(
        self,
        schema: pa.Schema,
        partitions: int,
        scratch_dir: Path,
        memory_bytes: int,
        compression: Compression | None = None,
        *,
        run_bytes: int | None = None,
        batch_rows: int = GROUP_ROWS,
        strong: bool = False,
    ) -> None:
        if partitions < 1:
            raise PlanError(f"a partial needs at least one partition, not {partitions}")
        self._schema = schema
        self._options = ipc.IpcWriteOptions(compression=compression)
        self._memory_bytes = memory_bytes
        self._batch_rows = batch_rows
        self._strong = strong
        # Runs rest on dictionaries that are complete before the first batch is written.
        self._run_bytes = None if has_dictionaries(schema) else run_bytes
        self._scratch = _Scratch(scratch_dir)
        self._unifier = DictionaryUnifier(schema) if has_dictionaries(schema) else None
        self._pending: list[list[pa.RecordBatch]] = [[] for _ in range(partitions)]
        self._pending_bytes = 0
        self._runs: list[list[tuple[int, int]]] = [[] for _ in range(partitions)]
        self._spool: Path | None = None
        self._through: _Assembly | None = None
        self._finished = False

    def __enter__(self) -> PartialWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, partition: int, batch: pa.RecordBatch) -> None:
        """Add a batch to a partition.

        Raises:
            PlanError: The batch does not fit the schema, or there is no such partition.
            StorageTransient: The scratch folder cannot take it.
        """
        if self._finished or not 0 <= partition < len(self._pending):
            state = "finished" if self._finished else f"of {len(self._pending)} partitions"
            raise PlanError(f"a batch for partition {partition} came to a partial that is {state}")
        if not batch.num_rows:
            return
        for piece in pieces(conform(batch, self._schema), self._batch_rows):
            compacted = compact(piece)
            if self._unifier is not None:
                compacted = self._unifier.see(compacted)
            self._pending[partition].append(compacted)
            self._pending_bytes += compacted.nbytes
        if self._run_bytes is not None and self._pending_bytes > self._run_bytes:
            self._write_run()
        elif self._pending_bytes > self._memory_bytes:
            self._relieve()

    def finish(self) -> FinishedPartial:
        """Put the partial together. Call it once; nothing can be written afterwards.

        Raises:
            PlanError: A column cannot be encoded.
            StorageTransient: The scratch folder cannot take it.
        """
        if self._finished:
            raise PlanError("a partial was finished twice")
        self._finished = True
        assembly = self._through
        if assembly is None:
            to_disk = self._spool is not None
            with self._scratch.guarded("put a partial together"):
                path = self._scratch.new("partial") if to_disk else None
                assembly = _Assembly(self._schema, self._options, path, self._empty_batch(), strong=self._strong)
        with self._scratch.guarded("put a partial together"):
            for partition in range(len(self._pending)):
                assembly.add(partition, self._batches(partition))
                self._pending[partition] = []
            return assembly.finish()

    def close(self) -> None:
        """Remove the scratch files, the finished partial's among them. Safe to call again."""
        self._finished = True
        if self._through is not None:
            self._through.abandon()
        self._pending = [[] for _ in self._pending]
        self._scratch.clear()

    def _empty_batch(self) -> pa.RecordBatch:
        return (self._unifier or DictionaryUnifier(self._schema)).empty_batch()

    def _relieve(self) -> None:
        """Move all pending batches to disk."""
        with self._scratch.guarded("spool a partial"):
            if len(self._pending) == 1 and self._unifier is None:
                # With one partition the final file can be written right away; it needs no second pass.
                self._write_run()
            else:
                self._append_run()
        self._pending_bytes = 0

    def _write_run(self) -> None:
        """Append each partition's pending batches to the final file, as segments."""
        with self._scratch.guarded("write a run of a partial"):
            if self._through is None:
                path = self._scratch.new("partial")
                self._through = _Assembly(self._schema, self._options, path, self._empty_batch(), strong=self._strong)
            for partition, batches in enumerate(self._pending):
                if batches:
                    self._through.add(partition, grouped(batches, self._batch_rows))
                    self._pending[partition] = []
        self._pending_bytes = 0

    def _append_run(self) -> None:
        """Append each partition's pending batches to the spool file, as an Arrow stream of its own."""
        if self._spool is None:
            self._spool = self._scratch.new("spool")
        with pa.OSFile(str(self._spool), "ab") as sink:
            for partition, batches in enumerate(self._pending):
                if not batches:
                    continue
                start = sink.tell()
                with ipc.new_stream(sink, self._schema, options=self._options) as stream:
                    for batch in batches:
                        stream.write_batch(batch)
                self._runs[partition].append((start, sink.tell() - start))
                self._pending[partition] = []

    def _batches(self, partition: int) -> Iterator[pa.RecordBatch]:
        batches: Iterable[pa.RecordBatch] = self._all_batches(partition)
        if self._unifier is not None:
            batches = map(self._unifier.apply, batches)
        return grouped(batches, self._batch_rows)

    def _all_batches(self, partition: int) -> Iterator[pa.RecordBatch]:
        if self._spool is not None and self._runs[partition]:
            with pa.memory_map(str(self._spool)) as spool:
                for start, length in self._runs[partition]:
                    spool.seek(start)
                    yield from ipc.open_stream(spool.read_buffer(length))
        yield from self._pending[partition]


class _Assembly:
    """One partial being written, to memory or to a file."""

    def __init__(
        self,
        schema: pa.Schema,
        options: ipc.IpcWriteOptions,
        path: Path | None,
        empty: pa.RecordBatch,
        *,
        strong: bool,
    ) -> None:
        self._path = path
        self._strong = strong
        self._has_dictionaries = has_dictionaries(schema)
        self._sink: Any = pa.BufferOutputStream() if path is None else pa.OSFile(str(path), "wb")
        self._writer = ipc.new_file(self._sink, schema, options=options)
        self._writer.write_batch(empty)
        self._head_length: int = self._sink.tell()
        self._spans: list[tuple[int, int, int, int]] = []

    def add(self, partition: int, batches: Iterable[pa.RecordBatch]) -> None:
        """Append batches to a partition; right after the same partition's, its segment is continued."""
        start, rows = self._sink.tell(), 0
        if self._spans and self._spans[-1][0] == partition:
            _, start, _, rows = self._spans.pop()
        for batch in batches:
            self._writer.write_batch(batch)
            rows += batch.num_rows
        length = self._sink.tell() - start
        if length or all(known != partition for known, *_ in self._spans):
            self._spans.append((partition, start, length, rows))

    def finish(self) -> FinishedPartial:
        """Write the footer, and take the checksums."""
        footer_offset = self._sink.tell()
        self._writer.close()
        if self._path is None:
            buffer = self._sink.getvalue()
            return self._described(buffer, memoryview(buffer).cast("B"), footer_offset)
        self._sink.close()
        return self._described(self._path, mapped(self._path), footer_offset)

    def abandon(self) -> None:
        """Let go of the file."""
        self._sink.close()

    def _described(self, data: pa.Buffer | Path, view: memoryview, footer_offset: int) -> FinishedPartial:
        segments = tuple(
            Segment(
                partition=partition,
                offset=start,
                length=length,
                rows=rows,
                checksum=checksum(view[start : start + length], strong=self._strong),
            )
            for partition, start, length, rows in sorted(self._spans)
        )
        return FinishedPartial(
            data=data,
            length=len(view),
            segments=segments,
            head_length=self._head_length,
            head_checksum=checksum(view[: self._head_length], strong=self._strong),
            footer_offset=footer_offset,
            footer_checksum=checksum(view[footer_offset:], strong=self._strong),
            has_dictionaries=self._has_dictionaries,
        )


class _Scratch:
    """The scratch files of one writer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: list[Path] = []

    def new(self, purpose: str) -> Path:
        """Return the path of a file that nobody else uses."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{purpose}-{secrets.token_hex(8)}.arrow"
        self._paths.append(path)
        return path

    def clear(self) -> None:
        """Remove every file that was handed out."""
        while self._paths:
            with suppress(OSError):  # the folder may be gone as a whole already
                self._paths.pop().unlink(missing_ok=True)

    @contextmanager
    def guarded(self, purpose: str) -> Iterator[None]:
        """Turn failures of disk and encoding into typed errors."""
        try:
            yield
        except (ApiaryError, MemoryError):
            raise
        except OSError as error:
            raise StorageTransient(
                f"{purpose} in the scratch folder {self._folder}: {error}; make room there, or give the node "
                "another scratch folder",
                folder=self._folder,
            ) from error
        except pa.ArrowException as error:
            raise PlanError(f"{purpose}: the batches cannot be encoded as Arrow IPC: {error}") from error


def checksum(data: bytes | memoryview, *, strong: bool = False) -> str:
    """Return the xxh3-64 of some bytes as 16 hex digits or, if it is to be strong, their SHA-256 as 64."""
    hasher = _hasher(strong=strong)
    hasher.update(data)
    return str(hasher.hexdigest())


def _hasher(*, strong: bool) -> Any:
    return hashlib.sha256() if strong else xxhash.xxh3_64()


def read_partial(
    source: Store | bytes | pa.Buffer, ref: PartialRef | SegmentRef, partition: int | None = None
) -> list[pa.RecordBatch]:
    """Read one partition of a partial.

    Args:
        source: The store that holds the object, unless it lies in its commit record; or the whole object's bytes.
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
        starts, lengths = zip(*spans, strict=True)
        head, *bodies = (memoryview(b) for b in source.get_ranges(ref.key, starts, lengths))
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

    On a folder store this is the object itself, whose checksums are verified where it lies. Otherwise a sparse
    file of the object's length is written to ``target``: head, footer and the wanted segments are at their places,
    the rest is a hole.

    Args:
        store: The store that holds the object.
        refs: The segments, all of the same object.
        target: Where to write the file, if one must be written; replaced atomically.

    Returns:
        The path of the local file, which holds at least these segments.

    Raises:
        ObjectMissing: The object is not there.
        ObjectDamaged: Length or checksum is not what the commit record says.
        PlanError: No segments, or segments of several objects.
        StorageTransient: The store failed, still after the retries, or the disk did.
        StorageError: The store refused.
    """
    if len({ref.key for ref in refs}) != 1:
        raise PlanError(f"segments of exactly one partial are wanted, not of {sorted({r.key for r in refs})}")
    key, length = refs[0].key, refs[0].object_length
    local = store.local_path(key)
    if local is not None:
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
            _fetch(store, key, [(start, size) for _, start, size, _ in _spans(refs)], file.fileno())
        _verify_file(key, staged, refs)
        staged.replace(target)
    except OSError as error:
        raise StorageTransient(
            f"copy {key!r} from {store.url} to the scratch file {target}: {error}; make room there", key=key
        ) from error
    finally:
        staged.unlink(missing_ok=True)
    return target


def _fetch(store: Store, key: str, spans: Sequence[tuple[int, int]], descriptor: int) -> None:
    """Copy spans of an object to the same offsets of a file."""
    if sum(size for _, size in spans) <= PIECE_BYTES:
        starts, sizes = [start for start, _ in spans], [size for _, size in spans]
        for start, data in zip(starts, store.get_ranges(key, starts, sizes), strict=True):
            write_at(descriptor, data, start)
        return
    pieces = [
        (start + done, min(PIECE_BYTES, size - done)) for start, size in spans for done in range(0, size, PIECE_BYTES)
    ]

    def copy(start: int, size: int) -> None:
        write_at(descriptor, store.get_range(key, start, size), start)

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
