"""What storage tells of a query: from its outcome if it was kept, else pieced together from what lies there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

import msgspec

from apiary_df.errors import ConfigError, ErrorInfo, ObjectDamaged
from apiary_df.model import TaskSpec
from apiary_df.protocol import keys
from apiary_df.protocol.kept import Outcome, StageTasks
from apiary_df.protocol.keys import QueryKey
from apiary_df.protocol.messages import CommitRecord, ErrorReport, Mail, Manifest
from apiary_df.protocol.seal import NO_KEY
from apiary_df.protocol.storage import read_message
from apiary_df.report import AttemptReport
from apiary_df.store import Store
from apiary_df.store_options import ObjectMeta

READ_THREADS = 16
"""Objects that are read at a time: enough to hide a bucket's latency."""

MOST_NAMED = 10
"""Tasks that an error names."""

UNENDED = "no end recorded"
"""The state of a query without an outcome: it still runs, or its coordinator died."""

UNREADABLE = "outcome refused"
"""The state of a query whose outcome is damaged, or not signed as it must be."""


_Message = TypeVar("_Message", bound=msgspec.Struct)
_Number = tuple[int, int, int]
"""Stage, task and attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A query that has objects in storage.

    Attributes:
        query_id: The query.
        state: ``done``, ``failed``, ``cancelled``, :data:`UNENDED` or :data:`UNREADABLE`.
        kept: Whether it was kept on purpose.
        started_at: When it started, by its coordinator's clock; empty if nothing tells.
        seconds: How long it took; None if no end is recorded.
        sql: Its text; None if it did not come as SQL, or nothing tells.
        error: Why it failed; None if it did not.
        objects: Objects below its folder.
        size_bytes: Their bytes.
    """

    query_id: str
    state: str
    kept: bool
    started_at: str
    seconds: float | None
    sql: str | None
    error: ErrorInfo | None
    objects: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What is known of one query.

    Attributes:
        found: The query as a whole.
        attempts: Its attempts, by stage, task and number; without an outcome those that left something.
        coordinator: The session that ran it; empty if nothing tells.
        reason: Why it was distributed; empty if nothing tells.
        rows: Rows that were handed over; None if no end is recorded.
        root: Number of the stage that ran in the session; None if nothing tells.
        folded: Stages that ran in the session with the result.
        manifest: What was announced of it; None if that is gone.
        objects: Keys of all that lies in its folder.
        waiting: Tasks whose mail no node has taken; of a query without an outcome.
        unreadable: What could not be read, and why.
        omitted: Committed attempts that the outcome leaves out, since there were very many.
    """

    found: Found
    attempts: tuple[AttemptReport, ...]
    coordinator: str = ""
    reason: str = ""
    rows: int | None = None
    root: int | None = None
    folded: tuple[int, ...] = ()
    manifest: Manifest | None = None
    objects: tuple[str, ...] = ()
    waiting: tuple[TaskSpec, ...] = ()
    unreadable: tuple[str, ...] = ()
    omitted: int = 0

    @property
    def query_id(self) -> str:
        """The query."""
        return self.found.query_id


class Reader:
    """Reads messages, and notes what cannot be read instead of giving up.

    Args:
        store: The swarm's root.

    Attributes:
        unreadable: What could not be read so far, and why.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.unreadable: list[str] = []

    def read(self, key: str, type_: type[_Message]) -> _Message | None:
        """Return a message; None if it is not there or damaged.

        Raises:
            ObjectRefused: If it is signed, and this process has no swarm key: then it can read nothing at all.
            StorageError: If the store cannot be read.
        """
        try:
            return read_message(self._store, key, type_)
        except ObjectDamaged as error:
            if error.details.get("reason") == NO_KEY:
                raise
            self.unreadable.append(error.message)
            return None

    def read_all(self, wanted: Sequence[str], type_: type[_Message]) -> dict[str, _Message]:
        """Return the messages that are there, by key.

        Raises:
            StorageError: If the store cannot be read.
        """
        if not wanted:
            return {}
        with ThreadPoolExecutor(min(READ_THREADS, len(wanted)), thread_name_prefix="replay") as pool:
            read = pool.map(lambda key: self.read(key, type_), wanted)
            return {key: message for key, message in zip(wanted, read, strict=True) if message is not None}


