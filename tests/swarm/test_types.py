"""Every Arrow type through scans, shuffles, broadcasts, sorts and results: plain DataFusion's values, under its schema.

Whatever DataFusion itself cannot do with a type (group by it, sort by it) is passed over; what it can, the swarm can.
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datafusion
import pyarrow as pa
import pytest
from pyarrow import ipc

from apiary_df import LocalSwarm, SessionContext, Settings
from swarm.helpers import FORCED, wait_until_idle

FILES, BATCHES, BATCH_ROWS = 3, 2, 12
ROWS = FILES * BATCHES * BATCH_ROWS
LONG = "long " * 14_000
"""More than 64 KiB."""

NS_PER_DAY = 86_400 * 10**9
MOMENT = dt.datetime(2024, 2, 29, 23, 59, 58, 123456)

Make = Callable[[int], Any]


def plain_values(values: Sequence[Any], type_: pa.DataType) -> Callable[[range], pa.Array]:
    """Return what makes a column that repeats some values, every seventh row NULL."""

    def column(ids: range) -> pa.Array:
        return pa.array([None if i % 7 == 3 else values[i % len(values)] for i in ids], type_)

    return column


def encoded(type_: pa.DataType) -> Callable[[range], pa.Array]:
    """Return what makes a column under a dictionary that is another one in every batch."""

    def column(ids: range) -> pa.Array:
        words = [None if i % 7 == 3 else f"w{(i + ids.start) % 5}" for i in ids]
        return pa.array(words, type_.value_type).dictionary_encode().cast(type_)

    return column


def run_ends(type_: pa.DataType) -> Callable[[range], pa.Array]:
    def column(ids: range) -> pa.Array:
        ends = pa.array(range(3, len(ids) + 1, 3), type_.run_end_type)
        values = pa.array([None if i % 3 == 2 else i % 4 for i in range(len(ends))], type_.value_type)
        return pa.RunEndEncodedArray.from_arrays(ends, values)

    return column


def dictionary_of_nested(ids: range) -> pa.Array:
    values = pa.array([[1, 2], [], None, [3]], pa.list_(pa.int64()))
    return pa.DictionaryArray.from_arrays(pa.array([i % 4 for i in ids], pa.int32()), values)


def nested_dictionary(ids: range) -> pa.Array:
    words = pa.array([f"w{(i + ids.start) % 3}" for i in ids]).dictionary_encode()
    return pa.StructArray.from_arrays([words, pa.array([i % 2 for i in ids])], names=["word", "n"])


def dense_union(ids: range) -> pa.Array:
    kinds = pa.array([i % 2 for i in ids], pa.int8())
    offsets = pa.array([n // 2 for n in range(len(ids))], pa.int32())
    half = range(len(ids) // 2)
    values = [pa.array([i % 3 for i in half]), pa.array([f"u{i % 3}" for i in half])]
    return pa.UnionArray.from_dense(kinds, offsets, values)


def sparse_union(ids: range) -> pa.Array:
    kinds = pa.array([i % 2 for i in ids], pa.int8())
    return pa.UnionArray.from_sparse(kinds, [pa.array([i % 3 for i in ids]), pa.array([f"u{i % 3}" for i in ids])])


def uuids(ids: range) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes([i % 3]) * 16 for i in ids], pa.binary(16)))


D = decimal.Decimal
FLOATS = [0.0, -0.0, 1.5, -2.25, math.nan, math.inf, -math.inf]

COLUMNS: dict[str, Callable[[range], pa.Array]] = {
    **{str(t): plain_values([0, 1, 2, 100], t) for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(t): plain_values([0, 1, 2, 200], t) for t in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    "int64_ends": plain_values([-(2**63), 2**63 - 1, 0], pa.int64()),
    "uint64_ends": plain_values([2**64 - 1, 0], pa.uint64()),
    "bool": plain_values([True, False], pa.bool_()),
    "null": lambda ids: pa.nulls(len(ids)),
    "all_null": lambda ids: pa.nulls(len(ids), pa.int64()),
    "all_null_text": lambda ids: pa.nulls(len(ids), pa.string()),
    "float16": plain_values([0.0, 1.5, -2.25, math.inf], pa.float16()),
    "float32": plain_values(FLOATS, pa.float32()),
    "float64": plain_values(FLOATS, pa.float64()),
    "decimal32": plain_values([D("1.25"), D("-3.50"), D("0.00")], pa.decimal32(7, 2)),
    "decimal64": plain_values([D("1.25"), D("-3.50"), D("0.00")], pa.decimal64(16, 2)),
    "decimal128": plain_values([D("12345678901234567890.12"), D("-0.01"), D("0.00")], pa.decimal128(38, 2)),
    "decimal128_negative_scale": plain_values([D("1200"), D("-300")], pa.decimal128(10, -2)),
    "decimal256": plain_values([D("9" * 60 + ".12"), D("-0.01")], pa.decimal256(76, 2)),
    **{f"timestamp_{u}": plain_values([0, 10**9 + 7, -5], pa.timestamp(u)) for u in ("s", "ms", "us", "ns")},
    "timestamp_ns_utc": plain_values([0, 10**9 + 7, -5], pa.timestamp("ns", "UTC")),
    "timestamp_zone": plain_values([0, 10**15 + 7], pa.timestamp("us", "Europe/Berlin")),
    "timestamp_offset": plain_values([0, 10**15 + 7], pa.timestamp("us", "+05:30")),
    "date32": plain_values([dt.date(1970, 1, 1), dt.date(2024, 2, 29), dt.date(1582, 10, 15)], pa.date32()),
    "date64": plain_values([dt.date(1970, 1, 1), dt.date(2024, 2, 29)], pa.date64()),
    **{f"time32_{u}": plain_values([0, 3599], pa.time32(u)) for u in ("s", "ms")},
    **{f"time64_{u}": plain_values([0, 3_599_999_999], pa.time64(u)) for u in ("us", "ns")},
    **{f"duration_{u}": plain_values([0, -5, 10**9], pa.duration(u)) for u in ("s", "ms", "us", "ns")},
    "interval_month_day_nano": plain_values([(1, 2, 3), (0, 0, -1), (-14, 40, 10**12)], pa.month_day_nano_interval()),
    "binary": plain_values([b"", b"\x00\xff", b"abc"], pa.binary()),
    "large_binary": plain_values([b"", b"\x00\xff", b"abc"], pa.large_binary()),
    "binary_view": plain_values([b"", b"\x00\xff", b"longer than twelve bytes"], pa.binary_view()),
    "fixed_size_binary": plain_values([b"\x00" * 3, b"abc"], pa.binary(3)),
    "string": plain_values(["", "a", "ä€😀", "a\x00b"], pa.string()),
    "large_string": plain_values(["", "a", "ä€😀"], pa.large_string()),
    "string_view": plain_values(["", "a", "longer than twelve bytes"], pa.string_view()),
    "long_string": plain_values([LONG, LONG + "x", ""], pa.string()),
    "long_string_view": plain_values([LONG, LONG + "x", ""], pa.string_view()),
    "list": plain_values([[], [1], [1, None, 3]], pa.list_(pa.int64())),
    "large_list": plain_values([[], [1], [1, None, 3]], pa.large_list(pa.int64())),
    "fixed_size_list": plain_values([[1, 2], [None, 4]], pa.list_(pa.int64(), 2)),
    "list_view": plain_values([[], [1], [1, None, 3]], pa.list_view(pa.int64())),
    "large_list_view": plain_values([[], [1], [1, None, 3]], pa.large_list_view(pa.int64())),
    "list_of_lists": plain_values([[], [[]], [[1], None, [2, 3]]], pa.list_(pa.list_(pa.int64()))),
    "list_of_views": plain_values([[], ["longer than twelve bytes", None]], pa.list_(pa.string_view())),
    "list_of_empty_structs": plain_values([[], [{}], [{}, None]], pa.list_(pa.struct([]))),
    "struct": plain_values(
        [{"a": 1, "b": "x"}, {"a": None, "b": None}], pa.struct([("a", pa.int64()), ("b", pa.string())])
    ),
    "struct_of_list": plain_values(
        [{"a": [1, None]}, {"a": []}, {"a": None}], pa.struct([("a", pa.list_(pa.int32()))])
    ),
    "empty_struct": plain_values([{}], pa.struct([])),
    "map": plain_values([[], [("k", 1)], [("a", None), ("b", 2)]], pa.map_(pa.string(), pa.int64())),
    "struct_field_not_null": plain_values([{"a": 1}], pa.struct([pa.field("a", pa.int64(), nullable=False)])),
    **{
        f"dictionary_{t}": encoded(pa.dictionary(t, pa.string()))
        for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64())
    },
    **{
        f"dictionary_{t}": encoded(pa.dictionary(t, pa.string()))
        for t in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
    },
    "dictionary_of_large": encoded(pa.dictionary(pa.int32(), pa.large_string())),
    "dictionary_of_int": lambda ids: pa.array([i % 3 for i in ids]).dictionary_encode(),
    "dictionary_of_list": dictionary_of_nested,
    "dictionary_within_struct": nested_dictionary,
    "dense_union": dense_union,
    "sparse_union": sparse_union,
    "uuid": uuids,
    **{f"run_ends_{t}": run_ends(pa.run_end_encoded(t, pa.int64())) for t in (pa.int16(), pa.int32(), pa.int64())},
}

QUERIES = {
    "gathered": "SELECT id, v FROM {t} WHERE id % 2 = 0",
    "outer": "SELECT a.id, b.v FROM {t} a LEFT JOIN {t} b ON a.id = b.id AND b.id > 30",
    "broadcast": "SELECT a.id, b.v FROM {t} a CROSS JOIN (SELECT v FROM {t} WHERE id = 1) b",
    "key": "SELECT v, count(*) AS n, min(id) AS id FROM {t} GROUP BY v",
    "join_key": "SELECT a.id, b.v, b.id AS other FROM {t} a JOIN {t} b ON a.v = b.v AND b.id < 6",
    "distinct_on": "SELECT DISTINCT ON (g) g, v FROM {t} ORDER BY g, id",
    "sorted": "SELECT id, v FROM {t} ORDER BY v, id LIMIT 20",
    "collected": "SELECT g, array_agg(v ORDER BY id) AS vs FROM {t} GROUP BY g",
    "first": "SELECT g, first_value(v ORDER BY id) AS f, max(id) AS id FROM {t} GROUP BY g",
    "extremes": "SELECT g, min(v) AS low, max(v) AS high FROM {t} GROUP BY g",
    "window": "SELECT id, lag(v) OVER (PARTITION BY g ORDER BY id) AS p FROM {t}",
}

ALIKE = ("int8", "int16", "int32", "uint", "time", "duration_", "dictionary_int", "dictionary_uint")
"""Beginnings of the names of types that go the way of others; :data:`FEW` queries are enough for them."""

FEW = ("gathered", "outer", "broadcast", "key", "sorted")

NOT_EXCHANGED = ("dictionary_of_list", "run_ends_int16", "run_ends_int32", "run_ends_int64")
"""Columns of which some queries would exchange what exchanges do not carry: these run in the session."""

NOT_FIXED = {
    *((column, query) for column in ("float32", "float64", "struct_of_list") for query in ("sorted", "extremes")),
    *((column, "sorted") for column in ("fixed_size_list", "struct")),
}
"""Queries whose answer is up to the order in which DataFusion meets rows.

