"""Arrow IPC files out of pieces: a head for a schema, and a footer for batches that lie one after the other.

A consumer that reads segments of many partials needs none of their heads and footers: it knows the schema, and where
it has put the batches. So it writes one local file of what it has fetched, and adds head and footer itself.

What belongs here: bytes of Arrow's file format, as far as that takes. What does not: where segments come from.
The layout of tables is Arrow's ``Message.fbs`` and ``File.fbs``, of their encoding FlatBuffers'.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from apiary_df.errors import ObjectDamaged

MAGIC = b"ARROW1"
START = MAGIC + b"\0\0"
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""The mark after the last message of an Arrow stream."""

_CONTINUATION = 0xFFFFFFFF
_PREFIX_BYTES = 8
"""What stands before each message's metadata: the mark that it goes on, and the metadata's length."""

_BODY_LENGTH_FIELD = 3
_HEADER_FIELD = 2
_METADATA_V5 = 4


class Block(NamedTuple):
    """Where a record batch lies.

    Attributes:
        offset: Its first byte in the file.
        metadata_bytes: Length of its metadata, prefix and padding included.
        body_bytes: Length of its buffers.
    """

    offset: int
    metadata_bytes: int
    body_bytes: int


def head_of(schema: pa.Schema) -> bytes:
    """Return what a file of a schema without dictionaries begins with; a multiple of 8 bytes."""
    message: bytes = schema.serialize().to_pybytes()
    return START + message


def blocks_of(data: memoryview, offset: int, key: str) -> Iterator[Block]:
    """Yield the record batches of a segment.

    Args:
        data: The segment.
        offset: Where it lies in the file that is made.
        key: Where it came from, for the error.

    Raises:
        ObjectDamaged: It is no sequence of messages.
    """
    at = 0
    try:
        while at < len(data):
            mark, metadata = struct.unpack_from("<Ii", data, at)
            body = _body_length(data[at + _PREFIX_BYTES : at + _PREFIX_BYTES + metadata])
            size = _PREFIX_BYTES + metadata + body
            if mark != _CONTINUATION or metadata <= 0 or body < 0 or at + size > len(data):
                raise ValueError(f"no message at byte {at}")
            yield Block(offset + at, _PREFIX_BYTES + metadata, body)
            at += size
    except (struct.error, ValueError, IndexError) as error:
        raise ObjectDamaged(f"the partial {key!r} is damaged: a segment holds {error}", key=key) from error


def tail_of(schema: pa.Schema, blocks: Iterable[Block]) -> bytes:
    """Return what a file of a schema without dictionaries ends with, from the mark after its last batch on."""
    footer = _footer(schema, list(blocks))
    return END_OF_STREAM + footer + struct.pack("<i", len(footer)) + MAGIC


def _footer(schema: pa.Schema, blocks: list[Block]) -> bytes:
    """Return a Footer table: vtable, table, two vectors, and the schema's own message, in which the schema lies."""
    message = schema.serialize().to_pybytes()[_PREFIX_BYTES:]
    message_at = 48 + 24 * len(blocks)
    schema_at = message_at + _target(message, _field(message, _HEADER_FIELD))
    parts = [
        struct.pack("<I", 16),  # where the table is
        struct.pack("<6H", 12, 20, 16, 4, 8, 12),  # vtable: its size, the table's, and where each field is in that
        struct.pack("<iIII", 12, schema_at - 20, 36 - 24, 44 - 28),  # to the vtable; to schema, dictionaries, batches
        struct.pack("<hxx", _METADATA_V5),
        struct.pack("<II", 0, 0),  # no dictionaries; four bytes, so that blocks are aligned
        struct.pack("<I", len(blocks)),
        *(struct.pack("<qixxxxq", *block) for block in blocks),
        message,
    ]
    return b"".join(parts)


def _body_length(message: memoryview) -> int:
    at = _field(message, _BODY_LENGTH_FIELD)
    return 0 if at is None else int(struct.unpack_from("<q", message, at)[0])


def _field(message: bytes | memoryview, number: int) -> int | None:
    """Return where a field of a flatbuffer's root table lies; None if it has its default."""
    table = struct.unpack_from("<I", message, 0)[0]
    vtable = table - struct.unpack_from("<i", message, table)[0]
    slot = 4 + 2 * number
    if vtable < 0 or slot >= struct.unpack_from("<H", message, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", message, vtable + slot)[0]
    return table + offset if offset else None


def _target(message: bytes, at: int | None) -> int:
    """Return where an offset that lies somewhere leads."""
    assert at is not None, "every schema message has a schema"
    return at + int(struct.unpack_from("<I", message, at)[0])
