"""A query as it is handed to the swarm, and the ids of queries."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from apiary_df.plan.functions import PythonFunction
from apiary_df.plan.stages import StageGraph
from apiary_df.roots import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query that was planned for the swarm.

    Attributes:
        sql: Its text, for reports; None if it came as a DataFrame.
        graph: Its stages.
        settings: DataFusion options under which every task runs.
        schema: Gives the schema of the result; asked once, while nodes are at work: DataFusion takes its time for it.
        reason: Why it is distributed.
        functions: The Python functions that its tasks run: only nodes that allow them are given any.
        places: What its tasks read and write: only nodes that may are given any.
    """

    sql: str | None
    graph: StageGraph
    settings: Mapping[str, str]
    schema: Callable[[], pa.Schema]
    reason: str
    functions: tuple[PythonFunction, ...] = ()
    places: frozenset[Place | None] = frozenset()


def new_query_id() -> str:
    """Return a new query id; ids sort by time of start."""
    return f"q{int(time.time() * 1000):011x}-{secrets.token_hex(4)}"
