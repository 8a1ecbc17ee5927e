"""The columns of a cell table: read from its files, checked against each other, merged.

Two kinds of formats: Parquet and Arrow files say their types, so files must agree; CSV and JSON files have theirs
guessed from their first rows, so guesses are widened to one that holds all. Merging is pure; :func:`infer_schema`
reads files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from datafusion import SessionContext

from apiary_df.errors import TableError
from apiary_df.footers import read_row_groups
from apiary_df.model import CellInfo
from apiary_df.objects import datafusion_errors, parse_location, stat_objects
from apiary_df.store import Store, open_store
from apiary_df.tables.cells import TEXT_FORMATS, CellTable
from apiary_df.tables.readers import read

MAX_SAMPLED_FILES = 64
"""Files whose schemas are read before a table is made. Of more, the first and the last half of this many are: reading
every footer of ten thousand objects costs a request each, and files that differ in the middle are still found by the
query."""

PARALLEL_READS = 8
"""Schemas that are read at once: enough to hide a bucket's latency."""

NamedSchema = tuple[str, pa.Schema]


def infer_schema(ctx: SessionContext, table: CellTable) -> pa.Schema:
    """Return the columns of a table's files, as the session reads them (view types and the like follow its settings).

    Every file is looked at up to :data:`MAX_SAMPLED_FILES`, the first and last ones of more.

    Args:
        ctx: The session that is going to read the table; it must know the cells' object store.
        table: Its own ``schema`` is returned unchanged, once the sampled files are found readable.

    Raises:
        TableError: If a sampled file cannot be read, or two of them do not fit into one table.
        StorageError: If the store cannot be asked about a file that could not be read.
    """
    declared = table.schema
    if declared is not None and table.format in TEXT_FORMATS:
        return declared
    sampled = _sample(table.cells)
    places = {parse_location(cell.storage_key).store_url for cell in sampled}
    stores = {url: open_store(url, table.options) for url in places if not url.startswith("file:")}
    with ThreadPoolExecutor(max_workers=PARALLEL_READS) as pool:
        schemas = list(pool.map(lambda cell: _schema_of(ctx, table, cell, stores), sampled))
    if declared is not None:
        return declared
    named = list(zip((cell.storage_key for cell in sampled), schemas, strict=True))
    merged = merge_guessed(named, by_position=table.format == "csv") if table.format in TEXT_FORMATS else merge(named)
    if not merged.names and not table.partition_columns:
        raise TableError(f"cannot make a table of {named[0][0]}: no file has any column", file=named[0][0])
    return merged


def _sample(cells: Sequence[CellInfo]) -> Sequence[CellInfo]:
    if len(cells) <= MAX_SAMPLED_FILES:
        return cells
    half = MAX_SAMPLED_FILES // 2
    return (*cells[:half], *cells[-half:])


def _schema_of(ctx: SessionContext, table: CellTable, cell: CellInfo, stores: Mapping[str, Store]) -> pa.Schema:
    url = cell.storage_key
    if table.format == "parquet":
        # DataFusion panics on some damaged footers and prints its stack; so the footer is checked before.
        _check_footer(table, cell, stores.get(parse_location(url).store_url))
    with datafusion_errors(lambda words: _unreadable(table, url, words)):
        schema = read(ctx, table, url).schema()
    if table.format == "arrow" and not schema.names and not cell.bytes:
        # DataFusion takes an empty object for a table without columns; an Arrow file has a schema even without rows.
        raise _unreadable(table, url, "it has no Arrow schema")
    return schema


def _check_footer(table: CellTable, cell: CellInfo, store: Store | None) -> None:
    try:
        read_row_groups(cell.storage_key, cell.bytes, table.options, store=store)
    except TableError:
        # A cell's size may have been given wrongly, or the object have changed; what counts is what is there now.
        size = _size_now(table, cell.storage_key)
        if size == cell.bytes:
            raise
        read_row_groups(cell.storage_key, size, table.options, store=store)


def _size_now(table: CellTable, url: str) -> int:
    """Return an object's size; raises in a typed way if the object is missing or its store unreachable."""
    return stat_objects([parse_location(url)], table.options)[0].size_bytes


def _unreadable(table: CellTable, url: str, why: str) -> TableError:
    return TableError(
        f"cannot read {url} ({_size_now(table, url)} bytes) as {table.format}: {why}. "
        f"The file is damaged or of another format",
        file=url,
    )


