"""What one query has in storage: announced at its start, written to and read while it runs, removed at its end.

What belongs here: the requests to storage that a coordinator makes for its query. What they mean for the query is
decided by :mod:`apiary_df.schedule`; the files that a query writes for its user are :mod:`apiary_df.publish`'s.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, TypeAlias, TypeVar

import datafusion
import msgspec

from apiary_df.errors import ApiaryError, InternalError, ObjectDamaged, ObjectRefused, StorageTransient
from apiary_df.host import SYSTEM, Host, together
from apiary_df.model import TaskKey, TaskSpec
from apiary_df.patience import Patience
from apiary_df.plan import codec
from apiary_df.plan.stages import Stage
from apiary_df.protocol import keys
from apiary_df.protocol.inbox import send
from apiary_df.protocol.kept import Outcome, StageTasks
from apiary_df.protocol.messages import (
    Cancel,
    CommitRecord,
    ErrorReport,
    Lease,
    Mail,
    Manifest,
    StageEntry,
    StageFragment,
    StoppedTask,
    TaskMail,
)
from apiary_df.protocol.storage import (
    FIRST_BYTES,
    at_once,
    read_message,
    record_bytes,
    write_bytes,
    write_message,
)
from apiary_df.protocol.versions import PROTOCOL_VERSION
from apiary_df.publish import Write
from apiary_df.schedule import Dispatch, OpenTask, RecordDamaged, TaskCommitted, TaskErred
from apiary_df.store import Store

LIST_ABOVE = 3
"""Pending tasks above which one listing of a query is cheaper than a look for each of their records."""

LIST_ABOVE_IN_FOLDER = 32
"""The same in a folder, where a look that finds nothing takes ten microseconds."""

_News: TypeAlias = TaskCommitted | TaskErred | RecordDamaged
_T = TypeVar("_T")

MAIL_CARRIES_BYTES = 24 << 20
"""Bytes of small partials, and of what names the others, that one mail carries at most, but for a single task's: a
third more in base64, and with the fragments, still well below what a message may have."""

REFERENCE_BYTES = 512
"""What a segment that a task reads takes in a mail, about; keys that every task reads are named in each of them."""

KEPT_TASKS_BYTES = 8 << 20
"""Tasks of a query that is kept lie in objects of about so much: far below what a message may have."""


class QueryObjects:
    """A query's objects below the swarm's root.

    Args:
        query_id: The query.
        store: The root.
        coordinator: Id of the session that runs it.
        patience: How long looks for outcomes may fail; not at all if None.
        enclosed_bytes: How large manifest and fragments may be to go with each mail.
        host: Where several requests are made at a time.

    Attributes:
        commits: The commit records that were read.
    """

    def __init__(
        self,
        query_id: str,
        store: Store,
        coordinator: str,
        patience: Patience | None = None,
        *,
        enclosed_bytes: int = 0,
        host: Host = SYSTEM,
    ) -> None:
        self._host = host
        self._enclosed_bytes = enclosed_bytes
        self._manifest: Manifest | None = None
        self._manifest_bytes = 0
        # By stage and version: what was changed while the query runs lies beside what was announced at its start.
        self._fragments: dict[tuple[int, int], bytes] = {}
        self._unwritten: list[Callable[[], None]] = []
        self._has_others = False
        self._sent = 0
        self._patience = patience or Patience(0.0, lambda: 0.0)
        self._query_id = query_id
        self._store = store
        self._coordinator = coordinator
        self.commits: dict[TaskKey, CommitRecord] = {}
        self._mail: dict[str, Mail] = {}
        self._asked_in: dict[tuple[int, int, int], str] = {}
        self._record_bytes: dict[int, int] = {}
        self._seen_errors: set[str] = set()

    def take_lease(self) -> None:
        """Write the query's lease, before anything else of it: what is without one for long is collected.

        Raises:
            StorageError: If it cannot be written.
        """
        lease = Lease(query_id=self._query_id, coordinator=self._coordinator, seq=0)
        write_message(self._store, keys.lease(self._query_id), lease)

    def announce(
        self,
        stages: Sequence[Stage],
        *,
        sql: str | None,
        settings: Mapping[str, str],
        timeout_s: float | None,
        write: Write | None,
    ) -> None:
        """Make ready what nodes need to know of the query: the fragments of what they run, and the manifest.

        What is too large to go with each mail is written now, since nodes read it; the rest with the first mail.

        Args:
            stages: All stages but the root.
            sql: The query's text, for people.
            settings: DataFusion options under which every task runs.
            timeout_s: The query's deadline, in seconds from its start.
            write: The files that it writes.

        Raises:
            StorageError: If something cannot be written.
        """
        entries: list[StageEntry] = []
        for stage in stages:
            if stage.schema is None:
                raise InternalError(f"stage {stage.stage} was cut without a schema")
            if not stage.in_session:
                self._encode(stage, write)
            self._has_others |= stage.in_session
            entries.append(
                StageEntry(
                    stage=stage.stage,
                    inputs=stage.inputs,
                    output=stage.output,
                    partitions=stage.partitions,
                    schema=stage.schema.arrow.serialize().to_pybytes(),
                )
            )
        manifest = Manifest(
            query_id=self._query_id,
            coordinator=self._coordinator,
            protocol_version=PROTOCOL_VERSION,
            datafusion_version=datafusion.__version__,
            sql=sql,
            settings=dict(settings),
            created_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            timeout_s=timeout_s,
            stages=tuple(entries),
            created_folders=0 if write is None else write.created_folders,
        )
        self._manifest = manifest
        self._manifest_bytes = len(msgspec.json.encode(manifest))
        self._unwritten = [
            functools.partial(write_bytes, self._store, keys.plan(self._query_id, *which), plan)
            for which, plan in self._fragments.items()
        ]
        write_manifest = functools.partial(write_message, self._store, keys.manifest(self._query_id), manifest)
        self._unwritten.append(write_manifest)
        if not self._can_enclose(self._fragments):
            self.write()

    def announce_fragment(self, stage: Stage, write: Write | None) -> None:
        """Make ready the fragment of a stage that was changed, if that was not done; no task of it has been sent yet.

        Args:
            stage: The stage.
            write: The files that the query writes.

        Raises:
            StorageError: If it cannot be written.
        """
        if (stage.stage, stage.version) in self._fragments:
            return
        which = stage.stage, stage.version
        plan = self._encode(stage, write)
        self._unwritten.append(functools.partial(write_bytes, self._store, keys.plan(self._query_id, *which), plan))
        if not self._can_enclose((which,)):
            self.write()

    def unwritten(self) -> list[Callable[[], None]]:
        """Return the writes of what was made ready since this was asked last, for the caller to make."""
        writes, self._unwritten = self._unwritten, []
        return writes

    def write(self) -> None:
        """Write what was made ready.

        Raises:
            StorageError: If it cannot be written.
        """
        together(self._host, self.unwritten(), at_once(self._store))

    def _encode(self, stage: Stage, write: Write | None) -> bytes:
        plan = codec.encode(stage.fragment if write is None else write.staged(stage.fragment))
        self._fragments[stage.stage, stage.version] = plan
        return plan

    def send(
        self,
        node_id: str,
        first_number: int,
        tasks: Collection[Dispatch] = (),
        stopped: Iterable[TaskKey] = (),
        *,
        incarnation: str = "",
        remaining_s: float | None = None,
    ) -> int:
        """Send attempts to a node, or word that some are not wanted any more.

        Args:
            node_id: The node.
            first_number: First number to try for the mail.
            tasks: Attempts to make.
            stopped: Attempts to stop.
            incarnation: For which life of the node; others do not take it.
            remaining_s: Seconds until the query's deadline; None if it has none.

        Returns:
            The mail's number.

        Raises:
            StorageError: If it cannot be sent.
        """
        mail = Mail(
            token=secrets.token_hex(8),
            query_id=self._query_id,
            sender=self._coordinator,
            incarnation=incarnation,
            tasks=tuple(
                TaskMail(spec=task.spec, attempt=task.attempt, slots=task.slots, epoch=task.epoch) for task in tasks
            ),
            stopped=tuple(StoppedTask(stage=key.stage, task=key.task, attempt=key.attempt) for key in stopped),
            remaining_s=remaining_s,
            **self._enclosed({(task.spec.stage, task.spec.version) for task in tasks}),
        )
        number = send(self._store, node_id, first_number, mail)
        key = keys.inbox(node_id, number)
        self._mail[key] = mail
        self._sent += len(mail.tasks)
        for task in tasks:
            wanted = record_bytes(task.spec.output_partitions, task.spec.inline_bytes)
            self._record_bytes[task.spec.stage] = max(wanted, self._record_bytes.get(task.spec.stage, 0))
        self._asked_in.update(((task.spec.stage, task.spec.task, task.attempt), key) for task in mail.tasks)
        return number

    def _enclosed(self, wanted: Collection[tuple[int, int]]) -> dict[str, Any]:
        """Return the fields of a mail that spare its node reading about the query; none if these are large.

        Args:
            wanted: Stages of the mail's tasks, and the versions of their fragments.
        """
        if not wanted or not self._fragments.keys() >= set(wanted) or not self._can_enclose(wanted):
            return {}
        fragments = tuple(
            StageFragment(stage=stage, version=version, plan=self._fragments[stage, version])
            for stage, version in sorted(wanted)
        )
        return {"manifest": self._manifest, "fragments": fragments}

    def news(self, tasks: Sequence[OpenTask]) -> Iterator[_News]:
        """Look for the outcomes of attempts; each error report is told once.

        Args:
            tasks: The tasks that are sent and not committed.

        Raises:
            StorageError: If the store cannot be read, for longer than patience lasts if it may pass.
        """
        try:
            listed: set[str] | None = None
            if len(tasks) > (LIST_ABOVE_IN_FOLDER if self._store.kind == "folder" else LIST_ABOVE):
                listed = {meta.key for meta in self._store.list(keys.query_prefix(self._query_id))}
        except StorageTransient as error:
            self._patience.bear(error)
            return
        looks = [functools.partial(self._outcomes, task, listed) for task in tasks]
        failure: StorageTransient | None = None
        for found in together(self._host, looks, at_once(self._store)):
            if isinstance(found, StorageTransient):
                failure = found
            else:
                yield from found
        if failure is None:
            self._patience.worked()
        else:
            self._patience.bear(failure)

    def _outcomes(self, task: OpenTask, listed: set[str] | None) -> Sequence[_News] | StorageTransient:
        """Return what has become of a task, or why that could not be found out this time."""
        try:
            if (committed := self._commit_of(task, listed)) is not None:
                return (committed,)
            errors = (self._error_of(self._key(task, attempt), node, listed) for attempt, node in task.running)
            return [erred for erred in errors if erred is not None]
        except StorageTransient as error:
            return error

    def _key(self, task: OpenTask, attempt: int) -> TaskKey:
        return TaskKey(query_id=self._query_id, stage=task.stage, task=task.task, attempt=attempt)

    def _commit_of(self, task: OpenTask, listed: set[str] | None) -> TaskCommitted | RecordDamaged | None:
        key = keys.commit(self._query_id, task.stage, task.task, task.epoch)
        if listed is not None and key not in listed:
            return None
        try:
            first_bytes = self._record_bytes.get(task.stage, FIRST_BYTES)
            try:
                commit = read_message(self._store, key, CommitRecord, first_bytes=first_bytes)
            except ObjectRefused:
                # What was damaged on the way is whole the second time.
                commit = read_message(self._store, key, CommitRecord, first_bytes=first_bytes)
            if commit is None:
                return None
            if commit.attempt >= task.attempts:
                raise ObjectDamaged(f"{key!r} is of attempt {commit.attempt}, which was never sent", key=key)
        except ObjectDamaged as error:
            return RecordDamaged(stage=task.stage, task=task.task, epoch=task.epoch, error=error)
        self.commits[commit.key] = commit
        self._was_read(commit)
        return TaskCommitted(key=commit.key, partial=commit.partial)

    def _error_of(self, key: TaskKey, node_id: str, listed: set[str] | None) -> TaskErred | None:
        error_key = keys.error(self._query_id, key.stage, key.task, key.attempt)
        if error_key in self._seen_errors or (listed is not None and error_key not in listed):
            return None
        report = self._report(error_key)
        if report is None:
            return None
        self._seen_errors.add(error_key)
        self._was_read(report)
        error = ApiaryError.from_info(report.error)
        return TaskErred(key=key, node_id=node_id, error=error, seconds=report.seconds)

    def _report(self, key: str) -> ErrorReport | None:
        try:
            return read_message(self._store, key, ErrorReport)
        except ObjectRefused:
            # Not the node's words: it will write its own over it, or be found to know nothing of the task.
            return None

    def is_gone(self) -> bool:
        """Whether others have removed the query, as that of a session that was lost.

        Raises:
            StorageError: If that cannot be found out.
        """
        return self._store.get_or_none(keys.lease(self._query_id)) is None

    def _can_enclose(self, fragments: Iterable[tuple[int, int]]) -> bool:
        """Whether the manifest and these fragments are small enough for each mail."""
        size_bytes = self._manifest_bytes + sum(len(self._fragments[which]) for which in fragments)
        return size_bytes <= self._enclosed_bytes

    def withdraw(self, *, keep: bool = False, stop: bool = False) -> None:
        """Remove lease, manifest and mail: a node that does not find the lease stops, and cleans up after itself.

        Args:
            keep: Leave the manifest: the query is to be kept.
            stop: Say first that the query is over: nodes may be working on it still.

        Raises:
            StorageError: If they cannot be removed.
        """
        try:
            if keep or stop:
                self._has_others = True
                cancel = Cancel(query_id=self._query_id, by=self._coordinator)
                write_message(self._store, keys.cancel(self._query_id), cancel)
        finally:
            manifest = () if keep else (keys.manifest(self._query_id),)
            self._store.delete([keys.lease(self._query_id), *manifest])
            self.take_mail_back()

    def take_mail_back(self) -> None:
        """Remove the mail that no node has read.

        Raises:
            StorageError: If it cannot be removed.
        """
        self._store.delete(self._unread_mail())

    def _was_read(self, record: CommitRecord | ErrorReport) -> None:
        """Note that the node has read, and therefore deleted, the mail that asked for an attempt."""
        key = self._asked_in.pop((record.stage, record.task, record.attempt), None)
        if key is not None:
            self._mail.pop(key, None)

    def _unread_mail(self) -> list[str]:
        """Return the keys of this query's mail that no node has read.

        When a node has read mail, its number may be given to another session's: a key alone does not say whose it is.
        """
        found: list[str] = []
        for key, mail in self._mail.items():
            try:
                there = read_message(self._store, key, Mail)
            except ObjectRefused:
                continue  # whatever that is, the node will throw it away
            if there is not None and there.token == mail.token:
                found.append(key)
        return found

    def keep(self, outcome: Outcome, tasks: Mapping[int, Sequence[TaskSpec]], root: Stage | None) -> None:
        """Write what makes a query that is over worth keeping: its tasks, and how it ended, which comes last.

        Args:
            outcome: How it ended.
            tasks: The tasks of each stage, as they were sent last.
            root: The stage that ran in the session, as it ran; None if it cannot be run once more.

        Raises:
            StorageError: If something cannot be written.
        """
        if root is not None:
            write_bytes(self._store, keys.plan(self._query_id, root.stage), codec.encode(root.fragment))
        for stage, specs in tasks.items():
            for some in _in_parts(specs, _kept_bytes, KEPT_TASKS_BYTES):
                message = StageTasks(query_id=self._query_id, stage=stage, tasks=some)
                write_message(self._store, keys.tasks(self._query_id, stage, some[0].task), message)
        write_message(self._store, keys.outcome(self._query_id), outcome)

    def remove(self) -> None:
        """Remove everything that is left.

        Raises:
            StorageError: If it cannot be removed.
        """
        known = self._known()
        if known is None or self._store.kind == "folder":
            # In a folder, the folder goes as well.
            self._store.delete_prefix(keys.query_prefix(self._query_id))
        else:
            self._store.delete(known)

    def _known(self) -> list[str] | None:
        """Return the keys of all that is left, if that needs no listing: all that was asked for was committed once."""
        if self._has_others or self._asked_in or len(self.commits) != self._sent:
            return None
        query_id = self._query_id
        found = [keys.lease(query_id), keys.manifest(query_id)]
        found += (keys.plan(query_id, *which) for which in self._fragments)
        for key, record in self.commits.items():
            found.append(keys.commit(query_id, key.stage, key.task, record.epoch))
            if record.partial.data is None and record.partial.within is None:
                found.append(record.partial.key)
        return found


def parcels(tasks: Iterable[Dispatch]) -> Iterator[tuple[Dispatch, ...]]:
    """Yield tasks in mails: all in one, unless what they are to read takes many bytes."""
    return _in_parts(tasks, _carried_bytes, MAIL_CARRIES_BYTES)


def _carried_bytes(task: Dispatch) -> int:
    segments = sum(len(exchange.segments) for exchange in task.spec.exchanges)
    return task.spec.carried_bytes + segments * REFERENCE_BYTES


def _kept_bytes(spec: TaskSpec) -> int:
    """Return what a task takes in a message, however many segments it reads."""
    return len(msgspec.json.encode(spec))


def _in_parts(things: Iterable[_T], size_of: Callable[[_T], int], most_bytes: int) -> Iterator[tuple[_T, ...]]:
    """Yield things in parts of at most so many bytes, or of a single one that is larger."""
    part: list[_T] = []
    filled_bytes = 0
    for thing in things:
        size_bytes = size_of(thing)
        if part and filled_bytes + size_bytes > most_bytes:
            yield tuple(part)
            part, filled_bytes = [], 0
        part.append(thing)
        filled_bytes += size_bytes
    if part:
        yield tuple(part)
