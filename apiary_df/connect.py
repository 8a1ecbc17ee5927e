"""Making obstore's stores: of a folder, of this process's memory, of a bucket with its options.

What belongs here: what obstore must be told to reach a place, and what its errors mean. What is asked of the place is
``store``'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any

from obstore import exceptions as obstore_errors
from obstore.store import AzureStore, GCSStore, LocalStore, MemoryStore, S3Store

from apiary_df.errors import (
    ConfigError,
    ObjectExists,
    ObjectMissing,
    StorageError,
    StorageTransient,
    StorageUnreachable,
)
from apiary_df.store_options import StoreOptions, join_url, quote_words, split_url

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Credential

_NO_ROOT_MARKS = ("<Code>NoSuchBucket</Code>", "<Code>ContainerNotFound</Code>")
"""What S3 and Google, and Azure, say of a bucket that is not there; obstore has no error of its own for it."""

_PANICS_OF = "pyo3_runtime"
"""Module of the exception that a panic of native code becomes: no :class:`Exception`, and without a public name."""

_memory_lock = Lock()
_memory_stores: dict[str, MemoryStore] = {}
"""The one state of this module: ``memory://name`` is meant to be the same store all over a process."""

MEMORY_REQUESTS = RLock()
"""Held during every request to a store in memory, one at a time.

obstore's put drops what it replaces while it holds the store's own lock, and needs the interpreter's lock for that,
since the bytes are Python's; its list waits for the store's lock while it holds the interpreter's. Two threads would
wait for ever.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a storage root is.

    Attributes:
        url: The root as a URL, without secrets.
        connect: Makes obstore's client for it, given options; no request is made.
        folder: The folder, if it is one.
        key_prefix: What the client's keys have in front of the root's; empty if the client itself adds it.
    """

    url: str
    connect: Callable[[StoreOptions], ObjectStore]
    folder: Path | None = None
    key_prefix: str = ""


def site_at(url: str, options: StoreOptions) -> Site:
    """Return the site that a URL names, whether anything is there or not.

    Args:
        url: See :func:`apiary_df.store.open_store`.
        options: The effective options.

    Raises:
        ConfigError: The scheme is unknown, the URL is malformed, or plain HTTP is not allowed.
    """
    scheme, bucket, path = split_url(url)
    if scheme == "file":
        folder = Path(path)
        return Site(url=folder.as_uri(), connect=lambda _: LocalStore(prefix=folder), folder=folder)
    if scheme == "memory":
        return Site(
            url="memory://" + join_url(bucket, path),  # with both slashes even without a name, or it is a path
            connect=lambda _: _memory_store(bucket),
            key_prefix=path,
        )
    if scheme == "s3" and (options.endpoint or "").startswith("http://") and not options.allow_http:
        raise ConfigError(
            f"the S3 endpoint {options.endpoint!r} is plain HTTP, which is refused unless it is allowed: "
            "set AWS_ALLOW_HTTP=true, or allow_http in the options"
        )
    return Site(
        url=join_url(f"{scheme}:/", bucket, path), connect=lambda given: _bucket_store(scheme, bucket, path, given)
    )


def _memory_store(name: str) -> MemoryStore:
    """Return this process's store in memory of a name, made when it is first asked for."""
    with _memory_lock:
        return _memory_stores.setdefault(name, MemoryStore())


def _bucket_store(scheme: str, bucket: str, path: str, options: StoreOptions) -> ObjectStore:
    """Return the store of a bucket. No request is made.

    Args:
        scheme: ``s3``, ``gs`` or ``az``.
        bucket: Name of the bucket or container.
        path: Prefix of all keys.
        options: Credentials, endpoint, limits of a request and its retries.

    Raises:
        ConfigError: The options do not fit each other or the scheme.
    """
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=options.connect_timeout_s),
        "timeout": timedelta(seconds=options.request_timeout_s),
        "allow_http": bool(options.allow_http),
    }
    retry: RetryConfig = {
        "max_retries": options.max_retries,
        "retry_timeout": timedelta(seconds=options.retry_timeout_s),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        },
    }
    shared: dict[str, Any] = {"prefix": path or None, "client_options": client, "retry_config": retry}
    provider: dict[str, Any] = dict(options.provider)
    try:
        if scheme == "gs":
            return GCSStore(bucket, **shared, **provider)
        if scheme == "az":
            return AzureStore(bucket, **shared, **provider)
        return S3Store(bucket, **shared, **_s3_config(options))
    except (obstore_errors.BaseError, ValueError, TypeError) as error:
        words = quote_words(error, options.secrets())
        raise ConfigError(f"{scheme}://{bucket} cannot be set up with the given options: {words}") from None


def _s3_config(options: StoreOptions) -> dict[str, Any]:
    config = {key: value for key, value in options.s3_kwargs().items() if key in ("region", "endpoint")}
    if options.access_key_id is None or options.secret_access_key is None:
        return config
    credential: S3Credential = {
        "access_key_id": options.access_key_id,
        "secret_access_key": options.secret_access_key,
        "token": options.session_token,
        "expires_at": None,
    }
    # As plain arguments they would be joined by whatever token the process's environment holds.
    return {**config, "credential_provider": lambda: credential}


def request_error(error: BaseException, verb: str, key: str, url: str, options: StoreOptions) -> StorageError | None:
    """Return what obstore, or the system, raised on a request as an error of ours, with the store's own words.

    Args:
        error: What was raised.
        verb: What the request was to do: ``write``, or another word for what does not write an object.
        key: To which object.
        url: Of which root.
        options: Where the secrets are that must not be quoted.

    Returns:
        The error to raise, or None if this one has nothing to do with the request.
    """
    doing = f"{verb} {key!r} in {url}"
    if isinstance(error, (obstore_errors.BaseError, OSError, ValueError, NotImplementedError)):
        kind = _error_class(error, writing=verb == "write")
        return kind(f"{doing}: {quote_words(error, options.secrets())}", key=key)
    if type(error).__module__ == _PANICS_OF:
        return StorageTransient(f"{doing}: obstore panicked: {quote_words(error, options.secrets())}", key=key)
    return None


def _error_class(error: BaseException, *, writing: bool) -> type[StorageError]:
    if any(mark in str(error) for mark in _NO_ROOT_MARKS):
        return StorageUnreachable
    if isinstance(error, (FileNotFoundError, obstore_errors.NotFoundError)):
        # A write misses no key: what is missing is the bucket, or the file to be written.
        return StorageUnreachable if writing else ObjectMissing
    if isinstance(error, (FileExistsError, obstore_errors.AlreadyExistsError)):
        return ObjectExists
    permanent = (
        PermissionError,
        NotADirectoryError,
        ValueError,
        NotImplementedError,
        obstore_errors.PermissionDeniedError,
        obstore_errors.UnauthenticatedError,
        obstore_errors.InvalidPathError,
        obstore_errors.NotSupportedError,
        obstore_errors.PreconditionError,
        obstore_errors.UnknownConfigurationKeyError,
    )
    return StorageError if isinstance(error, permanent) else StorageTransient
