"""By which columns rows of a plan lie in its partitions already, since a shuffle further down. Pure reading.

What belongs here: following columns down to the shuffle that dealt their rows out, and what statistics tell of how many
values they have. What does not: what is done about it (:mod:`apiary_df.plan.rules`). Where an operator is not known
well enough, the answer is that nothing is known of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from apiary_df.plan import codec
from apiary_df.plan.columns import Column, by_input, holding
from apiary_df.plan.tree import PlanNode

_IN_PLACE = frozenset({"projection", "filter", "aggregate", "coalesce_batches", "cooperative", "buffer", "local_limit"})
"""Operators of one input that leave rows in the partition in which it had them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Rows lie in their partitions by the hash of some of the columns that were asked about.

    Attributes:
        positions: Which of these columns, in the order in which they are hashed.
        shuffle: The shuffle that hashed them.
    """

    positions: tuple[int, ...]
    shuffle: PlanNode

    def is_of_all(self, columns: int) -> bool:
        """Whether rows lie by all of the columns that were asked about, of which there are so many."""
        return len(set(self.positions)) == columns

    def is_as_asked(self, columns: int) -> bool:
        """Whether they lie where a shuffle by just these columns, of which there are so many, would put them."""
        return self.positions == tuple(range(columns))

    def values(self) -> int | None:
        """Return how many values the columns may have, by statistics: what that one has which has most.

        None if they tell nothing. Scans are decoded for that, with all of their files.
        """
        hashing = codec.hash_of_repartition(self.shuffle)
        assert hashing is not None
        columns = (_column(key) for key in hashing[0])
        known = (_values(self.shuffle.children[0], column) for column in columns if column is not None)
        return max((values for values in known if values is not None), default=None)


def placement(node: PlanNode, keys: Sequence[bytes], partitions: int) -> Placement | None:
    """Return by which of some expressions the rows of a plan lie in its partitions.

    Args:
        node: The plan.
        keys: Expressions over its output; only columns are followed.
        partitions: How many partitions it should have been dealt out to.

    Returns:
        None if they lie otherwise, by other columns as well, or in ways that cannot be told.
    """
    columns = {position: column for position, key in enumerate(keys) if (column := _column(key)) is not None}
    return _placed(node, columns, partitions)


def _column(expression: bytes) -> Column | None:
    found = codec.column_of(expression)
    return None if found is None else Column(*found)


def _placed(node: PlanNode, columns: Mapping[int, Column], partitions: int) -> Placement | None:
    hashing = codec.hash_of_repartition(node)
    if hashing is not None:
        return _of_shuffle(node, hashing[0], columns) if hashing[1] == partitions else None
    below = by_input(columns, lambda column: holding(node, column))
    for number in _inputs_in_place(node):
        if number in below:
            found = _placed(node.children[number], below[number], partitions)
            if found is not None:
                return found
    return None


def _inputs_in_place(node: PlanNode) -> tuple[int, ...]:
    """Return the inputs of an operator whose rows it hands on in the partitions in which it was given them."""
    if node.kind in _IN_PLACE:
        return (0,)
    if node.kind == "sort":
        return (0,) if codec.fields_of(node).preserve_partitioning else ()
    if node.kind == "hash_join":
        # Of a side that may be missing from a row, no column is followed.
        return {codec.PARTITIONED: (0, 1), codec.COLLECT_LEFT: (1,)}.get(codec.fields_of(node).partition_mode, ())
    return ()


def _of_shuffle(shuffle: PlanNode, hashed: Sequence[bytes], columns: Mapping[int, Column]) -> Placement | None:
    positions: list[int] = []
    for number, column in enumerate(map(_column, hashed)):
        same = [position for position, asked in columns.items() if column is not None and asked.index == column.index]
        if column is None or not same:
            return None
        positions.append(number if number in same else same[0])
    return Placement(positions=tuple(positions), shuffle=shuffle) if positions else None


def _values(node: PlanNode, column: Column) -> int | None:
    """Return how many values a column may have at most, by the statistics of tables that hold them all; None: any."""
    if node.is_file_scan:
        return codec.scan_values(node, column.index)
    known = (_values(node.children[number], below) for number, below in holding(node, column))
    return min((values for values in known if values is not None), default=None)
