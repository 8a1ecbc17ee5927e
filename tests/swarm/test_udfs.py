"""Python functions on the swarm: the rows of plain DataFusion, on the nodes that run such, or a refusal beforehand."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import datafusion
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from datafusion import Accumulator, col, udaf, udf, udwf
from datafusion.catalog import Table
from datafusion.user_defined import TableFunction, WindowEvaluator

from apiary_df import LocalSwarm, SessionContext
from apiary_df.errors import ExecutionFailed, FunctionNotLoadable, QueryTimeout, SqlError, TaskFailed
from swarm.helpers import FORCED, check_nothing_left, check_same, check_was_distributed, wait_until_idle
from swarm.python_functions import ROWS, Mean, Times, register

pytestmark = pytest.mark.processes

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def ctx(swarm: LocalSwarm, facts: Path) -> Iterator[SessionContext]:
    """A session on the shared swarm with the table and all functions."""
    with SessionContext(storage=swarm.storage, **FORCED) as session:
        register(session, facts)
        yield session


QUERIES = {
    "select": "SELECT id, plus_one(x) AS a, plus_one_stable(x) AS b, plus_one_volatile(x) AS c FROM facts",
    "strings": "SELECT id, shout(w) AS a FROM facts",
    "several_inputs": "SELECT id, area(id, x, g) AS a FROM facts",
    "nested_types": "SELECT id, spread(l) AS a, numbers_below(x) AS b, field_a(s) AS c FROM facts",
    "nested_calls": "SELECT id, plus_one(times_seven(plus_one(x) + g)) AS a FROM facts",
    "closures": "SELECT id, closure(x) AS a, partial(x) AS b, times_seven(x) AS c FROM facts",
    "where": "SELECT id FROM facts WHERE is_even(plus_one(x)) AND plus_one_volatile(g) > 2",
    "case": "SELECT id, CASE WHEN is_even(x) THEN plus_one(x) ELSE times_seven(g) END AS a FROM facts",
    "in_list": "SELECT id FROM facts WHERE plus_one(g) IN (1, closure(g), 5)",
    "join_on": "SELECT a.id, b.id FROM facts a JOIN facts b ON plus_one(a.id) = b.id",
    "join_filter": "SELECT a.id, b.id FROM facts a JOIN facts b ON a.id = b.id AND plus_one(a.g) > b.x",
    "left_join_filter": "SELECT a.id, b.id FROM facts a LEFT JOIN facts b ON a.id = b.id AND plus_one(a.g) > b.x",
    "group_by": "SELECT shout(w) AS k, count(*) AS n, sum(plus_one(x)) AS t FROM facts GROUP BY shout(w)",
    "having": "SELECT g, count(*) AS n FROM facts GROUP BY g HAVING is_even(count(*)) AND plus_one(max(id)) > 397",
    "distinct": "SELECT DISTINCT plus_one(g) AS k FROM facts",
    "count_distinct": "SELECT count(DISTINCT shout(w)) AS n FROM facts",
    "exists": "SELECT id FROM facts a WHERE EXISTS (SELECT 1 FROM facts b WHERE plus_one(a.id) = b.id AND b.g = 2)",
    "in_subquery": "SELECT id FROM facts WHERE plus_one(id) IN (SELECT times_seven(id) FROM facts)",
    "scalar_subquery": "SELECT id FROM facts WHERE id > (SELECT plus_one(max(x)) FROM facts)",
    "union": "SELECT plus_one(x) AS a FROM facts UNION SELECT closure(g) FROM facts",
    "aggregate": "SELECT mean(y) AS m, longest(w) AS l, count(*) AS n FROM facts",
    "aggregate_over_nothing": "SELECT mean(y) AS m, longest(w) AS l FROM facts WHERE id < 0",
    "aggregate_by_group": "SELECT g, mean(y) AS m, longest(w) AS l, longest_of_eight(w) AS e FROM facts GROUP BY g",
    "aggregate_of_distinct": "SELECT g, mean(DISTINCT CAST(x AS DOUBLE)) AS m FROM facts GROUP BY g",
    "aggregate_filter": "SELECT g, mean(y) FILTER (WHERE is_even(x)) AS m, longest(w) AS l FROM facts GROUP BY g",
    "aggregate_rollup": "SELECT g, x, mean(y) AS m FROM facts GROUP BY ROLLUP (g, x)",
    "aggregate_having": "SELECT g FROM facts GROUP BY g HAVING mean(y) > 24.9",
    "aggregate_window": "SELECT id, mean(y) OVER (PARTITION BY g) AS m FROM facts",
    "aggregate_frame": "SELECT id, mean(y) OVER (PARTITION BY g ORDER BY id ROWS UNBOUNDED PRECEDING) AS m FROM facts",
    "window": "SELECT id, backwards(x) OVER (PARTITION BY g ORDER BY id) AS b FROM facts",
    "window_frame": "SELECT id, frame_sum(x) OVER (PARTITION BY g ORDER BY id ROWS BETWEEN 3 PRECEDING AND 1 FOLLOWING)"
    " AS b FROM facts",
    "window_rank": "SELECT id, rank_per_rows(x) OVER (PARTITION BY g ORDER BY x) AS r FROM facts",
    "window_bounded": "SELECT id, running(x) OVER (PARTITION BY g ORDER BY id) AS b, "
    "running_twice(x) OVER (PARTITION BY g ORDER BY id) AS c FROM facts",
}
"""Rows in any order."""

ORDERED_QUERIES = {
    "order_by": "SELECT id FROM facts ORDER BY shout(w) NULLS FIRST, plus_one(id) DESC",
    "top": "SELECT id, plus_one(x) AS a FROM facts ORDER BY times_seven(g) DESC, id LIMIT 17 OFFSET 3",
    "aggregate_order": "SELECT g, mean(y) AS m FROM facts GROUP BY g ORDER BY mean(y) DESC",
}


@pytest.mark.parametrize("name", [*QUERIES, *ORDERED_QUERIES])
def test_functions_give_plain_rows_from_several_tasks(
    name: str, ctx: SessionContext, oracle: datafusion.SessionContext
) -> None:
    sql = QUERIES.get(name) or ORDERED_QUERIES[name]
    expected = oracle.sql(sql).to_arrow_table()
    check_same(expected, ctx.sql(sql).to_arrow_table(), ordered=name in ORDERED_QUERIES)
    check_was_distributed(ctx)


def test_an_aggregate_is_begun_by_several_tasks_and_ended_by_others(
    ctx: SessionContext, oracle: datafusion.SessionContext
) -> None:
    wait_until_idle(ctx)
    sql = QUERIES["aggregate_by_group"]
    check_same(oracle.sql(sql).to_arrow_table(), ctx.sql(sql).to_arrow_table(), ordered=False)
    report = ctx.last_query
    assert report is not None
    begun, ended = ([task for task in report.task_reports if task.stage == stage] for stage in (0, 1))
    assert (len(begun), len(ended)) == (2, 2)
    assert sum(task.rows for task in begun) > 5  # partial states of the same group from both


def test_a_window_sorted_by_a_pickled_function_runs_here_since_no_copy_is_known_to_be_the_same(
    ctx: SessionContext, oracle: datafusion.SessionContext
) -> None:
    sql = "SELECT id, sum(x) OVER (PARTITION BY plus_one(g) ORDER BY closure(id)) AS b FROM facts"
    check_same(oracle.sql(sql).to_arrow_table(), ctx.sql(sql).to_arrow_table(), ordered=False)
    report = ctx.last_query
    assert report is not None
    assert not report.distributed
    assert "Expects PARTITION BY expression to be ordered" in report.reason


def test_nodes_know_pandas_once_a_function_may_use_it(facts: Path) -> None:
    def no_numbers(values: pa.Array) -> pa.Array:
        import pandas as pd

        # NULLs, to a pyarrow that knows what a Series is.
        return pa.array(pd.Series([float("nan")] * len(values)), pa.float64())

    sql = "SELECT count(*) AS n FROM facts WHERE no_numbers(id) IS NULL"
    # Nodes of its own, whose bees have run no function before.
    with SessionContext(nodes=1, **FORCED) as session:
        session.register_parquet("facts", str(facts))
        session.register_udf(udf(no_numbers, [pa.int64()], pa.float64(), "volatile", "no_numbers"))
        assert session.sql(sql).to_pydict() == {"n": [ROWS]}
        check_was_distributed(session)


def test_functions_of_frames_need_not_be_registered(ctx: SessionContext, facts: Path) -> None:
    twice = udf(Times(2), [pa.int64()], pa.int64(), "stable", "unregistered")
    frame = ctx.table("facts").select(col("id"), twice(col("x")).alias("a"))
    expected = datafusion.SessionContext().read_parquet(str(facts)).select(col("id"), twice(col("x")).alias("a"))
    check_same(expected.to_arrow_table(), frame.to_arrow_table(), ordered=False)
    check_was_distributed(ctx)


# -- names that mean what they meant when the query was bound ---------------------------------------------------------


def both(ctx: SessionContext, oracle: datafusion.SessionContext, sql: str) -> pa.Table:
    """Run a query both ways, check that the answers are the same, and return it."""
    expected = oracle.sql(sql).to_arrow_table()
    check_same(expected, ctx.sql(sql).to_arrow_table(), ordered=False)
    check_was_distributed(ctx)
    return expected


@pytest.fixture
def pair(ctx: SessionContext, facts: Path) -> tuple[SessionContext, datafusion.SessionContext]:
    """A session on the swarm and a plain one of the test's own."""
    own = datafusion.SessionContext()
    register(own, facts)
    return ctx, own


