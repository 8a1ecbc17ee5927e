"""The awkward tables: several files and formats, NULLs everywhere, duplicates, skew, an empty table, declared order."""

from __future__ import annotations

import json
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

FACT_FILES = 4
FACT_ROWS = 120
ROW_GROUP_ROWS = 16


def write_samples(folder: Path) -> None:
    """Write the tables below a folder."""
    for number in range(FACT_FILES):
        _parquet(_facts(number), folder / "facts" / f"{number}.parquet")
    for number in range(3):
        keys = [None if i % 11 == 0 else (i * 3 + number) % 40 for i in range(60)]
        names = [None if i % 7 == 0 else f"n{(i + number) % 9}" for i in range(60)]
        dims = pa.table({"k": pa.array(keys, pa.int32()), "name": names, "w": pa.array(range(60), pa.int64())})
        _parquet(dims, folder / "dims" / f"{number}.parquet")
    for number in range(2):
        _parquet(_facts(0).slice(0, 0), folder / "nothing" / f"{number}.parquet")
    _parquet(
        pa.table({"k": pa.array([1, 2, 5, 5, 8], pa.int32()), "label": list("abcde")}), folder / "one" / "0.parquet"
    )
    for number in range(2):
        whole = pa.table({"k": pa.array([number, number + 2, 5, 39], pa.int32())})
        _parquet(whole, folder / "keys" / f"{number}.parquet")
    (folder / "lines").mkdir()
    (folder / "docs").mkdir()
    for number in range(3):
        lines = pa.table({"id": range(number * 40, number * 40 + 40), "t": [f"w{i % 6}" for i in range(40)]})
        pa_csv.write_csv(lines, folder / "lines" / f"{number}.csv")
        rows = [{"id": i, "tag": None if i % 4 == 0 else f"w{i % 5}"} for i in range(number * 30, number * 30 + 30)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "docs" / f"{number}.json").write_text(text, encoding="utf-8")
    for number in range(3):
        ordered = pa.table({"ts": pa.array([i * 3 + number for i in range(50)], pa.int64()), "x": [number] * 50})
        _parquet(ordered, folder / "ordered" / f"{number}.parquet")
    for year in (2020, 2021, 2022):
        rows_of_year = pa.table({"amount": pa.array(range(year, year + 30), pa.int64())})
        _parquet(rows_of_year, folder / "hive" / f"year={year}" / "0.parquet")


def _facts(number: int) -> pa.Table:
    ids = range(number * FACT_ROWS, (number + 1) * FACT_ROWS)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            # A third of the rows have key 5; every ninth has none.
            "k": pa.array([None if i % 9 == 0 else 5 if i % 3 == 0 else i % 37 for i in ids], pa.int32()),
            "g": [None if i % 13 == 0 else f"g{i % 7}" for i in ids],
            "v": pa.array([i * 7 % 101 for i in ids], pa.int64()),
            "frac": pa.array([None if i % 5 == 0 else i / 4 for i in ids], pa.float64()),
            "day": pa.array([None if i % 17 == 0 else 18_000 + i % 90 for i in ids], pa.int32()).cast(pa.date32()),
            "parts": pa.array([None if i % 6 == 0 else list(range(i % 4)) for i in ids], pa.list_(pa.int64())),
            "pair": pa.array([{"p": i % 3, "q": f"q{i % 4}"} for i in ids]),
        }
    )


def _parquet(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=ROW_GROUP_ROWS)


def register_samples(ctx: datafusion.SessionContext, folder: Path) -> None:
    """Register the tables of a folder, and an in-memory one of two partitions."""
    for name in ("facts", "dims", "nothing", "one", "keys"):
        ctx.register_parquet(name, str(folder / name))
    ctx.register_csv("lines", str(folder / "lines"))
    ctx.register_json("docs", str(folder / "docs"), file_extension=".json")
    ctx.register_parquet("hive", str(folder / "hive"), table_partition_cols=[("year", pa.int32())])
    ctx.sql(
        "CREATE EXTERNAL TABLE ordered (ts BIGINT, x BIGINT) STORED AS PARQUET "
        f"WITH ORDER (ts ASC) LOCATION '{folder / 'ordered'}/'"
    )
    parts = [
        [pa.record_batch({"k": pa.array([1, 5, None, 12], pa.int32()), "m": ["x", "y", "z", None]})],
        [pa.record_batch({"k": pa.array([5, 30, 31], pa.int32()), "m": ["x", "x", "w"]})],
    ]
    ctx.register_record_batches("mem", parts)
