"""The Python functions of a plan: found wherever an expression may stand, never loaded."""

from __future__ import annotations

import sys
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import datafusion
import pyarrow as pa
import pytest
from datafusion import Accumulator, udaf, udf, udwf
from datafusion.user_defined import WindowEvaluator

from apiary_df.plan import codec
from apiary_df.plan.functions import PythonFunction, names_of, python_functions
from apiary_df.plan.tree import PlanNode

TAG = b"DFPYUDF\x01\x03\x0b"


class Count(Accumulator):
    """Counts rows."""

    def __init__(self) -> None:
        self.rows = 0

    def update(self, values: pa.Array) -> None:
        self.rows += len(values)

    def merge(self, states: list[pa.Array]) -> None:
        self.rows += sum(states[0].to_pylist())

    def state(self) -> list[pa.Scalar]:
        return [pa.scalar(self.rows)]

    def evaluate(self) -> pa.Scalar:
        return pa.scalar(self.rows)


class Number(WindowEvaluator):
    """Numbers rows."""

    def evaluate_all(self, values: list[pa.Array], num_rows: int) -> pa.Array:
        return pa.array(range(num_rows), pa.int64())


@pytest.fixture(scope="module")
def ctx() -> datafusion.SessionContext:
    ctx = datafusion.SessionContext()
    number: Any = pa.int64()
    for name in ("f", "g", "h"):
        ctx.register_udf(udf(lambda values: values, [number], number, "volatile", name))
    ctx.register_udaf(udaf(Count, [number], number, [number], "immutable", "rows"))
    ctx.register_udwf(udwf(Number, [number], number, "immutable", "numbered"))
    ctx.from_pydict({"x": [1, 2, 3], "y": [1, 1, 2]}, name="t")
    ctx.from_pydict({"x": [TAG + cloudpickle.dumps(("twice",)), TAG + b"\x80\x05\xff"]}, name="tagged")
    return ctx


def found(ctx: datafusion.SessionContext, sql: str) -> str:
    return names_of(python_functions([codec.decode(ctx.sql(sql).execution_plan().to_bytes(ctx))]))


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT x + 1, sum(y) OVER () FROM t", ""),
        ("SELECT f(x) FROM t", "f (scalar)"),
        ("SELECT abs(f(g(x)) + 1) FROM t", "f (scalar), g (scalar)"),
        ("SELECT x FROM t WHERE y IN (f(x), 2) OR NOT g(x) BETWEEN 1 AND h(2)", "f (scalar), g (scalar), h (scalar)"),
        ("SELECT CASE WHEN y = 1 THEN CAST(f(x) AS VARCHAR) END FROM t", "f (scalar)"),
        ("SELECT struct(f(x)), make_array(g(x))[1] FROM t", "f (scalar), g (scalar)"),
        ("SELECT a.x FROM t a JOIN t b ON f(a.x) = b.x AND g(a.y) > b.y", "f (scalar), g (scalar)"),
        ("SELECT a.x FROM t a LEFT JOIN t b ON f(a.x) > b.x", "f (scalar)"),
        ("SELECT x FROM t ORDER BY f(x) LIMIT 2", "f (scalar)"),
        ("SELECT f(x), count(*) FROM t GROUP BY f(x) HAVING g(count(*)) > 0", "f (scalar), g (scalar)"),
        ("SELECT y, rows(x) FILTER (WHERE f(x) > 1) FROM t GROUP BY y", "f (scalar), rows (aggregate)"),
        ("SELECT sum(f(x)) OVER (PARTITION BY g(y) ORDER BY h(x)) FROM t", "f (scalar), g (scalar), h (scalar)"),
        ("SELECT rows(x) OVER (PARTITION BY y) FROM t", "rows (aggregate)"),
        ("SELECT numbered(x) OVER (ORDER BY y) FROM t", "numbered (window)"),
        ("SELECT f(x) FROM t UNION ALL SELECT g(y) FROM t", "f (scalar), g (scalar)"),
        ("SELECT x FROM t WHERE x > (SELECT max(f(y)) FROM t)", "f (scalar)"),
    ],
)
def test_functions_are_found_wherever_they_stand(ctx: datafusion.SessionContext, sql: str, names: str) -> None:
    assert found(ctx, sql) == names


def test_what_only_begins_like_a_pickle_is_no_function(ctx: datafusion.SessionContext) -> None:
    # Of the two tagged values one is a pickle with a name, which cannot be told from a function here.
    assert found(ctx, "SELECT x FROM tagged") == "twice (scalar)"


def test_a_function_tells_the_python_that_pickled_it(ctx: datafusion.SessionContext) -> None:
    plan = codec.decode(ctx.sql("SELECT f(x), f(y) FROM t").execution_plan().to_bytes(ctx))
    (function,) = python_functions([plan, plan])
    assert function == PythonFunction(name="f", kind="scalar", python=".".join(map(str, sys.version_info[:2])))
    assert cloudpickle.loads(function.pickled)[0] == "f"


@pytest.mark.parametrize("body", [b"", TAG, TAG + b"\x80", TAG[:-1] + b"\x80\x05.", TAG + b"\x80\x05K\x01."])
def test_scraps_are_no_functions(body: bytes) -> None:
    assert python_functions([PlanNode("filter", body)]) == ()
