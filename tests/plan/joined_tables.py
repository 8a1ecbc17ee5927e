"""Two tables to be joined, few rows and many, in a session whose joins shuffle both sides."""

from __future__ import annotations

from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq

from plan.sample_queries import SHUFFLED

PLACES = {"few": [0, 1, 2, 3, 5], "many": [0, 1, 2, 3, 4, 6, 7] * 5}
"""Which of eight keys each row has: some that are the same, and some that the other table lacks."""

JOIN_TYPES = (
    "JOIN",
    "LEFT JOIN",
    "RIGHT JOIN",
    "FULL JOIN",
    "LEFT SEMI JOIN",
    "RIGHT SEMI JOIN",
    "LEFT ANTI JOIN",
    "RIGHT ANTI JOIN",
)
"""Joins on equal keys, as SQL has them."""


def shuffling(**options: str) -> datafusion.SessionContext:
    """Return a session of some partitions in which joins shuffle both sides."""
    settings = {"datafusion.execution.target_partitions": "3", **SHUFFLED, **options}
    return datafusion.SessionContext(datafusion.SessionConfig(settings))


def register_few_and_many(ctx: datafusion.SessionContext, keys: pa.Array, folder: Path) -> datafusion.SessionContext:
    """Write both tables in several files each, register them, and return the session.

    Args:
        ctx: The session.
        keys: The eight keys.
        folder: Where the files go.
    """
    for name, places in PLACES.items():
        (folder / name).mkdir()
        for part in range(2):
            taken = keys.take(pa.array(places[part::2]))
            rows = pa.table({"k": taken, "n": pa.array(range(len(taken)), pa.int64())})
            pq.write_table(rows, folder / name / f"{part}.parquet", row_group_size=4)
        ctx.register_parquet(name, str(folder / name))
    return ctx


def join_of_type(kind: str, many: str = "many") -> str:
    """Return a join of two of the few rows with the many, or with what is made of these."""
    columns = {"LEFT SEMI JOIN": "f.*", "LEFT ANTI JOIN": "f.*", "RIGHT SEMI JOIN": "m.*", "RIGHT ANTI JOIN": "m.*"}
    return f"SELECT {columns.get(kind, '*')} FROM (SELECT * FROM few WHERE n < 2) f {kind} {many} m ON f.k = m.k"
