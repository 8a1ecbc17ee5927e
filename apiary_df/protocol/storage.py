"""Reading and writing what processes tell each other: the one place where objects are sealed and their seals opened.

Everything that is not a partial goes through here: messages of :mod:`apiary_df.protocol.messages`, and fragments. What
is refused is counted once at the store (:class:`~apiary_df.store_options.RefusalCounts`), logged, and raised.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TypeVar

import msgspec
import xxhash

from apiary_df.errors import ObjectMissing, ObjectRefused
from apiary_df.model import Within
from apiary_df.protocol import keys
from apiary_df.protocol.checks import check_place, check_rest
from apiary_df.protocol.messages import Cancel, CommitRecord, Heartbeat, Lease, decode, encode
from apiary_df.protocol.seal import MAX_HEADER_BYTES, TOO_LARGE, header_bytes, open_sealed, refused, seal, sealed_bytes
from apiary_df.store import Store

logger = logging.getLogger("apiary_df")

MAX_MESSAGE_BYTES = 64 << 20
"""Largest message that is read: a task over a hundred thousand cells has some 20 MB."""

MAX_SIGN_BYTES = 4 << 20
"""Largest heartbeat, lease or cancel: these are read all the time, so a planted one must not hold an observer up."""

MAX_FRAGMENT_BYTES = 256 << 20
"""Largest fragment: small in-memory tables travel within."""

FIRST_BYTES = 64 << 10
"""First bytes of a commit record's object that are read by who does not know how long the record may be."""

RECORD_BYTES = 2 << 10
SEGMENT_BYTES = 160
"""What a commit record takes at most, as a rule, without segments, and for each: with checksums that cannot be forged.
More is asked for if it is longer, by a second request."""

ALIGNMENT_BYTES = 64
"""A partial behind its commit record begins at a multiple of so many bytes."""

AT_ONCE = 32
"""Small requests that one process has under way at a time: a thread each, and far from what a bucket takes."""

_LOGGED_EACH = 3
"""Refusals of a kind that are logged one by one; after these, each time that their number has doubled."""

_Message = TypeVar("_Message", bound=msgspec.Struct)


def at_once(store: Store) -> int:
    """Return how many small requests are worth having under way at a time: one, unless each waits for a network."""
    return AT_ONCE if store.kind == "bucket" else 1


def limit_of(type_: type[msgspec.Struct]) -> int:
    """Return the largest size of a message of a type, in bytes."""
    return MAX_SIGN_BYTES if issubclass(type_, (Heartbeat, Lease, Cancel)) else MAX_MESSAGE_BYTES


def write_message(store: Store, key: str, message: msgspec.Struct) -> None:
    """Put a message into storage, over any that is there.

    Raises:
        StorageError: If the store refused or failed.
    """
    store.put(key, seal(encode(message), key, store.options.swarm_key))


def create_message(store: Store, key: str, message: msgspec.Struct, token: str) -> bool:
    """Put a message into storage unless its key is taken; False if another writer's object is there.

    Args:
        store: The store.
        key: Where.
        message: What; it carries ``token``.
        token: The writer's random token.

    Raises:
        StorageError: If the store refused or failed.
    """
    return store.create(key, seal(encode(message), key, store.options.swarm_key), token)


def create_record(store: Store, record: CommitRecord, attached: bytes | None = None) -> bool:
    """Commit an attempt, unless another one was first; False if another one's record is there.

    Args:
        store: The store.
        record: The record.
        attached: The partial, if it is to lie behind the record in the same object: the record is told where.

    Raises:
        StorageError: If the store refused or failed.
    """
    key = keys.commit(record.query_id, record.stage, record.task, record.epoch)
    if attached is None:
        return create_message(store, key, record, record.token)
    data = with_partial(record, key, attached, store.options.swarm_key)
    return store.create(key, data, record.token)


