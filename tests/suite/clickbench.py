"""ClickBench: its 43 query shapes over one small table of web hits."""

from __future__ import annotations

from pathlib import Path

from apiary_df.comparison.tables import DIGITS
from apiary_df.verify.verdict import SUM_DIGITS
from benchmarks.hits import QUERIES, make_hits

from .model import Query, Suite
from .tables import register_tables, write_table

_DIGITS = {3: SUM_DIGITS}
"""Query number to digits, where it is not the usual: an average of numbers of nineteen digits, added up as floats."""


def _write(folder: Path) -> None:
    write_table(folder, "hits", make_hits())


CLICKBENCH = Suite(
    name="clickbench",
    queries=tuple(
        Query(name=f"q{number:02}", sql=sql, digits=_DIGITS.get(number, DIGITS)) for number, sql in enumerate(QUERIES)
    ),
    write=_write,
    register=register_tables,
)
"""The suite; queries are numbered from 0, as is the custom there."""
