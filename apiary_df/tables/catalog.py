"""Cell tables by name: a schema of all tables below a folder, and ``CREATE EXTERNAL TABLE ... STORED AS CELLS``.

DataFusion calls both from inside its own runtime, in which a session must not be used; so tables are made on a thread
of their own. How a table is made belongs to :mod:`apiary_df.tables.scan`.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeVar

import pyarrow as pa
from datafusion import SessionContext
from datafusion.catalog import SchemaProvider, Table, TableProviderFactory
from datafusion.plan import LogicalPlan

from apiary_df.errors import ApiaryError, TableError
from apiary_df.objects import list_objects, parse_location
from apiary_df.plan import listing
from apiary_df.store import StoreOptions
from apiary_df.tables.cells import CellTable, CsvOptions, check_format, default_endings
from apiary_df.tables.scan import to_dataframe

STORED_AS = "CELLS"
"""The word after ``STORED AS`` that names this kind of table."""

_T = TypeVar("_T")
_Key = tuple[str, tuple[str, ...]]
_DDL = re.compile(r"\bCREATE\b.*\bEXTERNAL\s+TABLE\b", re.IGNORECASE | re.DOTALL)
_PREFIXES = ("cells.", "format.")
_BOOLEANS = {"true": True, "false": False}


def _off_runtime(work: Callable[[], _T]) -> _T:
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(work).result()


def _alive(ctx: weakref.ref[SessionContext]) -> SessionContext:
    found = ctx()
    if found is None:
        raise TableError("cannot make a table for a session that is gone")
    return found


class CellSchemaProvider(SchemaProvider):
    """A DataFusion schema whose tables are the sub-folders and files below one place.

    ``place/orders/*.parquet`` and ``place/orders.parquet`` are both the table ``orders``. Tables are listed once and
    made at their first use; :meth:`refresh` forgets both.

    Args:
        ctx: The session that the schema is registered on; it is not kept alive.
        place: Path or URL of the folder.
        format: Format of all tables.
        file_extension: Ending of the files; None takes the format's usual ones.
        options: How to reach the store.
        csv: How CSV files are written.
        compression: Whole-file compression of CSV and JSON.
    """

    def __init__(
        self,
        ctx: SessionContext,
        place: str | Path,
        *,
        format: str = "parquet",
        file_extension: str | None = None,
        options: StoreOptions | None = None,
        csv: CsvOptions | None = None,
        compression: str | None = None,
    ) -> None:
        check_format(format, compression)
        self._ctx = weakref.ref(ctx)
        self._root = parse_location(place)
        self._endings = default_endings(format, compression) if file_extension is None else (file_extension,)
        self._file_extension = file_extension
        self._options = options
        self._format: dict[str, Any] = {"format": format, "csv": csv, "compression": compression}
        self._lock = Lock()
        self._places: dict[str, str] | None = None
        self._tables: dict[str, Table] = {}

    def table_names(self) -> set[str]:
        """Return the names of all tables.

        Raises:
            TableError: If the folder does not exist, or a name stands for both a file and a folder.
            StorageError: If the store cannot be asked.
        """
        return set(self._listed())

    def table_exist(self, name: str) -> bool:
        """Return whether there is a table of this name.

        Raises:
            TableError: As :meth:`table_names`.
            StorageError: If the store cannot be asked.
        """
        return name in self._listed()

    def table(self, name: str) -> Table | None:
        """Return a table; None if there is none of this name.

        Raises:
            TableError: If its files cannot be read as one table.
            StorageError: If the store cannot be asked.
        """
        place = self._listed().get(name)
        if place is None:
            return None
        with self._lock:
            known = self._tables.get(name)
        if known is not None:
            return known
        made = _off_runtime(lambda: self._make(place))
        with self._lock:
            return self._tables.setdefault(name, made)

    def refresh(self) -> None:
        """Forget what was listed; the next use sees the folder as it is then."""
        with self._lock:
            self._places = None
            self._tables = {}

    def _make(self, place: str) -> Table:
        cells = CellTable.from_prefix(place, file_extension=self._file_extension, options=self._options, **self._format)
        return to_dataframe(_alive(self._ctx), cells).into_view()

    def _listed(self) -> Mapping[str, str]:
        with self._lock:
            if self._places is None:
                self._places = self._list()
            return self._places

    def _list(self) -> dict[str, str]:
        places: dict[str, str] = {}
        for found in list_objects(self._root, self._options):
            ending = next((e for e in self._endings if found.key.endswith(e)), None)
            if ending is None or found.key.startswith(("_", ".")):
                continue
            head, slash, _ = found.key.partition("/")
            name = head if slash else head[: -len(ending)]
            url = self._root.below(head).url
            if places.setdefault(name, url) != url:
                raise TableError(f"cannot tell which table {name!r} is: both {places[name]} and {url} hold one")
        return places


class CellsTableFactory(TableProviderFactory):
    """Makes the tables of ``CREATE EXTERNAL TABLE ... STORED AS CELLS LOCATION '...'``.

    ``OPTIONS`` take ``cells.format``, ``cells.file_extension``, ``cells.hive``, ``cells.recursive``,
    ``cells.compression``, ``cells.has_header``, ``cells.delimiter`` and ``cells.schema_infer_max_rows``; the prefix
    may be left out.

    DataFusion hands a factory the names of declared columns without their types, and turns its errors into text. A
    session that runs statements inside :meth:`statement` gets the types across, and this package's errors back.

    Args:
        ctx: The session that the factory is registered on; it is not kept alive.
        options: How to reach the store.
    """

    def __init__(self, ctx: SessionContext, options: StoreOptions | None = None) -> None:
        self._ctx = weakref.ref(ctx)
        self._options = options
        self._lock = Lock()
        self._declared: dict[_Key, pa.Schema] = {}
        self._raised: dict[_Key, ApiaryError] = {}

    @contextmanager
    def statement(self, sql: str) -> Iterator[None]:
        """Wrap the execution of a statement, so that declared types and typed errors cross DataFusion.

        Raises:
            TableError: The factory's own, if the statement failed by it.
            StorageError: Likewise.
        """
        key = self._announce(sql) if _DDL.search(sql) else None
        try:
            yield
        except Exception as error:
            with self._lock:
                own = self._raised.pop(key, None) if key else None
            if own is None:
                raise
            raise own from error
        finally:
            if key:
                with self._lock:
                    self._declared.pop(key, None)
                    self._raised.pop(key, None)

    def create(self, cmd: Any) -> Table:
        """Make the table of a statement. Called by DataFusion.

        Raises:
            TableError: If the statement asks for what cells cannot do, or its files do not make a table.
            StorageError: If the store cannot be asked.
        """
        key = _key(cmd)
        try:
            return _off_runtime(lambda: self._make(cmd, key))
        except ApiaryError as error:
            with self._lock:
                self._raised[key] = error
            raise

    def _announce(self, sql: str) -> _Key | None:
        """Plan a statement without running it, and note the schema that it declares."""
        ctx = _alive(self._ctx)
        try:
            plan = SessionContext.sql(ctx, f"EXPLAIN {sql}").logical_plan()
            cmd = plan.inputs()[0].to_variant()
            data = plan.to_bytes(ctx)
        except Exception:  # noqa: BLE001 - what does not plan is reported when the statement itself runs
            return None
        if not hasattr(cmd, "table_partition_cols"):
            return None
        template = ctx.read_parquet("file:///declared", schema=pa.schema([]), file_extension="").logical_plan()
        scan = listing.with_declared_columns(template.to_bytes(ctx), data)
        if scan is not None:
            frame = ctx.create_dataframe_from_logical_plan(LogicalPlan.from_bytes(ctx, scan))
            with self._lock:
                self._declared[_key(cmd)] = frame.schema()
        return _key(cmd)

    def _make(self, cmd: Any, key: _Key) -> Table:
        if cmd.order_exprs() or cmd.unbounded():
            raise TableError(
                f"cannot create {cmd.name()}: WITH ORDER and UNBOUNDED do not go with STORED AS {STORED_AS}"
            )
        partitions = list(cmd.table_partition_cols())
        with self._lock:
            declared = self._declared.get(key)
        if declared is None and cmd.schema().field_names():
            raise TableError(
                f"cannot create {cmd.name()} with declared columns: DataFusion tells a table factory their names only, "
                f"not their types. Leave the column list out, or run the statement on an apiary_df session"
            )
        arguments = _arguments(cmd.options())
        schema = None
        if declared is not None:
            fields = [field for field in declared if field.name not in partitions]
            schema = pa.schema(fields) if fields else None
            arguments["partition_types"] = {f.name: f.type for f in declared if f.name in partitions}
        if partitions:
            arguments["hive"] = True
        tables = [CellTable.from_prefix(place, options=self._options, schema=schema, **arguments) for place in key[1]]
        table = tables[0] if len(tables) == 1 else _joined(tables)
        found = [name for name, _ in table.partition_columns]
        if partitions and found != partitions:
            raise TableError(f"cannot create {cmd.name()} partitioned by {partitions}: the files are by {found}")
        return to_dataframe(_alive(self._ctx), table).into_view()


def install(ctx: SessionContext, options: StoreOptions | None = None) -> CellsTableFactory:
    """Make ``STORED AS CELLS`` known to a session.

    Args:
        ctx: The session.
        options: How to reach the store that locations point into.

    Returns:
        The factory, whose :meth:`CellsTableFactory.statement` the session may use.
    """
    factory = CellsTableFactory(ctx, options)
    ctx.register_table_factory(STORED_AS, factory)
    return factory


def _key(cmd: Any) -> _Key:
    return str(cmd.name()), tuple(cmd.locations())


def _joined(tables: list[CellTable]) -> CellTable:
    first = tables[0]
    joined = CellTable.from_cells(
        (cell for table in tables for cell in table.cells),
        format=first.format,
        options=first.options,
        schema=first.schema,
        csv=first.csv,
        compression=first.compression,
    )
    types = {name: type_ for table in tables for name, type_ in table.partition_columns}
    same = all(table.partition_columns == first.partition_columns for table in tables)
    return replace(joined, partition_columns=tuple(types.items())) if same else joined


def _arguments(options: Mapping[str, str]) -> dict[str, Any]:
    """Turn the OPTIONS of a statement into arguments of :meth:`CellTable.from_prefix`.

    Raises:
        TableError: If an option is unknown or malformed.
    """
    plain = {_without_prefix(name): value for name, value in options.items()}
    arguments: dict[str, Any] = {}
    csv: dict[str, Any] = {}
    for name, value in plain.items():
        if name in ("format", "compression"):
            arguments[name] = value.lower()
        elif name == "file_extension":
            arguments[name] = value
        elif name == "hive":
            arguments[name] = _hive(value)
        elif name == "recursive":
            arguments[name] = _boolean(name, value)
        elif name == "has_header":
            csv[name] = _boolean(name, value)
        elif name == "delimiter":
            csv[name] = value
        elif name == "schema_infer_max_rows":
            if not value.isdecimal():
                raise TableError(f"the option {name} is a number of rows, not {value!r}")
            csv[name] = int(value)
        else:
            known = "format, file_extension, hive, recursive, compression, has_header, delimiter, schema_infer_max_rows"
            raise TableError(f"unknown option {name!r} of STORED AS {STORED_AS}; known are, after 'cells.': {known}")
    return {**arguments, "csv": CsvOptions(**csv)}


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


def _hive(value: str) -> bool | Literal["auto"]:
    return "auto" if value.lower() == "auto" else _boolean("hive", value)


def _boolean(name: str, value: str) -> bool:
    parsed = _BOOLEANS.get(value.lower())
    if parsed is None:
        raise TableError(f"the option {name} is true or false, not {value!r}")
    return parsed
