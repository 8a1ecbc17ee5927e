"""The DataFusion session in which a bee executes fragments.

It is built from a query's settings and the bee's budget alone, so that every node computes the same. What must hold
whatever the settings say (:data:`ENGINE_OPTIONS`) is forced, and :func:`check_engine` proves it before a node takes
work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
from datafusion import RuntimeEnvBuilder, SessionConfig
from datafusion.plan import ExecutionPlan

from apiary_df.errors import ConfigError, NodeStartFailed, PlanError
from apiary_df.plan import codec
from apiary_df.plan.tree import PlanNode

ENGINE_OPTIONS: Mapping[str, str] = {
    # Streams of one scan would take files from each other's partitions, and a task would read what is another's.
    "datafusion.execution.enable_file_stream_work_stealing": "false",
}
"""Options of every engine, over whatever a query's settings say."""

_CHECK_ROWS = 7


class Engine:
    """A DataFusion session with a memory budget and a scratch folder of its own.

    Args:
        settings: DataFusion options of the query.
        memory_bytes: Budget of its memory pool; what exceeds it spills.
        scratch: Folder for spill files.
        allow_udfs: Whether plans may carry Python functions, which arrive as pickles and run code.

    Raises:
        ConfigError: If DataFusion does not know one of the options.
    """

    def __init__(
        self, settings: Mapping[str, str], memory_bytes: int, scratch: Path, *, allow_udfs: bool = False
    ) -> None:
        options = {**settings, **ENGINE_OPTIONS}
        runtime = RuntimeEnvBuilder().with_fair_spill_pool(memory_bytes).with_disk_manager_specified(str(scratch))
        try:
            ctx = datafusion.SessionContext(SessionConfig(options), runtime)
        except BaseException as error:
            # An unknown option panics inside DataFusion's bindings, and a panic is no Exception.
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise ConfigError(f"DataFusion refuses the query's settings: {error}") from error
        self.ctx = ctx.with_python_udf_inlining(enabled=allow_udfs)

    def decode(self, plan: PlanNode) -> ExecutionPlan:
        """Return a tree as a plan that this engine can execute.

        Raises:
            PlanError: If DataFusion cannot decode it.
        """
        encoded = codec.encode(plan)
        try:
            return ExecutionPlan.from_bytes(self.ctx, encoded)
        except Exception as error:
            raise PlanError(f"DataFusion cannot decode the fragment: {error}") from error


def check_engine(scratch: Path) -> None:
    """Check that one partition of a scan, executed by itself, reads that partition's files and no others.

    Args:
        scratch: Folder in which two small files are written and removed.

    Raises:
        NodeStartFailed: If it reads anything else; a node that did so would give wrong answers.
    """
    folder = scratch / "self-check"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.parquet" for name in ("a", "b")]
    try:
        for path in paths:
            pq.write_table(pa.table({"x": pa.array(range(_CHECK_ROWS), pa.int64())}), path)
        engine = Engine({"datafusion.optimizer.repartition_file_min_size": "1000000"}, 1 << 24, scratch)
        plan = codec.decode(engine.ctx.read_parquet(str(folder)).execution_plan().to_bytes(engine.ctx))
        files = [file for group in codec.scan_groups(plan) for file in group]
        apart = engine.decode(codec.with_scan_groups(plan, [[file] for file in files]))
        rows = sum(batch.to_pyarrow().num_rows for batch in engine.ctx.execute(apart, 0))
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
        folder.rmdir()
    if len(files) != len(paths) or rows != _CHECK_ROWS:
        raise NodeStartFailed(
            f"self-check failed: one partition of a two-file scan gave {rows} rows, its file has {_CHECK_ROWS}; "
            f"this DataFusion ({datafusion.__version__}) does not keep the files of tasks apart",
            datafusion=datafusion.__version__,
        )
