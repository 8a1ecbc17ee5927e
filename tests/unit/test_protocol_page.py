"""The examples of docs/protocol.md are what the code writes. Run this file to write them into the page anew."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from apiary_df.errors import StorageTransient
from apiary_df.model import CellUse, ExchangeInput, ScanFile, ScanInput, TaskSpec
from apiary_df.plan import codec
from apiary_df.protocol import keys
from apiary_df.protocol.kept import Outcome, StageTasks
from apiary_df.protocol.messages import (
    Cancel,
    CommitRecord,
    ErrorReport,
    Heartbeat,
    Lease,
    Mail,
    Manifest,
    StageEntry,
    StoppedTask,
    TaskMail,
    TaskMetrics,
    WriteJournal,
    WriteNote,
    WriteVerdict,
    decode,
    encode,
)
from apiary_df.protocol.partial import read_partial
from apiary_df.protocol.partial_writer import FinishedPartial, PartialWriter
from apiary_df.protocol.seal import sealed_bytes
from apiary_df.protocol.storage import with_partial
from apiary_df.protocol.versions import PROTOCOL_VERSION
from apiary_df.report import AttemptReport
from apiary_df.writes import JOURNAL, VERDICT, staging_folder

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
EXAMPLE = re.compile(r"<!-- example: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)

QUERY, NODE, SESSION, TOKEN = "q019a2b3c4d5-1f2e3d4c", "worker1-0a1b2c3d", "laptop-4d3c2b1a", "9f86d081884c7d65"
SCHEMA = pa.schema([pa.field("k", pa.int64()), pa.field("total", pa.float64())])
STARTED = "2026-01-02T03:04:05+00:00"


def example_partial() -> FinishedPartial:
    with tempfile.TemporaryDirectory() as folder, PartialWriter(SCHEMA, 3, Path(folder), 10**6) as writer:
        for partition, numbers in ((0, [1, 2, 3]), (2, [4])):
            totals = [number / 2 for number in numbers]
            writer.write(partition, pa.record_batch([pa.array(numbers), pa.array(totals)], schema=SCHEMA))
        return writer.finish()


def example_messages() -> dict[str, tuple[str, msgspec.Struct]]:
    partial = example_partial().ref(keys.partial(QUERY, 0, 0, 0))
    scan = ScanFile(path="data/part-0.parquet", size_bytes=1_048_576, last_modified_ns=1_767_323_045_000_000_000)
    spec = TaskSpec(
        stage=0,
        task=0,
        node_id=NODE,
        output_partitions=3,
        scans=(ScanInput(leaf=0, files=(scan,)),),
        input_bytes=1_048_576,
        why="least loaded",
    )
    reading = TaskSpec(
        stage=1,
        task=2,
        node_id=NODE,
        output_partitions=1,
        exchanges=(ExchangeInput(leaf=0, segments=(partial.segment_ref(partial.segments[2]),)),),
        input_bytes=partial.segments[2].length,
        why="partition 2",
    )
    return {
        "heartbeat": (
            keys.heartbeat(NODE),
            Heartbeat(
                node_id=NODE,
                seq=42,
                protocol_version=PROTOCOL_VERSION,
                datafusion_version="55.0.0",
                apiary_version="0.1.0",
                hostname="worker1",
                pid=1234,
                cores=4,
                memory_bytes=8 << 30,
                memory_per_bee=2 << 30,
                target_cell_size=128 << 20,
                bees_total=4,
                bees_busy=1,
                cached_cells={"s3://bucket/data/part-0.parquet": 1_048_576},
                inbox_next=7,
                leaving=False,
                allow_udfs=False,
                queries=(QUERY,),
                started_at=STARTED,
                python_version="3.11",
                incarnation=TOKEN,
            ),
        ),
        "mail": (
            keys.inbox(NODE, 7),
            Mail(
                token=TOKEN,
                query_id=QUERY,
                sender=SESSION,
                tasks=(
                    TaskMail(spec=spec, attempt=0),
                    TaskMail(spec=reading, attempt=1, slots=2),
                ),
                stopped=(StoppedTask(stage=0, task=3, attempt=0),),
                remaining_s=59.5,
            ),
        ),
        "manifest": (
            keys.manifest(QUERY),
            Manifest(
                query_id=QUERY,
                coordinator=SESSION,
                sql="SELECT k, sum(v) AS total FROM t GROUP BY k",
                protocol_version=PROTOCOL_VERSION,
                datafusion_version="55.0.0",
                settings={"datafusion.execution.time_zone": "+00:00"},
                created_at=STARTED,
                timeout_s=60.0,
                stages=(
                    StageEntry(
                        stage=0,
                        inputs=(),
                        output="hash",
                        partitions=3,
                        schema=SCHEMA.serialize().to_pybytes(),
                    ),
                ),
            ),
        ),
        "lease": (keys.lease(QUERY), Lease(query_id=QUERY, coordinator=SESSION, seq=0)),
        "cancel": (keys.cancel(QUERY), Cancel(query_id=QUERY, by=SESSION)),
        "commit": (
            keys.commit(QUERY, 0, 0, 0),
            CommitRecord(
                token=TOKEN,
                query_id=QUERY,
                stage=0,
                task=0,
                attempt=0,
                node_id=NODE,
                partial=partial,
                metrics=TaskMetrics(
                    rows_out=partial.rows,
                    bytes_out=partial.length,
                    bytes_in=1_048_576,
                    queued_s=0.002,
                    seconds=0.25,
                    cells=1,
                    requests={"get": 3, "put": 1},
                    cache=CellUse(hits=1, hit_bytes=1_048_576, requests=1),
                ),
            ),
        ),
        "tasks": (keys.tasks(QUERY, 1, 2), StageTasks(query_id=QUERY, stage=1, tasks=(reading,))),
        "outcome": (
            keys.outcome(QUERY),
            Outcome(
                query_id=QUERY,
                coordinator=SESSION,
                state="done",
                error=None,
                sql="SELECT k, sum(v) AS total FROM t GROUP BY k",
                reason="1.0 MiB in 1 cell is worth distributing",
                started_at=STARTED,
                seconds=0.5,
                rows=4,
                root=2,
                attempts=(
                    AttemptReport(
                        stage=0,
                        task=0,
                        attempt=0,
                        node_id=NODE,
                        outcome="failed",
                        error=StorageTransient("read 'data/part-0.parquet': 503 Slow Down").to_info(),
                        why="least loaded",
                        sent_s=0.01,
                        started_s=0.02,
                        ended_s=0.12,
                        seconds=0.1,
                        cells=1,
                        input_bytes=1_048_576,
                    ),
                ),
            ),
        ),
        "note": (
            keys.write(QUERY),
            WriteNote(query_id=QUERY, coordinator=SESSION, base="s3://bucket/out"),
        ),
        "journal": (
            f"{staging_folder(QUERY)}/{JOURNAL}",
            WriteJournal(
                query_id=QUERY,
                coordinator=SESSION,
                seq=12,
                dead_after_s=30.0,
                published=(f"year=2026/{QUERY}_0_0_0.parquet",),
            ),
        ),
        "verdict": (
            f"{staging_folder(QUERY)}/{VERDICT}",
            WriteVerdict(token=TOKEN, query_id=QUERY, stands=True, by=SESSION),
        ),
        "error": (
            keys.error(QUERY, 0, 0, 0),
            ErrorReport(
                query_id=QUERY,
                stage=0,
                task=0,
                attempt=0,
                node_id=NODE,
                error=StorageTransient(
                    "read 'data/part-0.parquet': 503 Slow Down", key="data/part-0.parquet"
                ).to_info(),
                seconds=0.1,
            ),
        ),
    }


def key_table() -> str:
    rows = [
        (keys.heartbeat(NODE), "heartbeat", "the node, all the time"),
        (keys.inbox(NODE, 7), "mail number 7", "a session, once"),
        (keys.manifest(QUERY), "manifest", "the coordinator, once"),
        (keys.lease(QUERY), "lease", "the coordinator, all the time"),
        (keys.cancel(QUERY), "says that the query is over", "the coordinator, at the end"),
        (keys.plan(QUERY, 0), "fragment of stage 0", "the coordinator, once"),
        (keys.partial(QUERY, 0, 1, 2), "partial of stage 0, task 1, attempt 2, if it is an object", "the attempt"),
        (
            keys.commit(QUERY, 0, 1, 0),
            "commit record of stage 0, task 1, first epoch, with a partial behind it or none",
            "the first attempt that is done, once",
        ),
        (keys.error(QUERY, 0, 1, 2), "error report of an attempt", "the attempt"),
        (
            keys.tasks(QUERY, 1, 2),
            "tasks of stage 1 from number 2 on, of a query that is kept",
            "the coordinator, at the end",
        ),
        (keys.outcome(QUERY), "how a kept query ended", "the coordinator, last"),
        (keys.write(QUERY), "note that the query writes files", "the coordinator, once"),
    ]
    lines = ["| key | what | written by |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| `{key}` | {what} | {writer} |" for key, what, writer in rows)]) + "\n"


def partial_table() -> str:
    done = example_partial()
    spans = [("head", 0, done.head_length, "", done.head_checksum)]
    spans += [(f"segment {s.partition}", s.offset, s.length, str(s.rows), s.checksum) for s in done.segments]
    spans.append(("footer", done.footer_offset, done.length - done.footer_offset, "", done.footer_checksum))
    lines = ["| span | offset | bytes | rows | checksum |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {name} | {start} | {size} | {rows} | `{digest}` |" for name, start, size, rows, digest in spans]
    return "\n".join(lines) + "\n"


def attached_table() -> str:
    """Return what lies where in an object with a commit record and its partial."""
    key, record = example_messages()["commit"]
    done = example_partial()
    data = done.attachable(1 << 20)
    assert isinstance(record, CommitRecord)
    assert data is not None
    whole = with_partial(record, key, data, None)
    first, offset = whole.index(b"\n") + 1, sealed_bytes(whole, len(whole))
    spans = [
        ("first line", 0, first, f"`{whole[: first - 1].decode()}`"),
        ("record", first, offset - first, "the JSON, and spaces"),
        ("partial", offset, len(whole) - offset, "the Arrow file"),
    ]
    lines = [f"`{key}`", "", "| span | offset | bytes | |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {start} | {size} | {what} |" for name, start, size, what in spans)]) + "\n"


def fenced(kind: str, text: str) -> str:
    return f"```{kind}\n{text}\n```\n"


def examples() -> dict[str, str]:
    made = {"keys": key_table(), "partial": partial_table(), "attached": attached_table()}
    made["fragment"] = fenced("text", codec.encode(codec.build("placeholder_row", schema=b"")).hex(" "))
    for name, (key, message) in example_messages().items():
        made[name] = f"`{key}`\n\n" + fenced("json", msgspec.json.format(encode(message), indent=2).decode())
    return made


def with_examples(page: str) -> str:
    made = examples()
    return EXAMPLE.sub(lambda m: f"<!-- example: {m[1]} -->\n{made[m[1]]}<!-- end -->", page)


def test_the_page_shows_what_the_code_writes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = dict(EXAMPLE.findall(page))
    assert shown == examples(), f"write the examples anew: python {Path(__file__).name}"


@pytest.mark.parametrize("name", sorted(example_messages()))
def test_each_example_on_the_page_is_read_back(name: str) -> None:
    key, message = example_messages()[name]
    shown = dict(EXAMPLE.findall(PAGE.read_text(encoding="utf-8")))[name]
    text = re.search(r"```json\n(.*?)```", shown, re.DOTALL)
    assert text is not None
    assert decode(text[1].encode(), type(message), key) == message


def test_the_example_partial_is_one() -> None:
    done = example_partial()
    assert isinstance(done.data, pa.Buffer)
    rows = [[b.num_rows for b in read_partial(done.data, done.ref("k"), partition)] for partition in range(3)]
    assert rows == [[3], [], [1]]


if __name__ == "__main__":
    PAGE.write_text(with_examples(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")
