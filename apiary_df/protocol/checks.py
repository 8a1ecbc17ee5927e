"""Does a message belong where it lies, and does it name only what it may? Pure functions on messages and keys.

A seal says who wrote a message and for which place. This is about what is in it: ids that must be those of the key, and
keys that must be those of the same query. Whatever a reader is going to fetch or delete is checked here first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec

from apiary_df.model import PartialRef, SegmentRef, TaskSpec, Within
from apiary_df.protocol import keys
from apiary_df.protocol.kept import StageTasks
from apiary_df.protocol.messages import CommitRecord, ErrorReport, Heartbeat, Mail, WriteJournal, WriteVerdict
from apiary_df.protocol.seal import DAMAGED, MISPLACED, refused
from apiary_df.writes import query_of_staging

_MOST = 2**63 - 1
"""Largest number that plans hold."""

STAGING_FILES = (WriteJournal, WriteVerdict)
"""What lies beside the files that a statement writes, not below the root."""


def check_place(message: msgspec.Struct, key: str) -> None:
    """Check that a message is of the query, stage, task, attempt or node that its key says.

    Raises:
        ObjectRefused: If it is of something else, or names a partial of another query.
    """
    if isinstance(message, Heartbeat):
        _same(key, node_id=(message.node_id, keys.node_of_heartbeat(key)))
    elif isinstance(message, Mail):
        _check_mail(message, key)
    elif isinstance(message, STAGING_FILES):
        _same(key, query_id=(message.query_id, query_of_staging(key.split("/", 1)[0])))
        if isinstance(message, WriteJournal):
            _check_published(message, key)
    elif key.startswith(keys.WRITES):
        _same(key, query_id=(_field(message, "query_id"), keys.query_of_write(key)))
    else:
        _check_in_query(message, key)


def check_rest(message: msgspec.Struct, key: str, sealed_bytes: int, size_bytes: int) -> None:
    """Check that nothing follows a message in its object but the partial that it commits, whole.

    Args:
        message: The message.
        key: Where it lies.
        sealed_bytes: Bytes of the message with its seal.
        size_bytes: Bytes of the object.

    Raises:
        ObjectRefused: If it is cut short, or something else follows.
    """
    partial = message.partial if isinstance(message, CommitRecord) else None
    rest_bytes = 0 if partial is None or partial.within is None else partial.length
    if partial is not None and partial.within is not None and partial.within.offset != sealed_bytes:
        _misplaced(key, f"says that its partial begins at byte {partial.within.offset}, and ends at {sealed_bytes}")
    if size_bytes != sealed_bytes + rest_bytes:
        raise refused(key, DAMAGED, f"has {size_bytes} bytes instead of {sealed_bytes + rest_bytes}")


def _check_in_query(message: msgspec.Struct, key: str) -> None:
    place = keys.parse_query_key(key)
    if place is None:
        _misplaced(key, f"is no place for a {type(message).__name__}")
    _same(key, query_id=(_field(message, "query_id"), place.query_id))
    if isinstance(message, (CommitRecord, ErrorReport)):
        _same(key, stage=(message.stage, place.stage), task=(message.task, place.task))
    if isinstance(message, ErrorReport):
        _same(key, attempt=(message.attempt, place.attempt))
    if isinstance(message, StageTasks):
        first = message.tasks[0].task if message.tasks else place.task
        _same(key, stage=(message.stage, place.stage), task=(first, place.task))
        _check_specs(message.tasks, message.query_id, key)
    if isinstance(message, CommitRecord):
        _same(key, epoch=(message.epoch, place.attempt))
        made = keys.parse_query_key(message.partial.key)
        if (
            made is None
            or (made.kind, made.query_id) != ("partial", message.query_id)
            or (made.stage, made.task, made.attempt) != (message.stage, message.task, message.attempt)
        ):
            _misplaced(key, f"commits {message.partial.key!r}, which is not its attempt's partial")
        _check_partial(message.partial, key)


def _check_mail(mail: Mail, key: str) -> None:
    if keys.number_of_mail(key) is None:
        _misplaced(key, "is no place for mail")
    if mail.manifest is not None:
        _same(key, query_id=(mail.manifest.query_id, mail.query_id))
    _check_specs((task.spec for task in mail.tasks), mail.query_id, key)


def _check_specs(specs: Iterable[TaskSpec], query_id: str, key: str) -> None:
    """Check that tasks read partials of their own query, and spans that can be in these."""
    for spec in specs:
        for scan in spec.scans:
            for file in scan.files:
                numbers = (file.size_bytes, file.last_modified_ns, file.range_start or 0, file.range_end or 0)
                if not all(0 <= number <= _MOST for number in numbers):
                    _misplaced(key, f"has a task read {file.path!r} in a range that no file has")
        for exchange in spec.exchanges:
            for segment in exchange.segments:
                made = keys.parse_query_key(segment.key)
                if made is None or (made.kind, made.query_id) != ("partial", query_id):
                    _misplaced(key, f"has a task of query {query_id} read {segment.key!r}")
                _check_segment(segment, made, key)


def _check_published(journal: WriteJournal, key: str) -> None:
    """Check the names that whoever takes the write back would delete."""
    for name in journal.published:
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or not parts[-1].startswith(f"{journal.query_id}_"):
            _misplaced(key, f"names {name!r}, which is no file that query {journal.query_id} writes")


def _check_partial(partial: PartialRef, key: str) -> None:
    if partial.data is not None and len(partial.data) != partial.length:
        _misplaced(key, f"holds a partial of {partial.length} bytes in {len(partial.data)}")
    if partial.within is not None:
        if partial.within.key != key or partial.data is not None:
            _misplaced(key, f"commits a partial that lies within {partial.within.key!r}")
        _check_within(partial.within, key)
    spans = ((segment.offset, segment.length) for segment in partial.segments)
    _check_spans(key, partial.head_length, partial.footer_offset, partial.length, list(spans))


def _check_segment(ref: SegmentRef, made: keys.QueryKey, key: str) -> None:
    if ref.within is not None:
        record = keys.parse_query_key(ref.within.key)
        if (
            record is None
            or (record.kind, record.query_id) != ("commit", made.query_id)
            or (record.stage, record.task) != (made.stage, made.task)
        ):
            _misplaced(key, f"has a task read {ref.key!r} within {ref.within.key!r}")
        _check_within(ref.within, key)
    if ref.data is not None and len(ref.data) != ref.segment.length:
        _misplaced(key, f"holds a segment of {ref.segment.length} bytes in {len(ref.data)}")
    span = (ref.segment.offset, ref.segment.length)
    _check_spans(key, ref.head_length, ref.footer_offset, ref.object_length, [span])


def _check_within(within: Within, key: str) -> None:
    if not 0 <= within.offset <= _MOST:
        _misplaced(key, f"has a partial begin at byte {within.offset} of {within.key!r}")


def _check_spans(key: str, head: int, footer: int, length: int, spans: list[tuple[int, int]]) -> None:
    if not 0 <= head <= footer <= length:
        _misplaced(key, f"describes a partial of {length} bytes with a head of {head} and a footer at {footer}")
    for offset, size in spans:
        if not (size >= 0 and head <= offset and offset + size <= footer):
            _misplaced(key, f"describes a segment of {size} bytes at {offset}, outside of its partial's rows")


def _field(message: msgspec.Struct, name: str) -> Any:
    return getattr(message, name, None)


def _same(key: str, **pairs: tuple[object, object]) -> None:
    for name, (found, expected) in pairs.items():
        if found != expected:
            _misplaced(key, f"is of {name.removesuffix('_id')} {found!r}")


def _misplaced(key: str, words: str) -> NoReturn:
    raise refused(key, MISPLACED, words)
