"""Rule: rows that lie together since an earlier shuffle are not shuffled again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from apiary_df.plan import codec
from apiary_df.plan.columns import is_passing
from apiary_df.plan.operators import is_null_aware, rests_on_partitioning, source_bytes
from apiary_df.plan.placement import Placement, placement
from apiary_df.plan.rules.options import RewriteOptions
from apiary_df.plan.tree import PlanNode

_ABOVE_SHUFFLES = frozenset({"sort", "coalesce_batches", "cooperative", "buffer"})
"""Operators that may stand between a join and the shuffle of one of its sides, and hand on the same columns."""

_UNKNOWN_VALUES = 1
"""Values that a column is taken to have of which statistics tell nothing."""


def reuse_shuffles(plan: PlanNode, options: RewriteOptions) -> PlanNode:
    """Leave out shuffles of rows that lie together already.

    Rows that were shuffled by ``a`` lie together by ``a, b`` as well: a final aggregate by both needs no other
    shuffle, nor does one side of a join on both, if the other side is shuffled by its partner of ``a`` alone. Where an
    operator above rests on rows lying as another input's do, only shuffles that would move no row are left out.

    What is shuffled by few values comes into few tasks. So by some of an operator's keys it is only where statistics
    let these have ``reuse_from_values`` values for each partition; by all of them, always.

    Of two sides of a join that lie together by different keys, the one stays that lies by all of the join's keys, or
    else the one that is made of more bytes.
    """
    return plan if options.reuse_from_values <= 0 else _changed(plan, options, above=False)


def _changed(node: PlanNode, options: RewriteOptions, *, above: bool) -> PlanNode:
    """Change a subtree; ``above`` says that an operator above rests on the node's rows lying as another input's do."""
    node = node.with_children(
        *(
            _changed(child, options, above=rests_on_partitioning(node, number, above=above))
            for number, child in enumerate(node.children)
        )
    )
    if node.kind == "repartition":
        return _without_shuffle(node, options, above=above)
    if node.kind == "aggregate":
        return _in_one_step(node)
    return node if above else _joined(node, options)


def _without_shuffle(node: PlanNode, options: RewriteOptions, *, above: bool) -> PlanNode:
    hashing = codec.hash_of_repartition(node)
    if hashing is None or codec.keeps_order(node):
        return node
    keys, partitions = hashing
    found = placement(node.children[0], keys, partitions)
    if found is None:
        return node
    needless = found.is_as_asked(len(keys)) or (not above and _spreads(found, len(keys), partitions, options))
    return node.children[0] if needless else node


def _spreads(found: Placement, keys: int, partitions: int, options: RewriteOptions) -> bool:
    """Whether rows lie by all keys, or by some that let them come into all partitions."""
    return found.is_of_all(keys) or (found.values() or _UNKNOWN_VALUES) >= options.reuse_from_values * partitions


# -- joins -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Side:
    """One input of a join that is shuffled for it.

    Attributes:
        input: The input.
        shuffle: The shuffle.
        keys: What the join compares of it.
        found: How its rows lie without the shuffle, if that is good enough.
    """

    input: PlanNode
    shuffle: PlanNode
    keys: tuple[bytes, ...]
    found: Placement | None

    @property
    def preference(self) -> tuple[bool, int]:
        assert self.found is not None
        return self.found.is_of_all(len(self.keys)), source_bytes(self.shuffle)


def _joined(node: PlanNode, options: RewriteOptions) -> PlanNode:
    """Return a join one side of which is not shuffled, and the other one as that lies; or the join as it is."""
    if not _is_shuffled_join(node):
        return node
    on = codec.fields_of(node).on
    left = _side(node.children[0], tuple(pair.left for pair in on), options)
    right = _side(node.children[1], tuple(pair.right for pair in on), options)
    if left is None or right is None or _partitions(left.shuffle) != _partitions(right.shuffle):
        return node
    ways = {side.found.positions: side for side in (left, right) if side.found is not None}
    if not ways:
        return node
    # What a side is made of is asked only if there is a choice: its scans are decoded for that.
    positions = max(ways, key=lambda way: ways[way].preference) if len(ways) > 1 else next(iter(ways))
    inputs = [
        _with_shuffle(side.input, None)
        if side.found is not None and side.found.positions == positions
        else _with_shuffle(side.input, [side.keys[position] for position in positions])
        for side in (left, right)
    ]
    return node.with_children(*inputs)


def _is_shuffled_join(node: PlanNode) -> bool:
    if node.kind == "hash_join":
        return codec.fields_of(node).partition_mode == codec.PARTITIONED and not is_null_aware(node)
    return node.kind == "sort_merge_join"


def _side(input_: PlanNode, keys: tuple[bytes, ...], options: RewriteOptions) -> _Side | None:
    shuffle = input_
    while shuffle.kind in _ABOVE_SHUFFLES and is_passing(shuffle):
        shuffle = shuffle.children[0]
    hashing = codec.hash_of_repartition(shuffle)
    if hashing is None or codec.keeps_order(shuffle):
        return None
    found = placement(shuffle.children[0], keys, hashing[1])
    good = found is not None and _spreads(found, len(keys), hashing[1], options)
    return _Side(input_, shuffle, keys, found if good else None)


def _partitions(shuffle: PlanNode) -> int:
    hashing = codec.hash_of_repartition(shuffle)
    assert hashing is not None
    return hashing[1]


def _with_shuffle(node: PlanNode, keys: list[bytes] | None) -> PlanNode:
    """Return a join's input with its shuffle by other keys, or without it."""
    if node.kind != "repartition":
        return node.with_children(_with_shuffle(node.children[0], keys))
    return node.children[0] if keys is None else codec.hash_repartition(node.children[0], keys, _partitions(node))


