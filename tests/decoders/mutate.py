"""Damaged, torn and malicious variants of honest bytes, from a seed."""

from __future__ import annotations

import json
from random import Random
from typing import Any

EXTREMES = (0, 1, 127, 128, 255)
NUMBERS = (-1, 0, 1, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 1e308, 0.5, -0.0)
TEXTS = (
    "",
    "..",
    "../../etc/passwd",
    "\0",
    "\x1b[2J",
    "é" * 300,
    "a" * 10_000,
    "_queries/q/manifest.json",
    "{}",
    "q\n",
)
WHOLE_VALUES: tuple[Any, ...] = (None, True, [], {}, [[]], {"": {}}, *NUMBERS, *TEXTS)


def mutated(data: bytes, random: Random) -> bytes:
    """Return a variant of some bytes; now and then anything."""
    if random.random() < 0.03:
        return random.randbytes(random.choice((0, 1, 8, 100, 1000)))
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        _CHANGES[random.randrange(len(_CHANGES))](found, random)
    return bytes(found)


def _place(data: bytearray, random: Random) -> int:
    return random.randrange(len(data)) if data else 0


def _flip(data: bytearray, random: Random) -> None:
    if data:
        data[_place(data, random)] ^= 1 << random.randrange(8)


def _set(data: bytearray, random: Random) -> None:
    if data:
        data[_place(data, random)] = random.choice(EXTREMES)


def _cut(data: bytearray, random: Random) -> None:
    del data[_place(data, random) :]


def _drop(data: bytearray, random: Random) -> None:
    start = _place(data, random)
    del data[start : start + random.choice((1, 4, 8, 64))]


def _repeat(data: bytearray, random: Random) -> None:
    start = _place(data, random)
    data[start:start] = data[start : start + random.choice((1, 4, 8, 64, 512))]


def _insert(data: bytearray, random: Random) -> None:
    start = _place(data, random)
    data[start:start] = random.randbytes(random.choice((1, 4, 8)))


def _number(data: bytearray, random: Random) -> None:
    """Write a length that nothing has over some bytes, as a fixed or a variable-length integer."""
    start = _place(data, random)
    value = random.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, len(data) * 2))
    size = random.choice((4, 8))
    if random.random() < 0.5:
        data[start : start + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        return
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    data[start : start + 1] = bytes([*encoded, value])


_CHANGES = (_flip, _flip, _set, _cut, _drop, _repeat, _insert, _number)


def mutated_json(data: bytes, random: Random) -> bytes:
    """Return a variant of a JSON document: some values, or names, are others."""
    if random.random() < 0.3:
        return mutated(data, random)
    document = json.loads(data)
    for _ in range(random.choice((1, 1, 2, 5))):
        document = _changed(document, random)
    text = json.dumps(document)
    if random.random() < 0.02:
        text = text.replace("{", '{"deep":' + "[" * 100_000, 1)
    return text.encode("utf-8", "surrogatepass")


def _changed(value: Any, random: Random) -> Any:
    if random.random() < 0.25 or not isinstance(value, (dict, list)) or not value:
        return random.choice(WHOLE_VALUES)
    if isinstance(value, list):
        where = random.randrange(len(value))
        if random.random() < 0.2:
            return value + value * random.choice((1, 3, 100))
        return [_changed(item, random) if i == where else item for i, item in enumerate(value)]
    name = random.choice(sorted(value))
    if random.random() < 0.1:
        return {key: item for key, item in value.items() if key != name}
    if random.random() < 0.1:
        return {(random.choice(TEXTS) if key == name else key): item for key, item in value.items()}
    return {key: _changed(item, random) if key == name else item for key, item in value.items()}
