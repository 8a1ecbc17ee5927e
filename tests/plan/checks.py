"""Whether an answer is right: against plain DataFusion, with the order that the query fixes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import datafusion
import pyarrow as pa

from apiary_df.testing.compare import compare_tables
from plan.sample_queries import Sample

SIGNIFICANT_DIGITS = 14
"""Digits of floats that must agree, though sums are added up in another order."""


def check_rows(expected: pa.Table, actual: pa.Table, order: Sequence[str]) -> None:
    """Check that two answers hold the same rows, in the order of these columns if there are any."""
    difference = compare_tables(
        expected,
        actual,
        ordered=bool(order),
        order_columns=order or None,
        significant_digits=SIGNIFICANT_DIGITS,
    )
    assert difference is None, str(difference)


def check_sample(ctx: datafusion.SessionContext, sample: Sample, actual: pa.Table) -> None:
    """Check an answer to a sample query."""
    expected = ctx.sql(sample.sql).to_arrow_table()
    if sample.superset is None:
        check_rows(expected, actual, sample.order)
        return
    assert actual.num_rows == expected.num_rows
    allowed = Counter(map(repr, ctx.sql(sample.superset).to_pylist()))
    surplus = Counter(map(repr, actual.to_pylist())) - allowed
    assert not surplus, f"rows that are not in the query without its limit: {surplus}"
