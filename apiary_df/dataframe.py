"""A DataFrame whose terminal methods run on the swarm, and whose transformations give such DataFrames again.

What belongs here: the surface of datafusion's ``DataFrame``. How a query runs is the session's business; this module
asks it for the result as a stream of record batches (:class:`QueryRunner`).
"""

from __future__ import annotations

import functools
import inspect
import pathlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import datafusion
import pyarrow as pa
from datafusion import functions
from datafusion.dataframe import Compression, ParquetWriterOptions
from datafusion.dataframe_formatter import get_formatter

from apiary_df.describe import aggregates, description
from apiary_df.errors import ApiaryError, SqlError
from apiary_df.protocol.arrow import conform_result
from apiary_df.statements import copy_statement, is_plain_name
from apiary_df.writers import FileWrite, compression_options, file_write, parquet_options

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

_Base = datafusion.DataFrame
_Internal = datafusion._internal.DataFrame
_Result = TypeVar("_Result")

PHASES = ("physical", "rewritten", "stages", "assignment")
"""How far :meth:`DataFrame.explain` follows a query on its way to the nodes."""


class ResultStream(Protocol):
    """A query under way: an iterator of record batches that can be closed early."""

    @property
    def schema(self) -> pa.Schema:
        """Schema of the result."""

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Iterate over the batches."""

    def __next__(self) -> pa.RecordBatch:
        """Return the next batch."""

    def cancel(self) -> None:
        """Ask the query to end, from any thread; whoever reads gets QueryCancelled."""

    def close(self) -> None:
        """End the query; what it left in storage goes away."""


class QueryRunner(Protocol):
    """What a DataFrame needs of its session."""

    def run(self, df: datafusion.DataFrame) -> ResultStream:
        """Start a query."""

    def explain_text(self, df: datafusion.DataFrame, *, until: str | None, analyze: bool, verbose: bool) -> str:
        """Return how a query is (or was) run."""

    def native_frame(self, table: pa.Table) -> datafusion.DataFrame:
        """Return a table as a plain DataFrame of the session."""

    def write(self, df: datafusion.DataFrame, statement: Callable[[str], str], *, single_file: bool = False) -> None:
        """Run a statement that writes a DataFrame's rows; it is made from the name under which they are read."""

    def table_schema(self, name: str) -> pa.Schema | None:
        """Return the schema of a registered table; None if there is no such table."""


