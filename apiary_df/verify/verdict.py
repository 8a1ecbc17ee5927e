"""The verdict over two answers to one query: what was compared, or the first difference.

What belongs here: which comparison suits a query. First everything is compared as if nothing were open; only where that
finds a difference, it is asked whether SQL leaves it open. So an answer that equals plain DataFusion's is never held to
be less than equal, and the further queries that some questions take are run only where they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datafusion
import pyarrow as pa
import pyarrow.compute as pc
from datafusion.expr import Expr
from datafusion.plan import LogicalPlan

from apiary_df.comparison.tables import (
    DIGITS,
    Difference,
    compare_tables,
    compare_within_groups,
    find_outside,
    runs_of,
)
from apiary_df.verify import shape
from apiary_df.verify.shape import Shape, shape_of

SUM_DIGITS = 10
"""Digits that floats must share where they may be sums: those of many rows, added up in another order, lose a few."""

OTHER_ORDER = "floats to 10 digits, since sums were added up in another order"
INNER_ORDER = "what was collected into lists or texts without regard to the order in it"
WHICH_ROWS = "which of the rows that are equal in its ORDER BY a LIMIT takes"

Change = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a comparison.

    Attributes:
        difference: The first difference that SQL does not allow; None if there is none.
        compared: What was found equal.
        open: What was not compared, since SQL leaves it open.
    """

    difference: Difference | None
    compared: tuple[str, ...] = ()
    open: tuple[str, ...] = ()


class Judge:
    """Judges answers to one query.

    Args:
        session: The user's session, for further questions to plain DataFusion.
        plan: The query as it was bound, with the time already put in.
    """

    def __init__(self, session: datafusion.SessionContext, plan: LogicalPlan) -> None:
        self._session = session
        self._plan = plan
        self._shape: Shape = shape_of(plan)
        self._text = plan.display_indent()
        self._keys: pa.Table | None = None
        self._whole: pa.Table | None = None

    def judge(self, expected: pa.Table, actual: pa.Table) -> Verdict:
        """Compare plain DataFusion's answer with the swarm's."""
        difference = _compare_schemas(expected.schema, actual.schema)
        if difference is not None:
            return Verdict(difference=difference)
        expected, actual = _numbered(expected), _numbered(actual)
        first: Difference | None = None
        for digits, change, allowance in self._ways():
            difference = self._compare(change(expected), change(actual), digits)
            if difference is None:
                return Verdict(difference=None, compared=self._compared(), open=allowance)
            first = first or difference
            if self._shape.limited and self._is_taken_from_whole(expected, actual, digits, change):
                return Verdict(difference=None, compared=self._compared(), open=(*allowance, WHICH_ROWS))
        assert first is not None
        return self._where_something_is_open(expected, actual, _named(first))

    def _ways(self) -> list[tuple[int, Change, tuple[str, ...]]]:
        """Return the ways to compare, the strictest first."""
        ways: list[tuple[int, Change, tuple[str, ...]]] = [(DIGITS, _unchanged, ())]
        sums, collects = shape.sums_up(self._text), shape.collects(self._text)
        if sums:
            ways.append((SUM_DIGITS, _unchanged, (OTHER_ORDER,)))
        if collects:
            ways.append((DIGITS, _without_inner_order, (INNER_ORDER,)))
        if sums and collects:
            ways.append((SUM_DIGITS, _without_inner_order, (OTHER_ORDER, INNER_ORDER)))
        return ways

    def _compared(self) -> tuple[str, ...]:
        return ("schema", "rows", "order") if self._shape.ordered else ("schema", "rows")

    def _compare(self, expected: pa.Table, actual: pa.Table, digits: int) -> Difference | None:
        if not self._shape.ordered or len(expected) != len(actual):
            return compare_tables(expected, actual, ordered=False, significant_digits=digits)
        difference = compare_tables(expected, actual, ordered=True, significant_digits=digits)
        if difference is None:
            return None
        groups = self._groups(digits)
        skip = self._shape.skip
        if groups is None or skip is None or len(groups) < skip + len(expected):
            return difference
        return compare_within_groups(expected, actual, groups.slice(skip, len(expected)), significant_digits=digits)

    # -- what a LIMIT may take ----------------------------------------------------------------------------------------

    def _is_taken_from_whole(self, expected: pa.Table, actual: pa.Table, digits: int, change: Change) -> bool:
        """Whether the actual rows could be taken by a LIMIT, at their places, from the answer without it."""
        skip = self._shape.skip
        if len(expected) != len(actual) or skip is None or self._below_is_open():
            return False
        whole = self._whole_answer()
        if whole is None:
            return False
        groups = self._groups(digits) if self._shape.keys else pa.repeat(pa.scalar(0, pa.int64()), len(whole))
        if groups is None or len(groups) != len(whole):
            return False
        taken = groups.slice(skip, len(actual))
        if not self._shape.ordered:
            return self._is_taken_in_any_order(change(whole), change(actual), groups, taken, digits)
        return find_outside(change(whole), change(actual), groups, taken, significant_digits=digits) is None

    def _is_taken_in_any_order(
        self, whole: pa.Table, actual: pa.Table, groups: pa.Array, taken: pa.Array, digits: int
    ) -> bool:
        """Whether the rows are of the groups that the LIMIT reaches, where the order itself is not fixed."""
        reached = pc.is_in(groups, value_set=taken.unique()).cast(pa.int64())
        ones = pa.repeat(pa.scalar(1, pa.int64()), len(actual))
        outside = find_outside(whole, actual, reached, ones, significant_digits=digits)
        return outside is None

    def _groups(self, digits: int) -> pa.Array | None:
        """Number the positions of the answer without its limit by equal keys of the ORDER BY."""
        if self._keys is None:
            frame = self._frame(self._shape.base)
            named = [key.alias(f"key{number}") for number, key in enumerate(self._shape.keys)]
            self._keys = _run(lambda: frame.select(*named).to_arrow_table())
        return None if self._keys is None else runs_of(self._keys, digits)

    def _whole_answer(self) -> pa.Table | None:
        if self._whole is None:
            self._whole = _run(lambda: _numbered(self._rebuilt().to_arrow_table()))
        return self._whole

    def _rebuilt(self) -> datafusion.DataFrame:
        """Return the query without its limit."""
        frame = self._frame(self._shape.base)
        for step in reversed(self._shape.steps):
            variant = step.to_variant()
            if shape.kind_of(step) == "Projection":
                frame = frame.select(*(Expr(raw) for raw in variant.projections()))
            else:
                frame = frame.alias(variant.alias())
        return frame

    def _frame(self, plan: LogicalPlan) -> datafusion.DataFrame:
        return datafusion.SessionContext.create_dataframe_from_logical_plan(self._session, plan)

    # -- what else SQL leaves open ------------------------------------------------------------------------------------

    def _below_is_open(self) -> bool:
        return bool(self._left_open())

    def _left_open(self) -> tuple[str, ...]:
        plan = self._shape.base if self._shape.limited else self._plan
        optimized = self._frame(plan).optimized_logical_plan()
        return shape.left_open(optimized.display_indent(), shape.is_volatile(optimized))

    def _where_something_is_open(self, expected: pa.Table, actual: pa.Table, first: Difference) -> Verdict:
        """Judge a difference that was found: compare what is fixed whatever is open."""
        reasons = self._left_open()
        if not reasons:
            return Verdict(difference=first)
        rows_fixed, columns = shape.fixed_columns(self._plan)
        compared = ["schema"]
        if rows_fixed:
            if len(expected) != len(actual):
                return Verdict(difference=first)
            compared.append("row count")
        if columns:
            chosen = [expected.select(list(columns)), actual.select(list(columns))]
            difference = compare_tables(*chosen, ordered=False, significant_digits=SUM_DIGITS)
            if difference is not None:
                return Verdict(difference=_named(difference))
            names = ", ".join(expected.column_names[i].split(":", 1)[1] for i in columns)
            compared.append("rows" if len(columns) == expected.num_columns else f"columns {names}")
        return Verdict(difference=None, compared=tuple(compared), open=reasons)


