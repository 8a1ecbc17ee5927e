"""The tools that ship for other people's tests."""

from __future__ import annotations

import datafusion
import pyarrow as pa
import pytest

import apiary_df.testing
from apiary_df.errors import ConfigError
from apiary_df.testing import assert_same, compare_tables

LEFT = pa.table({"region": ["east", "west", "west"], "total": [1.5, None, 2.0]})


def test_what_is_public_is_there() -> None:
    assert sorted(apiary_df.testing.__all__) == ["Difference", "ValueDifference", "assert_same", "compare_tables"]
    assert all(hasattr(apiary_df.testing, name) for name in apiary_df.testing.__all__)


@pytest.mark.parametrize("give", ["table", "batches", "datafusion", "pandas", "polars"])
def test_results_of_all_kinds_are_taken(give: str) -> None:
    ctx = datafusion.SessionContext()
    given = {
        "table": lambda: LEFT,
        "batches": LEFT.to_batches,
        "datafusion": lambda: ctx.from_arrow(LEFT),
        "pandas": LEFT.to_pandas,
        "polars": lambda: ctx.from_arrow(LEFT).to_polars(),
    }[give]()
    assert_same(LEFT, given, exact_types=False)


def test_a_difference_reads_well() -> None:
    right = pa.table({"region": ["west", "west", "east"], "total": [2.0, 0.25, 1.5]})
    with pytest.raises(AssertionError) as caught:
        assert_same(LEFT, right)
    assert str(caught.value) == (
        "rows differ\nrow 1 of expected, row 1 of actual:\n  total: expected None, actual 0.25"
    )
    with pytest.raises(AssertionError, match="numbers of rows differ: expected 3, actual 2"):
        assert_same(LEFT, LEFT.slice(1))


def test_order_counts_where_it_is_said_to() -> None:
    turned = LEFT.take([0, 2, 1])
    assert_same(LEFT, turned)
    assert_same(LEFT, turned, ordered=True, order_columns=["region"])
    with pytest.raises(AssertionError, match="rows differ at position 1"):
        assert_same(LEFT, turned, ordered=True)


@pytest.mark.parametrize("wrong", [3, "text", None, {"a": [1]}, []])
def test_what_is_no_table_is_refused_by_name(wrong: object) -> None:
    with pytest.raises(ConfigError, match="actual"):
        assert_same(LEFT, wrong)


def test_the_comparison_is_the_packages_own() -> None:
    assert compare_tables(LEFT, LEFT, ordered=True) is None