The largest of values with a NaN among them is, and so are the first rows by structs or lists with NULLs in them.
"""

FIELD_METADATA = {b"unit": b"metre", b"empty": b""}
SCHEMA_METADATA = {b"made": b"by hand"}


def batch_of(make: Callable[[range], pa.Array], number: int) -> pa.RecordBatch:
    ids = range(number * BATCH_ROWS, (number + 1) * BATCH_ROWS)
    column = make(ids)
    schema = pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("g", pa.int32(), metadata={b"role": b"group"}),
            pa.field("v", column.type, metadata=FIELD_METADATA),
        ],
        metadata=SCHEMA_METADATA,
    )
    return pa.RecordBatch.from_arrays(
        [pa.array(ids, pa.int64()), pa.array([i % 4 for i in ids], pa.int32()), column], schema=schema
    )


def write_table(folder: Path, make: Callable[[range], pa.Array]) -> None:
    """Write a column as Arrow files of several batches; dictionaries are one a file, as the format asks."""
    folder.mkdir()
    for number in range(FILES):
        batches = [batch_of(make, number * BATCHES + part) for part in range(BATCHES)]
        with ipc.new_file(str(folder / f"{number}.arrow"), batches[0].schema) as writer:
            for batch in batches if number else batches[:1]:
                try:
                    writer.write_batch(batch)
                except pa.ArrowInvalid:
                    break


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Arrow files a type."""
    path = tmp_path_factory.mktemp("types")
    for name, make in COLUMNS.items():
        write_table(path / name, make)
    return path


