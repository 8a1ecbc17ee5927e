"""What each rule changes, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import datafusion
import pytest

from apiary_df.costs import ShufflePlanning
from apiary_df.errors import PlanError
from apiary_df.plan import codec
from apiary_df.plan.operators import has_build_side, join_type, partition_count, source_bytes
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.rules.collapse_small_subtrees import collapse_small_subtrees
from apiary_df.plan.rules.combine_wide_shuffles import combine_wide_shuffles
from apiary_df.plan.rules.drop_round_robin import drop_round_robin
from apiary_df.plan.rules.gather_build_sides import gather_build_sides
from apiary_df.plan.rules.isolate_single_task_joins import isolate_single_task_joins
from apiary_df.plan.rules.shuffle_build_emitting_joins import shuffle_build_emitting_joins
from apiary_df.plan.rules.sort_after_shuffles import sort_after_shuffles
from apiary_df.plan.rules.spell_out_partition_order import spell_out_partition_order
from apiary_df.plan.rules.widen_shuffles import DECODED_FACTOR, HELD_SHARE, MAX_SHUFFLE_PARTITIONS, widen_shuffles
from apiary_df.plan.tree import PlanNode, transform_up
from plan.local_swarm import planned_tree
from plan.sample_queries import SAMPLES, WITHOUT_A_PLAN, Sample, by_name

SamplesUnder = Callable[[Sample], datafusion.SessionContext]

KEEP = RewriteOptions(partitions=3, small_bytes=0)
EXCHANGES = {"repartition", "coalesce_partitions", "sort_preserving_merge"}


def tree_of(samples_under: SamplesUnder, name: str) -> PlanNode:
    sample = by_name(name)
    return planned_tree(samples_under(sample), sample.sql, 3)[1]


def only(tree: PlanNode, kind: str) -> PlanNode:
    (found,) = (node for node in tree.walk() if node.kind == kind)
    return found


def kinds(tree: PlanNode) -> set[str]:
    return {node.kind for node in tree.walk()}


def small(nbytes: int) -> RewriteOptions:
    return RewriteOptions(partitions=3, small_bytes=nbytes)


# -- drop_round_robin -----------------------------------------------------------------------------------------------


def test_round_robin_goes_and_hash_stays(samples: datafusion.SessionContext) -> None:
    _, tree = planned_tree(samples, "SELECT value % 3 AS m, count(*) AS c FROM range(0, 30000) GROUP BY m", 3)
    assert any(codec.is_round_robin(node) for node in tree.walk())
    changed = drop_round_robin(tree, KEEP)
    left = [node for node in changed.walk() if node.kind == "repartition"]
    assert [codec.hash_of_repartition(node) is not None for node in left] == [True]


def test_a_plan_without_round_robin_is_left(samples_under: SamplesUnder) -> None:
    tree = tree_of(samples_under, "group")
    assert drop_round_robin(tree, KEEP) == tree


# -- sort_after_shuffles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["declared_order_group", "declared_order_group_top", "series_order"])
def test_a_shuffle_that_keeps_order_becomes_a_sort_below_the_merge(samples_under: SamplesUnder, name: str) -> None:
    tree = tree_of(samples_under, name)
    assert [codec.keeps_order(node) for node in tree.walk() if codec.hash_of_repartition(node)] == [True]
    changed = sort_after_shuffles(tree, KEEP)
    assert [codec.keeps_order(node) for node in changed.walk() if codec.hash_of_repartition(node)] == [False]
    merge = only(changed, "sort_preserving_merge")
    (sort,) = merge.children
    assert sort.kind == "sort"
    wanted, done = codec.fields_of(merge), codec.fields_of(sort)
    assert list(done.expr) == list(wanted.expr)
    assert done.preserve_partitioning
    assert done.fetch == (wanted.fetch if wanted.HasField("fetch") else -1)
    assert sort_after_shuffles(changed, KEEP) == changed


@pytest.mark.parametrize("name", ["declared_order", "order", "declared_order_merged", "declared_order_part", "group"])
def test_a_plan_without_shuffles_that_keep_order_is_left(samples_under: SamplesUnder, name: str) -> None:
    tree = tree_of(samples_under, name)
    assert sort_after_shuffles(tree, KEEP) == tree


def keeping(child: PlanNode) -> PlanNode:
    return codec.replace(codec.hash_repartition(child, [], 3), preserve_order=True)


@pytest.mark.parametrize("kind", ["window", "sort_merge_join"])
def test_an_order_that_something_else_rests_on_is_not_given_up(kind: str) -> None:
    inputs = [keeping(codec.arrow_scan(b"", "file:///"))] * (2 if kind == "sort_merge_join" else 1)
    with pytest.raises(PlanError, match=f"a {kind} rests on the order that a shuffle keeps"):
        sort_after_shuffles(codec.build(kind, *inputs), KEEP)


@pytest.mark.parametrize("kind", ["sort", "coalesce_partitions", "aggregate"])
def test_an_order_that_nothing_rests_on_needs_no_sort(kind: str) -> None:
    scan = codec.arrow_scan(b"", "file:///")
    changed = sort_after_shuffles(codec.build(kind, keeping(scan)), KEEP)
    assert changed == codec.build(kind, codec.hash_repartition(scan, [], 3))


# -- collapse_small_subtrees ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["group", "inner_shuffled", "union_of_groups", "merge_inner", "window", "top"])
def test_a_small_plan_runs_in_one_partition_without_shuffle(samples_under: SamplesUnder, name: str) -> None:
    changed = collapse_small_subtrees(tree_of(samples_under, name), small(1 << 20))
    assert partition_count(changed) == 1
    assert "repartition" not in kinds(changed)


@pytest.mark.parametrize("name", ["group", "inner_shuffled", "union_of_groups"])
def test_nothing_is_small_at_zero_bytes(samples_under: SamplesUnder, name: str) -> None:
    tree = tree_of(samples_under, name)
    assert collapse_small_subtrees(tree, KEEP) == tree


def test_a_small_build_side_collapses_and_its_probe_side_stays(samples: datafusion.SessionContext) -> None:
    _, tree = planned_tree(samples, "SELECT f.id, d.w FROM dims d JOIN facts f ON f.k = d.k", 3)
    before = only(tree, "hash_join")
    assert has_build_side(before)
    after = only(collapse_small_subtrees(tree, small(10_000)), "hash_join")
    assert not kinds(after.children[0]) & EXCHANGES
    assert partition_count(after.children[0]) == 1
    assert after.children[1] == before.children[1]


@pytest.mark.parametrize("name", ["small_side_shuffled", "inner_shuffled", "merge_inner", "aggregates_merged"])
def test_a_small_side_of_a_shuffled_join_keeps_its_shuffle(samples_under: SamplesUnder, name: str) -> None:
    changed = collapse_small_subtrees(tree_of(samples_under, name), small(10_000))
    (join,) = (node for node in changed.walk() if len(node.children) == 2)
    assert [partition_count(child) for child in join.children] == [3, 3]
    assert "repartition" in kinds(join.children[0]) & kinds(join.children[1])


def test_a_small_input_of_an_interleave_keeps_its_shuffle(samples_under: SamplesUnder) -> None:
    changed = collapse_small_subtrees(tree_of(samples_under, "union_big_and_small"), small(10_000))
    assert [partition_count(child) for child in only(changed, "interleave").children] == [3, 3]


def test_a_small_branch_of_a_union_collapses_alone(samples_under: SamplesUnder) -> None:
    changed = collapse_small_subtrees(tree_of(samples_under, "union_all"), small(10_000))
    counts = [partition_count(child) for child in only(changed, "union").children]
    assert counts[0] > 1
    assert counts[1:] == [1, 1]


def test_groups_of_a_declared_order_stay_apart(samples_under: SamplesUnder) -> None:
    tree = tree_of(samples_under, "declared_order")
    assert collapse_small_subtrees(tree, small(1 << 20)) == tree


# -- shuffle_build_emitting_joins -----------------------------------------------------------------------------------


def collected(samples: datafusion.SessionContext, sql: str) -> PlanNode:
    _, tree = planned_tree(samples, sql, 2)
    join = only(tree, "hash_join")
    assert has_build_side(join)
    return tree


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Left", "left_small"),
        ("Full", "full_join"),
        ("LeftSemi", "semi_small"),
        ("LeftAnti", "anti_small"),
        ("LeftMark", "mark_small"),
    ],
)
def test_joins_that_emit_build_rows_are_shuffled(samples: datafusion.SessionContext, kind: str, name: str) -> None:
    tree = collected(samples, by_name(name).sql)
    assert join_type(only(tree, "hash_join")) == kind
    join = only(shuffle_build_emitting_joins(tree, RewriteOptions(partitions=5, small_bytes=0)), "hash_join")
    assert codec.fields_of(join).partition_mode == codec.PARTITIONED
    hashes = [codec.hash_of_repartition(child) for child in join.children]
    assert [found[1] if found else None for found in hashes] == [5, 5]
    assert all(child.children[0].kind != "coalesce_partitions" for child in join.children)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT d.w, f.id FROM dims d JOIN facts f ON f.k = d.k",
        "SELECT d.w, f.id FROM dims d RIGHT JOIN facts f ON f.k = d.k",
        "SELECT f.id FROM facts f WHERE f.k NOT IN (SELECT k FROM keys)",
    ],
    ids=["inner", "right", "null-aware"],
)
def test_other_collected_joins_are_left(samples: datafusion.SessionContext, sql: str) -> None:
    tree = collected(samples, sql)
    assert shuffle_build_emitting_joins(tree, KEEP) == tree


def test_a_join_over_one_probe_partition_is_left(samples: datafusion.SessionContext) -> None:
    tree = collected(samples, "SELECT o.label, x.n FROM one o LEFT JOIN (VALUES (1, 2)) AS x(k, n) ON o.k = x.k")
    assert shuffle_build_emitting_joins(tree, KEEP) == tree


# -- isolate_single_task_joins --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["not_in", "loop_left_small", "loop_full_small", "loop_semi_small"])
def test_joins_with_state_in_one_process_get_one_probe_partition(samples_under: SamplesUnder, name: str) -> None:
    tree = tree_of(samples_under, name)
    (before,) = (node for node in tree.walk() if has_build_side(node))
    (after,) = (node for node in isolate_single_task_joins(tree, KEEP).walk() if has_build_side(node))
    assert partition_count(before.children[1]) > 1
    assert after.children[1] == codec.coalesce(before.children[1])
    assert after.children[0] == before.children[0]


@pytest.mark.parametrize("name", ["inner", "loop", "cross_big"])
def test_joins_that_can_be_split_are_not_isolated(samples_under: SamplesUnder, name: str) -> None:
    tree = tree_of(samples_under, name)
    assert isolate_single_task_joins(tree, KEEP) == tree


# -- combine_wide_shuffles ------------------------------------------------------------------------------------------

ALWAYS = replace(KEEP, shuffles=ShufflePlanning(from_dollars=-1))


def repartitions(tree: PlanNode) -> list[PlanNode]:
    return [node for node in tree.walk() if codec.hash_of_repartition(node) is not None]


def test_a_combined_shuffle_hashes_twice_alike(samples_under: SamplesUnder) -> None:
    tree = drop_round_robin(tree_of(samples_under, "group"), KEEP)
    (plain,) = repartitions(tree)
    upper, lower = repartitions(combine_wide_shuffles(tree, ALWAYS))
    assert upper.children == (lower,)
    assert lower == plain
    assert codec.hash_of_repartition(upper) == codec.hash_of_repartition(lower)


def test_shuffles_that_requests_cost_nothing_for_or_too_little_stay(samples_under: SamplesUnder) -> None:
    tree = drop_round_robin(tree_of(samples_under, "group"), KEEP)
    assert combine_wide_shuffles(tree, KEEP) == tree
    assert combine_wide_shuffles(tree, replace(KEEP, shuffles=ShufflePlanning())) == tree


def test_a_shuffle_of_one_task_is_never_combined(samples_under: SamplesUnder) -> None:
    tree = drop_round_robin(tree_of(samples_under, "group"), KEEP)
    one = transform_up(
        tree,
        lambda node: (
            codec.hash_repartition(codec.coalesce(node.children[0]), *hashing)
            if (hashing := codec.hash_of_repartition(node))
            else node
        ),
    )
    assert combine_wide_shuffles(one, ALWAYS) == one


# -- gather_build_sides ---------------------------------------------------------------------------------------------


def test_a_large_build_side_of_one_partition_becomes_a_stage(samples_under: SamplesUnder) -> None:
    tree = tree_of(samples_under, "union_joined")
    before = only(tree, "hash_join")
    assert before.children[0].kind not in EXCHANGES
    after = only(gather_build_sides(tree, KEEP), "hash_join")
    assert after.children == (codec.coalesce(before.children[0]), before.children[1])


def test_a_small_build_side_stays_inside_its_consumer(samples_under: SamplesUnder) -> None:
    tree = tree_of(samples_under, "union_joined")
    assert gather_build_sides(tree, small(1 << 20)) == tree


def test_a_gathered_build_side_is_not_gathered_twice(samples: datafusion.SessionContext) -> None:
    tree = collected(samples, "SELECT d.w, f.id FROM dims d JOIN facts f ON f.k = d.k")
    assert only(tree, "hash_join").children[0].kind == "coalesce_partitions"
    assert gather_build_sides(tree, KEEP) == tree


# -- spell_out_partition_order --------------------------------------------------------------------------------------


def sort_keys(tree: PlanNode) -> list[tuple[str, bool]]:
    """Return name and direction of each key of the only sort that is an input of a window."""
    (found,) = (n.children[0] for n in tree.walk() if n.kind == "window" and n.children[0].kind == "sort")
    items = [codec.parse("SortExprNode", item).sort for item in codec.fields_of(found).expr]
    return [(item.expr.column.name, item.asc) for item in items]


def test_a_constant_partition_key_is_put_in_front_in_the_direction_of_the_sort(samples_under: SamplesUnder) -> None:
    tree = tree_of(samples_under, "window_of_constant_key")
    assert sort_keys(tree) == [("id", False)]
    assert sort_keys(spell_out_partition_order(tree, KEEP)) == [("k", False), ("id", False)]


def test_a_partition_key_of_two_names_is_put_behind_its_other_name(samples_under: SamplesUnder) -> None:
    tree = tree_of(samples_under, "window_of_one_key_twice")
    assert sort_keys(tree) == [("a", True), ("c", True)]
    assert sort_keys(spell_out_partition_order(tree, KEEP)) == [("a", True), ("b", True), ("c", True)]


def test_an_order_through_a_shuffle_is_sorted_again_above_it(samples_under: SamplesUnder) -> None:
    tree = tree_of(samples_under, "window_ordered_through_a_shuffle")
    assert "sort" not in [n.children[0].kind for n in tree.walk() if n.kind == "window"]
    assert sort_keys(spell_out_partition_order(tree, KEEP)) == [("v", False)]


def test_an_order_that_is_made_below_a_join_is_made_again_above_it(samples_under: SamplesUnder) -> None:
    tree = tree_of(samples_under, "window_ordered_below_a_join")
    assert only(tree, "window").children[0].children[0].kind == "hash_join"
    assert sort_keys(spell_out_partition_order(tree, KEEP)) == [("o0", True)]


def test_an_order_that_cannot_be_seen_is_made_above_the_shuffle(samples_under: SamplesUnder) -> None:
    tree = tree_of(samples_under, "window_of_one_row_through_a_shuffle")
    assert only(tree, "window").children[0].kind == "repartition"
    assert sort_keys(spell_out_partition_order(tree, KEEP)) == [("m", True)]


def test_an_order_below_a_join_that_more_than_windows_rely_on_is_not_touched(samples_under: SamplesUnder) -> None:
    tree = tree_of(samples_under, "window_ordered_below_a_join")
    (key,) = codec.window_partition_keys(only(tree, "window"))
    merged = codec.build("sort_preserving_merge", tree, expr=[codec.sort_like(None, key)])
    with pytest.raises(PlanError, match="made below a join"):
        spell_out_partition_order(merged, KEEP)


@pytest.mark.parametrize("name", ["window", "window_whole", "window_frame", "window_of_groups", "window_of_join"])
def test_windows_whose_sort_names_their_keys_are_left(name: str, samples_under: SamplesUnder) -> None:
    tree = tree_of(samples_under, name)
    assert spell_out_partition_order(tree, KEEP) == tree


# -- widen_shuffles -------------------------------------------------------------------------------------------------


def shuffle_counts(tree: PlanNode) -> set[int]:
    return {hashing[1] for node in tree.walk() if (hashing := codec.hash_of_repartition(node)) is not None}


def roomy(bee_bytes: int | None) -> RewriteOptions:
    return RewriteOptions(partitions=3, small_bytes=0, bee_bytes=bee_bytes)


def test_shuffles_of_a_join_get_as_many_partitions_as_its_build_side_needs(
    samples_under: SamplesUnder,
) -> None:
    plans = (tree_of(samples_under, sample.name) for sample in SAMPLES if sample.name not in WITHOUT_A_PLAN)
    tree = next(plan for plan in plans if any(map(is_shuffled_join, plan.walk())))
    assert shuffle_counts(tree) == {3}
    build_bytes = max(source_bytes(node.children[0]) for node in tree.walk() if is_shuffled_join(node))
    bee_bytes = int(build_bytes * DECODED_FACTOR / HELD_SHARE / 9.5)
    assert shuffle_counts(widen_shuffles(tree, roomy(bee_bytes))) == {10}
    assert shuffle_counts(widen_shuffles(tree, roomy(1))) == {MAX_SHUFFLE_PARTITIONS}
    for unchanged in (None, 1 << 40):
        assert widen_shuffles(tree, roomy(unchanged)) == tree


def test_shuffles_of_what_can_spill_are_left(samples: datafusion.SessionContext) -> None:
    _, tree = planned_tree(samples, "SELECT value % 3 AS m, count(*) AS c FROM range(0, 30000) GROUP BY m", 3)
    assert widen_shuffles(tree, roomy(1)) == tree


def is_shuffled_join(node: PlanNode) -> bool:
    return node.kind == "hash_join" and codec.fields_of(node).partition_mode == codec.PARTITIONED
