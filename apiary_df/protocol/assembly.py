"""Segments of many partials, fetched into one local Arrow file for each stage that they are of.

Every segment is read by one request, together with those of the same partial that lie beside it: head and footer are
not fetched but made anew (:mod:`apiary_df.protocol.ipc`), since the schema is known. What came with the task is not
read at all. Dictionaries lie in the head, and each partial has its own; partials with dictionaries are therefore
fetched one by one (``partial.materialize``).

What belongs here: what to fetch, where to put it, and whether it is what was committed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from apiary_df.errors import ObjectDamaged, ObjectMissing, StorageTransient
from apiary_df.fetching import Read, Reading, fetch
from apiary_df.model import ScanFile, SegmentRef
from apiary_df.protocol.ipc import Block, blocks_of, head_of, tail_of
from apiary_df.protocol.lost import lost
from apiary_df.protocol.partial import PIECE_BYTES, mapped, place_of, verify, write_at
from apiary_df.store import Data, Store

GAP_BYTES = 64 * 1024
"""Segments of one partial that are no farther apart are read by one request: so many bytes take 1 ms, a request 30."""

_ALIGNMENT = 8

Located = Mapping[tuple[str, int], ScanFile]
"""Where segments lie in the local file system, by key of the partial and offset within."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Segments of one partial that are read together, and where they go.

    Attributes:
        refs: The segments.
        key: The object in which they lie.
        begin: Where the partial begins in that.
        start: Where they begin in the partial.
        end: Where they end in it.
        place: Where they go.
    """

    refs: tuple[SegmentRef, ...]
    key: str
    begin: int
    start: int
    end: int
    place: int

    def place_of(self, ref: SegmentRef) -> int:
        return self.place + ref.segment.offset - self.start


class _Assembly:
    """One local file: the segments that a task reads of one stage."""

    def __init__(self, number: int, schema: pa.Schema, refs: Iterable[SegmentRef], path: Path) -> None:
        self.number = number
        self.path = path
        self._schema = schema
        self._head = head_of(schema)
        self.runs = list(_runs(refs, len(self._head)))
        self._end = _aligned(self.runs[-1].place + self.runs[-1].end - self.runs[-1].start)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.ftruncate(self._descriptor, self._end)
        write_at(self._descriptor, self._head, 0)
        for run in self.runs:
            for ref in run.refs:
                if ref.data is not None:
                    write_at(self._descriptor, ref.data, run.place_of(ref))

    def reads(self, keys: frozenset[str] | None) -> Iterator[Read]:
        """Yield what must be fetched, of some objects or of all."""
        for run in self.runs:
            if run.refs[0].data is not None or (keys is not None and run.key not in keys):
                continue
            for start in range(run.start, run.end, PIECE_BYTES):
                yield Read(
                    key=run.key,
                    start=run.begin + start,
                    length=min(PIECE_BYTES, run.end - start),
                    place=run.place + start - run.start,
                    file=self.number,
                )

    def write(self, data: Data, place: int) -> None:
        write_at(self._descriptor, data, place)

    def finish(self) -> tuple[dict[tuple[str, int], ScanFile], dict[str, ObjectDamaged]]:
        """Write the footer; returns where the segments lie, and objects that do not hold what was committed."""
        view = mapped(self.path)
        blocks: list[Block] = []
        damaged: dict[str, ObjectDamaged] = {}
        for run in self.runs:
            try:
                blocks += self._checked(run, view)
            except ObjectDamaged as error:
                damaged[run.key] = error
        tail = tail_of(self._schema, blocks)
        write_at(self._descriptor, tail, self._end)
        return dict(self._located(self._end + len(tail))), damaged

    def close(self) -> None:
        os.close(self._descriptor)

    def _checked(self, run: _Run, view: memoryview) -> Iterator[Block]:
        for ref in run.refs:
            place = run.place_of(ref)
            data = view[place : place + ref.segment.length]
            verify(ref.key, f"partition {ref.segment.partition}", data, ref.segment.checksum)
            yield from blocks_of(data, place, ref.key)

    def _located(self, size_bytes: int) -> Iterator[tuple[tuple[str, int], ScanFile]]:
        for run in self.runs:
            for ref in run.refs:
                place = run.place_of(ref)
                yield (
                    (ref.key, ref.segment.offset),
                    ScanFile(
                        path=str(self.path).lstrip("/"),
                        size_bytes=size_bytes,
                        range_start=place,
                        range_end=place + ref.segment.length,
                    ),
                )


def assemble(
    store: Store, wanted: Mapping[int, tuple[pa.Schema, Sequence[SegmentRef]]], folder: Path, reading: Reading
) -> Located:
    """Fetch segments into local files, one for each stage, all at a time.

    What is damaged is read once more: what was damaged on the way is whole the second time.

    Args:
        store: The store that holds the partials.
        wanted: By stage: its schema, which has no dictionaries, and segments of its partials, each with rows.
        folder: Where the files go; there is such a folder.
        reading: How reads are made.

    Returns:
        Where each segment lies.

    Raises:
        PartialLost: A partial is not there, or damaged both times.
        StorageTransient: The store failed, still after the retries, or the disk did.
        StorageError: The store refused.
    """
    files: dict[int, _Assembly] = {}
    made = {place_of(ref)[0]: ref.key for _, refs in wanted.values() for ref in refs}
    try:
        for stage, (schema, refs) in wanted.items():
            files[stage] = _Assembly(stage, schema, refs, folder / f"stage_{stage}.arrow")

        def take(read: Read, data: Data) -> None:
            files[read.file].write(data, read.place)

        located, damaged = _tried(store, files, take, None, reading)
        if damaged:
            again, damaged = _tried(store, files, take, frozenset(damaged), reading)
            located.update(again)
        for key, error in damaged.items():
            raise lost(made[key], error)
        return located
    except OSError as error:
        raise StorageTransient(
            f"fetch partials from {store.url} into the scratch folder {folder}: {error}; make room there", folder=folder
        ) from error
    except ObjectMissing as error:
        key = error.details.get("key", "")
        raise lost(made.get(key, key), error) from error
    finally:
        for file in files.values():
            file.close()


def _tried(
    store: Store,
    files: Mapping[int, _Assembly],
    take: Callable[[Read, Data], None],
    keys: frozenset[str] | None,
    reading: Reading,
) -> tuple[dict[tuple[str, int], ScanFile], dict[str, ObjectDamaged]]:
    reads = [read for file in files.values() for read in file.reads(keys)]
    damaged = dict(fetch(store, reads, take, reading))
    located: dict[tuple[str, int], ScanFile] = {}
    for file in files.values():
        places, found = file.finish()
        located.update(places)
        damaged = {**found, **damaged}
    return located, damaged


def _runs(refs: Iterable[SegmentRef], place: int) -> Iterator[_Run]:
    """Put segments one after the other, those of a partial that lie beside each other as they lie there."""
    by_key: dict[str, dict[int, SegmentRef]] = {}
    for ref in refs:
        by_key.setdefault(ref.key, {})[ref.segment.offset] = ref
    for of_partial in by_key.values():
        for run in _beside(sorted(of_partial.values(), key=lambda ref: ref.segment.offset)):
            start, end = run[0].segment.offset, run[-1].segment.offset + run[-1].segment.length
            key, begin = place_of(run[0])
            yield _Run(refs=tuple(run), key=key, begin=begin, start=start, end=end, place=place)
            place = _aligned(place + end - start)


def _beside(refs: Sequence[SegmentRef]) -> Iterator[list[SegmentRef]]:
    run: list[SegmentRef] = []
    for ref in refs:
        if run and ref.segment.offset - run[-1].segment.offset - run[-1].segment.length > GAP_BYTES:
            yield run
            run = []
        run.append(ref)
    yield run


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT
