"""The versions that two sides of the protocol compare before one gives the other work."""

from __future__ import annotations

import sys

import datafusion

from apiary_df.errors import VersionMismatch
from apiary_df.version import __version__

PROTOCOL_VERSION = 3
"""Version of keys, messages and partials; raised by every change that an older peer would misread."""


def apiary_version() -> str:
    """Return this package's version."""
    return __version__


def datafusion_version() -> str:
    """Return the version of DataFusion in this process."""
    return str(datafusion.__version__)


def python_version() -> str:
    """Return the version of Python in this process, as far as pickled functions depend on it: ``3.11``."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def difference(protocol_version: int, datafusion_version: str) -> str | None:
    """Return in what a peer's versions differ from this side's; None if it can be worked with.

    Plans are only exchanged between equal DataFusion versions: their format and their functions' behaviour change
    without notice.
    """
    if protocol_version != PROTOCOL_VERSION:
        return f"it speaks protocol {protocol_version}, this side {PROTOCOL_VERSION}"
    if datafusion_version != datafusion.__version__:
        return f"it runs DataFusion {datafusion_version}, this side {datafusion.__version__}"
    return None


def check(protocol_version: int, datafusion_version: str, who: str) -> None:
    """Check a peer's versions.

    Raises:
        VersionMismatch: If they differ from this side's.
    """
    differs = difference(protocol_version, datafusion_version)
    if differs is not None:
        raise VersionMismatch(f"{who} cannot be worked with: {differs}; run the same versions on all nodes")
