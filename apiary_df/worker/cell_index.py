"""The index of a cell cache: what is held, and what was used when. One SQLite database a cache folder.

All processes of a machine's user that share the folder share the index, and whatever happens to one of them leaves it
whole: that is what SQLite is for. A row says that bytes were written, never more: whoever reads them checks them.

What belongs here: rows. Files are :mod:`apiary_df.worker.cell_files`'s business, what is admitted and served
:mod:`apiary_df.worker.cell_cache`'s.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from apiary_df.worker.cell_spans import Layout, Span

BUSY_S = 5.0
"""How long a write waits for another process's, in seconds. Each takes well under a millisecond."""

LOCKED_S = 0.01
"""How long to wait before a database that another process prepares is asked again, in seconds."""

REMEMBERED_PLACES = 100_000
"""Objects whose first use is remembered, for admission at the second; some ten megabytes."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    name TEXT PRIMARY KEY, place TEXT NOT NULL, url TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    used INTEGER NOT NULL, layout BLOB
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS objects_by_place ON objects (place);
CREATE INDEX IF NOT EXISTS objects_by_use ON objects (used);
CREATE TABLE IF NOT EXISTS pieces (
    name TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, checksum TEXT NOT NULL,
    PRIMARY KEY (name, first)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uses (number INTEGER PRIMARY KEY, place TEXT NOT NULL UNIQUE, query TEXT NOT NULL);
"""

_HELD = "SELECT coalesce(sum(last - first), 0) FROM pieces"


_layouts = msgspec.msgpack.Decoder(Layout)
"""Made by one thread, before any decodes: see :mod:`apiary_df.protocol.messages`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of an object.

    Attributes:
        name: What its file and its rows are called: made of all of the following, and of the e-tag.
        place: The object, whatever its version: of its URL, and of the service that it is on.
        url: Its URL.
        key: Its key in its bucket.
        e_tag: The store's mark of this version.
        size_bytes: Its size.
    """

    name: str
    place: str
    url: str
    key: str
    e_tag: str
    size_bytes: int


