"""apiary_df: a distributed SQL engine made of Apache DataFusion and an object store, and nothing else.

The names below are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from apiary_df.version import __version__

if TYPE_CHECKING:
    from apiary_df.config import Settings
    from apiary_df.dataframe import DataFrame
    from apiary_df.errors import ApiaryError
    from apiary_df.model import CellInfo, NodeInfo, NodeState
    from apiary_df.report import AttemptReport, QueryReport, Verification
    from apiary_df.session import SessionContext
    from apiary_df.store_options import StoreOptions
    from apiary_df.swarm import LocalSwarm
    from apiary_df.tables import CellTable
    from apiary_df.writers import DataFrameWriteOptions

_EXPORTS = {
    "ApiaryError": "errors",
    "AttemptReport": "report",
    "CellInfo": "model",
    "CellTable": "tables",
    "DataFrame": "dataframe",
    "DataFrameWriteOptions": "writers",
    "LocalSwarm": "swarm",
    "NodeInfo": "model",
    "NodeState": "model",
    "QueryReport": "report",
    "SessionContext": "session",
    "Settings": "config",
    "StoreOptions": "store_options",
    "Verification": "report",
}

__all__ = [
    "ApiaryError",
    "AttemptReport",
    "CellInfo",
    "CellTable",
    "DataFrame",
    "DataFrameWriteOptions",
    "LocalSwarm",
    "NodeInfo",
    "NodeState",
    "QueryReport",
    "SessionContext",
    "Settings",
    "StoreOptions",
    "Verification",
    "__version__",
]

_PURGE_VARIABLE = "MIMALLOC_PURGE_DELAY"

_KEPT_MS = "1000"
"""How long DataFusion's allocator keeps freed memory in a session's process, for what is left of the next query. By
default it gives it back after 10 ms, and getting fresh pages is much of the work where there are a few megabytes."""

logging.getLogger("apiary_df").addHandler(logging.NullHandler())


def _load_datafusion() -> None:
    """Load DataFusion, whose allocator looks at the environment while it is loaded; that stays as it was."""
    if _PURGE_VARIABLE in os.environ or "datafusion" in sys.modules:
        return
    os.environ[_PURGE_VARIABLE] = _KEPT_MS
    try:
        importlib.import_module("datafusion")
    finally:
        del os.environ[_PURGE_VARIABLE]


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'apiary_df' has no attribute {name!r}")
    if module == _EXPORTS["SessionContext"]:
        _load_datafusion()
    return getattr(importlib.import_module(f"apiary_df.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
