"""From a cell table to a DataFusion DataFrame or view.

Two forms of scan, of which the plan shows one:

* *Listed*: one logical file scan over exactly the cells' URLs. Partition values cannot come from the paths then, so
  cells are grouped by their values, each group is a scan with the values as literal columns, and the table is their
  ``UNION ALL``. A filter on a partition column folds to a constant per branch, and branches that are false vanish
  before anything is read.
* *Native*: DataFusion's own partitioned listing of a Hive tree, one compact scan however many partitions there are.
  It is chosen only after its plan was seen to hold the very files of the table, with their sizes: DataFusion
  remembers listings for as long as the session lives, and prunes by the spelling of directories, and both can lose
  rows.

Listing objects belongs to :mod:`apiary_df.objects`, schemas to :mod:`apiary_df.tables.schemas`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from datafusion import DataFrame, SessionContext, lit
from datafusion.plan import LogicalPlan

from apiary_df.errors import TableError
from apiary_df.model import CellInfo
from apiary_df.objects import datafusion_errors, parse_location, register_object_store_for
from apiary_df.plan import codec, listing
from apiary_df.tables.cells import CellTable
from apiary_df.tables.hive import HIVE_NULL, PartitionValues, is_canonical
from apiary_df.tables.readers import read
from apiary_df.tables.schemas import infer_schema


def to_dataframe(ctx: SessionContext, table: CellTable) -> DataFrame:
    """Return a DataFrame that scans a cell table.

    Args:
        ctx: Any DataFusion session; the cells' buckets are registered on it.
        table: The table. Up to 64 of its files are opened, unless it is CSV or JSON with a declared schema.

    Returns:
        A lazy DataFrame: the files' columns, then the partition columns.

    Raises:
        TableError: If a file cannot be read, or files do not fit into one table.
        StorageError: If the store cannot be asked.
        ConfigError: If DataFusion refuses the store's options.
    """
    for bucket in {parse_location(cell.storage_key).store_url for cell in table.cells}:
        register_object_store_for(ctx, bucket + "/", table.options)
    schema = infer_schema(ctx, table)
    first = table.cells[0].storage_key
    with datafusion_errors(lambda words: TableError(f"cannot make a table of {first} and others: {words}", file=first)):
        return _native_scan(ctx, table, schema) or _listed_scan(ctx, table, schema)


def register(ctx: SessionContext, name: str, table: CellTable) -> None:
    """Register a cell table under a name, for SQL.

    Args:
        ctx: Any DataFusion session.
        name: Table name, optionally qualified (``catalog.schema.table``), quoted as in SQL.
        table: The table.

    Raises:
        TableError: As :func:`to_dataframe`, or if the name is taken.
        StorageError: If the store cannot be asked.
        ConfigError: If DataFusion refuses the store's options.
    """
    view = to_dataframe(ctx, table).into_view()
    with datafusion_errors(lambda words: TableError(f"cannot register the table {name}: {words}", table=name)):
        ctx.register_table(name, view)


def _listed_scan(ctx: SessionContext, table: CellTable, schema: pa.Schema) -> DataFrame:
    template = read(ctx, table, table.cells[0].storage_key, schema=schema).logical_plan().to_bytes(ctx)
    # One scan reads one store: DataFusion looks all of a scan's files up in the store of the first.
    groups: dict[tuple[str, PartitionValues], list[str]] = {}
    for cell in table.cells:
        store_url = parse_location(cell.storage_key).store_url
        groups.setdefault((store_url, cell.partition), []).append(cell.storage_key)
    types = dict(table.partition_columns)
    branches = []
    for (_, values), urls in groups.items():
        plan = LogicalPlan.from_bytes(ctx, listing.with_paths(template, urls))
        branch = ctx.create_dataframe_from_logical_plan(plan)
        for name, text in values:
            branch = branch.with_column(name, lit(None if text == HIVE_NULL else text).cast(types[name]))
        branches.append(branch)
    return _union(branches)


def _union(branches: Sequence[DataFrame]) -> DataFrame:
    # Halving keeps the plan's depth logarithmic: a chain of a thousand unions would exhaust DataFusion's stack.
    if len(branches) == 1:
        return branches[0]
    middle = len(branches) // 2
    return _union(branches[:middle]).union(_union(branches[middle:]))


def _native_scan(ctx: SessionContext, table: CellTable, schema: pa.Schema) -> DataFrame | None:
    """Return DataFusion's own scan of a Hive tree, or None if it cannot be shown to read the same."""
    types = dict(table.partition_columns)
    if table.root is None or set(types) & set(schema.names):
        return None
    if not all(is_canonical(text, types[name]) for cell in table.cells for name, text in cell.partition):
        return None
    frame = read(
        ctx,
        table,
        table.root,
        schema=schema,
        partition_columns=table.partition_columns,
        extension=table.extension,
    )
    seen = _scanned_files(frame, ctx)
    return frame if seen == _expected_files(table.cells) else None


def _scanned_files(frame: DataFrame, ctx: SessionContext) -> dict[str, int]:
    plan = codec.decode(frame.execution_plan().to_bytes(ctx))
    scans = [node for node in plan.walk() if node.is_file_scan]
    return {file.path: file.size_bytes for node in scans for group in codec.scan_groups(node) for file in group}


def _expected_files(cells: Sequence[CellInfo]) -> dict[str, int]:
    return {parse_location(cell.storage_key).key: cell.bytes for cell in cells if cell.bytes}
