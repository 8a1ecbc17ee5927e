"""How a storage root is named and reached: URLs, options, and what a store tells of objects and requests.

What belongs here: frozen values and pure functions about them. What does not: talking to a store (``store``).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import unquote, urlsplit

from apiary_df.errors import ConfigError
from apiary_df.swarm_key import KEY_VARIABLE, checked_key, key_from

KNOWN_SCHEMES = ("file", "memory", "s3", "gs", "az")
"""Schemes that a storage URL may have; a bare path is a ``file`` URL."""

MAX_WORDS_CHARS = 600
"""Longest quotation of a store's own error text."""

MIN_SECRET_CHARS = 6
"""Shorter values are not looked for in messages: they would tear ordinary words apart."""

HURRIED_CONNECT_S = 2.0
HURRIED_REQUEST_S = 4.0
HURRIED_RETRY_S = 3.0
"""Limits of requests for whose answer a person waits."""

_QUERY_STRING = re.compile(r"(https?://[^\s?]+)\?\S+")
_TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
_FALSE_WORDS = frozenset({"0", "false", "no", "off", ""})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How to reach a store. Never written to storage; secrets never show in ``repr``.

    Attributes:
        endpoint: URL of an S3 service other than AWS.
        region: S3 region; the client's default if None.
        access_key_id: S3 key id. Given together with ``secret_access_key``, or not at all.
        secret_access_key: S3 secret.
        session_token: S3 session token, if the keys are temporary.
        allow_http: Whether plain HTTP is acceptable; None means no.
        provider: Settings of Google's and Azure's stores by obstore's names (``account_name``, ...).
        swarm_key: What messages in the storage root are signed with; None: they are not signed.
        connect_timeout_s: Longest wait for a connection, in seconds.
        request_timeout_s: Longest single request, body included, in seconds.
        max_retries: Retries of a request after its first try.
        retry_timeout_s: No retry begins later than this after the first try, in seconds.
    """

    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    allow_http: bool | None = None
    provider: Mapping[str, str] = field(default_factory=dict, repr=False)
    swarm_key: str | None = field(default=None, repr=False)
    connect_timeout_s: float = 5.0
    request_timeout_s: float = 120.0
    max_retries: int = 8
    retry_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ConfigError("access_key_id and secret_access_key go together: set both, or neither")
        if self.max_retries < 0 or min(self.connect_timeout_s, self.request_timeout_s) <= 0:
            raise ConfigError("storage timeouts must be above 0 seconds and max_retries at least 0")
        if self.swarm_key is not None:
            checked_key(self.swarm_key, "in the storage options")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> StoreOptions:
        """Read the usual AWS_* variables, and the swarm key, out of a mapping such as ``os.environ``.

        Raises:
            ConfigError: AWS_ALLOW_HTTP is no boolean, only one half of the key pair is set, or the swarm key is none.
        """

        def first(*names: str) -> str | None:
            return next((environ[name] for name in names if environ.get(name)), None)

        return cls(
            endpoint=first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
            region=first("AWS_REGION", "AWS_DEFAULT_REGION"),
            access_key_id=first("AWS_ACCESS_KEY_ID"),
            secret_access_key=first("AWS_SECRET_ACCESS_KEY"),
            session_token=first("AWS_SESSION_TOKEN", "AWS_TOKEN"),
            allow_http=_boolean("AWS_ALLOW_HTTP", environ.get("AWS_ALLOW_HTTP")),
            swarm_key=key_from(environ),
        )

    def to_environ(self) -> dict[str, str]:
        """Return the variables from which :meth:`from_env` reads these options back, for a process to start with."""
        values = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_SESSION_TOKEN": self.session_token,
            "AWS_ALLOW_HTTP": None if self.allow_http is None else str(self.allow_http).lower(),
            KEY_VARIABLE: self.swarm_key,
        }
        return {name: value for name, value in values.items() if value is not None}

    def hurried(self) -> StoreOptions:
        """Return these options with limits that suit a person who waits for an answer."""
        return replace(
            self,
            connect_timeout_s=min(self.connect_timeout_s, HURRIED_CONNECT_S),
            request_timeout_s=min(self.request_timeout_s, HURRIED_REQUEST_S),
            retry_timeout_s=min(self.retry_timeout_s, HURRIED_RETRY_S),
            max_retries=min(self.max_retries, 1),
        )

    def over(self, weaker: StoreOptions) -> StoreOptions:
        """Return these options, with what is unset taken from weaker ones.

        The three credentials go as one: a session token of the environment never joins explicit keys.
        """
        taken: dict[str, Any] = {}
        for name in ("endpoint", "region", "allow_http", "swarm_key"):
            if getattr(self, name) is None:
                taken[name] = getattr(weaker, name)
        if self.access_key_id is None:
            for name in ("access_key_id", "secret_access_key", "session_token"):
                taken[name] = getattr(weaker, name)
        return replace(self, provider={**weaker.provider, **self.provider}, **taken)

    def s3_kwargs(self) -> dict[str, Any]:
        """Return the S3 values that are set, under the names that S3 clients commonly give them."""
        names = ("region", "access_key_id", "secret_access_key", "session_token", "endpoint", "allow_http")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def secrets(self) -> tuple[str, ...]:
        """Return every value that must not show in a message."""
        own = (self.access_key_id, self.secret_access_key, self.session_token, self.swarm_key)
        return tuple(value for value in (*own, *self.provider.values()) if value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectMeta:
    """What a store says about an object.

    Attributes:
        key: Key below the store's root.
        size_bytes: Length of the object.
        last_modified: When it was written, by the store's clock.
        e_tag: The store's mark of this version, or None if it gives none.
    """

    key: str
    size_bytes: int
    last_modified: datetime
    e_tag: str | None


@dataclass(slots=True)
class RequestCounts:
    """Requests and bytes since a store was opened. Safe to use from several threads.

    ``get``, ``put``, ``list`` and ``head`` count requests as a store bills them, retries aside; ``delete``
    counts keys; ``hedged`` counts those reads that were second requests for what a first one did not bring in time;
    ``bytes_in`` and ``bytes_out`` count object bytes read and written.

    Attributes:
        whole: Counts that these are a part of: what is added here is added there.
    """

    get: int = 0
    put: int = 0
    list: int = 0
    delete: int = 0
    head: int = 0
    hedged: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    whole: RequestCounts | None = field(default=None, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def add(self, **amounts: int) -> None:
        """Add to the named counters."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)
        if self.whole is not None:
            self.whole.add(**amounts)

    def snapshot(self) -> dict[str, int]:
        """Return all counters at one moment, by name."""
        with self._lock:
            return {f.name: getattr(self, f.name) for f in fields(self) if f.compare}


