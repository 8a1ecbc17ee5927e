"""What a task reads of other tasks' partials, made readable as local files.

What belongs here: which way each partial is read. How is :mod:`apiary_df.protocol`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from apiary_df.fetching import Reading
from apiary_df.model import ScanFile, SegmentRef
from apiary_df.plan.scans import segment_file
from apiary_df.protocol import keys
from apiary_df.protocol.arrow import has_dictionaries
from apiary_df.protocol.assembly import Located, assemble
from apiary_df.protocol.lost import read_or_lost
from apiary_df.protocol.partial import materialize
from apiary_df.store import Store

FETCH_THREADS = 16
"""Partials that one task fetches at a time where each is fetched by itself."""

Schemas = Mapping[int, pa.Schema]
"""Schemas of partials, by the stage that makes them."""


def stage_of(ref: SegmentRef) -> int | None:
    """Return the stage that made a segment; None if its key does not say."""
    made = keys.parse_query_key(ref.key)
    return None if made is None else made.stage


def locate_inputs(
    refs: Iterable[SegmentRef], schemas: Schemas, store: Store, scratch: Path, reading: Reading
) -> Located:
    """Return where segments lie in the local file system, once they do.

    In a folder they are where they are. What is elsewhere, came with the task, or lies behind a commit record goes into
    one file a stage, if the stage's schema is known and has no dictionaries; else into one for each partial.

    Args:
        refs: The segments, each with rows.
        schemas: Schemas of the stages that made them, as far as they are known.
        store: The swarm's root.
        scratch: Folder for what is fetched.
        reading: How reads are made.

    Raises:
        PartialLost: If a partial is gone, or damaged.
        StorageError: If one cannot be fetched.
    """
    together: dict[int, tuple[pa.Schema, list[SegmentRef]]] = {}
    by_key: dict[str, list[SegmentRef]] = {}
    for ref in refs:
        stage = stage_of(ref)
        lies_here = store.kind == "folder" and ref.data is None and ref.within is None
        schema = None if stage is None or lies_here else schemas.get(stage)
        if stage is None or schema is None or has_dictionaries(schema):
            by_key.setdefault(ref.key, []).append(ref)
        else:
            together.setdefault(stage, (schema, []))[1].append(ref)
    located = dict(_each_by_itself(by_key, store, scratch))
    if together:
        scratch.mkdir(parents=True, exist_ok=True)
        located.update(assemble(store, together, scratch, reading))
    return located


def _each_by_itself(
    by_key: Mapping[str, list[SegmentRef]], store: Store, scratch: Path
) -> Iterator[tuple[tuple[str, int], ScanFile]]:
    def fetch(item: tuple[int, tuple[str, list[SegmentRef]]]) -> tuple[list[SegmentRef], Path]:
        number, (key, wanted) = item
        target = scratch / f"in_{number}.arrow"
        return wanted, read_or_lost(key, lambda: materialize(store, wanted, target))

    if len(by_key) <= 1 or store.kind == "folder":
        fetched = list(map(fetch, enumerate(by_key.items())))
    else:
        with ThreadPoolExecutor(min(len(by_key), FETCH_THREADS), thread_name_prefix="fetch") as pool:
            fetched = list(pool.map(fetch, enumerate(by_key.items())))
    for wanted, path in fetched:
        for ref in wanted:
            yield (ref.key, ref.segment.offset), segment_file(ref, path)
