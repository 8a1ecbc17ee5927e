"""Files of a root that is a folder, past obstore: whole or not there, created once, whatever others do meanwhile."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from apiary_df.errors import ObjectMissing, StorageError
from apiary_df.folders import is_plain, read_file, write_file
from apiary_df.store import Store, open_store


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        ("_queries/q1-0a/commit_0_0_0.json", True),
        ("year=2024/part-0.parquet", True),
        ("a b", False),
        ("a%20b", False),
        ("a#1", False),
        ("ä", False),
        ("a\n", False),
    ],
)
def test_only_names_that_mean_themselves_are_plain(key: str, plain: bool) -> None:
    assert is_plain(key) is plain


@pytest.mark.parametrize("key", ["plain/a.json", "not plain/ä #%.json"])
def test_both_ways_see_the_same_objects(tmp_path: Path, key: str) -> None:
    store = open_store(tmp_path.as_uri())
    store.put(key, b"one")
    assert not store.create(key, b"two token", "token")
    assert store.get(key) == b"one"
    assert [meta.key for meta in store.list("")] == [key]
    assert store.head(key).size_bytes == 3
    store.put(key, b"three")
    assert store.get_range(key, 1, 2) == b"hr"
    store.delete([key, "plain/absent", "not plain/absent #"])
    assert store.get_or_none(key) is None
    assert store.list("") == []


def test_a_folder_is_no_object(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    store.put("a/b", b"1")
    with pytest.raises(ObjectMissing):
        store.get("a")


def test_of_a_large_file_only_the_size_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    write_file(path, b"12345", replace=True)
    assert read_file(path, 4) == 5
    assert read_file(path, 5) == b"12345"
    assert read_file(path) == b"12345"


def test_what_is_not_created_leaves_nothing(tmp_path: Path) -> None:
    write_file(str(tmp_path / "a"), b"1", replace=False)
    with pytest.raises(FileExistsError):
        write_file(str(tmp_path / "a"), b"2", replace=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert read_file(str(tmp_path / "a")) == b"1"


def test_one_of_many_creates(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    for number in range(20):
        won: list[str] = []
        begin = threading.Barrier(4)

        def create(token: str, key: str, won: list[str], begin: threading.Barrier) -> None:
            begin.wait()
            if store.create(key, token.encode(), token):
                won.append(token)

        key = f"a{number}/b"
        threads = [threading.Thread(target=create, args=(f"token-{i}", key, won, begin)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [store.get(key).decode()] == won


def test_a_folder_may_be_removed_while_it_is_written_to(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    done = threading.Event()

    def remove(store: Store) -> None:
        while not done.is_set():
            store.delete_prefix("a/b")

    remover = threading.Thread(target=remove, args=(store,))
    remover.start()
    try:
        for number in range(300):
            store.put(f"a/b/{number}", b"1")
    finally:
        done.set()
        remover.join()
    store.put("a/b/last", b"1")
    assert store.get("a/b/last") == b"1"


@pytest.mark.parametrize("replace", [True, False])
def test_a_folder_that_comes_and_goes_is_not_taken_for_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    """Another makes it before this one does, and removes it before this one looks."""
    real, made = os.mkdir, iter([False])

    def mkdir(path: str, mode: int = 0o777) -> None:
        if not next(made, True):
            raise FileExistsError(path)
        real(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    path = tmp_path / "folder" / "file"
    write_file(str(path), b"data", replace=replace)
    assert path.read_bytes() == b"data"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_in_the_place_of_a_folder_is_no_folder_to_remove(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    store.put("a", b"1")
    assert store.delete_prefix("a/") == 0
    assert store.get("a") == b"1"


def test_several_may_remove_one_folder_at_a_time(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    errors: list[Exception] = []

    def remove(begin: threading.Barrier) -> None:
        begin.wait()
        try:
            store.delete_prefix("a")
        except StorageError as error:
            errors.append(error)

    for _ in range(40):
        for number in range(20):
            store.put(f"a/{number}/{number}/b", b"1")
        begin = threading.Barrier(4)
        threads = [threading.Thread(target=remove, args=(begin,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert not (tmp_path / "a").exists()
