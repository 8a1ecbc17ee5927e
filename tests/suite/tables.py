"""Writing and registering Parquet tables of many small cells."""

from __future__ import annotations

from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq

FILES = 8
"""Files of a table that is to be shared out."""

ROW_GROUPS = 8
"""Row groups of each of them: with eight files, as many cells as sixteen bees are given at most."""

ONE_CELL_ROWS = 100
"""Tables of fewer rows are one file of one row group, as small tables are."""


def write_table(folder: Path, name: str, table: pa.Table, files: int = FILES) -> None:
    """Write a table as a folder of Parquet files, each of a few small row groups; a tiny one as a single cell."""
    (folder / name).mkdir()
    files = 1 if table.num_rows < ONE_CELL_ROWS else files
    step = max(1, -(-table.num_rows // files))
    groups = 1 if files == 1 else ROW_GROUPS
    for number in range(files):
        part = table.slice(number * step, step)
        pq.write_table(part, folder / name / f"{number:02}.parquet", row_group_size=max(1, -(-part.num_rows // groups)))


def register_tables(session: datafusion.SessionContext, folder: Path) -> None:
    """Register each sub-folder as the Parquet table of its name."""
    for table in sorted(folder.iterdir()):
        if table.is_dir():
            session.register_parquet(table.name, str(table))
