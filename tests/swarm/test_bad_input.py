"""Bad input, from the SQL down to bytes in storage: each ends in a message that says what is wrong, or in nothing."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from apiary_df import SessionContext
from apiary_df.cli.app import app
from apiary_df.errors import (
    ConfigError,
    ObjectDamaged,
    ObjectMissing,
    PartialLost,
    SqlError,
    StorageUnreachable,
    TableError,
    TaskFailed,
)
from apiary_df.model import ExchangeInput, PartialRef, Segment, SegmentRef, TaskSpec
from apiary_df.plan import codec
from apiary_df.plan.tree import PlanNode
from apiary_df.protocol import keys
from apiary_df.protocol.messages import ErrorReport, Lease, Mail, TaskMail, encode
from apiary_df.protocol.partial_writer import PartialWriter
from apiary_df.protocol.storage import read_message, write_bytes, write_message
from apiary_df.store import Store, open_store
from apiary_df.store_options import StoreOptions
from apiary_df.tables import CellTable, register
from apiary_df.worker.bee import Bench, prepare_plan
from apiary_df.worker.engine import Engine
from swarm import planted
from swarm.helpers import CALM

FILES, ROWS_PER_FILE = 4, 500
BY_GROUP = "SELECT g, count(x) AS n, sum(x) AS s FROM t GROUP BY g ORDER BY g"
SECONDS = 60.0
"""What "within seconds" means on a busy machine: the store's own patience would be minutes."""

FORCED: dict[str, Any] = {
    **CALM,
    "small_bytes": 0,
    "finish_here_bytes": 0,
    "min_task_bytes": 0,
    "progress": False,
    "heartbeat_s": 0.1,
    "timeout_s": 60.0,
}
"""Settings under which the smallest query is distributed, and a node's signs are frequent."""


def write_table(folder: Path) -> Path:
    folder.mkdir()
    for number in range(FILES):
        values = range(number * ROWS_PER_FILE, (number + 1) * ROWS_PER_FILE)
        rows = pa.table({"x": pa.array(values, pa.int64()), "g": [value % 5 for value in values]})
        pq.write_table(rows, folder / f"{number}.parquet", row_group_size=100)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_table(tmp_path / "t")


@pytest.fixture
def swarm() -> Iterator[SessionContext]:
    """A session whose two nodes are threads of this process, with the root in its memory."""
    with SessionContext(storage=f"memory://{uuid.uuid4().hex}", nodes=2, **FORCED) as ctx:
        yield ctx


@pytest.fixture
def distributed(swarm: SessionContext, folder: Path) -> SessionContext:
    """That session with a table of four files."""
    swarm.register_parquet("t", str(folder))
    return swarm


def root_of(ctx: SessionContext) -> Store:
    assert ctx.storage is not None
    return open_store(ctx.storage)


def still_answers(ctx: SessionContext) -> None:
    """Check that both nodes are there, and that a query on them is right."""
    assert ctx.sql("SELECT count(*) AS n, sum(x) AS s FROM t").to_pylist() == [
        {"n": FILES * ROWS_PER_FILE, "s": sum(range(FILES * ROWS_PER_FILE))}
    ]
    assert ctx.last_query is not None
    assert ctx.last_query.distributed
    assert {report.node_id for report in ctx.last_query.task_reports} <= {view.info.node_id for view in ctx.nodes()}
    assert sum(view.usable for view in ctx.nodes()) == 2


def eventually(seen: Callable[[], Any], what: str) -> Any:
    """Return what ``seen`` gives as soon as that is something."""
    deadline_s = time.monotonic() + SECONDS
    while time.monotonic() < deadline_s:
        found = seen()
        if found:
            return found
        threading.Event().wait(0.02)
    pytest.fail(f"not within {SECONDS:g} s: {what}")


