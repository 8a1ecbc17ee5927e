"""Every trap of a distributed DataFusion, and that the way out of it is what keeps us out.

A trap is a query whose answer goes wrong when plans are run apart without care, and one thing that this package does
about it. Each is tested twice: the answer is right, and it is not once that one thing is taken away. A way out that
nothing rests on any more fails here, and so does a check that could not see the trap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datafusion
import pyarrow as pa
import pytest

from apiary_df import planning
from apiary_df.errors import ApiaryError
from apiary_df.model import BranchChoice, ExchangeInput, ScanFile
from apiary_df.plan import codec, rules, scans, stages
from apiary_df.plan.operators import partition_count
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.tree import PlanNode
from apiary_df.protocol import partial_writer
from apiary_df.protocol.partial_writer import PartialWriter
from apiary_df.tasks import TaskOptions
from apiary_df.worker import engine
from plan import local_swarm
from plan.checks import check_rows
from plan.local_swarm import LocalSwarm, Ran, node
from plan.sample_queries import SHUFFLED, Sample, by_name

SessionUnder = Callable[[Sample], datafusion.SessionContext]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a trap is tried on."""

    samples_under: SessionUnder
    scratch: Path

    def swarm(self, settings: dict[str, str] | None = None, task_bytes: int = 0) -> LocalSwarm:
        """Return a swarm of two nodes whose tasks are as small as can be."""
        return LocalSwarm(
            session=self.samples_under(Sample(name="", sql="", settings=tuple((settings or {}).items()))),
            rewrite=RewriteOptions(partitions=3, small_bytes=0),
            nodes=[node("a", target_cell_size=1), node("b", target_cell_size=1)],
            scratch=self.scratch,
            options=TaskOptions(min_cell_bytes=1, min_task_bytes=task_bytes),
        )

    def check(self, sql: str, *order: str, settings: dict[str, str] | None = None, task_bytes: int = 0) -> Ran:
        """Run a query in several tasks and check its rows against plain DataFusion's."""
        swarm = self.swarm(settings, task_bytes)
        ran = swarm.run(sql)
        assert any(len(tasks) > 1 for tasks in ran.tasks.values()), f"not distributed: {ran.planned}"
        check_rows(swarm.session.sql(sql).to_arrow_table(), ran.table, order)
        return ran


@dataclass(frozen=True, kw_only=True)
class Trap:
    """A trap, the check that sees it, and the taking away of what avoids it."""

    name: str
    check: Callable[[Bench], object]
    remove: Callable[[pytest.MonkeyPatch], None]


TRAPS: list[Trap] = []


def trap(name: str, remove: Callable[[pytest.MonkeyPatch], None]) -> Callable[[Callable[[Bench], object]], None]:
    def add(check: Callable[[Bench], object]) -> None:
        TRAPS.append(Trap(name=name, check=check, remove=remove))

    return add


@pytest.fixture
def bench(samples_under: SessionUnder, tmp_path: Path) -> Bench:
    return Bench(samples_under=samples_under, scratch=tmp_path)


# -- a task reads another task's files ------------------------------------------------------------------------------


def _engines_may_steal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(engine, "ENGINE_OPTIONS", {"datafusion.execution.enable_file_stream_work_stealing": "true"})


@trap("one partition of a scan, executed alone, takes the files of all", _engines_may_steal)
def _(bench: Bench) -> None:
    engine.check_engine(bench.scratch)


def _tasks_get_all_files(patch: pytest.MonkeyPatch) -> None:
    def all_files(by_url: Mapping[str, ScanFile], cells: Iterable[object]) -> tuple[ScanFile, ...]:
        return tuple(by_url.values())

    patch.setattr("apiary_df.tasks.files_of_cells", all_files)


@trap("a task's plan still lists the files of other tasks", _tasks_get_all_files)
def _(bench: Bench) -> None:
    bench.check("SELECT count(*) AS c, sum(v) AS s FROM facts")


# -- shuffles -------------------------------------------------------------------------------------------------------


def _every_segment_a_partition(patch: pytest.MonkeyPatch) -> None:
    def groups(filler: Any, exchange: ExchangeInput, _count: int) -> list[list[ScanFile]]:
        return [[filler._locate(ref)] for ref in exchange.segments if ref.segment.rows] or [[]]

    patch.setattr(scans._Filler, "_segment_groups", groups)


@trap(
    "the reading end of a shuffle has several partitions, and a group's rows are in more than one",
    _every_segment_a_partition,
)
def _(bench: Bench) -> None:
    bench.check("SELECT g, count(*) AS c FROM facts GROUP BY g")


def _shuffles_say_their_partitioning(patch: pytest.MonkeyPatch) -> None:
    plain_scan = codec.arrow_scan

    def declared(schema: bytes, object_store_url: str) -> PlanNode:
        scan = plain_scan(schema, object_store_url)
        conf = codec.fields_of(scan).base_conf
        # A round-robin partitioning of three, over a task's single file group.
        conf.output_partitioning = b"\x08\x03"
        return codec.build("arrow_scan", base_conf=conf)

    patch.setattr(codec, "arrow_scan", declared)


