"""Cell tables as values: which objects make a table, in which format, with which partition columns.

Constructors list or look up objects and check what can be checked without opening any of them. Reading schemas and
making DataFusion scans belong to :mod:`apiary_df.tables.schemas` and :mod:`apiary_df.tables.scan`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa

from apiary_df.errors import TableError
from apiary_df.model import CellInfo
from apiary_df.objects import FoundObject, list_objects, parse_location, stat_objects
from apiary_df.store import StoreOptions
from apiary_df.tables import hive as hive_values

EXTENSIONS: Mapping[str, tuple[str, ...]] = {
    "parquet": (".parquet",),
    "csv": (".csv",),
    "json": (".json", ".jsonl", ".ndjson"),
    "arrow": (".arrow", ".feather", ".ipc"),
}
"""Format to the file-name extensions that are looked for unless others are asked for."""

COMPRESSIONS: Mapping[str, str] = {"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst"}
"""Whole-file compressions of CSV and JSON to the extension that they add."""

TEXT_FORMATS = ("csv", "json")
"""Formats without types or sizes of their own: columns are inferred from their first rows, and may be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvOptions:
    """How CSV files are written.

    Attributes:
        has_header: Whether the first line of each file names the columns.
        delimiter: One character between values.
        schema_infer_max_rows: Rows of each file that are read to choose types, >= 1.
    """

    has_header: bool = True
    delimiter: str = ","
    schema_infer_max_rows: int = 1_000

    def __post_init__(self) -> None:
        if len(self.delimiter.encode()) != 1:
            raise TableError(f"a CSV delimiter is one ASCII character, not {self.delimiter!r}")
        if self.schema_infer_max_rows < 1:
            raise TableError(f"schema_infer_max_rows must be at least 1, not {self.schema_infer_max_rows}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellTable:
    """A table made of an explicit list of cells.

    Use the constructors :meth:`from_prefix`, :meth:`from_urls` and :meth:`from_cells`. The list is a snapshot: files
    added later are not part of the table, and a file that has gone is an error at the next query. (A Hive tree that
    DataFusion lists by itself, see :mod:`apiary_df.tables.scan`, is one only as long as the session remembers the
    listing.) After files were rewritten in place, register the table again.

    Attributes:
        cells: The objects, by storage URL. Partition values that are NULL are spelled as in Hive paths.
        format: ``parquet``, ``csv``, ``json`` (one object a line) or ``arrow`` (IPC files).
        partition_columns: (name, type) of the columns whose values are the cells' partition values, in order.
        schema: Columns of the files, if the caller declared them; None infers them.
        options: How to reach the store; None takes the environment's.
        csv: How CSV files are written.
        compression: Whole-file compression of CSV and JSON: ``gzip``, ``bzip2``, ``xz``, ``zstd``, or None.
        root: URL of the folder of a Hive tree whose every file is a cell here, ending in ``/``; None if there is none.
        extension: Extension by which ``root`` was listed.
    """

    cells: tuple[CellInfo, ...]
    format: str = "parquet"
    partition_columns: tuple[tuple[str, pa.DataType], ...] = ()
    schema: pa.Schema | None = None
    options: StoreOptions | None = field(default=None, repr=False)
    csv: CsvOptions = field(default_factory=CsvOptions)
    compression: str | None = None
    root: str | None = None
    extension: str = ""

    def __post_init__(self) -> None:
        check_format(self.format, self.compression)
        if not self.cells:
            raise TableError("cannot make a table without cells")
        types = dict(self.partition_columns)
        for cell in self.cells:
            if cell.range_start is not None:
                raise TableError(
                    f"cannot use a byte range of {cell.storage_key} as a cell of a table: give whole objects, the "
                    f"planner splits large ones itself",
                    file=cell.storage_key,
                )
            if tuple(name for name, _ in cell.partition) != tuple(types):
                raise TableError(
                    f"cannot use {cell.storage_key} as a cell: it has values for the partition columns "
                    f"{[name for name, _ in cell.partition]}, the table has {list(types)}",
                    file=cell.storage_key,
                )
        keys = [cell.storage_key for cell in self.cells]
        if len(set(keys)) != len(keys):
            twice = next(key for index, key in enumerate(keys) if key in keys[:index])
            raise TableError(f"cannot make a table in which {twice} stands twice", file=twice)
        hive_values.check_values(types, ((cell.storage_key, cell.partition) for cell in self.cells))

    @property
    def bytes(self) -> int:
        """Bytes of all cells in storage."""
        return sum(cell.bytes for cell in self.cells)

    @classmethod
    def from_prefix(
        cls,
        place: str | Path,
        *,
        format: str = "parquet",
        file_extension: str | None = None,
        hive: bool | Literal["auto"] = "auto",
        partition_types: Mapping[str, pa.DataType] | None = None,
        recursive: bool = False,
        options: StoreOptions | None = None,
        schema: pa.Schema | None = None,
        csv: CsvOptions | None = None,
        compression: str | None = None,
    ) -> CellTable:
        """Make a table of what lies in a folder or below a prefix; of one file, if the place is one.

        As with DataFusion's own tables, sub-folders other than Hive partitions (``column=value``) are not looked
        into. Names that begin with ``_`` or ``.`` are skipped, as are empty CSV and JSON files.

        Args:
            place: A path, or a ``file://``, ``s3://``, ``gs://`` or ``az://`` URL (percent-encoded).
            format: Format of the files.
            file_extension: Extension to look for; None takes the format's usual ones.
            hive: Whether ``column=value`` folders make partition columns; ``auto`` if there are any.
            partition_types: Types of partition columns by name; the rest is inferred, see :func:`hive.infer_types`.
            recursive: Whether files in any sub-folder count.
            options: How to reach the store.
            schema: Columns of the files; None infers them when the table is registered.
            csv: How CSV files are written.
            compression: Whole-file compression of CSV and JSON.

        Raises:
            TableError: If nothing is there, no file has the extension, or partition columns differ between files.
            StorageError: If the store cannot be asked.
        """
        check_format(format, compression)
        root = parse_location(place)
        endings = (file_extension,) if file_extension is not None else default_endings(format, compression)
        listed = list_objects(root, options)
        if len(listed) == 1 and listed[0].location.key == root.key.rstrip("/"):
            fitting = chosen = listed  # the place is a file: it counts whatever its name
        else:
            fitting = [f for f in listed if f.key.endswith(endings)]
            chosen = [f for f in fitting if _counts(f, format, recursive=recursive, hive=hive is not False)]
        if not chosen:
            raise TableError(
                f"cannot read a table from {root.url}: no cells, that is no file ending in {' or '.join(endings)} "
                f"among the {len(listed)} objects there" + _hint(fitting),
                url=root.url,
            )
        values = [hive_values.partition_values(f.key) if hive is not False else () for f in chosen]
        if hive is True and not any(values):
            raise TableError(f"cannot read {root.url} as a Hive tree: no folder is named column=value", url=root.url)
        table = cls.from_cells(
            _cells(chosen, values),
            format=format,
            partition_types=partition_types,
            options=options,
            schema=schema,
            csv=csv,
            compression=compression,
        )
        complete = len(chosen) == len(fitting) and len(endings) == 1
        if not table.partition_columns or not complete:
            return table
        return replace(table, root=root.url.rstrip("/") + "/", extension=endings[0])

    @classmethod
    def from_urls(
        cls,
        places: Sequence[str | Path],
        *,
        format: str = "parquet",
        hive: bool = False,
        partition_types: Mapping[str, pa.DataType] | None = None,
        options: StoreOptions | None = None,
        schema: pa.Schema | None = None,
        csv: CsvOptions | None = None,
        compression: str | None = None,
    ) -> CellTable:
        """Make a table of a list of files, whose sizes are asked for.

        Args:
            places: Paths or URLs, one per file.
            format: Format of the files.
            hive: Whether ``column=value`` parts of the paths make partition columns.
            partition_types: Types of partition columns by name; the rest is inferred.
            options: How to reach the store.
            schema: Columns of the files; None infers them when the table is registered.
            csv: How CSV files are written.
            compression: Whole-file compression of CSV and JSON.

        Raises:
            TableError: If a file does not exist, stands twice, or partition columns differ between files.
            StorageError: If the store cannot be asked.
        """
        locations = [parse_location(place) for place in places]
        found = stat_objects(locations, options)
        values = [hive_values.partition_values(place.key) if hive else () for place in locations]
        return cls.from_cells(
            _cells(found, values),
            format=format,
            partition_types=partition_types,
            options=options,
            schema=schema,
            csv=csv,
            compression=compression,
        )

    @classmethod
    def from_cells(
        cls,
        cells: Iterable[CellInfo],
        *,
        format: str = "parquet",
        partition_types: Mapping[str, pa.DataType] | None = None,
        options: StoreOptions | None = None,
        schema: pa.Schema | None = None,
        csv: CsvOptions | None = None,
        compression: str | None = None,
    ) -> CellTable:
        """Make a table of cells whose sizes and partition values are known; nothing is asked of the store.

        Args:
            cells: Whole objects. Their keys are paths or URLs; partition values need not be in the paths.
            format: Format of the files.
            partition_types: Types of partition columns by name; the rest is inferred from the values.
            options: How to reach the store.
            schema: Columns of the files; None infers them when the table is registered.
            csv: How CSV files are written.
            compression: Whole-file compression of CSV and JSON.

        Raises:
            TableError: If there are none, one is a byte range, or partition columns differ between cells.
        """
        listed = [replace(cell, storage_key=parse_location(cell.storage_key).url) for cell in cells]
        return cls(
            cells=tuple(sorted(listed, key=lambda cell: cell.sort_key)),
            format=format,
            partition_columns=_partition_columns(listed, partition_types),
            schema=schema,
            options=options,
            csv=csv or CsvOptions(),
            compression=compression,
        )


def check_format(format: str, compression: str | None) -> None:
    """Check a format and its compression.

    Raises:
        TableError: Naming what is known.
    """
    if format not in EXTENSIONS:
        raise TableError(f"unknown table format {format!r}; known are {', '.join(EXTENSIONS)}")
    if compression is None:
        return
    if compression not in COMPRESSIONS:
        raise TableError(f"unknown compression {compression!r}; known are {', '.join(COMPRESSIONS)}")
    if format not in TEXT_FORMATS:
        raise TableError(f"{format} files carry their compression inside; leave compression={compression!r} out")


def default_endings(format: str, compression: str | None) -> tuple[str, ...]:
    """Return the file-name endings that are looked for by default."""
    suffix = COMPRESSIONS[compression] if compression else ""
    return tuple(extension + suffix for extension in EXTENSIONS[format])


def _cells(found: Sequence[FoundObject], values: Sequence[hive_values.PartitionValues]) -> list[CellInfo]:
    pairs = zip(found, values, strict=True)
    return [CellInfo(storage_key=f.location.url, bytes=f.size_bytes, partition=value) for f, value in pairs]


def _counts(found: FoundObject, format: str, *, recursive: bool, hive: bool) -> bool:
    *folders, name = found.key.split("/")
    if any(part.startswith(("_", ".")) for part in (*folders, name)):
        return False
    if found.size_bytes == 0 and format in TEXT_FORMATS:
        return False
    return recursive or all(hive and "=" in folder for folder in folders)


def _hint(fitting: Sequence[FoundObject]) -> str:
    if not fitting:
        return ""
    return (
        f" ({len(fitting)} with that ending lie in sub-folders, are hidden or are empty: {fitting[0].key}; "
        f"sub-folders are read with recursive=True)"
    )


def _partition_columns(
    cells: Sequence[CellInfo], given: Mapping[str, pa.DataType] | None
) -> tuple[tuple[str, pa.DataType], ...]:
    names = hive_values.consistent_columns((cell.storage_key, cell.partition) for cell in cells)
    types = dict(given or {})
    unknown = [name for name in types if name not in names]
    if unknown:
        raise TableError(
            f"cannot give the partition column {unknown[0]!r} a type: the cells are partitioned by {list(names)}"
        )
    inferred = dict(hive_values.infer_types(names, (cell.partition for cell in cells)))
    return tuple((name, types.get(name, inferred[name])) for name in names)