def cli(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, " ".join(result.output.split())


class TestSql:
    """One session for all: nothing is started for a statement that is wrong."""

    @pytest.fixture(scope="class")
    def ctx(self) -> SessionContext:
        ctx = SessionContext()
        ctx.from_pydict({"a": [1], "b": ["x"]}, name="known")
        return ctx

    @pytest.mark.parametrize(
        ("sql", "words"),
        [
            ("SELEC a FROM known", "found: SELEC at Line: 1"),
            ("SELECT a FROM nowhere", "nowhere' not found"),
            ("SELECT nothing FROM known", "No field named nothing"),
            ("SELECT no_such_function(a) FROM known", "no_such_function"),
            ("SELECT a FROM known; SELECT b FROM known", "single SQL statement"),
            ("", ""),
        ],
        ids=["syntax", "table", "column", "function", "two", "empty"],
    )
    def test_statement_that_is_wrong_names_the_thing_and_the_sql(
        self, ctx: SessionContext, sql: str, words: str
    ) -> None:
        with pytest.raises(SqlError) as caught:
            ctx.sql(sql)
        assert words in caught.value.message
        assert f"in: {sql}" in caught.value.message
        assert isinstance(caught.value, ValueError)

    def test_long_statement_is_quoted_in_part(self, ctx: SessionContext) -> None:
        with pytest.raises(SqlError) as caught:
            ctx.sql("SELECT nothing, " + ", ".join(["a"] * 5_000) + " FROM known")
        assert len(caught.value.message) < 1_000

    def test_name_that_is_wrong_on_a_swarm_is_told_before_anything_starts(self, distributed: SessionContext) -> None:
        with pytest.raises(SqlError, match="No field named y"):
            distributed.sql("SELECT y FROM t")
        assert distributed.last_query is None


class TestTables:
    def test_folder_without_cells(self, swarm: SessionContext, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(TableError, match=r"empty.*no cells"):
            swarm.sql(f"CREATE EXTERNAL TABLE e STORED AS CELLS LOCATION '{tmp_path / 'empty'}'")

    def test_cells_of_differing_schemas_name_column_files_and_types(
        self, swarm: SessionContext, tmp_path: Path
    ) -> None:
        (tmp_path / "mixed").mkdir()
        pq.write_table(pa.table({"x": [1]}), tmp_path / "mixed" / "a.parquet")
        pq.write_table(pa.table({"x": ["one"]}), tmp_path / "mixed" / "b.parquet")
        with pytest.raises(TableError, match=r"column 'x' is int64 in .*a\.parquet and string.* in .*b\.parquet"):
            swarm.sql(f"CREATE EXTERNAL TABLE m STORED AS CELLS LOCATION '{tmp_path / 'mixed'}'")

    @pytest.mark.parametrize("content", [b"", b"junk", b"PAR1" + b"\xff" * 100 + b"PAR1"])
    def test_corrupt_file_of_a_cell_table_is_named_when_it_is_registered(
        self, swarm: SessionContext, folder: Path, content: bytes
    ) -> None:
        (folder / "2.parquet").write_bytes(content)
        with pytest.raises(TableError, match=r"2\.parquet"):
            register(swarm, "t", CellTable.from_prefix(folder))

    @pytest.mark.parametrize("damage", ["pages", "footer"])
    def test_file_damaged_after_registration_is_named_and_not_tried_again(
        self, distributed: SessionContext, folder: Path, damage: str
    ) -> None:
        file = folder / "2.parquet"
        footer = pq.read_metadata(file).serialized_size + 8
        size = file.stat().st_size
        good = file.read_bytes()
        if damage == "pages":
            file.write_bytes(good[:4] + b"\xff" * (size - footer - 4) + good[-footer:])
        else:
            file.write_bytes(bytes(size))
        with pytest.raises((TaskFailed, TableError), match=r"2\.parquet") as caught:
            distributed.sql(BY_GROUP).collect()
        assert "attempts" not in str(caught.value)
        assert not caught.value.retryable
        file.write_bytes(good)
        still_answers(distributed)


class TestStorage:
    def test_unknown_scheme_lists_the_known_ones(self) -> None:
        with pytest.raises(ConfigError, match=r"'ftp'.*file://, memory://, s3://, gs://, az:// and bare paths"):
            SessionContext(storage="ftp://host/swarm")

    @pytest.mark.parametrize("nodes", [None, 1])
    @pytest.mark.parametrize("place", ["below a file", "closed port"])
    def test_root_that_cannot_be_used_is_told_within_seconds(
        self, tmp_path: Path, place: str, nodes: int | None
    ) -> None:
        (tmp_path / "file").touch()
        options = None
        storage = str(tmp_path / "file" / "swarm")
        if place == "closed port":
            storage = "s3://bucket/swarm"
            options = StoreOptions(
                endpoint="http://127.0.0.1:1",
                region="us-east-1",
                access_key_id="a-key-id-0815",
                secret_access_key="a-secret-key-0815",
                allow_http=True,
            )
        started_s = time.monotonic()
        with pytest.raises(StorageUnreachable) as caught:
            SessionContext(storage=storage, nodes=nodes, storage_options=options)
        assert time.monotonic() - started_s < SECONDS
        assert storage in caught.value.message
        assert "Check the URL" in caught.value.message
        assert "0815" not in repr(caught.value.details) + caught.value.message


class TestNumbers:
    @pytest.mark.parametrize("nodes", [0, -1])
    def test_number_of_nodes(self, nodes: int) -> None:
        with pytest.raises(ConfigError, match=f"nodes={nodes}: a session starts at least one node"):
            SessionContext(nodes=nodes)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"timout_s": 3}, "did you mean 'timeout_s'"),
            ({"timeout_s": 0}, "timeout_s in the arguments is 0; allowed is"),
            ({"small_bytes": "-1"}, "small_bytes in the arguments: '-1' is not a size"),
        ],
    )
    def test_setting(self, settings: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            SessionContext(**settings)

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (("--bees", "0"), "--bees 0: a node has 1 to"),
            (("--bees", "2.5"), "Invalid value for '--bees'"),
            (("--memory", "-4G"), "--memory '-4G' is not a size"),
            (("--memory", "1M"), "1048576"),
            (("--memory", "32M", "--bees", "3"), "3 bees need at least"),
        ],
    )
    def test_flags_of_a_node(self, tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
        code, output = cli("node", "--storage", str(tmp_path / "swarm"), *flags)
        assert code == 2
        assert words in output
        assert not (tmp_path / "swarm").exists()


OTHER_VERSIONS = pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"datafusion_version": "54.0.0"}, "it runs DataFusion 54.0.0"),
        ({"protocol_version": 99}, "it speaks protocol 99"),
    ],
    ids=["datafusion", "protocol"],
)