# -- aggregates ------------------------------------------------------------------------------------------------------


def _in_one_step(node: PlanNode) -> PlanNode:
    """Return a final aggregate over a partial one, between which nothing is left, as one aggregate."""
    (partial,) = node.children
    if partial.kind != "aggregate":
        return node
    upper, lower = codec.fields_of(node), codec.fields_of(partial)
    if (upper.mode, lower.mode) != (codec.FINAL_PARTITIONED, codec.PARTIAL):
        return node
    groups = [codec.column_of(group) for group in upper.group_expr]
    in_order = all(column is not None and column[0] == number for number, column in enumerate(groups))
    plain = not any((*upper.groups, *lower.groups, upper.HasField("limit"), lower.HasField("limit")))
    if not in_order or not plain or len(groups) != len(lower.group_expr) or upper.aggr_expr != lower.aggr_expr:
        return node
    # The final one's message tells the columns that come out, the partial one's what they are made of.
    taken = {
        name: list(getattr(lower, name)) for name in ("group_expr", "aggr_expr", "null_expr", "groups", "filter_expr")
    }
    return codec.replace(node, *partial.children, mode=codec.SINGLE_PARTITIONED, **taken)


# -- words -----------------------------------------------------------------------------------------------------------


def told(before: PlanNode, after: PlanNode) -> tuple[str, ...]:
    """Return what the rule has done to a plan, a line for each shuffle that is not what it was.

    Args:
        before: The plan that the rule was given.
        after: What it left of it.
    """
    return tuple(_told(before, after))


def _told(before: PlanNode, after: PlanNode) -> Iterator[str]:
    hashing = codec.hash_of_repartition(before)
    if hashing is not None and after.kind != before.kind:
        found = placement(after, *hashing)
        since = (
            "" if found is None else f": they lie by {_names([hashing[0][position] for position in found.positions])}"
        )
        yield f"rows are not shuffled by {_names(hashing[0])}{since} since an earlier shuffle"
        yield from _told(before.children[0], after)
        return
    now = codec.hash_of_repartition(after)
    if hashing is not None and now is not None and now[0] != hashing[0]:
        instead = f"rows are shuffled by {_names(now[0])} instead of {_names(hashing[0])}"
        yield f"{instead}, as those lie that they are joined with"
    if before.kind == after.kind == "aggregate" and codec.fields_of(before).mode != codec.fields_of(after).mode:
        # A shuffle between two aggregates, of which one is left.
        (shuffle,) = before.children
        (partial,) = shuffle.children
        yield from _told(shuffle, partial.with_children(*after.children))
        return
    for old, new in zip(before.children, after.children, strict=True):
        yield from _told(old, new)


def _names(keys: Sequence[bytes]) -> str:
    columns = map(codec.column_of, keys)
    return ", ".join("an expression" if column is None else column[1] for column in columns)
