"""Running what is left of a query in one place: the root stage with its unfinished inputs put back into it.

After most aggregations little is left to do, and a stage's round trip would cost more than the work. Which stages are
complete and how much is left is known only while a query runs, so this looks at a stage graph, never at the first plan.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from apiary_df.model import PartialRef
from apiary_df.plan import codec
from apiary_df.plan.stages import ExchangeLeaf, Leaf, ScanLeaf, Stage, StageGraph, Variant
from apiary_df.plan.tree import PlanNode


def remaining_bytes(graph: StageGraph, partials: Mapping[int, Sequence[PartialRef]]) -> int:
    """Return the bytes that the stages which are not complete have still to read, the root among them.

    Args:
        graph: All stages.
        partials: What complete stages committed.
    """
    total = 0
    for stage in graph.stages:
        if stage.stage in partials:
            continue
        for leaf in stage.leaves:
            if isinstance(leaf, ScanLeaf):
                total += sum(file.size_bytes for file in leaf.files)
            elif leaf.stage in partials:
                total += sum(s.length for p in partials[leaf.stage] for s in p.segments)
    return total


def can_fold(graph: StageGraph, complete: Collection[int]) -> bool:
    """Whether all that is left can be done as one root.

    It cannot where an operator rests on the order within each partition of a shuffle: the root reads them all.

    Args:
        graph: All stages.
        complete: Stages whose partials are to be read.
    """
    return not any(stage.rests_on_partition_order for stage in graph.stages if stage.stage not in complete)


def fold(graph: StageGraph, complete: Collection[int]) -> Stage:
    """Return a root stage that does all that is left to do.

    Args:
        graph: All stages.
        complete: Stages whose partials are to be read; the others are put into the root.
    """
    folder = _Folder(graph, complete)
    tree = folder.tree(graph.root)
    variant = Variant(kind="single", whole=tuple(range(len(folder.leaves))))
    return replace(graph.root, fragment=tree, leaves=tuple(folder.leaves), variants=(variant,), unions=0)


class _Folder:
    def __init__(self, graph: StageGraph, complete: Collection[int]) -> None:
        self._graph = graph
        self._complete = complete
        self.leaves: list[Leaf] = []

    def tree(self, stage: Stage) -> PlanNode:
        leaves = iter(stage.leaves)

        def rebuilt(node: PlanNode) -> PlanNode:
            if not node.is_file_scan:
                return node.with_children(*[rebuilt(child) for child in node.children])
            leaf = next(leaves)
            if isinstance(leaf, ExchangeLeaf) and leaf.stage not in self._complete:
                return self._inlined(self._graph.stages[leaf.stage], merged=leaf.ordered)
            self.leaves.append(leaf)
            return node

        return rebuilt(stage.fragment)

    def _inlined(self, stage: Stage, *, merged: bool) -> PlanNode:
        """Return a stage's plan as one partition; over one partition its shuffle is nothing but a gather.

        Args:
            stage: The stage.
            merged: A merge stands above: partitions that are in order each by itself stay as they are.
        """
        tree = self.tree(stage)
        if stage.output == "hash":
            tree = codec.coalesce(tree.children[0])
        elif stage.in_session and stage.partitions > 1 and not merged:
            tree = codec.coalesce(tree)
        if stage.schema is not None and stage.schema.renamed:
            # What reads the exchange expects the names that its partials would have had.
            tree = codec.rename_projection(tree, stage.schema.names, stage.schema.arrow.names)
        return tree
