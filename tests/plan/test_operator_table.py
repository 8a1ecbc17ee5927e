"""The table of operators: complete, one class for each use, and true of what DataFusion plans."""

from __future__ import annotations

from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from pyarrow import ipc

from apiary_df.plan import codec
from apiary_df.plan.classes import TABLE, UNKNOWN_OPERATOR, Needs, Placement, classify, reason_in_text
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.tree import PlanNode
from apiary_df.plan.wire import CLASSES, MESSAGES, OPERATOR_NUMBERS
from apiary_df.planning import RunsHere, RunsOnSwarm
from apiary_df.tasks import TaskOptions
from plan.checks import check_rows
from plan.local_swarm import LocalSwarm, node, twin
from plan.operator_examples import EXAMPLES, NOT_PLANNED, Example
from plan.sample_tables import register_samples

ROWS = {row.name: row for row in TABLE}
CASES = [(name, example) for name, examples in EXAMPLES.items() for example in examples]
NAMES = [name for name, _ in CASES]
RUN = [(name, example) for name, example in CASES if example.runs]


def avro_file(path: Path, rows: list[tuple[int, str]]) -> None:
    """Write an Avro file of a whole number ``a`` and a text ``b``."""

    def long(value: int) -> bytes:
        left, data = value << 1, bytearray()
        while left > 0x7F:
            data.append(left & 0x7F | 0x80)
            left >>= 7
        return bytes([*data, left])

    def text(value: bytes) -> bytes:
        return long(len(value)) + value

    schema = b'{"type":"record","name":"r","fields":[{"name":"a","type":"long"},{"name":"b","type":"string"}]}'
    sync = bytes(range(16))
    body = b"".join(long(a) + text(b.encode()) for a, b in rows)
    head = b"Obj\x01" + long(2) + text(b"avro.schema") + text(schema) + text(b"avro.codec") + text(b"null") + long(0)
    path.write_bytes(head + sync + long(len(rows)) + long(len(body)) + body + sync)


@pytest.fixture(scope="module")
def more_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("more")
    for number in range(3):
        rows = [(number * 10 + i, f"t{i % 4}") for i in range(10)]
        table = pa.table({"a": [a for a, _ in rows], "b": [b for _, b in rows]})
        for kind in ("arrows", "avros"):
            (folder / kind).mkdir(exist_ok=True)
        with ipc.new_file(folder / "arrows" / f"{number}.arrow", table.schema) as writer:
            writer.write_table(table)
        avro_file(folder / "avros" / f"{number}.avro", rows)
    return folder


def session_for(example: Example, samples: Path, more: Path) -> datafusion.SessionContext:
    ctx = datafusion.SessionContext(datafusion.SessionConfig(dict(example.settings or {})))
    register_samples(ctx, samples)
    for kind, name in (("ARROW", "arrows"), ("AVRO", "avros")):
        ctx.sql(f"CREATE EXTERNAL TABLE {name} STORED AS {kind} LOCATION '{more / name}/'").collect()
    ctx.register_dataset("dataset", pads.dataset(more / "arrows", format="arrow"))
    return ctx


def classes_of(ctx: datafusion.SessionContext, example: Example) -> set[str]:
    """Return the names of the rows that a query's plan has operators of."""
    planner = ctx if example.natively else twin(ctx, 3)
    logical = ctx.sql(example.sql).optimized_logical_plan()
    physical = planner.create_dataframe_from_logical_plan(logical).execution_plan()
    try:
        data = physical.to_bytes(planner)
    except Exception:  # noqa: BLE001 - DataFusion raises bare Exception where it has no encoding
        text = physical.display_indent()
        assert reason_in_text(text) is not None
        lines = [line.strip() for line in text.splitlines()]
        return {row.name for row in TABLE if any(row.is_named_in(line) for line in lines)}
    return {classify(found).name for found in codec.decode(data).walk()}


@pytest.mark.parametrize(("name", "example"), CASES, ids=NAMES)
def test_the_example_plans_the_operator(name: str, example: Example, sample_folder: Path, more_folder: Path) -> None:
    assert name in classes_of(session_for(example, sample_folder, more_folder), example)


