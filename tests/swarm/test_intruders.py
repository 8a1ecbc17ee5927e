"""Somebody who may write to the storage root, but has no swarm key: refused, counted, and nothing is executed."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import udf

from apiary_df import LocalSwarm, SessionContext, Settings
from apiary_df.errors import ApiaryError, RootsRefused
from apiary_df.lost_writes import WriteWatch
from apiary_df.model import TaskSpec
from apiary_df.protocol import keys, storage
from apiary_df.protocol.messages import (
    CommitRecord,
    ErrorReport,
    Heartbeat,
    Lease,
    Mail,
    Manifest,
    TaskMail,
    WriteJournal,
    WriteNote,
    WriteVerdict,
    encode,
)
from apiary_df.protocol.seal import (
    FORGED,
    FUNCTIONS,
    MISPLACED,
    OUTSIDE,
    REPLAYED,
    TOO_LARGE,
    UNSEALED,
    UNSIGNED,
    seal,
)
from apiary_df.protocol.storage import read_message, write_bytes, write_message
from apiary_df.query_objects import QueryObjects
from apiary_df.roots import roots_of
from apiary_df.store import Store, open_store
from apiary_df.store_options import StoreOptions
from swarm.helpers import FORCED, check_nothing_left, wait_until
from swarm.planted import manifest

KEY, OTHER = "canary-" + secrets.token_urlsafe(32), secrets.token_urlsafe(32)
OPTIONS = StoreOptions(swarm_key=KEY)
FILES, ROWS = 3, 200
SQL = "SELECT g, sum(x) AS s FROM t GROUP BY g ORDER BY g"

HOWS: dict[str, tuple[Callable[[bytes, str], bytes], str]] = {
    "unsigned": (lambda content, key: seal(content, key, None), UNSIGNED),
    "wrongly-signed": (lambda content, key: seal(content, key, OTHER), FORGED),
    "copied-from-elsewhere": (lambda content, key: seal(content, f"{key}x", KEY), FORGED),
    "truncated": (lambda content, key: seal(content, key, KEY)[:-1], FORGED),
    "bare": (lambda content, _: content, UNSEALED),
    "random": (lambda content, _: secrets.token_bytes(500), UNSEALED),
    "empty": (lambda content, _: b"", UNSEALED),
    "oversized": (lambda content, _: b" " * 300_000, TOO_LARGE),
}
each_how = pytest.mark.parametrize("how", sorted(HOWS))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    for file in range(FILES):
        table = pa.table({"x": range(file * ROWS, (file + 1) * ROWS), "g": [i % 4 for i in range(ROWS)]})
        pq.write_table(table, folder / f"{file}.parquet")
    return folder


@pytest.fixture(scope="module")
def expected(tables: Path) -> list[dict[str, Any]]:
    ctx = datafusion.SessionContext()
    ctx.register_parquet("t", str(tables))
    rows: list[dict[str, Any]] = ctx.sql(SQL).to_pylist()
    return rows


@pytest.fixture(scope="module")
def swarm(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSwarm]:
    settings = Settings(heartbeat_s=0.1, allow_roots=str(tables))
    folder = str(tmp_path_factory.mktemp("root"))
    with LocalSwarm(1, 2, storage=folder, options=OPTIONS, settings=settings, in_process=True, allow_udfs=False) as it:
        yield it


@pytest.fixture
def session(swarm: LocalSwarm, tables: Path) -> Iterator[SessionContext]:
    with SessionContext(storage=swarm.storage, swarm_key=KEY, **FORCED) as ctx:
        ctx.register_parquet("t", str(tables))
        yield ctx


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_MESSAGE_BYTES", "MAX_SIGN_BYTES", "MAX_FRAGMENT_BYTES"):
        monkeypatch.setattr(storage, name, 200_000)


def node_store(swarm: LocalSwarm) -> Store:
    """The store of the swarm's node, which runs in this process."""
    ((node, _),) = swarm._threads.values()
    return node.store


