"""Reading and writing what processes tell each other: the one place where objects are sealed and their seals opened.

Everything that is not a partial goes through here: messages of :mod:`apiary_df.protocol.messages`, and fragments. What
is refused is counted once at the store (:class:`~apiary_df.store_options.RefusalCounts`), logged, and raised.
"""

from __future__ import annotations

import logging
from typing import TypeVar

import msgspec
import xxhash

from apiary_df.errors import ObjectMissing, ObjectRefused
from apiary_df.protocol.checks import check_place
from apiary_df.protocol.messages import Cancel, Heartbeat, Lease, decode, encode
from apiary_df.protocol.seal import MAX_HEADER_BYTES, open_sealed, seal
from apiary_df.store import Store

logger = logging.getLogger("apiary_df")

MAX_MESSAGE_BYTES = 64 << 20
"""Largest message that is read: a task over a hundred thousand cells has some 20 MB."""

MAX_SIGN_BYTES = 4 << 20
"""Largest heartbeat, lease or cancel: these are read all the time, so a planted one must not hold an observer up."""

MAX_FRAGMENT_BYTES = 256 << 20
"""Largest fragment: small in-memory tables travel within."""

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


def read_message(store: Store, key: str, type_: type[_Message]) -> _Message | None:
    """Return the message at a key; None if nothing lies there.

    Raises:
        ObjectRefused: If what lies there is not to be taken: not sealed, not signed, of another place, too large, or no
            such message.
        StorageError: If the store refused or failed.
    """
    data = _get(store, key, limit_of(type_))
    if data is None:
        return None
    try:
        message = decode(open_sealed(data, key, store.options.swarm_key), type_, key)
        check_place(message, key)
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
