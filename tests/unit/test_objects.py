"""Object stores for DataFusion, and what becomes of its errors."""

from __future__ import annotations

import pytest
from datafusion import SessionContext

from apiary_df.errors import ConfigError, TableError
from apiary_df.objects import datafusion_errors, parse_location, register_object_store_for
from apiary_df.store import StoreOptions


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("/a b/x%.parquet", "file:///a%20b/x%25.parquet"),
        ("file:///a%20b/x", "file:///a%20b/x"),
        ("S3://bucket/k=ä/x", "s3://bucket/k=%C3%A4/x"),
        ("s3://bucket", "s3://bucket/"),
    ],
)
def test_places_have_one_url(place: str, url: str) -> None:
    assert parse_location(place).url == url
    assert parse_location(url).url == url


def test_a_bucket_is_needed() -> None:
    with pytest.raises(TableError, match="names no bucket"):
        parse_location("s3:///x")


@pytest.mark.parametrize(
    ("url", "provider"), [("gs://b/x", {}), ("az://c/x", {"account_name": "someone", "account_key": "a2V5"})]
)
def test_other_clouds_register(url: str, provider: dict[str, str]) -> None:
    register_object_store_for(SessionContext(), url, StoreOptions(provider=provider))


def test_what_datafusion_does_not_take_is_named_without_its_value() -> None:
    with pytest.raises(ConfigError, match="no option nonsense; it takes account_key") as caught:
        register_object_store_for(SessionContext(), "az://c/x", StoreOptions(provider={"nonsense": "hush"}))
    assert "hush" not in caught.value.message


def test_a_panic_of_datafusion_becomes_a_typed_error() -> None:
    with pytest.raises(ConfigError, match="cannot read az://c through DataFusion"):
        register_object_store_for(SessionContext(), "az://c/x", StoreOptions(provider={"account_key": "a2V5"}))


def test_an_interrupt_is_no_error_of_datafusion() -> None:
    with pytest.raises(KeyboardInterrupt), datafusion_errors(TableError):
        raise KeyboardInterrupt
