"""Partition values as text, and their types."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiary_df.errors import TableError
from apiary_df.tables.hive import (
    HIVE_NULL,
    check_values,
    consistent_columns,
    infer_types,
    is_canonical,
    partition_values,
)


def test_the_file_name_is_no_partition() -> None:
    assert partition_values("year=2024/a=b.parquet") == (("year", "2024"),)


def test_an_equals_sign_in_a_value_belongs_to_the_value() -> None:
    assert partition_values("expr=a=b/x") == (("expr", "a=b"),)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "-20", HIVE_NULL], pa.int64()),
        (["01", "2"], pa.string()),
        (["99999999999999999999"], pa.string()),
        (["2024-02-29"], pa.date32()),
        (["2023-02-29"], pa.string()),
        (["1", "2024-02-29"], pa.string()),
        ([HIVE_NULL], pa.string()),
        ([""], pa.string()),
        (["٣"], pa.string()),
    ],
)
def test_types_never_lose_a_spelling(texts: list[str], expected: pa.DataType) -> None:
    assert infer_types(["k"], [(("k", text),) for text in texts]) == (("k", expected),)


@given(st.lists(st.text(max_size=5) | st.integers().map(str) | st.dates().map(str), min_size=1))
def test_every_value_can_be_read_as_the_type_chosen_for_it(texts: list[str]) -> None:
    values = [(("k", text),) for text in texts]
    types = dict(infer_types(["k"], values))
    check_values(types, [("file", pairs) for pairs in values])


@pytest.mark.parametrize(
    ("text", "type_", "expected"),
    [
        ("1", pa.int32(), True),
        ("01", pa.int32(), False),
        ("01", pa.string(), True),
        ("a b", pa.string(), False),
        ("a%20b", pa.string(), False),
        (HIVE_NULL, pa.string(), False),
        ("2.50", pa.float64(), False),
    ],
)
def test_only_one_spelling_is_canonical(text: str, type_: pa.DataType, expected: bool) -> None:
    assert is_canonical(text, type_) is expected


def test_files_partitioned_differently_are_named() -> None:
    with pytest.raises(TableError, match=r"file:///a has the partition columns \(x\), file:///b has none"):
        consistent_columns([("file:///a", (("x", "1"),)), ("file:///b", ())])


def test_a_value_that_does_not_fit_its_type_is_named() -> None:
    with pytest.raises(TableError, match=r"k=x of file:///b as int32"):
        check_values({"k": pa.int32()}, [("file:///a", (("k", "1"),)), ("file:///b", (("k", "x"),))])
