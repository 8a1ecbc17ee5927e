"""Arrow files that are put together from pieces are what pyarrow and DataFusion would have written."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pyarrow as pa
import pytest
from datafusion import SessionContext
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc

from apiary_df.errors import ObjectDamaged
from apiary_df.protocol.ipc import Block, blocks_of, head_of, tail_of

SCHEMA = pa.schema(
    [
        pa.field("number", pa.int64(), nullable=False),
        pa.field("text", pa.string_view()),
        pa.field("list", pa.list_(pa.struct([("x", pa.string()), ("y", pa.decimal128(20, 2))]))),
    ],
    metadata={"who": "a test"},
)


def batch(rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [{"number": i, "text": f"text {i}", "list": [{"x": "a", "y": None}] * (i % 3)} for i in range(rows)],
        schema=SCHEMA,
    )


def segment(rows_of: list[int], compression: Literal["lz4", "zstd"] | None) -> bytes:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, SCHEMA, options=ipc.IpcWriteOptions(compression=compression)) as stream:
        for rows in rows_of:
            stream.write_batch(batch(rows))
    data: bytes = sink.getvalue().to_pybytes()
    return data[len(SCHEMA.serialize()) : -8]


def put_together(segments: list[bytes]) -> bytes:
    data, blocks = head_of(SCHEMA), list[Block]()
    for part in segments:
        blocks += blocks_of(memoryview(part), len(data), "a partial")
        data += part
    return data + tail_of(SCHEMA, blocks)


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_readers_find_every_batch(compression: Literal["lz4", "zstd"] | None, tmp_path: Path) -> None:
    data = put_together([segment([1, 7], compression), segment([], compression), segment([100], compression)])
    with ipc.open_file(pa.py_buffer(data)) as reader:
        assert reader.schema.equals(SCHEMA, check_metadata=True)
        assert [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)] == [1, 7, 100]
        reader.read_all().validate(full=True)
    path = tmp_path / "put_together.arrow"
    path.write_bytes(data)
    found = SessionContext().read_arrow(str(path)).to_arrow_table()
    assert sorted(found.column("number").to_pylist()) == sorted([0, *range(7), *range(100)])


def test_a_file_of_no_batches_is_one(tmp_path: Path) -> None:
    with ipc.open_file(pa.py_buffer(put_together([]))) as reader:
        assert reader.num_record_batches == 0


def test_a_footer_has_room_for_many_batches() -> None:
    with ipc.open_file(pa.py_buffer(put_together([segment([1], None)] * 1000))) as reader:
        assert reader.read_all().num_rows == 1000


@given(damage=st.binary(min_size=0, max_size=300))
def test_bytes_that_are_no_messages_are_an_error_or_blocks_within(damage: bytes) -> None:
    try:
        blocks = list(blocks_of(memoryview(damage), 0, "a partial"))
    except ObjectDamaged:
        return
    assert sum(block.metadata_bytes + block.body_bytes for block in blocks) == len(damage)


def test_a_segment_that_is_cut_short_is_damaged() -> None:
    whole = segment([10], None)
    for end in range(1, len(whole), 7):
        with pytest.raises(ObjectDamaged, match="a partial"):
            list(blocks_of(memoryview(whole)[:end], 0, "a partial"))
