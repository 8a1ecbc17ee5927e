# ruff: noqa: E501 - a query is one string
"""An operator that the codec does not know runs whole, in one place, and the rest of its query is still divided.

The codec is made to forget operators that it knows, which is what an operator of a later DataFusion looks like to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import datafusion
import pytest

from apiary_df.errors import PlanError
from apiary_df.explain import Explanation, render
from apiary_df.plan import codec
from apiary_df.plan.opaque import isolate_unknown
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.tree import UNKNOWN, PlanNode
from apiary_df.plan.wire import CLASSES, MESSAGES, OPERATOR_NUMBERS, build_classes
from apiary_df.planning import RunsHere, RunsOnSwarm
from apiary_df.tasks import TaskOptions
from plan.checks import check_sample
from plan.local_swarm import LocalSwarm, node, planned_tree
from plan.sample_queries import SAMPLES, SHUFFLED, SMJ, STAYS_HERE, Sample

SamplesUnder = Callable[[Sample], datafusion.SessionContext]

UNNESTED = "(SELECT unnest(parts) AS e, id AS i FROM facts)"
DIVIDED = {
    "build side": f"SELECT u.i, f.id FROM {UNNESTED} u JOIN facts f ON f.id = u.i WHERE u.e = 2",
    "probe side": f"SELECT u.i, d.w FROM dims d JOIN {UNNESTED} u ON d.k = u.e",
    "left join": f"SELECT u.i, d.w, d.k FROM dims d LEFT JOIN {UNNESTED} u ON d.k = u.e",
    "not in": f"SELECT d.w FROM dims d WHERE d.k NOT IN (SELECT e FROM {UNNESTED} WHERE e IS NOT NULL)",
    "groups": f"SELECT e, count(*) AS c, sum(i) AS s FROM {UNNESTED} GROUP BY e",
    "union branch": f"SELECT w FROM dims UNION ALL SELECT e FROM {UNNESTED} UNION ALL SELECT id FROM facts",
    "groups of a union": f"SELECT w, count(*) AS c FROM (SELECT w FROM dims UNION ALL SELECT e FROM {UNNESTED}) GROUP BY w",
    "window": f"SELECT e, i, row_number() OVER (PARTITION BY e ORDER BY i) AS r FROM {UNNESTED}",
    "twice": f"SELECT a.i, b.i AS j FROM {UNNESTED} a JOIN {UNNESTED} b ON a.e = b.e AND a.i = b.i + 1",
}
SETTINGS: dict[str, dict[str, str]] = {"as planned": {}, "shuffled": SHUFFLED, "merge joins": SMJ}


@contextmanager
def forgotten(*kinds: str) -> Iterator[None]:
    """Make the codec of this process forget operators."""
    known = {name: field for name, field in MESSAGES["PlanNode"].items() if name not in kinds}
    with pytest.MonkeyPatch.context() as patch:
        assert isinstance(CLASSES, dict)
        patch.setitem(CLASSES, "PlanNode", build_classes({**MESSAGES, "PlanNode": known})["PlanNode"])
        yield


def swarm(ctx: datafusion.SessionContext, scratch: Path) -> LocalSwarm:
    return LocalSwarm(
        session=ctx,
        rewrite=RewriteOptions(partitions=3, small_bytes=0),
        nodes=[node("a", target_cell_size=1), node("b", target_cell_size=1)],
        scratch=scratch,
        options=TaskOptions(min_cell_bytes=1),
    )


def unknown_in(plan: PlanNode) -> list[PlanNode]:
    return [found for found in plan.walk() if found.kind == UNKNOWN]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", DIVIDED)
def test_its_subtree_is_one_task_and_the_rest_is_divided(
    name: str, settings: str, samples_under: SamplesUnder, tmp_path: Path
) -> None:
    sample = Sample(name=name, sql=DIVIDED[name], settings=tuple(SETTINGS[settings].items()))
    ctx = samples_under(sample)
    with forgotten("unnest"):
        ran = swarm(ctx, tmp_path).run(sample.sql)
    assert isinstance(ran.planned, RunsOnSwarm)
    found = [stage for stage in ran.planned.graph.stages if unknown_in(stage.fragment)]
    assert found
    for stage in found:
        active = [v for v in stage.variants if not v.choices] or stage.variants
        reading = [spec for spec in ran.tasks[stage.stage] if not spec.branches]
        assert len(reading) <= 1
        assert any(variant.kind == "single" for variant in active)
    check_sample(ctx, sample, ran.table)


BUILT_HERE = {"coalesce_partitions", "repartition"}
"""Operators that rules insert: there is no version of this package that does not know them."""

MOST_QUERIES = 5
"""Queries in which an operator is forgotten; all of them together take over a minute."""


@pytest.fixture(scope="module")
def holders(samples_under: SamplesUnder) -> dict[str, list[Sample]]:
    """Operator to a few sample queries whose plans have it."""
    found: dict[str, list[Sample]] = {}
    for sample in SAMPLES:
        if sample.name in STAYS_HERE:
            continue
        _, tree = planned_tree(samples_under(sample), sample.sql, 3)
        for kind in {planned.kind for planned in tree.walk()}:
            samples = found.setdefault(kind, [])
            if len(samples) < MOST_QUERIES:
                samples.append(sample)
    return found


FORGOTTEN = (
    "aggregate", "cross_join", "csv_scan", "filter", "generate_series", "global_limit", "hash_join", "interleave",
    "json_scan", "memory_scan", "nested_loop_join", "parquet_scan", "placeholder_row", "projection", "sort",
    "sort_merge_join", "sort_preserving_merge", "union", "unnest", "window",
)  # fmt: skip


@pytest.mark.parametrize("kind", FORGOTTEN)
def test_whatever_is_forgotten_the_rows_stay_right(
    kind: str, holders: dict[str, list[Sample]], samples_under: SamplesUnder, tmp_path: Path
) -> None:
    for sample in holders[kind]:
        ctx = samples_under(sample)
        with forgotten(kind):
            ran = swarm(ctx, tmp_path).run(sample.sql)
        check_sample(ctx, sample, ran.table)


def test_all_operators_of_the_samples_are_forgotten_once(holders: dict[str, list[Sample]]) -> None:
    assert set(holders) - BUILT_HERE == set(FORGOTTEN)


def test_its_bytes_come_through_as_they_were(samples: datafusion.SessionContext, tmp_path: Path) -> None:
    with forgotten("unnest"):
        _, tree = planned_tree(samples, DIVIDED["probe side"], 3)
        (original,) = unknown_in(tree)
        planned = swarm(samples, tmp_path).plan(DIVIDED["probe side"])
        assert isinstance(planned, RunsOnSwarm)
        carried = [codec.encode(stage.fragment) for stage in planned.graph.stages if unknown_in(stage.fragment)]
    assert [original.body in data for data in carried] == [True]


def test_explain_names_it_and_says_why(samples: datafusion.SessionContext, tmp_path: Path) -> None:
    with forgotten("unnest"):
        local = swarm(samples, tmp_path)
        planned = local.plan(DIVIDED["groups"])
        text = render(
            Explanation(plan=planned, nodes=tuple(local.nodes), until="stages"), local.planner.display, lambda _: ()
        )
    number = OPERATOR_NUMBERS["unnest"]
    assert f"one task (UnnestExec, operator number {number} of the plan format: it is not known" in text


def test_a_plan_of_nothing_else_runs_in_the_session(samples: datafusion.SessionContext, tmp_path: Path) -> None:
    with forgotten("unnest"):
        planned = swarm(samples, tmp_path).plan("SELECT unnest(parts) FROM facts")
    assert isinstance(planned, RunsHere)
    assert "nothing to distribute" in planned.reason


# -- what would be a guess ------------------------------------------------------------------------------------------

LEAF = PlanNode(UNKNOWN, bytes.fromhex("c23e03616263"))
"""Field 1000 of a plan node."""


def over(kind: str, *children: PlanNode) -> PlanNode:
    return codec.build(kind, *children)


def joined(left: PlanNode, right: PlanNode, mode: int = codec.PARTITIONED) -> PlanNode:
    return codec.build("hash_join", left, right, partition_mode=mode)


SCAN = codec.arrow_scan(b"", "file:///")
KEYED = codec.hash_repartition(SCAN, [], 3)


@pytest.mark.parametrize(
    ("plan", "what"),
    [
        pytest.param(joined(LEAF, KEYED), "partitioning", id="a shuffled join"),
        pytest.param(over("interleave", KEYED, LEAF), "partitioning", id="an interleave"),
        pytest.param(over("sort_merge_join", over("sort", LEAF), KEYED), "partitioning", id="a merge join"),
        pytest.param(over("sort_preserving_merge", over("filter", LEAF)), "order", id="a merge"),
        pytest.param(over("window", LEAF), "order", id="a window"),
        pytest.param(joined(SCAN, over("filter", joined(SCAN, LEAF)), codec.PARTITIONED), "partitioning", id="deeper"),
    ],
)
def test_partitions_or_an_order_that_count_are_not_given_up(plan: PlanNode, what: str) -> None:
    with pytest.raises(PlanError, match=f"number 1000 of the plan format.*rests on the {what} of its 4 partitions"):
        isolate_unknown(plan, lambda _: 4)
    assert isolate_unknown(plan, lambda _: 1) == plan


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(over("coalesce_partitions", LEAF), id="a gather"),
        pytest.param(codec.hash_repartition(LEAF, [], 3), id="a shuffle"),
        pytest.param(joined(LEAF, KEYED, codec.COLLECT_LEFT), id="a build side"),
        pytest.param(over("sort_preserving_merge", over("sort", LEAF)), id="a sort"),
        pytest.param(joined(codec.hash_repartition(LEAF, [], 3), KEYED), id="a shuffle below a join"),
    ],
)
def test_where_nothing_rests_on_its_partitions_it_becomes_one(plan: PlanNode) -> None:
    isolated = isolate_unknown(plan, lambda _: 4)
    (leaf,) = unknown_in(isolated)
    assert codec.decode(leaf.body) == codec.coalesce(LEAF)
    assert isolate_unknown(isolated, lambda _: 1) == isolated


def test_one_that_reads_a_bucket_is_refused() -> None:
    with pytest.raises(PlanError, match="reads from a bucket"):
        isolate_unknown(PlanNode(UNKNOWN, b"\xc2\x3e\x0ds3://bucket/x"), lambda _: 1)
    assert isolate_unknown(PlanNode(UNKNOWN, b"\xc2\x3e\x09file:///x"), lambda _: 1).kind == UNKNOWN
