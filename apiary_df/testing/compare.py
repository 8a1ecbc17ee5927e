"""The assertion over two results. The verdict itself is :mod:`apiary_df.comparison`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from apiary_df.comparison.tables import DIGITS, Difference, ValueDifference, compare_tables
from apiary_df.errors import ConfigError

__all__ = ["Difference", "ValueDifference", "assert_same", "compare_tables"]


def assert_same(
    expected: Any,
    actual: Any,
    *,
    ordered: bool = False,
    significant_digits: int = DIGITS,
    order_columns: Sequence[str] | None = None,
    exact_types: bool = True,
) -> None:
    """Raise if two results are not the same rows, with the first difference as the message.

    Args:
        expected: What is right: a table, record batches, or anything that gives an Arrow stream, such as a DataFrame
            of DataFusion, pandas or polars. A query is run for it.
        actual: What is to be judged, likewise.
        ordered: Rows must come in the same order; if False, the results are multisets of rows.
        significant_digits: Decimal digits that floats must share, 1 to 17.
        order_columns: With ``ordered``, the columns of the ORDER BY: rows that are equal in all of them may come in
            any order. None: the position of every row counts.
        exact_types: If False, encodings of the same values (views, large offsets, dictionaries) are one.

    Raises:
        AssertionError: The results differ.
        ConfigError: The options make no sense, or an argument is no table.

    Example:
        >>> assert_same(pa.table({"n": [1, 2]}), pa.table({"n": [2, 1]}))
        >>> assert_same(pa.table({"n": [1, 2]}), pa.table({"n": [1, 3]}))
        Traceback (most recent call last):
        AssertionError: rows differ
        row 1 of expected, row 1 of actual:
          n: expected 2, actual 3
    """
    difference = compare_tables(
        _table(expected, "expected"),
        _table(actual, "actual"),
        ordered=ordered,
        significant_digits=significant_digits,
        order_columns=order_columns,
        exact_types=exact_types,
    )
    if difference is not None:
        raise AssertionError(str(difference))


def _table(result: Any, name: str) -> pa.Table:
    if isinstance(result, pa.Table):
        return result
    if isinstance(result, list) and result and all(isinstance(batch, pa.RecordBatch) for batch in result):
        return pa.Table.from_batches(result)
    if not hasattr(result, "__arrow_c_stream__") and not hasattr(result, "__arrow_c_array__"):
        raise ConfigError(f"{name} is a {type(result).__name__}: give a table, record batches or a DataFrame")
    return pa.table(result)
