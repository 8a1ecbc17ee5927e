"""Seals: a line in front of everything that lies in storage, by which a reader knows that it is whole, and whose.

::

    apiary seal 2 xxh3 0f343b0931126a20
    apiary seal 2 hmac 5d5d139563c95b59...
    └──┬──────┘ │ └─┬┘ └─┬────────────┘
     mark  version kind  digest of version, key in storage, and content

Without a swarm key the digest is a checksum, against damage. With one it is an HMAC-SHA256, against whoever may write
to the storage root without knowing the swarm key. Both cover the key at which the object lies, so that a copy at
another place (another node's inbox, another query, another stage) is refused like any forgery.

Where something follows the content that is not sealed, the first line says, in eight digits more, how long the content
is. Who reads such an object takes as much as that for the content, and the content says what the rest is.

A process with a swarm key takes nothing that is not signed with it; one without takes nothing that is signed.

What belongs here: pure functions on bytes. Where the bytes come from is :mod:`apiary_df.protocol.storage`'s business.
"""

from __future__ import annotations

import hashlib
import hmac
import re

import xxhash

from apiary_df.errors import ObjectRefused

SEAL_VERSION = 2
"""Version of this format; version 1 of the protocol had no seals."""

MAX_HEADER_BYTES = 128
"""Where the first line must have ended: a signed one has 82 bytes, or 91."""

UNSEALED = "unsealed"
UNSIGNED = "unsigned"
FORGED = "wrong signature"
DAMAGED = "wrong checksum"
NO_KEY = "signed, no key here"
TOO_LARGE = "too large"
MALFORMED = "malformed"
MISPLACED = "of something else"
REPLAYED = "replayed"
OUTSIDE = "outside the roots"
FUNCTIONS = "functions not allowed"

REASONS = (
    UNSEALED,
    UNSIGNED,
    FORGED,
    DAMAGED,
    NO_KEY,
    TOO_LARGE,
    MALFORMED,
    MISPLACED,
    REPLAYED,
    OUTSIDE,
    FUNCTIONS,
)
"""Why something is refused: these are the names of the counters in heartbeats and in ``apiary status``."""

_HEADER = re.compile(rb"apiary seal (\d{1,4}) (xxh3|hmac) ([0-9a-f]{16,64})(?: (\d{8}))?")
_DIGEST_CHARS = {"xxh3": 16, "hmac": 64}


def seal(content: bytes, key: str, swarm_key: str | None, *, followed: bool = False) -> bytes:
    """Return content with its seal in front.

    Args:
        content: What is to be stored.
        key: Where it is to lie.
        swarm_key: What to sign with; None only takes a checksum.
        followed: Whether something else follows it, which the seal is not about; then it has less than 100 MB.
    """
    kind = "xxh3" if swarm_key is None else "hmac"
    length = f" {len(content):08d}" if followed else ""
    header = f"apiary seal {SEAL_VERSION} {kind} {_digest(content, key, swarm_key)}{length}\n"
    return header.encode() + content


def header_bytes(swarm_key: str | None) -> int:
    """Return the length of the first line of what something follows, its line feed included."""
    return len(seal(b"", "", swarm_key, followed=True))


def sealed_bytes(start: bytes, size_bytes: int) -> int:
    """Return how many bytes of an object its seal is about, first line included, by what that line says.

    Args:
        start: The object's first bytes. If these are no seal's, they are all that is worth looking at.
        size_bytes: Size of the whole object, which is never exceeded.
    """
    end = start.find(b"\n", 0, MAX_HEADER_BYTES)
    match = _HEADER.fullmatch(start, 0, end) if end >= 0 else None
    if match is None:
        return min(len(start), size_bytes)
    return size_bytes if match[4] is None else min(end + 1 + int(match[4]), size_bytes)


def open_sealed(data: bytes, key: str, swarm_key: str | None) -> bytes:
    """Return the content of sealed bytes.

    Args:
        data: What lies in storage.
        key: Where it lies.
        swarm_key: What it must be signed with; None if this process has no swarm key.

    Raises:
        ObjectRefused: If it is not sealed, not for this place, not by a process with the same key, or damaged.
    """
    end = data.find(b"\n", 0, MAX_HEADER_BYTES)
    match = _HEADER.fullmatch(data, 0, end) if end >= 0 else None
    if match is None:
        raise refused(key, UNSEALED, "has no seal: it is damaged, of an older apiary_df, or somebody else's")
    version, kind, found = int(match[1]), match[2].decode(), match[3].decode()
    if version != SEAL_VERSION or len(found) != _DIGEST_CHARS[kind]:
        raise refused(key, UNSEALED, f"has a seal of version {version}; this process reads {SEAL_VERSION}")
    if kind == "xxh3" and swarm_key is not None:
        raise refused(key, UNSIGNED, "is not signed, and this process takes only what is signed with its swarm key")
    if kind == "hmac" and swarm_key is None:
        raise refused(
            key,
            NO_KEY,
            "is signed, and this process has no swarm key: set APIARY_SWARM_KEY, or APIARY_SWARM_KEY_FILE, to the key "
            "that the other processes of the swarm have",
        )
    content = data[end + 1 :]
    if match[4] is not None and len(content) != int(match[4]):
        raise refused(key, DAMAGED, f"is damaged: {len(content)} bytes are there where it says {int(match[4])}")
    if not hmac.compare_digest(found, _digest(content, key, swarm_key)):
        if swarm_key is None:
            raise refused(key, DAMAGED, "is damaged, or was written for another place: its checksum differs")
        raise refused(key, FORGED, "is damaged, signed with another swarm key, or was written for another place")
    return content


def unchecked_content(data: bytes) -> bytes:
    """Return what is behind the first line of sealed bytes, true or not: for messages to people, never to act upon."""
    end = data.find(b"\n", 0, MAX_HEADER_BYTES)
    return data[end + 1 :] if end >= 0 and _HEADER.fullmatch(data, 0, end) else data


def refused(key: str, reason: str, words: str) -> ObjectRefused:
    """Return the error for an object that is not taken.

    Args:
        key: Where it lies.
        reason: One of :data:`REASONS`.
        words: What is wrong, as the rest of a sentence that begins with the object.
    """
    return ObjectRefused(f"{key!r} {words}", key=key, reason=reason)


def _digest(content: bytes, key: str, swarm_key: str | None) -> str:
    place = key.encode()
    prefix = f"apiary seal {SEAL_VERSION} {len(place)}\n".encode() + place
    if swarm_key is None:
        checksum = xxhash.xxh3_64(prefix)
        checksum.update(content)
        return str(checksum.hexdigest())
    mac = hmac.new(swarm_key.encode(), prefix, hashlib.sha256)
    mac.update(content)
    return mac.hexdigest()
