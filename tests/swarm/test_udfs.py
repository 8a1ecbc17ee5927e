"""Python functions on the swarm: the rows of plain DataFusion, on the nodes that run such, or a refusal beforehand."""

from __future__ import annotations

import functools
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
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from datafusion import Accumulator, col, udaf, udf, udwf
from datafusion.catalog import Table
from datafusion.user_defined import TableFunction, WindowEvaluator

from apiary_df import LocalSwarm, SessionContext
from apiary_df.coordinator import Query, QueryRun
from apiary_df.errors import ExecutionFailed, FunctionNotLoadable, FunctionsRefused, QueryTimeout, SqlError, TaskFailed
from apiary_df.footers import FooterCache
from apiary_df.plan.rules import RewriteOptions
from apiary_df.planning import RunsOnSwarm, SwarmPlanner
from apiary_df.protocol import keys
from apiary_df.protocol.messages import Heartbeat, decode, encode
from apiary_df.store import Store, open_store
from apiary_df.view import SwarmView
from swarm.helpers import FORCED, check_nothing_left, check_same, check_was_distributed, wait_until_idle

pytestmark = pytest.mark.processes

cloudpickle.register_pickle_by_value(sys.modules[__name__])

ROWS = 400
FILES = 4


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of four files with NULLs, few groups, words, lists and structs."""
    folder = tmp_path_factory.mktemp("facts")
    step = ROWS // FILES
    for number in range(FILES):
        ids = range(number * step, (number + 1) * step)
        table = pa.table(
            {
                "id": pa.array(ids, pa.int64()),
                "g": pa.array([i % 5 for i in ids], pa.int64()),
                "x": pa.array([None if i % 7 == 0 else i % 23 for i in ids], pa.int64()),
                "y": pa.array([i / 8 for i in ids], pa.float64()),
                "w": pa.array([None if i % 11 == 0 else f"wört-{i % 13}" for i in ids], pa.string()),
                "l": pa.array([list(range(i % 4)) for i in ids], pa.list_(pa.int64())),
                "s": pa.array([{"a": i % 3, "b": str(i)} for i in ids]),
            }
        )
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=25)
    return folder


# -- functions --------------------------------------------------------------------------------------------------------


def plus_one(values: pa.Array) -> pa.Array:
    return pc.add(values, 1)


def shout(words: pa.Array) -> pa.Array:
    return pa.array([None if w is None else w.upper() + "!" for w in words.to_pylist()], pa.string())


def area(a: pa.Array, b: pa.Array, c: pa.Array) -> pa.Array:
    return pc.multiply(pc.multiply(a, b), c)


def spread(lists: pa.Array) -> pa.Array:
    return pa.array([None if v is None else sum(v) for v in lists.to_pylist()], pa.int64())


def numbers_below(values: pa.Array) -> pa.Array:
    rows = [None if v is None else list(range(v % 3)) for v in values.to_pylist()]
    return pa.array(rows, pa.list_(pa.int64()))


def field_a(structs: pa.Array) -> pa.Array:
    return pc.struct_field(structs, "a")


def is_even(values: pa.Array) -> pa.Array:
    return pa.array([None if v is None else v % 2 == 0 for v in values.to_pylist()], pa.bool_())


class Times:
    """A function with a state that was set when it was made."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, values: pa.Array) -> pa.Array:
        return pc.multiply(values, self.factor)


class Mean(Accumulator):
    """An aggregate with two state fields."""

    def __init__(self) -> None:
        self.total = 0.0
        self.rows = 0

    def update(self, values: pa.Array) -> None:
        self.total += pc.sum(values).as_py() or 0.0
        self.rows += len(values) - values.null_count

    def merge(self, states: list[pa.Array]) -> None:
        self.total += pc.sum(states[0]).as_py() or 0.0
        self.rows += pc.sum(states[1]).as_py() or 0

    def state(self) -> list[pa.Scalar]:
        return [pa.scalar(self.total), pa.scalar(self.rows)]

    def evaluate(self) -> pa.Scalar:
        return pa.scalar(self.total / self.rows if self.rows else None, pa.float64())


