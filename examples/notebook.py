"""A notebook-style script: run it cell by cell in an editor that knows ``# %%``, or as a whole."""

# %% Data: a year of bike rides, one Parquet file a quarter
from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import apiary_df

folder = Path(tempfile.mkdtemp())
dice = np.random.default_rng(7)
for quarter in range(1, 5):
    rides = pa.table(
        {
            "quarter": np.full(50_000, quarter),
            "station": dice.integers(0, 200, 50_000),
            "minutes": dice.gamma(2.0, 9.0, 50_000).round(1),
        }
    )
    pq.write_table(rides, folder / f"rides-{quarter}.parquet")

# %% A session with two node processes behind it
# (small_bytes=0, since 600 kB would not be worth a round trip to the nodes)
ctx = apiary_df.SessionContext(nodes=2, small_bytes=0)
ctx.register_parquet("rides", str(folder))
for node in ctx.nodes():
    print(node.info.node_id, node.info.state.value, f"{node.info.bees_total} bee")

# %% SQL
quarters = ctx.sql(
    "SELECT quarter, count(*) AS rides, round(avg(minutes), 2) AS minutes FROM rides GROUP BY quarter ORDER BY quarter"
)
quarters.show()

# %% The same as a DataFrame: any transformation of DataFusion's works, and pandas is one call away
from datafusion import col, lit  # noqa: E402
from datafusion import functions as f  # noqa: E402

busiest = (
    ctx.table("rides")
    .filter(col("minutes") > lit(10.0))
    .aggregate([col("station")], [f.count(col("minutes")).alias("rides")])
    .sort(col("rides").sort(ascending=False), col("station").sort())
    .limit(5)
)
print(busiest.to_pandas())

# %% How is it run, and what did it cost?
quarters.explain(until="stages")
report = ctx.last_query
if report is not None:
    print(f"{report.stages} stages, {report.tasks} tasks, {report.bytes_through_storage:,} bytes through storage")
    print("requests:", dict(report.requests))

# %% Large results come as a stream of record batches
rows = 0
for batch in ctx.sql("SELECT * FROM rides WHERE minutes > 60").execute_stream():
    rows += batch.to_pyarrow().num_rows
print(f"{rows:,} rides took longer than an hour")

# %% The end: the node processes stop, and the data goes away
ctx.close()
shutil.rmtree(folder)
