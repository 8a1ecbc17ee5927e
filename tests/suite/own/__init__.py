"""The own suite: what a distributed engine gets wrong, query by query, over awkward tables.

The queries are the SQL files in ``queries``, a file a topic. A query begins with ``-- name: ...``; further lines of the
form ``-- attribute: value`` set attributes of :class:`tests.suite.model.Query`, and each ``-- set: option=value`` adds
a DataFusion option. The tables are made by ``tables``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from apiary_df.comparison.tables import DIGITS

from ..model import Query, Suite
from .tables import register_tables, write_tables

QUERIES = Path(__file__).parent / "queries"
"""Folder of the SQL files."""

_ATTRIBUTES = frozenset({"session", "one_task", "empty", "undetermined", "digits", "set"})


def read_queries(text: str) -> Iterator[Query]:
    """Read the queries of one SQL file.

    Args:
        text: Content of the file.

    Raises:
        ValueError: If a line of attributes is not one, or a query has no SQL.
    """
    for block in text.split("\n-- name: ")[1:]:
        name, *lines = block.splitlines()
        attributes: dict[str, list[str]] = {}
        while lines and lines[0].startswith("-- "):
            attribute, _, value = lines.pop(0)[3:].partition(": ")
            if attribute not in _ATTRIBUTES or not value:
                raise ValueError(f"query {name}: {attribute!r} is no attribute, or has no value")
            attributes.setdefault(attribute, []).append(value)
        sql = "\n".join(lines).strip().removesuffix(";")
        if not sql:
            raise ValueError(f"query {name} has no SQL")
        settings = [option.partition("=") for option in attributes.pop("set", [])]
        digits = int(attributes.pop("digits", [str(DIGITS)])[0])
        yield Query(
            name=name,
            sql=sql,
            settings=tuple((option, value) for option, _, value in settings),
            digits=digits,
            **{attribute: " ".join(values) for attribute, values in attributes.items()},
        )


def _all_queries() -> Iterator[Query]:
    for path in sorted(QUERIES.glob("*.sql")):
        yield from read_queries("\n" + path.read_text(encoding="utf-8"))


OWN = Suite(name="own", queries=tuple(_all_queries()), write=write_tables, register=register_tables)
"""The suite."""
