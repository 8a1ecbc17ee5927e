"""What queries there are, and what a task's work comes to when rows are no more than an id and a count.

The stage graphs are real: planned by DataFusion, rewritten, cut, and folded by the shipped code. Only the running of a
fragment is reckoned here: each operator does to (id, count) pairs what its name says. An id that is lost or read twice
on the way shows in the answer.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq

from apiary_df.costs import ShufflePlanning
from apiary_df.model import ScanFile, SegmentRef, TaskSpec
from apiary_df.plan import codec
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.stages import ScanLeaf, StageGraph
from apiary_df.plan.tree import PlanNode
from apiary_df.planning import RunsOnSwarm, SwarmPlanner
from apiary_df.protocol.lost import read_or_lost
from apiary_df.protocol.partial import materialize, read_partial
from apiary_df.query import Query
from apiary_df.store import Store

IDS_PER_CELL = 4
"""Rows of a cell."""

LIMIT = 7
"""Rows of the sorted shape."""

PARTITIONS = 3
"""Partitions of shuffles."""

SCHEMA = pa.schema([("id", pa.int64()), ("n", pa.int64())])

Row = tuple[int, int]
"""An id, and how often it was counted."""

SHAPES = {
    "scan": "SELECT id, n FROM a",
    "aggregate": "SELECT id, sum(n) AS n FROM a GROUP BY id",
    "broadcast": "SELECT b.id, a.n * b.n AS n FROM a JOIN b ON a.id = b.id",
    "join": "SELECT b.id, a.n * b.n AS n FROM a JOIN b ON a.id = b.id",
    "sorted": f"SELECT id, n FROM a ORDER BY id LIMIT {LIMIT}",
    "deep": "SELECT x.id, sum(x.n) AS n FROM (SELECT id, sum(n) AS n FROM a GROUP BY id) x "
    "JOIN (SELECT id FROM b) y ON x.id = y.id GROUP BY x.id",
    "combined": "SELECT id, sum(n) AS n FROM a GROUP BY id",
}
"""Shapes of queries by name."""

_SHUFFLED = frozenset({"join", "deep"})
"""Shapes whose joins shuffle both sides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A query of a shape over tables of a certain size.

    Attributes:
        shape: Its name.
        query: What the session runs.
        expected: The rows that it must give, in order of id.
    """

    shape: str
    query: Query
    expected: tuple[Row, ...]


@functools.cache
def _graphs() -> dict[str, tuple[StageGraph, dict[str, str]]]:
    """Plan every shape once, over small files that are gone afterwards."""
    found: dict[str, tuple[StageGraph, dict[str, str]]] = {}
    with tempfile.TemporaryDirectory(prefix="apiary-simulation-") as folder:
        for shape, sql in SHAPES.items():
            ctx = datafusion.SessionContext()
            if shape in _SHUFFLED:
                for side in ("", "_rows"):
                    option = f"datafusion.optimizer.hash_join_single_partition_threshold{side}"
                    ctx.sql(f"SET {option} = 0")
            for table in ("a", "b"):
                place = Path(folder) / table
                place.mkdir(exist_ok=True)
                for part in range(PARTITIONS):
                    pq.write_table(pa.table({"id": [part], "n": [1]}, schema=SCHEMA), place / f"{part}.parquet")
                ctx.register_parquet(table, str(place))
            logical = ctx.sql(sql).optimized_logical_plan()
            shuffles = ShufflePlanning(from_dollars=-1) if shape == "combined" else None
            options = RewriteOptions(partitions=PARTITIONS, small_bytes=0, shuffles=shuffles)
            planned = SwarmPlanner(ctx, lambda _twin: None).plan(logical, options)
            assert isinstance(planned, RunsOnSwarm), (shape, planned.reason)
            found[shape] = planned.graph, dict(planned.settings)
    return found


def ask(shape: str, cells: int, random: Random) -> Ask:
    """Return a query over two tables of so many cells, of any sizes."""
    graph, settings = _graphs()[shape]
    files = {table: _files(table, cells, random) for table in ("a", "b")}
    stages = tuple(replace(s, leaves=tuple(_leaf(leaf, files) for leaf in s.leaves)) for s in graph.stages)
    query = Query(
        sql=SHAPES[shape],
        graph=StageGraph(stages=stages),
        settings=settings,
        schema=lambda: SCHEMA,
        reason="it is simulated",
    )
    ids = range(cells * IDS_PER_CELL)
    return Ask(shape=shape, query=query, expected=tuple((i, 1) for i in (ids[:LIMIT] if shape == "sorted" else ids)))


def _files(table: str, cells: int, random: Random) -> tuple[ScanFile, ...]:
    return tuple(ScanFile(path=f"{table}/{i}.parquet", size_bytes=random.randrange(1, 64 << 20)) for i in range(cells))


def _leaf(leaf: object, files: dict[str, tuple[ScanFile, ...]]) -> ScanLeaf:
    if not isinstance(leaf, ScanLeaf):
        return leaf  # type: ignore[return-value]
    table = leaf.files[0].path.split("/")[-2]
    return replace(leaf, files=files[table], splittable=False, format="csv_scan")


# -- what a task does -------------------------------------------------------------------------------------------------


def rows_of_task(fragment: PlanNode, task: TaskSpec, store: Store, scratch: Path) -> list[Row]:
    """Return the rows of a fragment over a task's share, in one list whatever partitions it has.

    Args:
        fragment: The stage's fragment.
        task: What it reads.
        store: Where partials lie; every byte of them goes through the shipped checks.
        scratch: A folder for fetched partials.

    Raises:
        ApiaryError: If a partial cannot be read or is damaged.
    """
    leaves: dict[int, list[Row]] = {scan.leaf: _rows_of_cells(scan.files) for scan in task.scans}
    for exchange in task.exchanges:
        rows: list[Row] = []
        for ref in exchange.segments:
            for batch in read_or_lost(ref.key, functools.partial(_batches, store, ref, scratch)):
                rows.extend(_rows_of(batch))
        leaves[exchange.leaf] = rows
    scans = iter(range(sum(node.is_file_scan for node in fragment.walk())))
    return _reckon(fragment, scans, leaves)


def _batches(store: Store, ref: SegmentRef, scratch: Path) -> list[pa.RecordBatch]:
    """Fetch a segment as bees do, then decode it."""
    return read_partial(materialize(store, [ref], scratch / "input.arrow").read_bytes(), ref)


def partition_of(row_id: int, partitions: int) -> int:
    """Return the shuffle partition of an id."""
    return row_id % partitions


def batch_of(rows: Sequence[Row], schema: pa.Schema) -> pa.RecordBatch:
    """Return rows as a batch; columns are told apart by their names."""
    columns = [pa.array([row[0 if "id" in field.name else 1] for row in rows], type=field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _rows_of(batch: pa.RecordBatch) -> Iterator[Row]:
    names = batch.schema.names
    where = next(i for i, name in enumerate(names) if "id" in name)
    ids = batch.column(where).to_pylist()
    if len(names) == 1:
        return zip(ids, [1] * len(ids), strict=True)
    return zip(ids, batch.column(1 - where).to_pylist(), strict=True)


def _rows_of_cells(files: Sequence[ScanFile]) -> list[Row]:
    numbers = (int(Path(file.path).stem) for file in files)
    return [(number * IDS_PER_CELL + i, 1) for number in numbers for i in range(IDS_PER_CELL)]


def _reckon(node: PlanNode, scans: Iterator[int], leaves: dict[int, list[Row]]) -> list[Row]:
    if node.is_file_scan:
        return leaves.get(next(scans), [])
    inputs = [_reckon(child, scans, leaves) for child in node.children]
    if node.kind == "aggregate":
        return list(_summed(inputs[0]).items())
    if node.kind in {"hash_join", "sort_merge_join"}:
        build = _summed(inputs[0])
        return [(row_id, n * build[row_id]) for row_id, n in inputs[1] if row_id in build]
    rows = [row for rows in inputs for row in rows]
    fetch = _fetch_of(node)
    return rows if fetch is None else sorted(rows)[:fetch]


def _summed(rows: Sequence[Row]) -> dict[int, int]:
    sums: dict[int, int] = {}
    for row_id, n in rows:
        sums[row_id] = sums.get(row_id, 0) + n
    return sums


@functools.lru_cache(maxsize=256)
def _fetch_of(node: PlanNode) -> int | None:
    if node.kind not in {"sort", "sort_preserving_merge"}:
        return None
    fetch = codec.fields_of(node).fetch
    return fetch if fetch > 0 else None
