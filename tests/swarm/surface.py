"""Two small tables of many types in several files each, and both ways to ask about them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq

from apiary_df import SessionContext
from apiary_df.testing import compare_tables
from swarm.helpers import FORCED

ROWS = 240
FILES = 3

DIGITS = 12
"""Digits that floats must share: variances and the like are put together from parts."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("g", pa.string(), metadata={"about": "a group"}),
        ("i", pa.int64()),
        ("x", pa.float64()),
        ("s", pa.string()),
        ("b", pa.bool_()),
        ("ts", pa.timestamp("us")),
        ("dec", pa.decimal128(12, 2)),
        ("bin", pa.binary()),
        ("l", pa.list_(pa.int64())),
        ("w", pa.list_(pa.float64())),
        ("ll", pa.list_(pa.list_(pa.int64()))),
        ("m", pa.map_(pa.string(), pa.int64())),
        ("st", pa.struct([("a", pa.int64()), ("b", pa.string())])),
    ],
    metadata={"made": "for tests"},
)


def _row(n: int) -> dict[str, Any]:
    none = n % 11 == 0
    return {
        "id": n,
        "g": None if n % 13 == 0 else "abc"[n % 3],
        "i": None if none else n % 17 + 1,
        "x": None if none else (n % 31) / 32,
        "s": None if n % 7 == 0 else ("", "ab", "Banana", "a,b", "x y")[n % 5],
        "b": None if none else n % 2 == 0,
        "ts": None if none else datetime(2024, 1, 1) + timedelta(hours=31 * n, microseconds=n),
        "dec": None if none else Decimal(n * 7) / 4,
        "bin": None if none else bytes([97 + n % 5]),
        "l": (None if none else [], [n % 3, 2, None], [n % 5, n % 5 + 1])[n % 3],
        "w": None if none else [1.0 + n % 3, 2.0],
        "ll": None if none else [[n % 3], [], [4, 5]],
        "m": None if none else [("k", n), ("j", n % 2)],
        "st": None if none else {"a": n, "b": "v" * (n % 3)},
    }


def write_tables(folder: Path) -> dict[str, Path]:
    """Write the tables and return their folders: ``t``, ``u`` (other keys, some repeated), and both empty."""
    t = pa.Table.from_pylist([_row(n) for n in range(ROWS)], schema=SCHEMA)
    # The same metadata as of t: of a union, plain DataFusion's answer has those of whichever batch came first.
    values = {"k": [n // 2 * 3 for n in range(ROWS)], "v": [None if n % 9 == 0 else n % 23 for n in range(ROWS)]}
    u = pa.table(values, metadata=SCHEMA.metadata)
    found = {}
    for name, table in {"t": t, "u": u, "nothing": t.slice(0, 0), "no_u": u.slice(0, 0)}.items():
        found[name] = folder / name
        found[name].mkdir()
        step = max(1, len(table) // FILES)
        for part in range(FILES if len(table) else 1):
            rows = table.slice(part * step, step if part < FILES - 1 else len(table))
            pq.write_table(rows, found[name] / f"{part}.parquet")
    return found


def register(ctx: datafusion.SessionContext, tables: dict[str, Path]) -> None:
    """Register the tables."""
    for name, path in tables.items():
        ctx.register_parquet(name, str(path), skip_metadata=False)


@contextlib.contextmanager
def open_both(storage: str, tables: dict[str, Path]) -> Iterator[tuple[SessionContext, datafusion.SessionContext]]:
    """Open a session on a swarm and a plain one with these tables."""
    config = {"datafusion.catalog.information_schema": "true"}
    plain = datafusion.SessionContext(datafusion.SessionConfig(config))
    register(plain, tables)
    with SessionContext(datafusion.SessionConfig(config), storage=storage, **FORCED) as ctx:
        register(ctx, tables)
        yield ctx, plain


def check_both(
    make: Callable[[Any], Any],
    ctx: SessionContext,
    plain: datafusion.SessionContext,
    *,
    ordered: bool = False,
    distributed: bool | None = True,
) -> pa.Table:
    """Ask the same of both, compare rows, order if it is fixed, and the whole schema; return the swarm's answer.

    Args:
        make: Takes a session and returns a DataFrame.
        ctx: The session on the swarm.
        plain: Plain DataFusion.
        ordered: Whether the question fixes the order.
        distributed: Whether the swarm must have run it (True), must not have (False), or either.
    """
    expected = make(plain).to_arrow_table()
    actual = make(ctx).to_arrow_table()
    assert actual.schema.equals(expected.schema, check_metadata=True), f"{actual.schema} is not {expected.schema}"
    if len(set(expected.column_names)) < expected.num_columns:
        names = [f"{n}:{name}" for n, name in enumerate(expected.column_names)]
        expected, actual = expected.rename_columns(names), actual.rename_columns(names)
    difference = compare_tables(expected, actual, ordered=ordered, significant_digits=DIGITS)
    assert difference is None, str(difference)
    report = ctx.last_query
    assert report is not None
    if distributed is not None:
        assert report.distributed == distributed, report.reason
    return actual
