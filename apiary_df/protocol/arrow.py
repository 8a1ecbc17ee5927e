"""Record batches made fit for one Arrow IPC file: conforming types, no foreign buffers, one dictionary a column.

What belongs here: pure functions over pyarrow values. What does not: files, spans, checksums (``partial``).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from pyarrow import ipc

from apiary_df.errors import ObjectDamaged, PlanError

GROUP_ROWS = 8_192
"""Rows of a batch where nothing else is said: DataFusion's own batch size."""

KNOWN_TYPES = 1_024
"""Types of which it is remembered what they hold: asking anew for every batch took longer than writing it."""

VIEW_BYTES = 16
"""Length of a view, which holds a value of up to 12 bytes itself."""

MAX_DRAGGED = 0.25
"""Buffers behind views may be so large a part of the views before what is used of them is copied."""

GROUP_BYTES = 16 * 1024 * 1024
"""And up to this many bytes, so that wide rows do not become messages that nobody can hold."""


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch under another schema, column by position; no value is copied.

    Names, nullability and metadata may differ, nested ones too: engines disagree about them for the same plan.
    Types may not.

    Raises:
        PlanError: The number of columns or a type differs, or a column that must not holds nulls.
    """
    if batch.schema.equals(schema, check_metadata=True) or (not len(schema) and not batch.num_columns):
        columns = batch.columns
    else:
        if batch.num_columns != len(schema):
            raise PlanError(
                f"a batch has {batch.num_columns} columns where the stage's schema has {len(schema)}: "
                f"{batch.schema.names} instead of {schema.names}"
            )
        columns = [_relabel(column, field) for column, field in zip(batch.columns, schema, strict=True)]
    for column, field in zip(columns, schema, strict=True):
        if not field.nullable and column.null_count:
            raise PlanError(
                f"column {field.name!r} holds {column.null_count} nulls although the stage's schema declares "
                "none; the plan's types and its data disagree"
            )
    if not columns:
        return batch  # a batch without columns still has rows, which from_arrays would lose
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def conform_result(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch under the result's own names, types, nullability and metadata, by position."""
    if batch.schema.equals(schema, check_metadata=True):
        return batch
    columns = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    if not columns:
        return batch
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def same_layout(one: pa.DataType, other: pa.DataType) -> bool:
    """Return whether two types hold the same values in the same buffers, whatever they declare nullable."""
    one, other = _storage(one), _storage(other)
    if one.equals(other):
        return True
    if one.id != other.id or one.num_fields != other.num_fields:
        return False
    types = pa.types
    if types.is_dictionary(one):
        return one.index_type.equals(other.index_type) and same_layout(one.value_type, other.value_type)
    if types.is_run_end_encoded(one):
        return one.run_end_type.equals(other.run_end_type) and same_layout(one.value_type, other.value_type)
    if types.is_fixed_size_list(one) and one.list_size != other.list_size:
        return False
    if types.is_union(one) and (one.mode != other.mode or one.type_codes != other.type_codes):
        return False
    if not one.num_fields:
        return False
    by_name = types.is_struct(one) or types.is_union(one)
    return all(
        same_layout(mine.type, theirs.type) and (not by_name or mine.name == theirs.name)
        for mine, theirs in zip(_children(one), _children(other), strict=True)
    )


def contains(type_: pa.DataType, *, wanted: Any) -> bool:
    """Return whether a type, or one nested in it, satisfies the predicate ``wanted``."""
    storage = _storage(type_)
    if wanted(storage):
        return True
    if pa.types.is_dictionary(storage) or pa.types.is_run_end_encoded(storage):
        return contains(storage.value_type, wanted=wanted)
    return any(contains(child.type, wanted=wanted) for child in _children(storage))


def has_dictionaries(schema: pa.Schema) -> bool:
    """Return whether any column, at any depth, is dictionary-encoded."""
    return any(contains(field.type, wanted=pa.types.is_dictionary) for field in schema)


