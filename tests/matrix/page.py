"""The table as a page that people read."""

from __future__ import annotations

import re

from .table import EXPECTED, KINDS, PLACES

MADE = re.compile(r"<!-- made: matrix -->\n(.*?)<!-- end -->", re.DOTALL)
"""The part of a page that the table writes."""


def as_markdown() -> str:
    """Return kinds and cells as tables."""
    lines = ["| fault | what goes wrong |", "| --- | --- |"]
    lines += [f"| {kind} | {what} |" for kind, what in KINDS.items()]
    for place, outcomes in EXPECTED.items():
        if not outcomes:
            continue
        at = PLACES[place]
        where = f"by the {at.who}: {at.request} `{at.key}`" if at.key else f"by the {at.who}"
        shapes = "every shape" if len(at.shapes) > 3 else ", ".join(at.shapes)
        lines += ["", f"**{place}** ({where}; {shapes})", "", "| fault | outcome |", "| --- | --- |"]
        lines += [f"| {kind} | {outcomes[kind]} |" for kind in KINDS if kind in outcomes]
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """Return a page with its made part made anew."""
    return MADE.sub(lambda _: f"<!-- made: matrix -->\n{as_markdown()}<!-- end -->", page)
