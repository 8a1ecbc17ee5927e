from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from swarm.helpers import PATIENT
from typer.testing import CliRunner, Result

from apiary_df.cli.app import app
from apiary_df.protocol import keys
from apiary_df.protocol.messages import WriteJournal, WriteNote
from apiary_df.protocol.storage import write_message
from apiary_df.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A root with a query of an hour ago, one of now, and something foreign."""
    store = open_store(str(tmp_path / "root"))
    for query_id in ("q1", "q2"):
        for key in (keys.manifest(query_id), keys.lease(query_id), keys.partial(query_id, 0, 0, 0)):
            store.put(key, b"x" * 1000)
    store.put("_queries/mine/notes.txt", b"mine")
    age(store, "q1")
    return store


def age(store: Store, query_id: str) -> None:
    for meta in store.list(keys.query_prefix(query_id)):
        path = store.local_path(meta.key)
        assert path is not None
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3600))


def gc(store: Store, *arguments: str) -> Result:
    """Run the command with default settings."""
    environ = {"COLUMNS": "240", **dict.fromkeys(PATIENT)}
    return CliRunner().invoke(app, ["gc", "-s", store.url, *arguments], env=environ)


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


def test_what_was_kept_goes_only_when_that_is_asked_for(store: Store) -> None:
    key = keys.outcome("q1")
    store.put(key, b"x")
    age(store, "q1")
    assert gc(store).exit_code == 0
    assert store.get_or_none(key) == b"x"
    done = gc(store, "--kept", "--json")
    assert [fact["name"] for fact in json.loads(done.output)["removed"]] == ["q1"]
    assert store.list(keys.query_prefix("q1")) == []
    assert store.list(keys.query_prefix("q2"))


def test_files_are_taken_back_below_the_roots_only(store: Store, tmp_path: Path) -> None:
    out = open_store(str(tmp_path / "out"))
    for key, content in (("q1_0_0_0.parquet", b"published"), ("_apiary_q1/0_0_0/x.staged", b"staged")):
        out.put(key, content)
    journal = WriteJournal(query_id="q1", coordinator="c", seq=1, dead_after_s=0.0, published=("q1_0_0_0.parquet",))
    write_message(out, "_apiary_q1/journal", journal)
    write_message(store, keys.write("q1"), WriteNote(query_id="q1", coordinator="c", base=out.url))
    for path in (tmp_path / "out" / "_apiary_q1").rglob("*"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3600))
    left = json.loads(gc(store, "--json").output)["left"]
    assert {fact["name"]: fact["why"] for fact in left}["q1"].startswith("the files that it was writing")
    assert out.get("q1_0_0_0.parquet") == b"published"
    assert store.list(keys.query_prefix("q1"))
    done = gc(store, "--allow-root", out.url, "--json")
    assert [fact["name"] for fact in json.loads(done.output)["removed"]] == ["q1"]
    assert out.list("") == []
    assert store.list(keys.query_prefix("q1")) == store.list(keys.WRITES) == []


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
