"""The engine of a bee: forced options, refusals, and the self-check without which no node takes work."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datafusion
import pyarrow as pa
import pytest
from datafusion import udf

from apiary_df.errors import ConfigError, FunctionNotLoadable, FunctionsRefused, NodeStartFailed, PlanError
from apiary_df.plan import codec
from apiary_df.plan.tree import PlanNode, transform_up
from apiary_df.worker import engine as engine_module
from apiary_df.worker.engine import Engine, check_engine

STEALING = "datafusion.execution.enable_file_stream_work_stealing"
MEMORY_BYTES = 1 << 26


def plan_of(ctx: datafusion.SessionContext, sql: str) -> PlanNode:
    return codec.decode(ctx.sql(sql).execution_plan().to_bytes(ctx))


def setting(engine: Engine, name: str) -> str:
    rows = engine.ctx.sql(f"SELECT value FROM information_schema.df_settings WHERE name = '{name}'").to_pydict()
    return str(rows["value"][0])


def test_self_check_passes_and_leaves_nothing(tmp_path: Path) -> None:
    check_engine(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_self_check_fails_where_streams_steal_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "ENGINE_OPTIONS", {STEALING: "true"})
    with pytest.raises(NodeStartFailed, match="gave 14 rows, its file has 7"):
        check_engine(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_must_hold_is_forced_over_the_querys_settings(tmp_path: Path) -> None:
    settings = {STEALING: "true", "datafusion.catalog.information_schema": "true"}
    assert setting(Engine(settings, MEMORY_BYTES, tmp_path), STEALING) == "false"


def test_querys_settings_hold(tmp_path: Path) -> None:
    settings = {"datafusion.execution.batch_size": "77", "datafusion.catalog.information_schema": "true"}
    assert setting(Engine(settings, MEMORY_BYTES, tmp_path), "datafusion.execution.batch_size") == "77"


@pytest.mark.parametrize("settings", [{"datafusion.no.such_option": "1"}, {"datafusion.execution.batch_size": "many"}])
def test_setting_that_datafusion_refuses_is_named(
    tmp_path: Path, settings: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="DataFusion refuses the query's settings"):
        Engine(settings, MEMORY_BYTES, tmp_path)
    capfd.readouterr()  # the panic's own words


def test_plan_that_cannot_be_decoded_is_typed(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot decode the fragment"):
        Engine({}, MEMORY_BYTES, tmp_path).decode(PlanNode("filter", b"", (PlanNode("placeholder_row", b""),)))


def plan_with_a_function(function: Callable[[pa.Array], pa.Array]) -> PlanNode:
    ctx = datafusion.SessionContext()
    ctx.register_udf(udf(function, [pa.int64()], pa.int64(), "immutable", "same"))
    return plan_of(ctx, "SELECT same(column1) AS x FROM (VALUES (1), (2))")


def test_python_functions_are_refused_by_name_and_never_loaded(tmp_path: Path) -> None:
    folder = str(tmp_path / "made-by-a-pickle")

    class Trap:
        def __call__(self, values: pa.Array) -> pa.Array:
            return values

        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (folder,))

    plan = plan_with_a_function(Trap())
    with pytest.raises(FunctionsRefused, match="--allow-udfs") as caught:
        Engine({}, MEMORY_BYTES, tmp_path, allow_udfs=False).decode(plan)
    assert caught.value.details["functions"] == "same (scalar)"
    assert not Path(folder).exists()


def test_python_functions_run_where_they_are_allowed(tmp_path: Path) -> None:
    engine = Engine({}, MEMORY_BYTES, tmp_path, allow_udfs=True)
    batches = engine.ctx.execute(engine.decode(plan_with_a_function(lambda values: values)), 0)
    assert [batch.to_pyarrow().to_pydict() for batch in batches] == [{"x": [1, 2]}]


def test_function_of_another_python_is_named(tmp_path: Path) -> None:
    plan = plan_with_a_function(lambda values: values)
    own = bytes([1, *sys.version_info[:2]])
    older = transform_up(plan, lambda node: replace(node, body=node.body.replace(b"DFPYUDF" + own, b"DFPYUDF\1\3\1")))
    with pytest.raises(FunctionNotLoadable, match=r"same \(scalar\) cannot be loaded: it was pickled by Python 3\.1,"):
        Engine({}, MEMORY_BYTES, tmp_path, allow_udfs=True).decode(older)


def test_memory_is_bounded_by_the_budget_and_spills_go_to_the_scratch_folder(tmp_path: Path) -> None:
    engine = Engine({"datafusion.execution.target_partitions": "1"}, 32 << 20, tmp_path)
    rows = "SELECT value % 1000003 AS x, repeat('y', 60) AS y FROM generate_series(1, 700000) ORDER BY x"
    plan = engine.ctx.sql(rows).execution_plan()
    assert sum(
        batch.to_pyarrow().num_rows for i in range(plan.partition_count) for batch in engine.ctx.execute(plan, i)
    )
    assert sum(metric.spill_count or 0 for _, metric in plan.collect_metrics()) > 0
    assert list(tmp_path.iterdir())
