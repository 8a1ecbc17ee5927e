"""Where a column of a plan comes from, operator by operator: what holds all of its values, and what may be filtered.

Both are questions about one operator and its inputs, asked of columns by position. Where an operator is not known well
enough, the answer is that nothing is: a caller then does less, and never something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from apiary_df.plan import codec
from apiary_df.plan.operators import is_null_aware, join_type
from apiary_df.plan.tree import PlanNode

_PASSING = frozenset({"repartition", "coalesce_batches", "cooperative", "buffer"})
"""Operators whose rows are those of their input, column by column."""

_LEFT_ROWS = frozenset({"Inner", "Left", "LeftSemi", "LeftAnti", "LeftMark"})
_RIGHT_ROWS = frozenset({"Inner", "Right", "RightSemi", "RightAnti", "RightMark"})
"""Join types by the side whose rows are handed on as they are, or not at all."""

_MATCHED = frozenset({"Inner", "LeftSemi", "RightSemi"})
"""Join types that hand on no row without a partner: a key of one side is then one of the other as well."""

_BOTH_SIDES = frozenset({"Inner", "Left", "Right", "Full"})
"""Join types whose rows have the columns of both sides."""


@dataclass(frozen=True, slots=True, order=True)
class Column:
    """A column of a plan's output.

    Attributes:
        index: Its position.
        name: Its name there, which DataFusion checks beside the position.
    """

    index: int
    name: str


Step = tuple[int, Column]
"""An input of an operator, by number, and one of its columns."""


def is_passing(node: PlanNode) -> bool:
    """Whether an operator hands on all rows of its one input, with the same columns."""
    if node.kind in {"coalesce_partitions", "sort_preserving_merge", "sort"}:
        return not _has_limit(node)
    return node.kind in _PASSING and not (node.kind == "coalesce_batches" and _has_limit(node))


def _has_limit(node: PlanNode) -> bool:
    fields = codec.fields_of(node)
    return bool(fields.HasField("fetch")) and fields.fetch >= 0


def filtered_through(node: PlanNode, column: Column) -> tuple[Step, ...]:
    """Return the inputs that may lose rows by a column, if the node's output is to lose rows by one of its own.

    Whatever values are kept: an output row with one of them is the same, and there, whether or not an input has lost
    its rows with other values.

    Args:
        node: The operator.
        column: A column of its output.
    """
    if is_passing(node):
        return ((0, column),)
    if node.kind == "projection":
        return _through_expressions(codec.fields_of(node).expr, column)
    if node.kind == "filter":
        return () if codec.fields_of(node).HasField("fetch") else _through_filter(node, column)
    if node.kind == "aggregate":
        return _through_groups(node, column)
    if node.kind == "hash_join":
        return _through_join(node, column, matched_only=False)
    return ()


def holding(node: PlanNode, column: Column) -> tuple[Step, ...]:
    """Return columns of inputs that hold every value which a column of a node's output has.

    Where one input is named for several columns, it holds their values together: row by row.

    Args:
        node: The operator.
        column: A column of its output.
    """
    if node.kind in {"coalesce_partitions", "sort_preserving_merge", "sort", "local_limit", "global_limit"}:
        return ((0, column),)
    if node.kind == "filter":
        return _through_filter(node, column)
    if node.kind == "hash_join":
        return _through_join(node, column, matched_only=True)
    return filtered_through(node, column)


def by_input(keys: Mapping[int, Column], steps: Callable[[Column], tuple[Step, ...]]) -> dict[int, dict[int, Column]]:
    """Return, by input of an operator, the columns that some of its output come from.

    Args:
        keys: Columns of its output, by what the caller knows them by.
        steps: Tells from which inputs such a column comes.
    """
    found: dict[int, dict[int, Column]] = {}
    for key, column in keys.items():
        for number, below in steps(column):
            found.setdefault(number, {}).setdefault(key, below)
    return found


def _through_expressions(expressions: Sequence[bytes], column: Column) -> tuple[Step, ...]:
    inner = codec.column_of(expressions[column.index]) if column.index < len(expressions) else None
    return () if inner is None else ((0, Column(*inner)),)


def _through_filter(node: PlanNode, column: Column) -> tuple[Step, ...]:
    index = _projected(list(codec.fields_of(node).projection), column.index)
    return () if index is None else ((0, Column(index, column.name)),)


def _projected(projection: list[int], index: int) -> int | None:
    if not projection:
        return index
    return projection[index] if index < len(projection) else None


def _through_groups(node: PlanNode, column: Column) -> tuple[Step, ...]:
    fields = codec.fields_of(node)
    # A limit may take any groups; of several grouping sets, some leave the key out.
    if fields.HasField("limit") or any(fields.groups):
        return ()
    return _through_expressions(fields.group_expr, column)


def _through_join(node: PlanNode, column: Column, *, matched_only: bool) -> tuple[Step, ...]:
    """Return the sides that a join's output column comes from, itself or as the key that is equal to it.

    Args:
        node: A hash join.
        column: A column of its output.
        matched_only: Keys of the other side count only if every row has a partner.
    """
    kind = join_type(node)
    place = _side_of(node, column)
    if place is None or is_null_aware(node):
        return ()
    side, own = place
    if kind not in (_LEFT_ROWS, _RIGHT_ROWS)[side]:
        return ()
    steps: list[Step] = [place]
    if kind in _MATCHED or not matched_only:
        for pair in codec.fields_of(node).on:
            keys = (codec.column_of(pair.left), codec.column_of(pair.right))
            mine, other = keys[side], keys[1 - side]
            if mine is not None and other is not None and mine[0] == own.index:
                steps.append((1 - side, Column(*other)))
    return tuple(steps)


def _side_of(node: PlanNode, column: Column) -> Step | None:
    """Return from which side of a join a column of its output comes; None if that cannot be told."""
    index = _projected(list(codec.fields_of(node).projection), column.index)
    if index is None:
        return None
    kind = join_type(node)
    if kind in _BOTH_SIDES:
        left = width(node.children[0])
        if left is None:
            return None
        return (0, Column(index, column.name)) if index < left else (1, Column(index - left, column.name))
    side = 0 if kind.startswith("Left") else 1
    if kind.endswith("Mark"):
        own = width(node.children[side])
        if own is None or index >= own:
            return None
    return (side, Column(index, column.name))


def width(node: PlanNode) -> int | None:
    """Return how many columns a plan's output has; None if that cannot be told."""
    if node.is_file_scan:
        return codec.scan_width(node)
    if node.kind in {*_PASSING, "coalesce_partitions", "sort_preserving_merge", "sort", "local_limit", "global_limit"}:
        return width(node.children[0])
    counted = _WIDTHS.get(node.kind)
    return None if counted is None else counted(node)


def _width_of_filter(node: PlanNode) -> int | None:
    return len(codec.fields_of(node).projection) or width(node.children[0])


def _width_of_aggregate(node: PlanNode) -> int | None:
    fields = codec.fields_of(node)
    if fields.mode in {codec.PARTIAL, codec.PARTIAL_REDUCE} and fields.aggr_expr:
        return None  # states of several columns each
    if len(fields.groups) > len(fields.group_expr):
        return None  # several grouping sets, told apart by a column more
    return len(fields.group_expr) + len(fields.aggr_expr)


def _width_of_join(node: PlanNode) -> int | None:
    fields = codec.fields_of(node)
    if fields.projection:
        return len(fields.projection)
    left, right = (width(child) for child in node.children)
    kind = join_type(node)
    if kind in _BOTH_SIDES:
        return None if left is None or right is None else left + right
    own = left if kind.startswith("Left") else right
    return None if own is None else own + kind.endswith("Mark")


_WIDTHS: dict[str, Callable[[PlanNode], int | None]] = {
    "projection": lambda node: len(codec.fields_of(node).expr),
    "filter": _width_of_filter,
    "aggregate": _width_of_aggregate,
    "hash_join": _width_of_join,
}