def with_partial(record: CommitRecord, key: str, attached: bytes, swarm_key: str | None) -> bytes:
    """Return a commit record, sealed, with its partial behind it; the record says where that begins.

    Args:
        record: The record.
        key: Where the object is to lie.
        attached: The partial.
        swarm_key: What to sign with; None only takes a checksum.
    """

    def told(offset: int) -> bytes:
        within = Within(key=key, offset=offset)
        return encode(msgspec.structs.replace(record, partial=replace(record.partial, within=within)))

    first_line = header_bytes(swarm_key)
    # How long the record is depends on where it ends, by some digits: spaces after it make up for these.
    most = first_line + len(told(MAX_MESSAGE_BYTES))
    offset = -(-most // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    content = told(offset).ljust(offset - first_line)
    return b"".join((seal(content, key, swarm_key, followed=True), attached))


def record_bytes(partitions: int, inline_bytes: int) -> int:
    """Return how many bytes a commit record takes, about, and rarely more.

    Args:
        partitions: Output partitions of its task.
        inline_bytes: Size up to which a partial lies in it.
    """
    return RECORD_BYTES + SEGMENT_BYTES * partitions + 4 * inline_bytes // 3


def read_message(store: Store, key: str, type_: type[_Message], *, first_bytes: int = FIRST_BYTES) -> _Message | None:
    """Return the message at a key; None if nothing lies there.

    Args:
        store: The store.
        key: Where.
        type_: What it must be.
        first_bytes: So many bytes of a commit record's object are read by the first request, since there may be a
            partial behind it.

    Raises:
        ObjectRefused: If what lies there is not to be taken: not sealed, not signed, of another place, too large, or no
            such message.
        StorageError: If the store refused or failed.
    """
    has_more = issubclass(type_, CommitRecord)
    found = _get_record(store, key, first_bytes) if has_more else _get_sized(store, key, limit_of(type_))
    if found is None:
        return None
    data, size_bytes = found
    try:
        message = decode(open_sealed(data, key, store.options.swarm_key), type_, key)
        check_place(message, key)
        check_rest(message, key, len(data), size_bytes)
    except ObjectRefused as error:
        note_refusal(store, error, xxhash.xxh3_64_hexdigest(data))
        raise
    return message


def write_bytes(store: Store, key: str, content: bytes) -> None:
    """Put sealed bytes into storage, over any that are there.

    Raises:
        StorageError: If the store refused or failed.
    """
    store.put(key, seal(content, key, store.options.swarm_key))


def read_bytes(store: Store, key: str) -> bytes:
    """Return sealed bytes, at most :data:`MAX_FRAGMENT_BYTES` of them.

    Raises:
        ObjectMissing: If nothing lies there.
        ObjectRefused: As :func:`read_message`.
        StorageError: If the store refused or failed.
    """
    data = _get(store, key, MAX_FRAGMENT_BYTES)
    if data is None:
        raise ObjectMissing(f"read {key!r} in {store.url}: there is no such object", key=key)
    try:
        return open_sealed(data, key, store.options.swarm_key)
    except ObjectRefused as error:
        note_refusal(store, error, xxhash.xxh3_64_hexdigest(data))
        raise


def _get_record(store: Store, key: str, first_bytes: int) -> tuple[bytes, int] | None:
    """Return a commit record, sealed, and the size of its object; None if there is none."""
    found = store.get_start(key, max(first_bytes, MAX_HEADER_BYTES))
    if found is None:
        return None
    start, size_bytes = found
    wanted = sealed_bytes(start, size_bytes)
    if wanted > MAX_MESSAGE_BYTES + MAX_HEADER_BYTES:
        error = refused(key, TOO_LARGE, f"has a record of {wanted} bytes; more than {MAX_MESSAGE_BYTES} are not read")
        note_refusal(store, error)
        raise error
    if wanted > len(start):
        try:
            start += store.get_range(key, len(start), wanted - len(start))
        except ObjectMissing:
            return None
    return start[:wanted], size_bytes


def _get_sized(store: Store, key: str, limit_bytes: int) -> tuple[bytes, int] | None:
    data = _get(store, key, limit_bytes)
    return None if data is None else (data, len(data))


def _get(store: Store, key: str, limit_bytes: int) -> bytes | None:
    try:
        return store.get_or_none(key, limit_bytes + MAX_HEADER_BYTES)
    except ObjectRefused as error:
        note_refusal(store, error)
        raise


def note_refusal(store: Store, error: ObjectRefused, mark: str = "") -> None:
    """Count an object that was refused, once however often it is looked at, and log it.

    Args:
        store: Where it lies.
        error: Why it was refused.
        mark: What changes when the object does.
    """
    reason = error.details.get("reason", "")
    count = store.refusals.add(reason, (error.details.get("key", ""), mark))
    if count and (count <= _LOGGED_EACH or count & (count - 1) == 0):
        logger.warning("refused (%s, number %d): %s", reason, count, error)
