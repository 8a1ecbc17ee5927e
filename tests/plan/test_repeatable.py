# ruff: noqa: E501 - a query is one string
"""What every task of a join has a copy of is the same for all of them: what would differ is computed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datafusion
import pyarrow as pa
import pytest
from datafusion import udaf, udf
from datafusion.user_defined import Accumulator

from apiary_df.explain import Explanation, render
from apiary_df.plan import stages
from apiary_df.plan.repeatable import ORDER_FREE_AGGREGATES, VOLATILE_FUNCTIONS, why_it_differs
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.tree import UNKNOWN, PlanNode
from apiary_df.planning import RunsOnSwarm
from apiary_df.tasks import TaskOptions
from plan.checks import check_sample
from plan.local_swarm import LocalSwarm, Ran, node, planned_tree
from plan.sample_queries import Sample

SamplesUnder = Callable[[Sample], datafusion.SessionContext]

NAMED_ONCE_A_QUERY = {"current_date", "current_time", "current_timestamp", "now", "today"}
ABOUT_FILES = {"file_row_index", "input_file_name"}
OTHER_NAMES = {"rand": "random"}
TABLE_FUNCTIONS = {"generate_series", "range"}


def swarm(ctx: datafusion.SessionContext, scratch: Path, small_bytes: int = 0) -> LocalSwarm:
    return LocalSwarm(
        session=ctx,
        rewrite=RewriteOptions(partitions=3, small_bytes=small_bytes),
        nodes=[node("a", target_cell_size=1), node("b", target_cell_size=1)],
        scratch=scratch,
        options=TaskOptions(min_cell_bytes=1),
    )


def run(ctx: datafusion.SessionContext, scratch: Path, sql: str, small_bytes: int) -> Ran:
    ran = swarm(ctx, scratch, small_bytes).run(sql)
    assert isinstance(ran.planned, RunsOnSwarm)
    assert max(len(specs) for specs in ran.tasks.values()) > 1
    return ran


def one_value(ran: Ran) -> object:
    (value,) = set(ran.table.column(0).to_pylist())
    return value


# Each gives one row, true if all tasks have seen the same.
ONE_COPY = {
    "no input": "SELECT count(DISTINCT r) = 1 AND sum(id) > 0 AS same FROM facts, (SELECT random() AS r) x",
    "small scan": "SELECT count(DISTINCT r) = 5 AND sum(id) > 0 AS same FROM facts, (SELECT random() AS r FROM one) x",
    "uuid": "SELECT count(DISTINCT r) = 1 AND sum(id) > 0 AS same FROM facts, (SELECT uuid() AS r) x",
    "in a filter": "SELECT count(DISTINCT s) = 1 AND sum(id) > 0 AS same FROM facts, (SELECT sum(w) AS s FROM dims WHERE random() < 0.5) x",
    "within a CASE": "SELECT count(DISTINCT r) = 1 AND sum(id) > 0 AS same FROM facts, (SELECT max(CASE WHEN k > 0 THEN random() + 1 END) AS r FROM one) x",
    "in a join's filter": "SELECT count(DISTINCT c) = 1 AND sum(id) > 0 AS same FROM facts, (SELECT count(*) AS c FROM one a JOIN one b ON a.k < b.k AND random() < 0.5) x",
    "random order": "SELECT count(DISTINCT f.k) <= 2 AS same FROM facts f WHERE f.k IN (SELECT k FROM keys WHERE k < 6 ORDER BY random() LIMIT 2)",
    "random order of few": "SELECT count(DISTINCT f.k) <= 2 AS same FROM facts f WHERE f.k IN (SELECT k FROM one ORDER BY random() LIMIT 2)",
    "random column": "SELECT count(DISTINCT r) = 2 AND sum(id) > 0 AS same FROM facts f, (SELECT k, random() AS r FROM keys ORDER BY k LIMIT 2) x",
    "shared by a union": "SELECT count(DISTINCT r) = 1 AND sum(id) > 0 AS same FROM (SELECT id, v FROM facts UNION ALL SELECT w, k FROM dims) u JOIN (SELECT random() AS r) x ON u.v > x.r",
    "below a build side": "SELECT count(DISTINCT r) = 1 AND sum(id) > 0 AS same FROM facts f JOIN (SELECT d.k, x.r FROM one d, (SELECT random() AS r) x) y ON f.k = y.k",
}


@pytest.mark.parametrize("small_bytes", [0, 10_000])
@pytest.mark.parametrize("name", ONE_COPY)
def test_all_tasks_see_the_same_values(
    name: str, small_bytes: int, samples: datafusion.SessionContext, tmp_path: Path
) -> None:
    assert samples.sql(ONE_COPY[name]).to_pydict() == {"same": [True]}
    assert one_value(run(samples, tmp_path, ONE_COPY[name], small_bytes)) is True


@pytest.mark.parametrize("name", sorted(ONE_COPY))
def test_without_a_stage_of_its_own_they_do_not(
    name: str, samples: datafusion.SessionContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "why_it_differs", lambda tree, merged: None)
    # Which rows come first by chance may be the same ones a few times over.
    assert any(not one_value(run(samples, tmp_path, ONE_COPY[name], small)) for _ in range(10) for small in (10_000, 0))


def test_explain_says_what_is_computed_once(samples: datafusion.SessionContext, tmp_path: Path) -> None:
    local = swarm(samples, tmp_path)
    planned = local.plan(ONE_COPY["no input"])
    explanation = Explanation(plan=planned, nodes=tuple(local.nodes), until="stages")
    text = render(explanation, local.planner.display, lambda _: ())
    assert "one task (computed once: random() gives another value each time)" in text


# -- which subtrees differ from run to run --------------------------------------------------------------------------

DIFFER = {
    "SELECT random() AS r": "random",
    "SELECT k FROM one LIMIT 2": "takes is not fixed",
    "SELECT DISTINCT k FROM one LIMIT 2": "takes is not fixed",
    "SELECT k FROM one ORDER BY k LIMIT 2": "takes is not fixed",
    "SELECT k FROM one ORDER BY k OFFSET 2": "takes is not fixed",
    "SELECT k FROM one WHERE k > 2 LIMIT 2": "takes is not fixed",
    "SELECT k FROM mem LIMIT 2": "takes is not fixed",
    "SELECT row_number() OVER () AS r FROM dims": "numbers rows",
    "SELECT array_agg(k) AS r FROM dims": "array_agg",
    "SELECT first_value(k ORDER BY w) AS r FROM dims": "first_value",
    "SELECT sum(k) FILTER (WHERE random() > 0.5) AS r FROM one": "random",
    "SELECT sum(k) OVER (PARTITION BY label ORDER BY random()) AS r FROM one": "random",
    "SELECT k FROM one WHERE k IN (1, CAST(random() * 9 AS INT))": "random",
    "SELECT k FROM one WHERE label LIKE concat(CAST(uuid() AS VARCHAR), '%')": "uuid",
    "SELECT k FROM one WHERE NOT (random() IS NULL)": "random",
    "SELECT a.k FROM one a JOIN one b ON a.k = b.k AND a.k > random()": "random",
    "SELECT twice(k) AS r FROM one": "twice",
    "SELECT longest(label) AS r FROM one": "longest",
}
SAME = [
    "SELECT k, label || 'x' AS l FROM one WHERE k BETWEEN 1 AND 5 AND label LIKE 'a%'",
    "SELECT label, count(*) AS c, sum(k) AS s, min(k) AS a FROM dims d JOIN one o USING (k) GROUP BY label",
    "SELECT CASE WHEN k IN (1, 2) THEN abs(k) ELSE -k END AS r FROM dims",
    "SELECT now() AS n, current_date AS d, k FROM one",
    "SELECT DISTINCT k FROM facts UNION SELECT k FROM dims",
    "SELECT input_file_name() AS f, k FROM one",
]


class Longest(Accumulator):
    def __init__(self) -> None:
        self.value = ""

    def update(self, *values: pa.Array) -> None:
        self.value = max([self.value, *(str(v) for array in values for v in array.to_pylist())], key=len)

    def merge(self, states: list[pa.Array]) -> None:
        self.update(*states)

    def state(self) -> list[pa.Scalar]:
        return [pa.scalar(self.value)]

    def evaluate(self) -> pa.Scalar:
        return pa.scalar(self.value)


@pytest.fixture
def with_functions(sample_folder: Path) -> datafusion.SessionContext:
    from plan.sample_tables import register_samples

    ctx = datafusion.SessionContext()
    register_samples(ctx, sample_folder)
    ctx.register_udf(udf(lambda a: a, [pa.int32()], pa.int32(), "immutable", name="twice"))
    ctx.register_udaf(udaf(Longest, pa.string(), pa.string(), [pa.string()], "stable", name="longest"))
    return ctx


@pytest.mark.parametrize("sql", DIFFER)
def test_a_subtree_that_may_differ_is_found(sql: str, with_functions: datafusion.SessionContext) -> None:
    reason = why_it_differs(planned_tree(with_functions, sql, 3)[1])
    assert reason is not None
    assert DIFFER[sql] in reason


@pytest.mark.parametrize("sql", SAME)
def test_a_subtree_that_is_determined_is_not(sql: str, samples: datafusion.SessionContext) -> None:
    assert why_it_differs(planned_tree(samples, sql, 3)[1]) is None


def test_an_operator_that_is_not_known_may_do_anything() -> None:
    assert why_it_differs(PlanNode(UNKNOWN, bytes.fromhex("c23e03616263"))) is not None


@pytest.mark.parametrize(
    "sql", ["SELECT row_number() OVER () AS r FROM one WHERE k > 1", "SELECT array_agg(k) AS r FROM one"]
)
def test_rows_in_the_order_of_one_file_group_are_in_one_order(sql: str, samples: datafusion.SessionContext) -> None:
    planner = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(1))
    frame = planner.create_dataframe_from_logical_plan(samples.sql(sql).optimized_logical_plan())
    from apiary_df.plan.codec import decode

    tree = decode(frame.execution_plan().to_bytes(planner))
    assert why_it_differs(tree) is None
    assert why_it_differs(tree, merged=True) is not None


def test_the_volatile_functions_are_those_that_datafusion_lists() -> None:
    ctx = datafusion.SessionContext(datafusion.SessionConfig({"datafusion.catalog.information_schema": "true"}))
    listed = ctx.sql("SELECT DISTINCT routine_name AS n FROM information_schema.routines WHERE NOT is_deterministic")
    names = {OTHER_NAMES.get(name, name) for name in listed.to_pydict()["n"]}
    assert names - NAMED_ONCE_A_QUERY - ABOUT_FILES - TABLE_FUNCTIONS == VOLATILE_FUNCTIONS


def test_the_aggregates_that_need_no_order_exist() -> None:
    ctx = datafusion.SessionContext(datafusion.SessionConfig({"datafusion.catalog.information_schema": "true"}))
    listed = ctx.sql(
        "SELECT DISTINCT routine_name AS n FROM information_schema.routines WHERE function_type = 'AGGREGATE'"
    )
    assert set(listed.to_pydict()["n"]) >= ORDER_FREE_AGGREGATES


# -- volatile functions elsewhere -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(NAMED_ONCE_A_QUERY - {"today"}))
def test_the_time_is_one_value_for_a_query(name: str, samples: datafusion.SessionContext, tmp_path: Path) -> None:
    call = name if name.startswith("current") else f"{name}()"
    ran = run(
        samples,
        tmp_path,
        f"SELECT count(DISTINCT t) AS c FROM (SELECT {call} AS t FROM facts UNION ALL SELECT {call} FROM dims)",
        0,
    )
    assert one_value(ran) == 1


def test_random_differs_from_row_to_row_and_task_to_task(samples: datafusion.SessionContext, tmp_path: Path) -> None:
    assert (
        one_value(run(samples, tmp_path, "SELECT count(DISTINCT r) AS c FROM (SELECT random() AS r FROM facts)", 0))
        == 480
    )


def test_a_sort_by_random_keeps_every_row_once(samples: datafusion.SessionContext, tmp_path: Path) -> None:
    ran = run(samples, tmp_path, "SELECT id FROM facts ORDER BY random()", 0)
    assert sorted(ran.table.column(0).to_pylist()) == list(range(480))
    ran = run(samples, tmp_path, "SELECT id FROM facts ORDER BY random() LIMIT 17", 0)
    assert len(set(ran.table.column(0).to_pylist())) == 17


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, input_file_name() AS f FROM facts",
        "SELECT count(*) AS c, sum(id) AS s FROM facts WHERE file_row_index() < 20",
        "SELECT file_row_index() % 3 AS n, count(*) AS c FROM facts GROUP BY n",
    ],
)
def test_where_a_row_lies_is_as_datafusion_says(sql: str, samples_under: SamplesUnder, tmp_path: Path) -> None:
    sample = Sample(name="files", sql=sql)
    ctx = samples_under(sample)
    check_sample(ctx, sample, swarm(ctx, tmp_path).run(sql).table)
