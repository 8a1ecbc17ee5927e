"""Where a node may read cells and write files: below its allowed roots, and nowhere else.

A place is a scheme, a bucket and the segments of a path, so ``/data-secret`` is not below ``/data``, nor ``s3://b/x``
in ``s3://B``. A path that could be read as leading elsewhere (dots, an escaped slash, another host) is no place at all.

What belongs here: rules about places, as values, and following a folder's links. Which plans and which writes are held
to them is their users' business.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

from apiary_df.errors import ConfigError

FILE = "file"
SCHEMES = (FILE, "s3", "gs", "az", "memory")
"""Schemes of roots. ``memory`` is a swarm's own root only: no table lies there."""

ALL_BUCKETS = ("s3://", "gs://", "az://")
"""Every bucket that a node's credentials open."""

ALL_FILES = "file:///"
EVERYTHING = (ALL_FILES, *ALL_BUCKETS)
"""All that a node's user may read and write."""

_MOST_ESCAPES = 4
"""Times that a path is unescaped to see what else it may mean; one that still changes is refused."""

Resolve = Callable[[str], str]
"""Follows the links of an absolute path, as :func:`os.path.realpath`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A file or a folder, an object or a prefix of a bucket.

    Attributes:
        scheme: ``file``, ``s3``, ``gs``, ``az`` or ``memory``.
        bucket: The bucket; empty for files, and for all buckets.
        parts: Segments of the path, as they are, not escaped.
    """

    scheme: str
    bucket: str
    parts: tuple[str, ...]

    @property
    def url(self) -> str:
        """Its percent-encoded URL."""
        return f"{self.scheme}://{self.bucket}/{quote('/'.join(self.parts))}" if self.bucket or self.parts else self.top

    @property
    def top(self) -> str:
        """The URL of all that has its scheme."""
        return ALL_FILES if self.scheme == FILE else f"{self.scheme}://"

    @property
    def parent(self) -> Place:
        """The folder that it is in; itself if it is in none."""
        return Place(scheme=self.scheme, bucket=self.bucket, parts=self.parts[:-1])

    @property
    def path(self) -> str:
        """Its absolute path; only of files."""
        return "/" + "/".join(self.parts)

    def holds(self, other: Place) -> bool:
        """Whether another place is this one or below it."""
        if self.scheme != other.scheme:
            return False
        if self.scheme != FILE and not self.bucket:
            return True
        return self.bucket == other.bucket and other.parts[: len(self.parts)] == self.parts


def place_of_url(url: str) -> Place | None:
    """Return the place of a percent-encoded URL; None if it has none that is sure."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return None
    bucket, _, path = rest.partition("/")
    return _place(scheme.lower(), bucket, unquote(path))


def place_of_file(store_url: str, path: str) -> Place | None:
    """Return the place of a file in a plan: the URL of its store, and its path there, which is not escaped."""
    scheme, separator, rest = store_url.partition("://")
    bucket, _, above = rest.partition("/")
    if not separator or above:
        return None
    return _place(scheme.lower(), bucket, path)


def _place(scheme: str, bucket: str, path: str) -> Place | None:
    if scheme not in SCHEMES:
        return None
    if scheme == FILE:
        if bucket not in ("", "localhost"):
            return None
        bucket = ""
    elif any(sign in bucket for sign in "%@:?#\\"):
        return None
    if not bucket and scheme not in (FILE, "memory") and path.strip("/"):
        return None
    parts = _segments(path)
    if parts is None or not _stays(path, len(parts)):
        return None
    return Place(scheme=scheme, bucket=bucket, parts=parts)


def _segments(path: str) -> tuple[str, ...] | None:
    """Return the segments of a path; None if some are not plain names."""
    stripped = path.strip("/")
    parts = tuple(stripped.split("/")) if stripped else ()
    return None if "\0" in path or any(part in ("", ".", "..") for part in parts) else parts


def _stays(path: str, segments: int) -> bool:
    """Whether a path still has so many plain segments if whoever reads it undoes escapes, however often."""
    for _ in range(_MOST_ESCAPES):
        plain = unquote(path)
        if plain == path:
            return True
        parts = _segments(plain)
        if parts is None or len(parts) != segments:
            return False
        path = plain
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """The roots below which something is allowed.

    Attributes:
        urls: As they are announced: percent-encoded.
        places: The same as places.
    """

    urls: tuple[str, ...]
    places: tuple[Place, ...]

    @staticmethod
    def announced(urls: Iterable[str]) -> Roots:
        """Return the roots that a node's heartbeat names; what is no root among them allows nothing."""
        known = {url: place for url in urls if (place := place_of_url(url)) is not None}
        return Roots(urls=tuple(known), places=tuple(known.values()))

    def allow(self, place: Place | None) -> bool:
        """Whether a place is below a root. Links are not followed; None, what has no sure place, is not."""
        return place is not None and any(root.holds(place) for root in self.places)

    def allow_here(self, place: Place | None, resolve: Resolve = os.path.realpath) -> bool:
        """As :meth:`allow`, on the machine that is to read or write there: a link must not lead out of the roots.

        Args:
            place: The place; it need not exist yet.
            resolve: Follows links.
        """
        if place is None or not self.allow(place):
            return False
        if place.scheme != FILE or ALL_FILES in self.urls:
            return True
        return self.allow(Place(scheme=FILE, bucket="", parts=_segments(resolve(place.path)) or ()))


ANYWHERE = Roots.announced(EVERYTHING)
"""Allows everything."""


def roots_of(texts: Iterable[str], resolve: Resolve = os.path.realpath) -> Roots:
    """Return the roots that people named; folders also by where their links lead.

    Args:
        texts: Paths, and URLs: ``/data``, ``s3://bucket/prefix``, ``s3://`` for all buckets.
        resolve: Follows links.

    Raises:
        ConfigError: If one is no root.
    """
    urls: dict[str, None] = {}
    for text in texts:
        place = _named(text)
        urls[place.url] = None
        if place.scheme == FILE:
            urls[Place(scheme=FILE, bucket="", parts=_segments(resolve(place.path)) or ()).url] = None
    return Roots.announced(urls)


def _named(text: str) -> Place:
    place = None
    if "://" in text:
        place = place_of_url(text)
    elif text.strip():
        path = os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111 - as named, links and all
        place = Place(scheme=FILE, bucket="", parts=_segments(path) or ())
    if place is None:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES if scheme != "memory")
        raise ConfigError(
            f"the allowed root {text!r} is no place: name a folder's path, or a URL that begins with {known}", root=text
        )
    return place


def split_roots(text: str) -> tuple[str, ...]:
    """Return the roots in a setting: paths and URLs with commas between."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def roots_for_session(root_url: str, setting: str | None) -> Roots:
    """Return where nodes that a session starts may read and write.

    Args:
        root_url: The swarm's root, which is always among them.
        setting: The setting ``allow_roots``. None: all that this user may, if the root is a folder; on a bucket, which
            others may write to who have no business on this machine, every bucket and no files.

    Raises:
        ConfigError: If one is no root.
    """
    if setting is not None:
        return roots_of((root_url, *split_roots(setting)))
    if root_url.startswith(("file:", "memory:")):
        return ANYWHERE
    return roots_of((root_url, *ALL_BUCKETS))
