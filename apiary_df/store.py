"""The storage root: a folder, a bucket, or this process's memory, behind one small synchronous interface.

What belongs here: requests, create-once, request counts. What does not: what obstore must be told to reach a root, and
what its errors mean (``connect``); which keys exist and what is in them (``protocol``).

Retries are obstore's own (exponential backoff with jitter, bounded by :class:`StoreOptions`): reads, lists,
deletes and overwriting puts are retried on 5xx, throttling, lost connections and timeouts. A create-once put
whose reply was lost must not simply be sent again, so :meth:`Store.create` reads the object back instead.
"""

from __future__ import annotations

import copy
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import obstore

from apiary_df import folders
from apiary_df.connect import MEMORY_REQUESTS, Site, request_error, site_at
from apiary_df.errors import (
    ApiaryError,
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    ObjectRefused,
    StorageError,
    StorageTransient,
    StorageUnreachable,
)
from apiary_df.ranges import coalesced, cut
from apiary_df.store_options import (
    ObjectMeta,
    RefusalCounts,
    RequestCounts,
    StoreOptions,
    first_segments,
)

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Data", "ObjectMeta", "RequestCounts", "Store", "StoreOptions", "open_store"]

PART_BYTES = 8 * 1024 * 1024
"""Part size of large uploads: 8 to 16 MiB a request is where object stores are cheapest for their speed."""

UPLOAD_CONCURRENCY = 4
"""Parts of one upload that are under way at once; more would only take memory from the bees."""

LIST_PAGE_KEYS = 1_000
"""Keys that one list request returns at most, on every store that bills for them."""

CREATE_TRIES = 5
"""Tries of one create-once put whose object is found absent each time, before it counts as failing."""

CREATE_BACKOFF_S = 0.05
"""Wait before the second of those tries, and of tries to delete; doubles from there."""

READ_BACK_BYTES = 64 * 1024
"""So much is read back of an object whose create failed: its writer's token is in the first of them."""

DELETE_TRIES = 3
"""Tries of one delete, which may be repeated at will, on top of what obstore itself repeats."""

Data: TypeAlias = Any
"""``bytes``, any object with the buffer protocol, or a :class:`~pathlib.Path` whose content is meant."""


def open_store(url: str, options: StoreOptions | None = None, *, environ: Mapping[str, str] | None = None) -> Store:
    """Open the store at a URL. No request is made, and no folder is created before the first write.

    Args:
        url: ``file:///folder`` or a bare path; ``memory://name`` (the same name is the same store anywhere in
            this process); ``s3://bucket/prefix``; ``gs://bucket/prefix``; ``az://container/prefix``.
        options: Explicit options; what they leave unset comes from the environment.
        environ: The environment to read; the process's own if None.

    Raises:
        ConfigError: The scheme is unknown, the URL is malformed, or the options do not fit it.
    """
    base = StoreOptions.from_env(os.environ if environ is None else environ)
    effective = base if options is None else options.over(base)
    store = Store(site_at(url, effective), effective)
    if store.kind == "bucket":
        store.connect()  # for the sake of its errors
    return store


