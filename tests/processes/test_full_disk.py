"""Disks that take no more: the system refuses writes beyond a size, as it does on a full disk, wherever tests run."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from swarm.helpers import FORCED, check_nothing_left

from apiary_df import LocalSwarm, SessionContext, Settings
from apiary_df.testing import assert_same

LIMIT_BYTES = 256 * 1024
"""Files may not grow beyond this; heartbeats, mail and records are far smaller, the partials here larger."""

SPOOL = """
import resource, sys
from pathlib import Path
import pyarrow as pa
from apiary_df.errors import StorageTransient
from apiary_df.protocol.partial_writer import PartialWriter
from apiary_df.store import open_store

folder, limit_bytes = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
store = open_store(str(folder / "root"), environ={})
for write in (
    lambda: store.put("k", bytes(2 * limit_bytes)),
    lambda: store.create("c", b"token" + bytes(2 * limit_bytes), "token"),
):
    try:
        write()
    except StorageTransient as error:
        assert "File too large" in error.message, error.message
    else:
        raise SystemExit("the store took it")
assert store.list("") == [], store.list("")
store.put("small", b"1")
schema = pa.schema([("x", pa.int64())])
writer = PartialWriter(schema, 2, folder / "scratch", 0)
try:
    for partition in (0, 1, 0, 1):
        writer.write(partition, pa.record_batch([pa.array(range(limit_bytes // 8))], schema=schema))
    writer.finish()
except StorageTransient as error:
    assert "make room there" in error.message, error.message
else:
    raise SystemExit("the scratch folder took it")
finally:
    writer.close()
assert list((folder / "scratch").iterdir()) == []
"""


def test_writes_to_a_full_disk_are_typed_errors_and_leave_nothing_half_written(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SPOOL, str(tmp_path), str(LIMIT_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.processes
def test_tasks_of_a_node_whose_disk_is_full_are_done_by_another(tmp_path: Path) -> None:
    for number in range(2):
        keys = pa.array(range(number * 100_000, (number + 1) * 100_000))
        pq.write_table(pa.table({"k": keys}), tmp_path / f"{number}.parquet")
    sql = "SELECT k, k * 2 AS twice FROM t"
    plain = datafusion.SessionContext()
    plain.register_parquet("t", str(tmp_path))
    settings = Settings().with_overrides(**FORCED, speculate=False, isolation="thread")
    with LocalSwarm(2, settings=settings) as swarm, SessionContext(storage=swarm.storage, settings=settings) as ctx:
        full, _ = swarm.node_ids
        resource.prlimit(swarm.processes[full].pid, resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))
        ctx.register_parquet("t", str(tmp_path))
        assert_same(plain.sql(sql).to_arrow_table(), ctx.sql(sql).to_arrow_table())
        report = ctx.last_query
        assert report is not None
        assert report.tasks == 2
        assert Counter(task.attempt for task in report.task_reports) == {0: 1, 1: 1}
        assert full not in {task.node_id for task in report.task_reports}
        check_nothing_left(swarm.storage)
