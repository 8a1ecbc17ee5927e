"""Whether a subtree gives the same rows each time it is run. What does not must be run once.

Every task of a join that collects its build side has all of that side. What each computes for itself must be the same
rows; otherwise the tasks' results do not fit together, and the answer is one that SQL does not allow. Rows differ
through functions that are not determined by their arguments, and through choices among rows that come in no fixed
order.
"""

from __future__ import annotations

from apiary_df.plan import codec
from apiary_df.plan.operators import partition_count
from apiary_df.plan.tree import UNKNOWN, PlanNode

VOLATILE_FUNCTIONS = frozenset({"random", "uuid"})
"""Functions of DataFusion that give another value for every row.

Those that give one value a query (``now`` and its kin) are replaced by it before there is a physical plan; those about
the file of a row (``input_file_name``, ``file_row_index``) give the same to every reader.
"""

ORDER_FREE_AGGREGATES = frozenset(
    {
        "approx_distinct", "avg", "bit_and", "bit_or", "bit_xor", "bool_and", "bool_or", "corr", "count", "covar_pop",
        "covar_samp", "grouping", "max", "median", "min", "stddev", "stddev_pop", "sum", "var", "var_pop", "var_samp",
    }
)  # fmt: skip
"""Aggregate functions whose result does not depend on the order of rows (but for the last digits of floats)."""

_FETCHING = frozenset({"coalesce_partitions", "filter", "coalesce_batches", "memory_scan"})
"""Operators that choose rows when a ``fetch`` is given."""


def why_it_differs(subtree: PlanNode, *, merged: bool = False) -> str | None:
    """Return why two runs of a subtree may give different rows; None if they give the same.

    Args:
        subtree: A plan, whose scans may be templates of one file group.
        merged: Some of its scans will get several groups, which are merged.
    """
    nodes = list(subtree.walk())
    for node in nodes:
        reason = _volatile(node) or _choice(node)
        if reason is not None:
            return reason
    if not merged and all(partition_count(node) == 1 for node in nodes):
        # Rows come in one order, that of the files.
        return None
    return next((reason for node in nodes if (reason := _order_matters(node)) is not None), None)


def _volatile(node: PlanNode) -> str | None:
    if node.kind == UNKNOWN:
        return f"what {codec.unknown_name(node)} gives is not known"
    for _, name, defined in codec.calls_of(node):
        if not name:
            return f"a {node.kind} holds an expression that cannot be looked into"
        if name in VOLATILE_FUNCTIONS:
            return f"{name}() gives another value each time"
        if defined:
            return f"the function {name}() may give another value each time"
    return None


def _choice(node: PlanNode) -> str | None:
    chooses = f"which rows a {node.kind} takes is not fixed"
    if node.kind in {"global_limit", "local_limit"}:
        return chooses
    fields = codec.fields_of(node)
    if node.kind in _FETCHING and fields.HasField("fetch"):
        return chooses
    if node.kind in {"sort", "sort_preserving_merge"} and fields.fetch >= 0 and fields.HasField("fetch"):
        return chooses
    if node.kind == "aggregate" and fields.HasField("limit"):
        return chooses
    if node.is_file_scan and fields.base_conf.HasField("limit"):
        return chooses
    return None


def _order_matters(node: PlanNode) -> str | None:
    if node.kind == "window":
        return "a window numbers rows that come in no fixed order"
    calls = [name for kind, name, _ in codec.calls_of(node) if kind == "AggregateCall"]
    unordered = [name for name in calls if name not in ORDER_FREE_AGGREGATES]
    return f"{unordered[0]}() depends on the order in which rows come" if unordered else None
