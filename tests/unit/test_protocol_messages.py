"""Every message survives encoding, and nothing that is not one is taken for one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiary_df.errors import ErrorInfo, ObjectDamaged
from apiary_df.model import (
    BranchChoice,
    CellUse,
    ExchangeInput,
    PartialRef,
    ScanFile,
    ScanInput,
    Segment,
    SegmentRef,
    TaskKey,
    TaskSpec,
)
from apiary_df.protocol import messages
from apiary_df.protocol.messages import (
    CommitRecord,
    ErrorReport,
    Heartbeat,
    Lease,
    Mail,
    Manifest,
    StageEntry,
    TaskMail,
    TaskMetrics,
    Versions,
    decode,
    encode,
)

T = TypeVar("T")

IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,63}", fullmatch=True)
TEXT = st.text(max_size=20)
LABELS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20)
COUNTS = st.integers(0, 2**63 - 1)
BEES = st.integers(0, messages.MAX_BEES)
SECONDS = st.floats(0, 1e9)


def few(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(strategy, max_size=3).map(tuple)


SEGMENTS = st.builds(Segment, partition=COUNTS, offset=COUNTS, length=COUNTS, rows=COUNTS, checksum=TEXT)
PARTIALS = st.builds(
    PartialRef,
    key=TEXT,
    length=COUNTS,
    footer_offset=COUNTS,
    footer_checksum=TEXT,
    segments=few(SEGMENTS),
    head_length=COUNTS,
    head_checksum=TEXT,
)
SEGMENT_REFS = st.builds(lambda partial, segment: partial.segment_ref(segment), PARTIALS, SEGMENTS)
SCAN_FILES = st.builds(
    ScanFile,
    path=TEXT,
    size_bytes=COUNTS,
    last_modified_ns=COUNTS,
    partition_values=few(st.binary(max_size=10)),
    range_start=st.none() | COUNTS,
    range_end=st.none() | COUNTS,
)
SPECS = st.builds(
    TaskSpec,
    stage=COUNTS,
    task=COUNTS,
    node_id=IDS,
    output_partitions=COUNTS,
    scans=few(st.builds(ScanInput, leaf=COUNTS, files=few(SCAN_FILES))),
    exchanges=few(st.builds(ExchangeInput, leaf=COUNTS, segments=few(SEGMENT_REFS))),
    branches=few(st.builds(BranchChoice, union=COUNTS, branch=COUNTS)),
    input_bytes=COUNTS,
    why=TEXT,
)
MESSAGES: dict[type[msgspec.Struct], st.SearchStrategy[Any]] = {
    Versions: st.builds(
        Versions, node_id=IDS, protocol_version=COUNTS, datafusion_version=LABELS, apiary_version=LABELS
    ),
    Heartbeat: st.builds(
        Heartbeat,
        node_id=IDS,
        seq=COUNTS,
        protocol_version=COUNTS,
        datafusion_version=LABELS,
        apiary_version=LABELS,
        hostname=LABELS,
        pid=COUNTS,
        cores=COUNTS,
        memory_bytes=COUNTS,
        memory_per_bee=COUNTS,
        target_cell_size=COUNTS,
        bees_total=BEES,
        bees_busy=BEES,
        cached_cells=st.dictionaries(TEXT, COUNTS, max_size=3),
        inbox_next=COUNTS,
        leaving=st.booleans(),
        allow_udfs=st.booleans(),
        queries=few(IDS),
        started_at=LABELS,
        allow_roots=few(LABELS),
        refused=st.dictionaries(LABELS, COUNTS, max_size=3),
        role=st.sampled_from(["node", "session"]),
    ),
    Manifest: st.builds(
        Manifest,
        query_id=IDS,
        coordinator=IDS,
        sql=st.none() | TEXT,
        protocol_version=COUNTS,
        datafusion_version=TEXT,
        settings=st.dictionaries(TEXT, TEXT, max_size=3),
        created_at=TEXT,
        timeout_s=st.none() | SECONDS,
        stages=few(
            st.builds(
                StageEntry,
                stage=COUNTS,
                inputs=few(COUNTS),
                output=st.sampled_from(["hash", "gather"]),
                partitions=COUNTS,
                schema=st.binary(max_size=50),
            )
        ),
    ),
    Lease: st.builds(Lease, query_id=IDS, coordinator=IDS, seq=COUNTS),
    Mail: st.builds(
        Mail,
        token=st.text(min_size=1, max_size=20),
        query_id=IDS,
        sender=IDS,
        tasks=few(st.builds(TaskMail, spec=SPECS, attempt=COUNTS)),
    ),
    CommitRecord: st.builds(
        CommitRecord,
        token=st.text(min_size=1, max_size=20),
        query_id=IDS,
        stage=COUNTS,
        task=COUNTS,
        attempt=COUNTS,
        node_id=IDS,
        partial=PARTIALS,
        metrics=st.builds(
            TaskMetrics,
            rows_out=COUNTS,
            bytes_out=COUNTS,
            bytes_in=COUNTS,
            queued_s=SECONDS,
            seconds=SECONDS,
            spill_count=COUNTS,
            spilled_bytes=COUNTS,
            cells=COUNTS,
            requests=st.dictionaries(TEXT, COUNTS, max_size=3),
            cache=st.builds(CellUse, hits=COUNTS, misses=COUNTS, fetched_bytes=COUNTS),
        ),
    ),
    ErrorReport: st.builds(
        ErrorReport,
        query_id=IDS,
        stage=COUNTS,
        task=COUNTS,
        attempt=COUNTS,
        node_id=IDS,
        error=st.builds(
            ErrorInfo,
            code=TEXT,
            message=TEXT,
            details=st.dictionaries(TEXT, TEXT, max_size=3),
            retryable=st.booleans(),
        ),
        seconds=SECONDS,
    ),
}
ONE_OF_EACH = st.one_of(list(MESSAGES.values()))


@settings(deadline=None, max_examples=150)
@given(ONE_OF_EACH)
def test_every_message_round_trips(message: msgspec.Struct) -> None:
    assert decode(encode(message), type(message), "k") == message


@settings(deadline=None, max_examples=50)
@given(ONE_OF_EACH)
def test_fields_of_a_newer_peer_are_ignored(message: msgspec.Struct) -> None:
    newer = {**json.loads(encode(message)), "not_known_yet": {"deep": [1]}}
    assert decode(json.dumps(newer).encode(), type(message), "k") == message


@settings(deadline=None, max_examples=50)
@given(ONE_OF_EACH, st.data())
def test_a_cut_off_message_is_damaged(message: msgspec.Struct, data: st.DataObject) -> None:
    whole = encode(message)
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(ObjectDamaged, match="'some/key'"):
        decode(part, type(message), "some/key")


@given(st.binary(max_size=50))
def test_bytes_that_are_no_message_are_damage_and_nothing_else(data: bytes) -> None:
    for type_ in MESSAGES:
        with pytest.raises(ObjectDamaged):
            decode(data, type_, "k")


LEASE = {"query_id": "q", "coordinator": "c", "seq": 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query_id": "../q"}, "query_id"),
        ({"query_id": "Q"}, "query_id"),
        ({"query_id": "q\n"}, "query_id"),
        ({"coordinator": None}, "coordinator"),
        ({"seq": -1}, "seq"),
        ({"seq": "1"}, "seq"),
        ({"seq": 1.5}, "seq"),
    ],
)
def test_a_wrong_value_is_damage_that_names_the_field(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ObjectDamaged, match=words):
        decode(json.dumps({**LEASE, **change}).encode(), Lease, "k")


def test_a_missing_field_is_damage_that_names_it() -> None:
    with pytest.raises(ObjectDamaged, match="seq"):
        decode(json.dumps({"query_id": "q", "coordinator": "c"}).encode(), Lease, "k")


def test_a_commit_record_knows_its_attempt() -> None:
    metrics = TaskMetrics(rows_out=0, bytes_out=0, bytes_in=0, queued_s=0, seconds=0)
    partial = PartialRef(key="p", length=0, footer_offset=0, footer_checksum="", segments=())
    record = CommitRecord(
        token="t", query_id="q", stage=1, task=2, attempt=3, node_id="n", partial=partial, metrics=metrics
    )
    assert record.key == TaskKey(query_id="q", stage=1, task=2, attempt=3)


def test_a_segment_ref_carries_all_that_its_partial_says() -> None:
    segment = Segment(partition=0, offset=8, length=4, rows=1, checksum="c")
    partial = PartialRef(
        key="p",
        length=20,
        footer_offset=12,
        footer_checksum="f",
        segments=(segment,),
        head_length=8,
        head_checksum="h",
    )
    assert partial.segment_ref(segment) == SegmentRef(
        key="p",
        object_length=20,
        footer_offset=12,
        footer_checksum="f",
        segment=segment,
        head_length=8,
        head_checksum="h",
    )


def test_a_manifest_carries_schemas_whole() -> None:
    schema = pa.schema([pa.field("x", pa.decimal128(10, 2), metadata={"k": "v"})])
    entry = StageEntry(stage=0, inputs=(), output="hash", partitions=2, schema=schema.serialize().to_pybytes())
    back = decode(encode(entry), StageEntry, "k")
    assert pa.ipc.read_schema(pa.py_buffer(back.schema)).equals(schema, check_metadata=True)


RACE = """
import sys, threading, msgspec
from apiary_df.errors import ApiaryError
from apiary_df.protocol import messages
sys.setswitchinterval(1e-6)
types = [t for t in vars(messages).values() if isinstance(t, type) and issubclass(t, msgspec.Struct)]
assert len(types) > 10
start = threading.Barrier(8)

def decode_all():
    for type_ in types:
        fields = {name: "x" for name in reversed(type_.__struct_fields__)}
        start.wait()
        for _ in range(50):
            try:
                messages.decode(msgspec.json.encode(fields), type_, "key")
            except ApiaryError:
                pass

threads = [threading.Thread(target=decode_all) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_that_decode_a_first_message_at_once_do_not_crash() -> None:
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
