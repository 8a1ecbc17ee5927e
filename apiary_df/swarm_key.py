"""The swarm key: the secret that processes of a swarm share beside the storage root.

What belongs here: making, checking and finding a key. What it signs is :mod:`apiary_df.protocol.seal`'s business. A key
is never written to storage, a log, an error or a command line.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from apiary_df.errors import ConfigError

KEY_VARIABLE = "APIARY_SWARM_KEY"
"""Environment variable with the key itself."""

KEY_FILE_VARIABLE = "APIARY_SWARM_KEY_FILE"
"""Environment variable with the path of a file that holds it; the key itself wins over it."""

KEY_BYTES = 32
"""Random bytes of a new key: as many as the digest that it makes has."""

MIN_KEY_CHARS = 32
"""Shortest key that is taken. Length is all that can be checked; a new key has 43 characters."""

MAX_KEY_CHARS = 4096
"""Longest key: a larger file is a slip, and is not read whole."""


def new_key() -> str:
    """Return a new random key."""
    return secrets.token_urlsafe(KEY_BYTES)


def checked_key(text: str, source: str) -> str:
    """Return a key without the white space around it.

    Args:
        text: What was given.
        source: Where it was given, for the error, which never quotes it.

    Raises:
        ConfigError: If it is too short or too long, or holds other than visible ASCII characters.
    """
    key = text.strip()
    if not MIN_KEY_CHARS <= len(key) <= MAX_KEY_CHARS:
        raise ConfigError(
            f"the swarm key {source} has {len(key)} characters; it needs {MIN_KEY_CHARS} to {MAX_KEY_CHARS}: make one "
            "with apiary key"
        )
    if not all("!" <= character <= "~" for character in key):
        raise ConfigError(
            f"the swarm key {source} holds blanks or characters that are not ASCII: make one with apiary key"
        )
    return key


def read_key_file(path: Path, source: str = "") -> str:
    """Return the key in a file.

    Args:
        path: The file.
        source: Where it was named, for the error.

    Raises:
        ConfigError: If it cannot be read, or holds no key.
    """
    named = f"in the file {path}{source}"
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(2 * MAX_KEY_CHARS)
    except OSError as error:
        raise ConfigError(f"cannot read the swarm key {named}: {error.strerror}", path=path) from error
    try:
        return checked_key(data.decode("ascii"), named)
    except UnicodeDecodeError:
        raise ConfigError(f"the swarm key {named} is no ASCII text: make one with apiary key", path=path) from None


def key_from(environ: Mapping[str, str]) -> str | None:
    """Return the key that an environment gives; None if it gives none.

    Raises:
        ConfigError: If what it gives is no key, or names no file that holds one.
    """
    if environ.get(KEY_VARIABLE, "").strip():
        return checked_key(environ[KEY_VARIABLE], f"in the environment variable {KEY_VARIABLE}")
    if environ.get(KEY_FILE_VARIABLE, "").strip():
        return read_key_file(Path(environ[KEY_FILE_VARIABLE].strip()), f" ({KEY_FILE_VARIABLE})")
    return None