@trap(
    "a shuffle's reading end declares another number of partitions than it has file groups",
    _shuffles_say_their_partitioning,
)
def _(bench: Bench) -> None:
    swarm = bench.swarm()
    planned = swarm.plan("SELECT g, count(*) AS c FROM facts GROUP BY g")
    assert isinstance(planned, planning.RunsOnSwarm)
    for stage in planned.graph.stages:
        for leaf in stage.fragment.walk():
            if leaf.is_file_scan:
                conf = codec.scan_conf(leaf)
                assert not conf.HasField("output_partitioning"), "a declared partitioning could differ"


# -- joins with state in one process ----------------------------------------------------------------------------------


def _without_rules(*names: str) -> Callable[[pytest.MonkeyPatch], None]:
    def remove(patch: pytest.MonkeyPatch) -> None:
        kept = tuple(rule for rule in rules.RULES if rule.__name__ not in names)
        assert len(kept) == len(rules.RULES) - len(names), f"there is no rule {names} any more"
        patch.setattr(rules, "RULES", kept)

    return remove


for _kind, _name in {
    "Left": "left_small",
    "Full": "full_join",
    "LeftSemi": "semi_small",
    "LeftAnti": "anti_small",
    "LeftMark": "mark_small",
}.items():

    @trap(
        f"a collected join that emits build rows ({_kind}) runs in several tasks",
        # What the first rule leaves, the second would run in one task.
        _without_rules("shuffle_build_emitting_joins", "isolate_single_task_joins"),
    )
    def _(bench: Bench, sql: str = by_name(_name).sql) -> None:
        bench.check(sql)


@trap("a nested-loop join that emits build rows runs in several tasks", _without_rules("isolate_single_task_joins"))
def _(bench: Bench) -> None:
    bench.check(by_name("loop_left_small").sql)


@trap("NOT IN keeps whether it saw a NULL in one process", _without_rules("isolate_single_task_joins"))
def _(bench: Bench) -> None:
    bench.check(by_name("not_in").sql)


# -- unions ---------------------------------------------------------------------------------------------------------


def _tasks_run_all_branches(patch: pytest.MonkeyPatch) -> None:
    whole = scans.fill_fragment

    def without(
        fragment: PlanNode, scans: Any, exchanges: Any, branches: Iterable[BranchChoice], **more: Any
    ) -> PlanNode:
        return whole(fragment, scans, exchanges, (), **more)

    patch.setattr(local_swarm, "fill_fragment", without)


@trap("every task of a union runs all of its branches", _tasks_run_all_branches)
def _(bench: Bench) -> None:
    bench.check("SELECT id, v FROM facts UNION ALL VALUES (-1, 5), (-2, 6)")


def _any_inputs_are_alike(patch: pytest.MonkeyPatch) -> None:
    def merged(operator: PlanNode, variants: list[stages.Variant]) -> stages.Variant:
        first = stages._merge_variants(variants)
        return replace(first, kind="hash", partitions=max(v.partitions for v in variants))

    patch.setattr(stages, "_merge_hash", merged)


@trap("the inputs of an interleave are not partitioned alike", _any_inputs_are_alike)
def _(bench: Bench) -> None:
    alike = stages.Variant(kind="hash", split=(0,), partitions=3)
    other = stages.Variant(kind="hash", split=(1,), partitions=4)
    with pytest.raises(ApiaryError, match="not partitioned alike"):
        stages._merge_hash(codec.union([]), [alike, other])


# -- subqueries and filters that live in one process ------------------------------------------------------------------


def _twin_without(option: str, value: str) -> Callable[[pytest.MonkeyPatch], None]:
    def remove(patch: pytest.MonkeyPatch) -> None:
        assert planning.TWIN_OPTIONS[option] != value
        patch.setattr(planning, "TWIN_OPTIONS", {**planning.TWIN_OPTIONS, option: value})

    return remove


@trap(
    "a scalar subquery's value lives in the process that ran it",
    _twin_without("datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery", "true"),
)
def _(bench: Bench) -> None:
    bench.check("SELECT id FROM facts WHERE v > (SELECT avg(v) FROM facts)")


@trap(
    "a dynamic filter is filled by an operator of another stage",
    _twin_without("datafusion.optimizer.enable_dynamic_filter_pushdown", "true"),
)
def _(bench: Bench) -> None:
    swarm = bench.swarm(SHUFFLED)
    planned = swarm.plan("SELECT f.id FROM facts f JOIN dims d ON f.k = d.k ORDER BY f.v, f.id LIMIT 3")
    assert "DynamicFilter" not in planned.physical


# -- order and limits -----------------------------------------------------------------------------------------------


def _segments_end_to_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scans, "_groups", lambda files, ordered: [list(files)])


@trap("a merge reads sorted rows end to end", _segments_end_to_end)
def _(bench: Bench) -> None:
    bench.check("SELECT id, v FROM facts ORDER BY v, id", "v", "id")


