"""Encoded messages as bytes: where their fields lie, without copying any.

What belongs here: protobuf's wire format. What does not: which message it is, and what its fields mean (``codec``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from apiary_df.errors import PlanError

_TYPE_BITS = 3
"""Low bits of a field's tag that say how its value is encoded; those above are the field's number."""

_VARINT, _BY_LENGTH = 0, 2
"""Kinds of encodings whose lengths are told by the bytes themselves."""

_FIXED_BYTES = {1: 8, 5: 4}
"""The others, and what they take."""


class Span(NamedTuple):
    """Where a field of a message lies.

    Attributes:
        number: The field's number.
        start: Its first byte.
        value: The first byte of its value.
        end: The end of that, exclusive.
    """

    number: int
    start: int
    value: int
    end: int


def spans(data: memoryview) -> Iterator[Span]:
    """Yield the fields of a message, in the order in which they stand.

    Raises:
        PlanError: If the bytes are no message.
    """
    position, size = 0, len(data)
    try:
        while position < size:
            start = position
            tag, position = _read_varint(data, position)
            value, encoding = position, tag & (1 << _TYPE_BITS) - 1
            if encoding == _BY_LENGTH:
                length, value = _read_varint(data, position)
                position = value + length
            elif encoding == _VARINT:
                _, position = _read_varint(data, position)
            else:
                position += _FIXED_BYTES[encoding]
            if position > size:
                raise IndexError(position)
            yield Span(tag >> _TYPE_BITS, start, value, position)
    except (IndexError, KeyError) as error:
        raise PlanError(f"cannot decode {size} bytes of a plan: they are no message") from error


def varint(value: int) -> bytes:
    """Return a number, >= 0, as it is encoded in seven bits a byte."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return a number, and where the next byte lies."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
