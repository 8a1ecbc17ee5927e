from __future__ import annotations

import itertools
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from apiary_df.comparison.leaves import last_digit
from apiary_df.comparison.tables import compare_tables

DIGITS = 14

VALUES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int": (pa.int64(), st.integers(-2, 2)),
    "str": (pa.string(), st.sampled_from(["", "a", "b"])),
    "float": (pa.float64(), st.floats() | st.sampled_from([1.0, 2.0])),
    "decimal": (pa.decimal128(10, 2), st.decimals(-9, 9, places=2)),
    "list": (pa.list_(pa.float64()), st.lists(st.floats(), max_size=2)),
    "struct": (pa.struct([("a", pa.bool_())]), st.fixed_dictionaries({"a": st.booleans()})),
}


@st.composite
def tables(draw: st.DrawFn, min_rows: int = 0) -> pa.Table:
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4))
    rows = draw(st.integers(min_rows, 8))
    columns = []
    for name in names:
        kind, values = VALUES[name]
        columns.append(pa.array(draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), kind))
    return pa.table(columns, names=[f"c{i}" for i in range(len(columns))])


@given(tables(), st.randoms())
def test_a_permutation_is_the_same_multiset(table: pa.Table, random: Any) -> None:
    order = list(range(table.num_rows))
    random.shuffle(order)
    assert compare_tables(table, table.take(pa.array(order, pa.int64())), ordered=False) is None


@given(tables(), st.randoms())
def test_an_ordered_result_may_permute_its_ties(table: pa.Table, random: Any) -> None:
    keyed = table.append_column("k", pa.array([i // 3 for i in range(table.num_rows)], pa.int64()))
    order = sorted(range(table.num_rows), key=lambda i: (i // 3, random.random()))
    assert compare_tables(keyed, keyed.take(pa.array(order, pa.int64())), ordered=True, order_columns=["k"]) is None


@given(tables(min_rows=1), st.data())
def test_a_row_too_few_is_found(table: pa.Table, data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, table.num_rows - 1))
    rest = pa.concat_tables([table.slice(0, gone), table.slice(gone + 1)])
    for ordered in (True, False):
        assert compare_tables(table, rest, ordered=ordered) is not None


@given(tables(min_rows=1), st.data(), st.randoms())
def test_one_changed_value_is_found_in_any_order(table: pa.Table, data: st.DataObject, random: Any) -> None:
    row = data.draw(st.integers(0, table.num_rows - 1))
    column = data.draw(st.integers(0, table.num_columns - 1))
    values = table.column(column).to_pylist()
    values[row] = None if values[row] is not None else _some_value(table.schema.types[column])
    changed = table.set_column(column, f"c{column}", pa.array(values, table.schema.types[column]))
    assert compare_tables(table, changed, ordered=True) is not None
    order = list(range(table.num_rows))
    random.shuffle(order)
    assert compare_tables(table, changed.take(pa.array(order, pa.int64())), ordered=False) is not None


FEW_FLOATS = st.lists(
    st.tuples(st.sampled_from([1.0, 1.009, 1.018, 1.027, 9.99, 10.04, 10.13]), st.sampled_from([5.0, 5.009, 5.018])),
    min_size=1,
    max_size=5,
)


@given(FEW_FLOATS, FEW_FLOATS)
def test_a_pairing_is_found_exactly_if_there_is_one(
    left: list[tuple[float, float]], right: list[tuple[float, float]]
) -> None:
    right = (right * len(left))[: len(left)]
    ours, theirs = ([pa.array(column) for column in zip(*rows, strict=True)] for rows in (left, right))
    found = compare_tables(
        pa.table(ours, names=["x", "y"]), pa.table(theirs, names=["x", "y"]), ordered=False, significant_digits=3
    )
    assert (found is None) == any(
        all(_close(a, b) for a, b in zip(left, order, strict=True)) for order in itertools.permutations(right)
    )


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-200, max_value=1e200), st.sampled_from([-1, 1]))
def test_a_change_in_the_last_digit_passes_and_a_larger_one_does_not(value: float, sign: int) -> None:
    value *= sign
    table = pa.table({"x": [value]})
    tenth = pa.table({"x": [value + last_digit(value, DIGITS) / 10]})
    tenfold = pa.table({"x": [value + sign * last_digit(value, DIGITS) * 11]})
    assert compare_tables(table, tenth, ordered=False, significant_digits=DIGITS) is None
    assert compare_tables(table, tenfold, ordered=False, significant_digits=DIGITS) is not None


def _close(left: tuple[float, float], right: tuple[float, float]) -> bool:
    return all(abs(a - b) <= last_digit(max(a, b), 3) for a, b in zip(left, right, strict=True))


def _some_value(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return []
    if pa.types.is_struct(kind):
        return {"a": None}
    return "" if pa.types.is_string(kind) else 0
