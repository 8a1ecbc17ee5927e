"""The plan tree: one immutable node per physical operator.

A node keeps its operator's own message as bytes, without its inputs, so that nodes are values: they compare, hash and
are shared freely. What the bytes mean is the codec's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

UNKNOWN = "unknown"
"""Kind of a node whose operator this version does not know; it is kept whole and never rewritten."""

FILE_SCANS = frozenset({"parquet_scan", "csv_scan", "json_scan", "avro_scan", "arrow_scan"})
"""Kinds of leaves that read files."""


@dataclass(frozen=True, slots=True)
class PlanNode:
    """One operator of a physical plan.

    Attributes:
        kind: Operator name (see :data:`apiary_df.plan.wire.OPERATOR_NUMBERS`), or ``unknown``.
        body: The operator's message without its inputs, encoded.
        children: Its inputs, in the operator's own order (a join's build side first).
    """

    kind: str
    body: bytes
    children: tuple[PlanNode, ...] = ()

    def with_children(self, *children: PlanNode) -> PlanNode:
        """Return this node over other inputs."""
        if children == self.children:
            return self
        return PlanNode(self.kind, self.body, tuple(children))

    def walk(self) -> Iterator[PlanNode]:
        """Yield this node and all below it, parents first, inputs in order."""
        yield self
        for child in self.children:
            yield from child.walk()

    def walk_paths(self, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], PlanNode]]:
        """Yield the same nodes, each with its path: the numbers of the inputs that lead to it.

        Args:
            path: This node's own.
        """
        yield path, self
        for number, child in enumerate(self.children):
            yield from child.walk_paths((*path, number))

    @property
    def is_file_scan(self) -> bool:
        """Whether this is a leaf that reads files."""
        return self.kind in FILE_SCANS


def transform_up(node: PlanNode, change: Callable[[PlanNode], PlanNode]) -> PlanNode:
    """Rebuild a tree from its leaves upwards, replacing each node by ``change`` of it."""
    children = [transform_up(child, change) for child in node.children]
    return change(node.with_children(*children))
