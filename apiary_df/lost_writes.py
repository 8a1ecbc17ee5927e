"""Taking back what sessions that were lost in the middle of a write have left.

A write is lost when its journal has not been written anew for a long time. Nodes watch the writes that are noted below
their root; a session that begins a write looks for others at the same place. Both create the verdict first, so that a
session that was only silent cannot let files stand that are being deleted.

What belongs here is done on other sessions' writes; a session's own are :mod:`apiary_df.publish`'s business.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from urllib.parse import unquote

from apiary_df.errors import ApiaryError, ConfigError
from apiary_df.protocol import keys
from apiary_df.protocol.messages import WriteJournal, WriteNote, WriteVerdict
from apiary_df.protocol.seal import OUTSIDE, refused
from apiary_df.protocol.storage import create_message, note_refusal, read_message
from apiary_df.roots import ANYWHERE, Roots, place_of_url
from apiary_df.store import Store, open_store
from apiary_df.store_options import StoreOptions
from apiary_df.writes import JOURNAL, STAGING, VERDICT, is_orphaned, query_of_staging, staging_folder

logger = logging.getLogger("apiary_df")

WRITABLE_SCHEMES = ("file", "s3", "gs", "az")
"""Schemes of URLs that nodes can write to."""


def open_folder(url: str, options: StoreOptions | None) -> Store:
    """Open the folder, or the prefix of a bucket, at a percent-encoded URL.

    Raises:
        ConfigError: If nodes could not write there.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in WRITABLE_SCHEMES:
        known = ", ".join(f"{name}://" for name in WRITABLE_SCHEMES)
        raise ConfigError(f"cannot write files to {url}: files are written to a path, or to {known}", url=url)
    path = unquote(rest)
    return open_store(path or "/" if scheme == "file" else f"{scheme}://{path}", options)


def decide(base: Store, folder: str, query_id: str, by: str, *, stands: bool) -> bool:
    """Create the verdict on a write; False if another process has created one.

    Args:
        base: The folder that the write goes to.
        folder: Its staging folder below that.
        query_id: The query.
        by: Who decides, for people.
        stands: Whether its files are to stay.

    Raises:
        StorageError: If the verdict can be neither created nor read.
    """
    verdict = WriteVerdict(token=secrets.token_hex(8), query_id=query_id, stands=stands, by=by)
    return create_message(base, f"{folder}/{VERDICT}", verdict, verdict.token)


def take_back(base: Store, folder: str, by: str) -> None:
    """Take back the write of a lost session: unless it stands already, none of its files is left.

    Args:
        base: The folder that the write goes to.
        folder: Its staging folder below that.
        by: Who does it, for people.

    Raises:
        StorageError: If something cannot be removed; another try goes on from there.
    """
    ours = decide(base, folder, query_of_staging(folder), by, stands=False)
    journal = _journal_or_none(base, folder)
    if journal is None:
        # Its session has ended it meanwhile, or another process has done this: only our verdict may be left.
        base.delete_prefix(folder)
        return
    if ours or not _stands(base, folder):
        kept = (f"{folder}/{JOURNAL}", f"{folder}/{VERDICT}")
        # Staged files first: what is not there any more cannot be moved to where it would count.
        base.delete([meta.key for meta in base.list(folder) if meta.key not in kept])
        base.delete(journal.published)
    base.delete([f"{folder}/{JOURNAL}"])
    base.delete_prefix(folder)


def _stands(base: Store, folder: str) -> bool:
    key = f"{folder}/{VERDICT}"
    verdict = read_message(base, key, WriteVerdict)
    return verdict is not None and verdict.stands


def take_back_here(base: Store, own_journal: str, dead_after_s: float) -> None:
    """Take back what lost sessions have left below the folder that a new write goes to; what fails is logged.

    Args:
        base: The folder.
        own_journal: Key of the new write's journal; it was just written, and tells the store's time.
        dead_after_s: Age from which on a journal is a lost session's, in seconds.
    """
    others = [name for name in base.list_names(STAGING) if not own_journal.startswith(f"{name}/")]
    for folder in others:
        try:
            now = base.head(own_journal).last_modified
            written = [meta.last_modified for meta in base.list(folder)]
            journal = _journal_or_none(base, folder)
            limit_s = max(dead_after_s, 0.0 if journal is None else journal.dead_after_s)
            if all(is_orphaned(moment, now, limit_s) for moment in written):
                take_back(base, folder, "a later write")
        except ApiaryError as error:
            logger.warning("cannot take back %s in %s: %s", folder, base.url, error)


