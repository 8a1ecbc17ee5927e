"""Python functions of all kinds, and the table that tests apply them to."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import datafusion
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
from datafusion import Accumulator, udaf, udf, udwf
from datafusion.user_defined import WindowEvaluator

cloudpickle.register_pickle_by_value(sys.modules[__name__])

ROWS = 400
FILES = 4


def write_facts(folder: Path) -> None:
    """Write a table of four files with NULLs, few groups, words, lists and structs."""
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
