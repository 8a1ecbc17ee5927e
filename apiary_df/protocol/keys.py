"""Where things lie below a storage root: pure functions from ids to keys, and back.

::

    _swarm/nodes/{node_id}.json                     heartbeat
    _swarm/inbox/{node_id}/{n}.json                 numbered mail
    _queries/{query_id}/manifest.json               the query
    _queries/{query_id}/lease.json                  the coordinator's sign of life
    _queries/{query_id}/stage_{s}.plan              a stage's fragment
    _queries/{query_id}/partial_{s}_{t}_{a}.arrow   an attempt's partial
    _queries/{query_id}/commit_{s}_{t}_{e}.json     which attempt counts
    _queries/{query_id}/error_{s}_{t}_{a}.json      how an attempt failed
    _queries/{query_id}/cancel                      the query is over: stop working on it
    _queries/{query_id}/tasks_{s}_{t}.json          a stage's tasks from number t on (only of a query that is kept)
    _queries/{query_id}/outcome.json                how the query ended (only of a query that is kept)
    _writes/{query_id}.json                         where the files of a write under way lie

Ids that come from outside are checked before they become part of a key, so that no key leads out of its folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from apiary_df.errors import ConfigError

NODES = "_swarm/nodes/"
INBOX = "_swarm/inbox/"
QUERIES = "_queries/"
WRITES = "_writes/"
PROBES = "_probe/"

OUTCOMES = ("commit_", "error_")
"""How the names of objects of a query begin that tell how an attempt went."""

_ID_PART = r"[a-z0-9][a-z0-9-]{0,63}"

ID_PATTERN = rf"^{_ID_PART}\Z"
"""What node and query ids look like. Not ``$``, which lets a line feed follow."""

_ID = re.compile(_ID_PART)
_MAIL = re.compile(rf"_swarm/inbox/({_ID_PART})/(\d{{10,18}})\.json")
_HEARTBEAT = re.compile(rf"_swarm/nodes/({_ID_PART})\.json")
_WRITE = re.compile(rf"_writes/({_ID_PART})\.json")
_QUERY_FOLDER = re.compile(rf"_queries/({_ID_PART})/.+")
_IN_QUERY = re.compile(
    rf"_queries/(?P<query>{_ID_PART})/(?:"
    r"(?P<plain>manifest|lease|outcome)\.json"
    r"|(?P<bare>cancel)"
    r"|(?P<plan>stage)_(?P<plan_stage>\d+)(?:_\d+)?\.plan"
    r"|(?P<kept>tasks)_(?P<kept_stage>\d+)_(?P<kept_first>\d+)\.json"
    r"|(?P<attempt>partial|error|commit)_(?P<stage>\d+)_(?P<number>\d+)_(?P<try>\d+)\.(?:arrow|json))"
)
_NUMBER_DIGITS = 10
"""Digits of a mail's number, so that listings sort as numbers do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryKey:
    """What the key of an object of a query says.

    Attributes:
        query_id: The query.
        kind: ``manifest``, ``lease``, ``outcome``, ``cancel``, ``stage`` (a fragment), ``tasks``, ``commit``,
            ``partial`` or ``error``.
        stage: Stage number, where the kind has one.
        task: Task number, where the kind has one.
        attempt: Attempt number, where the kind has one; of a commit record, the task's epoch.
    """

    query_id: str
    kind: str
    stage: int | None = None
    task: int | None = None
    attempt: int | None = None


def check_id(value: str, what: str = "id") -> str:
    """Return an id that may be part of a key.

    Raises:
        ConfigError: If it is not 1 to 64 small letters, digits and dashes, beginning with a letter or digit.
    """
    if not _ID.fullmatch(value):
        raise ConfigError(
            f"{what} {value!r}: 1 to 64 characters of a-z, 0-9 and '-' are allowed, the first not a '-'", id=value
        )
    return value


def heartbeat(node_id: str) -> str:
    """Return the key of a node's heartbeat."""
    return f"{NODES}{check_id(node_id, 'node id')}.json"


def node_of_heartbeat(key: str) -> str | None:
    """Return whose heartbeat a key is; None if it is none."""
    match = _HEARTBEAT.fullmatch(key)
    return match.group(1) if match else None