def _prepare(connection: sqlite3.Connection) -> None:
    """Make a database what an index is; whatever it was, and however many processes do so at once.

    SQLite waits for another's write, but not for one that turns the journal to another mode: it says at once that the
    database is locked.
    """
    until_s = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # What a crash of the machine may lose is bytes that are fetched again.
            connection.execute("PRAGMA synchronous = OFF")
            connection.executescript(_SCHEMA)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until_s:
                raise
            time.sleep(LOCKED_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes of an object that are held.

    Attributes:
        span: Which.
        checksum: xxh3-64 of them, as 16 hex digits.
    """

    span: Span
    checksum: str


class CellIndex:
    """The index of a cache folder. Thread-safe, and safe to take across a fork.

    Args:
        path: The database, made at the first use.

    Every method raises ``sqlite3.Error`` if the database cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._inherited: list[sqlite3.Connection] = []

    def exists(self) -> bool:
        """Whether there is a database."""
        return self._path.exists()

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def clear(self) -> None:
        """Begin anew, with an empty database: the old one is damaged."""
        with self._lock:
            with suppress(sqlite3.Error):
                self.close()
            self._connection = None
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    # -- admission ----------------------------------------------------------------------------------------------------

    def known(self, places: Sequence[str], query: str) -> set[str]:
        """Note that a query uses objects; returns those that another query has used before, or that are held."""
        found: set[str] = set()
        with self._writing() as rows:
            for place in places:
                held = rows.execute("SELECT 1 FROM objects WHERE place = ?", (place,)).fetchone()
                used = rows.execute("SELECT query FROM uses WHERE place = ?", (place,)).fetchone()
                if held is not None or (used is not None and used[0] != query):
                    found.add(place)
                elif used is None:
                    rows.execute("INSERT INTO uses (place, query) VALUES (?, ?)", (place, query))
            rows.execute("DELETE FROM uses WHERE number <= (SELECT max(number) FROM uses) - ?", (REMEMBERED_PLACES,))
        return found

    # -- what is held -------------------------------------------------------------------------------------------------

    def touch(self, versions: Iterable[Version]) -> None:
        """Note that objects are used now; rows are made for those that have none."""
        with self._writing() as rows:
            (latest,) = rows.execute("SELECT coalesce(max(used), 0) FROM objects").fetchone()
            for version in versions:
                latest += 1
                rows.execute(
                    "INSERT INTO objects (name, place, url, size_bytes, used) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET used = excluded.used",
                    (version.name, version.place, version.url, version.size_bytes, latest),
                )

    def layout(self, version: Version) -> Layout | None:
        """Return the layout of a Parquet file, if it was noted."""
        with self._reading() as rows:
            row = rows.execute("SELECT layout FROM objects WHERE name = ?", (version.name,)).fetchone()
        return None if row is None or row[0] is None else _layouts.decode(row[0])

    def set_layout(self, version: Version, layout: Layout) -> None:
        """Note the layout of a Parquet file."""
        with self._writing() as rows:
            rows.execute("UPDATE objects SET layout = ? WHERE name = ?", (msgspec.msgpack.encode(layout), version.name))

    def pieces(self, version: Version) -> list[Piece]:
        """Return what is held of an object, in order."""
        with self._reading() as rows:
            found = rows.execute(
                "SELECT first, last, checksum FROM pieces WHERE name = ? ORDER BY first", (version.name,)
            ).fetchall()
        return [Piece(span=(first, last), checksum=checksum) for first, last, checksum in found]

    def add(self, version: Version, pieces: Iterable[Piece]) -> None:
        """Note that bytes of an object are held; not if its row went away meanwhile, and with it its file."""
        with self._writing() as rows:
            if rows.execute("SELECT 1 FROM objects WHERE name = ?", (version.name,)).fetchone() is None:
                return
            rows.executemany(
                "INSERT INTO pieces VALUES (?, ?, ?, ?) ON CONFLICT (name, first) DO UPDATE "
                "SET last = excluded.last, checksum = excluded.checksum WHERE excluded.last > last",
                [(version.name, *piece.span, piece.checksum) for piece in pieces],
            )

    def drop(self, name: str, *, pieces_only: bool = False) -> None:
        """Forget what is held of an object."""
        with self._writing() as rows:
            rows.execute("DELETE FROM pieces WHERE name = ?", (name,))
            if not pieces_only:
                rows.execute("DELETE FROM objects WHERE name = ?", (name,))

    def held_bytes(self) -> int:
        """Return how many bytes are held in all."""
        with self._reading() as rows:
            (held,) = rows.execute(_HELD).fetchone()
        return int(held)

    def oldest_first(self) -> list[tuple[str, int]]:
        """Return name and held bytes of all objects, those that were not used for longest first."""
        with self._reading() as rows:
            return rows.execute(
                "SELECT o.name, coalesce(sum(p.last - p.first), 0) FROM objects o LEFT JOIN pieces p USING (name) "
                "GROUP BY o.name ORDER BY o.used"
            ).fetchall()

    def other_versions(self, version: Version) -> list[str]:
        """Return the names of other versions of an object."""
        with self._reading() as rows:
            found = rows.execute(
                "SELECT name FROM objects WHERE place = ? AND name <> ?", (version.place, version.name)
            ).fetchall()
        return [name for (name,) in found]

    def newest(self, most: int) -> dict[str, int]:
        """Return URL and held bytes of the objects that were used last, at most so many."""
        with self._reading() as rows:
            found = rows.execute(
                "SELECT o.url, sum(p.last - p.first) FROM (SELECT * FROM objects ORDER BY used DESC LIMIT ?) o "
                "JOIN pieces p USING (name) GROUP BY o.name ORDER BY o.used",
                (most,),
            ).fetchall()
        return dict(found)

    # -- the database -------------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._connect()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            rows = self._connect()
            rows.execute("BEGIN IMMEDIATE")
            try:
                yield rows
                rows.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    rows.execute("ROLLBACK")
                raise

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and self._process != os.getpid():
            # This process is a fork: the connection is its parent's, and must neither be used nor closed here.
            self._inherited.append(self._connection)
            self._connection = None
        if self._connection is None:
            connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                _prepare(connection)
            except sqlite3.Error:
                connection.close()
                raise
            self._connection, self._process = connection, os.getpid()
        return self._connection
