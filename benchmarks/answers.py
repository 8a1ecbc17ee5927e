"""Are two engines' answers the same? The verdict is :mod:`apiary_df.verify`'s; here answers are made comparable.

Engines give the same values other types: an average of decimals is a decimal here and a float there, a year an int32
or an int64. So the columns of another engine are taken by position and cast to the types of the right answer. Numbers
that are close to one of the right answer are taken for it, as many digits as the engines agree on.
"""

from __future__ import annotations

import datafusion
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apiary_df.verify.verdict import Judge
from benchmarks.record import SAME

CLOSE = 2e-5
"""How far numbers of other engines may be off, as a part of the value: averages of decimals have few decimal places.
Decimals may also be off by a unit in the last place, since some engines round where others cut off."""

LAST_PLACE = 1.01
"""Units in the last place of a decimal, with what floats add to one."""


class Answers:
    """Judges answers to the queries of one suite.

    Args:
        session: A plain session that knows the tables, for what SQL leaves open.
    """

    def __init__(self, session: datafusion.SessionContext) -> None:
        self._session = session

    def expected(self, sql: str) -> pa.Table:
        """Return the right answer."""
        return self._session.sql(sql).to_arrow_table()

    def judge(self, sql: str, expected: pa.Table, actual: pa.Table, *, exact: bool) -> str:
        """Say whether an answer is right.

        Args:
            sql: The query.
            expected: The right answer.
            actual: The answer.
            exact: Whether types and digits must be those of DataFusion.

        Returns:
            ``same``, or what differs.
        """
        if not exact:
            if actual.num_columns != expected.num_columns:
                return f"{actual.num_columns} columns instead of {expected.num_columns}"
            try:
                actual = _like(actual, expected)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                return f"columns that are no {expected.schema.types}: {error}"
        judge = Judge(self._session, self._session.sql(sql).logical_plan())
        verdict = judge.judge(expected, actual)
        return SAME if verdict.difference is None else str(verdict.difference)


def _like(actual: pa.Table, expected: pa.Table) -> pa.Table:
    columns = []
    for index, field in enumerate(expected.schema):
        column = actual.column(index).combine_chunks()
        if pa.types.is_decimal(field.type) or pa.types.is_floating(field.type):
            column = _snapped(column, expected.column(index).combine_chunks())
        columns.append(column.cast(field.type, safe=False))
    return pa.table(columns, schema=expected.schema)


def _snapped(actual: pa.Array, expected: pa.Array) -> pa.Array:
    """Return the values of which each is the nearest expected one, if that is close."""
    if not pc.any(pc.is_valid(expected)).as_py():
        return actual
    known = pc.unique(expected.drop_null())
    floats = np.asarray(known.cast(pa.float64()))
    order = np.argsort(floats)
    ranked = floats[order]
    values = np.asarray(pc.fill_null(actual.cast(pa.float64()), 0.0))
    above = np.clip(np.searchsorted(ranked, values), 1, max(1, len(ranked) - 1))
    below = above - 1
    above = np.minimum(above, len(ranked) - 1)
    nearest = np.where(np.abs(ranked[above] - values) < np.abs(ranked[below] - values), above, below)
    unit = LAST_PLACE * 10.0**-expected.type.scale if pa.types.is_decimal(expected.type) else 0.0
    allowed = np.maximum(CLOSE * np.maximum(np.abs(values), np.abs(ranked[nearest])), unit)
    close = np.abs(ranked[nearest] - values) <= allowed
    taken = pc.take(known, pa.array(order[nearest])).cast(expected.type)
    kept = actual.cast(pa.float64()).cast(expected.type, safe=False)
    chosen = pc.if_else(pa.array(close), taken, kept)
    return pc.if_else(pc.is_valid(actual), chosen, pa.scalar(None, expected.type))
