"""Shuffles that are left out, as rows lie together already: the same rows, whatever the join and its keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiary_df.adapt.broadcasts import BroadcastOptions
from apiary_df.adapt.key_filters import KeyFilterOptions
from apiary_df.adapt.skew import SkewOptions
from apiary_df.plan import codec
from apiary_df.plan.operators import join_type
from apiary_df.plan.placement import placement
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.rules.reuse_shuffles import reuse_shuffles, told
from apiary_df.plan.tree import PlanNode
from apiary_df.planning import RunsOnSwarm
from apiary_df.tasks import TaskOptions
from plan.checks import check_rows
from plan.joined_tables import JOIN_TYPES, register_few_and_many, shuffling
from plan.local_swarm import LocalSwarm, node, planned_tree, run_tree, write_real_partial
from plan.sample_queries import SMJ

PARTITIONS = 3
WHEREVER = RewriteOptions(partitions=PARTITIONS, small_bytes=0, reuse_from_values=1e-6)
"""Whatever the statistics say."""

NEVER = replace(WHEREVER, reuse_from_values=0)

KEYS = {
    "numbers": pa.array([1, 2, None, 3, 3, 7, 8, None], pa.int64()),
    "floats": pa.array([1.0, float("nan"), None, 0.0, -0.0, 2.5, float("inf"), 1.0]),
    "decimals": pa.array([1, 2, None, 3, 3, 7, 8, 1], pa.decimal128(12, 2)),
    "texts": pa.array(["a", "", None, "b", "b", "a text that is no view's prefix", "é", "a"]),
    "dictionary": pa.array(["a", "", None, "b", "b", "c", "é", "a"]).dictionary_encode(),
    "bytes": pa.array([b"a", b"", None, b"b", b"b", b"c", b"\xff", b"a"]),
    "moments": pa.array([1, 2, None, 3, 3, 7, 8, 1], pa.timestamp("us", "UTC")),
    "truths": pa.array([True, False, None, True, True, True, True, None]),
}
"""Keys of one type each."""

GROUPED = "(SELECT k, count(*) % 3 AS m FROM many GROUP BY k) g"
"""Rows that lie by their first column alone."""

MARKED = f"SELECT * FROM few f WHERE f.n = 1 OR EXISTS (SELECT 1 FROM {GROUPED} WHERE g.k = f.k AND g.m = f.n)"


def join_of(kind: str, *, grouped_first: bool = False) -> str:
    """Return a join on two keys with rows that lie by one of them."""
    left, right = (GROUPED, "few f") if grouped_first else ("few f", GROUPED)
    columns = "*"
    if "SEMI" in kind or "ANTI" in kind:
        columns = f"{(left if kind.startswith('LEFT') else right)[-1]}.*"
    return f"SELECT {columns} FROM {left} {kind} {right} ON f.k = g.k AND f.n = g.m"


def swarm(
    session: datafusion.SessionContext, scratch: Path, rewrite: RewriteOptions = WHEREVER, **fields: object
) -> LocalSwarm:
    return LocalSwarm(
        session=session,
        rewrite=rewrite,
        nodes=[node(name, target_cell_size=1) for name in "ab"],
        scratch=scratch,
        options=TaskOptions(min_cell_bytes=1),
        **fields,  # type: ignore[arg-type]
    )


def shuffles(tree: PlanNode) -> list[list[str]]:
    """Return the names of the columns by which rows are shuffled, of each shuffle."""
    found = (codec.hash_of_repartition(node) for node in tree.walk())
    return [[column[1] for key in hashing[0] if (column := codec.column_of(key))] for hashing in found if hashing]


def planned(ctx: datafusion.SessionContext, sql: str, rewrite: RewriteOptions, scratch: Path) -> PlanNode:
    """Return the plan that is cut."""
    found = swarm(ctx, scratch, rewrite).plan(sql)
    assert isinstance(found, RunsOnSwarm), found.reason
    return found.phases[-1].plan


def check(ctx: datafusion.SessionContext, sql: str, scratch: Path, **fields: object) -> None:
    """Check a query in stages against plain DataFusion, and that it has fewer shuffles than it would have."""
    least, most = (len(shuffles(planned(ctx, sql, options, scratch))) for options in (WHEREVER, NEVER))
    assert least < most
    check_rows(ctx.sql(sql).to_arrow_table(), swarm(ctx, scratch, WHEREVER, **fields).run(sql).table, ())


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> datafusion.SessionContext:
    return register_few_and_many(shuffling(), KEYS["numbers"], tmp_path_factory.mktemp("numbers"))


# -- the same rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouped_first", [False, True])
@pytest.mark.parametrize("kind", JOIN_TYPES)
def test_join_whose_one_side_lies_by_some_of_its_keys(
    kind: str, grouped_first: bool, numbers: datafusion.SessionContext, tmp_path: Path
) -> None:
    check(numbers, join_of(kind, grouped_first=grouped_first), tmp_path)


@pytest.mark.parametrize("keys", KEYS)
def test_join_on_keys_of_any_type(keys: str, tmp_path: Path) -> None:
    ctx = register_few_and_many(shuffling(), KEYS[keys], tmp_path)
    for kind in ("JOIN", "FULL JOIN"):
        check(ctx, join_of(kind), tmp_path, write=write_real_partial)


def test_mark_join(numbers: datafusion.SessionContext, tmp_path: Path) -> None:
    tree = planned(numbers, MARKED, WHEREVER, tmp_path)
    assert any(node.kind == "hash_join" and join_type(node).endswith("Mark") for node in tree.walk())
    check(numbers, MARKED, tmp_path)


def test_not_in_is_left_as_it_is(numbers: datafusion.SessionContext, tmp_path: Path) -> None:
    sql = f"SELECT * FROM few WHERE k NOT IN (SELECT k FROM {GROUPED} WHERE k IS NOT NULL)"
    assert planned(numbers, sql, WHEREVER, tmp_path) == planned(numbers, sql, NEVER, tmp_path)


def test_null_keys_that_are_equal(numbers: datafusion.SessionContext, tmp_path: Path) -> None:
    same = "(f.k IS NOT DISTINCT FROM g.k) AND (f.n IS NOT DISTINCT FROM g.m)"
    check(numbers, f"SELECT * FROM few f JOIN {GROUPED} ON {same}", tmp_path)


@pytest.mark.parametrize("kind", ["JOIN", "LEFT JOIN", "FULL JOIN"])
def test_merge_join(kind: str, tmp_path: Path) -> None:
    ctx = register_few_and_many(shuffling(**SMJ), KEYS["numbers"], tmp_path)
    assert "sort_merge_join" in {node.kind for node in planned(ctx, join_of(kind), WHEREVER, tmp_path).walk()}
    check(ctx, join_of(kind), tmp_path)


ADAPTED: dict[str, dict[str, object]] = {
    "keys handed on": {
        "key_filters": KeyFilterOptions(
            most_bytes=1 << 40,
            from_bytes=0,
            least_gain=0,
            most_kept=float("inf"),
            most_waited=float("inf"),
            any_stage=True,
        )
    },
    "sides joined whole": {
        "broadcasts": BroadcastOptions(most_bytes=1 << 40, from_bytes=0, least_gain=0, most_waited=float("inf"))
    },
    "partitions dealt out": {"skew": SkewOptions(factor=1e-9, from_bytes=0, least_own=0)},
}
"""What may become of a stage once real sizes are known, wherever it is right at all."""


@pytest.mark.parametrize("how", ADAPTED)
@pytest.mark.parametrize("grouped_first", [False, True])
def test_stages_that_change_as_they_run(
    how: str, grouped_first: bool, numbers: datafusion.SessionContext, tmp_path: Path
) -> None:
    for kind in JOIN_TYPES:
        check(numbers, join_of(kind, grouped_first=grouped_first), tmp_path, **ADAPTED[how])


def test_the_rest_in_one_process(numbers: datafusion.SessionContext, tmp_path: Path) -> None:
    sql = join_of("JOIN")
    expected = numbers.sql(sql).to_arrow_table()
    for complete in range(1, 3):
        check_rows(expected, swarm(numbers, tmp_path).run(sql, fold_after=complete).table, ())


cells = st.lists(st.tuples(st.sampled_from([None, 0, 1, 2, 3, 40, 500]), st.integers(0, 3)), max_size=40)
CHAIN = (
    "SELECT {columns} FROM (SELECT x.a, x.b, y.b AS c FROM x {first} y ON x.a = y.a) l "
    "{second} ({grouped}) r ON l.a = r.a AND l.b = r.b"
)
GROUPS = ("SELECT a, b, count(*) AS n FROM x GROUP BY a, b", "SELECT a, max(b) AS b, count(*) AS n FROM x GROUP BY a")


@settings(max_examples=25, deadline=None)
@given(
    tables=st.tuples(cells, cells),
    kinds=st.tuples(st.sampled_from(["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]), st.sampled_from(JOIN_TYPES)),
    grouped=st.sampled_from(GROUPS),
    counted=st.booleans(),
)
def test_a_join_over_a_join(
    tables: tuple[list[tuple[int | None, int]], ...],
    kinds: tuple[str, str],
    grouped: str,
    counted: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    ctx = shuffling(**{"datafusion.optimizer.join_reordering": "false"})
    folder = Path(mkdtemp(dir=tmp_path_factory.getbasetemp()))
    for name, rows in zip("xy", tables, strict=True):
        (folder / name).mkdir()
        for part in range(2):
            first_cells, other_cells = [row[0] for row in rows[part::2]], [row[1] for row in rows[part::2]]
            written = pa.table({"a": pa.array(first_cells, pa.int64()), "b": pa.array(other_cells, pa.int64())})
            pq.write_table(written, folder / name / f"{part}.parquet", row_group_size=4)
        ctx.register_parquet(name, str(folder / name))
    first, second = kinds
    columns = "l.a AS p, l.b AS q, l.c AS r" if not second.startswith("RIGHT") else "r.a AS p, r.b AS q, r.n AS r"
    sql = CHAIN.format(first=first, second=second, grouped=grouped, columns=columns)
    if counted:
        sql = f"SELECT p, q, r, count(*) AS times FROM ({sql}) GROUP BY p, q, r"
    check_rows(ctx.sql(sql).to_arrow_table(), swarm(ctx, folder).run(sql).table, ())


# -- where, and where not ----------------------------------------------------------------------------------------------


def test_both_sides_are_shuffled_by_the_keys_by_which_one_of_them_lies(
    numbers: datafusion.SessionContext, tmp_path: Path
) -> None:
    assert sorted(shuffles(planned(numbers, join_of("JOIN"), NEVER, tmp_path))) == [["k"], ["k", "m"], ["k", "n"]]
    assert shuffles(planned(numbers, join_of("JOIN"), WHEREVER, tmp_path)) == [["k"], ["k"]]


def test_sides_that_lie_alike_are_not_shuffled_again(numbers: datafusion.SessionContext, tmp_path: Path) -> None:
    sql = f"SELECT * FROM {GROUPED} JOIN (SELECT k, sum(n) % 3 AS m FROM few GROUP BY k) f ON g.k = f.k AND g.m = f.m"
    assert shuffles(planned(numbers, sql, WHEREVER, tmp_path)) == [["k"], ["k"]]
    check(numbers, sql, tmp_path)


def test_of_two_sides_that_lie_differently_the_one_of_more_bytes_stays(
    numbers: datafusion.SessionContext, tmp_path: Path
) -> None:
    by_other = "(SELECT max(k) AS k, n AS m FROM few GROUP BY n) f"
    sql = f"SELECT * FROM {GROUPED} JOIN {by_other} ON g.k = f.k AND g.m = f.m"
    assert sorted(shuffles(planned(numbers, sql, WHEREVER, tmp_path))) == [["k"], ["k"], ["n"]]
    check(numbers, sql, tmp_path)


def test_an_aggregate_of_rows_that_lie_by_some_of_its_groups_is_one_step(
    numbers: datafusion.SessionContext, tmp_path: Path
) -> None:
    sql = "SELECT f.k, f.n, sum(m.n) AS s, count(*) AS c FROM few f JOIN many m ON f.k = m.k GROUP BY f.k, f.n"
    tree = planned(numbers, sql, WHEREVER, tmp_path)
    assert [codec.fields_of(node).mode for node in tree.walk() if node.kind == "aggregate"] == [
        codec.SINGLE_PARTITIONED
    ]
    check(numbers, sql, tmp_path)


@pytest.mark.parametrize("kind", ["RIGHT JOIN", "FULL JOIN"])
def test_rows_do_not_lie_by_a_side_that_may_be_missing(
    kind: str, numbers: datafusion.SessionContext, tmp_path: Path
) -> None:
    sql = f"SELECT f.k, f.n, count(*) AS c FROM few f {kind} many m ON f.k = m.k GROUP BY f.k, f.n"
    assert planned(numbers, sql, WHEREVER, tmp_path) == planned(numbers, sql, NEVER, tmp_path)
    check_rows(numbers.sql(sql).to_arrow_table(), swarm(numbers, tmp_path).run(sql).table, ())


def test_what_another_input_lies_like_is_shuffled_as_that_is(
    numbers: datafusion.SessionContext, tmp_path: Path
) -> None:
    # Groups by both columns could lie by the first, but what they are joined with lies by both.
    sql = (
        "SELECT * FROM (SELECT f.k, f.n, count(*) AS c FROM few f JOIN many m ON f.k = m.k GROUP BY f.k, f.n) a "
        "JOIN (SELECT k, n, sum(n) AS s FROM many GROUP BY k, n) b ON a.k = b.k AND a.n = b.n"
    )
    assert ["k", "n"] in shuffles(planned(numbers, sql, WHEREVER, tmp_path))
    check_rows(numbers.sql(sql).to_arrow_table(), swarm(numbers, tmp_path).run(sql).table, ())


def test_a_shuffle_by_an_expression_is_not_known(numbers: datafusion.SessionContext, tmp_path: Path) -> None:
    grouped = "(SELECT k + 1 AS k, max(n) AS m FROM many GROUP BY k + 1) g"
    sql = f"SELECT * FROM few f JOIN {grouped} ON f.k = g.k AND f.n = g.m"
    assert shuffles(planned(numbers, sql, WHEREVER, tmp_path)) == [["k"], ["many.k + Int64(1)"]]


def test_another_number_of_partitions_is_another_place(numbers: datafusion.SessionContext) -> None:
    _, tree = planned_tree(numbers, "SELECT k, count(*) FROM many GROUP BY k", PARTITIONS)
    (top,) = (node for node in tree.walk() if codec.hash_of_repartition(node))
    keys = (codec.column(0, "k"),)
    found = placement(top, keys, PARTITIONS)
    assert found is not None
    assert found.is_as_asked(1)
    assert placement(top, keys, PARTITIONS + 1) is None


def test_the_rule_leaves_a_plan_that_one_node_runs(numbers: datafusion.SessionContext) -> None:
    ctx, tree = planned_tree(numbers, join_of("FULL JOIN"), PARTITIONS)
    changed = reuse_shuffles(tree, WHEREVER)
    assert changed != tree
    expected = numbers.sql(join_of("FULL JOIN")).to_arrow_table()
    check_rows(expected, run_tree(ctx, changed, expected.schema), ())


# -- whether it spreads ------------------------------------------------------------------------------------------------


def spread(keys: pa.Array, folder: Path, values: float) -> bool:
    """Whether rows that lie by keys like these are left as they lie, if so many values for each partition will do."""
    pq.write_table(pa.table({"k": keys, "n": pa.array(range(len(keys)), pa.int64())}), folder / "t.parquet")
    ctx = shuffling()
    ctx.register_parquet("t", str(folder / "t.parquet"))
    sql = "SELECT * FROM t JOIN (SELECT k, max(n) AS m FROM t GROUP BY k) g ON t.k = g.k AND t.n = g.m"
    _, tree = planned_tree(ctx, sql, PARTITIONS)
    return reuse_shuffles(tree, replace(WHEREVER, reuse_from_values=values)) != tree


@pytest.mark.parametrize("type_", [pa.int8(), pa.int64(), pa.uint16(), pa.date32()])
def test_keys_must_have_values_for_every_partition(type_: pa.DataType, tmp_path: Path) -> None:
    keys = pa.array([*range(30), None], pa.int32()).cast(type_)
    assert spread(keys, tmp_path, 30 / PARTITIONS)
    assert not spread(keys, tmp_path, 31 / PARTITIONS)


def test_no_more_values_than_rows_are_counted_on(tmp_path: Path) -> None:
    assert not spread(pa.array([0, 1_000_000], pa.int64()), tmp_path, 2)


def test_of_texts_nothing_is_known(tmp_path: Path) -> None:
    assert not spread(pa.array([f"{i:04}" for i in range(1000)]), tmp_path, 1)


def test_rows_that_lie_by_all_keys_need_no_values(numbers: datafusion.SessionContext) -> None:
    # A semi join that is collected as planned is shuffled by a rule, whose shuffle then is the one below once more.
    grouped = "(SELECT k, n FROM many GROUP BY k, n) g"
    sql = f"SELECT k, n FROM few f WHERE EXISTS (SELECT 1 FROM {grouped} WHERE g.k = f.k AND g.n = f.n)"
    _, tree = planned_tree(numbers, sql, PARTITIONS)
    (join,) = (node for node in tree.walk() if node.kind == "hash_join")
    number = next(i for i, child in enumerate(join.children) if any(node.kind == "aggregate" for node in child.walk()))
    on = [(pair.left, pair.right)[number] for pair in codec.fields_of(join).on]
    again = codec.hash_repartition(join.children[number], on, PARTITIONS)
    doubled = join.with_children(*(again if i == number else child for i, child in enumerate(join.children)))
    assert reuse_shuffles(doubled, replace(WHEREVER, reuse_from_values=1e6)) == join


# -- words -------------------------------------------------------------------------------------------------------------


def test_what_is_told_names_the_keys(numbers: datafusion.SessionContext) -> None:
    _, tree = planned_tree(numbers, join_of("JOIN"), PARTITIONS)
    lines = sorted(told(tree, reuse_shuffles(tree, WHEREVER)))
    assert lines == [
        "rows are not shuffled by k, m: they lie by k since an earlier shuffle",
        "rows are shuffled by k instead of k, n, as those lie that they are joined with",
    ]
    assert not told(tree, tree)


def test_an_aggregate_in_one_step_is_told_of(numbers: datafusion.SessionContext) -> None:
    sql = "SELECT f.k, f.n, count(*) AS c FROM few f JOIN many m ON f.k = m.k GROUP BY f.k, f.n"
    _, tree = planned_tree(numbers, sql, PARTITIONS)
    assert told(tree, reuse_shuffles(tree, WHEREVER)) == (
        "rows are not shuffled by k, n: they lie by k since an earlier shuffle",
    )
