from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiary_df.errors import ConfigError
from apiary_df.units import format_bytes, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1024", 1024),
        ("1", 1),
        ("4GiB", 4 * 2**30),
        ("512M", 512 * 2**20),
        (" 2 k ", 2048),
        ("1.5g", 3 * 2**29),
        ("1TB", 10**12),
        ("10mb", 10**7),
        ("3B", 3),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_size_is_read_as_written(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "lots", "4 GiB of it", "1e9", "0", "0GiB", "-4G", "4X", "0.1", "inf", "٣x"])
def test_nonsense_is_no_size_and_the_message_quotes_it(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(text))):
        parse_size(text)


@given(st.integers(1, 2**60))
def test_formatted_bytes_read_back_within_the_rounding(size_bytes: int) -> None:
    shown = format_bytes(size_bytes)
    assert abs(parse_size(shown) - size_bytes) <= size_bytes * 0.051
    # What rounding makes a whole unit more is that; above the largest unit there is none.
    assert float(shown.split()[0]) < 1024 or shown.endswith("TiB")


@pytest.mark.parametrize(
    ("size_bytes", "shown"), [(0, "0 B"), (1023, "1023 B"), (1048575, "1.0 MiB"), (1536, "1.5 KiB")]
)
def test_bytes_are_shown_in_the_unit_that_fits(size_bytes: int, shown: str) -> None:
    assert format_bytes(size_bytes) == shown