def find_queries(store: Store) -> list[Found]:
    """Return every query that has objects in storage, the oldest first.

    Raises:
        StorageError: If the store cannot be read.
    """
    by_query: dict[str, list[ObjectMeta]] = {}
    for meta in store.list(keys.QUERIES):
        parsed = keys.parse_query_key(meta.key)
        if parsed is not None:
            by_query.setdefault(parsed.query_id, []).append(meta)
    if not by_query:
        return []
    reader = Reader(store)

    def find(query_id: str) -> Found:
        metas = by_query[query_id]
        outcome = _outcome(reader, query_id, metas)
        return _found(query_id, metas, outcome, None if outcome is not None else _manifest(reader, query_id))

    with ThreadPoolExecutor(min(READ_THREADS, len(by_query)), thread_name_prefix="replay") as pool:
        return list(pool.map(find, sorted(by_query)))


def read_trace(store: Store, query_id: str) -> Trace:
    """Return what storage tells of a query.

    Raises:
        ConfigError: If the id is none, or nothing of such a query is there.
        StorageError: If the store cannot be read.
    """
    metas = store.list(keys.query_prefix(query_id))
    if not metas:
        raise ConfigError(
            f"nothing of query {query_id!r} is below {store.url}: its objects were removed at its end, or collected, "
            f"or it ran elsewhere; the settings keep and keep_failed let queries stay, and `apiary replay {store.url}` "
            "lists those that are there",
            query=query_id,
        )
    reader = Reader(store)
    outcome = _outcome(reader, query_id, metas)
    manifest = _manifest(reader, query_id)
    found = _found(query_id, metas, outcome, manifest)
    if outcome is None:
        trace = _pieced_together(store, reader, found, metas, manifest)
    else:
        trace = Trace(
            found=found,
            attempts=outcome.attempts,
            coordinator=outcome.coordinator,
            reason=outcome.reason,
            rows=outcome.rows,
            root=outcome.root,
            folded=outcome.folded,
            manifest=manifest,
            omitted=outcome.omitted,
        )
    return replace(trace, objects=tuple(meta.key for meta in metas), unreadable=tuple(reader.unreadable))


def read_task(store: Store, trace: Trace, stage: int, task: int) -> tuple[TaskSpec | None, CommitRecord | None]:
    """Return what a task reads, if anything tells it, and its commit record, if it has one.

    Raises:
        ConfigError: If the query has no such task.
        StorageError: If the store cannot be read.
        ObjectDamaged: If what tells it is damaged.
    """
    parts = [known.task for known in _known(trace, "tasks", stage) if known.task is not None and known.task <= task]
    kept = read_message(store, keys.tasks(trace.query_id, stage, max(parts)), StageTasks) if parts else None
    specs = trace.waiting if kept is None else kept.tasks
    spec = next((spec for spec in specs if (spec.stage, spec.task) == (stage, task)), None)
    known = sorted({(attempt.stage, attempt.task) for attempt in trace.attempts})
    if spec is None and (stage, task) not in known:
        names = ", ".join(f"{s}.{t}" for s, t in known[:MOST_NAMED]) + (", ..." if len(known) > MOST_NAMED else "")
        raise ConfigError(
            f"query {trace.query_id} has no task {stage}.{task}; it has {names or 'none'}", query=trace.query_id
        )
    # Where the number of an attempt is in other keys, those of commit records have the task's epoch.
    epochs = [known.attempt or 0 for known in _known(trace, "commit", stage) if known.task == task]
    if not epochs:
        return spec, None
    return spec, read_message(store, keys.commit(trace.query_id, stage, task, max(epochs)), CommitRecord)


def _known(trace: Trace, kind: str, stage: int) -> list[QueryKey]:
    """Return what the keys of a stage's objects of one kind say."""
    parsed = (keys.parse_query_key(key) for key in trace.objects)
    return [known for known in parsed if known is not None and (known.kind, known.stage) == (kind, stage)]


def _outcome(reader: Reader, query_id: str, metas: Iterable[ObjectMeta]) -> Outcome | None:
    key = keys.outcome(query_id)
    return reader.read(key, Outcome) if any(meta.key == key for meta in metas) else None


def _manifest(reader: Reader, query_id: str) -> Manifest | None:
    return reader.read(keys.manifest(query_id), Manifest)


