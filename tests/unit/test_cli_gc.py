from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from apiary_df.cli.app import app
from apiary_df.protocol import keys
from apiary_df.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A root with a query of an hour ago, one of now, and something foreign."""
    store = open_store(str(tmp_path / "root"))
    for query_id in ("q1", "q2"):
        for key in (keys.manifest(query_id), keys.lease(query_id), keys.partial(query_id, 0, 0, 0)):
            store.put(key, b"x" * 1000)
    store.put("_queries/mine/notes.txt", b"mine")
    for path in (tmp_path / "root" / "_queries" / "q1").iterdir():
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3600))
    return store


def gc(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["gc", "-s", store.url, *arguments], env={"COLUMNS": "240"})


def test_dry_run_shows_what_would_go_and_what_stays_with_the_reasons(store: Store) -> None:
    before = store.list("")
    done = gc(store, "--dry-run")
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert lines[0].endswith("would remove 3 objects (2.9 KiB) that had not changed for 1 min")
    assert "query q1 60 min 3 2.9 KiB its session was lost: the lease is not renewed" in lines
    assert any(line.startswith("query q2 ") and line.endswith("younger than 1 min") for line in lines)
    assert any(line.startswith("foreign _queries/mine/ ") and line.endswith("not apiary's") for line in lines)
    assert store.list("") == before


def test_what_is_old_goes_and_programs_are_told(store: Store) -> None:
    done = gc(store, "--json", "--grace", "10m")
    assert done.exit_code == 0, done.output
    said = json.loads(done.output)
    assert (said["storage"], said["dry_run"], said["grace_s"]) == (store.url, False, 600.0)
    (removed,) = said["removed"]
    assert 3599 <= removed.pop("age_s") <= 3700
    assert removed == {
        "kind": "query",
        "name": "q1",
        "objects": 3,
        "bytes": 3000,
        "why": "its session was lost: the lease is not renewed",
    }
    assert sorted(fact["name"] for fact in said["left"]) == ["_queries/mine/", "q2"]
    assert sorted(meta.key.split("/")[1] for meta in store.list(keys.QUERIES)) == ["mine", "q2", "q2", "q2"]
    assert json.loads(gc(store, "--json").output)["removed"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--grace", "soon"], "--grace 'soon' is not a time above zero"),
        (["--grace", "0s"], "--grace '0s' is not a time above zero"),
        (["--grace", "1s"], "queries that run would be removed"),
        (["--set", "gc_grace_s=-1"], "gc_grace_s"),
    ],
)
def test_bad_input_is_refused_before_anything_is_removed(store: Store, arguments: list[str], words: str) -> None:
    before = store.list("")
    done = gc(store, *arguments)
    assert done.exit_code == 2
    assert words in done.output
    assert store.list("") == before


def test_root_that_cannot_be_written_has_the_storage_code() -> None:
    assert CliRunner().invoke(app, ["gc", "-s", "/proc/no"]).exit_code == 3


def test_without_a_root_it_asks_for_one() -> None:
    done = CliRunner().invoke(app, ["gc"], env={"APIARY_STORAGE": ""})
    assert done.exit_code == 2
