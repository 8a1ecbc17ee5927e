"""Making obstore's stores: of a folder, of this process's memory, of a bucket with its options.

What belongs here: what obstore must be told to reach a place, and what its errors mean. What is asked of the place is
``store``'s business.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from threading import Lock
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
from apiary_df.store_options import StoreOptions, quote_words

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Credential

_NO_ROOT_MARKS = ("<Code>NoSuchBucket</Code>", "<Code>ContainerNotFound</Code>")
"""What S3 and Google, and Azure, say of a bucket that is not there; obstore has no error of its own for it."""

_memory_lock = Lock()
_memory_stores: dict[str, MemoryStore] = {}
"""The one state of this module: ``memory://name`` is meant to be the same store all over a process."""


def memory_store(name: str) -> MemoryStore:
    """Return this process's store in memory of a name, made when it is first asked for."""
    with _memory_lock:
        return _memory_stores.setdefault(name, MemoryStore())


def folder_store(folder: Path) -> ObjectStore:
    """Return the store of a folder, which need not be there."""
    return LocalStore(prefix=folder)


def bucket_store(scheme: str, bucket: str, path: str, options: StoreOptions) -> ObjectStore:
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


def error_class(error: BaseException, *, writing: bool) -> type[StorageError]:
    """Return the kind of what obstore, or the system, raised on a request.

    Args:
        error: What was raised.
        writing: Whether the request was to write an object.
    """
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
