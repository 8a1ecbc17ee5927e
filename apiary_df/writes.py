"""Names and rules of statements that write files: where files are staged, what they are called in the end. Pure.

A write has three places below one folder, its *base*: ``_apiary_<query>/``, where everything of it lies until it
counts; the final keys of its files; and nothing else. What moves files, and takes them back, is
:mod:`apiary_df.publish`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote

from apiary_df.model import WrittenFile
from apiary_df.plan.sinks import STAGED_EXTENSION, SinkTarget

STAGING = "_apiary_"
"""Beginning of a staging folder's name. Readers of Hive trees skip what begins with an underscore."""

JOURNAL = "journal"
VERDICT = "verdict"
"""Names in a staging folder; without an extension, so that no table takes them for its data."""

SINGLE_FILE = f"file.{STAGED_EXTENSION}"
"""Name under which a write of one file is staged."""

_PART = re.compile(rf"_(\d+)\.{STAGED_EXTENSION}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A file's way from staging to where it counts; both are keys below the base."""

    staged: str
    final: str


def base_url(target: SinkTarget) -> str:
    """Return the URL of the folder that a write's files go to, without a slash at its end."""
    url = target.url.rstrip("/")
    return url.rsplit("/", 1)[0] if target.single_file else url


def staging_folder(query_id: str) -> str:
    """Return the key, below the base, of a query's staging folder."""
    return f"{STAGING}{query_id}"


def query_of_staging(name: str) -> str:
    """Return whose staging folder a name is."""
    return name.removeprefix(STAGING)


def attempt_folder(stage: int, task: int, attempt: int) -> str:
    """Return the name, within a staging folder, of what one attempt writes."""
    return f"{stage}_{task}_{attempt}"


def moves(target: SinkTarget, query_id: str, attempts: Iterable[tuple[str, Iterable[WrittenFile]]]) -> tuple[Move, ...]:
    """Return how the files of a write get to where they count.

    Names are made of the query's id, so no two writes ever give the same one, and of the attempt and the file's
    number; a write of one file has the name that it was told.

    Args:
        target: What was to be written.
        query_id: The query.
        attempts: The attempts that count: folder within the staging folder, and files in it.
    """
    found: list[Move] = []
    for folder, files in attempts:
        for file in sorted(files, key=lambda file: file.path):
            staged = f"{staging_folder(query_id)}/{folder}/{file.path}"
            if target.single_file:
                final = unquote(target.url.rstrip("/").rsplit("/", 1)[-1])
            else:
                parents, _, name = file.path.rpartition("/")
                part = _PART.search(name)
                number = f"_{part.group(1)}" if part else ""
                final = f"{query_id}_{folder}{number}.{target.extension}"
                final = f"{parents}/{final}" if parents else final
            found.append(Move(staged=staged, final=final))
    return tuple(found)


def is_orphaned(written_at: datetime, now: datetime, dead_after_s: float) -> bool:
    """Whether a journal is so old that its session is dead.

    Args:
        written_at: When the journal was written, by the store's clock.
        now: The same clock, just now.
        dead_after_s: Age from which on it is.
    """
    return (now - written_at).total_seconds() > dead_after_s
