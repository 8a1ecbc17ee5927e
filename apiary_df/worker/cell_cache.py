"""The cell cache: remote cells that tasks have read are kept on this machine's disk, and read from there.

A scan reads all of its files through one object store, so a scan of a task is turned to local files as a whole, or
stays as it is. Nothing that goes wrong here fails a task: the scan then stays as it is, and the log says why.

What belongs here: what is admitted, what is fetched, and that only the present version of an object is served. Where
bytes lie on the disk is the business of :mod:`apiary_df.worker.cell_files`, what is held that of
:mod:`apiary_df.worker.cell_index`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from apiary_df.config import Settings
from apiary_df.errors import ApiaryError, QueryCancelled
from apiary_df.footers import FOOTER_GUESS_BYTES
from apiary_df.host import Flag
from apiary_df.machine import cache_folder
from apiary_df.model import CellUse, ScanFile, ScanInput
from apiary_df.objects import CLOUD_SCHEMES
from apiary_df.plan import codec
from apiary_df.plan.scans import file_url
from apiary_df.plan.stages import EXCHANGE_STORE_URL
from apiary_df.plan.tree import PlanNode
from apiary_df.store import Store, open_store
from apiary_df.store_options import StoreOptions
from apiary_df.units import format_bytes
from apiary_df.worker.cell_files import CellFiles, DamagedFile, Pinned
from apiary_df.worker.cell_index import CellIndex, Piece, Version
from apiary_df.worker.cell_spans import (
    Layout,
    Span,
    footer_bytes,
    layout_of,
    missing,
    overlap,
    pieces_of,
    spans_read,
    total_bytes,
)

logger = logging.getLogger("apiary_df")

PIECE_BYTES = 4 << 20
REQUESTS_AT_ONCE = 8
"""A fetch asks for so much at a time, and for so many of these at once: together they hold half of a small bee's
memory, and hide most of a bucket's latency."""

ANNOUNCED_CELLS = 256
"""Objects that a heartbeat names: the whole of most working sets, in some 20 KiB. A session reads it at every beat."""

REMEMBERED_VERSIONS = 16_384
"""Versions of objects that a process has asked for and remembers, by query."""

REMEMBERED_CHECKS = 4_096
"""Files of which a process remembers what of them it has checked."""

_ACCOUNT_WORDS = ("account", "account_name")
"""Settings of providers that tell services apart, and are no secrets."""