class Store:
    """One storage root. All keys are relative to it, with ``/`` between segments. Thread-safe.

    Args:
        site: Where the root is.
        options: The effective options.

    Attributes:
        site: Where the root is.
        url: The root as a URL, without secrets.
        options: The effective options.
        counts: Requests and bytes so far.
        sleep: How :meth:`create` waits between its tries, given seconds.
        refusals: Objects that were read here and not taken.
    """

    def __init__(self, site: Site, options: StoreOptions) -> None:
        self.site = site
        self.url = site.url
        self.options = options
        self.counts = RequestCounts()
        self.sleep: Callable[[float], None] = time.sleep
        self.refusals = RefusalCounts()
        self._folder = site.folder
        self._key_prefix = site.key_prefix
        self._lock = Lock()
        self._backend: ObjectStore | None = None

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def counting(self) -> Store:
        """Return the same store with request counts of its own, from nothing; what is counted there counts here too."""
        own = copy.copy(self)
        own.counts = RequestCounts(whole=self.counts)
        return own

    @property
    def kind(self) -> Literal["folder", "memory", "bucket"]:
        """What looks and waits cost here: nothing but microseconds, or money and tens of milliseconds."""
        if self._folder is not None:
            return "folder"
        return "memory" if self.url.startswith("memory:") else "bucket"

    def get(self, key: str, limit_bytes: int | None = None) -> bytes:
        """Read a whole object.

        Args:
            key: Where.
            limit_bytes: Nothing of a larger object is read; None: read it whatever its size.

        Raises:
            ObjectMissing: There is no such object.
            ObjectRefused: It is larger than the limit.
            StorageTransient: The store failed, still after the retries.
            StorageError: The store refused.
        """
        file = self._file(key)
        with self._mapped("read", key):
            self.counts.add(get=1)
            if file is not None:
                found = folders.read_file(file, limit_bytes)
            else:
                got = obstore.get(self._reading(), self._path(key))
                size_bytes = got.meta["size"]
                within = limit_bytes is None or size_bytes <= limit_bytes
                found = got.bytes().to_bytes() if within else size_bytes
        if isinstance(found, int):
            raise ObjectRefused(
                f"{key!r} has {found} bytes; more than {limit_bytes} are not read", key=key, reason="too large"
            )
        self.counts.add(bytes_in=len(found))
        return found

    def get_or_none(self, key: str, limit_bytes: int | None = None) -> bytes | None:
        """Read a whole object, or return None if there is none. Takes and raises what :meth:`get` does otherwise."""
        file = self._file(key)
        if file is not None and not os.path.exists(file):  # noqa: PTH110
            # Most looks find nothing, and raising an error takes longer than asking.
            self.counts.add(get=1)
            return None
        try:
            return self.get(key, limit_bytes)
        except ObjectMissing:
            return None

    def get_start(self, key: str, length: int) -> tuple[bytes, int] | None:
        """Read an object's first bytes by one request, at most ``length``. Raises what :meth:`get` does otherwise.

        Returns:
            The bytes, and the size of the whole object; None if there is none.
        """
        file = self._file(key)
        self.counts.add(get=1)
        if file is not None and not os.path.exists(file):  # noqa: PTH110  # as in get_or_none
            return None
        try:
            found = self._start(key, file, length)
        except ObjectMissing:
            return None
        self.counts.add(bytes_in=len(found[0]))
        return found

    def _start(self, key: str, file: str | None, length: int) -> tuple[bytes, int]:
        try:
            with self._mapped("read", key):
                if file is not None:
                    return folders.read_start(file, length)
                got = obstore.get(self._reading(), self._path(key), options={"range": (0, length)})
                return got.bytes().to_bytes(), got.meta["size"]
        except StorageTransient:
            # No store gives a range of nothing; as in _fetch_spans, the size tells.
            if self.head(key).size_bytes:
                raise
            return b"", 0

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read ``length`` bytes from ``start``.

        Raises:
            ObjectMissing: There is no such object.
            ObjectDamaged: The object ends before the range does.
            StorageTransient: The store failed, still after the retries.
            StorageError: The store refused.
        """
        return self.get_ranges(key, [start], [length])[0]

    def get_ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Read several ranges of one object; ranges near each other share a request.

        Raises:
            ObjectMissing: There is no such object.
            ObjectDamaged: The object ends before one of the ranges does.
            StorageTransient: The store failed, still after the retries.
            StorageError: The store refused, or a range is negative.
        """
        if any(n < 0 for n in (*starts, *lengths)) or len(starts) != len(lengths):
            raise StorageError(f"read {key!r}: ranges {list(starts)} of {list(lengths)} bytes make no sense")
        wanted = list(zip(starts, lengths, strict=True))
        spans = coalesced(wanted)
        fetched = self._fetch_spans(key, spans) if spans else []
        found: list[bytes] = []
        for start, length in wanted:
            data, end = cut(spans, fetched, start, length)
            if len(data) < length:
                raise self._too_short(key, start, length, end)
            found.append(data)
        return found

    async def read_range(self, key: str, start: int, length: int) -> Data:
        """Read ``length`` bytes from ``start``, beside others, by one request that stops when it is cancelled.

        Raises:
            ObjectMissing: There is no such object.
            ObjectDamaged: The object ends before the range does.
            StorageTransient: The store failed, still after the retries.
            StorageError: The store refused.
        """
        self.counts.add(get=1)
        try:
            with self._mapped("read", key):
                data = await obstore.get_range_async(self._reading(), self._path(key), start=start, length=length)
        except StorageTransient:
            size = self.head(key).size_bytes  # as in _fetch_spans
            if start + length > size:
                raise self._too_short(key, start, length, size) from None
            raise
        found = memoryview(data)
        if len(found) < length:
            raise self._too_short(key, start, length, start + len(found))
        self.counts.add(bytes_in=len(found))
        return found

    def put(self, key: str, data: Data) -> None:
        """Write an object whole, replacing any that is there. Readers see the old or the new, never a mix.

        Args:
            key: Where.
            data: Bytes, a buffer, or a path to a file. On a folder store a file is linked in if it can be,
                so it must not be changed afterwards (deleting it is fine).

        Raises:
            StorageUnreachable: The root (bucket, container) does not exist.
            StorageTransient: The store failed, still after the retries.
            StorageError: The store refused.
        """
        with self._mapped("write", key):
            size = data.stat().st_size if isinstance(data, Path) else memoryview(data).nbytes
            self.counts.add(put=max(1, -(-size // PART_BYTES)), bytes_out=size)
            file, folder = self._file(key), self._folder
            if isinstance(data, Path) and folder is not None and folders.link_in(data, folder / self._path(key)):
                return
            if file is not None and not isinstance(data, Path) and size <= folders.SMALL_FILE_BYTES:
                folders.write_file(file, memoryview(data).cast("B"), replace=True)
                return
            source = data if isinstance(data, Path) else memoryview(data).cast("B")
            backend = self._writing()
            obstore.put(backend, self._path(key), source, chunk_size=PART_BYTES, max_concurrency=UPLOAD_CONCURRENCY)

    def create(self, key: str, data: bytes, token: str) -> bool:
        """Write an object unless its key is taken. The one primitive that decides between writers.

        A create that fails is not proof that somebody else won, since a reply can get lost: the object's start is
        read back, and what is there decides. ``data`` must carry the writer's random token there, so that equal
        bytes mean the same writer.

        Returns:
            True if the object at ``key`` is ours, False if another writer's.

        Raises:
            StorageUnreachable: The root (bucket, container) does not exist.
            StorageTransient: The store failed, still after the retries.
            StorageError: The store refused, or ``data`` lacks the token.
        """
        ours = data[:READ_BACK_BYTES], len(data)
        if not token or token.encode() not in ours[0]:
            raise StorageError(f"create {key!r}: the data must begin with the writer's token", key=key)
        failure: StorageError | None = None
        for tried in range(CREATE_TRIES):
            if tried:
                self.sleep(CREATE_BACKOFF_S * 2 ** (tried - 1))
            try:
                self._create(key, data)
            except (ObjectExists, StorageTransient) as error:
                failure = error
            else:
                return True
            there = self.get_start(key, READ_BACK_BYTES)
            if there is not None:
                return there == ours
        raise StorageTransient(
            f"create {key!r} in {self.url}: {CREATE_TRIES} tries, each time without the object being there "
            f"afterwards; the last one said: {failure}",
            key=key,
        )

    def get_version(self, key: str, e_tag: str, start: int, length: int) -> bytes:
        """Read bytes of one version of an object, and of no other.

        Args:
            key: Where.
            e_tag: The store's mark of the version.
            start: First byte.
            length: How many bytes, >= 1.

        Raises:
            ObjectMissing: There is no such object.
            StorageTransient: The store failed, still after the retries.
            StorageError: The object has changed, or the store refused.
        """
        with self._mapped("read", key):
            self.counts.add(get=1)
            options: Any = {"if_match": e_tag, "range": (start, start + length)}
            got = obstore.get(self._reading(), self._path(key), options=options)
            data, found = got.bytes().to_bytes(), got.meta["e_tag"]
        self.counts.add(bytes_in=len(data))
        if found != e_tag or len(data) != length:
            raise StorageError(
                f"read {key!r} in {self.url}: {length} bytes of version {e_tag} were asked for, and {len(data)} of "
                f"{found} came: the object has changed",
                key=key,
            )
        return data

    def head(self, key: str) -> ObjectMeta:
        """Return what the store knows of an object without reading it.

        Raises:
            ObjectMissing: There is no such object.
            StorageTransient: The store failed, still after the retries.
            StorageError: The store refused.
        """
        with self._mapped("look up", key):
            self.counts.add(head=1)
            return self._meta(obstore.head(self._reading(), self._path(key)))

    def list(self, prefix: str) -> list[ObjectMeta]:
        """Return every object below a prefix (a whole number of segments), sorted by key.

        An empty prefix lists the whole root; a prefix with nothing below it gives an empty list.

        Raises:
            StorageTransient: The store failed, still after the retries.
            StorageError: The store refused.
        """
        if self._folder is not None and not self._folder.is_dir():
            return []
        with self._mapped("list", prefix):
            path = self._path(prefix.rstrip("/")) if prefix.strip("/") else self._key_prefix
            stream = obstore.list(self._reading(), path or None, chunk_size=LIST_PAGE_KEYS)
            found = [self._meta(meta) for page in stream for meta in page]
        self.counts.add(list=max(1, -(-len(found) // LIST_PAGE_KEYS)))
        return sorted(found, key=lambda meta: meta.key)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are absent already are fine.

        Raises:
            StorageTransient: The store failed, still after the retries.
            StorageError: The store refused.
        """
        paths = [self._path(key) for key in keys]
        if not paths or (self._folder is not None and not self._folder.is_dir()):
            return
        for tried in range(1, DELETE_TRIES):
            try:
                self._delete(paths)
            except StorageTransient:
                # A bucket's bulk delete is a POST, which obstore does not repeat when its reply gets lost.
                self.sleep(CREATE_BACKOFF_S * 2 ** (tried - 1))
            else:
                return
        self._delete(paths)

    def _delete(self, paths: Sequence[str]) -> None:
        with self._mapped("delete", f"{paths[0]} and {len(paths) - 1} more" if len(paths) > 1 else paths[0]):
            self.counts.add(delete=len(paths))
            files = [file for path in paths if (file := self._file(path)) is not None]
            for file in files:
                folders.remove_file(file)
            if files and len(files) == len(paths):
                return
            try:
                obstore.delete(self._reading(), paths)
            except FileNotFoundError:
                # A folder stops at the first absent one, with the rest still there.
                for path in paths:
                    with suppress(FileNotFoundError):
                        obstore.delete(self._reading(), path)

    def delete_prefix(self, prefix: str) -> int:
        """Delete every object below a prefix; in a folder also the folders that held them.

        Returns:
            How many objects were deleted.

        Raises:
            StorageTransient: The store failed, still after the retries.
            StorageError: The store refused, or the prefix is empty (the root is never deleted).
        """
        self._path(prefix.rstrip("/"))
        found = self.list(prefix)
        self.delete([meta.key for meta in found])
        if self._folder is not None:
            with self._mapped("delete", prefix):
                folders.remove_folder(self._folder / prefix)
        return len(found)

    def move(self, source: str, target: str) -> None:
        """Give an object another key, replacing what is there. In a bucket: a copy on the server, then a delete.

        Raises:
            ObjectMissing: There is no such object.
            StorageTransient: The store failed, still after the retries.
            StorageError: The store refused (S3 copies no object of more than 5 GB in one request).
        """
        with self._mapped("move", source):
            self.counts.add(put=1, delete=1)
            obstore.rename(self._reading(), self._path(source), self._path(target), overwrite=True)

    def list_names(self, beginning: str) -> tuple[str, ...]:
        """Return the first segments, with such a beginning, of all keys, sorted: what lies directly below the root.

        Raises:
            StorageTransient: The store failed, still after the retries.
            StorageError: The store refused.
        """
        with self._mapped("list", beginning):
            self.counts.add(list=1)
            if self._folder is not None:
                found = self._folder.iterdir() if self._folder.is_dir() else iter(())
                return tuple(sorted(path.name for path in found if path.name.startswith(beginning)))
            first = f"{self._key_prefix}/{beginning}" if self._key_prefix else beginning
            pages = obstore.list(self._reading(), self._key_prefix or None, offset=first, chunk_size=LIST_PAGE_KEYS)
            return first_segments(([self._meta(meta).key for meta in page] for page in pages), beginning)

    def local_path(self, key: str) -> Path | None:
        """Return the file that holds an object (whether it exists or not), or None if this is no folder."""
        self._path(key)
        return None if self._folder is None else self._folder / key

    def check_writable(self) -> datetime:
        """Prove within seconds that objects can be created once, seen and deleted here.

        Returns:
            The store's clock, as it stamped the probe.

        Raises:
            StorageUnreachable: Anything that failed, with the store's own words.
        """
        probe = Store(self.site, self.options.hurried())
        key = f"_probe/{secrets.token_hex(8)}"
        try:
            probe._create(key, b"apiary probe")
            seen = probe.head(key)
            honours_create = False
            try:
                probe._create(key, b"apiary probe")
            except ObjectExists:
                honours_create = True
            probe.delete([key])
            if self._folder is not None:
                with suppress(OSError):  # another process's probe may be in it
                    (self._folder / "_probe").rmdir()
        except ApiaryError as error:
            raise StorageUnreachable(
                f"the storage root {self.url} cannot be used: {error.message}. Check the URL, that the "
                "bucket or folder exists, the credentials, and the network",
                url=self.url,
            ) from error
        if not honours_create:
            raise StorageUnreachable(
                f"the storage root {self.url} let an object be created twice, so it cannot decide between "
                "writers; apiary_df needs a store that honours conditional puts (If-None-Match)",
                url=self.url,
            )
        return seen.last_modified

    def connect(self) -> ObjectStore:
        """Return the obstore client, made at the first call.

        Raises:
            ConfigError: The options do not fit the store.
        """
        with self._lock:
            if self._backend is None:
                self._backend = self.site.connect(self.options)
            return self._backend

    def _reading(self) -> ObjectStore:
        if self._folder is not None and not self._folder.is_dir():
            raise FileNotFoundError(f"there is no folder {self._folder}")
        return self.connect()

    def _writing(self) -> ObjectStore:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        return self.connect()

    def _create(self, key: str, data: bytes) -> None:
        with self._mapped("write", key):
            self.counts.add(put=1, bytes_out=len(data))
            file = self._file(key)
            if file is not None:
                folders.write_file(file, data, replace=False)
            else:
                obstore.put(self._writing(), self._path(key), data, mode="create", use_multipart=False)

    def _fetch_spans(self, key: str, spans: Sequence[tuple[int, int]]) -> Sequence[memoryview]:
        """Fetch spans that lie so far apart that obstore does not put any together.

        It must not: it panics when an object ends before the later one of two ranges that it fetched as one.
        """
        self.counts.add(get=len(spans))
        starts, ends = [start for start, _ in spans], [end for _, end in spans]
        try:
            with self._mapped("read", key):
                got = obstore.get_ranges(self._reading(), self._path(key), starts=starts, ends=ends)
        except StorageTransient:
            # A range that starts past the end fails like a broken store does; the size tells them apart.
            size = self.head(key).size_bytes
            if ends[-1] > size:
                raise self._too_short(key, starts[-1], ends[-1] - starts[-1], size) from None
            raise
        self.counts.add(bytes_in=sum(len(part) for part in got))
        return [memoryview(part) for part in got]

    def _too_short(self, key: str, start: int, length: int, size: int) -> ObjectDamaged:
        return ObjectDamaged(
            f"read {key!r} in {self.url}: bytes {start} to {start + length} were asked for, but the object "
            f"ends at {size}",
            key=key,
        )

    def _file(self, key: str) -> str | None:
        """Return the file of an object in a folder; None if obstore alone knows what it is called."""
        path = self._path(key)
        return f"{self._folder}/{path}" if self._folder is not None and folders.is_plain(path) else None

    def _path(self, key: str) -> str:
        if not key or any(part in ("", ".", "..") for part in key.split("/")):
            raise StorageError(f"{key!r} is not a key: it needs segments with single slashes between", key=key)
        return f"{self._key_prefix}/{key}" if self._key_prefix else key

    def _meta(self, meta: Mapping[str, Any]) -> ObjectMeta:
        key = meta["path"]
        if self._key_prefix:
            key = key[len(self._key_prefix) + 1 :]
        return ObjectMeta(key=key, size_bytes=meta["size"], last_modified=meta["last_modified"], e_tag=meta["e_tag"])

    @contextmanager
    def _mapped(self, verb: str, key: str) -> Iterator[None]:
        """Turn what obstore and the file system raise into apiary_df's errors, with the store's own words."""
        try:
            with MEMORY_REQUESTS if self.kind == "memory" else nullcontext():
                yield
        except BaseException as error:
            typed = request_error(error, verb, key, self.url, self.options)
            if typed is None:
                raise
            raise typed from (None if isinstance(error, Exception) else error)
