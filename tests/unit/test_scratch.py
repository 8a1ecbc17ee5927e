"""Scratch folders: gone with their processes, or when the next one is made; nothing else is ever removed."""

from __future__ import annotations

import fcntl
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from apiary_df.scratch import LOCK, ScratchFolder, remove_abandoned

HOLDS = """
import sys
from apiary_df.scratch import ScratchFolder

folder = ScratchFolder("killed", sys.argv[1])
(folder.path / "spill").mkdir()
(folder.path / "spill" / "rows").write_bytes(b"1" * 1000)
print(folder.path, flush=True)
sys.stdin.read()
"""


def holder(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that has a scratch folder until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_gone_when_it_is_removed(tmp_path: Path) -> None:
    folder = ScratchFolder("a", str(tmp_path))
    (folder.path / "rows").write_bytes(b"1")
    folder.remove()
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_next_folder_removes_that_of_a_process_which_was_killed_and_no_other(tmp_path: Path) -> None:
    own = ScratchFolder("own", str(tmp_path))
    killed, left = holder(tmp_path)
    lives, stays = holder(tmp_path)
    try:
        killed.kill()
        killed.communicate()
        assert (left / "spill" / "rows").exists()
        new = ScratchFolder("new", str(tmp_path))
        assert sorted(tmp_path.iterdir()) == sorted([own.path, stays, new.path])
        assert (stays / "spill" / "rows").exists()
    finally:
        lives.kill()
        lives.communicate()


def abandoned(parent: Path, name: str, machine: str | None) -> Path:
    folder = parent / name
    folder.mkdir()
    (folder / "rows").write_bytes(b"1")
    if machine is not None:
        (folder / LOCK).write_text(machine)
    return folder


def test_only_what_is_surely_such_a_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "here")
    elsewhere = abandoned(tmp_path, "elsewhere", "here")
    kept = [
        elsewhere,
        abandoned(tmp_path, "apiary-data", None),
        abandoned(tmp_path, "apiary-far", "another machine"),
        abandoned(tmp_path, "apiary-new", ""),
    ]
    (tmp_path / "apiary-link").symlink_to(elsewhere)
    linked_lock = abandoned(tmp_path, "apiary-linked-lock", None)
    (linked_lock / LOCK).symlink_to(elsewhere / LOCK)
    (tmp_path / "apiary-file").write_bytes(b"1")
    gone = abandoned(tmp_path, "apiary-gone", "here")
    assert remove_abandoned(tmp_path) == 1
    assert not gone.exists()
    assert all((folder / "rows").exists() for folder in [*kept, linked_lock])
    assert (tmp_path / "apiary-file").exists()


def test_a_place_that_is_not_there_is_an_error_of_the_new_folder_alone(tmp_path: Path) -> None:
    assert remove_abandoned(tmp_path / "absent") == 0
    with pytest.raises(FileNotFoundError):
        ScratchFolder("a", str(tmp_path / "absent"))


def test_where_files_cannot_be_locked_it_is_there_and_nobody_else_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        folder = ScratchFolder("a", str(tmp_path))
    assert remove_abandoned(tmp_path) == 0
    assert folder.path.is_dir()
    folder.remove()
    assert list(tmp_path.iterdir()) == []