class CellCache:
    """This process's way to the cache of its machine's user. Thread-safe.

    Nothing is touched before a remote cell is asked for.

    Args:
        folder: The cache's folder.
        limit_bytes: What it may hold; None: a part of the disk's free space (:class:`~apiary_df.config.Settings`).
        at_first_use: Whether cells are kept when they are used for the first time already.
        options: How cells are reached; None is the environment's way.
    """

    def __init__(
        self, folder: Path, *, limit_bytes: int | None, at_first_use: bool = False, options: StoreOptions | None = None
    ) -> None:
        self.files = CellFiles(folder)
        self.index = CellIndex(folder / "index.sqlite")
        self.at_first_use = at_first_use
        self._options = options
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._stores: dict[str, Store] = {}
        self._checked: OrderedDict[str, tuple[tuple[int, int], set[Span]]] = OrderedDict()
        self._versions: OrderedDict[tuple[str, str], Version] = OrderedDict()
        self._is_ready = False

    @classmethod
    def of(cls, settings: Settings, options: StoreOptions | None) -> CellCache | None:
        """Return the cache that settings ask for; None if it is off."""
        if settings.cache_bytes == 0:
            return None
        return cls(
            cache_folder(settings),
            limit_bytes=settings.cache_bytes,
            at_first_use=settings.cache_admission == "first_use",
            options=options,
        )

    def open(self) -> None:
        """Make what is not there yet, and remove what is nobody's.

        Raises:
            OSError: If the folder cannot be used.
            sqlite3.Error: If the index cannot be used.
        """
        with self._lock:
            if self._is_ready:
                return
            self.files.make_folders()
            try:
                self.files.sweep(self.index)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                logger.warning("the index of the cell cache in %s is damaged, and made anew: %s", self.folder, error)
                self.index.clear()
                self.files.sweep(self.index)
            self._is_ready = True

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.files.folder

    def for_query(self, query_id: str, cancelled: Flag) -> QueryCells:
        """Return what serves one attempt, or one stage that a session runs itself.

        Args:
            query_id: The query: what another one used before is used for the second time.
            cancelled: Stops it.
        """
        return QueryCells(self, query_id, cancelled)

    def announced(self) -> dict[str, int]:
        """Return URL and held bytes of the objects that were used last, for a heartbeat."""
        if not self.index.exists():
            return {}
        try:
            return self.index.newest(ANNOUNCED_CELLS)
        except sqlite3.Error as error:
            logger.info("the cell cache in %s cannot tell what it holds: %s", self.folder, error)
            return {}

    def close(self) -> None:
        """Let go of the index."""
        self.index.close()

    # -- what one query's cells ask of it -----------------------------------------------------------------------------

    def place(self, url: str) -> str:
        """Return what tells an object from all others, of its URL and of the service that it is on."""
        scheme = url.partition("://")[0]
        options = (self._options or StoreOptions()).over(StoreOptions.from_env(os.environ))
        accounts = [options.provider.get(word) for word in _ACCOUNT_WORDS]
        return _digest(url, options.endpoint if scheme == "s3" else None, *accounts)

    def store_of(self, store_url: str) -> Store:
        """Return the open store of a bucket."""
        with self._lock:
            store = self._stores.get(store_url)
            if store is None:
                store = self._stores[store_url] = open_store(store_url, self._options)
            return store

    def known_version(self, query_id: str, url: str) -> Version | None:
        """Return the version of an object that a query was told of before: it is asked for once a query and process."""
        with self._lock:
            return self._versions.get((query_id, url))

    def remember_version(self, query_id: str, version: Version) -> None:
        """Note the version of an object that a query was told of."""
        with self._lock:
            self._versions[query_id, version.url] = version
            while len(self._versions) > REMEMBERED_VERSIONS:
                self._versions.popitem(last=False)

    def limit_bytes(self) -> int:
        """Return what it may hold.

        Raises:
            OSError: If the disk cannot be asked.
        """
        if self._limit_bytes is not None:
            return self._limit_bytes
        return self.files.default_limit_bytes(self.index.held_bytes())

    def make_room(self, wanted_bytes: int) -> bool:
        """Remove what was not used for longest, until so much more can be held; False if that is not possible.

        Raises:
            OSError: If files cannot be removed.
        """
        limit_bytes = self.limit_bytes()
        excess_bytes = self.index.held_bytes() + wanted_bytes - limit_bytes
        if excess_bytes <= 0 or wanted_bytes > limit_bytes:
            return excess_bytes <= 0
        for name, held_bytes in self.index.oldest_first():
            if held_bytes and self.files.remove(name, self.index):
                excess_bytes -= held_bytes
                if excess_bytes <= 0:
                    return True
        return False

    def check(self, version: Version, pinned: Pinned, pieces: Sequence[Piece]) -> None:
        """Check pieces of a file, but those that this process has checked since the file was changed last.

        Raises:
            DamagedFile: If they are not what was written.
            OSError: If they cannot be read.
        """
        mark = pinned.mark()
        with self._lock:
            known, spans = self._checked.get(version.name, (mark, set()))
            unchecked = [piece for piece in pieces if known != mark or piece.span not in spans]
        pinned.check(version.size_bytes, unchecked)
        with self._lock:
            known, spans = self._checked.pop(version.name, (mark, set()))
            self._checked[version.name] = (mark, {piece.span for piece in pieces} | (spans if known == mark else set()))
            while len(self._checked) > REMEMBERED_CHECKS:
                self._checked.popitem(last=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Localized:
    """The scans of a task, some of them turned to local files.

    Attributes:
        scans: All of them.
        stores: The URL of the store of those that were turned, by leaf.
    """

    scans: tuple[ScanInput, ...]
    stores: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """An object that a scan reads.

    Attributes:
        version: Its present version.
        pinned: Its file.
        files: The entries of the scan.
        wanted: What they read of it.
        gaps: What of that was not held.
    """

    version: Version
    pinned: Pinned
    files: tuple[ScanFile, ...]
    wanted: tuple[Span, ...]
    gaps: tuple[Span, ...]

    def use(self) -> CellUse:
        """Return how its entries came to be local."""
        fetched_bytes = total_bytes(self.gaps)
        return CellUse(
            hits=0 if fetched_bytes else len(self.files),
            misses=len(self.files) if fetched_bytes else 0,
            hit_bytes=total_bytes(self.wanted) - fetched_bytes,
            fetched_bytes=fetched_bytes,
        )


class QueryCells:
    """Serves the cells of one attempt. What it has served stays on the disk until it is left, as a context.

    Args:
        cache: The cache.
        query_id: The query.
        cancelled: Stops it.
    """

    def __init__(self, cache: CellCache, query_id: str, cancelled: Flag) -> None:
        self._cache = cache
        self._query_id = query_id
        self._cancelled = cancelled
        self._pinned: list[Pinned] = []
        self._lock = threading.Lock()
        self.use = CellUse()

    def __enter__(self) -> QueryCells:
        return self

    def __exit__(self, *_: object) -> None:
        while self._pinned:
            self._pinned.pop().release()

    def localized(self, scans: Sequence[ScanInput], fragment: PlanNode) -> Localized:
        """Return scans with those turned to local files whose cells are held, or worth to be.

        Args:
            scans: What a task reads.
            fragment: Its fragment.

        Raises:
            QueryCancelled: If the query is over.
        """
        stores: dict[int, str] = {}
        found = list(scans)
        leaves = [node for node in fragment.walk() if node.is_file_scan]
        for position, scan in enumerate(scans):
            leaf = leaves[scan.leaf]
            store_url = codec.text(codec.scan_conf(leaf).object_store_url)
            if not scan.files or store_url.partition("://")[0] not in CLOUD_SCHEMES:
                continue
            local = self._try(store_url, scan.files, is_parquet=leaf.kind == "parquet_scan")
            if local is None:
                self._note(CellUse(misses=len(scan.files)))
                continue
            found[position] = replace(scan, files=local)
            stores[scan.leaf] = EXCHANGE_STORE_URL
        return Localized(scans=tuple(found), stores=stores)

    def _try(self, store_url: str, files: Sequence[ScanFile], *, is_parquet: bool) -> tuple[ScanFile, ...] | None:
        """Return a scan's files as local ones; None if it is to stay as it is."""
        try:
            self._cache.open()
            return self._local(store_url.rstrip("/"), files, is_parquet=is_parquet)
        except QueryCancelled:
            raise
        except (ApiaryError, DamagedFile, OSError, sqlite3.Error) as error:
            logger.warning(
                "cells in %s are read without the cell cache in %s: %s", store_url, self._cache.folder, error
            )
            return None

    def _local(self, store_url: str, files: Sequence[ScanFile], *, is_parquet: bool) -> tuple[ScanFile, ...] | None:
        cache = self._cache
        store = cache.store_of(store_url)
        objects: dict[str, list[ScanFile]] = {}
        for file in files:
            objects.setdefault(file.path, []).append(file)
        if not self._is_worth_it(store_url, objects):
            return None
        with (
            ThreadPoolExecutor(REQUESTS_AT_ONCE, "cells") as outer,
            ThreadPoolExecutor(REQUESTS_AT_ONCE, "get") as inner,
        ):
            versions = list(outer.map(lambda path: self._version(store, store_url, path, objects[path][0]), objects))
            present = [version for version in versions if version is not None]
            if len(present) < len(versions):
                return None
            self._drop_outdated(present)
            cells = list(outer.map(lambda v: self._cell(store, v, objects[v.key], is_parquet=is_parquet), present))
            wanted_bytes = sum(total_bytes(cell.gaps) for cell in cells)
            if wanted_bytes and not cache.make_room(wanted_bytes):
                logger.info("%s are not kept: the cell cache holds too little", format_bytes(wanted_bytes))
                return None
            for requests in outer.map(lambda cell: self._fetch(store, cell, inner), cells):
                self._note(CellUse(requests=requests))
            list(outer.map(lambda cell: self._check(cell.version, cell.pinned, cell.wanted), cells))
        for cell in cells:
            self._note(cell.use())
        paths = {cell.version.key: str(cell.pinned.path) for cell in cells}
        return tuple(replace(file, path=paths[file.path].lstrip("/")) for file in files)

    def _is_worth_it(self, store_url: str, objects: Mapping[str, Sequence[ScanFile]]) -> bool:
        """Whether most of what a scan reads was used before, or is held: then the rest is fetched as well."""
        if self._cache.at_first_use:
            return True
        places = {self._cache.place(file_url(store_url, path)): path for path in objects}
        known = self._cache.index.known(list(places), self._query_id)
        sizes = {place: sum(file.bytes for file in objects[path]) for place, path in places.items()}
        return 2 * sum(sizes[place] for place in known) >= sum(sizes.values()) and bool(known)

    def _version(self, store: Store, store_url: str, path: str, file: ScanFile) -> Version | None:
        """Return the present version of an object; None if it is not the one that was planned, or has no e-tag."""
        self._go_on()
        url = file_url(store_url, path)
        known = self._cache.known_version(self._query_id, url)
        if known is not None:
            return known if known.size_bytes == file.size_bytes else None
        meta = store.head(path)
        self._note(CellUse(requests=1))
        if meta.e_tag is None or meta.size_bytes != file.size_bytes or not meta.size_bytes:
            return None
        place = self._cache.place(url)
        name = _digest(place, meta.e_tag, str(meta.size_bytes))
        version = Version(name=name, place=place, url=url, key=path, e_tag=meta.e_tag, size_bytes=meta.size_bytes)
        self._cache.remember_version(self._query_id, version)
        return version

    def _drop_outdated(self, versions: Iterable[Version]) -> None:
        """Remove other versions of objects: nobody will ask for them any more."""
        cache = self._cache
        for version in versions:
            for name in cache.index.other_versions(version):
                cache.files.remove(name, cache.index)

    def _cell(self, store: Store, version: Version, files: Sequence[ScanFile], *, is_parquet: bool) -> _Cell:
        """Pin an object's file, and find out what it lacks."""
        index = self._cache.index
        pinned = self._cache.files.pin(version)
        self._pinned.append(pinned)
        index.touch([version])
        ranges = [None if f.range_start is None or f.range_end is None else (f.range_start, f.range_end) for f in files]
        whole = not is_parquet or any(r is None or r[1] - r[0] >= version.size_bytes for r in ranges)
        layout = None if whole else self._layout(store, version, pinned)
        wanted = spans_read(version.size_bytes, ranges, layout)
        gaps = missing(wanted, (piece.span for piece in index.pieces(version)))
        return _Cell(version=version, pinned=pinned, files=tuple(files), wanted=wanted, gaps=gaps)

    def _layout(self, store: Store, version: Version, pinned: Pinned) -> Layout | None:
        """Return where the row groups of a Parquet file lie, having fetched its end if nobody has before."""
        index = self._cache.index
        with self._cache.files.turn(f"{version.name} end", self._go_on):
            known = index.layout(version)
            if known is not None:
                return known
            end = self._end(store, version, pinned, min(FOOTER_GUESS_BYTES, version.size_bytes))
            footer = footer_bytes(end)
            if footer is None or footer > version.size_bytes:
                return None
            layout = layout_of(end if footer <= len(end) else self._end(store, version, pinned, footer))
            if layout is not None:
                index.set_layout(version, layout)
            return layout

    def _end(self, store: Store, version: Version, pinned: Pinned, length: int) -> bytes:
        """Return the end of an object; fetched, if it is not held."""
        start, index = version.size_bytes - length, self._cache.index
        span = (start, version.size_bytes)
        if not missing([span], (piece.span for piece in index.pieces(version))):
            self._check(version, pinned, [span])
            return pinned.read(span)
        end = self._get(store, version, span)
        self._note(CellUse(requests=1))
        index.add(version, [pinned.write(start, end)])
        return end

    def _fetch(self, store: Store, cell: _Cell, pool: ThreadPoolExecutor) -> int:
        """Fetch what an object's file lacks, unless others do so meanwhile; returns how many requests it took."""
        if not cell.gaps:
            return 0
        index = self._cache.index
        with self._cache.files.turn(f"{cell.version.name} {cell.gaps}", self._go_on):
            gaps = missing(cell.wanted, (piece.span for piece in index.pieces(cell.version)))
            spans = pieces_of(gaps, PIECE_BYTES)
            got = [pool.submit(self._copy, store, cell, span) for span in spans]
            try:
                for done in got:
                    index.add(cell.version, [done.result()])
            finally:
                for rest in got:
                    rest.cancel()
        return len(spans)

    def _copy(self, store: Store, cell: _Cell, span: Span) -> Piece:
        return cell.pinned.write(span[0], self._get(store, cell.version, span))

    def _get(self, store: Store, version: Version, span: Span) -> bytes:
        self._go_on()
        return store.get_version(version.key, version.e_tag, span[0], span[1] - span[0])

    def _check(self, version: Version, pinned: Pinned, wanted: Sequence[Span]) -> None:
        """Check what is to be read of a file.

        Raises:
            DamagedFile: If it is not what was fetched; it is forgotten then, and fetched anew the next time.
        """
        index = self._cache.index
        pieces = [piece for piece in index.pieces(version) if overlap(piece.span, wanted)]
        try:
            if missing(wanted, (piece.span for piece in pieces)):
                raise DamagedFile(f"the index lost what {pinned.path} holds")
            self._cache.check(version, pinned, pieces)
        except DamagedFile:
            index.drop(version.name, pieces_only=True)
            os.ftruncate(pinned.descriptor, version.size_bytes)
            raise

    def _note(self, use: CellUse) -> None:
        with self._lock:
            self.use = self.use.plus(use)

    def _go_on(self) -> None:
        if self._cancelled.is_set():
            raise QueryCancelled("stopped while cells were fetched: the query is over")


def _digest(*words: str | None) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]