REMEMBERED_REFUSALS = 4_096
"""Refused objects that are known again: looked at anew all the time, one must not be counted each time."""


@dataclass(slots=True)
class RefusalCounts:
    """How many objects were refused, by reason. Safe to use from several threads."""

    _counts: dict[str, int] = field(default_factory=dict)
    _seen: OrderedDict[tuple[str, object], None] = field(default_factory=OrderedDict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def add(self, reason: str, mark: object = None) -> int:
        """Count a refusal.

        Args:
            reason: Why.
            mark: What is the same if it is the same object again; None: it is always another.

        Returns:
            The number of refusals for this reason with it; 0 if it was counted before.
        """
        with self._lock:
            if mark is not None:
                if (reason, mark) in self._seen:
                    return 0
                self._seen[reason, mark] = None
                if len(self._seen) > REMEMBERED_REFUSALS:
                    self._seen.popitem(last=False)
            self._counts[reason] = self._counts.get(reason, 0) + 1
            return self._counts[reason]

    def snapshot(self) -> dict[str, int]:
        """Return all counters at one moment, by reason."""
        with self._lock:
            return dict(sorted(self._counts.items()))


def without_queries(text: str) -> str:
    """Return a text without what comes after the ``?`` of URLs, where some stores' signatures are."""
    return _QUERY_STRING.sub(r"\1?...", text)


def quote_words(error: BaseException, hidden: Iterable[str]) -> str:
    """Return a store's error text on one line, without debug dump, signed URLs or secrets."""
    text = " ".join(str(error).split("\n\nDebug source")[0].split())
    text = without_queries(text)
    for secret in hidden:
        if len(secret) >= MIN_SECRET_CHARS:
            text = text.replace(secret, "***")
    return text if len(text) <= MAX_WORDS_CHARS else text[:MAX_WORDS_CHARS] + " ..."


def split_url(url: str) -> tuple[str, str, str]:
    """Return scheme, bucket (or name) and path of a storage URL; the path of a folder is absolute."""
    if "://" not in url:
        if not url.strip():
            raise ConfigError("the storage URL is empty; give a folder, or one of " + _schemes())
        return "file", "", str(Path(url).expanduser().absolute())
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            f"a storage URL of scheme {parts.scheme!r} carries credentials or a query; give credentials by "
            "environment variables or options instead"
        )
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise ConfigError(f"{url!r} is not a folder's URL: write file:///absolute/path")
        return "file", "", unquote(parts.path)
    if parts.scheme not in KNOWN_SCHEMES:
        raise ConfigError(f"unknown scheme {parts.scheme!r} in the storage URL {url!r}; known are {_schemes()}")
    if not parts.netloc and parts.scheme != "memory":
        raise ConfigError(f"{url!r} names no bucket: write {parts.scheme}://bucket/prefix")
    path = parts.path.strip("/")
    if any(part in ("", ".", "..") for part in path.split("/")) and path:
        raise ConfigError(f"{url!r}: the prefix needs segments with single slashes between")
    return parts.scheme, parts.netloc, path


def _schemes() -> str:
    return ", ".join(f"{scheme}://" for scheme in KNOWN_SCHEMES) + " and bare paths"


def first_segments(pages: Iterable[Sequence[str]], beginning: str) -> tuple[str, ...]:
    """Return the first segments of keys that begin in a certain way, sorted; of pages in order no more than it takes.

    Args:
        pages: Keys, a page at a time, from the first on that may begin so.
        beginning: How they begin.
    """
    names: set[str] = set()
    for keys in pages:
        names.update(key.split("/", 1)[0] for key in keys if key.startswith(beginning))
        if keys and max(keys) > beginning and not max(keys).startswith(beginning):
            break
    return tuple(sorted(names))


def join_url(*parts: str) -> str:
    """Join the parts that are not empty by slashes."""
    return "/".join(part for part in parts if part)


def _boolean(name: str, word: str | None) -> bool | None:
    if word is None:
        return None
    if word.strip().lower() in _TRUE_WORDS:
        return True
    if word.strip().lower() in _FALSE_WORDS:
        return False
    raise ConfigError(f"{name}={word!r} is neither true nor false")
