"""One call that reads a file of any supported format through a session, whatever the format's own method is called.

The differences between DataFusion's ``read_parquet``, ``read_csv``, ``read_json`` and ``read_arrow`` end here.
"""

from __future__ import annotations

import pyarrow as pa
from datafusion import DataFrame, SessionContext

from apiary_df.tables.cells import CellTable

PartitionColumns = list[tuple[str, str | pa.DataType]]


def read(
    ctx: SessionContext,
    table: CellTable,
    url: str,
    *,
    schema: pa.Schema | None = None,
    partition_columns: tuple[tuple[str, pa.DataType], ...] = (),
    extension: str = "",
) -> DataFrame:
    """Return DataFusion's own scan of one URL, in a table's format.

    Args:
        ctx: The session; with a schema, it does not touch the file.
        table: Says the format and its options.
        url: A file, or a folder that DataFusion lists by itself.
        schema: Columns of the files; None infers them from the file.
        partition_columns: Columns taken from the paths below a folder.
        extension: Ending of the files to look for in a folder.

    Raises:
        Exception: DataFusion's bare one, if the schema cannot be inferred.
    """
    columns: PartitionColumns = list(partition_columns)
    if table.format == "parquet":
        return ctx.read_parquet(url, table_partition_cols=columns, file_extension=extension, schema=schema)
    if table.format == "csv":
        return ctx.read_csv(
            url,
            schema=schema,
            has_header=table.csv.has_header,
            delimiter=table.csv.delimiter,
            schema_infer_max_records=table.csv.schema_infer_max_rows,
            file_extension=extension,
            table_partition_cols=columns,
            file_compression_type=table.compression,
        )
    if table.format == "json":
        return ctx.read_json(
            url,
            schema=schema,
            file_extension=extension,
            table_partition_cols=columns,
            file_compression_type=table.compression,
        )
    return ctx.read_arrow(url, schema=schema, file_extension=extension, file_partition_cols=columns)