def registered(ctx: datafusion.SessionContext, folder: Path) -> None:
    for name in COLUMNS:
        ctx.register_arrow(name, str(folder / name))


Sessions = tuple[datafusion.SessionContext, SessionContext]


def plain_session() -> datafusion.SessionContext:
    """Plain DataFusion of one partition: with several, which of them is done first may decide."""
    return datafusion.SessionContext(datafusion.SessionConfig({"datafusion.execution.target_partitions": "1"}))


@pytest.fixture(scope="module")
def sessions(folder: Path) -> Iterator[Sessions]:
    """Plain DataFusion, and a session on two nodes of this process."""
    plain = plain_session()
    registered(plain, folder)
    # Joins of tables this small would be broadcast; here they are shuffled.
    limits = ("hash_join_single_partition_threshold", "hash_join_single_partition_threshold_rows")
    config = datafusion.SessionConfig({f"datafusion.optimizer.{name}": "0" for name in limits})
    forced = {**FORCED, "min_cell_bytes": 1}
    with (
        LocalSwarm(2, settings=Settings(heartbeat_s=0.2), in_process=True) as swarm,
        SessionContext(config, storage=swarm.storage, **forced) as ctx,
    ):
        registered(ctx, folder)
        wait_until_idle(ctx)
        yield plain, ctx


