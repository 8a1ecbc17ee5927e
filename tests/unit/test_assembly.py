"""Segments of many partials in one local file: the rows that were committed, by one request for each partial."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from datafusion import SessionConfig, SessionContext
from datafusion.plan import ExecutionPlan

from apiary_df.errors import PartialLost
from apiary_df.fetching import Reading
from apiary_df.model import PartialRef, ScanFile, SegmentRef
from apiary_df.plan import codec
from apiary_df.protocol import keys
from apiary_df.protocol.assembly import GAP_BYTES, Located, assemble
from apiary_df.protocol.partial import read_partial
from apiary_df.protocol.partial_writer import Compression, PartialWriter
from apiary_df.store import Store, open_store
from apiary_df.testing.faults import Fault, Faults, FaultyStore

SCHEMA = pa.schema([pa.field("partial", pa.int64()), pa.field("partition", pa.int64()), pa.field("text", pa.string())])
READING = Reading()


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}", environ={})


def put(
    store: Store, tmp_path: Path, number: int, rows: Sequence[int], compression: Compression | None = "lz4"
) -> PartialRef:
    """Store a partial with so many rows in each partition."""
    with PartialWriter(SCHEMA, len(rows), tmp_path / "scratch", 1 << 20, compression) as writer:
        for partition, count in enumerate(rows):
            columns = [[number] * count, [partition] * count, [f"{number} {partition} {i}" for i in range(count)]]
            writer.write(partition, pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=SCHEMA))
        finished = writer.finish()
        key = keys.partial("q1", 0, number, 0)
        store.put(key, finished.data)
        return finished.ref(key)


def segments(refs: Sequence[PartialRef], *partitions: int) -> list[SegmentRef]:
    return [r.segment_ref(s) for r in refs for s in r.segments if s.partition in partitions and s.rows]


def rows_of(located: Located, refs: Sequence[SegmentRef]) -> list[tuple[int, int, str]]:
    """Return what DataFusion reads of each segment, one after the other."""
    ctx = SessionContext(SessionConfig().set("datafusion.execution.enable_file_stream_work_stealing", "false"))
    files: list[ScanFile] = [located[ref.key, ref.segment.offset] for ref in refs]
    node = codec.decode(ctx.read_arrow(f"/{files[0].path}").execution_plan().to_bytes(ctx))
    plan = ExecutionPlan.from_bytes(ctx, codec.encode(codec.with_scan_groups(node, [files])))
    return [tuple(row.values()) for batch in ctx.execute(plan, 0) for row in batch.to_pyarrow().to_pylist()]


def committed(refs: Sequence[SegmentRef]) -> list[tuple[int, int, str]]:
    numbers = [(keys.parse_query_key(ref.key), ref.segment) for ref in refs]
    return [
        (made.task, seg.partition, f"{made.task} {seg.partition} {i}")
        for made, seg in numbers
        if made is not None and made.task is not None
        for i in range(seg.rows)
    ]


def spent(store: Store, before: dict[str, int]) -> dict[str, int]:
    after = store.counts.snapshot()
    return {kind: n - before[kind] for kind, n in after.items() if n != before[kind] and "bytes" not in kind}


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_a_range_of_each_partial_is_one_request_and_gives_its_rows(
    store: Store, tmp_path: Path, compression: Compression | None
) -> None:
    refs = [put(store, tmp_path, i, (5, i, 0, 9, 2), compression) for i in range(20)]
    wanted = segments(refs, 1, 2, 3)
    before = store.counts.snapshot()
    located = assemble(store, {0: (SCHEMA, wanted)}, tmp_path, READING)
    assert spent(store, before) == {"get": 20}
    assert rows_of(located, wanted) == committed(wanted)


def test_no_more_bytes_are_read_than_the_segments_have(store: Store, tmp_path: Path) -> None:
    refs = [put(store, tmp_path, i, (500, 10, 500)) for i in range(3)]
    wanted = segments(refs, 1)
    before = store.counts.snapshot()["bytes_in"]
    assemble(store, {0: (SCHEMA, wanted)}, tmp_path, READING)
    assert store.counts.snapshot()["bytes_in"] - before == sum(ref.segment.length for ref in wanted)


def test_segments_far_apart_take_a_request_each(store: Store, tmp_path: Path) -> None:
    ref = put(store, tmp_path, 0, (3, GAP_BYTES // 8, 4), None)
    wanted = segments([ref], 0, 2)
    before = store.counts.snapshot()
    located = assemble(store, {0: (SCHEMA, wanted)}, tmp_path, READING)
    assert spent(store, before) == {"get": 2}
    assert rows_of(located, wanted) == committed(wanted)


def test_segments_near_each_other_share_a_request(store: Store, tmp_path: Path) -> None:
    wanted = segments([put(store, tmp_path, 0, (3, 5, 4))], 0, 2)
    before = store.counts.snapshot()
    located = assemble(store, {0: (SCHEMA, wanted)}, tmp_path, READING)
    assert spent(store, before) == {"get": 1}
    assert rows_of(located, wanted) == committed(wanted)


def test_large_segments_are_fetched_in_pieces(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apiary_df.protocol.assembly.PIECE_BYTES", 100)
    wanted = segments([put(store, tmp_path, 0, (200, 3), None)], 0)
    before = store.counts.snapshot()
    located = assemble(store, {0: (SCHEMA, wanted)}, tmp_path, READING)
    assert spent(store, before) == {"get": -(-wanted[0].segment.length // 100)}
    assert rows_of(located, wanted) == committed(wanted)


def test_stages_have_files_of_their_own(store: Store, tmp_path: Path) -> None:
    first, second = put(store, tmp_path, 0, (3, 1)), put(store, tmp_path, 1, (2, 2))
    by_stage = {0: segments([first], 0, 1), 1: segments([second], 1)}
    located = assemble(store, {stage: (SCHEMA, refs) for stage, refs in by_stage.items()}, tmp_path, READING)
    assert len({file.path for file in located.values()}) == 2
    for refs in by_stage.values():
        assert rows_of(located, refs) == committed(refs)


def test_what_came_with_the_task_is_not_read(store: Store, tmp_path: Path) -> None:
    refs = [put(store, tmp_path, i, (5, i, 0, 9)) for i in range(6)]
    inline = [replace(ref, data=store.get(ref.key)) for ref in refs[:3]]
    store.delete([ref.key for ref in inline])
    wanted = segments([*inline, *refs[3:]], 1, 3)
    before = store.counts.snapshot()
    located = assemble(store, {0: (SCHEMA, wanted)}, tmp_path, READING)
    assert spent(store, before) == {"get": 3}
    assert rows_of(located, wanted) == committed(wanted)


def test_a_whole_partial_in_its_record_is_read_without_a_request(store: Store, tmp_path: Path) -> None:
    ref = put(store, tmp_path, 0, (5, 3))
    inline = replace(ref, data=store.get(ref.key))
    store.delete([ref.key])
    assert [batch.num_rows for batch in read_partial(store, inline, 1)] == [3]


def test_what_came_damaged_with_the_task_is_lost(store: Store, tmp_path: Path) -> None:
    (ref,) = segments([put(store, tmp_path, 0, (5,))], 0)
    with pytest.raises(PartialLost, match="checksum"):
        assemble(store, {0: (SCHEMA, [replace(ref, data=b"\0" * ref.segment.length)])}, tmp_path, READING)


def faulty(store: Store, what: Fault) -> FaultyStore:
    return FaultyStore(store, Faults([what]), "here")


def test_what_was_damaged_on_the_way_is_read_again_by_itself(store: Store, tmp_path: Path) -> None:
    refs = [put(store, tmp_path, i, (5, 5)) for i in range(3)]
    wanted = segments(refs, 1)
    harmed = faulty(store, Fault(what="flipped", request="ranges", nth=2))
    located = assemble(harmed, {0: (SCHEMA, wanted)}, tmp_path, READING)
    assert spent(harmed, dict.fromkeys(harmed.counts.snapshot(), 0)) == {"get": 4}
    assert rows_of(located, wanted) == committed(wanted)


def test_what_is_damaged_is_lost_and_named(store: Store, tmp_path: Path) -> None:
    refs = [put(store, tmp_path, i, (5, 5)) for i in range(3)]
    harmed = faulty(store, Fault(what="flipped", request="ranges", key=refs[1].key, times=None))
    with pytest.raises(PartialLost, match="checksum of its partition 1") as caught:
        assemble(harmed, {0: (SCHEMA, segments(refs, 1))}, tmp_path, READING)
    assert (caught.value.details["stage"], caught.value.details["task"]) == ("0", "1")


def test_what_is_cut_short_is_lost(store: Store, tmp_path: Path) -> None:
    ref = put(store, tmp_path, 0, (5, 5))
    store.put(ref.key, store.get(ref.key)[: ref.segments[1].offset + 8])
    with pytest.raises(PartialLost, match="ends at"):
        assemble(store, {0: (SCHEMA, segments([ref], 1))}, tmp_path, READING)


def test_what_is_gone_is_lost(store: Store, tmp_path: Path) -> None:
    refs = [put(store, tmp_path, i, (5, 5)) for i in range(3)]
    store.delete([refs[2].key])
    with pytest.raises(PartialLost) as caught:
        assemble(store, {0: (SCHEMA, segments(refs, 0))}, tmp_path, READING)
    assert caught.value.details["task"] == "2"


def test_another_checksum_than_the_bytes_have_is_damage_however_whole_they_are(store: Store, tmp_path: Path) -> None:
    (ref,) = segments([put(store, tmp_path, 0, (5,))], 0)
    forged = replace(ref, segment=replace(ref.segment, checksum="0" * 16))
    with pytest.raises(PartialLost):
        assemble(store, {0: (SCHEMA, [forged])}, tmp_path, READING)