def merge(schemas: Sequence[NamedSchema]) -> pa.Schema:
    """Merge schemas by column name: types must agree, a column that some files lack is NULL there.

    Columns come in the order in which they are first met.

    Args:
        schemas: Per file its URL and schema; at least one.

    Raises:
        TableError: If a column has two types, naming the two files.
    """
    fields: dict[str, pa.Field] = {}
    origin: dict[str, str] = {}
    for url, schema in schemas:
        for field in schema:
            known = fields.get(field.name)
            if known is None:
                fields[field.name], origin[field.name] = field, url
                continue
            joined = _join(known, field)
            if joined is None:
                raise _conflict(field.name, (origin[field.name], known.type), (url, field.type))
            fields[field.name] = joined
    everywhere = set.intersection(*(set(schema.names) for _, schema in schemas))
    return pa.schema([field if name in everywhere else field.with_nullable(True) for name, field in fields.items()])


def merge_guessed(schemas: Sequence[NamedSchema], *, by_position: bool) -> pa.Schema:
    """Merge schemas that were guessed from texts: types are widened until they hold every file's values.

    Args:
        schemas: Per file its URL and schema; at least one.
        by_position: Whether files store columns by position (CSV), so that names and order must be the same.

    Raises:
        TableError: If columns differ by position, or a column is nested in one file and not in another.
    """
    if by_position:
        _check_same_columns(schemas)
    fields: dict[str, pa.DataType] = {}
    origin: dict[str, str] = {}
    for url, schema in schemas:
        for field in schema:
            known = fields.get(field.name)
            widened = field.type if known is None else widen(known, field.type)
            if known is None:
                origin[field.name] = url
            elif widened is None:
                raise _conflict(field.name, (origin[field.name], known), (url, field.type))
            fields[field.name] = widened
    # A column without any value in the rows looked at may hold anything later on.
    return pa.schema([(name, pa.string() if pa.types.is_null(type_) else type_) for name, type_ in fields.items()])


def widen(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """Return the narrowest type that holds two guessed ones; None for nested against flat.

    >>> widen(pa.int64(), pa.float64()), widen(pa.null(), pa.bool_()), widen(pa.int64(), pa.bool_())
    (DataType(double), DataType(bool), DataType(string))
    """
    if left == right or pa.types.is_null(right):
        return left
    if pa.types.is_null(left):
        return right
    if pa.types.is_list(left) and pa.types.is_list(right):
        value = widen(left.value_type, right.value_type)
        return None if value is None else pa.list_(value)
    if pa.types.is_struct(left) and pa.types.is_struct(right):
        return _widen_structs(left, right)
    if pa.types.is_nested(left) or pa.types.is_nested(right):
        return None
    if {left, right} == {pa.int64(), pa.float64()}:
        return pa.float64()
    return pa.string()


def _widen_structs(left: pa.StructType, right: pa.StructType) -> pa.DataType | None:
    children: dict[str, pa.DataType] = {field.name: field.type for field in left}
    for field in right:
        known = children.get(field.name)
        widened = field.type if known is None else widen(known, field.type)
        if widened is None:
            return None
        children[field.name] = widened
    return pa.struct(list(children.items()))


def _join(left: pa.Field, right: pa.Field) -> pa.Field | None:
    """Join two fields of one name; None if their types differ. NULL-typed fields fit all, structs join by child."""
    nullable = left.nullable or right.nullable
    if left.type.equals(right.type) or pa.types.is_null(right.type):
        return left.with_nullable(nullable)
    if pa.types.is_null(left.type):
        return right.with_nullable(True)
    if not (pa.types.is_struct(left.type) and pa.types.is_struct(right.type)):
        return None
    children = {child.name: child for child in left.type}
    for child in right.type:
        known = children.get(child.name)
        joined = child.with_nullable(True) if known is None else _join(known, child)
        if joined is None:
            return None
        children[child.name] = joined
    shared = {child.name for child in right.type}
    parts = [child if name in shared else child.with_nullable(True) for name, child in children.items()]
    return left.with_type(pa.struct(parts)).with_nullable(nullable)


def _check_same_columns(schemas: Sequence[NamedSchema]) -> None:
    first_url, first = schemas[0]
    for url, schema in schemas[1:]:
        if schema.names == first.names:
            continue
        pairs = list(zip(first.names, schema.names, strict=False))
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        here = repr(first.names[at]) if at < len(first.names) else "nothing"
        there = repr(schema.names[at]) if at < len(schema.names) else "nothing"
        raise TableError(
            f"cannot make one table of these files, since CSV columns go by position: column {at + 1} is {here} in "
            f"{first_url} and {there} in {url}. Register them as separate tables, or give all the same columns",
            first_file=first_url,
            second_file=url,
        )


def _conflict(column: str, first: tuple[str, pa.DataType], second: tuple[str, pa.DataType]) -> TableError:
    return TableError(
        f"cannot make one table of these files: column {column!r} is {first[1]} in {first[0]} and {second[1]} in "
        f"{second[0]}. Register them as separate tables, or rewrite one of them",
        column=column,
        first_file=first[0],
        second_file=second[0],
    )
