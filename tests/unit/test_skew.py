"""Which partitions are far larger than their siblings, what is dealt out of them, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiary_df.adapt.skew import SkewedPartition, SkewOptions, deal, skewed_partitions, told, why_not_dealt
from apiary_df.config import Settings
from apiary_df.model import NodeInfo, NodeState, PartialRef, ScanFile, Segment, SegmentRef, TaskSpec
from apiary_df.plan import codec
from apiary_df.plan.stages import EXCHANGE_STORE_URL, ExchangeLeaf, ScanLeaf, Stage, Variant
from apiary_df.plan.tree import PlanNode
from apiary_df.tasks import TaskOptions, plan_stage

OPTIONS = SkewOptions(factor=5, from_bytes=1_000)
LEFT, RIGHT = 2, 3
"""Stages that are joined."""

SCAN = codec.arrow_scan(b"", EXCHANGE_STORE_URL)
BOTH = Variant(kind="hash", split=(0, 1), partitions=4)


def join(kind: str = "Inner", left: PlanNode = SCAN, right: PlanNode = SCAN) -> PlanNode:
    return codec.build(
        "hash_join", left, right, join_type=codec.JOIN_TYPES.index(kind), partition_mode=codec.PARTITIONED
    )


def aggregate(mode: int, of: PlanNode) -> PlanNode:
    return codec.build("aggregate", of, mode=mode)


def stage(fragment: PlanNode, variant: Variant = BOTH) -> Stage:
    return Stage(
        stage=5,
        fragment=fragment,
        output="gather",
        partitions=1,
        leaves=(ExchangeLeaf(stage=LEFT, ordered=False), ExchangeLeaf(stage=RIGHT, ordered=False)),
        variants=(variant,),
        unions=0,
        schema=None,
    )


def partial(key: str, sizes: Sequence[int]) -> PartialRef:
    segments, offset = [], 64
    for partition, size in enumerate(sizes):
        rows = -(-size // 10)
        segments.append(Segment(partition=partition, offset=offset, length=size, rows=rows, checksum="ab"))
        offset += size
    return PartialRef(
        key=key,
        length=offset + 10,
        footer_offset=offset,
        footer_checksum="cd",
        segments=tuple(segments),
        head_length=64,
    )


def made(left: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> dict[int, tuple[PartialRef, ...]]:
    """Return partials of both sides: bytes for each partition, by task."""
    return {
        number: tuple(partial(f"p{number}-{task}", sizes) for task, sizes in enumerate(side))
        for number, side in ((LEFT, left), (RIGHT, right))
    }


def found(
    left: Sequence[Sequence[int]],
    right: Sequence[Sequence[int]],
    *,
    kind: str = "Inner",
    bees: int = 4,
    options: SkewOptions = OPTIONS,
) -> list[SkewedPartition]:
    several = skewed_partitions(stage(join(kind)), made(left, right), bees, options)
    return [one for skewed in several.values() for one in skewed]


SKEWED = [[100, 100, 4_000, 100]] * 6
EVEN = [[100, 100, 100, 100]]


def test_a_partition_far_above_the_median_is_dealt_out_by_producers() -> None:
    (one,) = found(SKEWED, EVEN)
    assert (one.partition, one.leaf, one.why) == (2, 0, "")
    assert one.size_bytes == 24_100
    assert one.median_bytes == 700
    assert [[ref.key for ref in part] for part in one.parts] == [["p2-0"], ["p2-1", "p2-2"], ["p2-3"], ["p2-4", "p2-5"]]
    assert {ref.segment.partition for part in one.parts for ref in part} == {2}


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (OPTIONS, 4),
        (replace(OPTIONS, factor=0), None),
        (replace(OPTIONS, factor=34), 4),
        (replace(OPTIONS, factor=35), None),
        (replace(OPTIONS, from_bytes=24_099), 2),
        (replace(OPTIONS, from_bytes=24_100), None),
        (replace(OPTIONS, from_bytes=9_000), 3),
        (replace(OPTIONS, from_bytes=0), 4),
        (replace(OPTIONS, least_own=80), 3),
        (replace(OPTIONS, least_own=120), 2),
        (replace(OPTIONS, least_own=121), 0),
    ],
)
def test_what_the_options_say(options: SkewOptions, parts: int | None) -> None:
    skewed = found(SKEWED, EVEN, options=options)
    assert [len(one.parts) for one in skewed] == ([] if parts is None else [parts])
    assert all(bool(one.why) != bool(one.parts) for one in skewed)


def test_there_are_no_more_parts_than_bees_or_segments() -> None:
    assert [len(one.parts) for one in found(SKEWED, EVEN, bees=2)] == [2]
    assert found(SKEWED, EVEN, bees=1) == []
    assert [len(one.parts) for one in found(SKEWED[:3], EVEN)] == [3]
    (one,) = found([[100, 100, 24_000, 100]], EVEN)
    assert not one.parts
    assert one.why.endswith("stays one task: what is to be shared out lies in one piece")


def test_of_two_partitions_one_can_be_skewed() -> None:
    two = Variant(kind="hash", split=(0, 1), partitions=2)
    partials = made([[9_000, 10]] * 2, [[10, 10]])
    (skewed,) = skewed_partitions(stage(join(), two), partials, 2, OPTIONS).values()
    assert [(one.partition, len(one.parts)) for one in skewed] == [(0, 2)]


def test_what_only_hands_rows_on_deals_partitions_out_in_its_own_way() -> None:
    one = Variant(kind="hash", split=(0,), partitions=4)
    combining = stage(codec.build("repartition", SCAN), one)
    assert combining.combines
    assert not skewed_partitions(combining, made(SKEWED, []), 4, OPTIONS)


def test_the_settings_say_when() -> None:
    assert SkewOptions.of(Settings(skew_factor=0)).factor == 0
    assert SkewOptions.of(Settings()) == SkewOptions(factor=5, from_bytes=64 << 20)


def test_the_other_input_is_not_read_more_often_than_pays() -> None:
    # Parts of 10,000 bytes would each read 10,000 of the other side.
    assert [len(one.parts) for one in found([[0, 0, 5_000, 0]] * 6, [[0, 0, 10_000, 0]])] == [3]
    (one,) = found([[0, 0, 5_000, 0]] * 6, [[0, 0, 15_001, 0]])
    assert not one.parts
    assert "14.6 KiB of its other inputs would be read by each of several tasks, for 29.3 KiB" in one.why


def test_what_all_tasks_read_counts_as_other_inputs() -> None:
    scan = ScanLeaf(
        files=(ScanFile(path="t", size_bytes=12_000),),
        store_url="file:///",
        ordered=False,
        splittable=True,
        format="csv_scan",
    )
    build = codec.build("cross_join", SCAN, join())
    three = stage(build, replace(BOTH, whole=(0,), split=(1, 2)))
    three = replace(three, leaves=(scan, *three.leaves))
    (skewed,) = skewed_partitions(three, made(SKEWED, EVEN), 4, OPTIONS).values()
    assert [(one.leaf, len(one.parts)) for one in skewed] == [(1, 0)]
    small = replace(three, leaves=(replace(scan, files=()), *three.leaves[1:]))
    (skewed,) = skewed_partitions(small, made(SKEWED, EVEN), 4, OPTIONS).values()
    assert [(one.leaf, len(one.parts)) for one in skewed] == [(1, 4)]


# -- where it is right -----------------------------------------------------------------------------------------------

FARING_ALONE = {
    "Inner": {0, 1},
    "Left": {0},
    "Right": {1},
    "Full": set(),
    "LeftSemi": {0},
    "LeftAnti": {0},
    "LeftMark": {0},
    "RightSemi": {1},
    "RightAnti": {1},
    "RightMark": {1},
}


@pytest.mark.parametrize("operator", ["hash_join", "sort_merge_join"])
@pytest.mark.parametrize("kind", codec.JOIN_TYPES)
def test_the_inputs_of_joins_whose_rows_fare_alone(kind: str, operator: str) -> None:
    number = codec.JOIN_TYPES.index(kind)
    ordered = codec.build("sort", SCAN, preserve_partitioning=True)
    fragment = join(kind) if operator == "hash_join" else codec.build(operator, ordered, ordered, join_type=number)
    may = {leaf for leaf in (0, 1) if why_not_dealt(stage(fragment), BOTH, leaf) is None}
    assert may == FARING_ALONE[kind]


@pytest.mark.parametrize(
    ("fragment", "why"),
    [
        (aggregate(codec.PARTIAL, join()), None),
        (aggregate(codec.FINAL_PARTITIONED, join()), "AggregateExec: mode=FinalPartitioned: all rows of a group"),
        (aggregate(codec.SINGLE_PARTITIONED, join()), "AggregateExec: mode=SinglePartitioned: all rows of a group"),
        (join(right=aggregate(codec.FINAL_PARTITIONED, SCAN)), None),
        (join(left=aggregate(codec.FINAL_PARTITIONED, SCAN)), "all rows of a group must meet in one task"),
        (codec.build("global_limit", join(), skip=0, fetch=3), "a limit skips and counts rows of the whole input"),
        (
            join(right=codec.build("local_limit", SCAN, fetch=3)),
            "which rows a local_limit takes is not fixed, and each",
        ),
        (codec.coalesce(codec.union([SCAN, SCAN])), "rows of its other inputs would be in each of the tasks"),
        (codec.build("sort_merge_join", SCAN, SCAN), "its rows come in an order that an operator rests on"),
        (join("Full"), "HashJoinExec, join_type=Full: which rows of the other input found a partner"),
        (codec.build("hash_join", SCAN, SCAN, null_aware=True, join_type=4, partition_mode=1), "NOT IN must know"),
        (codec.build("cross_join", join(), SCAN), "CrossJoinExec: every task needs the whole build side"),
        (codec.build("cross_join", codec.build("empty"), join()), None),
        (codec.build("nested_loop_join", codec.build("empty"), join(), join_type=2), None),
        (codec.build("nested_loop_join", codec.build("empty"), join(), join_type=1), "there is no key to shuffle by"),
        (PlanNode("extension", b"", (SCAN, SCAN)), "custom operators exist only in the session that made them"),
    ],
)
def test_why_rows_are_not_dealt_out(fragment: PlanNode, why: str | None) -> None:
    told_why = why_not_dealt(stage(fragment), BOTH, 0)
    if why is None:
        assert told_why is None
    else:
        assert told_why is not None
        assert why in told_why


def test_a_branch_of_a_union_by_itself_may_be_dealt_out() -> None:
    fragment = codec.coalesce(codec.union([join(), SCAN]))
    mine = replace(BOTH, choices=((0, 0),))
    assert why_not_dealt(stage(fragment), mine, 0) is None
    assert why_not_dealt(stage(fragment), replace(mine, choices=((0, 1),)), 0) is not None


def test_a_group_that_is_skewed_says_why_it_stays_one_task() -> None:
    one = stage(aggregate(codec.FINAL_PARTITIONED, SCAN), Variant(kind="hash", split=(0,), partitions=4))
    one = replace(one, leaves=one.leaves[:1])
    partials = made(SKEWED, [])
    skewed = skewed_partitions(one, partials, 2, OPTIONS)
    assert told(one, skewed) == ""
    tasks = plan_stage(one, [node()], partials, {}, TaskOptions(), skewed=skewed)
    assert [task.why for task in tasks if "skew" in task.why or "stays" in task.why] == [
        "partition 2 of 4, least loaded; partition 2 has 23.4 KiB, the median 600 B, and stays one task: "
        "AggregateExec: mode=FinalPartitioned: all rows of a group must meet in one task"
    ]
    assert len(tasks) == 4


# -- tasks -----------------------------------------------------------------------------------------------------------


def node(bees: int = 4) -> NodeInfo:
    return NodeInfo(
        node_id="a",
        state=NodeState.ALIVE,
        cores=bees,
        memory_bytes=1 << 30,
        memory_per_bee=1 << 28,
        target_cell_size=1 << 20,
        bees_total=bees,
        bees_busy=0,
        idle_bees=bees,
    )


def reads(task: TaskSpec, leaf: int) -> list[tuple[str, int]]:
    return [(ref.key, ref.segment.partition) for e in task.exchanges if e.leaf == leaf for ref in e.segments]


@given(
    left=st.lists(st.lists(st.sampled_from([0, 10, 100, 5_000]), min_size=4, max_size=4), min_size=1, max_size=6),
    right=st.lists(st.lists(st.sampled_from([0, 10, 100, 5_000]), min_size=4, max_size=4), min_size=1, max_size=3),
    kind=st.sampled_from(["Inner", "Left", "Right", "LeftAnti", "Full"]),
    bees=st.integers(1, 6),
    min_task_bytes=st.sampled_from([0, 400, 1_000_000]),
    factor=st.sampled_from([0, 1e-9, 2, 5]),
)
def test_each_row_of_a_dealt_side_is_read_once_and_meets_all_of_the_other(
    *, left: list[list[int]], right: list[list[int]], kind: str, bees: int, min_task_bytes: int, factor: float
) -> None:
    the_stage, partials = stage(join(kind)), made(left, right)
    skewed = skewed_partitions(the_stage, partials, bees, SkewOptions(factor=factor, from_bytes=0, least_own=0.5))
    tasks = plan_stage(the_stage, [node(bees)], partials, {}, TaskOptions(min_task_bytes=min_task_bytes), skewed=skewed)
    parts = {one.partition: one for several in skewed.values() for one in several if one.parts}
    assert all(2 <= len(one.parts) <= bees for one in parts.values())
    for partition in range(4):
        everything = {
            leaf: [(p.key, partition) for p in partials[number] if p.segments[partition].rows]
            for leaf, number in enumerate((LEFT, RIGHT))
        }
        mine = [tuple([ref for ref in reads(task, leaf) if ref[1] == partition] for leaf in (0, 1)) for task in tasks]
        mine = [shares for shares in mine if any(shares)]
        if partition not in parts:
            assert mine in ([], [(everything[0], everything[1])])
            continue
        dealt = parts[partition].leaf
        assert dealt in FARING_ALONE[kind]
        assert [ref for shares in mine for ref in shares[dealt]] == everything[dealt]
        assert all(shares[dealt] and shares[1 - dealt] == everything[1 - dealt] for shares in mine)
        assert len(mine) == len(parts[partition].parts)
    assert all(task.input_bytes == sum(r.segment.length for e in task.exchanges for r in e.segments) for task in tasks)
    assert bool(told(the_stage, skewed)) == bool(parts)


def test_small_neighbours_of_a_dealt_partition_stay_together() -> None:
    the_stage, partials = stage(join()), made(SKEWED, EVEN)
    skewed = skewed_partitions(the_stage, partials, 4, OPTIONS)
    tasks = plan_stage(the_stage, [node()], partials, {}, TaskOptions(min_task_bytes=1 << 20), skewed=skewed)
    assert [task.why for task in tasks] == [
        "partitions 0..1 of 4, least loaded",
        *(f"part {number} of 4 of partition 2 of 4, least loaded" for number in range(1, 5)),
        "partition 3 of 4, least loaded",
    ]
    assert told(the_stage, skewed) == (
        "partition 2 has 23.5 KiB, the median 700 B, and is read by 4 tasks: each has a share of its rows of stage 2, "
        "and all of its others"
    )


@given(sizes=st.lists(st.integers(1, 1_000), min_size=1, max_size=40), parts=st.integers(1, 12))
def test_stretches_are_even_up_to_a_segment(sizes: list[int], parts: int) -> None:
    refs: list[SegmentRef] = [
        ref.segment_ref(ref.segments[0]) for ref in (partial(f"p{i}", [size]) for i, size in enumerate(sizes))
    ]
    dealt = deal(refs, parts)
    assert [ref for part in dealt for ref in part] == refs
    assert all(dealt)
    assert len(dealt) <= parts
    most = max(sum(ref.segment.length for ref in part) for part in dealt)
    assert most <= sum(sizes) / parts + max(sizes)