def _limits_on_one_side(patch: pytest.MonkeyPatch) -> None:
    gathered = stages._Cutter.gathered

    def unlimited(cutter: stages._Cutter, gather: PlanNode, child: stages._Region) -> stages._Region:
        region = gathered(cutter, gather, child)
        if gather.kind != "coalesce_partitions":
            return region
        return replace(region, tree=codec.coalesce(region.tree.children[0]))

    patch.setattr(stages._Cutter, "gathered", unlimited)


@trap("a limit holds for each task, and not for all of them", _limits_on_one_side)
def _(bench: Bench) -> None:
    ran = bench.swarm().run("SELECT id FROM facts LIMIT 7")
    assert ran.table.num_rows == 7


def _no_distribution_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stages, "_check_distribution", lambda node, child: None)


@trap("an operator that skips rows runs in every task", _no_distribution_check)
def _(bench: Bench) -> None:
    cells = stages._Region(codec.union([]), (), (stages.Variant(kind="cells", split=(0,)),))
    with pytest.raises(ApiaryError, match="GlobalLimitExec needs all rows"):
        stages._check_distribution(codec.build("global_limit", cells.tree, skip=2, fetch=3), cells)


# -- names, empties, sizes, settings ----------------------------------------------------------------------------------


def _columns_by_name(patch: pytest.MonkeyPatch) -> None:
    def by_name(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([batch.column(name) for name in schema.names], schema=schema)

    patch.setattr(partial_writer, "conform", by_name)


@trap("columns of a join have the same name", _columns_by_name)
def _(bench: Bench) -> None:
    sql = "SELECT a.id, b.id, a.g, b.g FROM facts a JOIN facts b ON a.id = b.id + 1"
    planned = bench.swarm(SHUFFLED).plan(sql)
    assert isinstance(planned, planning.RunsOnSwarm)
    (schema,) = (s.schema.arrow for s in planned.graph.stages if s.schema is not None and s.schema.renamed)
    rows = [pa.array([value], field.type) for value, field in zip((1, 2, "x", "y"), schema, strict=True)]
    with PartialWriter(schema, 1, bench.scratch, memory_bytes=1 << 20, compression=None) as writer:
        writer.write(0, pa.RecordBatch.from_arrays(rows, names=["id", "id", "g", "g"]))
        assert pa.ipc.open_file(writer.finish().data).read_all().to_pylist() == [
            {"c0": 1, "c1": 2, "c2": "x", "c3": "y"}
        ]


def _buffers_as_they_are(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(partial_writer, "compact", lambda batch: batch)


@trap("a few strings of a view drag all the others along", _buffers_as_they_are)
def _(bench: Bench) -> None:
    strings = pa.array([f"{i:04}" * 50 for i in range(1_000)], pa.string_view())
    batch = pa.record_batch({"s": strings}).slice(10, 5)
    with PartialWriter(batch.schema, 1, bench.scratch, memory_bytes=1 << 24, compression=None) as writer:
        writer.write(0, batch)
        assert writer.finish().ref("k").length < 10_000


@trap("an aggregate without groups gives a row in every task, over nothing too", _no_distribution_check)
def _(bench: Bench) -> None:
    cells = stages._Region(codec.union([]), (), (stages.Variant(kind="cells", split=(0,)),))
    with pytest.raises(ApiaryError, match="mode=Final needs all rows in one task"):
        stages._check_distribution(codec.build("aggregate", cells.tree, mode=codec.FINAL), cells)


def _unions_have_one_partition(patch: pytest.MonkeyPatch) -> None:
    counts: Callable[[PlanNode], int] = lambda node: 1 if node.kind == "union" else partition_count(node)  # noqa: E731
    patch.setattr("apiary_df.plan.stages.partition_count", counts)


@trap("one task's plan has several partitions, of which one is read", _unions_have_one_partition)
def _(bench: Bench) -> None:
    sql = "SELECT count(*) AS c FROM facts WHERE v > 3 UNION ALL SELECT count(*) FROM dims WHERE w > 3"
    bench.check(sql)


def _settings_stay_here(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(planning, "changed_settings", lambda ctx: {})


@trap("a setting that changes answers does not reach the tasks", _settings_stay_here)
def _(bench: Bench) -> None:
    bench.check(
        "SELECT to_timestamp(id) AS at, date_part('hour', to_timestamp(id * 3600)) AS h FROM facts",
        settings={"datafusion.execution.time_zone": "+05:00"},
    )


# -- the tests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", TRAPS, ids=lambda case: case.name)
def test_right_with_the_way_out(case: Trap, bench: Bench) -> None:
    case.check(bench)


@pytest.mark.parametrize("case", TRAPS, ids=lambda case: case.name)
def test_wrong_without_the_way_out(case: Trap, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    case.remove(monkeypatch)
    with pytest.raises(BaseException) as seen:
        case.check(bench)
    assert not isinstance(seen.value, (KeyboardInterrupt, SystemExit))
