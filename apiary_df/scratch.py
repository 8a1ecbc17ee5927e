"""Folders for what a process writes on the way, which are gone at the latest when another process looks.

What belongs here: making such a folder, saying that its process lives, removing those of processes that were killed.
What is put into them is decided by those who make them: nodes, engines of a session, swarms without a root.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "apiary-"
"""How names of such folders begin."""

LOCK = ".apiary-scratch"
"""The file in each that names the machine. Its process holds a lock on it, which ends with the process, however that
ends."""


class ScratchFolder:
    """A folder of this process alone.

    Whoever makes one first removes those in the same place whose processes are gone: nobody else ever would.

    Args:
        purpose: What it is for, as a part of its name.
        parent: Where it is to be; the system's folder for such files if None.

    Attributes:
        path: The folder.

    Raises:
        OSError: If it cannot be made.
    """

    def __init__(self, purpose: str, parent: str | None) -> None:
        remove_abandoned(Path(parent or tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-", dir=parent))
        self._lock: int | None = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Others leave it alone for as long as it names no machine: for ever, where files cannot be locked.
        with suppress(OSError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._lock, platform.node().encode())

    def remove(self) -> None:
        """Remove the folder with all that is in it. Calling it twice does nothing."""
        lock, self._lock = self._lock, None
        if lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(lock)


def remove_abandoned(parent: Path) -> int:
    """Remove the scratch folders of this machine's processes that are gone.

    Folders of other users or machines, links, and folders without a lock file stay, whatever their names.

    Args:
        parent: Where to look.

    Returns:
        How many were removed.
    """
    removed = 0
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    removed += _remove_if_abandoned(Path(entry.path))
    return removed


def _remove_if_abandoned(folder: Path) -> bool:
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A folder that machines share may not share its locks.
        ours = os.fstat(lock).st_uid == os.geteuid() and os.read(lock, 1024) == platform.node().encode()
        if ours:
            shutil.rmtree(folder, ignore_errors=True)
        return ours
    finally:
        os.close(lock)
