"""Query results in the formats of ``apiary sql``, written batch by batch where the format allows it.

What belongs here: record batches -> bytes or text. What does not: running queries, or deciding where output goes beyond
stdout or one file.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from apiary_df.errors import ConfigError

MAX_CELL_CHARS = 80
"""Longest text of one value in a table; the rest is cut and marked."""

_EXPLAIN_COLUMNS = ["plan_type", "plan"]
"""Columns of an EXPLAIN, whose texts have lines of their own and would be unreadable in a table."""

_ENCODER = msgspec.json.Encoder(decimal_format="number")


class Format(str, Enum):
    """How a result is written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    ARROW = "arrow"
    PARQUET = "parquet"


BINARY_FORMATS = frozenset({Format.ARROW, Format.PARQUET})

_BY_EXTENSION = {
    ".csv": Format.CSV,
    ".json": Format.JSON,
    ".jsonl": Format.JSON,
    ".ndjson": Format.JSON,
    ".arrow": Format.ARROW,
    ".parquet": Format.PARQUET,
}


def choose_format(asked: Format | None, output: Path | None, *, stdout_is_terminal: bool) -> Format:
    """Return the format: the one asked for, else the output file's by its extension, else a table.

    Raises:
        ConfigError: If binary output would go to a terminal.
    """
    chosen = asked
    if chosen is None:
        chosen = _BY_EXTENSION.get(output.suffix.lower(), Format.TABLE) if output is not None else Format.TABLE
    if chosen in BINARY_FORMATS and output is None and stdout_is_terminal:
        raise ConfigError(f"--format {chosen.value} is binary: name a file with -o, or redirect the output")
    return chosen


@contextlib.contextmanager
def open_output(output: Path | None) -> Iterator[BinaryIO]:
    """Yield where the result goes: stdout, or a file that appears only when it is complete.

    Raises:
        ConfigError: If the file cannot be written.
    """
    if output is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    unfinished = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        with unfinished.open("xb") as sink:
            yield sink
        unfinished.replace(output)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror or error}", file=output) from error
    finally:
        unfinished.unlink(missing_ok=True)


def write_result(
    format_: Format, schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: BinaryIO, *, seekable: bool, rows: int
) -> None:
    """Write a result.

    Args:
        format_: How.
        schema: The result's schema, written even if there are no rows.
        batches: The result; pulled as fast as it is written.
        sink: Where it goes.
        seekable: Whether the sink is a file, which makes Arrow output an IPC file; an IPC stream otherwise.
        rows: Rows that a table shows at most; 0 shows all.

    Raises:
        ConfigError: If the format cannot hold the result.
    """
    if format_ is Format.TABLE:
        for line in render_table(schema, batches, rows):
            sink.write(line.encode() + b"\n")
    elif format_ is Format.CSV:
        _write_csv(schema, batches, sink)
    elif format_ is Format.JSON:
        _write_json(schema, batches, sink)
    elif format_ is Format.ARROW:
        new = pa.ipc.new_file if seekable else pa.ipc.new_stream
        with new(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
    else:
        with _parquet_writer(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)


def render_table(schema: pa.Schema, batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[str]:
    """Yield the lines of a table: aligned columns, numbers to the right, and the number of rows; plans as they are.

    Args:
        schema: Schema of the result.
        batches: The result; no more of it is pulled than is shown, and one batch.
        rows: Rows to show at most; 0 shows all.
    """
    if schema.names == _EXPLAIN_COLUMNS:
        yield from _render_plans(batches)
        return
    shown: list[list[str]] = []
    more = False
    for batch in batches:
        texts = [_texts(column) for column in batch.columns]
        shown.extend([_cut(column[row]) for column in texts] for row in range(batch.num_rows))
        if rows and len(shown) > rows:
            more = True
            del shown[rows:]
            break
    names = [_cut(name) for name in schema.names]
    widths = [max([_width(name), *(_width(row[i]) for row in shown)]) for i, name in enumerate(names)]
    right = [_is_number(field.type) for field in schema]
    yield _line(names, widths, right)
    yield "-+-".join("-" * width for width in widths)
    for row in shown:
        yield _line(row, widths, right)
    count = f"{len(shown):,} row{'' if len(shown) == 1 else 's'}"
    yield f"(the first {count}; there are more: see --max-rows)" if more else f"({count})"


def _render_plans(batches: Iterable[pa.RecordBatch]) -> Iterator[str]:
    for batch in batches:
        for kind, plan in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield f"-- {kind}"
            yield from str(plan).rstrip().splitlines()


def _write_csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: BinaryIO) -> None:
    # Lists, structs and the like have no CSV form of their own, so they become JSON in a field.
    plain = [_has_csv_form(field.type) for field in schema]
    fields = [f if ok else pa.field(f.name, pa.string()) for f, ok in zip(schema, plain, strict=True)]
    target = pa.schema(fields)
    with pyarrow.csv.CSVWriter(sink, target) as writer:
        for batch in batches:
            columns = [
                column if ok else pa.array(_texts(column, null=None), pa.string())
                for column, ok in zip(batch.columns, plain, strict=True)
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=target))


