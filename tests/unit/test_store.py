"""URLs, options, error mapping, and what is particular to folders."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest
from obstore import exceptions as obstore_errors

from apiary_df.errors import (
    ConfigError,
    ObjectMissing,
    StorageError,
    StorageTransient,
    StorageUnreachable,
)
from apiary_df.store import StoreOptions, open_store
from apiary_df.store_options import quote_words

SECRETIVE = StoreOptions(
    access_key_id="AKIA-visible?",
    secret_access_key="very-secret-key",
    session_token="very-secret-token",
    provider={"account_key": "very-secret-account"},
)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("url", ["ftp://host/x", "http://host/x", "S3A://b/x"])
def test_an_unknown_scheme_names_the_known_ones(url: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown scheme .*file://, memory://, s3://, gs://, az://"):
        open_store(url, environ={})


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "empty"),
        ("s3://", "names no bucket"),
        ("s3://b/a//c", "single slashes"),
        ("s3://b/../c", "single slashes"),
        ("file://host/x", "absolute"),
        ("s3://key:hush@b/x", "carries credentials"),
        ("az://c/x?sig=hush", "carries credentials"),
    ],
)
def test_a_malformed_url_is_refused_without_quoting_credentials(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        open_store(url, environ={})
    assert "hush" not in str(caught.value)


def test_bare_paths_and_file_urls_are_the_same_folder(tmp_path: Path) -> None:
    open_store(str(tmp_path / "a b"), environ={}).put("k", b"1")
    same = open_store((tmp_path / "a b").as_uri(), environ={})
    assert same.get("k") == b"1"
    assert same.url.endswith("/a%20b")


def test_relative_paths_are_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_store("some/root", environ={}).put("k", b"1")
    assert (tmp_path / "some/root/k").read_bytes() == b"1"


def test_a_memory_store_is_found_again_by_name_only() -> None:
    open_store("memory://test-store-name-a/x", environ={}).put("k", b"1")
    assert open_store("memory://test-store-name-a", environ={}).get("x/k") == b"1"
    assert open_store("memory://test-store-name-b/x", environ={}).get_or_none("k") is None


def test_opening_and_reading_create_no_folder(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "not/yet"), environ={})
    assert store.list("") == []
    store.delete(["k"])
    assert store.delete_prefix("q") == 0
    with pytest.raises(ObjectMissing):
        store.get("k")
    assert list(tmp_path.iterdir()) == []


def test_local_path_is_where_a_folder_keeps_the_object(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), environ={})
    store.put("a/b c%20#.json", b"1")
    path = store.local_path("a/b c%20#.json")
    assert path is not None
    assert path.read_bytes() == b"1"
    assert open_store("memory://local-path", environ={}).local_path("k") is None


def test_delete_prefix_leaves_no_folder_nor_unfinished_write(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), environ={})
    store.put("_queries/q1/a/b.json", b"1")
    store.put("_queries/q2/a.json", b"1")
    (tmp_path / "_queries/q1/partial.arrow#17").write_bytes(b"cut off")
    assert store.delete_prefix("_queries/q1") == 1
    assert _names(tmp_path / "_queries") == ["q2"]


def test_a_replaced_object_of_a_folder_is_never_seen_in_part(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), environ={})
    store.put("k", b"old")
    with (tmp_path / "k").open("rb") as reader:
        store.put("k", b"newer")
        assert reader.read() == b"old"  # a new file took the name; the old one was not written to


def test_a_file_is_linked_into_a_folder_not_copied(tmp_path: Path) -> None:
    source = tmp_path / "scratch"
    source.write_bytes(b"partial")
    store = open_store(str(tmp_path / "root"), environ={})
    store.put("p.arrow", source)
    assert (tmp_path / "root/p.arrow").stat().st_ino == source.stat().st_ino
    assert _names(tmp_path / "root") == ["p.arrow"]


def test_a_file_is_copied_where_it_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    source = tmp_path / "scratch"
    source.write_bytes(b"partial")
    store = open_store(str(tmp_path / "root"), environ={})
    store.put("p.arrow", source)
    assert store.get("p.arrow") == b"partial"
    assert _names(tmp_path / "root") == ["p.arrow"]


def test_check_writable_of_a_folder_leaves_no_trace(tmp_path: Path) -> None:
    open_store(str(tmp_path / "root"), environ={}).check_writable()
    assert _names(tmp_path / "root") == []


def test_a_root_that_is_a_file_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnreachable, match=r"cannot be used.*Check the URL"):
        open_store(str(tmp_path / "file"), environ={}).check_writable()


def test_a_root_in_a_read_only_place_is_unreachable() -> None:
    with pytest.raises(StorageUnreachable, match="/proc"):
        open_store("/proc/no-such-root", environ={}).check_writable()


def test_a_closed_port_is_unreachable_within_seconds_in_the_stores_words() -> None:
    options = StoreOptions(
        endpoint="http://127.0.0.1:9", allow_http=True, access_key_id="k" * 8, secret_access_key="s" * 8
    )
    store = open_store("s3://bucket/x", options, environ={})
    started = time.monotonic()
    with pytest.raises(StorageUnreachable, match=r"s3://bucket/x cannot be used: .*error sending request"):
        store.check_writable()
    assert time.monotonic() - started < 60


def test_plain_http_must_be_allowed() -> None:
    with pytest.raises(ConfigError, match="AWS_ALLOW_HTTP=true"):
        open_store("s3://b", environ={"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})


def test_options_come_from_the_usual_variables() -> None:
    options = StoreOptions.from_env(
        {
            "AWS_ENDPOINT_URL": "https://weak",
            "AWS_ENDPOINT_URL_S3": "https://strong",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_SESSION_TOKEN": "token",
            "AWS_ALLOW_HTTP": "True",
        }
    )
    assert options.s3_kwargs() == {
        "endpoint": "https://strong",
        "region": "eu-central-1",
        "access_key_id": "id",
        "secret_access_key": "secret",
        "session_token": "token",
        "allow_http": True,
    }


def test_an_empty_environment_gives_no_values() -> None:
    assert StoreOptions.from_env({"AWS_REGION": ""}).s3_kwargs() == {}


@pytest.mark.parametrize(
    "environ", [{"AWS_ALLOW_HTTP": "maybe"}, {"AWS_ACCESS_KEY_ID": "half"}, {"AWS_SECRET_ACCESS_KEY": "half"}]
)
def test_a_contradictory_environment_is_an_error(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        StoreOptions.from_env(environ)


def test_explicit_options_are_stronger_than_the_environment_field_by_field() -> None:
    weak = StoreOptions(endpoint="https://weak", region="weak")
    assert StoreOptions(region="strong").over(weak).s3_kwargs() == {
        "endpoint": "https://weak",
        "region": "strong",
    }


def test_a_token_of_the_environment_never_joins_explicit_keys() -> None:
    weak = StoreOptions(access_key_id="weak", secret_access_key="weak", session_token="weak")
    explicit = StoreOptions(access_key_id="mine", secret_access_key="mine").over(weak)
    assert explicit.s3_kwargs() == {"access_key_id": "mine", "secret_access_key": "mine"}
    assert StoreOptions().over(weak).session_token == "weak"


def test_no_secret_shows_in_any_repr() -> None:
    store = open_store("s3://bucket", SECRETIVE, environ={})
    for text in (repr(SECRETIVE), str(SECRETIVE), repr(store), repr(store.options)):
        assert "secret" not in text.replace("secret_access_key", "")
        assert "AKIA" not in text


def test_no_secret_shows_in_a_quoted_error() -> None:
    error = obstore_errors.GenericError(
        "GET https://host/x?sig=abc%3D failed with very-secret-key\n\nDebug source:\nvery-secret-token"
    )
    assert quote_words(error, SECRETIVE.secrets()) == ("GET https://host/x?... failed with ***")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (obstore_errors.PermissionDeniedError("403"), StorageError),
        (obstore_errors.UnauthenticatedError("401"), StorageError),
        (obstore_errors.InvalidPathError("bad"), StorageError),
        (PermissionError(errno.EACCES, "no"), StorageError),
        (ValueError("bad path"), StorageError),
        (obstore_errors.GenericError("503 Slow Down"), StorageTransient),
        (OSError(errno.ENOSPC, "disk full"), StorageTransient),
        (TimeoutError("late"), StorageTransient),
    ],
)
def test_what_a_store_raises_becomes_the_error_that_says_what_to_do(
    tmp_path: Path, raised: Exception, expected: type[StorageError]
) -> None:
    store = open_store(str(tmp_path), environ={})
    with pytest.raises(StorageError) as caught, store._mapped("read", "some/key"):
        raise raised
    assert type(caught.value) is expected
    assert caught.value.details["key"] == "some/key"
    assert str(tmp_path) in caught.value.message


def test_google_and_azure_open_through_their_own_classes() -> None:
    options = StoreOptions(provider={"account_name": "someone", "account_key": "c2VjcmV0"})
    assert open_store("az://container/prefix", options, environ={}).url == "az://container/prefix"
    skipping = StoreOptions(provider={"skip_signature": "true"})
    assert open_store("gs://bucket/prefix", skipping, environ={}).url == "gs://bucket/prefix"


def test_wrong_provider_settings_are_a_config_error() -> None:
    with pytest.raises(ConfigError, match="cannot be set up"):
        open_store("gs://bucket", StoreOptions(provider={"no_such_setting": "x"}), environ={})


def test_threads_that_write_and_list_in_memory_do_not_wait_for_each_other_for_ever() -> None:
    store = open_store("memory://busy")
    rounds = 300

    def write(number: int) -> None:
        for _ in range(rounds):
            store.put(f"k{number}", bytes(400))

    def look() -> None:
        for _ in range(rounds):
            store.list("")

    threads = [threading.Thread(target=write, args=(number,), daemon=True) for number in range(3)]
    threads += [threading.Thread(target=look, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
