"""A storage root that is a folder: what is done with its files directly, past obstore.

What belongs here: functions on paths. What a store does with them is :mod:`apiary_df.store`'s business.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

_STAGED_NAME = re.compile(r"#\d+$")
"""File names that obstore uses for objects under way in a folder; no listing shows them."""


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


def remove_folder(folder: Path) -> None:
    """Remove a folder that holds nothing but empty folders and writes that never ended.

    Raises:
        OSError: If it cannot be read.
    """
    if not folder.is_dir():
        return
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            remove_folder(child)
        elif _STAGED_NAME.search(child.name):
            child.unlink(missing_ok=True)
    with suppress(OSError):  # somebody wrote into it meanwhile: theirs to delete
        folder.rmdir()
