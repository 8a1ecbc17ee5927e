"""Messages that no process of a swarm wrote: what tests put into a root in somebody's name."""

from __future__ import annotations

from typing import Any

import datafusion
import pyarrow as pa

from apiary_df.protocol.messages import Heartbeat, Manifest, StageEntry
from apiary_df.protocol.versions import PROTOCOL_VERSION


def heartbeat(node_id: str = "n1", **changes: Any) -> Heartbeat:
    """Return the heartbeat of a node of four bees that has nothing to do and gets work, but for some changes."""
    facts: dict[str, Any] = {
        "node_id": node_id,
        "seq": 1,
        "protocol_version": PROTOCOL_VERSION,
        "datafusion_version": datafusion.__version__,
        "apiary_version": "1",
        "hostname": "elsewhere",
        "pid": 1,
        "cores": 4,
        "memory_bytes": 4 << 30,
        "memory_per_bee": 1 << 30,
        "target_cell_size": 64 << 20,
        "bees_total": 4,
        "bees_busy": 0,
        "cached_cells": {},
        "inbox_next": 0,
        "leaving": False,
        "allow_udfs": False,
        "queries": (),
        "started_at": "",
        **changes,
    }
    return Heartbeat(**facts)


def manifest(query_id: str = "planted", stage: int = 0, schema: bytes | None = None, **changes: Any) -> Manifest:
    """Return the manifest of a query of one stage that gathers a column of numbers, but for some changes."""
    made = pa.schema([("x", pa.int64())]).serialize().to_pybytes() if schema is None else schema
    facts: dict[str, Any] = {
        "query_id": query_id,
        "coordinator": "somebody",
        "sql": None,
        "protocol_version": PROTOCOL_VERSION,
        "datafusion_version": datafusion.__version__,
        "settings": {},
        "created_at": "",
        "timeout_s": None,
        "stages": (StageEntry(stage=stage, inputs=(), output="gather", partitions=1, schema=made),),
        **changes,
    }
    return Manifest(**facts)
