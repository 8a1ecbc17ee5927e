"""Running what is left of a query in one place: the root stage with its unfinished inputs put back into it.

After most aggregations little is left to do, and a stage's round trip would cost more than the work. Which stages are
complete and how much is left is known only while a query runs, so this looks at a stage graph, never at the first plan.

A fragment may be run over any partitions of its shuffles, so what several tasks would have done may as well be done in
several partitions of one plan, in *parts*: part i of N has each partition whose number modulo N is i. DataFusion puts a
row into a partition by its hash modulo their number, so a shuffle that is made here puts it into the same part, if N
divides the number of partitions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd

from apiary_df.config import Settings
from apiary_df.model import PartialRef
from apiary_df.plan import codec
from apiary_df.plan.parts import why_not_in_parts
from apiary_df.plan.stages import ExchangeLeaf, Leaf, ScanLeaf, Stage, StageGraph, Variant
from apiary_df.plan.tree import PlanNode
from apiary_df.units import format_bytes

MOST_PARTS_A_THREAD = 4
"""Where no number of parts is near that of the threads: up to so many more are better than one thread alone."""


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


def fold(graph: StageGraph, complete: Collection[int], *, parts: int = 1) -> Stage:
    """Return a root stage that does all that is left to do.

    Args:
        graph: All stages.
        complete: Stages whose partials are to be read; the others are put into the root.
        parts: What stages would do by partitions of a shuffle is done in so many partitions of the root: a divisor of
            the partitions of each of these shuffles.
    """
    folder = _Folder(graph, complete, parts)
    tree = folder.tree(graph.root)
    variant = Variant(kind="single", whole=tuple(range(len(folder.leaves))))
    return replace(graph.root, fragment=tree, leaves=tuple(folder.leaves), variants=(variant,), unions=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldOptions:
    """In how many threads all that is left is done.

    Attributes:
        threads: At most so many, >= 1.
        part_bytes: Each has at least so many bytes of shuffles to read; 0: however few.
    """

    threads: int
    part_bytes: int

    @classmethod
    def of(cls, settings: Settings, cores: int) -> FoldOptions:
        """Return the options that a session's settings give, on a machine with so many cores."""
        return cls(threads=settings.finish_here_threads or cores, part_bytes=settings.finish_here_part_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """A root that does all that is left.

    Attributes:
        root: The stage.
        parts: In how many partitions it reads shuffles, each in a thread of its own.
        why: In how many, and why, as text.
    """

    root: Stage
    parts: int
    why: str


def fold_in_parts(graph: StageGraph, partials: Mapping[int, Sequence[PartialRef]], options: FoldOptions) -> Folded:
    """Return a root stage that does all that is left to do, in several threads if that is right and pays.

    Args:
        graph: All stages.
        partials: What complete stages committed.
        options: How many threads it may keep busy.
    """

    def whole(why: str) -> Folded:
        return Folded(root=fold(graph, partials), parts=1, why=f"in one thread: {why}")

    read = [graph.stages[number] for number in _shuffles_read(graph, partials)]
    known = [stage.stage for stage in read if stage.stage in partials]
    size_bytes = sum(s.length for stage in known for p in partials[stage] for s in p.segments)
    threads = min(options.threads, size_bytes // options.part_bytes) if options.part_bytes else options.threads
    if threads < 2:
        few = options.threads < 2
        return whole("there is no other for it" if few else f"it reads {format_bytes(size_bytes)} of shuffles")
    if not read:
        return whole("there is no shuffle in it")
    parts = parts_for(gcd(*(stage.partitions for stage in read)), threads)
    if parts == 1:
        return whole("the partitions of its shuffles cannot be put into a few even parts")
    root = fold(graph, partials, parts=parts)
    problem = why_not_in_parts(root.fragment)
    if problem:
        return whole(problem)
    return Folded(root=root, parts=parts, why=f"in {parts} parts, each in a thread of its own")


def parts_for(partitions: int, threads: int) -> int:
    """Return into how many parts partitions are put: as many as there are threads, or as few more as can be.

    Args:
        partitions: How many there are, >= 1; each part has as many of them.
        threads: Threads to keep busy, >= 1.
    """
    divisors = [n for n in range(1, min(partitions, threads * MOST_PARTS_A_THREAD) + 1) if partitions % n == 0]
    return next((n for n in divisors if n >= threads), divisors[-1])


def _shuffles_read(graph: StageGraph, complete: Collection[int]) -> list[int]:
    """Return the shuffles that the stages which are not complete read by partitions, each once."""
    found: dict[int, None] = {}
    for stage in graph.stages:
        if stage.stage not in complete and not stage.is_left_out:
            found.update((leaf.stage, None) for _, leaf in _leaves_by_partition(stage))
    return list(found)


def _leaves_by_partition(stage: Stage) -> Iterator[tuple[int, ExchangeLeaf]]:
    """Yield number and leaf of each shuffle of which a task of the stage takes some partitions."""
    for variant in stage.variants:
        if variant.kind == "hash":
            for index in variant.split:
                leaf = stage.leaves[index]
                assert isinstance(leaf, ExchangeLeaf)
                yield index, leaf


class _Folder:
    def __init__(self, graph: StageGraph, complete: Collection[int], parts: int) -> None:
        self._graph = graph
        self._complete = complete
        self._parts = parts
        self.leaves: list[Leaf] = []

    def tree(self, stage: Stage) -> PlanNode:
        leaves = enumerate(stage.leaves)
        by_partition = {index for index, _ in _leaves_by_partition(stage)}

        def rebuilt(node: PlanNode) -> PlanNode:
            if not node.is_file_scan:
                return node.with_children(*[rebuilt(child) for child in node.children])
            index, leaf = next(leaves)
            parts = self._parts if index in by_partition else 1
            if isinstance(leaf, ExchangeLeaf) and leaf.stage not in self._complete:
                return self._inlined(self._graph.stages[leaf.stage], merged=leaf.ordered, parts=parts)
            self.leaves.append(leaf)
            return node if parts == 1 else codec.with_scan_groups(node, [[] for _ in range(parts)])

        return rebuilt(stage.fragment)

    def _inlined(self, stage: Stage, *, merged: bool, parts: int) -> PlanNode:
        """Return a stage's plan with as many partitions as its reader takes.

        Args:
            stage: The stage.
            merged: A merge stands above: partitions that are in order each by itself stay as they are.
            parts: Partitions of its shuffle; into one it is nothing but a gather.
        """
        tree = self.tree(stage)
        if stage.output == "hash":
            tree = codec.coalesce(tree.children[0]) if parts == 1 else codec.with_hash_partitions(tree, parts)
        elif stage.in_session and stage.partitions > 1 and not merged:
            tree = codec.coalesce(tree)
        if stage.schema is not None and stage.schema.renamed:
            # What reads the exchange expects the names that its partials would have had.
            tree = codec.rename_projection(tree, stage.schema.names, stage.schema.arrow.names)
        return tree
