"""What tasks read together is exactly what their stage has to read, wherever they go."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiary_df.config import MIN_CELL_BYTES
from apiary_df.costs import ShufflePlanning
from apiary_df.errors import NoAliveNodes
from apiary_df.model import CellInfo, NodeInfo, NodeState, PartialRef, ScanFile, Segment, TaskSpec
from apiary_df.plan.stages import ExchangeLeaf, Leaf, ScanLeaf, Stage, Variant
from apiary_df.plan.tree import PlanNode
from apiary_df.tasks import (
    EARLY_TASK_BYTES,
    EARLY_TASKS_PER_BEE,
    INLINE_STAGE_BYTES,
    MIN_INLINE_BYTES,
    TaskOptions,
    cached_alike,
    cell_target_bytes,
    contiguous_shares,
    early_task_bytes,
    inline_bytes_of,
    plan_root,
    plan_stage,
)

GIB = 1 << 30
FINE = TaskOptions(min_cell_bytes=1)


def node(node_id: str, *, bees: int = 2, busy: int = 0, cell_bytes: int = GIB, **changes: object) -> NodeInfo:
    fields: dict[str, object] = {
        "node_id": node_id,
        "state": NodeState.ALIVE,
        "cores": bees,
        "memory_bytes": 4 * GIB,
        "memory_per_bee": GIB,
        "target_cell_size": cell_bytes,
        "bees_total": bees,
        "bees_busy": busy,
        "idle_bees": bees - busy,
        **changes,
    }
    return NodeInfo(**fields)  # type: ignore[arg-type]


def scan(*sizes: int, ordered: bool = False, splittable: bool = True, kind: str = "parquet_scan") -> ScanLeaf:
    files = tuple(ScanFile(path=f"t/{i}.x", size_bytes=size) for i, size in enumerate(sizes))
    return ScanLeaf(files=files, store_url="file:///", ordered=ordered, splittable=splittable, format=kind)


def stage(leaves: Sequence[Leaf], *variants: Variant, partitions: int = 1, fragment: PlanNode | None = None) -> Stage:
    return Stage(
        stage=5,
        fragment=fragment or PlanNode("placeholder_row", b""),
        output="hash" if partitions > 1 else "gather",
        partitions=partitions,
        leaves=tuple(leaves),
        variants=variants,
        unions=0,
        schema=None,
    )


def partial(stage_number: int, task: int, rows: Sequence[int]) -> PartialRef:
    """Return a partial with so many rows for each partition, a hundred bytes a row."""
    segments = []
    offset = 64
    for partition, count in enumerate(rows):
        segments.append(Segment(partition=partition, offset=offset, length=count * 100, rows=count, checksum="ab"))
        offset += count * 100
    return PartialRef(
        key=f"p{stage_number}-{task}",
        length=offset + 10,
        footer_offset=offset,
        footer_checksum="cd",
        segments=tuple(segments),
        head_length=64,
        head_checksum="ef",
    )


def spans(specs: Sequence[TaskSpec], leaf: int) -> Mapping[str, list[tuple[int, int]]]:
    """Return the byte ranges that tasks read of each file of a leaf, in order."""
    found: dict[str, list[tuple[int, int]]] = {}
    for spec in specs:
        for scan_input in spec.scans:
            if scan_input.leaf == leaf:
                for file in scan_input.files:
                    end = file.size_bytes if file.range_end is None else file.range_end
                    found.setdefault(file.path, []).append((file.range_start or 0, end))
    return {path: sorted(ranges) for path, ranges in found.items()}


def reads(specs: Sequence[TaskSpec], leaf: int) -> Counter[tuple[str, int]]:
    """Return how often each segment (partial's key, partition) of a leaf is read."""
    return Counter(
        (ref.key, ref.segment.partition)
        for spec in specs
        for exchange in spec.exchanges
        if exchange.leaf == leaf
        for ref in exchange.segments
    )


CELLS = Variant(kind="cells", split=(0,))
HASH_2 = Variant(kind="hash", split=(0, 1), partitions=4)

swarms = st.lists(
    st.builds(
        lambda bees, busy, cell: (bees, min(busy, bees), cell),
        st.integers(1, 4),
        st.integers(0, 4),
        st.integers(1, 5_000),
    ),
    min_size=1,
    max_size=4,
).map(lambda drawn: [node(f"n{i}", bees=b, busy=u, cell_bytes=c) for i, (b, u, c) in enumerate(drawn)])


# -- cells ----------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20_000), max_size=8),
    row_groups=st.integers(1, 12),
    splittable=st.booleans(),
    kind=st.sampled_from(["parquet_scan", "csv_scan"]),
    nodes=swarms,
)
def test_every_byte_of_a_scan_is_in_exactly_one_task(
    sizes: list[int], row_groups: int, splittable: bool, kind: str, nodes: list[NodeInfo]
) -> None:
    leaf = scan(*sizes, splittable=splittable, kind=kind)
    starts = {
        f"file:///t/{i}.x": sorted({4 + size * g // row_groups for g in range(row_groups) if size > 8})
        for i, size in enumerate(sizes)
    }
    specs = plan_stage(stage([leaf], CELLS), nodes, {}, starts, FINE)
    found = spans(specs, 0)
    assert set(found) == {file.path for file in leaf.files}
    for file in leaf.files:
        ranges = found[file.path]
        assert ranges[0][0] == 0
        assert ranges[-1][1] == file.size_bytes
        assert all(left[1] == right[0] for left, right in pairwise(ranges))
        if kind == "parquet_scan" and len(ranges) > 1:
            assert {start for start, _ in ranges[1:]} <= set(starts[f"file:///{file.path}"])
        if not splittable:
            assert len(ranges) == 1
    assert sum(spec.input_bytes for spec in specs) == sum(sizes)
    assert {spec.node_id for spec in specs} <= {n.node_id for n in nodes}


def test_tasks_are_numbered_from_zero() -> None:
    specs = plan_stage(stage([scan(*[500] * 20)], CELLS), [node("a"), node("b")], {}, {}, FINE)
    assert [spec.task for spec in specs] == list(range(len(specs)))
    assert {spec.stage for spec in specs} == {5}
    assert len(specs) > 1


def test_a_scan_of_no_files_still_has_a_task() -> None:
    (spec,) = plan_stage(stage([scan()], CELLS), [node("a")], {}, {}, FINE)
    assert spec.scans == ()
    assert spec.node_id == "a"


def test_dead_and_beeless_nodes_get_nothing() -> None:
    nodes = [
        node("a"),
        node("dead", state=NodeState.DEAD),
        node("suspect", state=NodeState.SUSPECT),
        node("b", bees=0),
    ]
    specs = plan_stage(stage([scan(*[900] * 9)], CELLS), nodes, {}, {}, FINE)
    assert {spec.node_id for spec in specs} == {"a"}


def test_without_a_bee_anywhere_the_error_names_what_was_seen() -> None:
    with pytest.raises(NoAliveNodes, match=r"stage 5.*a \(dead, 2 bees\), b \(alive, 0 bees\)"):
        plan_stage(stage([scan(1)], CELLS), [node("a", state=NodeState.DEAD), node("b", bees=0)], {}, {}, FINE)


def test_cells_go_where_they_are_cached() -> None:
    nodes = [node("a"), node("b", cached_cells={"file:///t/0.x": 900})]
    (spec,) = plan_stage(stage([scan(900)], CELLS), nodes, {}, {}, FINE)
    assert spec.node_id == "b"
    assert "1 cached there" in spec.why


@pytest.mark.parametrize(("early", "tasks"), [(False, 2), (True, 6)])
def test_rows_that_go_out_early_come_of_small_tasks(early: bool, tasks: int) -> None:
    nodes = [node("a", bees=1), node("b", bees=1)]
    files = scan(*[EARLY_TASK_BYTES] * 6, splittable=False)
    specs = plan_stage(stage([files], CELLS), nodes, {}, {}, TaskOptions(early=early))
    assert len(specs) == tasks
    assert [file.path for spec in specs for s in spec.scans for file in s.files] == [file.path for file in files.files]


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 100 * EARLY_TASK_BYTES), min_size=1, max_size=200), bees=st.integers(1, 3))
def test_tasks_of_rows_that_go_out_early_are_small_and_not_too_many(sizes: list[int], bees: int) -> None:
    nodes = [node("a", bees=bees)]
    options = TaskOptions(early=True)
    specs = plan_stage(stage([scan(*sizes, splittable=False)], CELLS), nodes, {}, {}, options)
    most_bytes = early_task_bytes(sum(sizes), nodes)
    assert all(spec.input_bytes <= most_bytes or len(spec.scans[0].files) == 1 for spec in specs)
    assert sum(spec.input_bytes for spec in specs) == sum(sizes)
    # Two neighbours are more than one may be, within a share; and a share is at most a bee's wave.
    waves_most = len(plan_stage(stage([scan(*sizes, splittable=False)], CELLS), nodes, {}, {}, TaskOptions()))
    assert len(specs) <= 2 * EARLY_TASKS_PER_BEE * bees + 2 * waves_most