class Longest(Accumulator):
    """An aggregate over strings; the state is a string too."""

    def __init__(self, least: int = 0) -> None:
        self.least = least
        self.best: str | None = None

    def _see(self, values: pa.Array) -> None:
        found = [v for v in [*values.to_pylist(), self.best] if v is not None and len(v) >= self.least]
        self.best = max(found, key=lambda v: (len(v), v), default=None)

    def update(self, values: pa.Array) -> None:
        self._see(values)

    def merge(self, states: list[pa.Array]) -> None:
        self._see(states[0])

    def state(self) -> list[pa.Scalar]:
        return [pa.scalar(self.best, pa.string())]

    def evaluate(self) -> pa.Scalar:
        return pa.scalar(self.best, pa.string())


class Backwards(WindowEvaluator):
    """A window function over whole partitions."""

    def evaluate_all(self, values: list[pa.Array], num_rows: int) -> pa.Array:
        return pa.array(list(reversed(values[0].to_pylist())), pa.int64())


class FrameSum(WindowEvaluator):
    """A window function over frames."""

    def uses_window_frame(self) -> bool:
        return True

    def evaluate(self, values: list[pa.Array], eval_range: tuple[int, int]) -> pa.Scalar:
        start, end = eval_range
        return pa.scalar(sum(v or 0 for v in values[0].slice(start, end - start).to_pylist()), pa.int64())


class RankPerRows(WindowEvaluator):
    """A window function that asks for ranks."""

    def include_rank(self) -> bool:
        return True

    def evaluate_all_with_rank(self, num_rows: int, ranks_in_partition: list[tuple[int, int]]) -> pa.Array:
        ends = [end / num_rows for start, end in ranks_in_partition for _ in range(start, end)]
        return pa.array(ends, pa.float64())


class Bounded(WindowEvaluator):
    """A window function that keeps state from row to row."""

    def __init__(self, step: int = 1) -> None:
        self.step = step
        self.last = 0

    def supports_bounded_execution(self) -> bool:
        return True

    def get_range(self, idx: int, num_rows: int) -> tuple[int, int]:
        return idx, idx + 1

    def evaluate(self, values: list[pa.Array], eval_range: tuple[int, int]) -> pa.Scalar:
        value = values[0].to_pylist()[eval_range[0]]
        self.last += self.step * (value or 0)
        return pa.scalar(self.last, pa.int64())


def functions() -> list[Any]:
    """Return all functions, made anew for each session."""
    offset = 100
    number, text = pa.int64(), pa.string()
    numbers, struct = pa.list_(pa.int64()), pa.struct({"a": pa.int64(), "b": pa.string()})
    return [
        udf(plus_one, [number], number, "immutable", "plus_one"),
        udf(plus_one, [number], number, "stable", "plus_one_stable"),
        udf(plus_one, [number], number, "volatile", "plus_one_volatile"),
        udf(shout, [text], text, "immutable", "shout"),
        udf(area, [number, number, number], number, "immutable", "area"),
        udf(spread, [numbers], number, "immutable", "spread"),
        udf(numbers_below, [number], numbers, "immutable", "numbers_below"),
        udf(field_a, [struct], number, "immutable", "field_a"),
        udf(is_even, [number], pa.bool_(), "immutable", "is_even"),
        udf(lambda values: pc.add(values, offset), [number], number, "immutable", "closure"),
        udf(functools.partial(pc.multiply, 3), [number], number, "immutable", "partial"),
        udf(Times(7), [number], number, "immutable", "times_seven"),
        udaf(Mean, [pa.float64()], pa.float64(), [pa.float64(), number], "immutable", "mean"),
        udaf(Longest, [text], text, [text], "immutable", "longest"),
        udaf(lambda: Longest(8), [text], text, [text], "immutable", "longest_of_eight"),
        udwf(Backwards, [number], number, "immutable", "backwards"),
        udwf(FrameSum, [number], number, "immutable", "frame_sum"),
        udwf(RankPerRows, [number], pa.float64(), "immutable", "rank_per_rows"),
        udwf(Bounded, [number], number, "immutable", "running"),
        udwf(lambda: Bounded(2), [number], number, "immutable", "running_twice"),
    ]


