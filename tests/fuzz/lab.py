"""Sessions of every kind over one set of random tables: plain ones, swarms of several sizes, DuckDB."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any

import datafusion
import duckdb
import pyarrow as pa

from apiary_df import SessionContext
from apiary_df.report import QueryReport

from .tables import Table, register, write_table

BEES = (1,) * 4 + (2,) * 6 + (3,) * 6 + (7,) * 2 + (16,)
"""Sizes of the swarms, as often as they are drawn: a query on sixteen bees costs as much as five on three."""

FORCED: Mapping[str, Any] = {
    "small_bytes": 0,
    "finish_here_bytes": 0,
    "min_task_bytes": 0,
    "min_cell_bytes": 1,
    "skew_from_bytes": 0,
    "skew_factor": 1,
    "reuse_from_values": 1e-6,
    "timeout_s": 120,
    "suspect_after_s": 300,
    "dead_after_s": 600,
    "gc_grace_s": 1200,
}
"""Settings under which nothing is too small to be distributed, or to be dealt out, nor has too few values to lie by,
and nothing waits for ever; a row group is a cell. Nor does a node that a busy machine keeps silent for seconds make
queries run in the session."""

ENDING_HERE: Mapping[str, Any] = {
    "finish_here_bytes": 1 << 40,
    "finish_here_threads": 3,
    "finish_here_part_bytes": 0,
}
"""Settings under which the session does all that is left after the first stage, in several threads."""

ENDING_HERE_SHARE = 0.3
"""Share of the settings that are drawn so."""

_BROADCAST_BYTES = "datafusion.optimizer.hash_join_single_partition_threshold"
_BROADCAST_ROWS = "datafusion.optimizer.hash_join_single_partition_threshold_rows"
_HASH_JOINS = "datafusion.optimizer.prefer_hash_join"
_BATCH_ROWS = "datafusion.execution.batch_size"
_PUSHED_FILTERS = "datafusion.execution.parquet.pushdown_filters"

OPTIONS: tuple[Mapping[str, str], ...] = (
    {},
    {},
    {_BROADCAST_BYTES: "0", _BROADCAST_ROWS: "0"},
    {_BROADCAST_BYTES: "0", _BROADCAST_ROWS: "0", _BATCH_ROWS: "5"},
    {_HASH_JOINS: "false"},
    {_PUSHED_FILTERS: "true", _BATCH_ROWS: "11"},
)
"""DataFusion options under which plans take other shapes: collected, shuffled and merged joins, tiny batches."""

_DEFAULTS: Mapping[str, str] = {
    _BROADCAST_BYTES: "1048576",
    _BROADCAST_ROWS: "131072",
    _HASH_JOINS: "true",
    _BATCH_ROWS: "8192",
    _PUSHED_FILTERS: "false",
}

PLAIN_VARIANTS: tuple[Mapping[str, str], ...] = (
    {"datafusion.execution.target_partitions": "1"},
    {"datafusion.execution.target_partitions": "7", _BATCH_ROWS: "3"},
    {"datafusion.execution.target_partitions": "3", _BROADCAST_BYTES: "0", _BROADCAST_ROWS: "0"},
    {"datafusion.execution.target_partitions": "3", _HASH_JOINS: "false"},
    {"datafusion.optimizer.repartition_sorts": "false"},
    {
        "datafusion.optimizer.enable_dynamic_filter_pushdown": "false",
        "datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery": "false",
    },
)
"""Ways to run a query in one process; DataFusion's own answers differ between them only by a bug of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What queries run over: the tables, the size of the swarm, the options of all sessions, and where they end."""

    tables: tuple[Table, ...]
    bees: int
    options: Mapping[str, str]
    ends_here: bool = False

    def describe(self) -> str:
        """Say in a few lines what it is."""
        shown = ", ".join(f"{name}={value}" for name, value in self.options.items()) or "defaults"
        where = ", ended in the session" if self.ends_here else ""
        return "\n".join([f"{self.bees} bees, {shown}{where}", *(table.describe() for table in self.tables)])


def draw_setting(random: Random, draw: Callable[[Random], tuple[Table, ...]], bees: Sequence[int] = BEES) -> Setting:
    """Draw tables, a swarm and options."""
    tables, count, options = draw(random), random.choice(bees), random.choice(OPTIONS)
    return Setting(tables=tables, bees=count, options=options, ends_here=random.random() < ENDING_HERE_SHARE)


class Lab:
    """Holds the sessions; swarms are started when they are first needed.

    Args:
        folder: Where tables and roots are written; a temporary folder, removed at the end, if None.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._exit = ExitStack()
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="apiary-fuzz-"))
            self._exit.callback(shutil.rmtree, folder, ignore_errors=True)
        self.folder = folder
        self.plain = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(2))
        self._swarms: dict[tuple[int, bool], SessionContext] = {}
        self._known: dict[int, list[str]] = {}
        self._setting: Setting | None = None

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    @property
    def swarm(self) -> SessionContext:
        """The swarm of the present setting."""
        assert self._setting is not None
        kind = bees, ends_here = self._setting.bees, self._setting.ends_here
        if kind not in self._swarms:
            root = Path(tempfile.mkdtemp(prefix=f"root-{bees}-", dir=self.folder))
            settings = {**FORCED, **ENDING_HERE} if ends_here else FORCED
            ctx = SessionContext(storage=str(root), local_bees=bees, **settings)
            self._swarms[kind] = self._exit.enter_context(ctx)
        return self._swarms[kind]

    @property
    def last_report(self) -> QueryReport:
        """What the newest query of the swarm did."""
        report = self.swarm.last_query
        assert report is not None
        return report

    def prepare(self, setting: Setting) -> None:
        """Write the tables of a setting, and make them and its options known to the plain session and its swarm."""
        self._setting = setting
        for table in setting.tables:
            write_table(table, self.folder / table.name)
        for ctx in (self.plain, self.swarm):
            # The options first: a table keeps those of Parquet that hold when it is registered.
            for name, value in {**_DEFAULTS, **setting.options}.items():
                ctx.sql(f"SET {name} = '{value}'").collect()
            self._replace_tables(ctx, setting)

    def _replace_tables(self, ctx: datafusion.SessionContext, setting: Setting) -> None:
        for name in self._known.get(id(ctx), []):
            ctx.deregister_table(name)
        for table in setting.tables:
            register(ctx, table, self.folder / table.name)
        self._known[id(ctx)] = [table.name for table in setting.tables]

    def plain_variants(self) -> list[datafusion.SessionContext]:
        """Return plain sessions over the present tables that plan in other ways."""
        assert self._setting is not None
        variants = []
        for options in PLAIN_VARIANTS:
            ctx = datafusion.SessionContext(datafusion.SessionConfig({**self._setting.options, **options}))
            for table in self._setting.tables:
                register(ctx, table, self.folder / table.name)
            variants.append(ctx)
        return variants

    def ask_duckdb(self, sql: str) -> pa.Table:
        """Return DuckDB's answer over the same files, or over the same rows where the format is not Parquet."""
        assert self._setting is not None
        with duckdb.connect() as connection:
            connection.execute("SET threads = 1")
            for table in self._setting.tables:
                files = sorted(str(path) for path in (self.folder / table.name).glob("*.parquet"))
                if table.format == "parquet" and files:
                    connection.read_parquet(files).create_view(table.name)
                else:
                    rows = pa.concat_tables(table.parts) if table.parts else table.schema.empty_table()
                    connection.from_arrow(rows).create(table.name)
            return connection.sql(sql).to_arrow_table()