@pytest.mark.parametrize(
    ("total_bytes", "bees", "ceiling", "expected"),
    [
        (0, 2, GIB, MIN_CELL_BYTES),
        (64 << 20, 2, GIB, 8 << 20),
        (64 << 20, 2, 1 << 20, 1 << 20),
        (64 << 20, 2, 1, MIN_CELL_BYTES),
    ],
    ids=["empty", "four-a-bee", "ceiling", "floor"],
)
def test_the_size_of_cells(total_bytes: int, bees: int, ceiling: int, expected: int) -> None:
    assert cell_target_bytes(total_bytes, [node("a", bees=bees, cell_bytes=ceiling)], MIN_CELL_BYTES) == expected


# -- shuffles -------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    left=st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=4),
    right=st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=4),
    min_task_bytes=st.sampled_from([0, 1, 400, 1_000_000]),
    nodes=swarms,
)
def test_every_segment_of_a_shuffle_is_read_exactly_once(
    left: list[list[int]], right: list[list[int]], min_task_bytes: int, nodes: list[NodeInfo]
) -> None:
    partials = {
        2: [partial(2, task, rows) for task, rows in enumerate(left)],
        3: [partial(3, task, rows) for task, rows in enumerate(right)],
    }
    leaves = [ExchangeLeaf(stage=2, ordered=False), ExchangeLeaf(stage=3, ordered=False)]
    specs = plan_stage(stage(leaves, HASH_2), nodes, partials, {}, TaskOptions(min_task_bytes=min_task_bytes))
    for leaf, number in enumerate((2, 3)):
        expected = {(p.key, s.partition): 1 for p in partials[number] for s in p.segments if s.rows}
        assert reads(specs, leaf) == expected
    # Both sides of a join see the same partitions in the same task.
    homes: dict[int, int] = {}
    for spec in specs:
        for exchange in spec.exchanges:
            for ref in exchange.segments:
                assert homes.setdefault(ref.segment.partition, spec.task) == spec.task
    if min_task_bytes == 0:
        assert len(specs) == 4
    if min_task_bytes == 1_000_000:
        assert len(specs) == 1