def _found(query_id: str, metas: Sequence[ObjectMeta], outcome: Outcome | None, manifest: Manifest | None) -> Found:
    announced = "" if manifest is None else manifest.created_at
    sql = None if manifest is None else manifest.sql
    unread = UNREADABLE if any(meta.key == keys.outcome(query_id) for meta in metas) else UNENDED
    return Found(
        query_id=query_id,
        state=unread if outcome is None else outcome.state,
        kept=outcome is not None and outcome.kept,
        started_at=announced if outcome is None else outcome.started_at,
        seconds=None if outcome is None else outcome.seconds,
        sql=sql if outcome is None else outcome.sql,
        error=None if outcome is None else outcome.error,
        objects=len(metas),
        size_bytes=sum(meta.size_bytes for meta in metas),
    )


# -- without an outcome ---------------------------------------------------------------------------------------------


def _pieced_together(
    store: Store, reader: Reader, found: Found, metas: Sequence[ObjectMeta], manifest: Manifest | None
) -> Trace:
    """Return what commit records, error reports, partials and undelivered mail tell, with the store's own times."""
    parsed = {meta.key: known for meta in metas if (known := keys.parse_query_key(meta.key)) is not None}
    times = {meta.key: meta.last_modified for meta in metas}
    begin = times.get(keys.manifest(found.query_id), min(times.values()))
    commits = reader.read_all([key for key, known in parsed.items() if known.kind == "commit"], CommitRecord)
    errors = reader.read_all([key for key, known in parsed.items() if known.kind == "error"], ErrorReport)
    mails = _undelivered(store, reader, found.query_id)
    attempts: dict[_Number, AttemptReport] = {}
    committed = {(commit.stage, commit.task) for commit in commits.values()}
    for known in parsed.values():
        if known.kind == "partial" and (number := _number(known)) is not None:
            outcome = "superseded" if number[:2] in committed else "running"
            attempts[number] = AttemptReport(
                stage=number[0], task=number[1], attempt=number[2], node_id="?", outcome=outcome
            )
    for mail in mails:
        for task in mail.tasks:
            number = (task.spec.stage, task.spec.task, task.attempt)
            attempts[number] = AttemptReport(
                stage=number[0],
                task=number[1],
                attempt=number[2],
                node_id=task.spec.node_id,
                outcome="waiting",
                why=task.spec.why,
                input_bytes=task.spec.input_bytes,
            )
    for key, error in errors.items():
        attempts[error.stage, error.task, error.attempt] = _failed(error, _age_s(times, begin, key))
    for key, commit in commits.items():
        attempts[commit.stage, commit.task, commit.attempt] = _committed(commit, _age_s(times, begin, key))
    return Trace(
        found=found,
        attempts=tuple(attempts[number] for number in sorted(attempts)),
        coordinator="" if manifest is None else manifest.coordinator,
        manifest=manifest,
        waiting=tuple(task.spec for mail in mails for task in mail.tasks),
    )


def _undelivered(store: Store, reader: Reader, query_id: str) -> list[Mail]:
    found = [meta.key for meta in store.list(keys.INBOX) if keys.number_of_mail(meta.key) is not None]
    return [mail for mail in reader.read_all(found, Mail).values() if mail.query_id == query_id]


def _number(known: QueryKey) -> _Number | None:
    if known.stage is None or known.task is None or known.attempt is None:
        return None
    return known.stage, known.task, known.attempt


def _age_s(times: Mapping[str, datetime], begin: datetime, key: str) -> float | None:
    written = times.get(key)
    return None if written is None else max(0.0, (written - begin).total_seconds())


def _committed(commit: CommitRecord, ended_s: float | None) -> AttemptReport:
    metrics = commit.metrics
    return AttemptReport(
        stage=commit.stage,
        task=commit.task,
        attempt=commit.attempt,
        node_id=commit.node_id,
        outcome="committed",
        started_s=None if ended_s is None else max(0.0, ended_s - metrics.seconds),
        ended_s=ended_s,
        seconds=metrics.seconds,
        queued_s=metrics.queued_s,
        rows=commit.partial.rows,
        input_bytes=metrics.bytes_in,
        output_bytes=commit.partial.length,
        lies=commit.partial.lies,
    )


def _failed(report: ErrorReport, ended_s: float | None) -> AttemptReport:
    return AttemptReport(
        stage=report.stage,
        task=report.task,
        attempt=report.attempt,
        node_id=report.node_id,
        outcome="failed",
        error=report.error,
        started_s=None if ended_s is None else max(0.0, ended_s - report.seconds),
        ended_s=ended_s,
        seconds=report.seconds,
    )
