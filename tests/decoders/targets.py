"""What is decoded out of storage: each target takes a seed, makes hostile bytes of honest ones, and decodes them.

A target ends with an error of the tree or with a value; anything else is a defect. What native code decodes is among
them: a crash ends the process, which whoever runs targets has to notice.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import datafusion
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from apiary_df.errors import ApiaryError, ObjectDamaged
from apiary_df.model import ExchangeInput, PartialRef, ScanFile, ScanInput, Segment, TaskSpec
from apiary_df.permits import check_permitted
from apiary_df.plan import codec
from apiary_df.plan.scans import fill_fragment, segment_file
from apiary_df.plan.tree import PlanNode
from apiary_df.protocol import keys
from apiary_df.protocol.arrow import read_schema
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
    WriteJournal,
    WriteNote,
    WriteVerdict,
    encode,
)
from apiary_df.protocol.partial import checksum, read_partial
from apiary_df.protocol.partial_writer import FinishedPartial, PartialWriter
from apiary_df.protocol.seal import open_sealed, seal, sealed_bytes
from apiary_df.protocol.storage import read_bytes, read_message, with_partial, write_bytes
from apiary_df.publish import for_attempt
from apiary_df.roots import roots_of
from apiary_df.store import Store, open_store
from apiary_df.worker.engine import Engine

from .mutate import mutated, mutated_json

SCHEMA = pa.schema(
    [
        pa.field("k", pa.int64()),
        pa.field("s", pa.string()),
        pa.field("v", pa.string_view()),
        pa.field("d", pa.dictionary(pa.int32(), pa.string())),
        pa.field("l", pa.list_(pa.struct([("x", pa.decimal128(10, 2))]))),
        pa.field("t", pa.timestamp("us", tz="UTC")),
    ]
)
Target = Callable[[Random], None]


@functools.cache
def store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}", environ={})


def batch() -> pa.RecordBatch:
    rows = [
        {"k": i, "s": f"s{i}", "v": "v" * i, "d": "a" if i % 2 else "b", "l": [{"x": None}], "t": i} for i in range(40)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


@functools.cache
def partials() -> tuple[tuple[bytes, FinishedPartial], ...]:
    made = []
    for compression in (None, "lz4", "zstd"):
        with (
            tempfile.TemporaryDirectory() as folder,
            PartialWriter(SCHEMA, 2, Path(folder), 10**6, compression) as writer,
        ):
            for partition in (0, 1):
                writer.write(partition, batch())
            done = writer.finish()
            assert isinstance(done.data, pa.Buffer)
            made.append((done.data.to_pybytes(), done))
    return tuple(made)


@functools.cache
def messages() -> tuple[tuple[str, msgspec.Struct], ...]:
    ref = partials()[0][1].ref(keys.partial("q", 0, 0, 0))
    scan = ScanInput(leaf=0, files=(ScanFile(path="data/t.parquet", size_bytes=100, partition_values=(b"x",)),))
    exchange = ExchangeInput(leaf=1, segments=(ref.segment_ref(ref.segments[0]),))
    spec = TaskSpec(stage=0, task=0, node_id="n", output_partitions=2, scans=(scan,), exchanges=(exchange,))
    entry = StageEntry(stage=0, inputs=(), output="hash", partitions=2, schema=SCHEMA.serialize().to_pybytes())
    metrics = TaskMetrics(rows_out=1, bytes_out=1, bytes_in=1, queued_s=0.1, seconds=0.1, requests={"get": 1})
    beat = Heartbeat(
        node_id="n",
        seq=1,
        protocol_version=2,
        datafusion_version="55.0.0",
        apiary_version="1",
        hostname="h",
        pid=1,
        cores=1,
        memory_bytes=1,
        memory_per_bee=1,
        target_cell_size=1,
        bees_total=1,
        bees_busy=0,
        cached_cells={"k": 1},
        inbox_next=0,
        leaving=False,
        allow_udfs=False,
        queries=("q",),
        started_at="",
        refused={"unsigned": 1},
    )
    manifest = Manifest(
        query_id="q",
        coordinator="c",
        sql="SELECT 1",
        protocol_version=2,
        datafusion_version="55.0.0",
        settings={"datafusion.execution.batch_size": "100"},
        created_at="",
        timeout_s=1.0,
        stages=(entry,),
    )
    record = CommitRecord(
        token="t", query_id="q", stage=0, task=0, attempt=0, node_id="n", partial=ref, metrics=metrics
    )
    error = ObjectDamaged("it is damaged", key="k").to_info()
    report = ErrorReport(query_id="q", stage=0, task=0, attempt=0, node_id="n", error=error, seconds=0.1)
    staging = "_apiary_q"
    return (
        (keys.heartbeat("n"), beat),
        (keys.inbox("n", 7), Mail(token="t", query_id="q", sender="s", tasks=(TaskMail(spec=spec, attempt=0),))),
        (keys.manifest("q"), manifest),
        (keys.lease("q"), Lease(query_id="q", coordinator="c", seq=1)),
        (keys.commit("q", 0, 0, 0), record),
        (keys.error("q", 0, 0, 0), report),
        (keys.write("q"), WriteNote(query_id="q", coordinator="c", base="s3://bucket/out")),
        (
            f"{staging}/journal",
            WriteJournal(query_id="q", coordinator="c", seq=1, dead_after_s=1.0, published=("a/q_0_0_0.parquet",)),
        ),
        (f"{staging}/verdict", WriteVerdict(token="t", query_id="q", stands=True, by="c")),
    )


@functools.cache
def plans() -> tuple[bytes, ...]:
    folder = Path(tempfile.mkdtemp())
    pq.write_table(pa.Table.from_batches([batch().select(["k", "s"])]), folder / "t.parquet")
    ctx = datafusion.SessionContext()
    ctx.register_parquet("t", str(folder / "t.parquet"))
    queries = (
        "SELECT s, sum(k) AS n FROM t WHERE k > 3 GROUP BY s ORDER BY n LIMIT 5",
        "SELECT a.k, b.s FROM t a JOIN t b ON a.k = b.k UNION ALL SELECT 1, 'x'",
        "SELECT k, row_number() OVER (PARTITION BY s ORDER BY k) FROM t",
        f"COPY (SELECT * FROM t) TO '{folder}/out/' STORED AS PARQUET",
    )
    return tuple(ctx.sql(query).execution_plan().to_bytes(ctx) for query in queries)


# -- targets -------------------------------------------------------------------------------------------------------


def message_in_storage(random: Random) -> None:
    """Whoever has no key to forge can still write any JSON with a right checksum, if there is no key at all."""
    key, message = random.choice(messages())
    if random.random() < 0.2:
        store().put(key, mutated(seal(encode(message), key, None), random))
    else:
        write_bytes(store(), key, mutated_json(encode(message), random))
    read = read_message(store(), key, type(message))
    if isinstance(read, ErrorReport):
        error = ApiaryError.from_info(read.error)
        str(error)
        error.to_info()
    elif isinstance(read, Manifest):
        for entry in read.stages:
            read_schema(entry.schema, key)


def schema(random: Random) -> None:
    """The schema of a stage's partials, in its manifest."""
    read_schema(mutated(SCHEMA.serialize().to_pybytes(), random), "k")


