"""Dealing out the rows of a partition that is far larger than its siblings.

A key that most rows have brings them all into one partition of a shuffle, and into one task, which works while all
others have long ended. Once the sizes are known, the segments of one input of such a partition are dealt out to
several tasks, each of which reads all of the partition's other inputs.

That is right where the fragment makes of a share of those rows a share of what it makes of all of them, whatever the
share: every operator that they pass must take any share of rows, and every join on their way must let each of them fare
by itself. What meets them there is made in each of the tasks, so it must come out the same each time. Whoever needs all
rows of a key (a final aggregate, a window) needs them in one task, and its partition stays whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median_low

from apiary_df.adapt.dependencies import committed_bytes
from apiary_df.config import Settings
from apiary_df.model import PartialRef, SegmentRef
from apiary_df.plan.classes import Needs, classify
from apiary_df.plan.operators import join_type
from apiary_df.plan.repeatable import why_it_differs
from apiary_df.plan.stages import ExchangeLeaf, ScanLeaf, Stage, Variant
from apiary_df.plan.tree import PlanNode
from apiary_df.units import format_bytes

_FARING_ALONE = (
    frozenset({"Inner", "Left", "LeftSemi", "LeftAnti", "LeftMark"}),
    frozenset({"Inner", "Right", "RightSemi", "RightAnti", "RightMark"}),
)
"""By number of a join's input: types in which what becomes of each of its rows depends on the other input alone, and
nothing becomes of the other input's rows for themselves."""

_JOINS = frozenset({"hash_join", "sort_merge_join", "nested_loop_join", "cross_join"})

