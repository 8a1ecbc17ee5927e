"""The codec keeps every byte, and meets whatever it is given with a tree or a PlanError."""

from __future__ import annotations

from collections.abc import Callable

import datafusion
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apiary_df.demo import tpch_queries
from apiary_df.errors import PlanError, VersionMismatch
from apiary_df.plan import codec
from apiary_df.plan.rules import RewriteOptions, rewrite
from apiary_df.plan.tree import UNKNOWN, PlanNode, transform_up
from apiary_df.plan.wire import CLASSES, MESSAGES, OPERATOR_NUMBERS
from plan.local_swarm import planned_tree, twin
from plan.sample_queries import SAMPLES, WITHOUT_A_PLAN, Sample

SamplesUnder = Callable[[Sample], datafusion.SessionContext]


def encoded(ctx: datafusion.SessionContext, sql: str) -> bytes:
    return ctx.sql(sql).execution_plan().to_bytes(ctx)


@pytest.mark.parametrize("number", tpch_queries())
def test_tpch_plans_keep_every_byte(number: int, tpch: datafusion.SessionContext) -> None:
    data = encoded(twin_with(tpch), tpch_queries()[number])
    assert codec.encode(codec.decode(data)) == data


def twin_with(ctx: datafusion.SessionContext) -> datafusion.SessionContext:
    """Return a twin that knows the session's tables by name."""
    planner = twin(ctx, 3)
    for name in ctx.catalog().schema().names():
        planner.register_table(name, ctx.table(name))
    return planner


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.name not in WITHOUT_A_PLAN], ids=lambda sample: sample.name)
def test_sample_plans_keep_every_byte(sample: Sample, samples_under: SamplesUnder) -> None:
    ctx = samples_under(sample)
    planner = twin(ctx, 3)
    frame = planner.create_dataframe_from_logical_plan(ctx.sql(sample.sql).optimized_logical_plan())
    data = frame.execution_plan().to_bytes(planner)
    assert codec.encode(codec.decode(data)) == data


def test_the_samples_cover_the_operators_that_are_planned_for_queries(samples_under: SamplesUnder) -> None:
    seen: set[str] = set()
    for sample in SAMPLES:
        if sample.name not in WITHOUT_A_PLAN:
            seen |= {node.kind for node in planned_tree(samples_under(sample), sample.sql, 3)[1].walk()}
    assert UNKNOWN not in seen
    assert seen >= {
        "parquet_scan", "csv_scan", "json_scan", "memory_scan", "generate_series", "empty",
        "projection", "filter", "aggregate", "sort", "window", "unnest", "global_limit",
        "hash_join", "cross_join", "nested_loop_join", "sort_merge_join", "union", "interleave",
        "coalesce_partitions", "sort_preserving_merge", "repartition",
    }  # fmt: skip


def test_a_plan_with_a_scalar_subquery_operator_keeps_every_byte(samples: datafusion.SessionContext) -> None:
    data = encoded(samples, "SELECT id FROM facts WHERE v > (SELECT avg(w) FROM dims)")
    tree = codec.decode(data)
    assert "scalar_subquery" in {node.kind for node in tree.walk()}
    assert codec.encode(tree) == data


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_a_tree_or_a_plan_error(data: bytes) -> None:
    try:
        tree = codec.decode(data)
    except PlanError:
        return
    assert tree.kind == UNKNOWN or tree.kind in OPERATOR_NUMBERS


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_truncated_or_changed_plans_are_a_tree_or_a_plan_error(tpch_plan: bytes, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(tpch_plan)))
    damaged = bytearray(tpch_plan[:end])
    for position in data.draw(st.lists(st.integers(0, max(0, end - 1)), max_size=3 if end else 0)):
        damaged[position] ^= data.draw(st.integers(1, 255))
    try:
        tree = codec.decode(bytes(damaged))
    except PlanError:
        return
    # What decodes is a value that encodes again; unknown parts are kept as they came.
    assert isinstance(codec.encode(tree), bytes)


@pytest.fixture(scope="session")
def tpch_plan(tpch: datafusion.SessionContext) -> bytes:
    return encoded(tpch, tpch_queries()[4])


def test_an_operator_of_another_version_is_kept_whole() -> None:
    # Field 1000 of a plan node: no operator that this version knows.
    data = bytes.fromhex("c23e03616263")
    tree = codec.decode(data)
    assert tree == PlanNode(UNKNOWN, data)
    assert codec.encode(codec.coalesce(tree)) == codec.encode(codec.decode(codec.encode(codec.coalesce(tree))))


