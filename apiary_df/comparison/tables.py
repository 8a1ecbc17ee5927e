"""Differential comparison: are two results the same rows?

Here belongs the verdict over two Arrow tables and the words for the first difference. How columns become
comparable is in :mod:`apiary_df.comparison.leaves`, the pairing of rows with floats in
:mod:`apiary_df.comparison.matching`; running queries belongs to the callers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from apiary_df.comparison.leaves import Leaves, close, combine, encode, logical_type, split_column
from apiary_df.comparison.matching import first_unmatched
from apiary_df.errors import ConfigError

DIGITS = 14
"""Significant digits that floats must share: what is left when a sum of a few rows is added up in another order."""

MAX_SHOWN_CHARS = 200
"""Longest text of one value in a difference; the rest is cut and marked."""

MAX_NEIGHBOURS = 200
"""Rows of the other table among which the most similar one is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueDifference:
    """A column in which two rows differ: its name, and both values as text (None: there is no such row)."""

    column: str
    expected: str | None
    actual: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first thing in which two tables differ; ``str()`` says it for a person.

    Attributes:
        reason: What differs: columns, types, number of rows, order, or a row.
        row: The row of the expected table, from 0; None if the difference is not in one of its rows.
        actual_row: The row of the actual table, likewise; without an order, the one most like the expected.
        values: The columns that differ between these two rows, or all of the row if only one table has it.
    """

    reason: str
    row: int | None = None
    actual_row: int | None = None
    values: tuple[ValueDifference, ...] = ()

    def __str__(self) -> str:
        lines = [self.reason]
        if self.row is not None and self.actual_row is not None:
            lines.append(f"row {self.row} of expected, row {self.actual_row} of actual:")
        elif self.row is not None:
            lines.append(f"row {self.row} of expected has no counterpart in actual:")
        elif self.actual_row is not None:
            lines.append(f"row {self.actual_row} of actual has no counterpart in expected:")
        for value in self.values:
            sides = (("expected", value.expected), ("actual", value.actual))
            shown = ", ".join(f"{side} {text}" for side, text in sides if text is not None)
            lines.append(f"  {value.column}: {shown}")
        return "\n".join(lines)


def compare_tables(
    expected: pa.Table,
    actual: pa.Table,
    *,
    ordered: bool,
    significant_digits: int = DIGITS,
    order_columns: Sequence[str] | None = None,
    exact_types: bool = True,
) -> Difference | None:
    """Compare two tables and return the first difference, or None if there is none.

    Everything is compared exactly but floats (alone or nested), which may differ by one unit in the last of
    the significant digits. All NaN are one value, and so are 0 and -0; NULL, NaN and the infinities each equal
    only themselves. Whether a column is declared nullable does not count.

    Args:
        expected: What is right.
        actual: What is to be judged.
        ordered: Rows must come in the same order; if False, the tables are multisets of rows.
        significant_digits: Decimal digits that floats must share, 1 to 17.
        order_columns: With ``ordered``, the columns of the ORDER BY: only their sequence counts, and rows
            that are equal in all of them may come in any order. None: the position of every row counts.
        exact_types: If False, encodings of the same values (views, large offsets, dictionaries) are one.

    Raises:
        ConfigError: The digits are out of range, or an order column is not there or not alone of its name.
    """
    if not 1 <= significant_digits <= 17:
        raise ConfigError(f"floats have 1 to 17 significant digits, got significant_digits={significant_digits}")
    key = _positions(expected, order_columns or ())
    if (found := _compare_schemas(expected, actual, exact_types)) is not None:
        return found
    pair = _Pair(expected, actual, significant_digits)
    everything = range(expected.num_columns)
    if expected.num_rows != actual.num_rows:
        return pair.differ_in_row_count()
    if pair.first_position(everything) is None:
        return None
    if ordered:
        position = pair.first_position(everything if order_columns is None else key)
        if position is not None:
            return pair.differ(f"rows differ at position {position}", position, position)
        return pair.compare_multisets(pair.runs(key))
    return pair.compare_multisets(None)


def compare_within_groups(
    expected: pa.Table, actual: pa.Table, groups: pa.Array, *, significant_digits: int = DIGITS
) -> Difference | None:
    """Compare two tables of the same columns and length as multisets of rows within groups.

    Args:
        expected: What is right.
        actual: What is to be judged.
        groups: int64 number of the group at each position, of both tables alike: rows may change places within it.
        significant_digits: Decimal digits that floats must share.
    """
    return _Pair(expected, actual, significant_digits).compare_multisets(groups)


def runs_of(table: pa.Table, significant_digits: int = DIGITS) -> pa.Array:
    """Number the runs of rows that are equal to their neighbour, for each row; int64 from 0."""
    return _Pair(table, table, significant_digits).runs(range(table.num_columns))


def find_outside(
    whole: pa.Table,
    actual: pa.Table,
    whole_groups: pa.Array,
    actual_groups: pa.Array,
    *,
    significant_digits: int = DIGITS,
) -> Difference | None:
    """Return the first row of ``actual`` that is not among the rows of ``whole`` in its group, if there is one.

    Every row of ``whole`` stands for one of ``actual`` at most; only of rows whose floats are merely close, the
    number is not counted.

    Args:
        whole: The rows that may be taken; the same columns.
        actual: The rows that were taken.
        whole_groups: int64 number of the group of each row of ``whole``.
        actual_groups: The same of each row of ``actual``.
        significant_digits: Decimal digits that floats must share.
    """
    return _Pair(whole, actual, significant_digits).find_outside(whole_groups, actual_groups)


def _positions(table: pa.Table, names: Iterable[str]) -> list[int]:
    for name in names:
        if table.column_names.count(name) != 1:
            raise ConfigError(
                f"order column {name!r} must be one of the table's columns, which are {table.column_names}",
                column=name,
            )
    return [table.column_names.index(name) for name in names]


def _compare_schemas(expected: pa.Table, actual: pa.Table, exact_types: bool) -> Difference | None:
    if expected.column_names != actual.column_names:
        return Difference(reason=f"column names differ: expected {expected.column_names}, actual {actual.column_names}")
    as_text = _exact_type if exact_types else logical_type
    for ours, theirs in zip(expected.schema, actual.schema, strict=True):
        if as_text(ours.type) != as_text(theirs.type):
            return Difference(reason=f"types differ in column {ours.name}: expected {ours.type}, actual {theirs.type}")
    return None


def _exact_type(kind: pa.DataType) -> str:
    # Plans lose the note of nested fields that they cannot be NULL, and no value depends on it.
    return str(kind).replace(" not null", "")


class _Pair:
    """Two tables of the same columns. Rows are numbered through: the expected first, then the actual ones."""

    def __init__(self, expected: pa.Table, actual: pa.Table, significant_digits: int) -> None:
        self.expected = expected
        self.actual = actual
        self.digits = significant_digits
        self.columns: list[Leaves] = [
            split_column(ours, theirs) for ours, theirs in zip(expected.columns, actual.columns, strict=True)
        ]

    def first_position(self, columns: Iterable[int]) -> int | None:
        """Return the first position at which the two tables, equally long, differ in these columns."""
        count = self.expected.num_rows
        firsts = [pc.index(self._same(c, 0, count, count), False).as_py() for c in columns]
        return min((first for first in firsts if first >= 0), default=None)

    def runs(self, columns: Sequence[int]) -> pa.Array:
        """Number the runs of equal values in these columns of the expected table, for each of its rows."""
        count = self.expected.num_rows
        starts = pa.repeat(pa.scalar(False), max(count - 1, 0))
        for column in columns:
            starts = pc.or_(starts, pc.invert(self._same(column, 0, 1, count - 1)))
        zero = pa.array([0] * min(count, 1), pa.int64())
        return pa.concat_arrays([zero, pc.cumulative_sum(starts.cast(pa.int64()))])

    def compare_multisets(self, groups: pa.Array | None) -> Difference | None:
        """Compare as multisets: of all rows, or within groups that are given for each position."""
        ids = self._ids(groups)
        count = self.expected.num_rows
        ours, theirs = ids.slice(0, count), ids.slice(count)
        only_ours, only_theirs = _surplus(ours, theirs), _surplus(theirs, ours)
        where = "" if groups is None else " among rows that are equal in the order columns"
        if only_ours:
            return self._differ_in_rows(f"rows differ{where}", only_ours, only_theirs)
        floats = [values for column in self.columns for values in column.floats]
        unmatched = first_unmatched(ids, floats, count, self.digits)
        if unmatched is None:
            return None
        return self._differ_in_rows(f"rows differ{where}", [unmatched[0]], unmatched[1])

    def find_outside(self, groups: pa.Array, actual_groups: pa.Array) -> Difference | None:
        """Describe the first actual row that is not among the expected ones of its group."""
        count = self.expected.num_rows
        ids = encode(pa.concat_arrays([groups, actual_groups]))
        for column in self.columns:
            ids = combine(ids, column.codes)
        floats = [values for column in self.columns for values in column.floats]
        exact = ids
        for values in floats:
            exact = combine(exact, encode(values))
        for row in _surplus(exact.slice(count), exact.slice(0, count)):
            # Its exact equals are all taken; a row that is merely close in its floats may stand for it.
            found = pc.and_(
                pc.equal(ids.slice(0, count), ids[count + row]),
                pc.not_equal(exact.slice(0, count), exact[count + row]),
            )
            for values in floats:
                mine = pa.repeat(values[count + row], count)
                found = pc.and_(found, close(values.slice(0, count), mine, self.digits))
            if not pc.any(found).as_py():
                return self._lonely("a row is not among those that could be taken", self.actual, row)
        return None

    def differ_in_row_count(self) -> Difference:
        """Describe tables of different length, by a row that only the longer one has if there is one."""
        count = self.expected.num_rows
        reason = f"numbers of rows differ: expected {count}, actual {self.actual.num_rows}"
        ids = self._ids(None)
        ours, theirs = ids.slice(0, count), ids.slice(count)
        if len(ours) > len(theirs):
            return self._lonely(reason, self.expected, next(iter(_surplus(ours, theirs)), None))
        return self._lonely(reason, self.actual, next(iter(_surplus(theirs, ours)), None))

    def differ(self, reason: str, row: int, actual_row: int) -> Difference:
        """Describe two rows by the columns in which they differ."""
        values = tuple(
            ValueDifference(
                column=self.expected.column_names[c],
                expected=_show(self.expected.column(c)[row]),
                actual=_show(self.actual.column(c)[actual_row]),
            )
            for c in self._differing(row, actual_row)
        )
        return Difference(reason=reason, row=row, actual_row=actual_row, values=values)

    def _differ_in_rows(self, reason: str, ours: Sequence[int], theirs: Sequence[int]) -> Difference:
        row = ours[0]
        nearest = min(theirs[:MAX_NEIGHBOURS], key=lambda other: len(self._differing(row, other)))
        return self.differ(reason, row, nearest)

    def _lonely(self, reason: str, table: pa.Table, row: int | None) -> Difference:
        if row is None:
            return Difference(reason=reason)
        shown = [(name, _show(table.column(i)[row])) for i, name in enumerate(table.column_names)]
        if table is self.expected:
            values = tuple(ValueDifference(column=n, expected=text, actual=None) for n, text in shown)
            return Difference(reason=reason, row=row, values=values)
        values = tuple(ValueDifference(column=n, expected=None, actual=text) for n, text in shown)
        return Difference(reason=reason, actual_row=row, values=values)

    def _differing(self, row: int, actual_row: int) -> list[int]:
        other = self.expected.num_rows + actual_row
        return [c for c in range(len(self.columns)) if not self._same(c, row, other, 1)[0].as_py()]

    def _same(self, column: int, left: int, right: int, count: int) -> pa.Array:
        """Compare so many values of a column, from two numbered rows on."""
        leaves = self.columns[column]
        same = pc.equal(leaves.codes.slice(left, max(count, 0)), leaves.codes.slice(right, max(count, 0)))
        for values in leaves.floats:
            ours, theirs = values.slice(left, max(count, 0)), values.slice(right, max(count, 0))
            same = pc.and_(same, close(ours, theirs, self.digits))
        return same

    def _ids(self, groups: pa.Array | None) -> pa.Array:
        """Return codes that are equal for rows that are equal in all but floats, and of one group."""
        rows = self.expected.num_rows + self.actual.num_rows
        ids = pa.repeat(pa.scalar(0, pa.int64()), rows) if groups is None else pa.concat_arrays([groups] * 2)
        for column in self.columns:
            ids = combine(ids, column.codes)
        return ids


def _surplus(ours: pa.Array, theirs: pa.Array) -> list[int]:
    """Return the positions of the codes that occur more often here than there, the surplus ones only."""
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(theirs).to_pylist()}
    more = [
        entry["values"]
        for entry in pc.value_counts(ours).to_pylist()
        if entry["counts"] > counts.get(entry["values"], 0)
    ]
    surplus: list[int] = []
    if more:
        for position in pc.indices_nonzero(pc.is_in(ours, pa.array(more, pa.int64()))).to_pylist():
            code = ours[position].as_py()
            left = counts.get(code, 0)
            counts[code] = left - 1
            if left <= 0:
                surplus.append(position)
    return surplus


def _show(scalar: pa.Scalar) -> str:
    # Python's own types cannot hold nanoseconds; Arrow prints them itself, alone and inside lists and the like.
    if getattr(scalar.type, "unit", None) == "ns" and scalar.is_valid:
        text = str(scalar.cast(pa.string()).as_py())
    else:
        try:
            text = repr(scalar.as_py())
        except ValueError:
            text = pa.array([scalar], scalar.type).to_string(skip_new_lines=True)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"
