"""What DataFrame writers are told, as options of a COPY statement.

What belongs here: the arguments of ``write_parquet``, ``write_csv`` and ``write_json``. Running the statement is the
session's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datafusion
from datafusion.dataframe import Compression, InsertOp, ParquetWriterOptions

from apiary_df.errors import ConfigError
from apiary_df.statements import can_partition_by

_LEVELLED = frozenset({Compression.GZIP, Compression.BROTLI, Compression.ZSTD})
"""Codecs that take a level."""

_OF_THE_WHOLE = (
    "data_pagesize_limit",
    "write_batch_size",
    "writer_version",
    "skip_arrow_metadata",
    "compression",
    "dictionary_enabled",
    "dictionary_page_size_limit",
    "statistics_enabled",
    "max_row_group_size",
    "created_by",
    "column_index_truncate_length",
    "statistics_truncate_length",
    "data_page_row_count_limit",
    "encoding",
    "bloom_filter_on_write",
    "bloom_filter_fpp",
    "bloom_filter_ndv",
    "allow_single_file_parallelism",
    "maximum_parallel_row_group_writers",
    "maximum_buffered_record_batches_per_stream",
)
_OF_A_COLUMN = (
    "bloom_filter_enabled",
    "encoding",
    "dictionary_enabled",
    "compression",
    "statistics_enabled",
    "bloom_filter_fpp",
    "bloom_filter_ndv",
)


class DataFrameWriteOptions(datafusion.DataFrameWriteOptions):
    """datafusion's options of a DataFrame writer, kept so that they can be looked at.

    With datafusion's own class, whose options cannot be read back, a DataFrame is written by plain datafusion in the
    session's process.

    Args:
        insert_operation: How rows are put into a table; for files, only appending is possible.
        single_file_output: Write one file, whatever the path looks like.
        partition_by: Columns that become Hive folders.
        sort_by: Sort the rows by these before they are written.
    """

    def __init__(
        self,
        insert_operation: InsertOp | None = None,
        single_file_output: bool = False,
        partition_by: str | Sequence[str] | None = None,
        sort_by: Any = None,
    ) -> None:
        super().__init__(insert_operation, single_file_output, partition_by, sort_by)
        self.insert_operation = insert_operation
        self.single_file_output = single_file_output
        self.partition_by = (partition_by,) if isinstance(partition_by, str) else tuple(partition_by or ())
        many = isinstance(sort_by, (list, tuple))
        self.sort_by: tuple[Any, ...] = tuple(sort_by) if many else (() if sort_by is None else (sort_by,))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWrite:
    """One call of a DataFrame writer.

    Attributes:
        path: Where to.
        file_format: ``parquet``, ``csv`` or ``json``.
        options: The format's options.
        single_file: Write one file, whatever the path looks like.
        partition_by: Columns that become folders.
        sort_by: Expressions to sort by before.
    """

    path: str
    file_format: str
    options: Mapping[str, str] = field(default_factory=dict)
    single_file: bool = False
    partition_by: tuple[str, ...] = ()
    sort_by: tuple[Any, ...] = ()


def file_write(
    path: object, file_format: str, options: Mapping[str, str], write_options: datafusion.DataFrameWriteOptions | None
) -> FileWrite | None:
    """Return a call of a writer as a value; None if only datafusion itself can carry it out.

    Raises:
        ConfigError: If the options ask for what DataFusion cannot do with files.
    """
    if write_options is None:
        return FileWrite(path=str(path), file_format=file_format, options=options)
    if not isinstance(write_options, DataFrameWriteOptions) or not can_partition_by(write_options.partition_by):
        return None
    if write_options.insert_operation not in {None, InsertOp.APPEND}:
        raise ConfigError(
            f"cannot write {path} with insert_operation={write_options.insert_operation}: DataFusion only appends to "
            "files; remove them first, or write to another place"
        )
    return FileWrite(
        path=str(path),
        file_format=file_format,
        options=options,
        single_file=write_options.single_file_output,
        partition_by=write_options.partition_by,
        sort_by=write_options.sort_by,
    )


def compression_options(compression: str | Compression, level: int | None) -> dict[str, str]:
    """Return the options of ``write_parquet``'s short form.

    Raises:
        ValueError: If DataFusion does not know the codec; as in datafusion.
    """
    codec = Compression.from_str(compression) if isinstance(compression, str) else compression
    if codec not in _LEVELLED:
        return {"compression": codec.value}
    return {"compression": f"{codec.value}({codec.get_default_level() if level is None else level})"}


def parquet_options(given: ParquetWriterOptions) -> dict[str, str] | None:
    """Return ``ParquetWriterOptions`` as options of a COPY statement; those that are None stay the session's.

    Returns:
        Options by name; None if they name a column that a statement cannot, since it knows small letters only.
    """
    if any(column != column.lower() for column in given.column_specific_options or {}):
        return None
    options = {name: _as_text(getattr(given, name)) for name in _OF_THE_WHOLE if getattr(given, name) is not None}
    options.setdefault("compression", "uncompressed")
    for column, chosen in (given.column_specific_options or {}).items():
        for name in _OF_A_COLUMN:
            if (value := getattr(chosen, name)) is not None:
                options[f"{name}::{column}"] = _as_text(value)
    return options


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
