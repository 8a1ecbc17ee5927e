"""Sizes, times and numbers of things as people write and read them.

What belongs here: the units, and reading and writing an amount with one. What does not: which amounts are allowed where
(:mod:`apiary_df.config`).
"""

from __future__ import annotations

import re

from apiary_df.errors import ConfigError

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
DAY_S = 86_400.0

_SIZE = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_UNITS = {
    "": 1, "b": 1,
    "k": KIB, "kib": KIB, "kb": 10**3,
    "m": MIB, "mib": MIB, "mb": 10**6,
    "g": GIB, "gib": GIB, "gb": 10**9,
    "t": TIB, "tib": TIB, "tb": 10**12,
}  # fmt: skip
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d|)\s*", re.IGNORECASE)
_TIME_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": DAY_S}


def parse_size(text: str) -> int:
    """Return the bytes that a person meant: ``4GiB``, ``512M``, ``1.5 gb``, ``1024``.

    ``K``, ``M``, ``G``, ``T`` alone and ``KiB`` ... ``TiB`` are powers of 1024; ``KB`` ... ``TB`` powers of 1000.

    Args:
        text: A number and, if it is not bytes, a unit; capitals do not matter.

    Returns:
        Bytes, at least 1; fractions of a byte are cut off.

    Raises:
        ConfigError: It is no number with a known unit, or less than one byte.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in _UNITS:
        raise ConfigError(
            f"{text!r} is not a size: write a number and a unit, such as 512MiB, 4G or 1000000", value=text
        )
    number, _, fraction = match[1].partition(".")
    scale = _UNITS[match[2].lower()]
    # Integers all the way, since a float would round large counts of bytes.
    size_bytes = int(number) * scale + int(fraction or "0") * scale // int("1" + "0" * len(fraction))
    if match[1].startswith("-") or size_bytes < 1:
        raise ConfigError(f"{text!r} is not a size above zero bytes", value=text)
    return size_bytes


def format_bytes(size_bytes: int) -> str:
    """Return a number of bytes for a person: ``0 B``, ``999 B``, ``1.5 KiB``, ``4.0 GiB``.

    >>> format_bytes(4 * 1024**3)
    '4.0 GiB'
    """
    if abs(size_bytes) < KIB:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= KIB
        # Compared after rounding: 1023.96 KiB would otherwise read "1024.0 KiB".
        if abs(round(value, 1)) < KIB:
            return f"{value:.1f} {unit}"
    return f"{value / KIB:.1f} TiB"


def parse_seconds(text: str) -> float:
    """Return the seconds that a person meant: ``90``, ``90s``, ``10m``, ``1.5h``, ``7d``.

    Raises:
        ConfigError: It is no number with a known unit, or not above zero.
    """
    match = _TIME.fullmatch(text)
    seconds = float(match[1]) * _TIME_UNITS[match[2].lower()] if match else 0.0
    if seconds <= 0:
        raise ConfigError(f"{text!r} is not a time above zero: write a number and a unit, such as 90s, 10m, 2h, 7d")
    return seconds


def format_seconds(seconds: float) -> str:
    """Return a time for a person, cut off after its largest whole unit: ``0.2 s``, ``45 s``, ``10 min``, ``3 h``.

    >>> format_seconds(7_300)
    '2 h'
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size_s, unit in ((DAY_S, "d"), (3_600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size_s or (seconds >= size_s and seconds % size_s == 0):
            return f"{seconds // size_s:.0f} {unit}"
    return f"{seconds // 1:.0f} s"


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number of things for a person: ``1 task``, ``1,024 tasks``.

    Args:
        number: How many.
        one: What one of them is called.
        many: What several are called, if not just with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
