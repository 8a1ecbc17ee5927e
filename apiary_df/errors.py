"""Every error that apiary_df raises, in one tree, split by what the caller can do about it.

::

    ApiaryError
    ├── InputError            the caller's words are wrong: nothing was started
    │   ├── ConfigError           a setting, option or flag
    │   ├── SqlError              SQL that does not parse, bind or plan
    │   └── TableError            a table that cannot be registered or read as cells
    ├── StorageError          the storage root
    │   ├── StorageUnreachable    cannot be reached or written at all
    │   ├── StorageTransient      timed out, throttled, 5xx (retryable)
    │   ├── ObjectMissing         a key that must exist does not
    │   ├── ObjectExists          a create-once key is taken
    │   ├── ObjectDamaged         length, checksum or encoding is wrong (retryable: the attempt is redone)
    │   │   └── ObjectRefused         not sealed, not signed, too large, or of something else
    │   └── PartialLost           a committed partial is gone or damaged (retryable: its task is done again)
    ├── SwarmError            nodes
    │   ├── NoAliveNodes
    │   ├── UnknownNode
    │   ├── NodeStartFailed
    │   ├── VersionMismatch
    │   ├── FunctionsRefused      nodes, or this one, may not run Python functions (retryable elsewhere)
    │   ├── RootsRefused          nodes, or this one, may not read or write there (retryable elsewhere)
    │   └── FunctionNotLoadable   a Python function cannot be loaded on a node (retryable elsewhere)
    ├── PlanError             the plan cannot be decoded, rewritten or cut
    ├── InternalError         a defect of apiary_df itself
    │   └── AnswerDiffers         the swarm's answer is not plain DataFusion's (only with verify)
    └── QueryError            a query that started and did not finish
        ├── ExecutionFailed       DataFusion raised on the data or the SQL
        ├── ResourcesExhausted    memory or disk of a bee did not suffice (retryable)
        │   └── BeeOutOfMemory        a bee's process was killed for its memory (retryable)
        ├── BeeLost               a bee's process died under its task (retryable)
        ├── TaskFailed            a task raised; carries task, node and cells
        ├── QueryLost             another process took the session for dead, and removed the query (retryable)
        ├── WriteUndone           another process took the session for dead, and took its files back (retryable)
        ├── QueryTimeout
        └── QueryCancelled

Each class has a stable ``code`` (its wire name, never reused), and a ``retryable`` flag: true if the same
call may succeed later without anybody changing anything. ``elsewhere`` is true if it never will on the node that
raised it, but may on another; ``exhausted`` is true if more memory would help. Errors cross
processes as :class:`ErrorInfo`, structure that is never parsed back out of text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

MAX_DETAIL_CHARS = 4_000
"""Longest text that one error detail carries across processes; the rest is cut and marked."""

MAX_NUMBER_DIGITS = 10
"""Digits of a number in an error's details above which it is none of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """The wire form of an error.

    Attributes:
        code: Stable code of the error class.
        message: What was attempted, on what, what came back and what to do, for a person.
        details: Named facts (key, node, task, cells, ...), as text.
        retryable: Whether another attempt may succeed.
    """

    code: str
    message: str
    details: Mapping[str, str] = field(default_factory=dict)
    retryable: bool = False


class ApiaryError(Exception):
    """Base of every error that apiary_df raises.

    Args:
        message: What was attempted, on what, what came back, and what to do.
        **details: Named facts for programs and logs; values become text.
    """

    code: ClassVar[str] = "apiary"
    retryable: ClassVar[bool] = False
    elsewhere: ClassVar[bool] = False
    exhausted: ClassVar[bool] = False

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, str] = {k: _shorten(str(v)) for k, v in details.items() if v is not None}

    def to_info(self) -> ErrorInfo:
        """Return the wire form of this error."""
        return ErrorInfo(
            code=self.code,
            message=_shorten(self.message),
            details=dict(self.details),
            retryable=self.retryable,
        )

    @staticmethod
    def from_info(info: ErrorInfo) -> ApiaryError:
        """Rebuild an error of the right class from its wire form.

        An unknown code (a newer peer's) gives a plain :class:`ApiaryError` with the code in its details.
        """
        cls = _by_code().get(info.code)
        known = ApiaryError if cls is None else cls
        error = known.__new__(known)
        ApiaryError.__init__(error, _shorten(info.message))
        # Not as arguments: a detail may have any name, that of a parameter too.
        error.details = {name: _shorten(value) for name, value in info.details.items()}
        if cls is None:
            error.details["code"] = info.code
        return error


class InputError(ApiaryError):
    """The caller's input is wrong; no work was started."""

    code = "input"


class ConfigError(InputError):
    """A setting, option or flag is missing, malformed or contradicts another."""

    code = "config"


class SqlError(InputError, ValueError):
    """SQL that does not parse, names what does not exist, or cannot be planned.

    It is a ``ValueError`` too, which is what datafusion raises for the same.
    """

    code = "sql"


class TableError(InputError):
    """A table that cannot be made of the given files."""

    code = "table"


class StorageError(ApiaryError):
    """The storage root answered with an error that is not expected to pass by itself."""

    code = "storage"


class StorageUnreachable(StorageError):
    """The storage root cannot be reached, or not be written."""

    code = "storage_unreachable"


class StorageTransient(StorageError):
    """The store timed out, throttled or failed on its side, still after the retries."""

    code = "storage_transient"
    retryable = True


class ObjectMissing(StorageError):
    """A key that must exist does not."""

    code = "object_missing"


class ObjectExists(StorageError):
    """A create-once key is taken already."""

    code = "object_exists"


class ObjectDamaged(StorageError):
    """An object's length, checksum or encoding is wrong."""

    code = "object_damaged"
    retryable = True


class ObjectRefused(ObjectDamaged):
    """An object that is not taken: no seal, no signature, another place's, too large; ``reason`` in the details."""

    code = "object_refused"


class PartialLost(StorageError):
    """A partial that was committed is gone, or damaged. ``details`` hold ``key``, ``stage``, ``task`` and ``attempt``.

    The task that made it has to be done again, and so has what was made from it.
    """

    code = "partial_lost"
    retryable = True

    @property
    def producer(self) -> tuple[int, int, int] | None:
        """Stage, task and attempt that made the partial; None if the details do not say."""
        numbers = [self.details.get(name, "") for name in ("stage", "task", "attempt")]
        if not all(number.isascii() and number.isdigit() and len(number) < MAX_NUMBER_DIGITS for number in numbers):
            return None
        stage, task, attempt = map(int, numbers)
        return stage, task, attempt


class SwarmError(ApiaryError):
    """The swarm cannot take the work."""

    code = "swarm"


class NoAliveNodes(SwarmError):
    """No node is alive."""

    code = "no_alive_nodes"
    retryable = True


class UnknownNode(SwarmError):
    """A node id that is not among those seen."""

    code = "unknown_node"


class NodeStartFailed(SwarmError):
    """A node process could not be started, or refused to start."""

    code = "node_start_failed"


class VersionMismatch(SwarmError):
    """Two sides speak different versions of the protocol or of DataFusion."""

    code = "version_mismatch"


class FunctionsRefused(SwarmError):
    """Python functions come with a plan, and whoever should run them was not started with ``--allow-udfs``."""

    code = "functions_refused"
    elsewhere = True


class RootsRefused(SwarmError):
    """A plan reads or writes where whoever should run it was not allowed to (``--allow-root``)."""

    code = "roots_refused"
    elsewhere = True


class FunctionNotLoadable(SwarmError):
    """A Python function that came with a plan cannot be loaded: a module is missing, or of another version."""

    code = "function_not_loadable"
    elsewhere = True


class PlanError(ApiaryError):
    """A physical plan cannot be decoded, rewritten or cut."""

    code = "plan"


class InternalError(ApiaryError):
    """Something that the code rules out has happened: a defect of apiary_df, worth a report."""

    code = "internal"


class AnswerDiffers(InternalError):
    """The swarm's answer is not plain DataFusion's; raised by sessions that verify, before any row is handed over.

    ``details`` hold ``query_id``, ``sql`` and ``difference``.
    """

    code = "answer_differs"


class QueryError(ApiaryError):
    """A query that was started did not finish."""

    code = "query"


class ExecutionFailed(QueryError):
    """DataFusion raised while it ran a fragment: an overflow, a bad cast, a corrupt file."""

    code = "execution_failed"


class ResourcesExhausted(QueryError):
    """A fragment needed more memory or disk than its bee has."""

    code = "resources_exhausted"
    retryable = True
    exhausted = True


class BeeOutOfMemory(ResourcesExhausted):
    """A bee's process held more memory than it may and was killed for it, by its node or by the system.

    ``details`` hold ``budget_bytes``, and ``held_bytes`` or ``peak_bytes`` as far as they are known.
    """

    code = "bee_out_of_memory"


class BeeLost(QueryError):
    """A bee's process died while it ran a task, or none could be started.

    ``details`` hold ``ending`` (a signal's name, or an exit code), ``peak_bytes`` and ``budget_bytes``.
    """

    code = "bee_lost"
    retryable = True


class TaskFailed(QueryError):
    """A task raised. ``details`` hold ``task``, ``node`` and ``cells``; ``cause`` is the first cause."""

    code = "task_failed"


class QueryLost(QueryError):
    """The session gave no sign of life for so long that another process removed what the query had in storage."""

    code = "query_lost"
    retryable = True


class WriteUndone(QueryError):
    """Another process took the session for dead and took back the files of its write; none of them is left."""

    code = "write_undone"
    retryable = True


class QueryTimeout(QueryError):
    """The query's ``timeout_s`` passed before it ended."""

    code = "query_timeout"


class QueryCancelled(QueryError):
    """The query was cancelled before it ended."""

    code = "query_cancelled"


def all_error_classes() -> Iterator[type[ApiaryError]]:
    """Yield every class of the tree, parents before children."""
    pending: list[type[ApiaryError]] = [ApiaryError]
    while pending:
        cls = pending.pop(0)
        yield cls
        pending.extend(cls.__subclasses__())


def _by_code() -> dict[str, type[ApiaryError]]:
    return {cls.code: cls for cls in all_error_classes()}


def _shorten(text: str) -> str:
    if len(text) <= MAX_DETAIL_CHARS:
        return text
    return text[:MAX_DETAIL_CHARS] + f" … ({len(text) - MAX_DETAIL_CHARS} more characters)"
