"""Ranges of an object: which of them are fetched as one, and finding them in what has come.

What belongs here: pure functions on offsets and bytes. What does not: requests (:mod:`apiary_df.store`).
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable, Sequence

COALESCE_BYTES = 1024 * 1024
"""Ranges closer than this are fetched in one request: at 20 ms a MiB, a gap is cheaper than a request."""


def coalesced(wanted: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the (start, end) spans that cover ranges of (start, length), near ones in one, sorted, none empty."""
    spans: list[tuple[int, int]] = []
    for start, length in sorted(wanted):
        if not length:
            continue
        if spans and start - spans[-1][1] <= COALESCE_BYTES:
            spans[-1] = (spans[-1][0], max(spans[-1][1], start + length))
        else:
            spans.append((start, start + length))
    return spans


def cut(spans: Sequence[tuple[int, int]], fetched: Sequence[memoryview], start: int, length: int) -> tuple[bytes, int]:
    """Find one of the ranges that spans were made for in what has come of these.

    Args:
        spans: What :func:`coalesced` has made of it and others.
        fetched: The bytes of each span; fewer than asked for, if the object ends before it does.
        start: First byte of the range.
        length: How many bytes it has.

    Returns:
        The bytes of the range that have come, and where the span that holds it ends in fact.
    """
    if not length:
        return b"", start
    index = bisect_right(spans, (start, sys.maxsize)) - 1
    span_start, data = spans[index][0], fetched[index]
    return bytes(data[start - span_start : start - span_start + length]), span_start + len(data)