def test_a_name_registered_again_means_the_new_function(
    pair: tuple[SessionContext, datafusion.SessionContext],
) -> None:
    sums = []
    for factor in (2, 3):
        for session in pair:
            session.register_udf(udf(Times(factor), [pa.int64()], pa.int64(), "immutable", "again"))
        sums.append(both(*pair, "SELECT sum(again(x)) AS s FROM facts")["s"][0].as_py())
    assert sums[1] * 2 == sums[0] * 3


def test_frames_and_views_keep_the_function_that_they_were_bound_with(
    pair: tuple[SessionContext, datafusion.SessionContext],
) -> None:
    frames = []
    for session in pair:
        session.register_udf(udf(Times(2), [pa.int64()], pa.int64(), "immutable", "again"))
        session.sql("CREATE VIEW kept AS SELECT id, again(x) AS a FROM facts")
        frames.append(session.sql("SELECT sum(again(x)) AS s FROM facts"))
        session.register_udf(udf(Times(3), [pa.int64()], pa.int64(), "immutable", "again"))
    check_same(frames[1].to_arrow_table(), frames[0].to_arrow_table())
    kept = both(*pair, "SELECT sum(a) AS s, sum(again(x)) AS t FROM kept JOIN facts USING (id)")
    assert kept["s"][0].as_py() * 3 == kept["t"][0].as_py() * 2