def inbox_prefix(node_id: str) -> str:
    """Return the folder of a node's mail."""
    return f"{INBOX}{check_id(node_id, 'node id')}/"


def inbox(node_id: str, number: int) -> str:
    """Return the key of a mail."""
    return f"{inbox_prefix(node_id)}{number:0{_NUMBER_DIGITS}d}.json"


def number_of_mail(key: str) -> int | None:
    """Return the number of a mail; None if the key is none's."""
    match = _MAIL.fullmatch(key)
    return int(match.group(2)) if match else None


def node_of_mail(key: str) -> str | None:
    """Return into whose inbox a key leads; None if it is no mail's."""
    match = _MAIL.fullmatch(key)
    return match.group(1) if match else None


def query_prefix(query_id: str) -> str:
    """Return the folder of a query."""
    return f"{QUERIES}{check_id(query_id, 'query id')}/"


def manifest(query_id: str) -> str:
    """Return the key of a query's manifest."""
    return f"{query_prefix(query_id)}manifest.json"


def lease(query_id: str) -> str:
    """Return the key of a query's lease."""
    return f"{query_prefix(query_id)}lease.json"


def cancel(query_id: str) -> str:
    """Return the key of what says that a query is over."""
    return f"{query_prefix(query_id)}cancel"


def plan(query_id: str, stage: int, version: int = 0) -> str:
    """Return the key of a stage's fragment, as it was cut or as it was changed since."""
    return f"{query_prefix(query_id)}stage_{stage}{f'_{version}' if version else ''}.plan"


def partial(query_id: str, stage: int, task: int, attempt: int) -> str:
    """Return the key of an attempt's partial."""
    return f"{query_prefix(query_id)}partial_{stage}_{task}_{attempt}.arrow"


def commit(query_id: str, stage: int, task: int, epoch: int) -> str:
    """Return the key of a task's commit record; a task that is done again has another one, of the next epoch."""
    return f"{query_prefix(query_id)}commit_{stage}_{task}_{epoch}.json"


def error(query_id: str, stage: int, task: int, attempt: int) -> str:
    """Return the key of an attempt's failure report."""
    return f"{query_prefix(query_id)}error_{stage}_{task}_{attempt}.json"


def tasks(query_id: str, stage: int, first: int) -> str:
    """Return the key of a stage's tasks from a number on, as they lie there when the query is kept."""
    return f"{query_prefix(query_id)}tasks_{stage}_{first}.json"


def outcome(query_id: str) -> str:
    """Return the key of what became of a query, which lies there when the query is kept."""
    return f"{query_prefix(query_id)}outcome.json"


def write(query_id: str) -> str:
    """Return the key of the note that a query writes files."""
    return f"{WRITES}{check_id(query_id, 'query id')}.json"


def query_of_write(key: str) -> str | None:
    """Return the query of a note that it writes files; None if the key is none's."""
    match = _WRITE.fullmatch(key)
    return match.group(1) if match else None


def query_of(key: str) -> str | None:
    """Return into which query's folder a key leads, whatever the object is; None if into none."""
    match = _QUERY_FOLDER.fullmatch(key)
    return match.group(1) if match else None


def parse_query_key(key: str) -> QueryKey | None:
    """Return what the key of an object of a query says; None if it is no such key."""
    match = _IN_QUERY.fullmatch(key)
    if match is None:
        return None
    part = match.groupdict()
    if part["plain"]:
        return QueryKey(query_id=part["query"], kind=part["plain"])
    if part["bare"]:
        return QueryKey(query_id=part["query"], kind=part["bare"])
    if part["plan"]:
        return QueryKey(query_id=part["query"], kind="stage", stage=int(part["plan_stage"]))
    if part["kept"]:
        stage, first = int(part["kept_stage"]), int(part["kept_first"])
        return QueryKey(query_id=part["query"], kind="tasks", stage=stage, task=first)
    parsed = QueryKey(
        query_id=part["query"],
        kind=part["attempt"],
        stage=int(part["stage"]),
        task=int(part["number"]),
        attempt=int(part["try"]),
    )
    made = {"partial": partial, "error": error, "commit": commit}[parsed.kind]
    return parsed if made(part["query"], *(int(part[name]) for name in ("stage", "number", "try"))) == key else None
