from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from apiary_df.comparison.tables import Difference, compare_tables
from apiary_df.errors import ConfigError

NAN, INF = math.nan, math.inf

# A type, and two values of it that are not the same.
PAIRS: dict[str, tuple[pa.DataType, Any, Any]] = {
    "bool": (pa.bool_(), True, False),
    "int8": (pa.int8(), 1, 2),
    "int64 beyond what a double holds": (pa.int64(), 2**53, 2**53 + 1),
    "uint64": (pa.uint64(), 2**64 - 1, 2**64 - 2),
    "float16": (pa.float16(), 1.5, 1.25),
    "float32": (pa.float32(), 1.5, 1.25),
    "float64": (pa.float64(), 1.0, 1.00000000001),
    "float64 sign": (pa.float64(), 1.0, -1.0),
    "NaN and number": (pa.float64(), NAN, 0.0),
    "infinity and number": (pa.float64(), INF, 0.0),
    "infinity's sign": (pa.float64(), INF, -INF),
    "NaN and infinity": (pa.float64(), NAN, INF),
    "NaN and NULL": (pa.float64(), NAN, None),
    "zero and NULL": (pa.float64(), 0.0, None),
    "zero and the smallest float": (pa.float64(), 0.0, 5e-324),
    "decimal32": (pa.decimal32(9, 2), Decimal("1.10"), Decimal("1.11")),
    "decimal64": (pa.decimal64(18, 2), Decimal("1.10"), Decimal("1.11")),
    "decimal128 in its last digit": (pa.decimal128(38, 2), Decimal(f"{'9' * 36}.10"), Decimal(f"{'9' * 36}.11")),
    "decimal256": (pa.decimal256(50, 2), Decimal("1.10"), Decimal("1.11")),
    "string": (pa.string(), "a", "b"),
    "string's length": (pa.string(), "a", "a "),
    "empty string and NULL": (pa.string(), "", None),
    "large string": (pa.large_string(), "a", "b"),
    "string view": (pa.string_view(), "a", "b"),
    "binary": (pa.binary(), b"a", b"b"),
    "binary view": (pa.binary_view(), b"a", b"b"),
    "fixed binary": (pa.binary(2), b"aa", b"ab"),
    "date32": (pa.date32(), 1, 2),
    "date64": (pa.date64(), 86_400_000, 0),
    "time32": (pa.time32("ms"), 1, 2),
    "time64": (pa.time64("ns"), 1, 2),
    "timestamp in nanoseconds": (pa.timestamp("ns"), 1, 2),
    "timestamp with zone": (pa.timestamp("us", "UTC"), 1, 2),
    "duration": (pa.duration("ns"), 1, 2),
    "interval": (pa.month_day_nano_interval(), (0, 1, 0), (0, 0, 86_400_000_000_000)),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), "a", "b"),
    "list": (pa.list_(pa.int64()), [1, 2], [2, 1]),
    "list and NULL": (pa.list_(pa.int64()), [], None),
    "list and list of NULL": (pa.list_(pa.int64()), [], [None]),
    "list of floats": (pa.list_(pa.float64()), [1.0, 2.0], [1.0, 2.00001]),
    "length of a list of floats": (pa.list_(pa.float64()), [0.0], [0.0, 0.0]),
    "large list": (pa.large_list(pa.string()), ["a"], ["b"]),
    "list view": (pa.list_view(pa.int64()), [1], [2]),
    "fixed list": (pa.list_(pa.int64(), 2), [1, 2], [1, 3]),
    "list of lists": (pa.list_(pa.list_(pa.int64())), [[1], [2]], [[1, 2], []]),
    "list of nanoseconds": (pa.list_(pa.timestamp("ns")), [1], [2]),
    "struct": (pa.struct([("x", pa.int64())]), {"x": 1}, {"x": 2}),
    "struct and NULL": (pa.struct([("x", pa.int64())]), {"x": None}, None),
    "struct of floats": (pa.struct([("x", pa.float64())]), {"x": 1.0}, {"x": 1.1}),
    "map": (pa.map_(pa.string(), pa.int64()), [("a", 1)], [("a", 2)]),
    "map of floats": (pa.map_(pa.string(), pa.float64()), [("a", 1.0)], [("a", 1.1)]),
}


def _table(kind: pa.DataType, values: list[Any]) -> pa.Table:
    return pa.table({"n": pa.array([7] * len(values)), "x": pa.array(values, kind)})


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("ordered", [True, False])
def test_a_planted_difference_is_found(name: str, ordered: bool) -> None:
    kind, value, other = PAIRS[name]
    found = compare_tables(_table(kind, [value] * 3), _table(kind, [value, other, value]), ordered=ordered)
    assert found is not None
    assert [v.column for v in found.values] == ["x"]
    assert found.actual_row == 1


