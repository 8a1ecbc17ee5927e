"""The tables of the own suite: an apiary's books, in every format, with whatever makes distributed answers wrong.

Every table is made by arithmetic alone, so that it is the same on every machine. Floats are multiples of 1/8: their
sums are exact in any order, so digits are never lost to the way in which a sum was divided.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

VISIT_FILES = 6
VISITS_A_FILE = 128
ROW_GROUP_ROWS = 16
"""Rows of a row group: a cell of one is a few KB."""

_EPOCH_DAY = 19_700
"""2023-12-09, as days since 1970."""
_DAY_US = 86_400_000_000
_FLOWERS = ("clover", "linden", "Löwenzahn", "", "heather", "アカシア", "rape", "clover ", "Clover", "🌻sun")

_NESTED = pa.struct([("a", pa.int32()), ("b", pa.struct([("c", pa.string())]))])

PARQUET_TABLES = (
    "visits",
    "hives",
    "regions",
    "left_bag",
    "right_bag",
    "steps",
    "edges",
    "nothing",
    "one_row",
    "kinds",
    "texts",
    "wide_keys",
)
"""Tables that are folders of Parquet files, each a few cells but for ``one_row``."""


def write_tables(folder: Path) -> None:
    """Write all tables of files below a folder."""
    _write_parts(folder / "visits", [_visits(n) for n in range(VISIT_FILES)])
    _write_parts(folder / "hives", [_hives(n) for n in range(3)])
    _write_parts(folder / "regions", [_regions(n) for n in range(2)])
    _write_parts(folder / "left_bag", [_bag(n, 3, 5) for n in range(3)])
    _write_parts(folder / "right_bag", [_bag(n, 2, 7) for n in range(2)])
    _write_parts(folder / "steps", [_steps(n) for n in range(4)])
    _write_parts(folder / "edges", [_edges(n) for n in range(2)])
    _write_parts(folder / "nothing", [_visits(0).slice(0, 0), _visits(1).slice(0, 0)])
    _write_parts(folder / "one_row", [_visits(0).slice(3, 1)])
    _write_parts(folder / "kinds", [_kinds(n) for n in range(3)])
    _write_parts(folder / "texts", [_texts(n) for n in range(3)])
    _write_parts(folder / "wide_keys", [_wide_keys(n) for n in range(3)])
    _write_parts(folder / "in_order", [_in_order(n) for n in range(3)])
    (folder / "no_files").mkdir()
    for year in (2022, 2023, 2024):
        for season in ("spring", "fall"):
            _write_parts(folder / "seasons" / f"year={year}" / f"season={season}", [_season(year, season)])
    _write_csv(folder / "weather")
    _write_json(folder / "notes")
    _write_arrow(folder / "scales")


def register_tables(ctx: datafusion.SessionContext, folder: Path) -> None:
    """Register the tables of a folder, an in-memory table of several partitions, and views over them."""
    for name in PARQUET_TABLES:
        ctx.register_parquet(name, str(folder / name))
    ctx.register_parquet(
        "seasons", str(folder / "seasons"), table_partition_cols=[("year", pa.int32()), ("season", pa.string())]
    )
    ctx.register_csv("weather", str(folder / "weather"))
    ctx.register_json("notes", str(folder / "notes"), file_extension=".json")
    ctx.register_arrow("scales", str(folder / "scales"), file_extension=".arrow")
    for statement in _DDL:
        ctx.sql(statement.format(folder=folder))
    ctx.register_record_batches("keepers", _keepers())


_DDL = (
    "CREATE EXTERNAL TABLE in_order (tick BIGINT, lane BIGINT, v DOUBLE) STORED AS PARQUET "
    "WITH ORDER (tick ASC) LOCATION '{folder}/in_order/'",
    "CREATE EXTERNAL TABLE no_files (id BIGINT, hive_id INT, name VARCHAR) STORED AS PARQUET "
    "LOCATION '{folder}/no_files/'",
    "CREATE VIEW good_visits AS SELECT * FROM visits WHERE ok",
    "CREATE VIEW hive_totals AS SELECT hive_id, count(*) AS visits, sum(amount) AS amount FROM visits GROUP BY hive_id",
    "CREATE VIEW hive_names(no, title) AS SELECT hive_id, coalesce(name, 'nameless') FROM hives",
    "CREATE VIEW nested_view AS SELECT t.hive_id, t.visits, n.title FROM hive_totals t "
    "JOIN hive_names n ON n.no = t.hive_id",
)


def _visits(number: int) -> pa.Table:
    """One row a visit of a bee to a flower: the large table. A third of the rows are of hive 5, every ninth of none."""
    ids = range(number * VISITS_A_FILE, (number + 1) * VISITS_A_FILE)
    at = [None if i % 19 == 0 else (_EPOCH_DAY + i % 60) * _DAY_US + i * 977_000_001 % _DAY_US for i in ids]
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "hive_id": pa.array([None if i % 9 == 0 else 5 if i % 3 == 0 else i % 41 for i in ids], pa.int32()),
            "flower": [None if i % 13 == 0 else _FLOWERS[i * 7 % len(_FLOWERS)] for i in ids],
            "bee": [None if i % 23 == 0 else f"bee-{i * 31 % 17:02d}" for i in ids],
            "n": pa.array([i * 37 % 101 - 20 for i in ids], pa.int64()),
            "nectar": pa.array([_nectar(i) for i in ids], pa.float64()),
            "frac": pa.array([None if i % 5 == 0 else (i * 13 % 997) / 8 for i in ids], pa.float64()),
            "amount": pa.array(
                [None if i % 7 == 0 else Decimal(i * 1_237 % 99_991) / 100 for i in ids], pa.decimal128(12, 2)
            ),
            "day": pa.array([None if i % 17 == 0 else _EPOCH_DAY + i % 60 for i in ids], pa.int32()).cast(pa.date32()),
            "at": pa.array(at, pa.timestamp("us")),
            "at_utc": pa.array(at, pa.timestamp("us", tz="UTC")),
            "ok": pa.array([None if i % 11 == 0 else i % 4 != 0 for i in ids], pa.bool_()),
            "tags": pa.array([_tags(i) for i in ids], pa.list_(pa.string())),
            "nums": pa.array(
                [None if i % 8 == 0 else [i % 5, None, i % 3][: i % 4] for i in ids], pa.list_(pa.int64())
            ),
            "pos": pa.array([None if i % 15 == 0 else {"x": i % 6, "y": f"y{i % 4}"} for i in ids]),
        }
    )


def _nectar(i: int) -> float | None:
    special = {0: None, 1: float("nan"), 2: float("inf"), 3: float("-inf"), 4: 0.0, 5: -0.0}
    return special[i // 10 % 6] if i % 10 == 3 else (i * 11 % 333 - 100) / 8


def _cents(i: int) -> Decimal | None:
    return None if i % 7 == 0 else Decimal(i * 1_237 % 99_991) / 100


def _nums(i: int) -> list[int | None] | None:
    return None if i % 8 == 0 else [i % 5, None, i % 3][: i % 4]


def _tags(i: int) -> list[str | None] | None:
    return None if i % 12 == 0 else [None if j == 2 else f"t{(i + j) % 6}" for j in range(i % 5)]


def _hives(number: int) -> pa.Table:
    """Hives, a few of them twice and a few without a number, and some that nobody visited."""
    rows = range(number * 24, number * 24 + 24)
    return pa.table(
        {
            "hive_id": pa.array([None if i % 10 == 9 else 5 if i == 60 else i % 50 for i in rows], pa.int32()),
            "name": [None if i % 8 == 7 else f"Hive {chr(65 + i % 9)}{i % 4}" for i in rows],
            "region": [None if i % 11 == 10 else ("north", "south", "east", "")[i % 4] for i in rows],
            "capacity": pa.array([i * 5 % 64 for i in rows], pa.int64()),
            "opened": pa.array([_EPOCH_DAY - i * 13 % 900 for i in rows], pa.int32()).cast(pa.date32()),
            "weight": pa.array(
                [None if i % 6 == 5 else Decimal(i * 333 % 1_000) / 10 for i in rows], pa.decimal128(8, 1)
            ),
        }
    )


def _regions(number: int) -> pa.Table:
    names = [["north", "south", "west"], ["", None, "north"]][number]
    return pa.table(
        {"region": pa.array(names, pa.string()), "rank": pa.array([number * 3 + i for i in range(3)], pa.int64())}
    )


def _bag(number: int, step: int, modulus: int) -> pa.Table:
    """Few values, many times each, for set operations."""
    rows = range(number * 20, number * 20 + 20)
    return pa.table(
        {
            "a": pa.array([None if i % 9 == 0 else i * step % modulus for i in rows], pa.int32()),
            "b": [None if i % 4 == 0 else f"b{i % modulus % 3}" for i in rows],
            "c": pa.array([i % 2 / 2 for i in rows], pa.float64()),
        }
    )


def _steps(number: int) -> pa.Table:
    """Events of visitors in time: a funnel, sessions with gaps, one visitor with half of the rows."""
    rows = range(number * 60, number * 60 + 60)
    names = ("land", "look", "sip", "leave")
    return pa.table(
        {
            "who": pa.array([1 if i % 2 else i // 2 % 19 + 2 for i in rows], pa.int64()),
            "seq": pa.array(rows, pa.int64()),
            "at": pa.array([1_700_000_000 + i * 97 % 240 * 600 + i // 7 * 7_200 for i in rows], pa.timestamp("s")),
            "what": [names[(i * i + i // 3) % 4] for i in rows],
            "secs": pa.array([None if i % 6 == 0 else i * 41 % 300 for i in rows], pa.int32()),
        }
    )


def _edges(number: int) -> pa.Table:
    """A graph: a binary tree of 30 nodes, a cycle of three, and an edge to itself."""
    tree = [(i // 2, i) for i in range(2, 31)]
    edges = [*tree[number::2], *([(100, 101), (101, 102), (102, 100)] if number else [(200, 200)])]
    return pa.table(
        {"src": pa.array([a for a, _ in edges], pa.int64()), "dst": pa.array([b for _, b in edges], pa.int64())}
    )


def _kinds(number: int) -> pa.Table:
    """A column of every Arrow type that Parquet holds, NULLs and extremes in each."""
    rows = range(number * 12, number * 12 + 12)

    def some(values: Sequence[object], kind: pa.DataType) -> pa.Array:
        return pa.array([None if i % 5 == 4 else values[i % len(values)] for i in rows], kind)

    moments = [0, 1, 1_700_000_000, -86_400]
    return pa.table(
        {
            "id": pa.array(rows, pa.int64()),
            "i8": some([-128, 0, 127], pa.int8()),
            "i16": some([-32_768, 5, 32_767], pa.int16()),
            "i32": some([-(2**31), 7, 2**31 - 1], pa.int32()),
            "i64": some([-(2**63), 9, 2**63 - 1], pa.int64()),
            "u8": some([0, 255], pa.uint8()),
            "u16": some([0, 65_535], pa.uint16()),
            "u32": some([0, 2**32 - 1], pa.uint32()),
            "u64": some([0, 2**64 - 1], pa.uint64()),
            "f32": some([0.5, -1.25, float("nan"), float("inf")], pa.float32()),
            "f64": some([0.125, -0.0, float("-inf"), float("nan"), 1e300], pa.float64()),
            "d128": some([Decimal("0.01"), Decimal("-99999999999999999999999999999999999.99")], pa.decimal128(38, 2)),
            "d256": some([Decimal("1e49"), Decimal("-0.0001"), Decimal("12345.6789")], pa.decimal256(60, 4)),
            "yes": some([True, False], pa.bool_()),
            "day": some([dt.date(1, 1, 1), dt.date(2024, 2, 29), dt.date(9999, 12, 31)], pa.date32()),
            "t32": some([dt.time(0, 0), dt.time(23, 59, 59)], pa.time32("ms")),
            "t64": some([dt.time(0, 0), dt.time(12, 30, 0, 1)], pa.time64("us")),
            "ts_ms": some([m * 1_000 for m in moments], pa.timestamp("ms")),
            "ts_us": some([m * 1_000_000 + 1 for m in moments], pa.timestamp("us")),
            "ts_ns": some([m * 1_000_000_000 + 1 for m in moments], pa.timestamp("ns")),
            "ts_berlin": some([m * 1_000 for m in moments], pa.timestamp("ms", tz="Europe/Berlin")),
            "dur": some([0, 1, 10**9], pa.duration("us")),
            "txt": some(["", "a", "Ä", "a\x00b", "🐝" * 40], pa.string()),
            "big_txt": some(["x", "yy"], pa.large_string()),
            "bin": some([b"", b"\x00\xff", b"abc"], pa.binary()),
            "big_bin": some([b"", b"\x01"], pa.large_binary()),
            "fix_bin": some([b"\x00\x01\x02", b"abc"], pa.binary(3)),
            "dict": some(["red", "green", ""], pa.dictionary(pa.int32(), pa.string())),
            "ints": some([[], [1, None], [2, 3, 4]], pa.list_(pa.int64())),
            "big_ints": some([[], [1]], pa.large_list(pa.int64())),
            "lists": some([[], [[]], [[1], None, [2, 3]]], pa.list_(pa.list_(pa.int32()))),
            "rec": some([{"a": 1, "b": {"c": "x"}}, {"a": None, "b": None}], _NESTED),
            "recs": some([[], [{"k": 1}], [{"k": None}, None]], pa.list_(pa.struct([("k", pa.int64())]))),
            "m": some([[], [("a", 1)], [("a", None), ("b", 2)]], pa.map_(pa.string(), pa.int64())),
            "nil": pa.nulls(len(rows)),
        }
    )  # fmt: skip


def _texts(number: int) -> pa.Table:
    """Strings from empty to over 64 KiB."""
    rows = range(number * 10, number * 10 + 10)
    words = (
        "the quick brown bee",
        "  padded  ",
        "Straße",
        "ÀÉÎ",
        "a,b;c|d",
        "12.50",
        "not a number",
        "2024-02-29",
        "x=1&y=2",
        "",
    )
    return pa.table(
        {
            "id": pa.array(rows, pa.int64()),
            "word": [None if i % 7 == 6 else words[i % len(words)] for i in rows],
            "long": [None if i % 9 == 8 else "honey" * (i * 700) for i in rows],
            "url": [f"https://site{i % 3}.example.org/p/{i}?q={i % 4}#top" if i % 4 else None for i in rows],
        }
    )  # fmt: skip


def _wide_keys(number: int) -> pa.Table:
    """Keys of many kinds that meet in joins and groups, among them some that are almost equal."""
    rows = range(number * 16, number * 16 + 16)
    return pa.table(
        {
            "id": pa.array(rows, pa.int64()),
            "dec": pa.array([None if i % 8 == 7 else Decimal(i % 6) / 4 for i in rows], pa.decimal128(10, 2)),
            "num": pa.array([[0.0, -0.0, float("nan"), None, 1.5, 0.25][i % 6] for i in rows], pa.float64()),
            "txt": [None if i % 9 == 8 else ("a", "A", "a ", "", "ä")[i % 5] for i in rows],
            "day": pa.array([None if i % 6 == 5 else _EPOCH_DAY + i % 4 for i in rows], pa.int32()).cast(pa.date32()),
            "at": pa.array([(_EPOCH_DAY + i % 4) * _DAY_US for i in rows], pa.timestamp("us")),
            "rec": pa.array([None if i % 10 == 9 else {"a": i % 3, "b": None if i % 2 else "z"} for i in rows]),
            "lst": pa.array([None if i % 11 == 10 else [i % 3] * (i % 3) for i in rows], pa.list_(pa.int64())),
            "bin": pa.array([bytes([i % 4]) for i in rows], pa.binary()),
            "yes": pa.array([None if i % 3 == 2 else i % 2 == 0 for i in rows], pa.bool_()),
        }
    )


def _in_order(number: int) -> pa.Table:
    return pa.table(
        {
            "tick": pa.array([i * 3 + number for i in range(60)], pa.int64()),
            "lane": pa.array([number] * 60, pa.int64()),
            "v": pa.array([(i * 7 + number) % 20 / 4 for i in range(60)], pa.float64()),
        }
    )


def _season(year: int, season: str) -> pa.Table:
    base = year * 10 + len(season)
    return pa.table(
        {
            "id": pa.array([base * 100 + i for i in range(30)], pa.int64()),
            "honey": pa.array([None if (base + i) % 6 == 0 else (base + i) % 80 / 8 for i in range(30)], pa.float64()),
        }
    )


def _write_parts(folder: Path, parts: Sequence[pa.Table]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts):
        pq.write_table(part, folder / f"{number}.parquet", row_group_size=ROW_GROUP_ROWS)


def _write_csv(folder: Path) -> None:
    folder.mkdir()
    for number in range(3):
        rows = range(number * 50, number * 50 + 50)
        table = pa.table(
            {
                "id": pa.array(rows, pa.int64()),
                "day": [(dt.date(2023, 12, 9) + dt.timedelta(days=i % 60)).isoformat() for i in rows],
                "sky": [None if i % 6 == 0 else ("sun", 'rain, "hard"', "fog")[i % 3] for i in rows],
                "temp": pa.array([None if i % 7 == 0 else i % 45 - 10.5 for i in rows], pa.float64()),
            }
        )
        pa_csv.write_csv(table, folder / f"{number}.csv")


def _write_json(folder: Path) -> None:
    folder.mkdir()
    for number in range(3):
        rows = [
            {
                "id": i,
                "hive_id": None if i % 5 == 0 else i % 12,
                "text": None if i % 4 == 0 else f"note ünï {i % 6}",
                "stars": i % 5 / 2,
                "labels": [f"l{j}" for j in range(i % 3)],
            }
            for i in range(number * 40, number * 40 + 40)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{number}.json").write_text(text, encoding="utf-8")


def _write_arrow(folder: Path) -> None:
    folder.mkdir()
    for number in range(3):
        rows = range(number * 40, number * 40 + 40)
        table = pa.table(
            {
                "id": pa.array(rows, pa.int64()),
                "hive_id": pa.array([i % 15 for i in rows], pa.int32()),
                "kg": pa.array([None if i % 9 == 0 else i % 50 / 4 for i in rows], pa.float32()),
                "grade": pa.array(["abc"[i % 3] for i in rows], pa.dictionary(pa.int8(), pa.string())),
                "span": pa.array([(i % 3, i % 5, i * 1_000) for i in rows], pa.month_day_nano_interval()),
                "wait": pa.array([i * 1_000 for i in rows], pa.duration("ms")),
            }
        )
        with pa.OSFile(str(folder / f"{number}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            for batch in table.to_batches(max_chunksize=20):
                writer.write_batch(batch)


def _keepers() -> list[list[pa.RecordBatch]]:
    schema = pa.schema([("hive_id", pa.int32()), ("keeper", pa.string()), ("age", pa.int64())])
    rows = [(i % 20 if i % 6 else None, f"keeper {i % 7}" if i % 5 else None, 20 + i * 3 % 50) for i in range(45)]
    columns = [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)]
    whole = pa.RecordBatch.from_arrays(columns, schema=schema)
    return [[whole.slice(0, 10), whole.slice(10, 10)], [whole.slice(20, 25)], []]
