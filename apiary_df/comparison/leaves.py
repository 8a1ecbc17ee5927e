"""Columns taken apart into leaves that can be compared fast: integer codes and floats.

Here belongs what turns any Arrow column into leaves, and the rule for when two floats are the same number.
What is done with rows, order and differences does not: see :mod:`apiary_df.comparison.tables`.

Every column of any type becomes one *code* column, in which equal codes mean equal values in all but finite
floats, and as many *float* columns as it needs (none, one, or several for nested types). NULL, NaN and the
infinities are told apart by the code; the float then holds 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaves:
    """One column of two tables, the expected rows first, then the actual ones.

    Attributes:
        codes: int64 without nulls.
        floats: float64 arrays without nulls, NaN, infinities or -0.
    """

    codes: pa.Array
    floats: tuple[pa.Array, ...] = ()


def split_column(expected: pa.ChunkedArray, actual: pa.ChunkedArray) -> Leaves:
    """Take one column of two tables apart; both must be of the same :func:`logical_type`."""
    # Chunk by chunk: dictionaries that hold a NULL cannot be unified, and that is none of the values' business.
    chunks = [chunk for side in (expected, actual) for chunk in _plain_chunks(side)]
    if pa.types.is_nested(chunks[0].type):
        return _split_nested([value for chunk in chunks for value in _to_values(chunk)])
    both = pa.concat_arrays(chunks)
    if pa.types.is_floating(both.type):
        return _split_floats(both.cast(pa.float64()))
    return Leaves(codes=encode(both))


def encode(values: pa.Array) -> pa.Array:
    """Return int64 codes, dense from 0, that are equal where the values are; NULL is a value."""
    if pa.types.is_null(values.type):
        return _zeros(len(values))
    return pc.dictionary_encode(values, null_encoding="encode").indices.cast(pa.int64())


def combine(codes: pa.Array, more: pa.Array) -> pa.Array:
    """Return codes that are equal where both inputs are; both dense, so the product stays below 2**63."""
    if len(codes) == 0:
        return codes
    width = pc.max(more).as_py() + 1
    return encode(pc.add(pc.multiply(codes, width), more))


def logical_type(kind: pa.DataType) -> str:
    """Name a type so that encodings of the same values share it: views, large offsets, dictionaries."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return logical_type(kind.value_type)
    if _is_string(kind):
        return "string"
    if _is_binary(kind):
        return "binary"
    if pa.types.is_map(kind):
        return f"map<{logical_type(kind.key_type)}, {logical_type(kind.item_type)}>"
    if pa.types.is_fixed_size_list(kind):
        return f"list<{logical_type(kind.value_type)}>[{kind.list_size}]"
    if _is_list(kind):
        return f"list<{logical_type(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{f.name}: {logical_type(f.type)}' for f in kind)}>"
    return str(kind)


def close(left: pa.Array, right: pa.Array, significant_digits: int) -> pa.Array:
    """Say, for each pair of finite floats, whether they are the same number to so many significant digits.

    They are if they differ by at most one unit in the last of those digits, counted on the larger of the two.
    (To round both and compare would call neighbours different wherever a rounding edge lies between them.)
    """
    size = pc.max_element_wise(pc.abs(left), pc.abs(right))
    exponent = pc.subtract(pc.floor(pc.log10(size)), float(significant_digits - 1))
    return pc.less_equal(pc.abs(pc.subtract(left, right)), pc.power(10.0, exponent))


def last_digit(value: float, significant_digits: int) -> float:
    """Return the size of one unit in the last significant digit of a finite float; 0 for 0."""
    if value == 0:
        return 0.0
    return float(10.0 ** (math.floor(math.log10(abs(value))) - (significant_digits - 1)))


def _zeros(count: int) -> pa.Array:
    return pa.repeat(pa.scalar(0, pa.int64()), count)