def plant(swarm: LocalSwarm, key: str, content: bytes, how: str) -> str:
    """Write what an intruder would; returns the reason for which it is to be refused."""
    made, reason = HOWS[how]
    open_store(swarm.storage).put(key, made(content, key))
    return reason


def still_exact(session: SessionContext, expected: list[dict[str, Any]]) -> None:
    assert session.sql(SQL).to_pylist() == expected
    report = session.last_query
    assert report is not None
    assert report.distributed, report.reason


def node_of(session: SessionContext) -> Heartbeat:
    (beat,) = (view.heartbeat for view in session.nodes() if view.usable)
    return beat


# -- in every place ------------------------------------------------------------------------------------------------


@each_how
def test_heartbeat(swarm: LocalSwarm, session: SessionContext, expected: list[dict[str, Any]], how: str) -> None:
    key = keys.heartbeat("stranger")
    beat = node_of(session)
    import msgspec

    reason = plant(swarm, key, encode(msgspec.structs.replace(beat, node_id="stranger")), how)
    try:
        (view,) = (view for view in session.nodes() if view.info.node_id == "stranger")
        assert not view.usable
        assert "cannot be read" in view.reason
        still_exact(session, expected)
        assert session.refused == {reason: 1}
        assert open_store(swarm.storage).list(keys.inbox_prefix("stranger")) == []
    finally:
        open_store(swarm.storage).delete([key])


def planted(name: str, *, incarnation: str, scan: bool = True) -> tuple[Manifest, Mail, Lease]:
    spec = TaskSpec(stage=0, task=0, node_id="any", output_partitions=1)
    task = TaskMail(spec=spec, attempt=0)
    mail = Mail(token=secrets.token_hex(8), query_id=name, sender="somebody", tasks=(task,), incarnation=incarnation)
    return manifest(name), mail, Lease(query_id=name, coordinator="somebody", seq=0)


PLAN = bytes.fromhex("da01020a00")
"""The smallest plan: one row of no columns."""


@each_how
def test_mail(swarm: LocalSwarm, session: SessionContext, expected: list[dict[str, Any]], how: str) -> None:
    store, signed = open_store(swarm.storage), open_store(swarm.storage, OPTIONS)
    name = f"mail-{how}"
    beat = node_of(session)
    manifest, mail, lease = planted(name, incarnation=beat.incarnation)
    for key, message in ((keys.manifest(name), manifest), (keys.lease(name), lease)):
        write_message(signed, key, message)
    write_bytes(signed, keys.plan(name, 0), PLAN)
    before = node_store(swarm).refusals.snapshot()
    key = keys.inbox(beat.node_id, beat.inbox_next)
    reason = plant(swarm, key, encode(mail), how)
    wait_until(lambda: store.get_or_none(key) is None, "the mail is thrown away")
    wait_until(lambda: counted(swarm, before) == {reason: 1}, "it is counted")
    assert not [meta.key for meta in store.list(keys.query_prefix(name)) if "partial" in meta.key]
    still_exact(session, expected)
    wait_until(lambda: node_of(session).refused.get(reason), "the heartbeat tells of it")
    store.delete_prefix(keys.query_prefix(name))


def counted(swarm: LocalSwarm, before: dict[str, int]) -> dict[str, int]:
    now = node_store(swarm).refusals.snapshot()
    return {reason: number - before.get(reason, 0) for reason, number in now.items() if number != before.get(reason, 0)}


