"""The Star Schema Benchmark over a small star of its five tables."""

from __future__ import annotations

from pathlib import Path

from benchmarks.star import QUERIES, Sizes, make_star

from .model import Query, Suite
from .tables import register_tables, write_table


def _write(folder: Path) -> None:
    for name, table in make_star(Sizes()):
        write_table(folder, name, table)


SSB = Suite(
    name="ssb",
    queries=tuple(Query(name=name, sql=sql) for name, sql in QUERIES.items()),
    write=_write,
    register=register_tables,
)
"""The suite."""
