"""The files of a cell cache: one sparse file for each version of an object, with what is held of it at its own offsets.

Whoever uses a file has a shared lock on it, and only what can be locked exclusively is removed, so no file goes away
under a scan. Locks go with their processes, however these end.

What belongs here: locks, files, checksums. Which bytes are held is :mod:`apiary_df.worker.cell_index`'s business.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import xxhash

from apiary_df.worker.cell_index import CellIndex, Piece, Version
from apiary_df.worker.cell_spans import Span

READ_BYTES = 4 << 20
"""Bytes that are checked at a time."""

TURNS = 256
"""Files to take turns by. Two fetches of different cells that share one wait for each other, seldom and briefly."""

TURN_POLL_S = 0.005
"""How often a waiting fetch looks whether its turn has come."""

FREE_SHARE = 0.1
"""Part of the disk's free space that a cache may take if nobody says how much."""

MOST_BYTES = 32 << 30
"""The most that it takes then."""


class DamagedFile(Exception):
    """A file does not hold what the index says of it."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """A file that does not go away until it is released.

    Attributes:
        path: Where it lies.
        descriptor: Open for reading and writing, and what the lock is on.
    """

    path: Path
    descriptor: int

    def release(self) -> None:
        """Let it go."""
        os.close(self.descriptor)

    def write(self, start: int, data: bytes) -> Piece:
        """Write bytes to their place.

        Raises:
            OSError: If the disk takes no more.
        """
        view, at = memoryview(data), start
        while view:
            written = os.pwrite(self.descriptor, view, at)
            view, at = view[written:], at + written
        return Piece(span=(start, at), checksum=xxhash.xxh3_64_hexdigest(data))

    def read(self, span: Span) -> bytes:
        """Return bytes of the file.

        Raises:
            DamagedFile: If it is shorter.
            OSError: If it cannot be read.
        """
        data = os.pread(self.descriptor, span[1] - span[0], span[0])
        if len(data) < span[1] - span[0]:
            raise DamagedFile(f"{self.path} ends before byte {span[1]}")
        return data

    def check(self, size_bytes: int, pieces: Iterable[Piece]) -> None:
        """Check that the file holds these pieces.

        Raises:
            DamagedFile: If it does not.
            OSError: If it cannot be read.
        """
        if os.fstat(self.descriptor).st_size != size_bytes:
            raise DamagedFile(f"{self.path} has not the {size_bytes} bytes that it had")
        for piece in pieces:
            if self._checksum(piece.span) != piece.checksum:
                raise DamagedFile(f"bytes {piece.span[0]} to {piece.span[1]} of {self.path} are not what was written")

    def _checksum(self, span: Span) -> str:
        found, at = xxhash.xxh3_64(), span[0]
        while at < span[1]:
            data = os.pread(self.descriptor, min(READ_BYTES, span[1] - at), at)
            if not data:
                break
            found.update(data)
            at += len(data)
        return found.hexdigest()

    def mark(self) -> tuple[int, int]:
        """Return what changes with whatever is done to the file: its inode, and when that was changed last."""
        stat = os.fstat(self.descriptor)
        return stat.st_ino, stat.st_ctime_ns


class CellFiles:
    """The files of a cache folder. Thread-safe.

    Args:
        folder: The cache's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._objects = folder / "objects"
        self._turns = folder / "turns"

    def make_folders(self) -> None:
        """Make the folders, for this user alone.

        Raises:
            OSError: If they cannot be made, or are another user's.
        """
        for folder in (self.folder, self._objects, self._turns):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise PermissionError(f"{folder} is another user's, who could put anything into it")

    def default_limit_bytes(self, held_bytes: int) -> int:
        """Return how much a cache may hold if nobody says so.

        Raises:
            OSError: If the disk cannot be asked.
        """
        return min(MOST_BYTES, int((shutil.disk_usage(self.folder).free + held_bytes) * FREE_SHARE))

    def pin(self, version: Version) -> Pinned:
        """Return the file of an object, made if there is none, such that nobody removes it.

        Raises:
            OSError: If it cannot be made, or opened.
        """
        path = self._objects / version.name
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if _is_at(descriptor, path):
                    if os.fstat(descriptor).st_size == 0:
                        os.ftruncate(descriptor, version.size_bytes)
                    return Pinned(path, descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def remove(self, name: str, index: CellIndex) -> bool:
        """Remove a file and what the index says of it, unless somebody uses it.

        Returns:
            Whether it is gone.

        Raises:
            OSError: If it cannot be removed.
            sqlite3.Error: If the index cannot be used.
        """
        path = self._objects / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            index.drop(name)
            return True
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if _is_at(descriptor, path):
                index.drop(name)
                path.unlink(missing_ok=True)
            return True
        finally:
            os.close(descriptor)

    def sweep(self, index: CellIndex) -> None:
        """Remove files of which the index says nothing: their process ended between the one and the other.

        Raises:
            OSError: If they cannot be listed, or removed.
            sqlite3.Error: If the index cannot be used.
        """
        known = {name for name, _ in index.oldest_first()}
        for path in list(self._objects.iterdir()):
            if path.name not in known:
                self.remove(path.name, index)

    @contextmanager
    def turn(self, name: str, check: Callable[[], None]) -> Iterator[None]:
        """Wait until nobody else on this machine does what has this name.

        One thread must not have two turns at a time: others may have them the other way round.

        Args:
            name: What is to be done by one at a time.
            check: Called again and again while it waits; may raise.

        Raises:
            OSError: If the disk does not do.
        """
        number = xxhash.xxh3_64_intdigest(name.encode()) % TURNS
        descriptor = os.open(self._turns / f"{number:03}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                check()
                time.sleep(TURN_POLL_S)
            yield
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