def _split_floats(values: pa.Array) -> Leaves:
    null, nan, inf = pc.is_null(values), pc.is_nan(values), pc.is_inf(values)
    unusual = pc.or_(null, pc.fill_null(pc.or_(nan, inf), False))
    # Adding 0 makes -0 a 0: they are the same number.
    finite = pc.add(pc.if_else(unusual, 0.0, values), 0.0)
    if not pc.any(unusual).as_py():
        return Leaves(codes=_zeros(len(values)), floats=(finite,))
    codes = pc.case_when(
        pc.make_struct(null, nan, pc.equal(values, math.inf), pc.equal(values, -math.inf)),
        *(pa.scalar(code, pa.int64()) for code in (1, 2, 3, 4, 0)),
    )
    return Leaves(codes=codes, floats=(finite,))


def _split_nested(values: Sequence[object]) -> Leaves:
    """Split values of a nested type: their shape and all but the finite floats give the code."""
    shapes: list[str] = []
    floats: list[list[float]] = []
    for value in values:
        found: list[float] = []
        shapes.append(_shape(value, found))
        floats.append(found)
    width = max((len(found) for found in floats), default=0)
    columns = [[found[i] if i < len(found) else 0.0 for found in floats] for i in range(width)]
    return Leaves(
        codes=encode(pa.array(shapes, pa.large_string())),
        floats=tuple(pa.array(column, pa.float64()) for column in columns),
    )


def _shape(value: object, floats: list[float]) -> str:
    if isinstance(value, float) and math.isfinite(value):
        floats.append(value + 0.0)
        return "float"
    if isinstance(value, tuple):
        return f"({','.join(_shape(item, floats) for item in value)})"
    return repr(value)


def _plain_chunks(column: pa.ChunkedArray) -> list[pa.Array]:
    return [_plain(chunk) for chunk in column.chunks] or [_plain(column.combine_chunks())]


def _plain(values: pa.Array) -> pa.Array:
    """Return the same values without an encoding: no dictionary, run ends, views or extension."""
    kind = values.type
    if isinstance(values, pa.ExtensionArray):
        return _plain(values.storage)
    if pa.types.is_dictionary(kind):
        return _plain(values.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(values))
    if _is_string(kind):
        return values.cast(pa.large_string())
    if _is_binary(kind):
        return values.cast(pa.large_binary())
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return values.cast(pa.decimal128(kind.precision, kind.scale))
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        # As whole numbers: Python's own types cannot hold nanoseconds.
        return values.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    return values


def _to_values(array: pa.Array) -> list[Any]:
    """Return Python values, tuples for anything nested, whole numbers for dates and times."""
    values = _plain(array)
    kind = values.type
    if pa.types.is_struct(kind):
        # Not flatten(): it gives a NULL struct the shape of a struct of NULLs.
        children = [_to_values(values.field(i)) for i in range(kind.num_fields)]
        rows = list(zip(*children, strict=True)) if children else [()] * len(values)
        return [row if valid else None for row, valid in zip(rows, _validity(values), strict=True)]
    if pa.types.is_map(kind):
        entries = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        return _to_values(values.cast(pa.list_(entries)))
    if _is_list(kind) or pa.types.is_fixed_size_list(kind):
        items = iter(_to_values(values.flatten()))
        lengths = pc.list_value_length(values).to_pylist()
        return [None if n is None else tuple(next(items) for _ in range(n)) for n in lengths]
    if pa.types.is_floating(kind):
        return list(values.cast(pa.float64()).to_pylist())
    return [_as_tuples(value) for value in values.to_pylist()]


def _as_tuples(value: object) -> object:
    """Bring what pyarrow itself made of a union's values into the form of the rest."""
    if isinstance(value, list | tuple):
        return tuple(_as_tuples(item) for item in value)
    if isinstance(value, Mapping):
        return tuple((key, _as_tuples(item)) for key, item in value.items())
    return value


def _validity(values: pa.Array) -> list[bool]:
    return list(values.is_valid().to_pylist())


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_list(kind) or types.is_large_list(kind) or types.is_list_view(kind) or types.is_large_list_view(kind)
    )