class TestOtherVersions:
    @OTHER_VERSIONS
    def test_node_gets_no_work_and_everybody_can_see_why(
        self, distributed: SessionContext, changes: dict[str, Any], reason: str
    ) -> None:
        store = root_of(distributed)
        write_message(store, keys.heartbeat("stranger"), planted.heartbeat("stranger", **changes))
        view = next(view for view in distributed.nodes() if view.info.node_id == "stranger")
        assert not view.usable
        assert reason in view.reason
        still_answers(distributed)
        assert store.list(keys.inbox_prefix("stranger")) == []

    @OTHER_VERSIONS
    def test_status_says_why(self, tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
        write_message(open_store(str(tmp_path)), keys.heartbeat("stranger"), planted.heartbeat("stranger", **changes))
        code, output = cli("status", "-s", str(tmp_path), "--json")
        assert code == 0
        assert reason in output
        assert '"gets_work":false' in output

    def test_swarm_of_nothing_else_answers_here_and_says_why(self, tmp_path: Path, folder: Path) -> None:
        root = tmp_path / "swarm"
        beat = planted.heartbeat("stranger", datafusion_version="54.0.0")
        write_message(open_store(str(root)), keys.heartbeat("stranger"), beat)
        with SessionContext(storage=str(root), **FORCED) as ctx:
            ctx.register_parquet("t", str(folder))
            assert ctx.sql("SELECT count(*) AS n FROM t").to_pylist() == [{"n": FILES * ROWS_PER_FILE}]
            assert ctx.last_query is not None
            assert not ctx.last_query.distributed
            assert "no node of the swarm" in ctx.last_query.reason
            assert "stranger" in ctx.last_query.reason
            assert "it runs DataFusion 54.0.0" in ctx.last_query.reason


DEEP = b'{"x":' + b"[" * 100_000
"""JSON that ends in the middle of a depth that no recursive decoder follows."""


class TestPlanted:
    """What somebody else writes below the root harms no node and no query."""

    @pytest.mark.parametrize(
        "junk", [b"", b"\xff\xfe", b"[]", b'{"token":', DEEP], ids=["empty", "binary", "list", "torn", "deep"]
    )
    def test_junk_in_an_inbox_is_thrown_away(self, distributed: SessionContext, junk: bytes) -> None:
        store = root_of(distributed)
        for view in distributed.nodes():
            number = view.heartbeat.inbox_next
            store.put(keys.inbox(view.info.node_id, number), junk)
            store.put(f"{keys.inbox_prefix(view.info.node_id)}notes.txt", junk)
        eventually(lambda: not store.list(keys.INBOX), "the inboxes are empty")
        still_answers(distributed)

    @pytest.mark.parametrize("junk", [b"", b"{}", DEEP], ids=["empty", "object", "deep"])
    def test_junk_among_the_heartbeats_is_shown_with_its_reason(self, distributed: SessionContext, junk: bytes) -> None:
        store = root_of(distributed)
        store.put(keys.heartbeat("junk"), junk)
        store.put(f"{keys.NODES}Not An Id.json", junk)
        (view,) = [view for view in distributed.nodes() if not view.usable]
        assert view.info.node_id == "junk"
        assert "cannot be read" in view.reason
        still_answers(distributed)

    def test_heartbeat_under_another_nodes_name_is_shown_with_its_reason(self, distributed: SessionContext) -> None:
        write_message(root_of(distributed), keys.heartbeat("one"), planted.heartbeat("two"))
        (view,) = [view for view in distributed.nodes() if not view.usable]
        assert (view.info.node_id, "is of node 'two'" in view.reason) == ("one", True)

    @pytest.mark.parametrize(
        ("manifest", "code"),
        [
            (b"not json", "object_refused"),
            (DEEP, "object_refused"),
            ({"query_id": "another"}, "object_refused"),
            ({"protocol_version": 99}, "version_mismatch"),
            ({"datafusion_version": "54.0.0"}, "version_mismatch"),
            ({"schema": b"no schema"}, "object_damaged"),
            ({"stage": 5}, "object_damaged"),
            ({}, "plan"),
        ],
        ids=["text", "deep", "other-query", "protocol", "datafusion", "schema", "stage", "fragment"],
    )
    def test_manifest_that_is_not_valid_is_reported_and_the_node_lives(
        self, distributed: SessionContext, manifest: bytes | dict[str, Any], code: str
    ) -> None:
        store = root_of(distributed)
        view = distributed.nodes()[0]
        data = manifest if isinstance(manifest, bytes) else encode(planted.manifest(**manifest))
        write_bytes(store, keys.plan("planted", 0), b"\xff\xff no plan")
        write_bytes(store, keys.manifest("planted"), data)
        write_message(store, keys.lease("planted"), Lease(query_id="planted", coordinator="somebody", seq=0))
        write_message(
            store, keys.inbox(view.info.node_id, view.heartbeat.inbox_next), planted_mail(view.heartbeat.incarnation)
        )
        key = keys.error("planted", 0, 0, 0)
        report = eventually(lambda: read_message(store, key, ErrorReport), "the node reports")
        assert report.error.code == code
        assert report.node_id == view.info.node_id
        still_answers(distributed)


def planted_mail(incarnation: str) -> Mail:
    spec = TaskSpec(stage=0, task=0, node_id="any", output_partitions=1)
    task = TaskMail(spec=spec, attempt=0)
    return Mail(token=uuid.uuid4().hex, query_id="planted", sender="somebody", tasks=(task,), incarnation=incarnation)


class TestDamagedPartial:
    """A bee whose input is not what its commit record says it is does not run."""

    KEY = "_queries/q/partial_0_0_0.arrow"
    SCHEMA = pa.schema([("x", pa.int64())])

    def stored_partial(self, store: Store, scratch: Path) -> PartialRef:
        with PartialWriter(self.SCHEMA, 1, scratch / "out", 1 << 20) as writer:
            writer.write(0, pa.record_batch([pa.array(range(1000), pa.int64())], schema=self.SCHEMA))
            finished = writer.finish()
            store.put(self.KEY, bytes(finished.data))
            return finished.ref(self.KEY)

    @pytest.mark.parametrize("kind", ["memory", "folder"])
    @pytest.mark.parametrize("damage", ["flipped", "short", "gone"])
    def test_bee_refuses_it(self, tmp_path: Path, kind: str, damage: str) -> None:
        store = open_store(f"memory://{uuid.uuid4().hex}" if kind == "memory" else str(tmp_path / "root"))
        partial = self.stored_partial(store, tmp_path)
        data = bytearray(store.get(self.KEY))
        segment = partial.segments[0]
        data[segment.offset + segment.length // 2] ^= 1
        if damage == "gone":
            store.delete([self.KEY])
        else:
            store.put(self.KEY, bytes(data if damage == "flipped" else data[:-9]))
        fragment, engine = any_fragment(), Engine({}, 1 << 26, tmp_path)
        bench = Bench(store=store, scratch=tmp_path, options=None, partial_memory_bytes=1 << 20, compression=None)
        task = TaskSpec(
            stage=1,
            task=0,
            node_id="n",
            output_partitions=1,
            exchanges=(ExchangeInput(leaf=0, segments=(segment_ref(partial, segment),)),),
        )
        with pytest.raises(PartialLost, match="partial_0_0_0") as caught:
            prepare_plan(task, fragment, engine, bench, {})
        assert isinstance(caught.value.__cause__, ObjectMissing if damage == "gone" else ObjectDamaged)


def any_fragment() -> PlanNode:
    ctx = datafusion.SessionContext()
    return codec.decode(ctx.sql("SELECT 1 AS x").execution_plan().to_bytes(ctx))


def segment_ref(partial: PartialRef, segment: Segment) -> SegmentRef:
    return SegmentRef(
        key=partial.key,
        object_length=partial.length,
        footer_offset=partial.footer_offset,
        footer_checksum=partial.footer_checksum,
        segment=segment,
        head_length=partial.head_length,
        head_checksum=partial.head_checksum,
    )


SECRETS = ("a-key-id-0815", "a-secret-key-0815", "a-session-token-0815")


class TestSecrets:
    OPTIONS = StoreOptions(
        region="us-east-1", access_key_id=SECRETS[0], secret_access_key=SECRETS[1], session_token=SECRETS[2]
    )

    def test_they_do_not_show_in_the_options(self) -> None:
        shown = repr(self.OPTIONS) + str(self.OPTIONS)
        assert not [secret for secret in SECRETS if secret in shown]

    @pytest.mark.processes
    def test_they_are_in_no_file_and_on_no_command_line(self, tmp_path: Path, folder: Path) -> None:
        root = tmp_path / "swarm"
        options = self.OPTIONS
        with SessionContext(storage=str(root), nodes=1, storage_options=options, keep=True, **FORCED) as ctx:
            ctx.register_parquet("t", str(folder))
            ctx.sql(BY_GROUP).collect()
            with pytest.raises(TaskFailed) as caught:
                ctx.sql("SELECT x, count(*) FROM t WHERE 1 / (x - x) = 1 GROUP BY x").collect()
            assert ctx.last_query is not None
            assert ctx.last_query.distributed
            pids = [view.heartbeat.pid for view in ctx.nodes()]
            commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids if Path("/proc/self").exists()]
            files = [path.read_bytes() for path in root.rglob("*") if path.is_file()]
            assert [path.name for path in root.rglob("manifest.json")], "keep=True leaves them to be looked at"
            said = (str(caught.value) + repr(caught.value.details) + repr(ctx.storage)).encode()
        for text in [*commands, *files, said]:
            assert not [secret for secret in SECRETS if secret.encode() in text]

    @pytest.mark.s3
    @pytest.mark.processes
    def test_they_are_in_no_object_of_the_bucket(self, s3_url: str, s3_endpoint: StoreOptions, folder: Path) -> None:
        store = open_store(s3_url, s3_endpoint)
        for file in folder.iterdir():
            store.put(f"t/{file.name}", file.read_bytes())
        with SessionContext(
            storage=f"{s3_url}/swarm", nodes=1, storage_options=s3_endpoint, keep=True, **FORCED
        ) as ctx:
            register(ctx, "t", CellTable.from_prefix(f"{s3_url}/t", options=s3_endpoint))
            assert ctx.sql(BY_GROUP).to_arrow_table().num_rows == 5
            assert ctx.last_query is not None
            assert ctx.last_query.distributed
            data = {meta.key: store.get(meta.key) for meta in store.list("swarm")}
        assert any(key.endswith("manifest.json") for key in data)
        hidden = [secret.encode() for secret in s3_endpoint.secrets()]
        assert hidden
        assert [key for key, text in data.items() if any(secret in text for secret in hidden)] == []