@each_how
@pytest.mark.parametrize("place", ["manifest", "fragment"])
def test_what_a_query_announces(
    swarm: LocalSwarm, session: SessionContext, expected: list[dict[str, Any]], place: str, how: str
) -> None:
    """The mail is honest; what it refers to was changed on the way."""
    store, signed = open_store(swarm.storage), open_store(swarm.storage, OPTIONS)
    name = f"{place}-{how}"
    beat = node_of(session)
    manifest, mail, lease = planted(name, incarnation=beat.incarnation)
    write_message(signed, keys.lease(name), lease)
    write_message(signed, keys.manifest(name), manifest)
    write_bytes(signed, keys.plan(name, 0), PLAN)
    changed = (keys.manifest(name), encode(manifest)) if place == "manifest" else (keys.plan(name, 0), PLAN)
    before = node_store(swarm).refusals.snapshot()
    reason = plant(swarm, *changed, how)
    write_message(signed, keys.inbox(beat.node_id, beat.inbox_next), mail)
    key = keys.error(name, 0, 0, 0)
    wait_until(lambda: read_message(signed, key, ErrorReport), "the node reports")
    report = read_message(signed, key, ErrorReport)
    assert report is not None
    assert report.error.code == "object_refused"
    assert counted(swarm, before) == {reason: 1}
    assert not [meta.key for meta in store.list(keys.query_prefix(name)) if "partial" in meta.key]
    still_exact(session, expected)
    store.delete_prefix(keys.query_prefix(name))


@each_how
@pytest.mark.parametrize("place", ["commit", "error", "cancel"])
def test_what_a_query_waits_for(  # noqa: PLR0917 - fixtures
    swarm: LocalSwarm,
    session: SessionContext,
    expected: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    how: str,
) -> None:
    """The intruder knows the query's id beforehand, and is quicker than the node."""
    name = f"{place}-{how}"
    monkeypatch.setattr("apiary_df.coordinator.new_query_id", lambda: name)
    error = ApiaryError("it went wrong").to_info()
    report = ErrorReport(query_id=name, stage=0, task=0, attempt=0, node_id="n", error=error, seconds=0)
    key = {"commit": keys.commit(name, 0, 0, 0), "error": keys.error(name, 0, 0, 0), "cancel": keys.cancel(name)}[place]
    reason = plant(swarm, key, encode(report), how)
    still_exact(session, expected)
    if place == "commit":
        # Something may lie behind a record, so what its first line says counts, and not how large the object is.
        assert session.refused == {UNSEALED if how == "oversized" else reason: 1}
    check_nothing_left(swarm.storage)