class DataFrame(_Base):
    """A lazy query of an :class:`apiary_df.SessionContext`; a drop-in for ``datafusion.DataFrame``.

    Transformations are datafusion's own. The methods that need rows (``collect``, ``to_pandas``, iteration, ...) run
    the query on the session's swarm. They raise what a query can meet: :class:`~apiary_df.errors.TaskFailed` (the
    first cause, with task, node and cells), :class:`~apiary_df.errors.QueryTimeout`,
    :class:`~apiary_df.errors.QueryCancelled`, :class:`~apiary_df.errors.StorageError` and
    :class:`~apiary_df.errors.SqlError`.
    """

    def __init__(self, df: Any, runner: QueryRunner) -> None:
        super().__init__(df)
        self._runner = runner

    # -- running ------------------------------------------------------------------------------------------------------

    def _stream(self) -> ResultStream:
        return self._runner.run(self)

    def to_arrow_table(self) -> pa.Table:
        """Run the query and return its result as one Arrow table."""
        stream = self._stream()
        batches = list(stream)
        # As datafusion has it: the batches know more of NULLs than the query declares, where there are any.
        return pa.Table.from_batches(batches, schema=batches[0].schema if batches else stream.schema)

    def collect(self) -> list[pa.RecordBatch]:
        """Run the query and return its result as record batches, in order where the query fixes one."""
        return list(self._stream())

    def collect_partitioned(self) -> list[list[pa.RecordBatch]]:
        """Run the query and return its batches as a single partition: nodes share nothing to keep apart here."""
        return [self.collect()]

    def collect_column(self, column_name: str) -> pa.Array | pa.ChunkedArray:
        """Run the query for one column and return it."""
        return self.select(column_name).to_arrow_table().column(0).combine_chunks()

    def to_pandas(self) -> pd.DataFrame:
        """Run the query and return its result as a pandas frame."""
        return self.to_arrow_table().to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """Run the query and return its result as a polars frame."""
        import polars

        frame = polars.from_arrow(self.to_arrow_table())
        assert isinstance(frame, polars.DataFrame)
        return frame

    def to_pylist(self) -> list[dict[str, Any]]:
        """Run the query and return its rows as dictionaries."""
        rows: list[dict[str, Any]] = self.to_arrow_table().to_pylist()
        return rows

    def to_pydict(self) -> dict[str, list[Any]]:
        """Run the query and return its columns as lists."""
        columns: dict[str, list[Any]] = self.to_arrow_table().to_pydict()
        return columns

    def count(self) -> int:
        """Run the query for the number of its rows."""
        counted = self.aggregate([], [functions.count(datafusion.lit(1)).alias("rows")])
        return int(counted.to_arrow_table().column(0)[0].as_py())

    def execute_stream(self) -> RecordBatchStream:
        """Start the query and return its batches as they come.

        In a session that verifies, the first comes when the whole answer was found right.
        """
        return RecordBatchStream(self._stream())

    def execute_stream_partitioned(self) -> list[datafusion.RecordBatchStream]:
        """Start the query and return its batches as a single stream."""
        return [self.execute_stream()]

    def __iter__(self) -> Iterator[datafusion.RecordBatch]:
        return iter(self.execute_stream())

    def __aiter__(self) -> AsyncIterator[datafusion.RecordBatch]:
        return self.execute_stream().__aiter__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        stream = self._stream()
        batches = (conform_result(batch, stream.schema) for batch in stream)
        reader = pa.RecordBatchReader.from_batches(stream.schema, batches)
        return reader.__arrow_c_stream__(requested_schema)

    def cache(self) -> DataFrame:
        """Run the query and return its result as a DataFrame in memory."""
        stream = self._stream()
        batches = [conform_result(batch, stream.schema) for batch in stream]
        table = pa.Table.from_batches(batches, schema=stream.schema)
        return DataFrame(self._runner.native_frame(table).df, self._runner)

    def describe(self) -> DataFrame:
        """Run the query for statistics of its columns and return them as a DataFrame in memory.

        Raises:
            SqlError: If a column cannot be described: of a struct type, or not alone of its name.
        """
        schema = self.schema()
        native = self._runner.native_frame
        try:
            if len(set(schema.names)) < len(schema) or not len(schema):
                return DataFrame(super().describe().df, self._runner)
            row = self.aggregate([], aggregates(schema)).to_arrow_table()
            table = description(schema, row, lambda extremes: native(extremes).describe().to_arrow_table())
        except ApiaryError:
            raise
        except Exception as error:
            raise SqlError(f"describe() of columns {', '.join(schema.names)}: {error}") from error
        return DataFrame(native(table).df, self._runner)

    # -- writing ------------------------------------------------------------------------------------------------------

    def write_parquet(
        self,
        path: str | pathlib.Path,
        compression: str | Compression | ParquetWriterOptions = Compression.ZSTD,
        compression_level: int | None = None,
        write_options: datafusion.DataFrameWriteOptions | None = None,
    ) -> None:
        """Run the query and write its result as Parquet: many files into a folder, or one file.

        Files are seen once all are written; a write that fails leaves none.

        Args:
            path: A folder; or a file, if its name has an extension and no slash follows.
            compression: Codec, or all options of the format.
            compression_level: Level of the codec.
            write_options: Partitions, order and so on: :class:`apiary_df.DataFrameWriteOptions`.

        Raises:
            ValueError: If the codec is unknown, or there are two levels.
            StorageError: If the place cannot be written to.
        """
        if isinstance(compression, ParquetWriterOptions):
            if compression_level is not None:
                raise ValueError("compression_level should be None when using ParquetWriterOptions")
            self.write_parquet_with_options(path, compression, write_options)
            return
        call = file_write(path, "parquet", compression_options(compression, compression_level), write_options)
        if call is None:
            super().write_parquet(path, compression, compression_level, write_options)
        else:
            self._write_files(call)

    def write_parquet_with_options(
        self,
        path: str | pathlib.Path,
        options: ParquetWriterOptions,
        write_options: datafusion.DataFrameWriteOptions | None = None,
    ) -> None:
        """As :meth:`write_parquet`, with all options of the format."""
        chosen = parquet_options(options)
        call = None if chosen is None else file_write(path, "parquet", chosen, write_options)
        if call is None:
            super().write_parquet_with_options(path, options, write_options)
        else:
            self._write_files(call)

    def write_csv(
        self,
        path: str | pathlib.Path,
        with_header: bool = False,
        write_options: datafusion.DataFrameWriteOptions | None = None,
    ) -> None:
        """Run the query and write its result as CSV, as :meth:`write_parquet` does."""
        call = file_write(path, "csv", {"has_header": "true" if with_header else "false"}, write_options)
        if call is None:
            super().write_csv(path, with_header, write_options)
        else:
            self._write_files(call)

    def write_json(
        self, path: str | pathlib.Path, write_options: datafusion.DataFrameWriteOptions | None = None
    ) -> None:
        """Run the query and write its result as JSON lines, as :meth:`write_parquet` does."""
        call = file_write(path, "json", {}, write_options)
        if call is None:
            super().write_json(path, write_options)
        else:
            self._write_files(call)

    def write_table(self, table_name: str, write_options: datafusion.DataFrameWriteOptions | None = None) -> None:
        """Run the query and append its result to a registered table whose columns are the same."""
        schema = self._runner.table_schema(table_name) if write_options is None and is_plain_name(table_name) else None
        # DataFusion's writer refuses other columns, where its INSERT would cast them.
        if schema is None or [(f.name, f.type) for f in schema] != [(f.name, f.type) for f in self.schema()]:
            super().write_table(table_name, write_options)
        else:
            self._runner.write(self, lambda source: f"INSERT INTO {table_name} SELECT * FROM {source}")

    def _write_files(self, call: FileWrite) -> None:
        frame = self.sort(*call.sort_by) if call.sort_by else self
        self._runner.write(
            frame,
            lambda source: copy_statement(source, call.path, call.file_format, call.options, call.partition_by),
            single_file=call.single_file,
        )

    # -- showing ------------------------------------------------------------------------------------------------------

    def _head(self, rows: int) -> datafusion.DataFrame:
        return self._runner.native_frame(self.limit(rows).to_arrow_table())

    def show(self, num: int = 20) -> None:
        """Run the query for its first rows and print them."""
        self._head(num).show(num)

    def __repr__(self) -> str:
        return repr(self._head(get_formatter().max_rows + 1))

    def _repr_html_(self) -> str:
        return self._head(get_formatter().max_rows + 1)._repr_html_()

    def explain(  # type: ignore[override]
        self,
        verbose: bool = False,
        analyze: bool = False,
        format: Any = None,
        *,
        until: str | None = None,
        **options: Any,
    ) -> None:
        """Print how the query is run.

        Args:
            verbose: Show the plan after every rewrite rule, and all tasks.
            analyze: Run the query, and add what every task really did.
            format: One of datafusion's formats: prints datafusion's own explanation in it.
            until: ``physical`` (DataFusion's plan), ``rewritten`` (after the rules), ``stages`` (after the cut) or
                ``assignment`` (tasks, nodes and cells; the default).
            **options: datafusion's other options; with any of them, its own explanation is printed.

        Raises:
            ConfigError: If ``until`` is none of these.
        """
        if format is not None or options:
            super().explain(verbose, analyze, format, **options)
            return
        print(self.explain_text(until=until, analyze=analyze, verbose=verbose))  # noqa: T201 - as datafusion does

    def explain_text(self, *, until: str | None = None, analyze: bool = False, verbose: bool = False) -> str:
        """Return what :meth:`explain` prints.

        Raises:
            ConfigError: If ``until`` is not one of :data:`PHASES`.
        """
        return self._runner.explain_text(self, until=until, analyze=analyze, verbose=verbose)