def register(ctx: datafusion.SessionContext, facts: Path) -> None:
    """Register the table and all functions in a session."""
    ctx.register_parquet("facts", str(facts))
    for function in functions():
        if isinstance(function, datafusion.ScalarUDF):
            ctx.register_udf(function)
        elif isinstance(function, datafusion.AggregateUDF):
            ctx.register_udaf(function)
        else:
            ctx.register_udwf(function)


@pytest.fixture(scope="module")
def oracle(facts: Path) -> datafusion.SessionContext:
    """Plain DataFusion with the table and all functions."""
    ctx = datafusion.SessionContext()
    register(ctx, facts)
    return ctx


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
        timeout=60,
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


# -- nodes that run functions, and nodes that do not ------------------------------------------------------------------


@pytest.fixture
def closed(facts: Path) -> Iterator[tuple[LocalSwarm, SessionContext]]:
    """A swarm whose node does not run Python functions, and a session on it."""
    with (
        LocalSwarm(1, allow_udfs=False, in_process=True) as swarm,
        SessionContext(storage=swarm.storage, **FORCED) as session,
    ):
        register(session, facts)
        yield swarm, session


def all_keys(store: Store) -> set[str]:
    return {meta.key for meta in store.list("")}


def test_a_query_with_functions_is_refused_before_any_work(closed: tuple[LocalSwarm, SessionContext]) -> None:
    swarm, session = closed
    frame = session.sql("SELECT shout(w) AS k, mean(y) AS m FROM facts GROUP BY shout(w)")
    before = all_keys(swarm.store)
    with pytest.raises(FunctionsRefused, match="--allow-udfs") as caught:
        frame.collect()
    assert caught.value.details["functions"] == "mean (aggregate), shout (scalar)"
    assert swarm.node_ids[0] in caught.value.message
    assert not caught.value.retryable
    assert all_keys(swarm.store) == before
    assert session.last_query is None


def test_a_write_with_functions_is_refused_before_any_work(
    closed: tuple[LocalSwarm, SessionContext], tmp_path: Path
) -> None:
    _, session = closed
    with pytest.raises(FunctionsRefused, match="--allow-udfs"):
        session.sql(f"COPY (SELECT shout(w) AS a FROM facts) TO '{tmp_path / 'out'}/' STORED AS PARQUET").collect()
    assert list(tmp_path.iterdir()) == []


def test_a_query_without_functions_is_not_refused(closed: tuple[LocalSwarm, SessionContext]) -> None:
    _, session = closed
    assert session.sql("SELECT count(*) AS n, max(abs(x)) AS m FROM facts").to_pydict() == {"n": [ROWS], "m": [22]}
    check_was_distributed(session)


def test_a_literal_that_looks_like_a_function_is_none(closed: tuple[LocalSwarm, SessionContext]) -> None:
    _, session = closed
    tagged = b"DFPYUDF\x01\x03\x0b" + cloudpickle.dumps(("twice",))
    sql = f"SELECT count(*) AS n FROM facts WHERE arrow_cast(w, 'Binary') <> X'{tagged.hex()}'"
    assert session.sql(sql).to_pydict() == {"n": [363]}
    check_was_distributed(session)


def test_explain_tells_of_the_refusal_and_runs_nothing(closed: tuple[LocalSwarm, SessionContext]) -> None:
    _, session = closed
    text = session.sql("SELECT plus_one(x) FROM facts").explain_text()
    assert text.startswith("refused: the query's tasks run Python functions (plus_one (scalar))")
    assert "--allow-udfs" in text
    with pytest.raises(FunctionsRefused):
        session.sql("EXPLAIN ANALYZE SELECT plus_one(x) FROM facts").collect()


def test_functions_of_the_results_stage_need_no_node(closed: tuple[LocalSwarm, SessionContext]) -> None:
    _, session = closed
    rows = session.sql("SELECT plus_one(n) AS a FROM (SELECT max(id) AS n FROM facts WHERE g >= 0)").to_pydict()
    assert rows == {"a": [ROWS]}
    check_was_distributed(session)


