"""What a query fixes of its answer, and what SQL leaves open in it. Pure reading of logical plans.

What belongs here: where the order of an answer comes from, whether a limit chooses among its rows, and which functions
may give another value each time. Running anything, and comparing, does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from datafusion.expr import Expr
from datafusion.plan import LogicalPlan

VOLATILE = "volatile functions give another value each time"
LIMITED_INSIDE = "a LIMIT inside of the query may take other rows each time"
BY_POSITION = "functions that depend on the order of rows, where the query fixes none or ties are possible"
APPROXIMATE = "approximate percentiles depend on how the rows are divided"

_LIMITED = re.compile(r"^\s*(?:Limit:|(?:Sort|TableScan):.*\bfetch=\d)", re.MULTILINE)
_VOLATILE = re.compile(r"\b(?:random|uuid)\(\)")
_BY_POSITION = re.compile(
    r"\b(?:first_value|last_value|nth_value|any_value|row_number|ntile|lag|lead)\(|\bROWS BETWEEN\b|DistinctOn:"
)
_APPROXIMATE = re.compile(r"\bapprox_(?:percentile\w*|median)\(")
_COLLECTING = re.compile(r"\b(?:array_agg|string_agg)\(")
_SUMMING = re.compile(r"\b(?:sum|avg|mean|var\w*|stddev\w*|covar\w*|corr|regr_\w+|approx_\w+)\(")
_CLOCK = re.compile(r"\b(?:now|today|current_date|current_time|current_timestamp)\(\)")

_USER_FUNCTION = re.compile(r'inner: Python\w+ \{ name: "([^"]*)".*?\bvolatility: (\w+)', re.DOTALL)
"""How a plan's text for debugging, the only place that says it, tells a user's function and its volatility."""

_STEPS = frozenset({"Projection", "SubqueryAlias"})
_KEEPING_ROWS = frozenset({"Projection", "SubqueryAlias", "Sort", "Limit", "WindowExpr", "Aggregate"})
"""Operators whose number of rows does not depend on values; of an aggregate, it does on its groups."""

_NEVER_TWICE = frozenset({"CopyTo", "DmlStatement"})
_ABOUT_PLANS = frozenset({"Explain", "Analyze"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How the top of a query is built.

    Attributes:
        steps: Projections and aliases at the top, the outermost first; none of them drops or reorders rows.
        base: What is below them and below the limit: a Sort, or anything that fixes no order.
        keys: Expressions of the ORDER BY over the columns of ``base``; empty without one.
        ordered: Whether the ORDER BY is that of the whole query, not of a subquery.
        limited: Whether a LIMIT or OFFSET chooses among the rows of ``base``.
        skip: Rows of ``base`` that an OFFSET leaves out; None if it is no plain number.
    """

    steps: tuple[LogicalPlan, ...]
    base: LogicalPlan
    keys: tuple[Expr, ...]
    ordered: bool
    limited: bool
    skip: int | None


def kind_of(plan: LogicalPlan) -> str:
    """Return the name of a plan's topmost operator."""
    return type(plan.to_variant()).__name__


def why_not_twice(plan: LogicalPlan) -> str | None:
    """Return why a statement must not, or need not, be run a second time; None for a query."""
    kind = kind_of(plan)
    if kind in _NEVER_TWICE:
        return "a statement that writes is not run twice"
    return "an explanation is no answer to compare" if kind in _ABOUT_PLANS else None


def reads_clock(text: str) -> bool:
    """Whether a plan asks for the time, which must then be the same for both runs. ``text``: the plan displayed."""
    return _CLOCK.search(text) is not None


def collects(text: str) -> bool:
    """Whether a plan collects rows into lists or texts, whose inner order an ORDER BY of its own would have to fix."""
    return _COLLECTING.search(text) is not None


def sums_up(text: str) -> bool:
    """Whether a plan adds up numbers: of floats, the last digits depend on the order."""
    return _SUMMING.search(text) is not None


