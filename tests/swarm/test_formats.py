"""Tables of several formats on real nodes, in one session and in one query; how files are cut is shown elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datafusion
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from pyarrow import ipc

from swarm.helpers import check_nothing_left, check_same, check_was_distributed

FILES, ROWS = 3, 4_000

QUERIES = (
    "SELECT b, count(*) AS n, sum(a) AS s FROM {t} GROUP BY b ORDER BY b",
    "SELECT a, b FROM {t} WHERE a % 500 = 7 ORDER BY a",
    "SELECT x.b, count(*) AS n FROM {t} x JOIN in_parquet y ON x.a = y.a GROUP BY x.b ORDER BY x.b",
)


def write(folder: Path) -> None:
    """Write the same rows in four formats, and once below folders of a partition column."""
    for number in range(FILES):
        ids = range(number * ROWS, (number + 1) * ROWS)
        table = pa.table({"a": pa.array(ids, pa.int64()), "b": [None if i % 9 == 0 else f"b{i % 5}" for i in ids]})
        for kind in ("parquet", "csv", "json", "arrow", "hive"):
            (folder / kind).mkdir(exist_ok=True)
        pq.write_table(table, folder / "parquet" / f"{number}.parquet", row_group_size=500)
        pa_csv.write_csv(table, folder / "csv" / f"{number}.csv")
        text = "".join(json.dumps(row) + "\n" for row in table.to_pylist())
        (folder / "json" / f"{number}.json").write_text(text, encoding="utf-8")
        with ipc.new_file(str(folder / "arrow" / f"{number}.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=300)
        (folder / "hive" / f"y={number}").mkdir()
        pa_csv.write_csv(table, folder / "hive" / f"y={number}" / "0.csv")


def register(ctx: datafusion.SessionContext, folder: Path) -> None:
    ctx.register_parquet("in_parquet", str(folder / "parquet"))
    ctx.register_csv("in_csv", str(folder / "csv"))
    ctx.register_json("in_json", str(folder / "json"), file_extension=".json")
    ctx.register_arrow("in_arrow", str(folder / "arrow"))
    ctx.sql(
        "CREATE EXTERNAL TABLE in_hive (a BIGINT, b VARCHAR, y INT) STORED AS CSV PARTITIONED BY (y) "
        f"LOCATION '{folder / 'hive'}/' OPTIONS ('format.has_header' 'true')"
    )
    ctx.from_arrow(pa.table({"b": [f"b{i}" for i in range(5)], "label": list("vwxyz")}), name="in_memory")


def test_every_format_is_read_by_the_nodes(joined: Any, tmp_path: Path) -> None:
    write(tmp_path)
    plain = datafusion.SessionContext()
    register(plain, tmp_path)
    # Files as small as these are split only if the session asks for it.
    with joined(min_cell_bytes=1_000) as ctx:
        ctx.sql("SET datafusion.optimizer.repartition_file_min_size = 0")
        register(ctx, tmp_path)
        mixed = (
            "SELECT m.label, h.y, count(*) AS n FROM in_csv c JOIN in_json j ON c.a = j.a JOIN in_arrow r ON r.a = j.a "
            "JOIN in_hive h ON h.a = r.a LEFT JOIN in_memory m ON m.b = c.b GROUP BY m.label, h.y ORDER BY 1, 2"
        )
        single = [q.format(t=t) for t in ("in_csv", "in_json", "in_arrow", "in_hive") for q in QUERIES]
        for sql in (*single, mixed, "SELECT y, max(b) AS m FROM in_hive WHERE y > 0 GROUP BY y ORDER BY y"):
            check_same(plain.sql(sql).to_arrow_table(), ctx.sql(sql).to_arrow_table())
            check_was_distributed(ctx)
        check_nothing_left(ctx.storage or "")
