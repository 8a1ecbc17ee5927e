"""Reading a partial batch by batch, in memory that does not grow with it.

What belongs here: the reader of results, which may be larger than memory. Whoever has an engine reads partials through
that (:func:`apiary_df.protocol.partial.materialize`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc

from apiary_df.errors import ObjectDamaged, StorageTransient
from apiary_df.model import PartialRef
from apiary_df.protocol.lost import read_or_lost
from apiary_df.protocol.partial import materialize, open_partial
from apiary_df.store import Store

HELD_BYTES = 16 * 1024 * 1024
"""A partial of up to this size is held in memory, read in one request; a larger one is read from a file. Both are
decoded batch by batch, since what is compressed may be far larger."""

Scratch = Callable[[], AbstractContextManager[Path]]
"""Gives a folder that is removed afterwards."""


def stream_partial(store: Store, ref: PartialRef, scratch: Scratch) -> Generator[pa.RecordBatch, None, None]:
    """Yield the batches of a partial of one partition, none of them empty.

    All of it is there and verified before the first batch comes: whoever has none of its rows may have it made again.

    Args:
        store: The store that holds the object.
        ref: The commit record's words about it.
        scratch: Where a large one is copied to, if the store is no folder.

    Raises:
        PartialLost: It is not there, or damaged at two readings.
        ObjectDamaged: What was verified does not decode.
        StorageTransient: The store failed, still after the retries, or the disk did.
        StorageError: The store refused.
    """
    wanted = [segment for segment in ref.segments if segment.length]
    if sum(segment.length for segment in wanted) <= HELD_BYTES:
        yield from read_or_lost(ref.key, lambda: open_partial(store, ref, 0))
        return
    with scratch() as folder:
        target = folder / "result.arrow"
        segments = [ref.segment_ref(segment) for segment in wanted]
        path = read_or_lost(ref.key, lambda: materialize(store, segments, target))
        yield from _batches(ref, path)


def _batches(ref: PartialRef, path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a file, which is read, not mapped: what is mapped counts as memory while a batch lives."""
    rows = 0
    try:
        with pa.OSFile(str(path)) as file:
            reader = ipc.open_file(file)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                rows += batch.num_rows
                if batch.num_rows:
                    yield batch
    except pa.ArrowException as error:
        raise ObjectDamaged(f"the partial {ref.key!r} does not decode: {error}", key=ref.key) from error
    except OSError as error:
        raise StorageTransient(f"read {ref.key!r} from {path}: {error}", key=ref.key) from error
    if rows != ref.rows:
        raise ObjectDamaged(f"the partial {ref.key!r} has {rows} rows instead of {ref.rows}", key=ref.key)