@pytest.mark.parametrize("name", PAIRS)
def test_the_same_rows_in_another_order_are_a_multiset(name: str) -> None:
    kind, value, other = PAIRS[name]
    first, second = _table(kind, [value, other, None]), _table(kind, [None, value, other])
    assert compare_tables(first, second, ordered=False) is None
    assert compare_tables(first, second, ordered=True) is not None


@pytest.mark.parametrize("name", PAIRS)
def test_a_table_equals_itself_whatever_its_chunks(name: str) -> None:
    kind, value, other = PAIRS[name]
    chunked = pa.chunked_array([pa.array([value], kind), pa.array([other, None], kind)])
    assert (
        compare_tables(pa.table({"x": pa.array([value, other, None], kind)}), pa.table({"x": chunked}), ordered=True)
        is None
    )


def test_rows_count_as_often_as_they_occur() -> None:
    found = compare_tables(_table(pa.string(), ["a", "a", "b"]), _table(pa.string(), ["a", "b", "b"]), ordered=False)
    assert found is not None
    assert str(found) == ("rows differ\nrow 1 of expected, row 2 of actual:\n  x: expected 'a', actual 'b'")


def test_values_stay_in_their_rows() -> None:
    expected = pa.table({"a": [1, 2], "b": [1.0, 2.0]})
    assert compare_tables(expected, pa.table({"a": [1, 2], "b": [2.0, 1.0]}), ordered=False) is not None


@pytest.mark.parametrize(
    ("left", "right", "digits", "same"),
    [
        (1.0, 1.0 + 2e-16, 14, True),
        (1.0, 1.0 + 0.9e-13, 14, True),
        (1.0, 1.0 + 1e-12, 14, False),
        (9.9999, 10.0, 5, True),
        (9.9998, 10.0, 6, False),
        (1e300, 1.0001e300, 4, True),
        (1e300, 1.01e300, 4, False),
        (1e-300, 1.0001e-300, 4, True),
        (0.0, -0.0, 17, True),
        (NAN, -NAN, 17, True),
        (1e-20, 0.0, 2, False),
        (1e308, -1e308, 1, False),
    ],
)
@pytest.mark.parametrize("ordered", [True, False])
def test_floats_are_the_same_to_so_many_digits(
    left: float, right: float, digits: int, same: bool, ordered: bool
) -> None:
    sides = [pa.table({"x": pa.array([value], pa.float64())}) for value in (left, right)]
    for first, second in (sides, sides[::-1]):
        found = compare_tables(first, second, ordered=ordered, significant_digits=digits)
        assert (found is None) == same


def test_a_pairing_that_sorting_misses_is_found() -> None:
    # Sorted by the first column, both sides pair crosswise in the second; only the exchange fits.
    expected = pa.table({"x": [1.0, 1.0 + 1e-14], "y": [5.0, 9.0]})
    actual = pa.table({"x": [1.0, 1.0 + 1e-14], "y": [9.0, 5.0]})
    assert compare_tables(expected, actual, ordered=False) is None


def test_a_pairing_that_needs_a_partner_exchanged_is_found() -> None:
    expected = pa.table({"x": [1.000, 1.009, 1.018], "y": [1.0, 1.0, 2.0]})
    actual = pa.table({"x": [1.009, 1.009, 1.018], "y": [2.0, 1.0, 1.0]})
    assert compare_tables(expected, actual, ordered=False, significant_digits=3) is None
    worse = pa.table({"x": [1.009, 1.030, 1.018], "y": [2.0, 1.0, 1.0]})
    assert compare_tables(expected, worse, ordered=False, significant_digits=3) is not None


ORDERED = pa.table({"k": [1, 1, 2, 2], "v": ["a", "b", "c", "d"]})


def test_ties_may_come_in_any_order() -> None:
    swapped = ORDERED.take([1, 0, 3, 2])
    assert compare_tables(ORDERED, swapped, ordered=True, order_columns=["k"]) is None
    assert compare_tables(ORDERED, swapped, ordered=True) is not None


def test_order_keys_must_come_in_order() -> None:
    found = compare_tables(ORDERED, ORDERED.take([0, 2, 1, 3]), ordered=True, order_columns=["k"])
    assert found is not None
    assert found.reason == "rows differ at position 1"


def test_rows_may_not_wander_between_ties() -> None:
    moved = pa.table({"k": [1, 1, 2, 2], "v": ["a", "c", "b", "d"]})
    found = compare_tables(ORDERED, moved, ordered=True, order_columns=["k"])
    assert found is not None
    assert "equal in the order columns" in found.reason


def test_float_order_keys_that_differ_by_noise_are_ties() -> None:
    expected = pa.table({"k": [1.0, 1.0 + 1e-15, 2.0], "v": ["a", "b", "c"]})
    actual = pa.table({"k": [1.0, 1.0 + 1e-15, 2.0], "v": ["b", "a", "c"]})
    assert compare_tables(expected, actual, ordered=True, order_columns=["k"]) is None


