"""Commit records with their partials behind them: whatever is missing or another byte is told, and nothing is taken."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiary_df.errors import ObjectDamaged, ObjectMissing, ObjectRefused, StorageError
from apiary_df.fetching import Reading
from apiary_df.model import PartialRef, Segment, Within
from apiary_df.protocol import keys, storage
from apiary_df.protocol.messages import CommitRecord, TaskMetrics, encode
from apiary_df.protocol.partial import materialize, read_partial
from apiary_df.protocol.partial_writer import FinishedPartial, PartialWriter
from apiary_df.protocol.seal import TOO_LARGE, seal, sealed_bytes
from apiary_df.protocol.storage import (
    ALIGNMENT_BYTES,
    FIRST_BYTES,
    create_message,
    create_record,
    read_message,
    with_partial,
)
from apiary_df.store import Store, open_store
from apiary_df.store_options import StoreOptions
from apiary_df.testing.faults import Fault, Faults, FaultyStore
from apiary_df.worker.inputs import locate_inputs

PLAIN = pa.schema([("k", pa.int64()), ("s", pa.string())])
WITH_DICTIONARY = pa.schema([("k", pa.int64()), ("s", pa.dictionary(pa.int32(), pa.string()))])
KEY = keys.commit("q", 1, 2, 0)
NAME = keys.partial("q", 1, 2, 3)
KEYED = StoreOptions(swarm_key="k" * 40)


def rows_of(partition: int) -> list[dict[str, object]]:
    return [{"k": partition * 100 + i, "s": f"text {i % 3}"} for i in range(20)]


def made(schema: pa.Schema = PLAIN, *, strong: bool = False) -> FinishedPartial:
    with (
        tempfile.TemporaryDirectory() as folder,
        PartialWriter(schema, 3, Path(folder), 10**6, strong=strong) as writer,
    ):
        for partition in (0, 2):
            writer.write(partition, pa.RecordBatch.from_pylist(rows_of(partition), schema=schema))
        return writer.finish()


def record_of(partial: PartialRef, **changes: object) -> CommitRecord:
    metrics = TaskMetrics(rows_out=40, bytes_out=partial.length, bytes_in=1, queued_s=0.0, seconds=0.1)
    fields = {"token": "mine", "query_id": "q", "stage": 1, "task": 2, "attempt": 3, "node_id": "n", **changes}
    return CommitRecord(partial=partial, metrics=metrics, **fields)  # type: ignore[arg-type]


def attached(finished: FinishedPartial) -> bytes:
    found = finished.attachable(1 << 20)
    assert found is not None
    return found


def memory(options: StoreOptions | None = None) -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}", options, environ={})


@pytest.fixture(params=["memory", "folder", "keyed"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "root"), environ={})
    return memory(KEYED if request.param == "keyed" else None)


WHOLE = made()
RECORD = record_of(WHOLE.ref(NAME))
OBJECT = with_partial(RECORD, KEY, attached(WHOLE), None)
OFFSET = sealed_bytes(OBJECT, len(OBJECT))


def read_of(data: bytes) -> CommitRecord:
    there = memory()
    there.put(KEY, data)
    found = read_message(there, KEY, CommitRecord)
    assert found is not None
    return found


@pytest.mark.parametrize("schema", [PLAIN, WITH_DICTIONARY], ids=["plain", "dictionary"])
def test_record_and_partial_are_one_object_and_both_are_read(store: Store, schema: pa.Schema, tmp_path: Path) -> None:
    finished = made(schema, strong=store.options.swarm_key is not None)
    assert create_record(store, record_of(finished.ref(NAME)), attached(finished))
    assert [meta.key for meta in store.list("_queries")] == [KEY]
    assert (store.counts.snapshot()["put"], store.counts.snapshot().get("get", 0)) == (1, 0)
    record = read_message(store, KEY, CommitRecord)
    assert record is not None
    assert store.counts.snapshot()["get"] == 1
    within = record.partial.within
    assert within is not None
    assert (within.key, within.offset % ALIGNMENT_BYTES) == (KEY, 0)
    assert store.get_range(KEY, within.offset, finished.length) == attached(finished)
    assert record.partial == replace(finished.ref(NAME), within=within)
    for partition in (0, 1, 2):
        rows = [row for batch in read_partial(store, record.partial, partition) for row in batch.to_pylist()]
        assert rows == (rows_of(partition) if partition != 1 else [])
    refs = [record.partial.segment_ref(segment) for segment in record.partial.segments if segment.rows]
    located = locate_inputs(refs, {1: schema}, store, tmp_path / "scratch", Reading())
    for ref in refs:
        file = Path("/" + located[NAME, ref.segment.offset].path)
        assert store.local_path(KEY) != file
        found = pa.ipc.open_file(file).read_all().to_pylist()
        assert found[:20] == rows_of(0) or found[20:] == rows_of(2)
    # One by one, as partials with dictionaries are read.
    copied = materialize(store, refs, tmp_path / "copy.arrow")
    assert copied.stat().st_size == finished.length


@pytest.mark.parametrize("followed", [True, False])
def test_a_record_longer_than_the_first_range_takes_a_second_one(store: Store, followed: bool) -> None:
    segment = Segment(partition=0, offset=360, length=0, rows=0, checksum="0" * 16)
    segments = tuple(replace(segment, partition=number) for number in range(1000))
    partial = replace(WHOLE.ref(NAME), segments=segments, head_length=360)
    record = record_of(partial)
    assert len(encode(record)) > FIRST_BYTES
    if followed:
        assert create_record(store, record, attached(WHOLE))
    else:
        assert create_message(store, KEY, record, record.token)
    read = read_message(store, KEY, CommitRecord)
    assert read is not None
    assert read.partial.segments == segments
    counts = store.counts.snapshot()
    assert counts["get"] == 2
    assert counts["bytes_in"] < store.head(KEY).size_bytes + (0 if followed else 1)


def test_of_the_partial_no_more_is_read_than_the_first_range_has(store: Store) -> None:
    data = attached(WHOLE) + bytes(10 * FIRST_BYTES)
    record = record_of(replace(WHOLE.ref(NAME), length=len(data), footer_offset=len(data)))
    assert create_record(store, record, data)
    assert read_message(store, KEY, CommitRecord) is not None
    assert store.counts.snapshot()["bytes_in"] == FIRST_BYTES


@pytest.mark.parametrize("followed", [True, False])
def test_of_a_record_that_is_too_large_no_more_is_read_than_its_start(
    monkeypatch: pytest.MonkeyPatch, followed: bool
) -> None:
    there = memory()
    monkeypatch.setattr(storage, "MAX_MESSAGE_BYTES", 100_000)
    there.put(KEY, seal(b" " * 200_000, KEY, None, followed=followed) + bytes(50_000 * followed))
    with pytest.raises(ObjectRefused, match="record of 200045 bytes" if followed else "record of 200036 bytes"):
        read_message(there, KEY, CommitRecord, first_bytes=1_000)
    assert there.counts.snapshot()["bytes_in"] == 1_000
    assert there.refusals.snapshot() == {TOO_LARGE: 1}


def test_the_second_to_create_it_loses_and_leaves_nothing(store: Store) -> None:
    assert create_record(store, RECORD, attached(WHOLE))
    other = msgspec.structs.replace(RECORD, token="theirs", attempt=4, partial=WHOLE.ref(keys.partial("q", 1, 2, 4)))
    assert not create_record(store, other, attached(WHOLE))
    assert [meta.key for meta in store.list("_queries")] == [KEY]
    read = read_message(store, KEY, CommitRecord)
    assert read is not None
    assert read.attempt == 3


def test_a_create_whose_reply_is_lost_is_found_to_be_ones_own_by_its_start() -> None:
    real = memory()
    faults = Faults([Fault(what="lost_reply", request="create", key=KEY)])
    faulty = FaultyStore(real, faults, "node")
    data = bytes(20 * FIRST_BYTES)
    record = record_of(replace(WHOLE.ref(NAME), length=len(data), footer_offset=len(data)))
    assert create_record(faulty, record, data)
    assert [made.request for made in faults.made] == ["create", "get"]
    assert faulty.counts.snapshot()["bytes_in"] <= FIRST_BYTES


def test_a_token_that_is_not_among_the_first_bytes_is_refused(store: Store) -> None:
    with pytest.raises(StorageError, match="begin with the writer's token"):
        store.create("k", bytes(1 << 20) + b"token", "token")


@settings(max_examples=300, deadline=None)
@given(end=st.integers(0, len(OBJECT) - 1))
def test_an_object_that_is_cut_short_is_refused(end: int) -> None:
    with pytest.raises(ObjectRefused):
        read_of(OBJECT[:end])


@settings(max_examples=20, deadline=None)
@given(more=st.binary(min_size=1, max_size=100))
def test_an_object_that_goes_on_is_refused(more: bytes) -> None:
    with pytest.raises(ObjectRefused, match="bytes instead of"):
        read_of(OBJECT + more)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, OFFSET - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_of_the_record_is_refused(place: int, bit: int) -> None:
    with pytest.raises(ObjectRefused):
        read_of(OBJECT[:place] + bytes([OBJECT[place] ^ (1 << bit)]) + OBJECT[place + 1 :])


@settings(max_examples=300, deadline=None)
@given(place=st.integers(OFFSET, len(OBJECT) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_of_the_partial_is_damage_to_who_reads_there(place: int, bit: int) -> None:
    bad = OBJECT[:place] + bytes([OBJECT[place] ^ (1 << bit)]) + OBJECT[place + 1 :]
    there = memory()
    there.put(KEY, bad)
    partial = read_of(bad).partial
    refs = [partial.segment_ref(segment) for segment in partial.segments]
    with tempfile.TemporaryDirectory() as folder, pytest.raises(ObjectDamaged, match="partial_1_2_3"):
        materialize(there, refs, Path(folder) / "copy")


def test_a_partial_whose_object_is_gone_or_cut_short_since_is_told(tmp_path: Path) -> None:
    there = memory()
    assert create_record(there, RECORD, attached(WHOLE))
    record = read_message(there, KEY, CommitRecord)
    assert record is not None
    refs = [record.partial.segment_ref(segment) for segment in record.partial.segments if segment.rows]
    readers: list[Callable[[], object]] = [
        lambda: read_partial(there, record.partial, 2),
        lambda: materialize(there, refs, tmp_path / "copy"),
    ]
    there.put(KEY, OBJECT[: OFFSET + WHOLE.segments[-1].offset + 1])
    for read in readers:
        with pytest.raises(ObjectDamaged):
            read()
    there.delete([KEY])
    for read in readers:
        with pytest.raises(ObjectMissing):
            read()


@pytest.mark.parametrize(
    "within",
    [
        Within(key=keys.commit("q", 1, 2, 1), offset=OFFSET),
        Within(key=keys.commit("other", 1, 2, 0), offset=OFFSET),
        Within(key=NAME, offset=OFFSET),
        Within(key="../../etc/passwd", offset=0),
        Within(key=KEY, offset=OFFSET + 1),
        Within(key=KEY, offset=0),
        Within(key=KEY, offset=-1),
        Within(key=KEY, offset=2**70),
    ],
    ids=str,
)
def test_a_record_that_places_its_partial_elsewhere_is_refused(within: Within) -> None:
    there = memory()
    record = record_of(replace(WHOLE.ref(NAME), within=within))
    assert create_message(there, KEY, record, record.token)
    with pytest.raises(ObjectRefused):
        read_message(there, KEY, CommitRecord)


def test_a_record_holds_its_partial_or_has_it_behind_it_not_both() -> None:
    data = attached(WHOLE)
    with pytest.raises(ObjectRefused, match="lies within"):
        read_of(with_partial(record_of(replace(WHOLE.ref(NAME), data=data)), KEY, data, None))


def test_a_partial_above_the_limit_is_not_attached() -> None:
    assert WHOLE.attachable(WHOLE.length) == attached(WHOLE)
    assert WHOLE.attachable(WHOLE.length - 1) is None
    assert WHOLE.attachable(0) is None


def test_one_that_was_put_together_on_disk_is_attached_too(tmp_path: Path) -> None:
    with PartialWriter(PLAIN, 3, tmp_path, 0) as writer:
        for partition in (0, 2):
            writer.write(partition, pa.RecordBatch.from_pylist(rows_of(partition), schema=PLAIN))
        finished = writer.finish()
        assert isinstance(finished.data, Path)
        data = attached(finished)
    there = memory()
    assert create_record(there, record_of(finished.ref(NAME)), data)
    record = read_message(there, KEY, CommitRecord)
    assert record is not None
    assert [row for batch in read_partial(there, record.partial, 2) for row in batch.to_pylist()] == rows_of(2)
