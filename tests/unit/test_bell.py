"""Waits that end when a file appears."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apiary_df.bell import Bell
from apiary_df.store import open_store

LONG_S = 30.0

hears = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells of new files here")


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.close()


def ends_within(bell: Bell, seconds: float) -> bool:
    started_s = time.monotonic()
    bell.wait(threading.Event(), seconds)
    return time.monotonic() - started_s < seconds


@hears
def test_a_file_that_appears_before_or_during_the_wait_ends_it(bell: Bell, tmp_path: Path) -> None:
    assert bell.listen(tmp_path)
    (tmp_path / "before").touch()
    assert ends_within(bell, LONG_S)
    later = threading.Timer(0.05, (tmp_path / "during").touch)
    later.start()
    assert ends_within(bell, LONG_S)
    later.join()


@hears
def test_an_object_that_a_store_creates_or_writes_ends_a_wait(bell: Bell, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (tmp_path / "box").mkdir()
    assert bell.listen(tmp_path / "box")
    store.create("box/a", b"token", "token")
    assert ends_within(bell, LONG_S)
    bell.silence()
    bell.listen(tmp_path / "box")
    store.put("box/b", b"data")
    assert ends_within(bell, LONG_S)


@hears
def test_only_files_with_the_right_beginning_that_are_complete_end_a_wait(bell: Bell, tmp_path: Path) -> None:
    bell.listen(tmp_path, ("commit_",))
    for name in ("partial_0", "commit_0#123"):
        (tmp_path / name).touch()
    assert not ends_within(bell, 0.1)
    (tmp_path / "commit_0").touch()
    assert ends_within(bell, LONG_S)


@hears
def test_what_was_heard_of_another_folder_is_forgotten(bell: Bell, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    bell.listen(first)
    (first / "file").touch()
    bell.listen(second)
    (first / "another").touch()
    assert not ends_within(bell, 0.1)


def test_a_raised_flag_ends_a_wait_for_files(bell: Bell, tmp_path: Path) -> None:
    bell.listen(tmp_path)
    flag = threading.Event()
    threading.Timer(0.05, flag.set).start()
    assert bell.wait(flag, LONG_S)


def test_a_bell_that_listens_to_no_folder_waits_its_time(bell: Bell, tmp_path: Path) -> None:
    assert not bell.listen(tmp_path / "absent")
    assert not ends_within(bell, 0.05)
    assert not bell.wait(threading.Event(), 0.01)


def test_where_the_system_tells_nothing_waits_take_their_time(
    bell: Bell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "elsewhere")
    assert not bell.listen(tmp_path)
    assert not ends_within(bell, 0.05)