def test_no_order_columns_leave_a_multiset() -> None:
    assert compare_tables(ORDERED, ORDERED.take([3, 1, 0, 2]), ordered=True, order_columns=[]) is None


def test_missing_rows_are_counted_and_one_is_shown() -> None:
    found = compare_tables(ORDERED, ORDERED.slice(0, 3), ordered=True)
    assert str(found) == (
        "numbers of rows differ: expected 4, actual 3\n"
        "row 3 of expected has no counterpart in actual:\n  k: expected 2\n  v: expected 'd'"
    )


def test_extra_rows_are_counted_and_one_is_shown() -> None:
    found = compare_tables(ORDERED.slice(0, 3), ORDERED, ordered=False)
    assert str(found) == (
        "numbers of rows differ: expected 3, actual 4\n"
        "row 3 of actual has no counterpart in expected:\n  k: actual 2\n  v: actual 'd'"
    )


def test_names_are_compared() -> None:
    found = compare_tables(ORDERED, ORDERED.rename_columns(["k", "w"]), ordered=True)
    assert str(found) == "column names differ: expected ['k', 'v'], actual ['k', 'w']"


def test_types_are_compared_even_without_rows() -> None:
    found = compare_tables(
        pa.table({"x": pa.array([], pa.int32())}), pa.table({"x": pa.array([], pa.int64())}), ordered=True
    )
    assert str(found) == "types differ in column x: expected int32, actual int64"


def test_encodings_of_the_same_values_are_one_type_on_request() -> None:
    strings = ["a", None, "b"]
    kinds = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
    for kind in kinds:
        other = pa.table({"x": pa.array(strings, kind)})
        assert compare_tables(pa.table({"x": strings}), other, ordered=True, exact_types=False) is None
    views = pa.table({"x": pa.array(strings, pa.string_view())})
    assert compare_tables(pa.table({"x": strings}), views, ordered=True) is not None


def test_nullability_does_not_count() -> None:
    kinds = [pa.list_(pa.field("item", pa.int64(), nullable=null)) for null in (True, False)]
    tables = [
        pa.table([pa.array([[1]], kind)], schema=pa.schema([pa.field("x", kind, nullable=null)]))
        for kind, null in zip(kinds, (True, False), strict=True)
    ]
    assert compare_tables(tables[0], tables[1], ordered=True) is None


def test_columns_of_the_same_name_are_told_apart_by_position() -> None:
    expected = pa.table([[1], [2]], names=["x", "x"])
    assert compare_tables(expected, expected, ordered=False) is None
    assert compare_tables(expected, pa.table([[2], [1]], names=["x", "x"]), ordered=False) is not None


@pytest.mark.parametrize(
    "table", [pa.table({}), pa.table({"x": pa.array([], pa.float64())}), pa.table({"x": pa.nulls(3)})]
)
def test_tables_of_nothing_are_equal(table: pa.Table) -> None:
    for ordered in (True, False):
        assert compare_tables(table, table, ordered=ordered, order_columns=table.column_names) is None


def test_long_values_are_cut_in_the_words() -> None:
    found = compare_tables(pa.table({"x": ["a" * 1000]}), pa.table({"x": ["b"]}), ordered=True)
    assert isinstance(found, Difference)
    assert len(str(found)) < 300


@pytest.mark.parametrize("kind", [pa.time64("ns"), pa.timestamp("ns"), pa.duration("ns"), pa.list_(pa.timestamp("ns"))])
def test_nanoseconds_are_shown(kind: pa.DataType) -> None:
    one, two = ([1], [2]) if pa.types.is_list(kind) else (1, 2)
    found = compare_tables(_table(kind, [one]), _table(kind, [two]), ordered=True)
    assert found is not None
    assert found.values[0].expected != found.values[0].actual


@pytest.mark.parametrize("digits", [0, 18])
def test_senseless_digits_are_refused(digits: int) -> None:
    with pytest.raises(ConfigError, match="1 to 17 significant digits"):
        compare_tables(ORDERED, ORDERED, ordered=True, significant_digits=digits)


@pytest.mark.parametrize("names", [["k", "k"], ["k", "v"]])
def test_an_order_column_must_be_one_column(names: list[str]) -> None:
    table = ORDERED.rename_columns(names)
    missing = "k" if names == ["k", "k"] else "nowhere"
    with pytest.raises(ConfigError, match=f"order column '{missing}' must be one of the table's columns"):
        compare_tables(table, table, ordered=True, order_columns=[missing])


def test_dictionaries_with_a_null_among_their_values_are_compared_chunk_by_chunk() -> None:
    chunk = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array(["a", None]))
    other = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array([None, "b"]))
    column = pa.chunked_array([chunk, other])
    straight = pa.table({"x": pa.array(["a", None, None, "b"])})
    assert compare_tables(straight, pa.table({"x": column}), ordered=True, exact_types=False) is None
    found = compare_tables(pa.table({"x": column}), pa.table({"x": column.slice(1)}), ordered=True)
    assert found is not None
