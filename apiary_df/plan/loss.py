"""What DataFusion's plan format does not carry: such a plan comes back from it with other rows, and without an error.

What is lost cannot be seen in the encoded plan, so it is read from the text of the logical plan, or from its bytes,
which tell more of a scan than the physical plan's do. That the format loses it is held by a test; once it does not, the
entry here goes away.
"""

from __future__ import annotations

import re

from apiary_df.plan.codec import parse

_COMPRESSIONS = ("gzip", "bzip2", "xz", "zstd")
"""By their numbers in a scan; what comes after them is no compression."""

_LOST_FORMATS = {"file_type=arrow_stream": "that Arrow files are streams"}
"""How the text of a physical plan tells scans that its bytes do not."""

_TEXT_FORMATS = ("file_type=csv", "file_type=json")
"""How it tells scans of which the logical plan's bytes tell more."""

_WINDOWS = re.compile(r"WindowAggr: windowExpr=\[\[(.*?)\]\](?=\n|$)", re.DOTALL)
_LOST = re.compile(r"(IGNORE NULLS|FILTER \()")
_WHY = "{what} of a window function is not carried by DataFusion's plan format"


def lost_in_plan_format(logical: str) -> str | None:
    """Return why the plan format would change a query's rows, or None if it would not.

    Args:
        logical: The query's optimized logical plan, as DataFusion displays it.
    """
    for windows in _WINDOWS.findall(logical):
        found = _LOST.search(_outside_brackets(windows))
        if found is not None:
            return _WHY.format(what="FILTER" if found.group(1).startswith("FILTER") else "IGNORE NULLS")
    return None


def may_lose_scans(physical: str) -> bool:
    """Whether a plan has scans to be looked at one by one; ``physical`` is its text."""
    return any(sign in physical for sign in (*_LOST_FORMATS, *_TEXT_FORMATS))


def lost_format(physical: str) -> str | None:
    """Return what the plan format would not tell of a scan, by the text of its physical plan; None if it tells all."""
    return next((lost for sign, lost in _LOST_FORMATS.items() if sign in physical), None)


def lost_in_scan(scan: bytes) -> str | None:
    """Return what the plan format would not tell of a scan's files of text, or None if it tells all.

    Args:
        scan: The scan's encoded logical plan.

    Raises:
        PlanError: If these are no plan bytes.
    """
    message = parse("LogicalPlan", scan)
    if not message.HasField("listing_scan"):
        return None
    listing = message.listing_scan
    if listing.HasField("csv"):
        options = listing.csv.options
        if options.compression < len(_COMPRESSIONS):
            return f"{_COMPRESSIONS[options.compression]} compression of CSV files"
        return "the line terminator of CSV files" if options.terminator else None
    if listing.HasField("json"):
        options = listing.json.options
        if options.compression < len(_COMPRESSIONS):
            return f"{_COMPRESSIONS[options.compression]} compression of JSON files"
        if options.HasField("newline_delimited") and not options.newline_delimited:
            return "that JSON files are one array each"
    return None


def _outside_brackets(text: str) -> str:
    """Return a text without what is in brackets, whose names may be those of aggregates with a FILTER of their own.

    All of it is returned if it holds quotes, since what is quoted may be a bracket.
    """
    if '"' in text or "'" in text:
        return text
    depth = 0
    kept: list[str] = []
    for char in text:
        depth -= char in ")]"
        if depth == 0:
            kept.append(char)
        depth += char in "(["
    return text if depth else "".join(kept)
