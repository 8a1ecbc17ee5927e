"""``DataFrame.describe``: which aggregates it takes, and the table that is made of them.

What belongs here: expressions in, tables out. Running the aggregates is the DataFrame's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import datafusion
import pyarrow as pa
from datafusion import Expr, functions

STATISTICS = ("count", "null_count", "mean", "std", "min", "max", "median")
"""The rows of a description, in DataFusion's order."""

_Make = Callable[[Expr], Expr]

_NUMBERS: Mapping[str, _Make] = {"mean": functions.avg, "std": functions.stddev, "median": functions.median}
"""Statistics of numbers alone."""

_EXTREMES: Mapping[str, _Make] = {"min": functions.min, "max": functions.max}

_NOTHING = "null"
"""What DataFusion shows for a statistic that a column's type does not have."""


def aggregates(schema: pa.Schema) -> list[Expr]:
    """Return the aggregates that describe a frame of this schema: one row, which :func:`description` takes."""
    found: list[Expr] = []
    for number, field in enumerate(schema):
        column = datafusion.col('"' + field.name.replace('"', '""') + '"')
        one, none = datafusion.lit(1), datafusion.lit(0)
        missing = functions.case(column.is_null()).when(datafusion.lit(True), one).otherwise(none)
        chosen = {"count": functions.count(column), "null_count": functions.sum(missing)}
        if _is_number(field.type):
            chosen |= {name: make(column).cast(pa.float64()) for name, make in _NUMBERS.items()}
        if _has_extremes(field.type):
            chosen |= {name: make(column) for name, make in _EXTREMES.items()}
        found += [expression.alias(f"{number}:{name}") for name, expression in chosen.items()]
    return found


def description(schema: pa.Schema, row: pa.Table, describe: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Return the description of a frame.

    Args:
        schema: The frame's schema.
        row: What its :func:`aggregates` gave.
        describe: DataFusion's own description of a table. It is asked about the extremes only, and so shows them as
            it always does.
    """
    extremes = describe(_extremes(schema, row))
    columns: list[pa.Array] = [extremes.column(0)]
    for number in range(len(schema)):
        shown = extremes.schema.field(number + 1)
        values = dict(zip(STATISTICS, extremes.column(number + 1).to_pylist(), strict=True))
        for name in STATISTICS:
            if name not in _EXTREMES:
                values[name] = _value(row, f"{number}:{name}", shown.type)
        columns.append(pa.array([values[name] for name in STATISTICS], shown.type))
    return pa.Table.from_arrays(columns, schema=extremes.schema)


def _value(row: pa.Table, name: str, shown: pa.DataType) -> float | str | None:
    if name not in row.column_names:
        return _NOTHING
    value = row.column(name)[0].as_py()
    if value is None:
        return None
    return float(value) if pa.types.is_floating(shown) else str(value)


def _extremes(schema: pa.Schema, row: pa.Table) -> pa.Table:
    """Return a table of the columns' least and greatest values; without any where a type has none."""
    columns: dict[str, pa.Array] = {}
    for number, field in enumerate(schema):
        if _has_extremes(field.type):
            pair: Sequence[pa.ChunkedArray] = [row.column(f"{number}:{name}") for name in _EXTREMES]
            columns[field.name] = pa.chunked_array([chunk for side in pair for chunk in side.chunks], pair[0].type)
        else:
            columns[field.name] = pa.nulls(2, field.type)
    return pa.table(columns)


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _has_extremes(kind: pa.DataType) -> bool:
    types = pa.types
    return not (types.is_boolean(kind) or types.is_map(kind) or types.is_null(kind))
