"""apiary_df: a distributed SQL engine made of Apache DataFusion and an object store, and nothing else.

The names below are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
import logging
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

logging.getLogger("apiary_df").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'apiary_df' has no attribute {name!r}")
    return getattr(importlib.import_module(f"apiary_df.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
