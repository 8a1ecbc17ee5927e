"""Rule: what a partitioned window takes for ordered is sorted where the window can see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from apiary_df.errors import PlanError
from apiary_df.plan import codec
from apiary_df.plan.operators import has_build_side, partition_count
from apiary_df.plan.rules.options import RewriteOptions
from apiary_df.plan.tree import PlanNode

_KEEPING_COLUMNS_AND_ORDER = frozenset(
    {"window", "filter", "coalesce_batches", "cooperative", "buffer", "local_limit", "global_limit"}
)
"""Operators whose output is in the order of their input, with the same columns in front."""

_JOINS_IN_PROBE_ORDER = frozenset({"hash_join", "cross_join", "nested_loop_join"})
"""Joins that give rows in the order of their probe side, under other column numbers."""

_MAKING_NO_ORDER = _KEEPING_COLUMNS_AND_ORDER | _JOINS_IN_PROBE_ORDER | {"projection", "aggregate", "unnest", "union"}
"""Operators whose output has no order unless one of their inputs has."""

_EXCHANGES = frozenset({"repartition", "coalesce_partitions", "sort_preserving_merge"})
"""Operators below which a window sees nothing."""

_NO_FETCH = -1
"""What a sort's limit is if it has none."""


class _Order(NamedTuple):
    """What can be seen of the order of a plan's rows.

    Attributes:
        keys: The sort keys; None if there may be others, or if none can be seen.
        shuffled: They come in that order through a shuffle.
        hidden: They come in an order that is made below a join, which only the whole plan tells.
    """

    keys: Sequence[bytes] | None
    shuffled: bool = False
    hidden: bool = False


def spell_out_partition_order(plan: PlanNode, _options: RewriteOptions) -> PlanNode:
    """Sort below a window by all of its partition keys, where the plan relies on what a task would not see.

    A window wants its input in order of its partition keys. DataFusion leaves keys out of the sort that it knows to be
    constant, or equal to others, by what lies further down (``WHERE k = 1``, one column under two names), and the whole
    sort if rows come in order through a shuffle or a join. A task sees but its own fragment, not what lies below an
    exchange, and there the window would refuse its input. Missing keys are put where they change nothing: behind the
    keys that lead, in the direction of what follows.

    Raises:
        PlanError: If the window's input is in an order that cannot be seen, and something above relies on it, too.
    """
    # Rows of several partitions are in no order for whoever reads them.
    return _changed(plan, order_matters=partition_count(plan) == 1)


def _changed(node: PlanNode, order_matters: bool) -> PlanNode:
    children = [_changed(child, _matters_below(node, i, order_matters)) for i, child in enumerate(node.children)]
    if node.kind == "window" and any(below.kind in _EXCHANGES for below in node.walk()):
        keys = _missing_order(node, order_matters)
        if keys is not None:
            return node.with_children(_sorted(children[0], keys))
    return node.with_children(*children)


def _matters_below(node: PlanNode, number: int, order_matters: bool) -> bool:
    """Whether the order of an input may matter to anything but a window, which is seen to by itself."""
    if node.kind in {"sort_preserving_merge", "sort_merge_join"}:
        return True
    if node.kind in {"sort", "coalesce_partitions"}:
        return False
    if node.kind == "repartition":
        return order_matters and partition_count(node.children[0]) == 1
    return order_matters and not (number == 0 and (has_build_side(node) or node.kind == "hash_join"))


def _missing_order(window: PlanNode, order_matters: bool) -> Sequence[bytes] | None:
    """Return the keys that a window's input has to be sorted by where the window can see it; None if it is."""
    wanted = [codec.normal_expr(key) for key in codec.window_partition_keys(window)]
    order = _order_of(window.children[0])
    if order.keys is None:
        if wanted and not order_matters:
            return _own_order(wanted, codec.window_order(window))
        if wanted and (order.hidden or order.shuffled):
            raise PlanError("a window, and what is above it, rely on an order that is made below a join or a shuffle")
        return None
    keys = [codec.normal_expr(codec.sort_key(each)) for each in order.keys]
    leading = next((i for i, key in enumerate(keys) if key not in wanted), len(keys))
    missing = [key for key in dict.fromkeys(wanted) if key not in keys[:leading]]
    if not missing and not (wanted and order.shuffled):
        return None
    model = order.keys[min(leading, len(keys) - 1)] if keys else None
    rest = [each for each, key in zip(order.keys[leading:], keys[leading:], strict=True) if key not in missing]
    return [*order.keys[:leading], *(codec.sort_like(model, key) for key in missing), *rest]


def _own_order(partition_keys: Sequence[bytes], order_by: Sequence[bytes]) -> Sequence[bytes]:
    """Return the order that a window asks for by itself."""
    ordered = {codec.normal_expr(codec.sort_key(each)): each for each in order_by}
    leading = dict.fromkeys(partition_keys)
    spelled = [ordered.get(key) or codec.sort_like(None, key) for key in leading]
    return [*spelled, *(each for key, each in ordered.items() if key not in leading)]


def _order_of(node: PlanNode) -> _Order:
    shuffled = False
    while True:
        if node.kind in {"sort", "sort_preserving_merge"}:
            return _Order(tuple(codec.fields_of(node).expr), shuffled)
        if node.kind == "repartition" and partition_count(node.children[0]) == 1:
            shuffled = True
        elif node.kind not in _KEEPING_COLUMNS_AND_ORDER:
            if _has_no_order(node):
                # What needs an order of rows that have none, needs it of constants.
                return _Order((), shuffled)
            return _Order(None, shuffled, hidden=node.kind in _JOINS_IN_PROBE_ORDER)
        node = node.children[0]


def _has_no_order(node: PlanNode) -> bool:
    """Whether the rows of a plan certainly are in no order: they come unordered, and nothing puts them into one."""
    if node.kind in {"repartition", "coalesce_partitions"}:
        return partition_count(node.children[0]) > 1 or _has_no_order(node.children[0])
    if node.is_file_scan:
        return not codec.scan_conf(node).output_ordering
    return node.kind in _MAKING_NO_ORDER and all(_has_no_order(child) for child in node.children)


def _sorted(child: PlanNode, keys: Sequence[bytes]) -> PlanNode:
    if child.kind == "sort":
        return codec.replace(child, expr=keys)
    return codec.build("sort", child, expr=list(keys), fetch=_NO_FETCH, preserve_partitioning=True)
