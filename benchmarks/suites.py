"""The suites: queries, and tables at a scale, made once and kept.

SSB and ClickBench's shapes have modules of their own, since the tests compare their answers over small tables. Here
belong the suites that only measure: shuffles, latency, planning. How queries are run is for :mod:`benchmarks.runs`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apiary_df.demo import tpch_queries
from apiary_df.demo.data import generate_tpch, tpch_paths
from benchmarks import hits, star

ROW_GROUP_ROWS = 131_072
"""Rows of a row group in the tables that are made here: enough of them at scale 1 to be shared out evenly."""

SHUFFLE_ROWS = 4_000_000
"""Rows of the shuffle suite's larger table at scale 1: about a hundred megabytes through each shuffle."""

HITS_ROWS = 1_000_000
"""Rows of ClickBench's table at scale 1, a hundredth of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSuite:
    """Queries over tables that can be made at any scale.

    Attributes:
        name: As ``--suite`` takes it.
        what: What it shows, for people.
        data: Name of its tables; suites of the same name share them.
        make: Fills an empty folder with the tables of a scale, each a Parquet file or a folder of such, and returns
            where each lies. Called again on a folder that it filled, it finds them there.
        queries: Name to SQL, in the order in which they run.
        first: The query whose first row is waited for after a cold start.
        compare: Whether answers are compared: what plans say differs from engine to engine.
    """

    name: str
    what: str
    data: str
    make: Callable[[Path, float], Mapping[str, Path]]
    queries: Mapping[str, str]
    first: str
    compare: bool = True


def _tpch_tables(folder: Path, scale: float) -> Mapping[str, Path]:
    generate_tpch(folder, scale)
    return tpch_paths(folder)


def _ssb_tables(folder: Path, scale: float) -> Mapping[str, Path]:
    sizes = star.Sizes(
        lineorder=max(1_000, int(6_000_000 * scale)),
        customer=max(300, int(30_000 * scale)),
        supplier=max(100, int(2_000 * scale)),
        part=max(1_000, int(200_000 * (1 + np.log2(max(1.0, scale))) * min(1.0, scale))),
    )
    return _written(folder, ("customer", "supplier", "part", "dates", "lineorder"), lambda: star.make_star(sizes))


def _hits_tables(folder: Path, scale: float) -> Mapping[str, Path]:
    return _written(folder, ("hits",), lambda: [("hits", hits.make_hits(max(24_000, int(HITS_ROWS * scale))))])


def _shuffle_tables(folder: Path, scale: float) -> Mapping[str, Path]:
    return _written(folder, ("facts", "keys"), lambda: make_shuffled(max(1_000, int(SHUFFLE_ROWS * scale))))


def make_shuffled(rows: int) -> Iterable[tuple[str, pa.Table]]:
    """Yield two tables in no order, the same ones each time: facts, and a key table half as long.

    ``k`` has about as many values as the key table has rows, ``g`` a thousand, ``z`` one that half of the rows have.
    """
    rng = np.random.default_rng(7)
    keys = rows // 2
    texts = np.array([f"payload of row {i:05}" for i in range(10_000)])
    yield (
        "facts",
        pa.table(
            {
                "k": rng.integers(0, keys, rows),
                "g": rng.integers(0, 1_000, rows),
                "z": np.where(rng.random(rows) < 0.5, 0, rng.integers(0, keys, rows)),
                "v": rng.integers(0, 1_000_000, rows),
                "t": texts[rng.integers(0, len(texts), rows)],
            }
        ),
    )
    yield "keys", pa.table({"id": rng.permutation(keys), "w": rng.integers(0, 1_000, keys)})


def _written(
    folder: Path, names: Iterable[str], make: Callable[[], Iterable[tuple[str, pa.Table]]]
) -> Mapping[str, Path]:
    paths = {name: folder / f"{name}.parquet" for name in names}
    if not all(path.exists() for path in paths.values()):
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in make():
            # Renamed when it is whole: a run that was interrupted leaves nothing that looks like a table.
            unfinished = folder / f"{name}.unfinished"
            pq.write_table(table, unfinished, row_group_size=ROW_GROUP_ROWS)
            unfinished.replace(paths[name])
    return paths


def plain_tables(tables: Mapping[str, Path], folder: Path) -> Mapping[str, Path]:
    """Write tables once more without string views and decimals, for engines that do not read these.

    Args:
        tables: Name to Parquet file.
        folder: Where they go; those that are there are kept.

    Returns:
        Name to Parquet file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, path in tables.items():
        written[name] = folder / path.name
        if written[name].exists():
            continue
        unfinished = folder / f"{name}.unfinished"
        with pq.ParquetFile(path) as source:
            schema = pa.schema([pa.field(f.name, _plain(f.type), f.nullable) for f in source.schema_arrow])
            with pq.ParquetWriter(unfinished, schema) as target:
                for group in range(source.num_row_groups):
                    target.write_table(source.read_row_group(group).cast(schema))
        unfinished.replace(written[name])
    return written


