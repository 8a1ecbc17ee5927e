"""DataFusion reads exactly a segment's rows when its scan carries the segment's byte range.

Exchanges rest on this and nothing documents it, so an upgrade that changes it must be noticed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datafusion import SessionConfig, SessionContext
from datafusion.plan import ExecutionPlan

from apiary_df.model import PartialRef, ScanFile, SegmentRef
from apiary_df.plan import codec
from apiary_df.protocol.partial import materialize
from apiary_df.protocol.partial_writer import PartialWriter
from apiary_df.store import Store, open_store

DICTIONARY = pa.dictionary(pa.uint16(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("number", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("view", pa.string_view()),
        pa.field("day", DICTIONARY),
        pa.field("list", pa.list_(pa.string())),
        pa.field("nested", pa.struct([pa.field("d", DICTIONARY)])),
    ]
)
ROWS = 500
BATCHES_OF = {0: 3, 1: 1, 2: 0, 3: 20, 4: 0}
"""Batches of each partition: several, one, none in the middle, more than one message's worth, none at the end."""


def make_batch(partition: int, number: int) -> pa.RecordBatch:
    first = (partition * 100 + number) * ROWS
    days = pa.array([f"day {(first + i) % (3 + partition)} of {partition}" for i in range(ROWS)]).dictionary_encode()
    days = days.cast(DICTIONARY)
    columns = [
        pa.array(range(first, first + ROWS)),
        pa.array([f"text {i}" if i % 7 else None for i in range(ROWS)]),
        pa.array([f"a view of something long: {first + i}" for i in range(ROWS)], pa.string_view()),
        days,
        pa.array([["x"] * (i % 3) for i in range(ROWS)]),
        pa.StructArray.from_arrays([days], fields=[pa.field("d", DICTIONARY)]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


@pytest.fixture(params=[None, "lz4", "zstd"], ids=["plain", "lz4", "zstd"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, PartialRef]:
    """A store that is no folder, with a partial in it."""
    store = open_store(f"memory://{tmp_path.name}-{request.param}", environ={})
    with PartialWriter(SCHEMA, len(BATCHES_OF), tmp_path / "scratch", 10**9, request.param) as writer:
        for partition, count in BATCHES_OF.items():
            for number in range(count):
                writer.write(partition, make_batch(partition, number))
        finished = writer.finish()
        store.put("p.arrow", finished.data)
    return store, finished.ref("p.arrow")


def scan(path: Path, length: int, groups: Sequence[Sequence[SegmentRef]]) -> list[list[dict[str, Any]]]:
    """Return the rows that each file group of a ranged Arrow scan gives."""
    config = SessionConfig().set("datafusion.execution.enable_file_stream_work_stealing", "false")
    ctx = SessionContext(config)
    node = codec.decode(ctx.read_arrow(str(path)).execution_plan().to_bytes(ctx))
    files = [
        [
            ScanFile(
                path=str(path).lstrip("/"),
                size_bytes=length,
                range_start=ref.segment.offset,
                range_end=ref.segment.offset + ref.segment.length,
            )
            for ref in group
        ]
        for group in groups
    ]
    plan = ExecutionPlan.from_bytes(ctx, codec.encode(codec.with_scan_groups(node, files)))
    return [
        [row for batch in ctx.execute(plan, group) for row in batch.to_pyarrow().to_pylist()]
        for group in range(len(groups))
    ]


def expected(partition: int) -> list[dict[str, Any]]:
    return [row for n in range(BATCHES_OF[partition]) for row in make_batch(partition, n).to_pylist()]


def test_each_range_of_the_whole_file_gives_its_partition(stored: tuple[Store, PartialRef], tmp_path: Path) -> None:
    store, ref = stored
    path = tmp_path / "whole.arrow"
    path.write_bytes(store.get("p.arrow"))
    got = scan(path, ref.length, [[ref.segment_ref(s)] for s in ref.segments])
    for partition in BATCHES_OF:
        assert got[partition] == expected(partition), partition


@pytest.mark.parametrize("partition", [0, 1, 2, 3, 4])
def test_a_sparse_copy_with_one_segment_is_enough(
    stored: tuple[Store, PartialRef], tmp_path: Path, partition: int
) -> None:
    store, ref = stored
    wanted = ref.segment_ref(ref.segments[partition])
    path = materialize(store, [wanted], tmp_path / "sparse.arrow")
    assert scan(path, ref.length, [[wanted]]) == [expected(partition)]


def test_several_ranges_of_one_file_in_one_group_give_all_of_them_in_order(
    stored: tuple[Store, PartialRef], tmp_path: Path
) -> None:
    store, ref = stored
    wanted = [ref.segment_ref(ref.segments[p]) for p in (3, 0, 2)]
    path = materialize(store, wanted, tmp_path / "sparse.arrow")
    assert scan(path, ref.length, [wanted]) == [expected(3) + expected(0)]
