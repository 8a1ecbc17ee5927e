"""What DataFusion's plan format does not carry: such a plan comes back from it with other rows, and without an error.

What is lost cannot be seen in the encoded plan, so it is read from the text of the logical plan. That the format loses
it is held by a test; once it does not, the entry here goes away.
"""

from __future__ import annotations

import re

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