@each_how
def test_the_lease_of_a_query_that_runs(
    swarm: LocalSwarm,
    session: SessionContext,
    expected: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """Nobody is made to drop a query by a lease that is not its coordinator's."""
    name = f"lease-{how}"
    monkeypatch.setattr("apiary_df.coordinator.new_query_id", lambda: name)
    announce = QueryObjects.announce

    def announce_and_be_robbed(self: QueryObjects, *args: Any, **more: Any) -> None:
        announce(self, *args, **more)
        plant(swarm, keys.lease(name), encode(Lease(query_id=name, coordinator="stranger", seq=9)), how)

    monkeypatch.setattr(QueryObjects, "announce", announce_and_be_robbed)
    still_exact(session, expected)
    assert session.last_query is not None
    assert all(attempt.attempt == 0 for attempt in session.last_query.attempts)
    check_nothing_left(swarm.storage)


@pytest.mark.parametrize("forged", ["other-rows", "other-rows-of-that-length", "random", "empty"])
def test_the_partial_of_a_query_that_runs(
    swarm: LocalSwarm,
    session: SessionContext,
    expected: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    forged: str,
) -> None:
    """A partial is not sealed; the checksum in its commit record, which is, is one that nobody can forge rows for."""
    monkeypatch.setattr("apiary_df.tasks.INLINE_STAGE_BYTES", 0)
    robbed: list[str] = []
    put = Store.put

    def put_and_be_robbed(self: Store, key: str, data: Any) -> None:
        put(self, key, data)
        if "/partial_" in key and not robbed:
            robbed.append(key)
            honest = open_store(swarm.storage).get(key)
            put(self, key, forgery(honest, forged))

    monkeypatch.setattr(Store, "put", put_and_be_robbed)
    still_exact(session, expected)
    assert len(robbed) == 1
    assert session.last_query is not None
    # The task is done again, and what was planned from it; what was planted is in no answer.
    assert "undone" in {attempt.outcome for attempt in session.last_query.attempts}
    check_nothing_left(swarm.storage)


def forgery(honest: bytes, how: str) -> bytes:
    """A partial of other rows, as good as an intruder can make it; or something worse."""
    if how in ("random", "empty"):
        return secrets.token_bytes(len(honest)) if how == "random" else b""
    table = pa.ipc.open_file(pa.BufferReader(honest)).read_all()
    if how == "other-rows":
        table = table.slice(1)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        rows: bytes = sink.getvalue().to_pybytes()
        return rows
    # A number within the last column's values, in the midst of the rows.
    place = honest.index(table.column(table.num_columns - 1).chunk(0).buffers()[1].to_pybytes()[:8])
    return honest[:place] + bytes([honest[place] ^ 1]) + honest[place + 1 :]


# -- replays -------------------------------------------------------------------------------------------------------


def test_mail_and_all_that_it_needs_put_back_after_the_query(
    swarm: LocalSwarm, session: SessionContext, expected: list[dict[str, Any]]
) -> None:
    """Everything that the intruder puts back is honestly signed, and lies where it lay."""
    store = open_store(swarm.storage)
    signed = node_store(swarm)
    beat = node_of(session)
    seen: dict[str, bytes] = {}
    put, create = session._swarm._view.store.put, session._swarm._view.store.create  # type: ignore[union-attr]

    def noting_put(key: str, data: Any) -> None:
        seen[key] = bytes(data) if not isinstance(data, Path) else data.read_bytes()
        put(key, data)

    def noting_create(key: str, data: bytes, token: str) -> bool:
        seen[key] = data
        return create(key, data, token)

    view = session._swarm._view
    assert view is not None
    view.store.put, view.store.create = noting_put, noting_create  # type: ignore[method-assign]
    still_exact(session, expected)
    check_nothing_left(swarm.storage)
    before = signed.refusals.snapshot()
    mails = [key for key in seen if key.startswith(keys.inbox_prefix(beat.node_id))]
    assert mails
    for key in sorted(seen, key=lambda key: key in mails):  # what mail refers to comes first
        store.put(key, seen[key])
    wait_until(lambda: not store.list(keys.inbox_prefix(beat.node_id)), "the mail is thrown away")
    assert counted(swarm, before) == {REPLAYED: len(mails)}
    left = {meta.key for meta in store.list(keys.QUERIES)}
    assert not [key for key in left if "partial" in key or "commit" in key]
    store.delete(left)


# -- honest senders who want too much -------------------------------------------------------------------------------


def test_a_session_does_not_send_what_no_node_may_read(
    swarm: LocalSwarm, tmp_path: Path, expected: list[dict[str, Any]], tables: Path
) -> None:
    (tmp_path / "other").mkdir()
    for file in tables.iterdir():
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    with SessionContext(storage=swarm.storage, swarm_key=KEY, **FORCED) as ctx:
        ctx.register_parquet("t", str(tmp_path / "other"))
        with pytest.raises(RootsRefused, match=r"/other/0.parquet.*start nodes with --allow-root"):
            ctx.sql(SQL).collect()
        assert "refused: " in ctx.sql(SQL).explain_text()
        ctx.register_parquet("fine", str(tables))
        with pytest.raises(RootsRefused, match="/out"):
            ctx.sql(f"COPY (SELECT * FROM fine) TO '{tmp_path}/out/' STORED AS PARQUET").collect()
        assert ctx.sql(SQL.replace("FROM t", "FROM fine")).to_pylist() == expected
    check_nothing_left(swarm.storage)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["read", "write", "link"])
