"""The DataFusion session in which a bee executes fragments.

It is built from a query's settings and the bee's budget alone, so that every node computes the same. What must hold
whatever the settings say (:data:`ENGINE_OPTIONS`) is forced, and :func:`check_engine` proves it before a node takes
work.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
from datafusion import RuntimeEnvBuilder, SessionConfig
from datafusion.plan import ExecutionPlan

from apiary_df import late_pandas
from apiary_df.errors import ConfigError, FunctionNotLoadable, FunctionsRefused, NodeStartFailed, PlanError
from apiary_df.plan import codec
from apiary_df.plan.functions import PythonFunction, names_of, python_functions
from apiary_df.plan.tree import PlanNode
from apiary_df.protocol import versions
from apiary_df.protocol.arrow import GROUP_ROWS

ENGINE_OPTIONS: Mapping[str, str] = {
    # Streams of one scan would take files from each other's partitions, and a task would read what is another's.
    "datafusion.execution.enable_file_stream_work_stealing": "false",
}
"""Options of every engine, over whatever a query's settings say."""

NODES_OWN = "datafusion.runtime."
"""Beginning of options that are each node's own: memory, folders, caches."""

_CHECK_ROWS = 7


class Engine:
    """A DataFusion session with a memory budget and a scratch folder of its own.

    Args:
        settings: DataFusion options of the query.
        memory_bytes: Budget of its memory pool; what exceeds it spills.
        scratch: Folder for spill files.
        allow_udfs: Whether plans may carry Python functions, which arrive as pickles and run code.

    Attributes:
        ctx: The session.
        batch_rows: Rows that its operators take at a time.

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
        self._allow_udfs = allow_udfs
        self.batch_rows = max(1, int(options.get("datafusion.execution.batch_size", GROUP_ROWS)))
        self.ctx = ctx.with_python_udf_inlining(enabled=allow_udfs)

    def decode(self, plan: PlanNode) -> ExecutionPlan:
        """Return a tree as a plan that this engine can execute.

        Raises:
            FunctionsRefused: If it holds Python functions, and this engine was not told to run such.
            FunctionNotLoadable: If one of its Python functions cannot be loaded in this process.
            PlanError: If DataFusion cannot decode it for another reason.
        """
        if self._allow_udfs and python_functions([plan]):
            late_pandas.tell_pyarrow()
        encoded = codec.encode(plan)
        try:
            return ExecutionPlan.from_bytes(self.ctx, encoded)
        except BaseException as error:
            # Of bytes that are no plan, some make DataFusion's decoder panic, and a panic is no Exception.
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            self._check_functions(plan)
            raise PlanError(f"DataFusion cannot decode the fragment: {error}") from error

    def _check_functions(self, plan: PlanNode) -> None:
        """Raise what is wrong with the Python functions of a plan that could not be decoded, if something is."""
        functions = python_functions([plan])
        if functions and not self._allow_udfs:
            raise FunctionsRefused(
                f"the task runs Python functions, which this node was not started for: {names_of(functions)}; start "
                "nodes with --allow-udfs if all who may write to the storage root may run code on them",
                functions=names_of(functions),
            )
        for function in functions:
            _check_loadable(function)


def _check_loadable(function: PythonFunction) -> None:
    """Load a function as DataFusion would, for the error that DataFusion tells of as text only."""
    own = versions.python_version()
    if function.python != own:
        why: object = f"it was pickled by Python {function.python}, and this process runs Python {own}"
        module = None
    else:
        try:
            pickle.loads(function.pickled)
        except Exception as error:  # noqa: BLE001 - unpickling runs the user's code, which may raise anything
            why, module = f"{type(error).__name__}: {error}", getattr(error, "name", None)
        else:
            return
    raise FunctionNotLoadable(
        f"the Python function {function} cannot be loaded: {why}; make the modules that it uses importable on every "
        "node, in the session's versions, or have them pickled with it (cloudpickle.register_pickle_by_value)",
        function=function.name,
        module=module,
    )


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