def test_a_prepared_statement_keeps_its_function(pair: tuple[SessionContext, datafusion.SessionContext]) -> None:
    for session in pair:
        session.register_udf(udf(Times(2), [pa.int64()], pa.int64(), "immutable", "again"))
        session.sql("PREPARE later(BIGINT) AS SELECT id, again(x) AS a FROM facts WHERE plus_one(g) > $1").collect()
        session.register_udf(udf(Times(3), [pa.int64()], pa.int64(), "immutable", "again"))
    assert both(*pair, "EXECUTE later(2)").num_rows > 0


def test_a_function_may_have_the_name_of_a_built_in_one(
    pair: tuple[SessionContext, datafusion.SessionContext],
) -> None:
    for session in pair:
        session.register_udf(udf(Times(-1), [pa.int64()], pa.int64(), "immutable", "abs"))
        session.register_udaf(udaf(Mean, [pa.float64()], pa.float64(), [pa.float64(), pa.int64()], "immutable", "sum"))
    rows = both(*pair, "SELECT g, min(abs(x)) AS a, sum(y) AS s FROM facts GROUP BY g")
    assert all(value <= 0 for value in rows["a"].to_pylist())


def test_deregistered_function_is_unknown(ctx: SessionContext) -> None:
    ctx.deregister_udf("plus_one")
    with pytest.raises(SqlError, match="plus_one"):
        ctx.sql("SELECT plus_one(x) FROM facts")


