"""The JSON objects that cross storage: typed, and validated when they are decoded.

Unknown fields are ignored, so that a newer peer may add some. Nothing here holds a secret. How they are sealed, and how
large they may be, is :mod:`apiary_df.protocol.storage`'s business.
"""

from __future__ import annotations

from threading import Lock
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec

from apiary_df.errors import ErrorInfo
from apiary_df.model import CellUse, PartialRef, TaskKey, TaskSpec, WrittenFile
from apiary_df.protocol.keys import ID_PATTERN
from apiary_df.protocol.seal import MALFORMED, refused

MAX_BEES = 1024
"""More execution slots than any machine has cores: a number above it is a slip, or a lie."""

Id: TypeAlias = Annotated[str, msgspec.Meta(pattern=ID_PATTERN)]
"""A node's or query's id; checked when decoded, since it becomes part of keys."""

Token: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
"""A writer's random token."""

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A number of things, or of bytes."""

Slots: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MAX_BEES)]
"""Bees' shares of a node's memory."""

Bees: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_BEES)]
"""A number of execution slots."""

Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
"""A duration."""

Label: TypeAlias = Annotated[str, msgspec.Meta(max_length=1024, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]
"""A text that is shown to people: without control characters, which a terminal would obey."""

_Message = TypeVar("_Message", bound=msgspec.Struct)


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a heartbeat that every version of the protocol has, so that any peer can be told apart.

    Attributes:
        node_id: Id of the node.
        protocol_version: Version of this protocol that it speaks.
        datafusion_version: DataFusion that it runs.
        apiary_version: apiary_df that it runs.
    """

    node_id: Id
    protocol_version: int
    datafusion_version: Label = "unknown"
    apiary_version: Label = "unknown"


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """A node's sign of life, overwritten at every beat. All sizes in bytes.

    Attributes:
        node_id: Id of the node.
        seq: Number of the beat; it changes with each, which is how observers tell that the node lives.
        protocol_version: Version of this protocol that the node speaks.
        datafusion_version: DataFusion that it runs.
        apiary_version: apiary_df that it runs.
        hostname: Name of its machine, for people.
        pid: Its process id, for people.
        cores: CPU cores that it may use.
        memory_bytes: Memory that it may use.
        memory_per_bee: Budget of one bee.
        target_cell_size: Cells above this are worth splitting.
        bees_total: Execution slots.
        bees_busy: Slots that have work.
        cached_cells: Storage key to bytes that it holds in its cell cache.
        inbox_next: Number of the mail that it reads next.
        leaving: It takes no new work.
        allow_udfs: It runs Python functions that come with plans.
        python_version: Python that it runs, as ``3.11``: functions are pickled for one minor version.
        allow_roots: URLs of the folders and prefixes that it reads cells from and writes files to.
        refused: How many objects it has not taken, by reason (see :data:`apiary_df.protocol.seal.REASONS`).
        queries: Queries that it works on.
        started_at: When it started, by its own clock, for people.
        role: ``node``, or ``session`` for one that only coordinates.
        incarnation: Random, made at the node's start: who comes back under the same id is somebody else.
    """

    node_id: Id
    seq: Count
    protocol_version: int
    datafusion_version: Label
    apiary_version: Label
    hostname: Label
    pid: Count
    cores: Count
    memory_bytes: Count
    memory_per_bee: Count
    target_cell_size: Count
    bees_total: Bees
    bees_busy: Bees
    cached_cells: dict[str, Count]
    inbox_next: Count
    leaving: bool
    allow_udfs: bool
    queries: tuple[Id, ...]
    started_at: Label
    role: Literal["node", "session"] = "node"
    python_version: Label = "unknown"
    allow_roots: tuple[Label, ...] = ()
    refused: dict[Label, Count] = {}
    incarnation: Label = ""


class StageEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A stage as the manifest describes it.

    Attributes:
        stage: Its number.
        inputs: The stages that it reads.
        output: ``hash`` or ``gather``.
        partitions: Output partitions.
        schema: Schema of its partials, as an Arrow IPC schema message.
    """

    stage: Count
    inputs: tuple[Count, ...]
    output: str
    partitions: Count
    schema: bytes


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A query, written once before its first task is sent; its absence means that the query is over.

    Attributes:
        query_id: The query.
        coordinator: The session that runs it.
        sql: Its text, if it came as SQL; for people.
        protocol_version: Version of this protocol.
        datafusion_version: DataFusion that planned it.
        settings: DataFusion options that differ from their defaults; tasks run under exactly these.
        created_at: When it started, by the coordinator's clock, for people.
        timeout_s: Its deadline, counted from its start, in seconds; None if it has none.
        stages: All stages but the root.
        created_folders: For a query that writes files, how many folders were made for them, from the target upwards.
    """

    query_id: Id
    coordinator: Id
    sql: str | None
    protocol_version: int
    datafusion_version: str
    settings: dict[str, str]
    created_at: str
    timeout_s: Seconds | None
    stages: tuple[StageEntry, ...]
    created_folders: Count = 0


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The coordinator's own sign of life for one query."""

    query_id: Id
    coordinator: Id
    seq: Count


class Cancel(msgspec.Struct, frozen=True, kw_only=True):
    """Says that a query is over, however it ended: whoever works on it stops.

    Attributes:
        query_id: The query.
        by: Who says so.
    """

    query_id: Id
    by: Id


