"""What an engine is to the benchmarks: the interface of adapters, and which adapters there are.

Nothing of an engine is imported here: the names alone are needed to plan a run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SINGLE = "datafusion"
"""The engine that the others are measured against: DataFusion in one process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What an engine is started with.

    Attributes:
        tables: Table name to a Parquet file, or a folder of them ending in a slash: a path, or a URL.
        workers: Threads of an engine that is one process, processes of one core each of one that is several.
        scratch: An empty folder of its own.
        root: Where the swarm keeps its objects; None: in a temporary folder.
        options: Settings of the engine itself, as ``engine:name=value`` gave them.
    """

    tables: Mapping[str, str]
    workers: int
    scratch: str
    root: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


class Engine(ABC):
    """An engine in this process. Methods raise whatever their engine raises; the host tells it on."""

    @abstractmethod
    def start(self, setup: Setup) -> None:
        """Start everything that a query needs, and make the tables known."""

    @abstractmethod
    def run(self, sql: str) -> Any:
        """Run a query and return all of its rows as an Arrow table."""

    def report(self) -> dict[str, Any] | None:
        """Return what the engine tells of the last query; None if it tells nothing."""
        return None

    @abstractmethod
    def close(self) -> None:
        """End whatever ``start`` started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An engine that can be asked for.

    Attributes:
        name: As ``--engines`` takes it.
        adapter: Module and class of the adapter, with a colon between.
        package: The distribution whose version counts.
        what: What runs, for people.
        extra: The extra that installs it.
        foreign: Whether it may live in an environment of its own, since it wants other versions of common packages.
        distributed: Whether its workers are separate, or could be on separate machines.
        plain_tables: Whether it reads neither string views nor all decimals, and is given tables without them.
        target: How many times as fast as it the swarm is meant to be in total; None: it is only looked at.
    """

    name: str
    adapter: str
    package: str
    what: str
    extra: str = "bench"
    foreign: bool = False
    distributed: bool = False
    plain_tables: bool = False
    target: float | None = None


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="swarm",
            adapter="benchmarks.engines.swarm:Swarm",
            package="apiary-df",
            what="node processes of one bee each",
            distributed=True,
        ),
        Kind(
            name=SINGLE,
            adapter="benchmarks.engines.single:Single",
            package="datafusion",
            what="one process, as many partitions as workers",
        ),
        Kind(name="duckdb", adapter="benchmarks.engines.duck:Duck", package="duckdb", what="one process"),
        Kind(
            name="sail",
            adapter="benchmarks.engines.sail:Sail",
            package="pysail",
            what="local cluster, workers over Flight",
            extra="bench-sail",
            foreign=True,
            distributed=True,
            target=1.3,
        ),
        Kind(
            name="sail-storage",
            adapter="benchmarks.engines.sail:SailOnStorage",
            package="pysail",
            what="local cluster, shuffles through storage",
            extra="bench-sail",
            foreign=True,
            distributed=True,
            target=1.7,
        ),
        Kind(
            name="daft-ray",
            adapter="benchmarks.engines.daft:DaftOnRay",
            package="daft",
            what="Ray on this machine",
            extra="bench-daft",
            foreign=True,
            distributed=True,
            plain_tables=True,
            target=1.9,
        ),
        Kind(
            name="daft",
            adapter="benchmarks.engines.daft:Daft",
            package="daft",
            what="native runner, one process",
            extra="bench-daft",
            foreign=True,
            plain_tables=True,
        ),
        Kind(
            name="spark",
            adapter="benchmarks.engines.spark:Spark",
            package="pyspark",
            what="local cluster of executors of one core",
            extra="bench-spark",
            foreign=True,
            distributed=True,
            target=7.0,
        ),
    )
}
"""Name to engine, in the order in which ``--engines all`` takes them."""