def combining(partitions: int) -> Stage:
    fragment = PlanNode("repartition", b"", (PlanNode("arrow_scan", b""),))
    shared = Variant(kind="hash", split=(0,), partitions=partitions)
    return stage([ExchangeLeaf(stage=0, ordered=False)], shared, partitions=partitions, fragment=fragment)


@given(
    rows=st.integers(2, 12).flatmap(
        lambda count: st.lists(st.lists(st.integers(0, 5), min_size=count, max_size=count), min_size=1, max_size=12)
    ),
    bees=st.integers(1, 9),
)
def test_what_is_put_together_is_read_once_by_some_partitions_of_some_producers(
    rows: list[list[int]], bees: int
) -> None:
    producers, partitions = len(rows), len(rows[0])
    partials = {0: tuple(partial(0, task, counts) for task, counts in enumerate(rows))}
    specs = plan_stage(combining(partitions), [node("a", bees=bees)], partials, {}, FINE)
    there = {(f"p0-{task}", p) for task, counts in enumerate(rows) for p, count in enumerate(counts) if count}
    assert reads(specs, 0) == Counter(there)
    total_bytes = sum(segment.length for ref in partials[0] for segment in ref.segments)
    shape = ShufflePlanning(bees=bees).shape(producers, partitions, total_bytes)
    assert 1 <= len(specs) <= shape.combiners
    for spec in specs:
        refs = [ref for read in spec.exchanges for ref in read.segments]
        assert len({ref.key for ref in refs}) <= -(-producers // shape.producer_groups)
        assert len({ref.segment.partition for ref in refs}) <= -(-partitions // shape.partition_groups)


def test_a_shuffle_of_nothing_still_has_tasks() -> None:
    leaves = [ExchangeLeaf(stage=2, ordered=False)]
    variant = Variant(kind="hash", split=(0,), partitions=3)
    specs = plan_stage(stage(leaves, variant), [node("a")], {2: [partial(2, 0, [0, 0, 0])]}, {}, TaskOptions())
    assert len(specs) == 3
    assert all(not exchange.segments for spec in specs for exchange in spec.exchanges)


def test_partitions_stay_apart_where_an_operator_rests_on_their_order() -> None:
    fragment = PlanNode("sort_merge_join", b"", (PlanNode("arrow_scan", b""), PlanNode("arrow_scan", b"")))
    leaves = [ExchangeLeaf(stage=2, ordered=False), ExchangeLeaf(stage=3, ordered=False)]
    partials = {2: [partial(2, 0, [1, 1, 1, 1])], 3: [partial(3, 0, [1, 1, 1, 1])]}
    specs = plan_stage(
        stage(leaves, HASH_2, fragment=fragment), [node("a")], partials, {}, TaskOptions(min_task_bytes=GIB)
    )
    assert len(specs) == 4


def test_a_consumer_is_told_all_that_it_needs_to_verify_a_segment() -> None:
    source = partial(2, 0, [3])
    variant = Variant(kind="hash", split=(0,), partitions=1)
    (spec,) = plan_stage(
        stage([ExchangeLeaf(stage=2, ordered=False)], variant), [node("a")], {2: [source]}, {}, TaskOptions()
    )
    assert spec.exchanges[0].segments == (source.segment_ref(source.segments[0]),)


def test_shuffle_tasks_balance_over_idle_bees() -> None:
    variant = Variant(kind="hash", split=(0,), partitions=8)
    source = {2: [partial(2, 0, [10] * 8)]}
    leaves = [ExchangeLeaf(stage=2, ordered=False)]
    even = plan_stage(stage(leaves, variant), [node("a"), node("b")], source, {}, TaskOptions())
    assert Counter(spec.node_id for spec in even) == {"a": 4, "b": 4}
    busy = plan_stage(stage(leaves, variant), [node("a", busy=2), node("b")], source, {}, TaskOptions())
    assert Counter(spec.node_id for spec in busy)["b"] > 4


# -- what every task reads, and unions ------------------------------------------------------------------------------


def test_whole_leaves_are_read_by_every_task() -> None:
    leaves: list[Leaf] = [ExchangeLeaf(stage=2, ordered=False), scan(70, 80), scan(*[900] * 12)]
    build = [partial(2, 0, [4]), partial(2, 1, [0]), partial(2, 2, [6])]
    variant = Variant(kind="cells", whole=(0, 1), split=(2,))
    specs = plan_stage(stage(leaves, variant), [node("a"), node("b")], {2: build}, {}, FINE)
    assert len(specs) > 1
    for spec in specs:
        assert reads([spec], 0) == {("p2-0", 0): 1, ("p2-2", 0): 1}
        assert spans([spec], 1) == {"t/0.x": [(0, 70)], "t/1.x": [(0, 80)]}
    assert len(spans(specs, 2)) == 12


def test_a_single_variant_is_one_task_with_all_of_its_leaves() -> None:
    leaves: list[Leaf] = [ExchangeLeaf(stage=2, ordered=True), scan(70)]
    source = [partial(2, 0, [4]), partial(2, 1, [6])]
    variant = Variant(kind="single", whole=(0, 1))
    (spec,) = plan_stage(stage(leaves, variant), [node("a"), node("b")], {2: source}, {}, FINE)
    assert reads([spec], 0) == {("p2-0", 0): 1, ("p2-1", 0): 1}
    assert spec.exchanges[0].ordered
    assert spec.input_bytes == 1_000 + 70


def test_each_branch_of_a_union_brings_its_own_tasks() -> None:
    leaves: list[Leaf] = [scan(900, 900), ExchangeLeaf(stage=2, ordered=False)]
    variants = (
        Variant(kind="cells", split=(0,), choices=((0, 0),)),
        Variant(kind="hash", split=(1,), partitions=2, choices=((0, 1),)),
    )
    specs = plan_stage(stage(leaves, *variants), [node("a")], {2: [partial(2, 0, [1, 1])]}, {}, FINE)
    by_branch = Counter((spec.branches[0].union, spec.branches[0].branch) for spec in specs)
    assert by_branch == {(0, 0): 2, (0, 1): 2}
    assert [spec.task for spec in specs] == [0, 1, 2, 3]
    assert all(not spec.exchanges for spec in specs if spec.branches[0].branch == 0)
    assert all(not spec.scans for spec in specs if spec.branches[0].branch == 1)


def test_the_root_reads_everything_where_it_is_told_to() -> None:
    leaves = [ExchangeLeaf(stage=2, ordered=True)]
    root = stage(leaves, Variant(kind="single", whole=(0,)))
    spec = plan_root(root, {2: [partial(2, 0, [1]), partial(2, 1, [2])]}, "here")
    assert spec.node_id == "here"
    assert reads([spec], 0) == {("p2-0", 0): 1, ("p2-1", 0): 1}


@given(nodes=swarms, sizes=st.lists(st.integers(1, 9_000), max_size=8), data=st.data())
@settings(max_examples=50, deadline=None)
def test_the_same_swarm_in_another_order_gives_the_same_tasks(
    nodes: list[NodeInfo], sizes: list[int], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(nodes))
    planned = [plan_stage(stage([scan(*sizes)], CELLS), seen, {}, {}, FINE) for seen in (nodes, shuffled)]
    assert planned[0] == planned[1]


def test_caches_make_no_difference_if_all_nodes_hold_as_much_of_each_cell() -> None:
    cells = [CellInfo(storage_key=key, bytes=10) for key in ("x", "y")]
    assert cached_alike([node("a"), node("b")], cells)
    assert cached_alike([node("a", cached_cells={"x": 5}), node("b", cached_cells={"x": 5, "other": 1})], cells)
    assert not cached_alike([node("a", cached_cells={"x": 5}), node("b")], cells)
    assert not cached_alike([node("a", cached_cells={"x": 5}), node("b", cached_cells={"x": 4})], cells)
    assert not cached_alike([node("a"), node("b", cached_cells={"x": 5})], cells)
    assert cached_alike([node("a", cached_cells={"x": 0}), node("b", cached_cells={"other": 4})], cells)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 100), min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    seed=st.randoms(use_true_random=False),
)
def test_contiguous_shares_hold_the_same_cells_each_near_its_old_size(
    sizes: list[int], cuts: list[int], seed: random.Random
) -> None:
    positions = list(range(len(sizes)))
    seed.shuffle(positions)
    edges = [0, *sorted(min(cut, len(sizes)) for cut in cuts), len(sizes)]
    shares = [positions[start:end] for start, end in pairwise(edges)]

    dealt = contiguous_shares(sizes, shares)

    assert [position for share in dealt for position in share] == sorted(positions)
    for old, new in zip(shares, dealt, strict=True):
        assert abs(sum(sizes[p] for p in old) - sum(sizes[p] for p in new)) <= max(sizes)


def test_partials_that_lie_in_records_have_a_bound_for_the_stage() -> None:
    assert inline_bytes_of(1, 16 << 10) == 16 << 10
    assert inline_bytes_of(8, 16 << 10) == INLINE_STAGE_BYTES // 8
    assert inline_bytes_of(64, 16 << 10) == MIN_INLINE_BYTES
    assert inline_bytes_of(65, 16 << 10) == 0
    assert inline_bytes_of(1, 0) == 0
