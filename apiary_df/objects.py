"""Where cells lie: locations, listings, sizes, and the object stores that DataFusion reads them through.

What belongs here turns the caller's words (paths, URLs) into storage URLs and asks the store about them. What the
objects hold, and which of them make a table, is decided elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from weakref import WeakKeyDictionary

import datafusion
from datafusion import object_store

from apiary_df.errors import ApiaryError, ConfigError, ObjectMissing, TableError
from apiary_df.store import Store, StoreOptions, open_store
from apiary_df.store_options import without_queries

CLOUD_SCHEMES = ("s3", "gs", "az")
"""Schemes of object stores that both the store and DataFusion can read."""

MAX_PARALLEL_REQUESTS = 16
"""Requests in flight while sizes are asked for: a hundred files take a few round trips, and no store minds."""

_SAFE_IN_URLS = "/-_.~=+,:@!$&'()"
"""Characters that stay as they are in a cell's URL. Glob characters are escaped: DataFusion would expand them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A place in a store.

    Attributes:
        scheme: ``file``, ``s3``, ``gs`` or ``az``.
        bucket: Bucket or container; empty for files.
        key: Path inside the bucket, or absolute path of a file without its leading slash; not percent-encoded.
    """

    scheme: str
    bucket: str
    key: str

    @property
    def url(self) -> str:
        """The percent-encoded URL of this place."""
        return f"{self.store_url}/{quote(self.key, safe=_SAFE_IN_URLS)}"

    @property
    def store_url(self) -> str:
        """URL of the store itself, without a trailing slash."""
        return f"{self.scheme}://{self.bucket}"

    @property
    def path(self) -> Path:
        """The local path; only for files."""
        return Path("/" + self.key)

    def below(self, key: str) -> Location:
        """Return the place at a relative key below this one."""
        base = self.key.rstrip("/")
        return Location(scheme=self.scheme, bucket=self.bucket, key=f"{base}/{key}" if base else key)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundObject:
    """An object and its size.

    Attributes:
        location: Where it lies.
        key: Its key relative to the place that was listed; its name, if it was asked for by itself.
        size_bytes: Its size.
    """

    location: Location
    key: str
    size_bytes: int


def parse_location(place: str | Path) -> Location:
    """Turn a path or URL into a location.

    A bare path is taken literally; a URL is percent-decoded, as in a browser and in DataFusion.

    Raises:
        TableError: If the scheme is none from which tables can be read.
    """
    text = str(place)
    scheme, separator, rest = text.partition("://")
    if not separator or isinstance(place, Path):
        path = os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111 - symlinks stay as the caller named them
        return Location(scheme="file", bucket="", key=path.lstrip("/"))
    scheme = scheme.lower()
    if scheme == "file":
        return Location(scheme="file", bucket="", key=unquote(rest).lstrip("/"))
    if scheme in CLOUD_SCHEMES:
        bucket, _, key = rest.partition("/")
        if not bucket:
            raise TableError(f"cannot read a table from {text}: the URL names no bucket", url=text)
        return Location(scheme=scheme, bucket=bucket, key=unquote(key))
    known = ", ".join(f"{name}://" for name in ("file", *CLOUD_SCHEMES))
    raise TableError(
        f"cannot read a table from {text}: unknown scheme {scheme!r}; tables are read from {known} or a path", url=text
    )


def list_objects(root: Location, options: StoreOptions | None) -> list[FoundObject]:
    """List all objects below a place, by key; the object itself if the place is one.

    Raises:
        TableError: If nothing is there.
        StorageError: If the store cannot be asked.
    """
    if root.scheme == "file":
        return _list_folder(root, options)
    prefix = root.key.strip("/")
    store = open_store(root.store_url, options)
    try:
        metas = store.list(prefix)
    except ObjectMissing as error:
        raise TableError(f"cannot read a table from {root.url}: {error.message}", url=root.url) from error
    folder = Location(scheme=root.scheme, bucket=root.bucket, key=prefix)
    cut = len(prefix) + 1 if prefix else 0
    found = [
        FoundObject(location=folder.below(meta.key[cut:]), key=meta.key[cut:], size_bytes=meta.size_bytes)
        for meta in metas
        if meta.key[cut:]
    ]
    if found:
        return found
    single = _stat_or_none(store, folder) if prefix else None
    if single is None:
        raise TableError(f"cannot read a table from {root.url}: nothing is stored there", url=root.url)
    return [single]


def _list_folder(root: Location, options: StoreOptions | None) -> list[FoundObject]:
    if root.path.is_file():
        return stat_objects([root], options)
    if not root.path.exists():
        raise TableError(f"cannot read a table from {root.path}: no such file or folder", url=root.url)
    metas = open_store(str(root.path), options).list("")
    return [FoundObject(location=root.below(m.key), key=m.key, size_bytes=m.size_bytes) for m in metas]


def stat_objects(places: Iterable[Location], options: StoreOptions | None) -> list[FoundObject]:
    """Ask for the sizes of objects, in the given order.

    Raises:
        TableError: If one does not exist; the first in order is named.
        StorageError: If the store cannot be asked.
    """
    wanted = list(places)
    stores = {url: open_store(url, options) for url in {p.store_url for p in wanted if p.scheme != "file"}}
    with ThreadPoolExecutor(max_workers=MAX_PARALLEL_REQUESTS) as pool:
        found = list(pool.map(lambda place: _stat_or_none(stores.get(place.store_url), place), wanted))
    missing = [place for place, item in zip(wanted, found, strict=True) if item is None]
    if missing:
        raise TableError(
            f"cannot use {missing[0].url} as a cell: no such object ({len(missing)} of {len(wanted)} are missing)",
            file=missing[0].url,
        )
    return [item for item in found if item is not None]


def _stat_or_none(store: Store | None, place: Location) -> FoundObject | None:
    name = place.key.rsplit("/", 1)[-1]
    if store is None:
        if not place.path.is_file():
            return None
        return FoundObject(location=place, key=name, size_bytes=place.path.stat().st_size)
    if not place.key:
        return None
    try:
        meta = store.head(place.key)
    except ObjectMissing:
        return None
    return FoundObject(location=place, key=name, size_bytes=meta.size_bytes)


@contextmanager
def datafusion_errors(describe: Callable[[str], ApiaryError]) -> Iterator[None]:
    """Turn what DataFusion raises into a typed error.

    DataFusion raises bare ``Exception``, and where its Rust side panics an exception that is none (it derives from
    ``BaseException``); both end here. This package's own errors pass through.

    Args:
        describe: Makes the error of DataFusion's words.

    Raises:
        ApiaryError: What ``describe`` returns.
    """
    try:
        yield
    except (ApiaryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise describe(without_queries(str(error))) from error


_Registered = dict[str, StoreOptions]
_REGISTERED: WeakKeyDictionary[datafusion.SessionContext, _Registered] = WeakKeyDictionary()


def register_object_store_for(
    ctx: datafusion.SessionContext, url: str | Path, options: StoreOptions | None = None
) -> None:
    """Let a session read the bucket of a URL, with the same options that the store uses.

    Does nothing for files and for a bucket that this function has registered on ``ctx`` with equal options before;
    other options (renewed credentials) replace the earlier ones for later queries.

    Args:
        ctx: The session.
        url: Any URL in the bucket.
        options: Endpoint, region and credentials; None takes them from the environment (``AWS_*`` and so on).

    Raises:
        TableError: If the URL's scheme cannot be read.
        ConfigError: If DataFusion refuses the options.
    """
    place = parse_location(url)
    if place.scheme == "file":
        return
    weaker = StoreOptions.from_env(os.environ)
    chosen = weaker if options is None else options.over(weaker)
    known = _REGISTERED.setdefault(ctx, {})
    if known.get(place.store_url) == chosen:
        return
    with datafusion_errors(lambda words: _refused(place, chosen, words)):
        ctx.register_object_store(f"{place.scheme}://", _build_store(place, chosen), place.bucket)
    known[place.store_url] = chosen


def is_registered(ctx: datafusion.SessionContext, url: str) -> bool:
    """Whether :func:`register_object_store_for` has let a session reach the bucket of a URL."""
    return any(url == known or url.startswith(f"{known}/") for known in _REGISTERED.get(ctx, {}))


def _refused(place: Location, options: StoreOptions, words: str) -> ConfigError:
    for secret in options.secrets():
        words = words.replace(secret, "***")
    return ConfigError(
        f"cannot read {place.store_url} through DataFusion: {words}. Check the credentials and the other options",
        url=place.store_url,
    )


def _build_store(place: Location, options: StoreOptions) -> Any:
    if place.scheme == "s3":
        return object_store.AmazonS3(bucket_name=place.bucket, **options.s3_kwargs())
    values = {name.lower(): value for name, value in options.provider.items()}
    if place.scheme == "gs":
        return object_store.GoogleCloud(place.bucket, **_renamed(values, _GOOGLE_NAMES))
    return object_store.MicrosoftAzure(place.bucket, **_renamed(values, _AZURE_NAMES))


_GOOGLE_NAMES = {"service_account": "service_account_path", "service_account_path": "service_account_path"}
_AZURE_NAMES = {
    "account_name": "account",
    "account_key": "access_key",
    "bearer_token": "bearer_token",
    "client_id": "client_id",
    "client_secret": "client_secret",
    "tenant_id": "tenant_id",
    "use_emulator": "use_emulator",
}
"""obstore's names of the providers' settings to DataFusion's; what DataFusion lacks comes from the environment."""


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ConfigError(
            f"DataFusion's object store takes no option {', '.join(unknown)}; it takes {', '.join(sorted(names))}, "
            "and the provider's usual environment variables"
        )
    return {names[name]: value for name, value in values.items()}
