"""What is below an allowed root, and all the ways to pretend that something is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiary_df.errors import ConfigError
from apiary_df.roots import ANYWHERE, Roots, place_of_file, place_of_url, roots_for_session, roots_of

ROOTS = roots_of(["/data", "s3://bucket/tables"], resolve=lambda path: path)


@pytest.mark.parametrize(
    ("store", "path", "allowed"),
    [
        ("file:///", "data/t.parquet", True),
        ("file:///", "/data/t.parquet", True),
        ("file://", "data/t.parquet", True),
        ("file://localhost/", "data/t.parquet", True),
        ("FILE:///", "data/t.parquet", True),
        ("file:///", "data", True),
        ("file:///", "data/a b/c%20d/e#f?.parquet", True),
        ("file:///", "data-secret/t.parquet", False),
        ("file:///", "Data/t.parquet", False),
        ("file:///", "etc/passwd", False),
        ("file:///", "data/../etc/passwd", False),
        ("file:///", "data/./t.parquet", False),
        ("file:///", "data//t.parquet", False),
        ("file:///", "data/%2e%2e/etc/passwd", False),
        ("file:///", "data/%252e%252e/etc/passwd", False),
        ("file:///", "data%2ft.parquet", False),
        ("file:///", "data/..%2f..%2fetc/passwd", False),
        ("file:///", "data/a\0b", False),
        ("file:///", "", False),
        ("file://host/", "data/t.parquet", False),
        ("file:///data/", "t.parquet", False),
        ("s3://bucket/", "tables/t.parquet", True),
        ("s3://bucket", "tables/t.parquet", True),
        ("S3://bucket/", "tables/t.parquet", True),
        ("s3://bucket/", "tables/x/../../t", False),
        ("s3://bucket/", "tables2/t.parquet", False),
        ("s3://bucket/", "t.parquet", False),
        ("s3://Bucket/", "tables/t.parquet", False),
        ("s3://bucket2/", "tables/t.parquet", False),
        ("s3://user@bucket/", "tables/t.parquet", False),
        ("s3://bucket:80/", "tables/t.parquet", False),
        ("gs://bucket/", "tables/t.parquet", False),
        ("http://bucket/", "tables/t.parquet", False),
        ("bucket/", "tables/t.parquet", False),
        ("", "data/t.parquet", False),
    ],
)
def test_files_of_a_plan(store: str, path: str, allowed: bool) -> None:
    assert ROOTS.allow(place_of_file(store, path)) is allowed


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("file:///data/out", True),
        ("file:///data/out/", True),
        ("file:///data/a%20b", True),
        ("file:///data/%2e%2e/etc", False),
        ("file:///data%2fout", True),
        ("file:///data%252fout", False),
        ("file:///data/..", False),
        ("file:///datax", False),
        ("s3://bucket/tables/out", True),
        ("s3://bucket/", False),
        ("s3://", False),
        ("memory://x/y", False),
        ("/data/out", False),
        ("", False),
    ],
)
def test_targets_of_writes(url: str, allowed: bool) -> None:
    assert ROOTS.allow(place_of_url(url)) is allowed


def test_links_must_not_lead_out(tmp_path: Path) -> None:
    data, secret = tmp_path / "data", tmp_path / "secret"
    data.mkdir()
    secret.mkdir()
    (secret / "t.parquet").write_bytes(b"x")
    (data / "link").symlink_to(secret)
    (data / "file.parquet").symlink_to(secret / "t.parquet")
    (data / "own.parquet").write_bytes(b"x")
    roots = roots_of([str(data)])

    def allowed(path: Path) -> bool:
        return roots.allow_here(place_of_file("file:///", str(path)))

    assert allowed(data / "own.parquet")
    assert allowed(data / "not there yet" / "t.parquet")
    assert not allowed(data / "link" / "t.parquet")
    assert not allowed(data / "file.parquet")
    assert not allowed(secret / "t.parquet")


def test_a_root_that_is_a_link_allows_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "name").symlink_to(tmp_path / "real")
    roots = roots_of([str(tmp_path / "name")])
    for folder in ("name", "real"):
        assert roots.allow_here(place_of_file("file:///", str(tmp_path / folder / "t.parquet")))


@pytest.mark.parametrize("text", ["", " ", "data://x", "s3://b/../c", "file://host/data", "file:///a/%2e%2e/b"])
def test_what_is_no_root_is_said_so(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed root"):
        roots_of([text])


def test_whole_schemes() -> None:
    roots = roots_of(["s3://", "/"])
    assert roots.allow(place_of_file("s3://any/", "x/y"))
    assert roots.allow(place_of_file("file:///", "etc/passwd"))
    assert not roots.allow(place_of_file("gs://any/", "x"))
    assert ANYWHERE.allow(place_of_file("gs://any/", "x"))
    assert not ANYWHERE.allow(place_of_file("file:///", "a/../b"))


@pytest.mark.parametrize(
    ("root", "setting", "local", "bucket"),
    [
        ("file:///swarm", None, True, True),
        ("memory://swarm", None, True, True),
        ("s3://swarm/root", None, False, True),
        ("file:///swarm", "s3://tables", False, True),
        ("s3://swarm/root", "/data, s3://other", True, False),
    ],
)
def test_nodes_of_a_session(root: str, setting: str | None, local: bool, bucket: bool) -> None:
    roots = roots_for_session(root, setting)
    assert roots.allow(place_of_file("file:///", "data/t.parquet")) is local
    assert roots.allow(place_of_file("s3://tables/", "t.parquet")) is bucket
    if root.partition("://")[0] != "memory":  # nobody can read tables there
        assert roots.allow(place_of_url(f"{root}/tables/t"))


@given(st.text(max_size=30), st.lists(st.sampled_from(["..", ".", "", "a", "%2e%2e", "%2f", "data", "\\"]), max_size=6))
def test_what_is_allowed_is_below_the_root_for_the_file_system_too(text: str, parts: list[str]) -> None:
    for path in (f"data/{text}", "/".join(["data", *parts]), "/".join(parts)):
        place = place_of_file("file:///", path)
        if ROOTS.allow(place):
            assert place is not None
            assert (os.path.normpath("/" + path.lstrip("/")) + "/").startswith("/data/")
            assert (os.path.normpath(place.path) + "/").startswith("/data/")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1), max_size=4))
def test_announced_roots_are_the_same_places(parts: list[str]) -> None:
    place = place_of_file("file:///", "/".join(parts))
    if place is not None and parts:
        announced = Roots.announced([place.url])
        assert announced.places in ((place,), ())
