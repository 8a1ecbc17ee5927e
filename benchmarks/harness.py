"""What the small benchmarks share: sessions of both engines, alternating timings, and the facts that a figure needs.

Here belongs what benchmarks of one question do the same way. Suites on several engines are for :mod:`benchmarks.runs`.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import datafusion
import msgspec
import pyarrow as pa

import apiary_df
from apiary_df.report import QueryReport
from apiary_df.tables import register_object_store_for

BENCH_FOLDER = Path(".bench")
"""Where data is made; ignored by git."""

NODES_OPTION_HELP = "Node processes, of one bee each; the single process gets as many partitions."

_REPOSITORY = Path(__file__).resolve().parent.parent
_MEASURED_PACKAGES = ("apiary-df", "datafusion", "obstore", "pyarrow", "tpchgen-cli")

Query = Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds of the measured runs of one query on both engines, in the order in which they were run."""

    swarm_s: tuple[float, ...]
    single_s: tuple[float, ...]

    @property
    def swarm_median_s(self) -> float:
        """Median of the swarm's runs, in seconds."""
        return statistics.median(self.swarm_s)

    @property
    def single_median_s(self) -> float:
        """Median of the single process's runs, in seconds."""
        return statistics.median(self.single_s)

    @property
    def ratio(self) -> float:
        """How many times as long the swarm took, median to median."""
        return self.swarm_median_s / self.single_median_s


def measure(swarm: Query, single: Query, *, repeat: int) -> Timings:
    """Run both so many times in turn. Each goes first every other time, so that drift and caches favour neither."""
    swarm_s: list[float] = []
    single_s: list[float] = []
    for turn in range(repeat):
        both = [(swarm, swarm_s), (single, single_s)]
        for query, seconds in both if turn % 2 == 0 else both[::-1]:
            seconds.append(elapsed_s(query))
    return Timings(swarm_s=tuple(swarm_s), single_s=tuple(single_s))


def elapsed_s(query: Query) -> float:
    start = time.perf_counter()
    query()
    return time.perf_counter() - start


def open_swarm(storage: str | None, nodes: int, **settings: Any) -> apiary_df.SessionContext:
    """Start so many nodes of one bee on the storage, or on a temporary folder; closing the session stops them."""
    return apiary_df.SessionContext(storage=storage, nodes=nodes, progress=False, **settings)


def open_single(partitions: int) -> datafusion.SessionContext:
    """Open what the swarm is measured against: DataFusion in this process, its settings as they come."""
    return datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(partitions))


def register_tables(ctx: datafusion.SessionContext, tables: Mapping[str, str]) -> None:
    """Register Parquet files or folders, given by URL, so that both engines read the same objects."""
    for name, url in tables.items():
        register_object_store_for(ctx, url)
        ctx.register_parquet(name, url)


def run_on_swarm(ctx: apiary_df.SessionContext, sql: str) -> tuple[pa.Table, QueryReport | None]:
    """Run a query, and return its rows and what the swarm did for it."""
    table = ctx.sql(sql).to_arrow_table()
    return table, ctx.last_query


def report_json(report: QueryReport | None) -> dict[str, Any] | None:
    """Return what a report says of the query as a whole."""
    if report is None:
        return None
    names = ("distributed", "reason", "stages", "tasks", "bytes_through_storage", "requests")
    return {name: getattr(report, name) for name in names}


def environment() -> dict[str, Any]:
    """Return the facts without which a figure means nothing: the machine, its load, and the versions."""
    return {
        "machine": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_bytes": _memory_bytes(),
            "system": platform.platform(),
            "load_1min": os.getloadavg()[0],
        },
        "versions": {
            "python": platform.python_version(),
            "commit": _commit(),
            **{name: _version(name) for name in _MEASURED_PACKAGES},
        },
    }


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON for people and programs; dataclasses become objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


def timings_json(timings: Timings) -> dict[str, Any]:
    return {
        **asdict(timings),
        "swarm_median_s": timings.swarm_median_s,
        "single_median_s": timings.single_median_s,
        "ratio": timings.ratio,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(_REPOSITORY), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
