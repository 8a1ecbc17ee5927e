"""Merging the schemas of a table's files."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiary_df.errors import TableError
from apiary_df.tables.schemas import merge, merge_guessed, widen

FLAT = st.sampled_from([pa.int64(), pa.float64(), pa.bool_(), pa.string(), pa.null(), pa.date32()])
GUESSED = st.recursive(
    FLAT, lambda inner: inner.map(pa.list_) | inner.map(lambda t: pa.struct([("x", t)])), max_leaves=3
)


def test_a_column_that_some_files_lack_becomes_nullable() -> None:
    first = pa.schema([pa.field("a", pa.int64(), nullable=False), pa.field("b", pa.string(), nullable=False)])
    second = pa.schema([pa.field("a", pa.int64(), nullable=False)])
    merged = merge([("f", first), ("g", second)])
    assert merged == pa.schema([pa.field("a", pa.int64(), nullable=False), pa.field("b", pa.string())])


def test_columns_come_in_the_order_in_which_they_are_met() -> None:
    merged = merge([("f", pa.schema([("b", pa.int8())])), ("g", pa.schema([("a", pa.int8()), ("b", pa.int8())]))])
    assert merged.names == ["b", "a"]


def test_structs_are_merged_by_child() -> None:
    left = pa.schema([("s", pa.struct([("x", pa.int8())]))])
    right = pa.schema([("s", pa.struct([("y", pa.int8())]))])
    assert merge([("f", left), ("g", right)]).field("s").type == pa.struct([("x", pa.int8()), ("y", pa.int8())])


def test_a_conflict_names_the_column_both_types_and_the_first_two_files() -> None:
    files = [
        ("f1", pa.schema([("a", pa.int64()), ("b", pa.int64())])),
        ("f2", pa.schema([("a", pa.int64()), ("b", pa.int64())])),
        ("f3", pa.schema([("a", pa.int64()), ("b", pa.string())])),
        ("f4", pa.schema([("a", pa.string()), ("b", pa.string())])),
    ]
    with pytest.raises(TableError, match="column 'b' is int64 in f1 and string in f3") as caught:
        merge(files)
    assert caught.value.details == {"column": "b", "first_file": "f1", "second_file": "f3"}


def test_csv_columns_that_differ_by_position_are_refused() -> None:
    files = [("f", pa.schema([("a", pa.int64()), ("b", pa.int64())])), ("g", pa.schema([("b", pa.int64())]))]
    with pytest.raises(TableError, match="column 1 is 'a' in f and 'b' in g"):
        merge_guessed(files, by_position=True)


def test_csv_files_with_fewer_columns_are_refused() -> None:
    files = [("f", pa.schema([("a", pa.int64()), ("b", pa.int64())])), ("g", pa.schema([("a", pa.int64())]))]
    with pytest.raises(TableError, match="column 2 is 'b' in f and nothing in g"):
        merge_guessed(files, by_position=True)


def test_a_column_nobody_has_seen_a_value_of_is_text() -> None:
    assert merge_guessed([("f", pa.schema([("a", pa.null())]))], by_position=False).field("a").type == pa.string()


@given(GUESSED, GUESSED)
def test_widening_does_not_depend_on_the_order_of_files(left: pa.DataType, right: pa.DataType) -> None:
    assert widen(left, right) == widen(right, left)


@given(GUESSED, GUESSED)
def test_a_widened_type_holds_both(left: pa.DataType, right: pa.DataType) -> None:
    both = widen(left, right)
    assert both is None or (widen(both, left) == both and widen(both, right) == both)