def test_a_node_refuses_by_itself(
    swarm: LocalSwarm, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "0.parquet").write_bytes((tables / "0.parquet").read_bytes())
    link = tables / "link.parquet"
    if how == "link":
        link.symlink_to(secret / "0.parquet")
    monkeypatch.setattr("apiary_df.view.outside", lambda *_: [])  # a session that does not ask
    before = node_store(swarm).refusals.snapshot()
    sql = {"write": f"COPY (SELECT * FROM t) TO '{tmp_path}/out/' STORED AS PARQUET"}.get(how, SQL)
    try:
        with SessionContext(storage=swarm.storage, swarm_key=KEY, **FORCED) as ctx:
            place = {"read": secret / "0.parquet", "link": link, "write": tables}[how]
            ctx.register_parquet("t", str(place))
            with pytest.raises(ApiaryError) as caught:
                ctx.sql(sql).collect()
    finally:
        link.unlink(missing_ok=True)
    assert "start nodes with --allow-root" in caught.value.message
    assert set(counted(swarm, before)) == {OUTSIDE}
    check_nothing_left(swarm.storage)
    assert not (tmp_path / "out").exists()


def test_functions_that_a_node_refuses_are_counted(
    swarm: LocalSwarm, session: SessionContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flag = tmp_path / "ran"

    def touch(values: pa.Array) -> pa.Array:
        flag.touch()
        return values

    monkeypatch.setattr("apiary_df.view.why_no_functions", lambda _: "")  # a session that does not ask
    session.register_udf(udf(touch, [pa.int64()], pa.int64(), "volatile", name="touch"))
    before = node_store(swarm).refusals.snapshot()
    with pytest.raises(ApiaryError) as caught:
        session.sql("SELECT touch(x) AS a FROM t").collect()
    assert "which this node was not started for" in caught.value.message
    assert set(counted(swarm, before)) == {FUNCTIONS}
    assert not flag.exists()
    check_nothing_left(swarm.storage)


# -- writes of lost sessions -------------------------------------------------------------------------------------------


@pytest.fixture
def noted(tmp_path: Path) -> Iterator[tuple[Store, Path, WriteWatch]]:
    """A root, a folder that a lost session seems to write to, and a node's watch; the folder holds files to keep."""
    root = open_store(str(tmp_path / "root"), OPTIONS)
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.parquet").write_bytes(b"precious")
    yield root, out, WriteWatch(root, OPTIONS, 0.0, "a node", roots_of([str(out)]))
    assert (out / "precious.parquet").read_bytes() == b"precious"


def note(out: Path) -> WriteNote:
    return WriteNote(query_id="q", coordinator="c", base=out.as_uri())


def journal(*published: str) -> WriteJournal:
    return WriteJournal(query_id="q", coordinator="c", seq=1, dead_after_s=0.0, published=published)


STAGING = "_apiary_q"


@each_how
@pytest.mark.parametrize("place", ["note", "journal", "verdict"])
def test_writes(noted: tuple[Store, Path, WriteWatch], place: str, how: str) -> None:
    root, out, watch = noted
    base = open_store(str(out), OPTIONS)
    base.put(f"{STAGING}/0_0_0/x.staged", b"staged")
    verdict = WriteVerdict(token="t", query_id="q", stands=True, by="c")
    messages = {
        "note": (root, keys.write("q"), note(out)),
        "journal": (base, f"{STAGING}/journal", journal("q_0_0_0.parquet")),
        "verdict": (base, f"{STAGING}/verdict", verdict),
    }
    base.put("q_0_0_0.parquet", b"published")
    for name, (store, key, message) in messages.items():
        if name == place:
            made, reason = HOWS[how]
            store.put(key, made(encode(message), key))
        elif name != "verdict":
            write_message(store, key, message)
    for now_s in (0.0, 1.0, 2.0):
        watch.look(now_s)
    # Forged, it changes nothing: what is not sure to be a lost session's is nobody's to delete.
    assert base.get("q_0_0_0.parquet") == b"published"
    assert root.refusals.snapshot() == {reason: 1}


def test_a_note_that_leads_out_of_the_roots(noted: tuple[Store, Path, WriteWatch], tmp_path: Path) -> None:
    root, _, watch = noted
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    base = open_store(str(elsewhere), OPTIONS)
    write_message(base, f"{STAGING}/journal", journal("q_0_0_0.parquet"))
    base.put("q_0_0_0.parquet", b"published")
    write_message(root, keys.write("q"), note(elsewhere))
    for now_s in (0.0, 1.0, 2.0):
        watch.look(now_s)
    assert base.get("q_0_0_0.parquet") == b"published"
    assert set(root.refusals.snapshot()) == {OUTSIDE}


@pytest.mark.parametrize("name", ["precious.parquet", "../out/precious.parquet", "a/../precious.parquet", ""])
def test_a_journal_that_names_what_is_not_its_own(noted: tuple[Store, Path, WriteWatch], name: str) -> None:
    root, out, watch = noted
    write_message(open_store(str(out), OPTIONS), f"{STAGING}/journal", journal(name))
    write_message(root, keys.write("q"), note(out))
    for now_s in (0.0, 1.0, 2.0):
        watch.look(now_s)
    assert root.refusals.snapshot() == {MISPLACED: 1}


# -- without the key -----------------------------------------------------------------------------------------------


def test_a_session_without_the_key_is_told_that_it_needs_one(swarm: LocalSwarm, tables: Path) -> None:
    with SessionContext(storage=swarm.storage, **FORCED) as ctx:
        ctx.register_parquet("t", str(tables))
        assert len(ctx.sql(SQL).to_pylist()) == 4
        assert ctx.last_query is not None
        assert not ctx.last_query.distributed
        assert "APIARY_SWARM_KEY" in ctx.last_query.reason


def test_the_key_shows_nowhere(tables: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In storage, logs, errors, reprs and arguments of processes, whether queries end well or badly."""
    options = StoreOptions(
        swarm_key=KEY, access_key_id="AKIACANARY12345", secret_access_key="canary-secret-0123456789", provider={}
    )
    hidden = [secret.encode() for secret in options.secrets()]
    words: list[str] = [repr(options)]
    caplog.set_level(logging.DEBUG)
    root = tmp_path / "root"
    settings = Settings(**{**FORCED, "keep": True})
    with (
        LocalSwarm(1, storage=str(root), options=options, settings=settings) as one,
        SessionContext(storage=one.storage, storage_options=options, settings=settings) as ctx,
    ):
        words += [" ".join(map(str, process.args)) for process in one.processes.values()]  # type: ignore[arg-type]
        ctx.register_parquet("t", str(tables))
        assert len(ctx.sql(SQL).to_pylist()) == 4
        assert ctx.last_query is not None
        assert ctx.last_query.distributed
        with pytest.raises(ApiaryError) as failed:
            ctx.sql("SELECT sum(1 / (x - x)) FROM t").collect()
        open_store(str(root)).put(keys.heartbeat("stranger"), b"junk")
        words += [repr(failed.value), str(failed.value.details), repr(ctx.nodes()), repr(ctx.last_query)]
        written = {meta.key: open_store(str(root)).get(meta.key) for meta in open_store(str(root)).list("")}
    assert len(written) > 3
    for log in one._logs.values():
        assert log.closed
    words += [record.getMessage() for record in caplog.records]
    for secret in hidden:
        assert not [key for key, data in written.items() if secret in data]
        assert not [text for text in words if secret.decode() in text]


def test_records_of_a_keyed_swarm_carry_strong_checksums(swarm: LocalSwarm, tables: Path) -> None:
    with SessionContext(storage=swarm.storage, swarm_key=KEY, keep=True, **FORCED) as ctx:
        ctx.register_parquet("t", str(tables))
        ctx.sql(SQL).collect()
        assert ctx.last_query is not None
        name = ctx.last_query.query_id
    signed = open_store(swarm.storage, OPTIONS)
    record = read_message(signed, keys.commit(name, 0, 0, 0), CommitRecord)
    assert record is not None
    assert {len(segment.checksum) for segment in record.partial.segments} == {64}
    signed.delete_prefix(keys.query_prefix(name))