def take_back_noted(
    root: Store, query_id: str, options: StoreOptions | None, by: str, *, dead_after_s: float, roots: Roots = ANYWHERE
) -> bool:
    """Take back a write that is noted below a root, if by the store's own clock its session is lost.

    Args:
        root: The root.
        query_id: The query that writes.
        options: How the place that it writes to is reached.
        by: Who does it, for people.
        dead_after_s: Age from which on a journal is a lost session's, in seconds.
        roots: Where files may be taken back; a write elsewhere stays noted.

    Returns:
        Whether the write is no more under way.

    Raises:
        ConfigError: If files cannot be written to that place.
        StorageError: If the place cannot be reached, or something cannot be removed.
    """
    key = keys.write(query_id)
    note = read_message(root, key, WriteNote)
    if note is None:
        return True
    if not _may_touch(root, key, note, roots):
        return False
    base = open_folder(note.base, options)
    folder = staging_folder(query_id)
    written = [meta.last_modified for meta in base.list(folder)]
    if written:
        now = base.check_writable()
        journal = _journal_or_none(base, folder)
        limit_s = max(dead_after_s, 0.0 if journal is None else journal.dead_after_s)
        if not all(is_orphaned(moment, now, limit_s) for moment in written):
            return False
        take_back(base, folder, by)
    root.delete([key])
    return True


def _may_touch(root: Store, key: str, note: WriteNote, roots: Roots) -> bool:
    """Whether a write is at a place that may be touched; a note that leads elsewhere is refused, and counted."""
    if roots.allow_here(place_of_url(note.base)):
        return True
    note_refusal(root, refused(key, OUTSIDE, f"notes a write to {note.base}, outside of the roots"))
    return False


def _journal_or_none(base: Store, folder: str) -> WriteJournal | None:
    key = f"{folder}/{JOURNAL}"
    return read_message(base, key, WriteJournal)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A write's journal number, since when it has been that by the observer's clock, and whether it ever changed."""

    seq: int
    since_s: float
    alive: bool


class WriteWatch:
    """Watches the writes that are noted below a root, and takes back those whose sessions are lost.

    Args:
        root: The root.
        options: How the places that are written to are reached.
        dead_after_s: Time without a new journal after which a session is lost, in seconds.
        by: Who watches, for people.
        roots: Where it may take back; writes elsewhere are left to others.
    """

    def __init__(
        self, root: Store, options: StoreOptions | None, dead_after_s: float, by: str, roots: Roots = ANYWHERE
    ) -> None:
        self._root = root
        self._options = options
        self._dead_after_s = dead_after_s
        self._by = by
        self._roots = roots
        self._seen: dict[str, _Seen] = {}

    def look(self, now_s: float) -> int:
        """Look at all writes once.

        Args:
            now_s: The observer's monotonic clock, in seconds.

        Returns:
            Writes whose sessions have given no sign of life since this watch saw them first, and may yet be lost.

        Raises:
            StorageError: If the notes cannot be listed. What fails with a single write is logged.
        """
        notes = [meta.key for meta in self._root.list(keys.WRITES)]
        self._seen = {key: seen for key, seen in self._seen.items() if key in notes}
        return sum(self._is_silent(key, now_s) for key in notes)

    def _is_silent(self, key: str, now_s: float) -> bool:
        try:
            note = read_message(self._root, key, WriteNote)
            if note is None:
                return False
            if not _may_touch(self._root, key, note, self._roots):
                return False
            base = open_folder(note.base, self._options)
            base.refusals = self._root.refusals
            folder = staging_folder(note.query_id)
            journal = _journal_or_none(base, folder)
            seq = 0 if journal is None else journal.seq
            seen = self._seen.get(key)
            if seen is None or seen.seq != seq:
                self._seen[key] = _Seen(seq, now_s, seen is not None)
                return seen is None
            limit_s = max(self._dead_after_s, 0.0 if journal is None else journal.dead_after_s)
            if now_s - seen.since_s <= limit_s:
                return not seen.alive
            logger.warning("taking back the write of query %s: its session was lost", note.query_id)
            # Without its manifest, attempts that still run remove what they write.
            self._root.delete_prefix(keys.query_prefix(note.query_id))
            take_back(base, folder, self._by)
            self._root.delete([key])
        except ApiaryError as error:
            logger.warning("cannot take back the write %s: %s", key, error)
        return False
