"""Hive partition values: from paths to (column, value) pairs, and from their texts to column types.

Pure text work belongs here; listing objects and building scans do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from urllib.parse import unquote

import pyarrow as pa

from apiary_df.errors import TableError

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""The directory value by which Hive, Spark and their kin write a NULL partition value."""

PartitionValues = tuple[tuple[str, str], ...]

_CANONICAL_INT = re.compile(r"-?[1-9][0-9]{0,17}|0")
_CANONICAL_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_.:-]+")
_MAX_INT64 = 2**63 - 1


def partition_values(key: str) -> PartitionValues:
    """Return the ``column=value`` directories of an object's key, in order, percent-decoded.

    Args:
        key: Key below the table's root, ``/``-separated; its last component is the object's name and is not looked at.

    >>> partition_values("year=2024/city=S%C3%A3o/part-0.parquet")
    (('year', '2024'), ('city', 'São'))
    """
    pairs = (part.partition("=") for part in key.split("/")[:-1])
    return tuple((unquote(name), unquote(value)) for name, equals, value in pairs if equals and name)


def consistent_columns(values: Iterable[tuple[str, PartitionValues]]) -> tuple[str, ...]:
    """Return the partition columns that all files share.

    Args:
        values: Per file its URL and its partition values.

    Raises:
        TableError: If a file's partition columns differ from those of the first file, or a column stands twice in a
            path.
    """
    first_url, columns = "", None
    for url, pairs in values:
        names = tuple(name for name, _ in pairs)
        if len(set(names)) != len(names):
            raise TableError(f"cannot use {url} as a cell: a partition column stands twice in its path", file=url)
        if columns is None:
            first_url, columns = url, names
        elif names != columns:
            raise TableError(
                f"cannot make one partitioned table: {first_url} has the partition columns {_listed(columns)}, "
                f"{url} has {_listed(names)}. Point at the folder in which all files are partitioned alike, "
                f"or turn partitions off (hive=False)",
                file=url,
            )
    return columns or ()


def _listed(names: Sequence[str]) -> str:
    return "(" + ", ".join(names) + ")" if names else "none"


def infer_types(columns: Sequence[str], values: Iterable[PartitionValues]) -> tuple[tuple[str, pa.DataType], ...]:
    """Choose a type per partition column from the texts of its values.

    A column is ``int64`` if every value is a decimal integer just as a number prints (so ``01`` stays text and no
    spelling is lost), ``date32`` if every value is a calendar date ``YYYY-MM-DD``, and ``string`` otherwise. NULLs
    fit all.
    """
    texts: dict[str, set[str]] = {name: set() for name in columns}
    for pairs in values:
        for name, text in pairs:
            texts[name].add(text)
    return tuple((name, _type_of(texts[name] - {HIVE_NULL})) for name in columns)


def _type_of(texts: set[str]) -> pa.DataType:
    if texts and all(_is_int(text) for text in texts):
        return pa.int64()
    if texts and all(_is_date(text) for text in texts):
        return pa.date32()
    return pa.string()


def _is_int(text: str) -> bool:
    return _CANONICAL_INT.fullmatch(text) is not None and abs(int(text)) <= _MAX_INT64


def _is_date(text: str) -> bool:
    if not _CANONICAL_DATE.fullmatch(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def is_canonical(text: str, type_: pa.DataType) -> bool:
    """Whether a value's directory name is the only spelling of the value.

    DataFusion's own listing prunes partitions by looking for the directory ``column=<literal as text>``. With a value
    spelled otherwise (``month=01`` for the integer 1, an escaped character) it then finds no files and returns fewer
    rows.
    """
    if text == HIVE_NULL or not _PLAIN_TEXT.fullmatch(text):
        return False
    if pa.types.is_integer(type_):
        return _is_int(text)
    if pa.types.is_date(type_):
        return _is_date(text)
    return bool(pa.types.is_string(type_))


def check_values(types: Mapping[str, pa.DataType], cells: Iterable[tuple[str, PartitionValues]]) -> None:
    """Check that every partition value can be read as its column's type.

    Raises:
        TableError: Naming the first file whose value cannot.
    """
    seen: set[tuple[str, str]] = set()
    for url, pairs in cells:
        for name, text in pairs:
            if (name, text) in seen or text == HIVE_NULL:
                continue
            seen.add((name, text))
            try:
                pa.array([text], pa.string()).cast(types[name])
            except pa.ArrowException as error:
                raise TableError(
                    f"cannot read partition value {name}={text} of {url} as {types[name]}: {error}. "
                    f"Give the column another type",
                    file=url,
                    column=name,
                ) from error
