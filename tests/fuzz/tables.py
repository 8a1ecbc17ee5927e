"""Random tables: their columns, rows and files, and how a session gets to know them.

Structure (how many tables, columns, rows, files, which format) is drawn from the caller's source of choices, values
from a seed of their own, so that hypothesis need not draw every value.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any

import datafusion
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from pyarrow import ipc

NULL_SHARE = 0.3
"""How many of the values are NULL, in columns that may hold any."""

ROW_COUNTS = (0, 1, 2, 5, 12, 30, 30, 30, 60, 60, 60, 120, 200)
"""Rows of a table, each as likely."""

FILE_COUNTS = (1, 2, 3, 3, 5)
"""Files of a table, each as likely."""

FOLDER_SUFFIX: Mapping[str, str] = {
    "parquet": ".parquet",
    "hive": ".parquet",
    "csv": ".csv",
    "json": ".json",
    "arrow": ".arrow",
}


class Kind(Enum):
    """What an expression is, whatever Arrow type carries it."""

    INT = "int"
    FLOAT = "float"
    DECIMAL = "decimal"
    STRING = "string"
    BOOL = "bool"
    DATE = "date"
    TIMESTAMP = "timestamp"


TYPES: Mapping[Kind, Sequence[pa.DataType]] = {
    Kind.INT: (pa.int64(), pa.int64(), pa.int32(), pa.int16(), pa.int8(), pa.uint32()),
    Kind.FLOAT: (pa.float64(), pa.float64(), pa.float32()),
    Kind.DECIMAL: (pa.decimal128(10, 2), pa.decimal128(20, 4), pa.decimal256(40, 2)),
    Kind.STRING: (
        pa.string(),
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
    ),
    Kind.BOOL: (pa.bool_(),),
    Kind.DATE: (pa.date32(),),
    Kind.TIMESTAMP: (pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ms")),
}
"""Arrow types that a column of a kind may have."""

_PLAIN_TYPES: Mapping[Kind, pa.DataType] = {
    Kind.INT: pa.int64(),
    Kind.FLOAT: pa.float64(),
    Kind.DECIMAL: pa.decimal128(10, 2),
    Kind.STRING: pa.string(),
    Kind.BOOL: pa.bool_(),
    Kind.DATE: pa.date32(),
    Kind.TIMESTAMP: pa.timestamp("us"),
}
"""Types that text formats can carry."""

KINDS = (
    Kind.INT,
    Kind.INT,
    Kind.INT,
    Kind.STRING,
    Kind.STRING,
    Kind.FLOAT,
    Kind.DECIMAL,
    Kind.BOOL,
    Kind.DATE,
    Kind.TIMESTAMP,
)

_STRINGS = ("", "a", "b", "ab", "B", "ä", "x y", "it's", "a%", "zz", "longer than twelve bytes")
_SPECIAL_FLOATS = (float("nan"), float("inf"), float("-inf"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column.

    Attributes:
        name: Its name; several tables may have it.
        kind: What it is to queries.
        type: What it is to Arrow.
        special: Whether floats among its values are NaN or infinite.
    """

    name: str
    kind: Kind
    type: pa.DataType
    special: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with its rows.

    Attributes:
        name: Its name.
        columns: Its columns.
        format: ``parquet``, ``hive`` (Parquet, the last column in the folders' names), ``csv``, ``json``, ``arrow`` or
            ``memory``.
        parts: The rows of each file (of each partition, in memory).
        group_rows: Rows of a Parquet row group, or of an Arrow record batch.
    """

    name: str
    columns: tuple[Column, ...]
    format: str
    parts: tuple[pa.Table, ...]
    group_rows: int

    @property
    def rows(self) -> int:
        """How many rows there are in all."""
        return sum(part.num_rows for part in self.parts)

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of its files."""
        return pa.schema([(column.name, column.type) for column in self.columns])

    def describe(self) -> str:
        """Say in one line what it is."""
        columns = ", ".join(f"{c.name} {c.type}" for c in self.columns)
        return f"{self.name}({columns}): {self.format}, rows {[part.num_rows for part in self.parts]}"


def draw_tables(random: Random, *, common: bool = False) -> tuple[Table, ...]:
    """Draw one to four tables.

    Args:
        random: The source of choices.
        common: Only what DataFusion and DuckDB both read, and mean alike: no decimals of 256 bits, no NaN.
    """
    formats = ("parquet",) if common else ("parquet",) * 12 + ("hive", "csv", "json", "arrow", "memory")
    return tuple(_draw_table(random, f"t{number}", formats, common) for number in range(random.randint(1, 4)))


def _draw_table(random: Random, name: str, formats: Sequence[str], common: bool) -> Table:
    file_format = random.choice(formats)
    columns = [_draw_column(random, f"c{position}", file_format, common) for position in range(random.randint(2, 6))]
    if random.random() < 0.4:
        columns[0] = Column(name="id", kind=Kind.INT, type=pa.int64())
    if file_format == "hive":
        columns.append(Column(name="part", kind=Kind.INT, type=pa.int32()))
    rows, files = random.choice(ROW_COUNTS), random.choice(FILE_COUNTS)
    no_files = rows == 0 and file_format != "memory" and random.random() < 0.3
    table = Table(
        name=name, columns=tuple(columns), format=file_format, parts=(), group_rows=random.choice((2, 7, 25, 1000))
    )
    values = Random(random.getrandbits(32))
    return table if no_files else replace(table, parts=tuple(_draw_parts(values, table, rows, files)))


def _draw_parts(random: Random, table: Table, rows: int, files: int) -> Iterator[pa.Table]:
    nullable = [column.name != "id" and random.random() < 0.8 for column in table.columns]
    values = [_values(random, c, rows, n) for c, n in zip(table.columns, nullable, strict=True)]
    whole = pa.Table.from_arrays(values, schema=table.schema)
    ends = [*sorted(random.randint(0, rows) for _ in range(files - 1)), rows]
    return (whole.slice(start, end - start) for start, end in zip([0, *ends], ends, strict=False))


def _draw_column(random: Random, name: str, file_format: str, common: bool) -> Column:
    kind = random.choice(KINDS)
    if file_format in {"csv", "json"}:
        return Column(name=name, kind=kind, type=_PLAIN_TYPES[kind])
    types = [each for each in TYPES[kind] if not (common and pa.types.is_decimal256(each))]
    special = kind is Kind.FLOAT and not common and random.random() < 0.3
    return Column(name=name, kind=kind, type=random.choice(types), special=special)


def _values(random: Random, column: Column, rows: int, nullable: bool) -> pa.Array:
    if column.name == "id":
        ids = list(range(rows))
        random.shuffle(ids)
        return pa.array(ids, column.type)
    if column.name == "part":
        return pa.array([random.randint(0, 2) for _ in range(rows)], column.type)
    pool = [_value(random, column) for _ in range(random.choice((1, 3, 6, 10, 40)))]
    drawn = [None if nullable and random.random() < NULL_SHARE else random.choice(pool) for _ in range(rows)]
    if pa.types.is_dictionary(column.type):
        return pa.array(drawn, column.type.value_type).dictionary_encode()
    return pa.array(drawn, column.type)


def _value(random: Random, column: Column) -> Any:
    makers: Mapping[Kind, Callable[[], Any]] = {
        Kind.INT: lambda: random.randint(0 if pa.types.is_unsigned_integer(column.type) else -3, 9),
        # Multiples of 1/8, so that sums are exact in whatever order they are added up.
        Kind.FLOAT: lambda: random.randint(-40, 40) / 8,
        Kind.DECIMAL: lambda: Decimal(random.randint(-500, 500)).scaleb(-2),
        Kind.STRING: lambda: random.choice(_STRINGS),
        Kind.BOOL: lambda: random.random() < 0.5,
        Kind.DATE: lambda: dt.date(2024, 2, 25) + dt.timedelta(days=random.randint(0, 12)),
        Kind.TIMESTAMP: lambda: dt.datetime(2023, 12, 30) + dt.timedelta(hours=6 * random.randint(0, 20)),
    }
    if column.special and random.random() < 0.4:
        return random.choice(_SPECIAL_FLOATS)
    return makers[column.kind]()


# -- files -----------------------------------------------------------------------------------------------------------


def write_table(table: Table, folder: Path) -> None:
    """Write a table's files into a folder of its own, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if table.format == "memory":
        return
    for number, part in enumerate(table.parts):
        if table.format == "hive":
            _write_hive(table, part, folder, number)
        else:
            _WRITERS[table.format](part, folder / f"{number}{FOLDER_SUFFIX[table.format]}", table.group_rows)


def _write_parquet(part: pa.Table, path: Path, group_rows: int) -> None:
    # Statistics pass over NaN, and DataFusion 55 takes a column with one number beside NaN for a constant.
    described = [
        field.name
        for field in part.schema
        if not (pa.types.is_floating(field.type) and pc.any(pc.is_nan(part.column(field.name))).as_py())
    ]
    pq.write_table(part, path, row_group_size=group_rows, write_statistics=described)


def _write_hive(table: Table, part: pa.Table, folder: Path, number: int) -> None:
    homes = part.column("part").to_pylist()
    for value in sorted(set(homes)):
        # One by one: take() does not know all types.
        rows = pa.concat_tables([part.slice(index, 1) for index, home in enumerate(homes) if home == value])
        home_folder = folder / f"part={value}"
        home_folder.mkdir(exist_ok=True)
        _write_parquet(rows.drop_columns(["part"]), home_folder / f"{number}.parquet", table.group_rows)


def _write_csv(part: pa.Table, path: Path, group_rows: int) -> None:
    pacsv.write_csv(part, path)


def _write_json(part: pa.Table, path: Path, group_rows: int) -> None:
    path.write_text("".join(json.dumps(row, default=_json_value) + "\n" for row in part.to_pylist()))


def _json_value(value: Any) -> str:
    return str(value) if isinstance(value, Decimal) else str(value.isoformat())


def _write_arrow(part: pa.Table, path: Path, group_rows: int) -> None:
    with ipc.new_file(path, part.schema, options=ipc.IpcWriteOptions(unify_dictionaries=True)) as writer:
        writer.write_table(part, max_chunksize=group_rows)


_WRITERS: Mapping[str, Callable[[pa.Table, Path, int], None]] = {
    "parquet": _write_parquet,
    "csv": _write_csv,
    "json": _write_json,
    "arrow": _write_arrow,
}


# -- sessions --------------------------------------------------------------------------------------------------------


def register(ctx: datafusion.SessionContext, table: Table, folder: Path) -> None:
    """Make a table that was written to a folder known to a session."""
    schema = table.schema
    if table.format == "memory":
        empty = pa.RecordBatch.from_pylist([], schema=schema)
        ctx.register_record_batches(table.name, [[empty, *part.to_batches()] for part in table.parts] or [[empty]])
    elif table.format == "parquet":
        ctx.register_parquet(table.name, folder, schema=schema)
    elif table.format == "hive":
        ctx.register_parquet(table.name, folder, [("part", pa.int32())], schema=schema.remove(len(schema) - 1))
    elif table.format == "csv":
        ctx.register_csv(table.name, folder, schema)
    elif table.format == "json":
        ctx.register_json(table.name, folder, schema)
    else:
        ctx.register_arrow(table.name, folder, schema)
