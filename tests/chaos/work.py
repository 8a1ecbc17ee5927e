"""What sessions ask of a swarm: queries and writes whose answers are known, and the judgement of each answer."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import datafusion
import pyarrow as pa

from apiary_df import SessionContext
from apiary_df.demo import TPCH_ORDER_COLUMNS, tpch_queries
from apiary_df.demo.data import generate_tpch, tpch_paths
from apiary_df.objects import register_object_store_for
from apiary_df.store import Store, open_store
from apiary_df.store_options import StoreOptions
from apiary_df.testing import compare_tables

WRITTEN = "SELECT l_orderkey, l_linenumber, l_shipmode, l_extendedprice FROM lineitem WHERE l_quantity < 25"
"""Rows that writes write: about half of the largest table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """Something that a session does again and again.

    Attributes:
        name: What it is called in reports.
        run: Does it in a session, and returns the first difference between its answer and the right one, or None.
    """

    name: str
    run: Callable[[SessionContext], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Tables, where they lie for the swarm, and what to do with them.

    Attributes:
        tables: Table name to the URL or the folder of its files.
        errands: What sessions do.
        written: URL below which writes put their files.
        options: How the URLs are reached.
    """

    tables: Mapping[str, str]
    errands: tuple[Errand, ...]
    written: str
    options: StoreOptions | None

    def register(self, ctx: datafusion.SessionContext) -> None:
        """Make the tables known to a session."""
        for name, place in self.tables.items():
            ctx.register_parquet(name, place)


def make_work(
    folder: Path, store: Store, options: StoreOptions | None, *, scale: float, parts: int, only: frozenset[int]
) -> Work:
    """Make tables and errands; plain DataFusion gives the right answers.

    Args:
        folder: Where the tables are generated.
        store: Root of the place that cells and written files go to; if it is a folder, cells stay where they are.
        options: How it is reached.
        scale: TPC-H scale.
        parts: Files of each table.
        only: Numbers of the queries to run; none of them means all.
    """
    generate_tpch(folder, scale, parts)
    local = {name: str(path) for name, path in tpch_paths(folder).items()}
    plain = datafusion.SessionContext()
    for name, place in local.items():
        plain.register_parquet(name, place)
    queries = {number: sql for number, sql in tpch_queries().items() if not only or number in only}
    errands = [_query(number, sql, plain.sql(sql).to_arrow_table()) for number, sql in queries.items()]
    written = f"{store.url}/written"
    errands.append(_write(written, options, plain.sql(WRITTEN).to_arrow_table()))
    tables = local if store.kind == "folder" else _upload(local, store)
    return Work(tables=tables, errands=tuple(errands), written=written, options=options)


def _upload(local: Mapping[str, str], store: Store) -> dict[str, str]:
    for name, place in local.items():
        for part in sorted(Path(place).glob("*.parquet")) if Path(place).is_dir() else [Path(place)]:
            store.put(f"cells/{name}/{part.name}", part)
    return {name: f"{store.url}/cells/{name}/" for name in local}


def _query(number: int, sql: str, expected: pa.Table) -> Errand:
    columns = TPCH_ORDER_COLUMNS[number]

    def run(ctx: SessionContext) -> str | None:
        difference = compare_tables(
            expected, ctx.sql(sql).to_arrow_table(), ordered=bool(columns), order_columns=columns or None
        )
        return None if difference is None else str(difference)

    return Errand(name=f"q{number:02}", run=run)


def _write(base: str, options: StoreOptions | None, expected: pa.Table) -> Errand:
    def run(ctx: SessionContext) -> str | None:
        place = f"{base}/{uuid.uuid4().hex}"
        counted = ctx.sql(f"COPY ({WRITTEN}) TO '{place}/' STORED AS PARQUET").to_arrow_table()
        if counted.column(0).to_pylist() != [expected.num_rows]:
            return f"COPY says {counted.to_pylist()}, not {expected.num_rows} rows"
        reader = datafusion.SessionContext()
        register_object_store_for(reader, place, options)
        difference = compare_tables(
            expected, reader.read_parquet(f"{place}/").to_arrow_table(), ordered=False, exact_types=False
        )
        if difference is not None:
            return str(difference)
        store = open_store(place, options)
        others = [meta.key for meta in store.list("") if not meta.key.endswith(".parquet") or "/" in meta.key]
        store.delete([meta.key for meta in store.list("")])
        return f"COPY has left {others}" if others else None

    return Errand(name="copy", run=run)