def compact(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch without the buffers that only other rows refer to.

    pyarrow cuts most sliced buffers itself when it writes; views keep whole source buffers alive instead, and so
    would be written with them.
    """
    if not any(_holds_view(field.type) for field in batch.schema):
        return batch
    columns = [_compact(column) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def pieces(batch: pa.RecordBatch, most_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield a batch in slices of so many rows at most.

    A reader would slice it all the same, and DataFusion counts the whole batch's memory for every slice of it: a sort
    of a hundred slices would not fit a budget a hundred times their size.
    """
    if batch.num_rows <= most_rows or not batch.num_columns or _cannot_be_cut(batch.schema):
        yield batch
        return
    for start in range(0, batch.num_rows, most_rows):
        yield batch.slice(start, most_rows)


def grouped(batches: Iterable[pa.RecordBatch], most_rows: int = GROUP_ROWS) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in fewer batches: small neighbours are put together, up to so many rows."""
    group: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if group and (rows + batch.num_rows > most_rows or size + batch.nbytes > GROUP_BYTES):
            yield from _concat(group)
            group, rows, size = [], 0, 0
        if not batch.num_columns or _cannot_be_cut(batch.schema):
            # Concatenating would lose the rows of the one, and multiply the children of the other.
            yield batch
            continue
        group.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
    if group:
        yield from _concat(group)


class DictionaryUnifier:
    """Collects the dictionaries of all batches of a file, which may hold only one for each column.

    Dictionaries only ever grow at their end here, so a batch can be re-indexed at any time after it was seen.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._seed: pa.RecordBatch | None = None

    def see(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Take in a batch's dictionaries, and return the batch to keep instead of it.

        Raises:
            PlanError: The dictionaries do not fit their index type together, or cannot be put together.
        """
        if any(d.null_count for column in batch.columns for d in _dictionaries(column)):
            batch = self._renewed(batch)  # nulls belong among the indices; nothing unifies them elsewhere
        if self._seed is None:
            # Unified with itself below, which drops the values that a dictionary holds twice.
            self._seed = pa.RecordBatch.from_arrays(
                [_private(column) for column in batch.slice(0, 0).columns], schema=self._schema
            )
        try:
            self._seed = self._unify(self._seed, batch.slice(0, 0))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            # Too many values for the index: those that no row uses need not come along.
            batch = self._renewed(batch)
            try:
                self._seed = self._unify(self._seed, batch.slice(0, 0))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise self._refusal(error) from error
        return batch

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a batch that :meth:`see` gave, under the dictionaries of all batches seen by now.

        Raises:
            PlanError: The dictionaries cannot be put together.
        """
        if self._seed is None:
            return batch
        try:
            return self._unify(self._seed, batch)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise self._refusal(error) from error

    def empty_batch(self) -> pa.RecordBatch:
        """Return a batch of no rows that carries the dictionaries of all batches seen."""
        return _empty(self._schema) if self._seed is None else self._seed

    def _unify(self, first: pa.RecordBatch, second: pa.RecordBatch) -> pa.RecordBatch:
        columns = []
        for mine, theirs, field in zip(first.columns, second.columns, self._schema, strict=True):
            if contains(field.type, wanted=pa.types.is_dictionary) and not _same_dictionary(mine, theirs):
                columns.append(pa.chunked_array([mine, _private(theirs)]).unify_dictionaries().chunk(1))
            else:
                columns.append(theirs)
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _renewed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = []
        for column, field in zip(batch.columns, self._schema, strict=True):
            if contains(field.type, wanted=pa.types.is_dictionary):
                try:
                    columns.append(_reencode(column))
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise self._refusal(error) from error
            else:
                columns.append(column)
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _refusal(self, error: Exception) -> PlanError:
        encoded = [f.name for f in self._schema if contains(f.type, wanted=pa.types.is_dictionary)]
        return PlanError(
            f"the dictionary-encoded columns {encoded} cannot be exchanged: their dictionaries do not go into one "
            f"({error}); cast the column to its plain type, or to a dictionary with a wider index"
        )


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    if not len(schema):
        return pa.RecordBatch.from_arrays([], schema=schema)
    return pa.RecordBatch.from_arrays([_empty_array(field.type) for field in schema], schema=schema)


def _empty_array(type_: pa.DataType) -> pa.Array:
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, _empty_array(type_.storage_type))
    return pa.nulls(0, type_)


def _dictionaries(array: pa.Array) -> Iterator[pa.Array]:
    """Yield the values of every dictionary in an array, at any depth."""
    if isinstance(array, pa.ExtensionArray):
        yield from _dictionaries(array.storage)
    elif isinstance(array, pa.DictionaryArray):
        yield array.dictionary
        yield from _dictionaries(array.dictionary)
    elif not contains(array.type, wanted=pa.types.is_dictionary):
        return
    elif isinstance(array, pa.MapArray):
        yield from _dictionaries(array.keys)
        yield from _dictionaries(array.items)
    elif hasattr(array, "values"):
        yield from _dictionaries(array.values)
    else:
        for index in range(array.type.num_fields):
            yield from _dictionaries(array.field(index))


def _same_dictionary(one: pa.Array, other: pa.Array) -> bool:
    """Return whether two dictionary arrays carry equal dictionaries; only looks at the outermost level."""
    if not isinstance(one, pa.DictionaryArray) or not isinstance(other, pa.DictionaryArray):
        return False
    return bool(one.dictionary.equals(other.dictionary))


def _private(column: pa.Array) -> pa.Array:
    """Return a column that shares no structure with any other, for pyarrow to change.

    ``unify_dictionaries`` makes new arrays of outermost dictionaries, but puts the new dictionary of a nested one
    into its input, whose indices then mean other values.
    """
    if isinstance(column, pa.DictionaryArray) or not contains(column.type, wanted=pa.types.is_dictionary):
        return column
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_arrays([column], names=["x"])
    with ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return ipc.open_stream(sink.getvalue()).read_next_batch().column(0)


def _reencode(column: pa.Array) -> pa.Array:
    """Return the column with dictionaries of just the values that its rows use, nulls not among them."""
    if isinstance(column, pa.DictionaryArray):
        fresh = column.dictionary_decode().dictionary_encode()
        indices = fresh.indices.cast(column.type.index_type)
        return pa.DictionaryArray.from_arrays(indices, fresh.dictionary, ordered=column.type.ordered)
    plain = _with_types(column.type, pa.types.is_dictionary, lambda type_: type_.value_type)
    return column.cast(plain).cast(column.type)


def _relabel(column: pa.Array, field: pa.Field) -> pa.Array:
    if column.type.equals(field.type):
        return column
    if not same_layout(column.type, field.type):
        raise PlanError(f"column {field.name!r} came as {column.type} although the stage's schema says {field.type}")
    return pa.array(_Relabelled(column, field.type))


class _Relabelled:
    """An array that offers its buffers under another type of the same layout, by Arrow's C data interface."""

    def __init__(self, column: pa.Array, type_: pa.DataType) -> None:
        self._column, self._type = column, type_

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        return self._type.__arrow_c_schema__(), self._column.__arrow_c_array__()[1]


def _compact(column: pa.Array) -> pa.Array:
    if not _holds_view(column.type) or _drags_little(column):
        return column
    narrow = pa.concat_arrays([column])  # cuts offsets and children down to the rows that are there
    plain = _with_types(column.type, _is_value_view, _plain_of_view)
    if plain.equals(column.type):
        return narrow
    try:
        copied = narrow.cast(plain).cast(column.type)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return narrow  # larger on disk than it must be, and as right
    return copied if copied.get_total_buffer_size() < narrow.get_total_buffer_size() else narrow


def _drags_little(column: pa.Array) -> bool:
    """Whether a column is one of views over buffers so small that to copy what they use takes longer than to keep them.

    So it is with short values, which views hold themselves, and with those of a small dictionary.
    """
    if not _is_value_view(column.type) or column.offset:
        return False
    _, views, *others = column.buffers()
    dragged_bytes = sum(other.size for other in others if other is not None)
    needed_bytes = VIEW_BYTES * len(column)
    return bool(views.size <= 2 * needed_bytes and dragged_bytes <= needed_bytes * MAX_DRAGGED)


def _with_types(type_: pa.DataType, wanted: Any, replace: Any) -> pa.DataType:
    """Return the type with every nested type that satisfies ``wanted`` replaced."""
    if wanted(type_):
        return _with_types(replace(type_), wanted, replace)
    types = pa.types
    if types.is_struct(type_):
        return pa.struct([f.with_type(_with_types(f.type, wanted, replace)) for f in _children(type_)])
    if types.is_map(type_):
        key, item = (f.with_type(_with_types(f.type, wanted, replace)) for f in _map_fields(type_))
        return pa.map_(key, item, keys_sorted=type_.keys_sorted)
    makers = (
        (types.is_list, pa.list_),
        (types.is_large_list, pa.large_list),
        (types.is_fixed_size_list, lambda field: pa.list_(field, type_.list_size)),
    )
    for is_kind, make in makers:
        if is_kind(type_):
            field = type_.value_field
            return make(field.with_type(_with_types(field.type, wanted, replace)))
    return type_


def _map_fields(type_: pa.DataType) -> tuple[pa.Field, pa.Field]:
    return type_.key_field, type_.item_field


def _plain_of_view(type_: pa.DataType) -> pa.DataType:
    return pa.large_string() if pa.types.is_string_view(type_) else pa.large_binary()


def _is_value_view(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string_view(type_) or pa.types.is_binary_view(type_))


def _is_view(type_: pa.DataType) -> bool:
    types = pa.types
    return _is_value_view(type_) or bool(types.is_list_view(type_) or types.is_large_list_view(type_))


@functools.lru_cache(KNOWN_TYPES)
def _holds_view(type_: pa.DataType) -> bool:
    return contains(type_, wanted=_is_view)


def _cannot_be_cut(schema: pa.Schema) -> bool:
    return any(_holds_dense_union(field.type) for field in schema)


@functools.lru_cache(KNOWN_TYPES)
def _holds_dense_union(type_: pa.DataType) -> bool:
    return contains(type_, wanted=_is_dense_union)


def _is_dense_union(type_: pa.DataType) -> bool:
    return bool(pa.types.is_union(type_) and type_.mode == "dense")


def _storage(type_: pa.DataType) -> pa.DataType:
    return type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_


def _children(type_: pa.DataType) -> list[pa.Field]:
    if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        return []
    if pa.types.is_map(type_):
        return list(_map_fields(type_))
    if hasattr(type_, "value_field"):
        return [type_.value_field]
    return [type_.field(i) for i in range(type_.num_fields)]


def _concat(group: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    if len(group) == 1:
        return group
    try:
        return [pa.concat_batches(group)]
    except pa.ArrowNotImplementedError:
        return group  # a type that cannot be concatenated is as right in small batches


def read_schema(data: bytes, key: str) -> pa.Schema:
    """Return the schema in an Arrow IPC schema message.

    Args:
        data: The message.
        key: Where it lay, for the error.

    Raises:
        ObjectDamaged: If it is none.
    """
    try:
        return ipc.read_schema(pa.py_buffer(data))
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        raise ObjectDamaged(f"{key!r} holds no Arrow schema where one is expected: {error}", key=key) from error