class _Batch:
    """A record batch in the shape that ``datafusion.RecordBatch`` wraps."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def to_pyarrow(self) -> pa.RecordBatch:
        return self._batch

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]:
        pair: tuple[object, object] = self._batch.__arrow_c_array__(requested_schema)
        return pair


class RecordBatchStream(datafusion.RecordBatchStream):
    """A result as it comes; iterates over ``datafusion.RecordBatch``, also asynchronously."""

    def __init__(self, stream: ResultStream) -> None:
        super().__init__(stream)
        self._result = stream

    def __next__(self) -> datafusion.RecordBatch:
        return datafusion.RecordBatch(_Batch(next(self._result)))

    async def __anext__(self) -> datafusion.RecordBatch:
        import asyncio

        # A StopIteration cannot cross a future, so the end of the stream travels as None.
        try:
            batch = await asyncio.to_thread(next, self._result, None)
        except asyncio.CancelledError:
            # The thread goes on by itself, so it must be told that nobody waits for it any more.
            self._result.cancel()
            raise
        if batch is None:
            raise StopAsyncIteration
        return datafusion.RecordBatch(_Batch(batch))

    def cancel(self) -> None:
        """Ask the query to end, from any thread; whoever reads gets QueryCancelled."""
        self._result.cancel()

    def close(self) -> None:
        """End the query, if it still runs. For any thread; returns when nothing of the query is left in storage."""
        self._result.close()


def giving_ours(method: Callable[..., Any], runner_of: Callable[[Any], QueryRunner]) -> Callable[..., Any]:
    """Wrap a datafusion method so that the DataFrames that it returns are ours."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(method(self, *args, **kwargs), runner_of(self))

    return wrapper


def ours(result: Any, runner: QueryRunner) -> Any:
    """Return a datafusion DataFrame as ours, and anything else unchanged."""
    if isinstance(result, DataFrame):
        return result
    if isinstance(result, _Base):
        return DataFrame(result.df, runner)
    if isinstance(result, _Internal):
        return DataFrame(result, runner)
    return result


def methods_giving_frames(cls: type[Any], own: type[Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public methods of ``cls`` that are annotated to return a DataFrame and that ``own`` does not define."""
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        annotated = method.__annotations__.get("return") in {"DataFrame", cls}
        if annotated and name not in vars(own) and (not name.startswith("_") or name == "__getitem__"):
            yield name, method


def _adopt(cls: type[_Result]) -> type[_Result]:
    for name, method in methods_giving_frames(_Base, cls):
        setattr(cls, name, giving_ours(method, lambda self: self._runner))
    return cls


_adopt(DataFrame)
