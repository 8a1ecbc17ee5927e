"""A storage root that is a folder: what is done with its files directly, past obstore.

What belongs here: functions on paths. What a store does with them is :mod:`apiary_df.store`'s business.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SMALL_FILE_BYTES = 1 << 20
"""Objects up to this size are written by :func:`write_file`; larger ones are better off with several threads."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9._=/-]+")
"""Keys whose files bear their names as they are: obstore escapes other characters."""

_STAGED_NAME = re.compile(r"#\d+$")
"""File names that obstore, and this module, use for objects under way in a folder; no listing shows them."""

_FOLDER_TRIES = 100
"""Times that a file's folder is made again, should others remove it, empty as it is, before the file is there."""


def link_in(source: Path, target: Path) -> bool:
    """Link a file into a folder store, atomically; False if that is not possible here.

    Args:
        source: The file, which must not be changed afterwards.
        target: The object's place; what is there is replaced.

    Raises:
        OSError: If the file is not there.
    """
    staged = target.with_name(f"{target.name}#{secrets.randbelow(10**18)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, staged)
        staged.replace(target)
    except OSError as error:
        with suppress(OSError):
            staged.unlink()
        if error.errno == errno.ENOENT and not source.exists():
            raise
        return False  # another file system, or one without links: obstore copies instead
    return True


def is_plain(key: str) -> bool:
    """Whether an object's file is called as its key is."""
    return _PLAIN_KEY.fullmatch(key) is not None


def read_file(path: str, limit_bytes: int | None = None) -> bytes | int:
    """Return what a file holds; its size alone, if that is above the limit.

    Args:
        path: The file.
        limit_bytes: Nothing of a larger file is read; None: read it whatever its size.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
    """
    with _opened(path) as (descriptor, size_bytes):
        if limit_bytes is not None and size_bytes > limit_bytes:
            return size_bytes
        return _read(descriptor, size_bytes)


def read_start(path: str, length: int) -> tuple[bytes, int]:
    """Return the first bytes of a file, at most so many, and its size.

    Args:
        path: The file.
        length: How many bytes.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
    """
    with _opened(path) as (descriptor, size_bytes):
        return _read(descriptor, min(length, size_bytes)), size_bytes


@contextmanager
def _opened(path: str) -> Iterator[tuple[int, int]]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(f"{path} is no file")
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


def _read(descriptor: int, length: int) -> bytes:
    # Files here never change: what is written anew is another file of the same name.
    data = os.read(descriptor, length)
    while len(data) < length and (more := os.read(descriptor, length - len(data))):
        data += more
    return data


def write_file(path: str, data: bytes | memoryview, *, replace: bool) -> None:
    """Write a file whole, with its folders: readers see the old or the new, never a part.

    Args:
        path: The file.
        data: What it is to hold.
        replace: Whether it takes the place of one that is there.

    Raises:
        FileExistsError: If there is one, and it is not to be replaced.
        OSError: If it cannot be written.
    """
    for _ in range(_FOLDER_TRIES):
        staged = f"{path}#{secrets.randbelow(10**18)}"
        try:
            _write_new(staged, data)
            if replace:
                os.replace(staged, path)  # noqa: PTH105 - paths are strings here: objects of them take longer to make
                return
            os.link(staged, path)
        except FileNotFoundError:
            # The folder, or what was staged in it, was removed by who found nothing there that is to stay; maybe once
            # more after it was found to be there again, which would look as if the file were.
            with suppress(FileNotFoundError, FileExistsError):
                os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        except BaseException:
            _remove_staged(staged)
            raise
        else:
            _remove_staged(staged)
            return
    raise FileNotFoundError(f"the folder of {path} was removed {_FOLDER_TRIES} times while it was to be written to")


def _remove_staged(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)  # noqa: PTH108


def _write_new(path: str, data: bytes | memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)


def remove_file(path: str) -> None:
    """Remove a file; one that is not there is fine.

    Raises:
        OSError: If it cannot be removed.
    """
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


def remove_folder(folder: Path) -> None:
    """Remove a folder that holds nothing but empty folders and writes that never ended.

    Others may remove it, or a part of it, at the same time.

    Raises:
        OSError: If it cannot be read.
    """
    try:
        children = [*folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return
    for child in children:
        if child.is_dir() and not child.is_symlink():
            remove_folder(child)
        elif _STAGED_NAME.search(child.name):
            child.unlink(missing_ok=True)
    with suppress(OSError):  # somebody wrote into it meanwhile: theirs to delete
        folder.rmdir()