def fragment(random: Random) -> None:
    """A fragment, as a node decodes and checks it before anything native sees it."""
    key = keys.plan("q", 0)
    write_bytes(store(), key, mutated(random.choice(plans()), random))
    tree = codec.decode(read_bytes(store(), key))
    filled_of(tree)


def filled_of(tree: PlanNode) -> PlanNode:
    scans = (ScanInput(leaf=0, files=(ScanFile(path="data/t.parquet", size_bytes=100),)),)
    task = TaskSpec(stage=0, task=0, node_id="n", output_partitions=1, scans=scans)
    with contextlib.suppress(ApiaryError):
        check_permitted(tree, task, roots_of(["/data"]))
    staged = for_attempt(tree, 0, 0, 0)
    filled = fill_fragment(staged, scans, (), (), locate_segment=lambda ref: segment_file(ref, "/x"))
    codec.encode(filled)
    return filled


def native_plan(random: Random) -> None:
    """The same, decoded by DataFusion: in bees' processes."""
    engine().decode(codec.decode(mutated(random.choice(plans()), random)))


@functools.cache
def engine() -> Engine:
    return Engine({}, 1 << 24, Path(tempfile.mkdtemp()))


def partial(random: Random) -> None:
    """A partial with right checksums, which whoever can write commit records in a swarm without key can make."""
    data, done = random.choice(partials())
    ref = done.ref("k")
    if random.random() < 0.2:
        read_partial(mutated(data, random), ref, 0)
        return
    read_partial(*forged(data, ref, random), 0)


def forged(data: bytes, ref: PartialRef, random: Random) -> tuple[bytes, PartialRef]:
    """Return a partial whose bytes are others, of the same length, and a record that fits them."""
    hostile = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        place = random.randrange(len(hostile))
        hostile[place] = random.choice((0, 1, 127, 128, 255, hostile[place] ^ 1))
    view = bytes(hostile)

    def again(segment: Segment) -> Segment:
        return replace(segment, checksum=checksum(view[segment.offset : segment.offset + segment.length]))

    return view, replace(
        ref,
        segments=tuple(map(again, ref.segments)),
        head_checksum=checksum(view[: ref.head_length]),
        footer_checksum=checksum(view[ref.footer_offset :]),
    )


def attached(random: Random) -> None:
    """A commit record with its partial behind it: damaged as a whole, or forged so that its checksums are right."""
    key = keys.commit("q", 0, 0, 0)
    data, done = random.choice(partials())
    ref = done.ref(keys.partial("q", 0, 0, 0))
    honest = next(message for _, message in messages() if isinstance(message, CommitRecord))
    way = random.randrange(3)
    if way == 2:
        data, ref = forged(data, ref, random)
    whole = with_partial(msgspec.structs.replace(honest, partial=ref), key, data, None)
    if way == 0:
        whole = mutated(whole, random)
    elif way == 1:
        content = open_sealed(whole[: sealed_bytes(whole, len(whole))], key, None)
        whole = seal(mutated_json(content, random), key, None, followed=True) + data
    store().put(key, whole)
    record = read_message(store(), key, CommitRecord)
    assert record is not None
    for partition in {segment.partition for segment in record.partial.segments}:
        read_partial(store(), record.partial, partition)


TARGETS: dict[str, Target] = {
    target.__name__: target for target in (message_in_storage, schema, fragment, native_plan, partial, attached)
}


def run_one(name: str, seed: int) -> str:
    """Run a target with a seed; returns the code of the error that it ended with, or ``taken``.

    Raises:
        Exception: Anything that is no error of the tree: a defect.
    """
    try:
        TARGETS[name](Random(f"{name}:{seed}"))
    except ApiaryError as error:
        return error.code
    return "taken"
