"""The comparison of two answers to one query: what SQL fixes of them, no less and no more.

Which columns the rows are ordered by, and whether a LIMIT leaves open which rows there are, is read from the plan that
DataFusion bound. The comparison of tables itself is :mod:`apiary_df.testing.compare`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import datafusion
import pyarrow as pa
from datafusion.expr import Limit, Projection, Sort
from datafusion.plan import LogicalPlan

from apiary_df.testing.compare import compare_tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What a query's outermost clauses fix of its answer.

    Attributes:
        order: Positions of the output columns of its ORDER BY, up to the first key that is not in the output.
        unlimited: The query without its LIMIT and OFFSET; None if it has none.
    """

    order: tuple[int, ...]
    unlimited: LogicalPlan | None


def fixed_by(frame: datafusion.DataFrame) -> Fixed:
    """Read from a query's plan what it fixes of its answer."""
    plan = frame.logical_plan()
    unlimited: LogicalPlan | None = None
    node = plan.to_variant()
    if isinstance(node, Limit):
        (unlimited,) = plan.inputs()
        node = unlimited.to_variant()
    outputs = frame.schema().names
    if isinstance(node, Projection):
        # Above a sort stands only what drops the keys that are not in the output.
        outputs = [expression.canonical_name() for expression in node.projections()]
        (inner,) = node.input()
        node = inner.to_variant()
        keys = [key.expr().canonical_name() for key in node.sort_exprs()] if isinstance(node, Sort) else []
    else:
        keys = [_output_name(key.expr()) for key in node.sort_exprs()] if isinstance(node, Sort) else []
    order: list[int] = []
    for key in keys:
        if outputs.count(key) != 1:
            break
        order.append(outputs.index(key))
    return Fixed(order=tuple(order), unlimited=unlimited)


def difference(
    plain: datafusion.SessionContext, frame: datafusion.DataFrame, expected: pa.Table, actual: pa.Table, digits: int
) -> str | None:
    """Return how an answer differs from the right one in what SQL fixes; None if it does not.

    If a LIMIT cuts between rows that its ORDER BY does not tell apart, SQL fixes only the keys of the rows, and that
    each is a row of the query without the LIMIT.

    Args:
        plain: The session of ``frame``.
        frame: The query.
        expected: The answer of plain DataFusion.
        actual: The other answer.
        digits: Significant digits of floats that must agree.
    """
    if (wrong := schema_difference(frame.schema(), actual.schema)) is not None:
        return wrong
    fixed = fixed_by(frame)
    ours, theirs = _by_position(expected), _by_position(actual)
    columns = tuple(ours.column_names[position] for position in fixed.order)
    found = compare_tables(
        ours, theirs, ordered=bool(columns), order_columns=columns or None, significant_digits=digits
    )
    if found is None or fixed.unlimited is None or ours.num_rows != theirs.num_rows:
        return None if found is None else str(found)
    keys = list(columns)
    if (
        keys
        and (found := compare_tables(ours.select(keys), theirs.select(keys), ordered=True, significant_digits=digits))
        is not None
    ):
        return str(found)
    everything = _by_position(plain.create_dataframe_from_logical_plan(fixed.unlimited).to_arrow_table())
    return _missing(everything, theirs, digits)


def schema_difference(expected: pa.Schema, actual: pa.Schema) -> str | None:
    """Return how two schemas differ in names, types, nullability or metadata; None if they do not."""
    if actual.equals(expected, check_metadata=True):
        return None
    shown = [schema.to_string(show_field_metadata=True, show_schema_metadata=True) for schema in (expected, actual)]
    return f"schemas differ: expected\n{shown[0]}\nactual\n{shown[1]}"


def _output_name(key: datafusion.Expr) -> str:
    """Return the name of the output column that a sort key stands for."""
    return key.schema_name() if key.variant_name() != "Column" else str(key.to_variant().name())


def _by_position(table: pa.Table) -> pa.Table:
    """Return a table whose column names are alone of their kind: those that are not get their position."""
    names = table.column_names
    return table.rename_columns([n if names.count(n) == 1 else f"{n} #{i}" for i, n in enumerate(names)])


def _missing(everything: pa.Table, rows: pa.Table, digits: int) -> str | None:
    """Return a row that occurs more often in a table than in the one that it was taken from."""
    left: dict[str, list[tuple[float, ...]]] = {}
    for row in everything.to_pylist():
        rest, floats = _split(row)
        left.setdefault(rest, []).append(floats)
    for number, row in enumerate(rows.to_pylist()):
        rest, floats = _split(row)
        candidates = left.get(rest, [])
        found = next((i for i, other in enumerate(candidates) if _close(floats, other, digits)), None)
        if found is None:
            return f"row {number} of actual is not among the rows without LIMIT: {row}"
        del candidates[found]
    return None


def _split(row: dict[str, object]) -> tuple[str, tuple[float, ...]]:
    """Split a row into what must be equal and what must be close."""
    floats = tuple(value for value in row.values() if isinstance(value, float) and math.isfinite(value))
    return repr([None if isinstance(v, float) and math.isfinite(v) else (v,) for v in row.values()]), floats


def _close(ours: tuple[float, ...], theirs: tuple[float, ...], digits: int) -> bool:
    return all(math.isclose(a, b, rel_tol=10.0 ** (1 - digits)) for a, b in zip(ours, theirs, strict=True))