def shape_of(plan: LogicalPlan) -> Shape:
    """Read the top of a query's plan, as it was bound and not yet optimized."""
    steps: list[LogicalPlan] = []
    limited, skip, inside = False, 0, False
    while True:
        kind = kind_of(plan)
        if kind in _STEPS:
            inside = inside or kind == "SubqueryAlias"
            steps.append(plan)
        elif kind == "Limit" and not limited:
            limited = True
            offset = plan.to_variant().skip()
            skip = 0 if offset is None else _number(offset)  # type: ignore[assignment]
        else:
            break
        (plan,) = plan.inputs()
    keys: tuple[Expr, ...] = ()
    if kind == "Sort":
        keys = tuple(Expr(key.expr()) for key in plan.to_variant().sort_exprs())
    return Shape(
        steps=tuple(steps),
        base=plan,
        keys=keys,
        ordered=bool(keys) and not inside,
        limited=limited,
        skip=skip if limited else 0,
    )


def left_open(text: str, volatile: bool) -> tuple[str, ...]:
    """Return what SQL leaves open in a part of a query, besides its order.

    Args:
        text: The optimized plan, displayed.
        volatile: Whether it is known to hold volatile functions.
    """
    found = (
        (VOLATILE, volatile or _VOLATILE.search(text)),
        (LIMITED_INSIDE, _LIMITED.search(text)),
        (BY_POSITION, _BY_POSITION.search(text)),
        (APPROXIMATE, _APPROXIMATE.search(text)),
    )
    return tuple(reason for reason, there in found if there)


def is_volatile(plan: LogicalPlan) -> bool:
    """Whether a plan calls a volatile function, be it a user's; those inside of subqueries go by name."""
    return "volatility: Volatile" in repr(plan._raw_plan) or _VOLATILE.search(plan.display_indent()) is not None


def fixed_columns(plan: LogicalPlan) -> tuple[bool, tuple[int, ...]]:
    """Return what is fixed of an answer in which something is open.

    Returns:
        Whether the number of rows is fixed, and the positions of columns whose values are fixed, as a multiset of rows.
    """
    limited = False
    while kind_of(plan) in {"Sort", "SubqueryAlias", "Limit"}:
        limited = limited or kind_of(plan) == "Limit"
        (plan,) = plan.inputs()
    if kind_of(plan) != "Projection":
        return _keeps_rows(plan), ()
    expressions = [Expr(raw) for raw in plan.to_variant().projections()]
    (below,) = plan.inputs()
    if not _keeps_rows(below):
        return False, ()
    names = volatile_names(plan)
    if limited or _hides_something_open(below, names):
        return True, ()
    return True, tuple(i for i, e in enumerate(expressions) if not _is_open(e.canonical_name(), names))


def _hides_something_open(plan: LogicalPlan, volatile: frozenset[str]) -> bool:
    """Whether a column of a plan may hold what is open under a name that does not tell.

    The columns of windows and aggregates are named after their functions; those of projections are named at will.
    """
    while kind_of(plan) in _KEEPING_ROWS:
        if kind_of(plan) == "Limit":
            return True
        if kind_of(plan) == "Projection":
            names = (Expr(raw).canonical_name() for raw in plan.to_variant().projections())
            if any(_is_open(name, volatile) for name in names):
                return True
        (plan,) = plan.inputs()
    return False


def volatile_names(plan: LogicalPlan) -> frozenset[str]:
    """Return the names of the user's functions in a plan that are registered as volatile."""
    found = _USER_FUNCTION.findall(repr(plan._raw_plan))
    return frozenset(name for name, volatility in found if volatility == "Volatile")


def _keeps_rows(plan: LogicalPlan) -> bool:
    """Whether the number of rows of a plan does not depend on anything that is open."""
    while True:
        kind = kind_of(plan)
        if kind == "Aggregate":
            groups = " ".join(Expr(raw).canonical_name() for raw in plan.to_variant().group_by_exprs())
            if _is_open(groups, frozenset()):
                return False
        elif kind not in _KEEPING_ROWS:
            break
        (plan,) = plan.inputs()
    return not left_open(plan.display_indent(), is_volatile(plan))


def _is_open(text: str, volatile: frozenset[str]) -> bool:
    patterns = (_VOLATILE, _BY_POSITION, _APPROXIMATE, _COLLECTING)
    return any(pattern.search(text) for pattern in patterns) or any(f"{name}(" in text for name in volatile)


def _number(expression: Any) -> int | None:
    text = Expr(expression).canonical_name()
    match = re.fullmatch(r"U?Int64\((\d+)\)", text)
    return int(match.group(1)) if match else None