def answer(session: datafusion.SessionContext, sql: str) -> pa.Table | None:
    """Return DataFusion's answer; None if it has none, whether it says so or panics."""
    try:
        return session.sql(sql).to_arrow_table()
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return None


def rows_of(table: pa.Table) -> list[str]:
    return sorted(map(repr, table.to_pylist()))


@pytest.mark.parametrize("column", COLUMNS)
def test_every_type_comes_through_as_in_datafusion(column: str, sessions: Sessions) -> None:
    plain, ctx = sessions
    answered = set()
    for name, query in QUERIES.items():
        if name not in FEW and column.startswith(ALIKE):
            continue
        sql = query.format(t=column)
        expected = answer(plain, sql)
        if expected is None:
            continue
        actual = ctx.sql(sql).to_arrow_table()
        assert actual.schema.equals(expected.schema, check_metadata=True), (name, actual.schema, expected.schema)
        assert actual.num_rows == expected.num_rows, name
        assert rows_of(actual) == rows_of(expected) or (column, name) in NOT_FIXED, name
        report = ctx.last_query
        assert report is not None
        refused = "cannot pass from task to task" in report.reason
        assert report.distributed or (refused and column in NOT_EXCHANGED), (name, report.reason)
        answered.add(name)
    assert {"gathered", "outer", "broadcast"} <= answered, answered


@pytest.mark.parametrize(("column", "query"), sorted(NOT_FIXED))
def test_datafusion_gives_other_rows_where_it_meets_them_the_other_way_round(
    column: str, query: str, sessions: Sessions, tmp_path: Path
) -> None:
    plain, _ = sessions
    back = plain_session()
    table = plain.sql(f"SELECT * FROM {column}").to_arrow_table()
    with ipc.new_file(str(tmp_path / "back.arrow"), table.schema) as writer:
        writer.write_table(table.take(pa.array(range(table.num_rows - 1, -1, -1))))
    back.register_arrow(column, str(tmp_path))
    assert rows_of(back.sql(f"SELECT * FROM {column}").to_arrow_table()) == rows_of(table)
    answers = [answer(session, QUERIES[query].format(t=column)) for session in (plain, back)]
    assert len({str(None if found is None else rows_of(found)) for found in answers}) == 2