def test_only_nodes_that_allow_functions_are_given_any(
    closed: tuple[LocalSwarm, SessionContext], oracle: datafusion.SessionContext
) -> None:
    plain_nodes, session = closed
    with LocalSwarm(1, storage=plain_nodes.storage, in_process=True) as open_nodes:
        sql = QUERIES["aggregate_by_group"]
        frame = session.sql(sql)
        check_same(oracle.sql(sql).to_arrow_table(), frame.to_arrow_table(), ordered=False)
        report = session.last_query
        assert report is not None
        assert {task.node_id for task in report.task_reports} == set(open_nodes.node_ids)
        text = frame.explain_text()
        assert f"on the nodes {open_nodes.node_ids[0]}; left out: {plain_nodes.node_ids[0]} (it was not star" in text
        assert "Python functions: longest (aggregate), longest_of_eight (aggregate), mean (aggregate)" in text


def run_unchecked(session: SessionContext, swarm: LocalSwarm, sql: str) -> QueryRun:
    """Return a run of a query whose functions its coordinator does not know of."""
    planned = SwarmPlanner(session, lambda _twin: None).plan(
        session.sql(sql).logical_plan(), RewriteOptions(partitions=2, small_bytes=0)
    )
    assert isinstance(planned, RunsOnSwarm)
    assert planned.functions
    query = Query(
        sql=sql, graph=planned.graph, settings=planned.settings, schema=session.sql(sql).schema(), reason="forced"
    )
    view = SwarmView(swarm.store, "session-unchecked", session.settings)
    return QueryRun(query, view, session.settings, FooterCache())


def test_a_node_refuses_a_task_with_functions_by_itself(closed: tuple[LocalSwarm, SessionContext]) -> None:
    swarm, session = closed
    with pytest.raises(TaskFailed, match="which this node was not started for") as caught:
        list(run_unchecked(session, swarm, "SELECT shout(w) AS a FROM facts"))
    assert isinstance(caught.value.__cause__, FunctionsRefused)
    assert caught.value.details["functions"] == "shout (scalar)"
    assert "attempts" not in caught.value.message


def test_a_task_that_a_node_refused_is_done_elsewhere(closed: tuple[LocalSwarm, SessionContext]) -> None:
    swarm, session = closed
    with LocalSwarm(1, storage=swarm.storage, in_process=True) as others:
        run = run_unchecked(session, swarm, "SELECT plus_one(id) AS a FROM facts")
        ids = [value for batch in run for value in batch.column(0).to_pylist()]
        assert sorted(ids) == list(range(1, ROWS + 1))
        assert {task.node_id for task in run.report().task_reports} == set(others.node_ids)
        assert 1 in {task.attempt for task in run.report().task_reports}


def beat_of(swarm: LocalSwarm) -> Heartbeat:
    key = keys.heartbeat(swarm.node_ids[0])
    return decode(swarm.store.get(key), Heartbeat, key)


def test_a_node_of_another_python_is_not_fit_for_functions(facts: Path, tmp_path: Path) -> None:
    import msgspec

    store = open_store(str(tmp_path / "root"))
    with LocalSwarm(1, allow_udfs=True, in_process=True) as other:
        beat = msgspec.structs.replace(beat_of(other), node_id="older", python_version="3.9")
    store.put(keys.heartbeat("older"), encode(beat))
    with SessionContext(storage=store.url, **FORCED) as session:
        register(session, facts)
        with pytest.raises(FunctionsRefused, match=r"older \(it runs Python 3.9, this session 3\.\d+\)"):
            session.sql("SELECT plus_one(x) FROM facts").collect()
    assert [meta.key for meta in store.list(keys.QUERIES)] == []


def test_nodes_that_a_session_starts_run_functions_and_no_other(swarm: LocalSwarm, tmp_path: Path) -> None:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (beat_of(swarm).allow_udfs, beat_of(swarm).python_version) == (True, own)
    with LocalSwarm(1, allow_udfs=False) as plain_node:  # `apiary node`, without a flag
        assert (beat_of(plain_node).allow_udfs, beat_of(plain_node).python_version) == (False, own)
    with SessionContext(storage=(tmp_path / "root").as_uri(), local_bees=1) as session:
        assert [view.heartbeat.allow_udfs for view in session.nodes()] == [True]