def _plain(kind: pa.DataType) -> pa.DataType:
    if kind == pa.string_view():
        return pa.string()
    return pa.float64() if pa.types.is_decimal(kind) else kind


def make_tables(suite: BenchSuite, base: Path, scale: float) -> Mapping[str, Path]:
    """Make a suite's tables below a folder, unless they are there.

    Raises:
        ConfigError: The scale makes no sense, or a generator is not installed.
        TableError: A generator failed.
    """
    folder = base / f"{suite.data}-{scale:g}"
    try:
        return {name: path.resolve() for name, path in suite.make(folder, scale).items()}
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


_SHUFFLES = {
    "group": "SELECT count(*) AS n, sum(s) AS s FROM (SELECT k, sum(v) AS s FROM facts GROUP BY k) q",
    "distinct": "SELECT count(DISTINCT k) AS n FROM facts",
    "join": "SELECT count(*) AS n, sum(f.v * d.w) AS s FROM facts f JOIN keys d ON f.k = d.id",
    "self join": """
        SELECT count(*) AS n, sum(a.v) AS s FROM facts a JOIN facts b ON a.k = b.k WHERE a.g < 100 AND b.g >= 900
    """,
    "skewed join": "SELECT count(*) AS n, sum(f.v * d.w) AS s FROM facts f JOIN keys d ON f.z = d.id",
    "wide group": """
        SELECT count(*) AS n, min(t) AS least FROM (SELECT k, max(t) AS t, sum(v) AS s FROM facts GROUP BY k) q
    """,
    "window": """
        SELECT sum(v) AS s FROM (SELECT v, row_number() OVER (PARTITION BY g ORDER BY v, k) AS r FROM facts) q
        WHERE r <= 10
    """,
    "top": "SELECT k, v, t FROM facts ORDER BY v DESC, k, t LIMIT 1000",
}

_SMALL = {
    "count": "SELECT count(*) AS n FROM lineitem WHERE l_quantity < 24 AND l_shipdate >= DATE '1994-01-01'",
    "look-up": "SELECT o_orderkey, o_totalprice FROM orders WHERE o_orderkey = 32",
    "group": "SELECT l_shipmode, count(*) AS n FROM lineitem GROUP BY l_shipmode ORDER BY l_shipmode",
    "join": """
        SELECT n_name, count(*) AS n FROM customer JOIN nation ON c_nationkey = n_nationkey GROUP BY n_name
        ORDER BY n_name
    """,
    "top": "SELECT o_orderkey, o_totalprice FROM orders ORDER BY o_totalprice DESC, o_orderkey LIMIT 10",
    "two stages": """
        SELECT count(*) AS n FROM (SELECT o_custkey, count(*) AS c FROM orders GROUP BY o_custkey) q WHERE c > 10
    """,
}

_TPCH = {f"Q{number}": sql for number, sql in tpch_queries().items()}

SUITES: Mapping[str, BenchSuite] = {
    suite.name: suite
    for suite in (
        BenchSuite(
            name="tpch",
            what="TPC-H, 22 queries over eight tables",
            data="tpch",
            make=_tpch_tables,
            queries=_TPCH,
            first="Q6",
        ),
        BenchSuite(
            name="ssb",
            what="Star Schema Benchmark, 13 queries over a star of five tables",
            data="ssb",
            make=_ssb_tables,
            queries=star.QUERIES,
            first="q1.1",
        ),
        BenchSuite(
            name="clickbench",
            what="ClickBench's 43 shapes over one table of web hits",
            data="hits",
            make=_hits_tables,
            queries={f"q{number:02}": sql for number, sql in enumerate(hits.QUERIES)},
            first="q01",
        ),
        BenchSuite(
            name="shuffle",
            what="queries that do little but hand rows over",
            data="shuffle",
            make=_shuffle_tables,
            queries=_SHUFFLES,
            first="distinct",
        ),
        BenchSuite(
            name="latency",
            what="small queries over TPC-H's tables: what a query costs before it does anything",
            data="tpch",
            make=_tpch_tables,
            queries=_SMALL,
            first="count",
        ),
        BenchSuite(
            name="planner",
            what="EXPLAIN of the TPC-H queries: planning alone",
            data="tpch",
            make=_tpch_tables,
            queries={name: f"EXPLAIN {sql}" for name, sql in _TPCH.items()},
            first="Q6",
            compare=False,
        ),
    )
}
"""Name to suite."""