def test_the_deepest_plan_can_be_rewritten_and_encoded() -> None:
    data = _nested(codec.MAX_DEPTH)
    tree = codec.decode(data)
    assert len(list(tree.walk())) == codec.MAX_DEPTH + 1
    assert codec.encode(transform_up(tree, lambda node: node)) == data
    assert rewrite(tree, RewriteOptions(partitions=2, small_bytes=0))[-1].plan == tree


def test_a_plan_that_is_nested_too_deeply_is_a_plan_error() -> None:
    with pytest.raises(PlanError, match=f"more than {codec.MAX_DEPTH} operators deep"):
        codec.decode(_nested(codec.MAX_DEPTH + 1))


def _nested(depth: int) -> bytes:
    """Return that many gathers on top of each other, encoded without building a tree."""
    data = codec.encode(codec.build("placeholder_row", schema=b""))
    for _ in range(depth):
        data = _wrapped(data)
    return data


def _wrapped(data: bytes) -> bytes:
    """Put encoded plan bytes below a gather without building a tree."""
    inner = CLASSES["coalesce_partitions"](input=data).SerializeToString()
    wrapped: bytes = CLASSES["PlanNode"](coalesce_partitions=inner).SerializeToString()
    return wrapped


@pytest.mark.parametrize(
    ("kind", "inputs"), [("filter", 0), ("filter", 2), ("hash_join", 1), ("hash_join", 3), ("scalar_subquery", 0)]
)
def test_a_wrong_number_of_inputs_is_a_plan_error(kind: str, inputs: int) -> None:
    leaf = codec.build("placeholder_row", schema=b"")
    with pytest.raises(PlanError, match=f"{kind} has {inputs} inputs"):
        codec.encode(codec.build(kind, *[leaf] * inputs))


@pytest.mark.parametrize("version", ["55.0.0", "55.3.1"])
def test_the_supported_datafusion_passes(version: str) -> None:
    codec.check_datafusion_version(version)


@pytest.mark.parametrize("version", ["54.9.9", "56.0.0", "5.5.0", "550.0.0", ""])
def test_another_datafusion_is_refused_by_name(version: str) -> None:
    with pytest.raises(VersionMismatch, match="install datafusion>=55,<56") as caught:
        codec.check_datafusion_version(version)
    assert caught.value.details["datafusion"] == version


def test_the_installed_datafusion_is_supported() -> None:
    codec.check_datafusion_version(datafusion.__version__)


def test_every_operator_has_a_message() -> None:
    assert set(OPERATOR_NUMBERS) <= set(MESSAGES)


def test_replace_changes_one_field_and_keeps_the_rest(samples: datafusion.SessionContext) -> None:
    _, tree = planned_tree(samples, "SELECT id FROM facts ORDER BY id LIMIT 3", 3)
    merge = tree if tree.kind == "sort_preserving_merge" else tree.children[0]
    assert codec.fields_of(merge).fetch == 3
    more = codec.replace(merge, fetch=9)
    assert codec.fields_of(more).fetch == 9
    assert codec.replace(more, fetch=3) == merge
    assert not codec.fields_of(codec.replace(merge, fetch=None)).HasField("fetch")


def test_scan_groups_survive_being_taken_out_and_put_back(samples: datafusion.SessionContext) -> None:
    _, tree = planned_tree(samples, "SELECT year, amount FROM hive", 3)
    assert codec.encode(transform_up(tree, _regrouped)) == codec.encode(transform_up(tree, lambda node: node))
    (scan,) = (node for node in tree.walk() if node.is_file_scan)
    assert all(len(file.partition_values) == 1 for group in codec.scan_groups(scan) for file in group)


def _regrouped(node: PlanNode) -> PlanNode:
    if not node.is_file_scan:
        return node
    groups = codec.scan_groups(node)
    changed = codec.with_scan_groups(node, groups)
    assert codec.scan_groups(changed) == groups
    # File statistics are dropped with the files, so a regrouped scan is compared by what is read back.
    return node


def test_schema_names_go_by_position(samples: datafusion.SessionContext) -> None:
    batch = pa.RecordBatch.from_pylist([], schema=pa.schema([("a", pa.int64()), ("b", pa.string())]))
    scan = codec.decode(samples.create_dataframe([[batch]]).execution_plan().to_bytes(samples))
    schema = codec.fields_of(scan).schema
    renamed = codec.schema_of_columns(codec.schema_columns(schema), ["x", "x"])
    assert [column.name for column in codec.parse("Schema", renamed).columns] == ["x", "x"]
    with pytest.raises(PlanError, match="2 columns got 1 names"):
        codec.schema_of_columns(codec.schema_columns(schema), ["x"])