def _parquet_writer(sink: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    try:
        return pq.ParquetWriter(sink, schema)
    except pa.ArrowNotImplementedError as error:
        raise ConfigError(
            f"Parquet cannot hold this result: {error}; cast the column, or use --format arrow"
        ) from error


def _write_json(schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: BinaryIO) -> None:
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise ConfigError(f"two columns are called {twice[0]!r}, and a JSON object holds one: rename one with AS")
    for batch in batches:
        columns = [_values(column) for column in batch.columns]
        lines = [_ENCODER.encode(dict(zip(schema.names, row, strict=True))) for row in zip(*columns, strict=True)]
        if lines:
            sink.write(b"\n".join(lines) + b"\n")


def _texts(column: pa.Array, null: str | None = "NULL") -> list[str | None]:
    if pa.types.is_boolean(column.type):
        values = [None if v is None else str(v).lower() for v in column.to_pylist()]
    elif _is_nested(column.type):
        values = [None if v is None else _ENCODER.encode(v).decode() for v in _values(column)]
    elif _is_binary(column.type):
        values = [None if v is None else bytes(v).hex() for v in column.to_pylist()]
    else:
        values = _as_text(column).to_pylist()
    return [null if value is None else value for value in values]


def _values(column: pa.Array) -> list[object]:
    """Return Python values that JSON can hold: dates and times as SQL writes them, durations in their own unit."""
    target = _json_type(column.type)
    if pa.types.is_interval(column.type):
        return [None if value is None else str(value) for value in column.to_pylist()]
    return list((column if target.equals(column.type) else column.cast(target)).to_pylist())


def _json_type(kind: pa.DataType) -> pa.DataType:
    # Python's own times hold microseconds, so anything finer would be cut or refused on the way.
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return pa.int64() if pa.types.is_duration(kind) else pa.string()
    if pa.types.is_dictionary(kind):
        return _json_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _json_type(f.type)) for f in kind])
    if pa.types.is_map(kind):
        return pa.map_(_json_type(kind.key_type), _json_type(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_json_type(kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_json_type(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_json_type(kind.value_type))
    return kind


def _as_text(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        return _as_text(column.dictionary_decode())
    if pa.types.is_interval(column.type):
        return pa.array(_values(column), pa.string())
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.string())
    return pc.cast(column, pa.string())


def _has_csv_form(kind: pa.DataType) -> bool:
    simple = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_date)
    return kind in (pa.string(), pa.large_string()) or any(test(kind) for test in simple)


def _is_nested(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind))


def _is_binary(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def printable(text: str) -> str:
    """Return a text on one line, without what would move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _cut(text: str | None) -> str:
    line = printable(text or "")
    return line if len(line) <= MAX_CELL_CHARS else line[: MAX_CELL_CHARS - 1] + "…"


def _width(text: str) -> int:
    """Return the columns that a text takes on a terminal: two for East Asian wide characters, none for marks."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _line(values: list[str], widths: list[int], right: list[bool]) -> str:
    padded = (
        " " * (width - _width(value)) + value if to_right else value + " " * (width - _width(value))
        for value, width, to_right in zip(values, widths, right, strict=True)
    )
    return " | ".join(padded).rstrip()


def stdout_is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()