@pytest.mark.parametrize(("name", "example"), RUN, ids=[name for name, _ in RUN])
def test_the_example_gives_the_rows_of_datafusion(
    name: str, example: Example, sample_folder: Path, more_folder: Path, tmp_path: Path
) -> None:
    ctx = session_for(example, sample_folder, more_folder)
    swarm = LocalSwarm(
        session=ctx,
        rewrite=RewriteOptions(partitions=3, small_bytes=0),
        nodes=[node("a", target_cell_size=1), node("b", target_cell_size=1)],
        scratch=tmp_path,
        options=TaskOptions(min_cell_bytes=1),
    )
    ran = swarm.run(example.sql)
    check_rows(ctx.sql(example.sql).to_arrow_table(), ran.table, example.order)
    row = ROWS[name]
    if row.placement is Placement.COORDINATOR and not example.natively:
        assert isinstance(ran.planned, RunsHere)
        assert row.why in ran.planned.reason or row.operator == "WorkTableExec"
    elif row.placement is Placement.ONE_TASK:
        assert isinstance(ran.planned, RunsOnSwarm)
        kinds = [
            variant.kind
            for stage in ran.planned.graph.stages
            if any(classify(found) == row for found in stage.fragment.walk())
            for variant in stage.variants
        ]
        assert kinds
        assert set(kinds) == {"single"}


def test_every_operator_of_the_plan_format_is_in_the_table() -> None:
    assert {row.kind for row in TABLE if row.kind} == set(OPERATOR_NUMBERS) == set(MESSAGES["PlanNode"])


def test_every_row_has_a_name_of_its_own_and_an_example_or_a_reason_for_none() -> None:
    assert len(ROWS) == len(TABLE)
    assert set(EXAMPLES) | set(NOT_PLANNED) == set(ROWS)
    assert not set(EXAMPLES) & set(NOT_PLANNED)


def test_what_restricts_a_plan_says_why() -> None:
    assert [row.name for row in TABLE if row.placement is not Placement.ANY_TASK and not row.reason] == []


def test_needs_and_placement_agree() -> None:
    for row in TABLE:
        if row.placement is Placement.ANY_TASK:
            assert row.needs is Needs.SHARE
        else:
            assert (row.needs is Needs.ALL) == (row.placement in {Placement.ONE_TASK, Placement.COORDINATOR}), row.name


def _every_use() -> list[PlanNode]:
    """Return a node of every operator, and of those with modes one of each."""
    nodes = [PlanNode(kind, b"") for kind in OPERATOR_NUMBERS]
    nodes += [codec.build("aggregate", mode=mode) for mode in range(len(codec.AGGREGATE_MODES))]
    for join in range(len(codec.JOIN_TYPES)):
        nodes.append(codec.build("nested_loop_join", join_type=join))
        for mode in (codec.COLLECT_LEFT, codec.PARTITIONED, codec.AUTO):
            nodes += [
                codec.build("hash_join", join_type=join, partition_mode=mode, null_aware=aware)
                for aware in (False, True)
            ]
    for keys in ([], [b""]):
        nodes += [codec.build("window", partition_keys=keys), codec.build("window", partition_keys=keys, sorted=b"")]
    nodes += [codec.build("sort", preserve_partitioning=kept) for kept in (False, True)]
    for method in ({"round_robin": 3}, {"hash": CLASSES["HashPartitioning"](count=3)}, {"unknown": 3}, {}):
        partitioning = CLASSES["Partitioning"](**method)
        nodes += [codec.build("repartition", partitioning=partitioning, preserve_order=kept) for kept in (False, True)]
    nodes += [
        codec.build(kind, base_conf=CLASSES["FileScanConf"](partitioned_by_file_group=True))
        for kind in OPERATOR_NUMBERS
        if PlanNode(kind, b"").is_file_scan
    ]
    return nodes


def test_every_use_of_every_operator_has_a_class_and_every_class_a_use() -> None:
    found = {classify(node) for node in _every_use()}
    assert UNKNOWN_OPERATOR not in found
    assert found == {row for row in TABLE if row.kind}


def test_only_the_codecs_unknown_is_unknown_to_the_table() -> None:
    assert classify(PlanNode("unknown", b"")) is UNKNOWN_OPERATOR
