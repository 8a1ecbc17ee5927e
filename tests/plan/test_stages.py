"""The cutter on plans that DataFusion does not make today, and the invariants of every stage graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import datafusion
import pytest
from datafusion.plan import ExecutionPlan

from apiary_df.errors import PlanError
from apiary_df.model import ScanFile
from apiary_df.plan import codec
from apiary_df.plan.order import leaves_in_order
from apiary_df.plan.rules import RewriteOptions, rewrite
from apiary_df.plan.schema import ExchangeSchemas, emptied
from apiary_df.plan.stages import ExchangeLeaf, ScanLeaf, StageGraph, cut, whole_files
from apiary_df.plan.tree import PlanNode, transform_up
from plan.local_swarm import planned_tree
from plan.sample_queries import SAMPLES, STAYS_HERE, Sample, by_name

SamplesUnder = Callable[[Sample], datafusion.SessionContext]


def graph_of(samples_under: SamplesUnder, sample: Sample, small_bytes: int = 0) -> StageGraph:
    twin, tree = planned_tree(samples_under(sample), sample.sql, 3)
    options = RewriteOptions(partitions=3, small_bytes=small_bytes)
    return cut(rewrite(tree, options)[-1].plan, partial(ExchangeSchemas().of, twin))


@pytest.mark.parametrize("small_bytes", [0, 10_000])
@pytest.mark.parametrize(
    "sample",
    [s for s in SAMPLES if s.name not in STAYS_HERE],
    ids=lambda sample: sample.name,
)
def test_every_stage_is_read_once_and_reads_only_earlier_ones(
    sample: Sample, small_bytes: int, samples_under: SamplesUnder
) -> None:
    graph = graph_of(samples_under, sample, small_bytes)
    read = [leaf.stage for stage in graph.stages for leaf in stage.leaves if isinstance(leaf, ExchangeLeaf)]
    assert sorted(read) == [stage.stage for stage in graph.stages[:-1]]
    for number, stage in enumerate(graph.stages):
        assert stage.stage == number
        assert all(source < number for source in stage.inputs)
        assert len(stage.leaves) == sum(node.is_file_scan for node in stage.fragment.walk())
        assert stage.unions == sum(node.kind == "union" for node in stage.fragment.walk())
    assert [variant.kind for variant in graph.root.variants] == ["single"]


@pytest.mark.parametrize("name", ["group", "three_way", "union_of_groups", "memory_join"])
def test_asking_for_a_schema_takes_no_longer_for_more_bees(name: str, samples_under: SamplesUnder) -> None:
    sample = by_name(name)
    asked = []
    for partitions in (4, 64):
        twin, tree = planned_tree(samples_under(sample), sample.sql, partitions)
        plan = emptied(rewrite(tree, RewriteOptions(partitions=partitions, small_bytes=0))[-1].plan)
        asked.append(plan)
        widest = 2 * sum(node.kind in {"union", "interleave"} for node in plan.walk()) or 1
        assert ExecutionPlan.from_bytes(twin, codec.encode(plan)).partition_count <= widest
    assert asked[0] == asked[1]


def test_an_aggregate_over_the_branches_of_a_union_is_refused_however_they_are_shuffled(
    samples_under: SamplesUnder,
) -> None:
    sample = by_name("group")
    twin, tree = planned_tree(samples_under(sample), sample.sql, 3)

    def doubled(node: PlanNode) -> PlanNode:
        return codec.union([node, node]) if node.kind == "repartition" else node

    with pytest.raises(PlanError, match="mode=FinalPartitioned needs all rows of a key"):
        cut(transform_up(tree, doubled), partial(ExchangeSchemas().of, twin))


def test_a_global_aggregate_over_several_tasks_is_refused(samples_under: SamplesUnder) -> None:
    sample = by_name("global")
    twin, tree = planned_tree(samples_under(sample), sample.sql, 3)

    def ungathered(node: PlanNode) -> PlanNode:
        return node.children[0] if node.kind == "coalesce_partitions" else node

    with pytest.raises(PlanError, match="mode=Final needs all rows in one task"):
        cut(transform_up(tree, ungathered), partial(ExchangeSchemas().of, twin))


def test_a_build_side_of_several_partitions_is_refused(samples_under: SamplesUnder) -> None:
    sample = by_name("inner")
    twin, tree = planned_tree(samples_under(sample), sample.sql, 3)

    def ungathered(node: PlanNode) -> PlanNode:
        return node.children[0] if node.kind == "coalesce_partitions" else node

    with pytest.raises(PlanError, match="the build side of a hash_join has several partitions"):
        cut(transform_up(tree, ungathered), partial(ExchangeSchemas().of, twin))


def test_files_in_order_in_one_group_are_read_as_one_partition(samples_under: SamplesUnder) -> None:
    sample = by_name("declared_order")
    twin, tree = planned_tree(samples_under(sample), sample.sql, 3)

    def one_group(node: PlanNode) -> PlanNode:
        if not node.is_file_scan:
            return node
        return codec.with_scan_groups(node, [[file for group in codec.scan_groups(node) for file in group]])

    for plan, ordered in ((tree, True), (transform_up(tree, one_group), False)):
        graph = cut(plan, partial(ExchangeSchemas().of, twin))
        leaves = [leaf for stage in graph.stages for leaf in stage.leaves if isinstance(leaf, ScanLeaf)]
        assert [(leaf.ordered, len(leaf.files)) for leaf in leaves] == [(ordered, 3)]


# -- planned byte ranges --------------------------------------------------------------------------------------------


def ranged(*bounds: tuple[int, int]) -> list[ScanFile]:
    return [ScanFile(path="a", size_bytes=100, range_start=start, range_end=end) for start, end in bounds]


def test_planned_ranges_become_whole_objects_again() -> None:
    planned = [*ranged((40, 100), (0, 40)), ScanFile(path="b", size_bytes=7)]
    assert whole_files(planned) == (ScanFile(path="a", size_bytes=100), ScanFile(path="b", size_bytes=7))


@pytest.mark.parametrize(
    "bounds", [[(0, 40)], [(10, 100)], [(0, 40), (50, 100)], [(0, 60), (40, 100)], [(0, 100), (0, 100)]]
)
def test_ranges_that_do_not_cover_an_object_once_are_refused(bounds: list[tuple[int, int]]) -> None:
    with pytest.raises(PlanError, match="'a'"):
        whole_files(ranged(*bounds))


# -- leaves whose order matters ------------------------------------------------------------------------------------


def leaf() -> PlanNode:
    return PlanNode("arrow_scan", b"")


def over(kind: str, *children: PlanNode) -> PlanNode:
    return PlanNode(kind, b"", children)


def _orders() -> Iterator[tuple[str, PlanNode, set[int]]]:
    yield "nothing above", leaf(), set()
    yield "merge join", over("sort_merge_join", leaf(), leaf()), {0, 1}
    yield "sorted merge join", over("sort_merge_join", over("sort", leaf()), leaf()), {1}
    yield "window", over("window", over("projection", leaf())), {0}
    yield "sorted window", over("window", over("sort", over("filter", leaf()))), set()
    yield "merge", over("sort_preserving_merge", leaf()), {0}
    yield "below a gather", over("window", over("coalesce_partitions", leaf())), set()
    yield "probe side", over("window", over("hash_join", leaf(), leaf())), {1}
    yield "build side", over("window", over("cross_join", leaf(), over("sort", leaf()))), set()


@pytest.mark.parametrize(("plan", "expected"), [pytest.param(p, e, id=name) for name, p, e in _orders()])
def test_which_leaves_must_be_in_order(plan: PlanNode, expected: set[int]) -> None:
    assert leaves_in_order(plan) == expected