# -- what functions are made of ---------------------------------------------------------------------------------------

SCRIPT = """
import sys
import datafusion, pyarrow as pa, pyarrow.compute as pc
from apiary_df import SessionContext

BASE = 1_000

def helper(values):
    return pc.add(values, BASE)

class Total(datafusion.Accumulator):
    def __init__(self): self.total = 0
    def update(self, values): self.total += pc.sum(helper(values)).as_py() or 0
    def merge(self, states): self.total += pc.sum(states[0]).as_py() or 0
    def state(self): return [pa.scalar(self.total)]
    def evaluate(self): return pa.scalar(self.total)

def apply(values):
    return helper(helper(values))

storage, facts = sys.argv[1:]
answers = []
with SessionContext(storage=storage, small_bytes=0, finish_here_bytes=0) as ctx:
    for session in (ctx, datafusion.SessionContext()):
        session.register_parquet("facts", facts)
        session.register_udf(datafusion.udf(apply, [pa.int64()], pa.int64(), "immutable", "apply"))
        session.register_udaf(datafusion.udaf(Total, [pa.int64()], pa.int64(), [pa.int64()], "immutable", "total"))
        answers.append(session.sql("SELECT g, total(apply(x)) AS t FROM facts GROUP BY g ORDER BY g").to_pydict())
    assert ctx.last_query.distributed, ctx.last_query.reason
assert answers[0] == answers[1] and len(answers[0]["t"]) == 5, answers
print("same")
"""


def test_functions_of_a_script_bring_its_helpers_and_globals(swarm: LocalSwarm, facts: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), swarm.storage, str(facts)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "same"), done.stderr


@pytest.fixture
def only_here() -> Iterator[Callable[..., types.ModuleType]]:
    """Makes modules that exist in this process only."""
    made: list[str] = []

    def make(name: str, source: str) -> types.ModuleType:
        module = types.ModuleType(name)
        sys.modules[name] = module
        made.append(name)
        exec(textwrap.dedent(source), vars(module))
        return module

    yield make
    for name in made:
        del sys.modules[name]


IDENTITY = """
    def same(values):
        return values
"""


def test_a_module_that_nodes_do_not_have_is_named(ctx: SessionContext, only_here: Callable[..., Any]) -> None:
    module = only_here("module_of_this_process", IDENTITY)
    ctx.register_udf(udf(module.same, [pa.int64()], pa.int64(), "immutable", "homeless"))
    with pytest.raises(TaskFailed, match="No module named 'module_of_this_process'") as caught:
        ctx.sql("SELECT homeless(x) FROM facts").collect()
    error = caught.value
    assert isinstance(error.__cause__, FunctionNotLoadable)
    assert (error.details["function"], error.details["module"]) == ("homeless", "module_of_this_process")
    assert error.details["node"] in {view.info.node_id for view in ctx.nodes()}
    # Once on each of the two nodes: another may have the module, the same one never will.
    assert "after 2 attempts" in error.message
    check_nothing_left(str(ctx.storage))


def test_a_module_pickled_by_value_needs_no_other(
    pair: tuple[SessionContext, datafusion.SessionContext], only_here: Callable[..., Any]
) -> None:
    module = only_here("module_by_value", IDENTITY)
    cloudpickle.register_pickle_by_value(module)
    try:
        for session in pair:
            session.register_udf(udf(module.same, [pa.int64()], pa.int64(), "immutable", "at_home"))
        both(*pair, "SELECT id, at_home(x) AS a FROM facts")
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_a_name_that_a_module_does_not_have_there_is_told(ctx: SessionContext, only_here: Callable[..., Any]) -> None:
    import textwrap as installed_everywhere

    def newer(values: pa.Array) -> pa.Array:
        return values

    newer.__module__, newer.__qualname__ = "textwrap", "newer"
    installed_everywhere.newer = newer  # type: ignore[attr-defined]
    try:
        ctx.register_udf(udf(newer, [pa.int64()], pa.int64(), "immutable", "newer"))
        with pytest.raises(TaskFailed, match=r"newer \(scalar\) cannot be loaded: AttributeError") as caught:
            ctx.sql("SELECT newer(x) FROM facts").collect()
    finally:
        del installed_everywhere.newer  # type: ignore[attr-defined]
    assert isinstance(caught.value.__cause__, FunctionNotLoadable)


