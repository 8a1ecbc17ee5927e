"""Whatever the ties, the order and the limit: no false alarm, and an alarm for a row that is not there."""

from __future__ import annotations

import datafusion
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from apiary_df.verify.verdict import Judge

VALUES = st.one_of(st.none(), st.integers(0, 3))
TEXTS = st.one_of(st.none(), st.sampled_from(["", "a", "b"]))
FLOATS = st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.5, 1e300, float("nan"), float("inf")]))
ROWS = st.lists(st.tuples(VALUES, TEXTS, FLOATS), min_size=1, max_size=30)
KEYS = st.lists(
    st.tuples(
        st.sampled_from(["i", "s", "x", "i + 1"]), st.sampled_from(["ASC", "DESC"]), st.sampled_from(["FIRST", "LAST"])
    ),
    max_size=3,
    unique_by=lambda key: key[0],
)
SHOWN = st.lists(st.sampled_from(["i", "s", "x", "i * 2 AS d"]), min_size=1, max_size=3, unique=True)
COUNTS = st.one_of(st.none(), st.integers(0, 8))

FOREIGN = {"i": 9, "s": "z", "x": -7.25, "i * 2 AS d": 99}
"""Values that no table of these tests has."""


def _session(rows: list[tuple[object, ...]], partitions: int) -> datafusion.SessionContext:
    names = {"i": pa.int64(), "s": pa.string(), "x": pa.float64()}
    columns = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), names.values(), strict=True)]
    (batch,) = pa.table(columns, names=list(names)).to_batches()
    ctx = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(partitions))
    ctx.register_record_batches("t", [[batch.slice(start, 3)] for start in range(0, len(rows), 3)])
    return ctx


@settings(max_examples=80, deadline=None)
@given(ROWS, KEYS, SHOWN, st.tuples(COUNTS, COUNTS))
def test_any_right_answer_passes_and_a_foreign_row_does_not(
    rows: list[tuple[object, ...]],
    keys: list[tuple[str, str, str]],
    shown: list[str],
    window: tuple[int | None, int | None],
) -> None:
    limit, offset = window
    sql = f"SELECT {', '.join(shown)} FROM t"
    sql += " ORDER BY " + ", ".join(f"{key} {way} NULLS {nulls}" for key, way, nulls in keys) if keys else ""
    sql += f" LIMIT {limit}" if limit is not None else ""
    sql += f" OFFSET {offset}" if offset is not None else ""
    plain, other = _session(rows, 1), _session(rows[::-1], 3)
    frame = plain.sql(sql)
    expected, actual = frame.to_arrow_table(), other.sql(sql).to_arrow_table()
    judge = Judge(plain, frame.logical_plan())
    verdict = judge.judge(expected, actual)
    assert verdict.difference is None, f"{sql}: {verdict.difference}"
    if not len(actual):
        return
    foreign = pa.table({name: [FOREIGN[said]] for name, said in zip(actual.column_names, shown, strict=True)})
    wrong = pa.concat_tables([actual.slice(0, len(actual) - 1), foreign.cast(actual.schema)])
    assert judge.judge(expected, wrong).difference is not None, sql
    fewer = actual.slice(1)
    assert judge.judge(expected, fewer).difference is not None, sql
