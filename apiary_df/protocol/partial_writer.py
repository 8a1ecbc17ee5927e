"""Writing partials: the batches of an attempt, in whatever order they come, as one Arrow file grouped by partition.

What belongs here: collecting batches within a budget of memory, and putting the file together. What does not: what the
file looks like and how it is read (``partial``), and what is done to a batch before (``arrow``).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

import pyarrow as pa
from pyarrow import ipc

from apiary_df.errors import ApiaryError, PlanError, StorageTransient
from apiary_df.model import PartialRef, Segment
from apiary_df.protocol.arrow import GROUP_ROWS, DictionaryUnifier, compact, conform, grouped, has_dictionaries, pieces
from apiary_df.protocol.partial import checksum, mapped

Compression: TypeAlias = Literal["lz4", "zstd"]


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

    def attachable(self, limit_bytes: int) -> bytes | None:
        """Return its bytes if it may lie behind its commit record; they are in memory, or are read into it."""
        if self.length > limit_bytes:
            return None
        return self.data.read_bytes() if isinstance(self.data, Path) else bytes(memoryview(self.data))

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