def test_a_function_that_cannot_be_pickled_runs_here_and_says_so(
    pair: tuple[SessionContext, datafusion.SessionContext],
) -> None:
    lock = threading.Lock()

    def guarded(values: pa.Array) -> pa.Array:
        with lock:
            return values

    for session in pair:
        session.register_udf(udf(guarded, [pa.int64()], pa.int64(), "immutable", "guarded"))
    sql = "SELECT id, guarded(x) AS a FROM facts"
    check_same(pair[1].sql(sql).to_arrow_table(), pair[0].sql(sql).to_arrow_table(), ordered=False)
    report = pair[0].last_query
    assert report is not None
    assert not report.distributed
    assert "cannot pickle '_thread.lock' object" in report.reason


class Squares:
    """A table function: squares up to a number, as a dataset."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, most: Any) -> Table:
        self.calls += 1
        values = range(most.to_variant().value_i64())
        return Table(pa.dataset.dataset(pa.table({"n": list(values), "sq": [v * v for v in values]})))


def test_a_table_function_and_what_reads_it_run_in_the_session_and_that_is_said(
    pair: tuple[SessionContext, datafusion.SessionContext],
) -> None:
    sql = "SELECT f.id, q.sq FROM facts f JOIN squares(20) q ON f.x = q.n"
    for session in pair:
        squares = Squares()
        session.register_udtf(TableFunction("squares", squares, session))
        session.sql(sql)
        assert squares.calls == 1
    expected = pair[1].sql(sql).to_arrow_table()
    assert expected.num_rows > 0
    check_same(expected, pair[0].sql(sql).to_arrow_table(), ordered=False)
    report = pair[0].last_query
    assert report is not None
    assert not report.distributed
    assert report.reason.startswith("only this process can read table squares(): DatasetExec")


# -- functions that raise ---------------------------------------------------------------------------------------------


class Refusing(Accumulator):
    """An aggregate that raises."""

    def update(self, values: pa.Array) -> None:
        raise KeyError("no such key")

    def merge(self, states: list[pa.Array]) -> None: ...

    def state(self) -> list[pa.Scalar]:
        return [pa.scalar(0)]

    def evaluate(self) -> pa.Scalar:
        return pa.scalar(0)


class Breaking(WindowEvaluator):
    """A window function that raises."""

    def evaluate_all(self, values: list[pa.Array], num_rows: int) -> pa.Array:
        raise RuntimeError("the window is broken")


def raising(values: pa.Array) -> pa.Array:
    raise ValueError("not with me")


def wrong_type(values: pa.Array) -> pa.Array:
    return pa.array(["text"] * len(values))


@pytest.mark.parametrize(
    ("sql", "function", "text"),
    [
        ("SELECT raising(x) FROM facts", "raising (scalar)", "ValueError('not with me')"),
        ("SELECT refusing(x) FROM facts", "refusing (aggregate)", "KeyError: 'no such key'"),
        ("SELECT breaking(x) OVER (PARTITION BY g) FROM facts", "breaking (window)", "the window is broken"),
        ("SELECT wrong_type(x) FROM facts", "wrong_type (scalar)", "Int64"),
    ],
    ids=["scalar", "aggregate", "window", "wrong_type"],
)
def test_what_a_function_raises_is_told_once(ctx: SessionContext, sql: str, function: str, text: str) -> None:
    number = pa.int64()
    ctx.register_udf(udf(raising, [number], number, "immutable", "raising"))
    ctx.register_udf(udf(wrong_type, [number], number, "immutable", "wrong_type"))
    ctx.register_udaf(udaf(Refusing, [number], number, [number], "immutable", "refusing"))
    ctx.register_udwf(udwf(Breaking, [number], number, "immutable", "breaking"))
    with pytest.raises(TaskFailed) as caught:
        ctx.sql(sql).collect()
    error = caught.value
    assert isinstance(error.__cause__, ExecutionFailed)
    assert error.details["functions"] == function
    assert text in error.message
    assert {"task", "node", "query"} <= set(error.details)
    # The function would raise again: there is no second attempt.
    assert "attempts" not in error.message
    check_nothing_left(str(ctx.storage))


def test_what_a_function_of_the_results_stage_raises_names_it_too(ctx: SessionContext) -> None:
    ctx.register_udf(udf(raising, [pa.int64()], pa.int64(), "immutable", "raising"))
    with pytest.raises(ExecutionFailed, match="not with me") as caught:
        ctx.sql("SELECT raising(n) FROM (SELECT max(id) AS n FROM facts WHERE g >= 0)").collect()
    assert caught.value.details["functions"] == "raising (scalar)"
    check_nothing_left(str(ctx.storage))


def test_a_function_that_takes_too_long_ends_with_the_timeout(swarm: LocalSwarm, facts: Path) -> None:
    def slow(values: pa.Array) -> pa.Array:
        import time

        time.sleep(1.5)
        return values

    with SessionContext(storage=swarm.storage, **{**FORCED, "timeout_s": 0.5}) as session:
        register(session, facts)
        session.register_udf(udf(slow, [pa.int64()], pa.int64(), "immutable", "slow"))
        with pytest.raises(QueryTimeout):
            session.sql("SELECT slow(x) FROM facts").collect()
        wait_until_idle(session)


# -- functions where rows go somewhere else, or are looked at twice ---------------------------------------------------


def test_functions_are_applied_by_the_tasks_that_write(
    ctx: SessionContext, oracle: datafusion.SessionContext, tmp_path: Path
) -> None:
    sql = "SELECT id, shout(w) AS a, plus_one(x) AS b FROM facts"
    ctx.sql(f"COPY ({sql}) TO '{tmp_path / 'out'}/' STORED AS PARQUET").collect()
    check_was_distributed(ctx)
    written = datafusion.SessionContext().read_parquet(str(tmp_path / "out")).sort(col("id")).to_pylist()
    assert written == oracle.sql(f"{sql} ORDER BY id").to_pylist()


def test_functions_are_verified_and_the_values_of_volatile_ones_left_open(swarm: LocalSwarm, facts: Path) -> None:
    def dice(values: pa.Array) -> pa.Array:
        return pa.array([random.random() for _ in range(len(values))], pa.float64())

    with SessionContext(storage=swarm.storage, verify=True, **FORCED) as session:
        register(session, facts)
        session.register_udf(udf(dice, [pa.int64()], pa.float64(), "volatile", "dice"))
        assert len(session.sql(QUERIES["aggregate_by_group"]).collect()) > 0
        check_was_distributed(session)
        drawn = session.sql("SELECT id, dice(id) AS d FROM facts").to_pydict()
        assert len(set(drawn["d"])) == len(drawn["id"]) == ROWS
        check_was_distributed(session)


def test_a_volatile_function_is_called_once_for_each_row_that_several_tasks_join(
    ctx: SessionContext, tmp_path: Path
) -> None:
    def dice(values: pa.Array) -> pa.Array:
        return pa.array([random.random() for _ in range(len(values))], pa.float64())

    pq.write_table(pa.table({"k": [0, 1, 2, 3, 4]}), tmp_path / "keys.parquet")
    ctx.register_parquet("keys", str(tmp_path / "keys.parquet"))
    ctx.register_udf(udf(dice, [pa.int64()], pa.float64(), "volatile", "dice"))
    wait_until_idle(ctx)
    drawn = "(SELECT k, dice(k) AS d FROM keys)"
    sql = f"SELECT count(DISTINCT d) AS n, count(*) AS c FROM facts JOIN {drawn} ON g = k"
    assert ctx.sql(sql).to_pydict() == {"n": [5], "c": [ROWS]}
    check_was_distributed(ctx, tasks=3)
