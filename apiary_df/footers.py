"""Where the row groups of a Parquet object lie, for splitting it at their boundaries.

Only footers are read here, and remembered: the same object is asked about by every query on its table. What
is done with the boundaries is the planner's business.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from apiary_df.errors import ObjectDamaged, ObjectMissing, TableError
from apiary_df.model import NodeInfo
from apiary_df.objects import Location, parse_location
from apiary_df.plan.scans import file_url
from apiary_df.plan.stages import ScanLeaf, Stage
from apiary_df.store import Store, StoreOptions, open_store
from apiary_df.tasks import cell_target_bytes

FOOTER_GUESS_BYTES = 64 * 1024
"""Bytes read from an object's end at first: nearly every footer fits, and a request costs more than 64 KiB
do."""

MAX_CACHED_FOOTERS = 4_096
"""Objects whose row groups are remembered; a few hundred bytes each."""

_TRAILER_BYTES = 8
_MAGIC = b"PAR1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """A row group of a Parquet object.

    Attributes:
        start_offset: Where its first column begins, in bytes. DataFusion's reader gives a row group to the
            byte range in which this offset lies.
        compressed_bytes: Bytes of its columns in storage.
        rows: Its rows.
    """

    start_offset: int
    compressed_bytes: int
    rows: int


class FooterCache:
    """Remembers the row groups of objects, least recently used first to go. Thread-safe.

    Args:
        max_entries: Objects that are remembered, >= 1.
    """

    def __init__(self, max_entries: int = MAX_CACHED_FOOTERS) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[tuple[str, int, int], tuple[RowGroup, ...]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    def row_groups(
        self,
        url: str,
        size_bytes: int,
        options: StoreOptions | None = None,
        *,
        last_modified_ns: int = 0,
        store: Store | None = None,
    ) -> tuple[RowGroup, ...]:
        """Return an object's row groups, from memory if this version of it was asked about before.

        Args:
            url: Path or URL of a Parquet object.
            size_bytes: Its size.
            options: How to reach the store.
            last_modified_ns: When it was written, ns since the epoch; with ``url`` and ``size_bytes`` it
                tells versions apart.
            store: The open store of the object's bucket, if there is one at hand; see :func:`read_row_groups`.

        Raises:
            TableError: If the object is missing or is no readable Parquet file of that size.
            StorageError: If the store cannot be asked.
        """
        key = (url, size_bytes, last_modified_ns)
        with self._lock:
            known = self._entries.get(key)
            if known is not None:
                self._entries.move_to_end(key)
                return known
        read = read_row_groups(url, size_bytes, options, store=store)
        with self._lock:
            self._entries[key] = read
            while len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
        return read


def read_row_groups(
    url: str, size_bytes: int, options: StoreOptions | None = None, *, store: Store | None = None
) -> tuple[RowGroup, ...]:
    """Read an object's footer and return its row groups, in order.

    Args:
        url: Path or URL of a Parquet object.
        size_bytes: Its size.
        options: How to reach the store.
        store: The open store of the object's bucket (opened at its root), if there is one at hand: opening one costs
            10 ms and a connection. Not looked at for files.

    Raises:
        TableError: If the object is missing or is no readable Parquet file of that size.
        StorageError: If the store cannot be asked.
    """
    place = parse_location(url)
    if store is None and place.scheme != "file":
        store = open_store(place.store_url, options)
    try:
        metadata = pq.read_metadata(BytesIO(_footer(place, size_bytes, store)))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(url, size_bytes, str(error)) from error
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    return tuple(_row_group(group) for group in groups if group.num_columns)


def _row_group(group: pq.RowGroupMetaData) -> RowGroup:
    columns = [group.column(index) for index in range(group.num_columns)]
    first = columns[0]
    return RowGroup(
        start_offset=first.dictionary_page_offset or first.data_page_offset,
        compressed_bytes=sum(column.total_compressed_size for column in columns),
        rows=group.num_rows,
    )


def _footer(place: Location, size_bytes: int, store: Store | None) -> bytes:
    """Return the end of an object, from its footer on (or from earlier on)."""
    if size_bytes < _TRAILER_BYTES + len(_MAGIC):
        raise _unreadable(place.url, size_bytes, "that is too short for a footer")
    tail = _read_end(place, size_bytes, min(size_bytes, FOOTER_GUESS_BYTES), store)
    if tail[-len(_MAGIC) :] != _MAGIC:
        raise _unreadable(place.url, size_bytes, f"it does not end in {_MAGIC.decode()} at byte {size_bytes}")
    needed = int.from_bytes(tail[-_TRAILER_BYTES : -len(_MAGIC)], "little") + _TRAILER_BYTES
    if needed > size_bytes:
        raise _unreadable(place.url, size_bytes, f"its footer of {needed} bytes is longer than the object")
    return tail if needed <= len(tail) else _read_end(place, size_bytes, needed, store)


def _read_end(place: Location, size_bytes: int, length: int, store: Store | None) -> bytes:
    start = size_bytes - length
    try:
        if store is not None and place.scheme != "file":
            return store.get_range(place.key, start, length)
        with place.path.open("rb") as file:
            file.seek(start)
            return file.read(length)
    except (OSError, ObjectMissing, ObjectDamaged) as error:
        raise _unreadable(place.url, size_bytes, str(error)) from error


def _unreadable(url: str, size_bytes: int, why: str) -> TableError:
    return TableError(
        f"cannot read {url} ({size_bytes} bytes) as parquet: {why}. The file is damaged or of another format", file=url
    )


_CACHE = FooterCache()


def row_group_offsets(
    url: str, size_bytes: int, options: StoreOptions | None = None, *, last_modified_ns: int = 0
) -> tuple[RowGroup, ...]:
    """Return an object's row groups through a cache that the process shares; see :class:`FooterCache`.

    Raises:
        TableError: If the object is missing or is no readable Parquet file of that size.
        StorageError: If the store cannot be asked.
    """
    return _CACHE.row_groups(url, size_bytes, options, last_modified_ns=last_modified_ns)


def row_group_starts(
    stage: Stage,
    nodes: Sequence[NodeInfo],
    footers: FooterCache,
    options: StoreOptions | None = None,
    *,
    min_cell_bytes: int,
) -> dict[str, tuple[int, ...]]:
    """Read the footers of a stage's Parquet files that are large enough to be split among these nodes.

    Returns:
        File URL to the first byte of each row group.

    Raises:
        TableError: If a file is missing or is no readable Parquet file.
        StorageError: If its store cannot be asked.
    """
    starts: dict[str, tuple[int, ...]] = {}
    split = {index for variant in stage.variants if variant.kind == "cells" for index in variant.split}
    for index in sorted(split):
        leaf = stage.leaves[index]
        if not isinstance(leaf, ScanLeaf) or leaf.format != "parquet_scan":
            continue
        target_bytes = cell_target_bytes(sum(f.size_bytes for f in leaf.files), nodes, min_cell_bytes)
        for file in leaf.files:
            if file.size_bytes > target_bytes:
                url = file_url(leaf.store_url, file.path)
                groups = footers.row_groups(url, file.size_bytes, options, last_modified_ns=file.last_modified_ns)
                starts[url] = tuple(group.start_offset for group in groups)
    return starts
