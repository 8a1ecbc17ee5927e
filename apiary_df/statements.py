"""SQL statements as text: COPY for DataFrame writers, and statements that take their rows from elsewhere. Pure.

DataFusion parses whatever is made here; nothing in this module decides what a statement means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

_TOKEN = re.compile(
    r"""\s+|--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\w+|.""",
    re.DOTALL,
)
_PLAIN_NAME = re.compile(r"[A-Za-z_]\w*")
_BEFORE_TABLE = frozenset({"create", "or", "replace"})
_BEFORE_NAME = frozenset({"insert", "into", "overwrite", "table"})


def quoted(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def is_plain_name(name: str) -> bool:
    """Whether a table's name, qualified or not, means the same in SQL and to DataFusion's own methods."""
    return all(_PLAIN_NAME.fullmatch(part) for part in name.split("."))


def can_partition_by(columns: Sequence[str]) -> bool:
    """Whether a COPY statement can name these columns in PARTITIONED BY: it takes no quoted names."""
    return all(_PLAIN_NAME.fullmatch(column) for column in columns)


def copy_statement(
    source: str, path: str, file_format: str, options: Mapping[str, str], partition_by: Sequence[str] = ()
) -> str:
    """Return a COPY statement.

    Args:
        source: Name of the table or view to be written.
        path: Where to.
        file_format: ``parquet``, ``csv`` or ``json``.
        options: The format's options by name, without their prefix.
        partition_by: Columns that become folders; see :func:`can_partition_by`.
    """
    parts = [f"COPY {source} TO {quoted(path)} STORED AS {file_format.upper()}"]
    if partition_by:
        parts.append(f"PARTITIONED BY ({', '.join(partition_by)})")
    if options:
        pairs = (f"{quoted(f'format.{name}')} {quoted(value)}" for name, value in options.items())
        parts.append(f"OPTIONS ({', '.join(pairs)})")
    return " ".join(parts)


def creates_table_as(sql: str) -> bool:
    """Whether a statement is a CREATE TABLE that takes its rows from a query."""
    words = _words(sql)
    return next((word for word, _, _ in words if word not in _BEFORE_TABLE), "") == "table" and any(
        word == "as" for word, _, _ in words
    )


def reading_from(sql: str, source: str) -> str | None:
    """Return a CREATE TABLE AS, INSERT or COPY statement that takes the same rows from a table instead.

    All but the statement's query stays as it was written.

    Args:
        sql: The statement.
        source: The table, which has the query's columns.

    Returns:
        The statement; None if it is another one, or is written in a way that is not understood.
    """
    words = _words(sql)
    first = next(words, ("", 0, 0))[0]
    if first == "copy":
        position = next((start for word, start, _ in words if word == "to"), None)
        return None if position is None else f"COPY {source} {sql[position:]}"
    if first == "create":
        position = next((start for word, start, _ in words if word == "as"), None)
        return None if position is None else f"{sql[:position]}AS SELECT * FROM {source}"
    if first != "insert":
        return None
    end = _end_of_name(sql)
    return None if end is None else f"{sql[:end]} SELECT * FROM {source}"


def _end_of_name(sql: str) -> int | None:
    """Return where the name of an INSERT statement's table ends."""
    end: int | None = None
    dotted = True
    for word, _, after in _words(sql):
        if end is None and word in _BEFORE_NAME:
            continue
        if word == ".":
            dotted = True
        elif dotted and (word[:1] in '"`' or _PLAIN_NAME.fullmatch(word)):
            end, dotted = after, False
        else:
            break
    return end


def _words(sql: str) -> Iterator[tuple[str, int, int]]:
    """Yield words and signs outside of all parentheses, with where they begin and end; words in small letters."""
    depth = 0
    for match in _TOKEN.finditer(sql):
        text = match.group()
        if text == ")":
            depth -= 1
        if depth == 0 and not text.isspace() and not text.startswith(("--", "/*")):
            yield text.lower() if text[0] not in "\"'`" else text, match.start(), match.end()
        if text == "(":
            depth += 1
