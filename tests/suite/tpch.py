"""TPC-H: the 22 queries of the demo, over the generator's tables at a tiny scale."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from apiary_df.demo import tpch_queries
from apiary_df.demo.data import generate_tpch, tpch_paths

from .model import Query, Suite
from .tables import register_tables, write_table

SCALE = 0.01
"""Scale factor: 60,175 rows of lineitem."""


def read_tpch(scale: float = SCALE) -> dict[str, pa.Table]:
    """Return the generator's tables by name."""
    with tempfile.TemporaryDirectory() as raw:
        generate_tpch(Path(raw), scale)
        return {name: pq.read_table(path) for name, path in tpch_paths(Path(raw)).items()}


def _write(folder: Path) -> None:
    for name, table in read_tpch().items():
        write_table(folder, name, table)


TPCH = Suite(
    name="tpch",
    queries=tuple(Query(name=f"q{number:02}", sql=sql) for number, sql in tpch_queries().items()),
    write=_write,
    register=register_tables,
)
"""The suite."""