def _compare_schemas(expected: pa.Schema, actual: pa.Schema) -> Difference | None:
    """Compare names, types, nullability and metadata."""
    if actual.equals(expected, check_metadata=True):
        return None
    if expected.names != actual.names:
        return Difference(reason=f"column names differ: expected {expected.names}, actual {actual.names}")
    for ours, theirs in zip(expected, actual, strict=True):
        if not theirs.equals(ours, check_metadata=True):
            sides = [f"{_described(field)}" for field in (ours, theirs)]
            return Difference(reason=f"column {ours.name} differs: expected {sides[0]}, actual {sides[1]}")
    return Difference(reason=f"metadata differ: expected {expected.metadata}, actual {actual.metadata}")


def _described(field: pa.Field) -> str:
    null = "" if field.nullable else " not null"
    return f"{field.type}{null}" + (f" with {field.metadata}" if field.metadata else "")


def _numbered(table: pa.Table) -> pa.Table:
    """Return a table under unique names: those of an answer may repeat."""
    return table.rename_columns([f"{number}:{name}" for number, name in enumerate(table.column_names)])


def _named(difference: Difference) -> Difference:
    """Return a difference with the columns' own names."""
    values = tuple(
        type(value)(column=value.column.split(":", 1)[1], expected=value.expected, actual=value.actual)
        for value in difference.values
    )
    return Difference(reason=difference.reason, row=difference.row, actual_row=difference.actual_row, values=values)


def _unchanged(table: pa.Table) -> pa.Table:
    return table


def _without_inner_order(table: pa.Table) -> pa.Table:
    """Return a table with the items of every list, and the letters of every text, in an order of their own."""
    columns = []
    for column in table.columns:
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            lists = (None if items is None else sorted(items, key=_rank) for items in column.to_pylist())
            columns.append(pa.chunked_array([pa.array(lists, kind)]))
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            texts = (None if text is None else "".join(sorted(text)) for text in column.to_pylist())
            columns.append(pa.chunked_array([pa.array(texts, kind)]))
        else:
            columns.append(column)
    return pa.Table.from_arrays(columns, schema=table.schema)


def _rank(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float) and not math.isnan(value):
        return 0, value, ""
    return 1, 0.0, repr(value)


def _run(query: Callable[[], pa.Table]) -> pa.Table | None:
    """Return the answer to a further question, or None if DataFusion does not take the question as it was put."""
    try:
        return query()
    except Exception:  # noqa: BLE001 - DataFusion raises bare Exception; without an answer the first verdict stands
        return None