class TaskMail(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that a node is asked to make.

    Attributes:
        spec: What the task reads.
        attempt: Number of the attempt, from 0.
        slots: How many bees' shares of the node's memory it may use, >= 1; a node with fewer bees gives it all.
        epoch: Which life of the task it is: part of the key of its commit record.
    """

    spec: TaskSpec
    attempt: Count
    slots: Slots = 1
    epoch: Count = 0


class StoppedTask(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that is not wanted any more.

    Attributes:
        stage: The stage.
        task: The task.
        attempt: The attempt.
    """

    stage: Count
    task: Count
    attempt: Count


class StageFragment(msgspec.Struct, frozen=True, kw_only=True):
    """A stage's fragment, as it lies in storage too.

    Attributes:
        stage: The stage.
        version: Which of the stage's fragments it is.
        plan: The fragment.
    """

    stage: Count
    plan: bytes
    version: Count = 0


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks for one node.

    Attributes:
        token: Random; tells a writer whether a mail that is there is its own.
        query_id: The query that the tasks are of.
        sender: The session that sent them.
        incarnation: For which life of the node; put back in its inbox after a restart, it is refused.
        tasks: What to do.
        stopped: What to stop doing.
        remaining_s: Seconds until the query's deadline, when this was sent; None if it has none. The node counts them
            from when it read this.
        manifest: The query's manifest, if it and the fragments are small: a node need not read them then.
        fragments: Fragments of the tasks' stages, or none.
    """

    token: Token
    query_id: Id
    sender: Id
    tasks: tuple[TaskMail, ...]
    incarnation: Label = ""
    stopped: tuple[StoppedTask, ...] = ()
    remaining_s: Seconds | None = None
    manifest: Manifest | None = None
    fragments: tuple[StageFragment, ...] = ()


class TaskMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt took.

    Attributes:
        rows_out: Rows of its partial.
        bytes_out: Bytes of its partial.
        bytes_in: Bytes of cells and segments that it was given.
        queued_s: Seconds from receiving it to taking it up.
        seconds: Seconds from taking it up to its commit.
        spill_count: Spill files.
        spilled_bytes: Bytes spilled.
        cells: Source file entries.
        requests: Requests to the swarm's store that the attempt made, by kind, its record and the look at the lease
            after it among them, and bytes moved. Looks for mail are not among them.
        cache: What the node's cell cache did for it.
    """

    rows_out: Count
    bytes_out: Count
    bytes_in: Count
    queued_s: Seconds
    seconds: Seconds
    spill_count: Count = 0
    spilled_bytes: Count = 0
    cells: Count = 0
    requests: dict[str, int] = {}
    cache: CellUse = CellUse()


class CommitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Says which attempt of a task counts, and where its rows lie; created once, the first wins.

    Attributes:
        token: Random; tells a writer whether a record that is there is its own.
        query_id: The query.
        stage: The stage.
        task: The task.
        attempt: The attempt that counts.
        node_id: The node that made it.
        partial: Where its rows lie, with lengths and checksums.
        metrics: What it took.
        files: Files that it wrote for a statement that writes files; they lie in the attempt's staging folder.
        epoch: Which life of the task it is.
    """

    token: Token
    query_id: Id
    stage: Count
    task: Count
    attempt: Count
    node_id: Id
    partial: PartialRef
    metrics: TaskMetrics
    files: tuple[WrittenFile, ...] = ()
    epoch: Count = 0

    @property
    def key(self) -> TaskKey:
        """The attempt that counts."""
        return TaskKey(query_id=self.query_id, stage=self.stage, task=self.task, attempt=self.attempt)


class ErrorReport(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt failed.

    Attributes:
        query_id: The query.
        stage: The stage.
        task: The task.
        attempt: The attempt.
        node_id: The node that made it.
        error: The first cause.
        seconds: Seconds from taking it up to its failure.
    """

    query_id: Id
    stage: Count
    task: Count
    attempt: Count
    node_id: Id
    error: ErrorInfo
    seconds: Seconds


class WriteNote(msgspec.Struct, frozen=True, kw_only=True):
    """Says below a root that a query writes files, and where its journal lies.

    Attributes:
        query_id: The query.
        coordinator: The session that runs it.
        base: URL of the folder below which the query's staging folder lies.
    """

    query_id: Id
    coordinator: Id
    base: str


class WriteJournal(msgspec.Struct, frozen=True, kw_only=True):
    """What must be taken back if the session that writes is lost; in the write's staging folder, beside the target.

    Attributes:
        query_id: The query.
        coordinator: The session that runs it.
        seq: Number of the journal; it is written anew all the time, which is how others tell that the session lives.
        dead_after_s: Age in seconds from which on the session is taken for dead.
        published: Keys, below the folder that holds the staging folder, that files of this write may have by now.
    """

    query_id: Id
    coordinator: Id
    seq: Count
    dead_after_s: Seconds
    published: tuple[str, ...] = ()


class WriteVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Says whether a write counts; created once, the first wins.

    Attributes:
        token: Random; tells a writer whether a verdict that is there is its own.
        query_id: The query.
        stands: Whether its files stay; if not, they are being taken back.
        by: Who decided.
    """

    token: Token
    query_id: Id
    stands: bool
    by: str


def encode(message: msgspec.Struct) -> bytes:
    """Return a message as JSON."""
    return msgspec.json.encode(message)


_decoders: dict[type[msgspec.Struct], msgspec.json.Decoder[Any]] = {}
_making = Lock()


def _decoder(type_: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    """Return the decoder of a type of message.

    They are made one at a time: msgspec finds out what a type holds when it first decodes one, and a second thread that
    decodes one meanwhile takes what is half found out for the whole, and crashes the process.
    """
    found = _decoders.get(type_)
    if found is None:
        with _making:
            found = _decoders[type_] = msgspec.json.Decoder(type_)
    return found


def decode(data: bytes, type_: type[_Message], key: str) -> _Message:
    """Return the message that bytes hold.

    Args:
        data: The bytes, without a seal.
        type_: What it must be.
        key: Where it lies, for the error.

    Raises:
        ObjectRefused: If they are no JSON, or not such a message.
    """
    try:
        message: _Message = _decoder(type_).decode(data)
        return message
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        # Brackets nested without end, even in an unknown field, raise what is no ValueError.
        raise refused(key, MALFORMED, f"is not a valid {type_.__name__}: {error}") from error