_SHOWN = 3
"""Partitions of a stage that are told of one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkewOptions:
    """When rows of a partition are dealt out.

    Attributes:
        factor: How many times as many bytes it has as the median of the stage's partitions; 0: never.
        from_bytes: Bytes that it has more than.
        least_own: How many times as many bytes of its own each of its tasks reads as it shares with the others of them.
    """

    factor: float
    from_bytes: int
    least_own: float = 1.0

    @classmethod
    def of(cls, settings: Settings) -> SkewOptions:
        """Return the options that a session's settings give."""
        return cls(factor=settings.skew_factor, from_bytes=settings.skew_from_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkewedPartition:
    """A partition that is far larger than its siblings.

    Attributes:
        partition: Its number.
        size_bytes: Bytes of all inputs that tasks share out by partitions.
        median_bytes: The same of the median of the stage's partitions.
        leaf: The input that has most of these.
        parts: That input's segments, for each task; none if the partition stays one task.
        why: Why it does; empty if it does not.
    """

    partition: int
    size_bytes: int
    median_bytes: int
    leaf: int
    parts: tuple[tuple[SegmentRef, ...], ...] = field(default=(), repr=False)
    why: str = ""


Skewed = Mapping[Variant, Sequence[SkewedPartition]]
"""Partitions that are far larger than their siblings, by the way in which their stage is run."""


def skewed_partitions(
    stage: Stage, partials: Mapping[int, Sequence[PartialRef]], bees: int, options: SkewOptions
) -> Skewed:
    """Return the skewed partitions of a stage, and what each task is to read of those that are dealt out.

    Args:
        stage: The stage; all stages that it reads are complete.
        partials: What they committed.
        bees: Bees that may take its tasks: more parts than that would only read more.
        options: When rows are dealt out.
    """
    if not options.factor or bees < 2 or stage.combines:
        return {}
    found: dict[Variant, Sequence[SkewedPartition]] = {}
    for variant in stage.variants:
        if variant.kind == "hash" and _may_be_skewed(stage, variant, partials, options):
            skewed = _Sizes(stage, variant, partials).skewed(bees, options)
            if skewed:
                found[variant] = skewed
    return found


def _may_be_skewed(
    stage: Stage, variant: Variant, partials: Mapping[int, Sequence[PartialRef]], options: SkewOptions
) -> bool:
    """Whether all partitions together are large enough; of most stages nothing else need be looked at."""
    whole = (ref.length for leaf in _exchanges(stage, variant.split).values() for ref in partials[leaf.stage])
    return variant.partitions > 1 and sum(whole) > options.from_bytes


def _exchanges(stage: Stage, leaves: Sequence[int]) -> dict[int, ExchangeLeaf]:
    found = ((number, stage.leaves[number]) for number in leaves)
    return {number: leaf for number, leaf in found if isinstance(leaf, ExchangeLeaf)}


class _Sizes:
    """Bytes of the partitions of a stage that is run in one way."""

    def __init__(self, stage: Stage, variant: Variant, partials: Mapping[int, Sequence[PartialRef]]) -> None:
        self._stage = stage
        self._variant = variant
        self._partials = partials
        self._leaves = _exchanges(stage, variant.split)
        self._by_leaf = {number: [0] * variant.partitions for number in self._leaves}
        for number, leaf in self._leaves.items():
            for ref in partials[leaf.stage]:
                for segment in ref.segments:
                    self._by_leaf[number][segment.partition] += segment.length

    def skewed(self, bees: int, options: SkewOptions) -> list[SkewedPartition]:
        in_all = [sum(sizes) for sizes in zip(*self._by_leaf.values(), strict=True)]
        # Of two partitions the smaller: they could not differ much from a value between them.
        median = median_low(in_all)
        return [
            self._dealt(partition, size, median, bees, options)
            for partition, size in enumerate(in_all)
            if size > options.from_bytes and size > median * options.factor
        ]

    def _dealt(self, partition: int, size: int, median: int, bees: int, options: SkewOptions) -> SkewedPartition:
        # The largest input: whichever else were dealt out, each task would read more of this one than of its own.
        leaf = max(self._leaves, key=lambda number: (self._by_leaf[number][partition], -number))
        skewed = SkewedPartition(partition=partition, size_bytes=size, median_bytes=median, leaf=leaf)
        why = why_not_dealt(self._stage, self._variant, leaf)
        if why is not None:
            return _whole(skewed, why)
        own = self._by_leaf[leaf][partition]
        shared = size - own + self._read_by_each()
        most = own if not shared * options.least_own else int(own / (shared * options.least_own))
        if most < 2:
            told = f"{format_bytes(shared)} of its other inputs would be read by each of several tasks"
            return _whole(skewed, f"{told}, for {format_bytes(own)} to be shared out")
        wanted = max(2, -(-size // max(1, median, options.from_bytes)))
        parts = deal(self._segments(leaf, partition), min(bees, wanted, most))
        if len(parts) < 2:
            return _whole(skewed, "what is to be shared out lies in one piece")
        return replace(skewed, parts=tuple(map(tuple, parts)))

    def _segments(self, leaf: int, partition: int) -> list[SegmentRef]:
        return [
            ref.segment_ref(segment)
            for ref in self._partials[self._leaves[leaf].stage]
            for segment in ref.segments
            if segment.partition == partition and segment.rows
        ]

    def _read_by_each(self) -> int:
        """Return the bytes that each task of the stage reads, whatever its share."""
        whole = [self._stage.leaves[number] for number in self._variant.whole]
        files = sum(file.size_bytes for leaf in whole if isinstance(leaf, ScanLeaf) for file in leaf.files)
        stages = (leaf.stage for leaf in whole if isinstance(leaf, ExchangeLeaf))
        return files + sum(committed_bytes(self._partials[stage]) for stage in stages)


def _whole(skewed: SkewedPartition, why: str) -> SkewedPartition:
    return replace(skewed, why=f"{_told_size(skewed)} and stays one task: {why}")


def deal(segments: Sequence[SegmentRef], parts: int) -> list[list[SegmentRef]]:
    """Cut segments into at most so many stretches of about the same bytes; none is empty, and the order stays.

    Args:
        segments: What is read, in the order in which it lies.
        parts: How many stretches there are to be, >= 1.
    """
    total = sum(ref.segment.length for ref in segments)
    dealt: list[list[SegmentRef]] = [[] for _ in range(parts)]
    before = 0
    for ref in segments:
        # A segment goes to the stretch in which its middle lies.
        middle = before + ref.segment.length / 2
        dealt[min(parts - 1, int(middle * parts / total))].append(ref)
        before += ref.segment.length
    return [part for part in dealt if part]


# -- where it is right -----------------------------------------------------------------------------------------------


def why_not_dealt(stage: Stage, variant: Variant, leaf: int) -> str | None:
    """Return why the rows of one input must not be dealt out to tasks that each read all others; None if they may.

    Args:
        stage: The stage.
        variant: The way in which it is run.
        leaf: Number of the input among the stage's leaves; tasks share it by partitions.
    """
    if stage.rests_on_partition_order:
        return "its rows come in an order that an operator rests on"
    following = _Following(variant, leaf)
    following.is_share(stage.fragment)
    return following.why


class _Following:
    """Follows the rows of one leaf up a fragment.

    Attributes:
        why: Why a share of them does not become a share of what the fragment makes; None if it does, so far.
    """

    def __init__(self, variant: Variant, leaf: int) -> None:
        self.why: str | None = None
        self._leaf = leaf
        self._choices = dict(variant.choices)
        self._next_leaf = 0
        self._next_union = 0

    def is_share(self, node: PlanNode) -> bool:
        """Whether an operator gives a share of its rows; if not, it gives the same in each of the tasks."""
        if node.is_file_scan:
            self._next_leaf += 1
            return self._next_leaf - 1 == self._leaf
        shares = [self.is_share(child) for child in node.children]
        active = None
        if node.kind == "union":
            active = self._choices.get(self._next_union)
            self._next_union += 1
        if not any(shares):
            return False
        if self.why is None:
            self.why = self._why_not(node, shares.index(True), active)
        return True

    def _why_not(self, node: PlanNode, number: int, active: int | None) -> str | None:
        """Return why an operator must not be given a share of the rows of one of its inputs; None if it may be."""
        found = classify(node)
        if node.kind == "union":
            return None if active == number else f"{found.name}: rows of its other inputs would be in each of the tasks"
        if len(node.children) == 1:
            return None if found.needs is Needs.SHARE else found.why
        if node.kind not in _JOINS or found.needs not in {Needs.KEY, Needs.BUILD}:
            return found.why
        if found.needs is Needs.BUILD and number == 0:
            return found.why
        kind = join_type(node)
        if kind not in _FARING_ALONE[number]:
            return f"{found.operator}, join_type={kind}: which rows of the other input found a partner is for one task"
        # As of merged inputs: how rows that compare equal are sorted depends on what is spilled, which may differ.
        differs = why_it_differs(node.children[1 - number], merged=True)
        return None if differs is None else f"{differs}, and each task would have rows of its own to join with"


# -- words -----------------------------------------------------------------------------------------------------------


def _told_size(skewed: SkewedPartition) -> str:
    sizes = f"{format_bytes(skewed.size_bytes)}, the median {format_bytes(skewed.median_bytes)}"
    return f"partition {skewed.partition} has {sizes},"


def told(stage: Stage, skewed: Skewed) -> str:
    """Return what is done about the skewed partitions of a stage; empty if nothing is."""
    texts = [
        f"{_told_size(found)} and is read by {len(found.parts)} tasks: each has a share of its rows of stage "
        f"{_producer(stage, found.leaf)}, and all of its others"
        for several in skewed.values()
        for found in several
        if found.parts
    ]
    more = f"; and so are {len(texts) - _SHOWN} partitions more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more


def _producer(stage: Stage, leaf: int) -> int:
    read = stage.leaves[leaf]
    assert isinstance(read, ExchangeLeaf)
    return read.stage
