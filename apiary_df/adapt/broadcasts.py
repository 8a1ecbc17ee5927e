"""Joining rows where they are made, with all of a small side of their join, instead of shuffling them to it.

A join whose sides are both shuffled needs that if both are large. Once the side that is built into a table is complete
and came out small, the rows of the other side, whose shuffle has not begun, need not change hands: each task that makes
some of them reads all of the small side, joins, and goes on with what the join's own stage would have done. So two
stages become one: the join's, which now has the tasks of the other side's; that one is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from apiary_df.adapt.dependencies import ancestors, committed_bytes, committed_rows, scanned_bytes, work_bytes
from apiary_df.adapt.key_filters import Hold
from apiary_df.config import Settings
from apiary_df.model import PartialRef
from apiary_df.plan import codec
from apiary_df.plan.classes import BUILD_EMITTING_JOINS, Needs, classify
from apiary_df.plan.operators import has_build_side, is_null_aware, join_type, partition_count
from apiary_df.plan.repeatable import why_it_differs
from apiary_df.plan.stages import LEFT_OUT, ExchangeLeaf, Leaf, Stage, StageGraph, Variant
from apiary_df.plan.tree import PlanNode
from apiary_df.units import format_bytes

_ROW_BY_ROW = frozenset({"projection", "filter", "coalesce_batches", "cooperative"})
"""Operators that may stand between a join and the exchange that it reads."""

_EMPTY = PlanNode("placeholder_row", b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastOptions:
    """When rows are joined where they are made.

    Attributes:
        most_bytes: Bytes that the small side has at most; 0: never.
        from_bytes: Bytes that the other side's stage must read.
        least_gain: How many times as many bytes it must read as the small side has: every task reads all of that.
        most_partials: Partials of the small side at most: every task makes a request for each.
        most_shrunk: How many times as many bytes as that may be read for the small side, for it to be waited for.
        most_waited: Share of what the other side's stage reads that may have to be read before the small side is there.
    """

    most_bytes: int
    from_bytes: int
    least_gain: float = 8
    most_partials: int = 256
    most_shrunk: float = 8
    most_waited: float = 0.125

    @classmethod
    def of(cls, settings: Settings) -> BroadcastOptions:
        """Return the options that a session's settings give."""
        return cls(most_bytes=settings.broadcast_bytes, from_bytes=settings.broadcast_from_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Two stages that became one.

    Attributes:
        stage: The join's stage, which makes the rows of its large side itself.
        left_out: The stage that made them; nothing is left of it but its number.
        why: What was done, and on what grounds.
    """

    stage: Stage
    left_out: Stage
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A shuffled join that could read one of its sides whole.

    Attributes:
        reader: The join's stage.
        path: Where the join is in its fragment.
        probe: The stage of the side that is not read whole.
        leaf: The leaf of the join's stage that reads it.
        build: Leaves that make the side that is.
    """

    reader: Stage
    path: tuple[int, ...]
    probe: Stage
    leaf: int
    build: tuple[int, ...]

    @property
    def build_stages(self) -> tuple[int, ...]:
        leaves = (self.reader.leaves[number] for number in self.build)
        return tuple(dict.fromkeys(leaf.stage for leaf in leaves if isinstance(leaf, ExchangeLeaf)))


def join_or_hold(
    graph: StageGraph,
    stage: Stage,
    *,
    as_run: StageGraph,
    partials: Mapping[int, Sequence[PartialRef]],
    held: Mapping[int, int],
    options: BroadcastOptions,
) -> Joined | Hold | None:
    """Return what is to become of a stage whose inputs are complete, before it is planned; None if nothing is.

    Args:
        graph: All stages, as they were cut and joined.
        stage: The stage.
        as_run: All stages with what they were otherwise changed to read.
        partials: What complete stages committed.
        held: Stages that wait already, and for which.
        options: When rows are joined where they are made.
    """
    if not options.most_bytes or stage.output != "hash":
        return None
    reads_bytes = scanned_bytes(stage) + sum(committed_bytes(partials[number]) for number in stage.inputs)
    if reads_bytes < options.from_bytes:
        return None
    place = _place(graph, stage)
    if place is None:
        return None
    others = set(place.reader.inputs) - {stage.stage, *place.build_stages}
    if not others <= partials.keys():
        return None  # it would have to wait for what the shuffle need not wait for
    open_ = [number for number in place.build_stages if number not in partials]
    if not open_:
        made = [ref for number in place.build_stages for ref in partials[number]]
        return _joined(place, made, reads_bytes) if _is_small(made, reads_bytes, options) else None
    if any(stage.stage in ancestors(as_run, number, held) for number in open_):
        return None
    work = sum(work_bytes(as_run, number, partials) for number in open_)
    soon = work <= reads_bytes * options.most_waited and work <= options.most_bytes * options.most_shrunk
    return Hold(until=open_[0]) if soon else None


def _is_small(made: Sequence[PartialRef], reads_bytes: int, options: BroadcastOptions) -> bool:
    size_bytes = committed_bytes(made)
    return (
        len(made) <= options.most_partials
        and size_bytes <= options.most_bytes
        and size_bytes * options.least_gain <= reads_bytes
    )


# -- where it is right -----------------------------------------------------------------------------------------------


def _place(graph: StageGraph, probe: Stage) -> _Place | None:
    """Return the join that reads a stage, if its tasks might as well be that stage's; None if there is none."""
    readers = [s for s in graph.stages[:-1] for leaf in s.leaves if _reads(leaf, probe)]
    if len(readers) != 1 or any(_reads(leaf, probe) for leaf in graph.root.leaves):
        return None
    (reader,) = readers
    if len(reader.variants) != 1 or reader.variants[0].kind != "hash" or reader.unions:
        return None
    if reader.rests_on_partition_order or any(variant.kind == "single" for variant in probe.variants):
        return None
    leaf = next(number for number, leaf in enumerate(reader.leaves) if _reads(leaf, probe))
    for path, join, above in _joins(reader.fragment):
        build = _sides(reader, path, join, leaf)
        if build is not None and all(_takes_any_share(node, number) for node, number in above):
            if not {*reader.variants[0].split} <= {*build, leaf}:
                return None  # what else it reads is partitioned like the rows that are not to be
            return _Place(reader=reader, path=path, probe=probe, leaf=leaf, build=build)
    return None


def _reads(leaf: Leaf, stage: Stage) -> bool:
    return isinstance(leaf, ExchangeLeaf) and leaf.stage == stage.stage


def _joins(
    node: PlanNode, path: tuple[int, ...] = (), above: tuple[tuple[PlanNode, int], ...] = ()
) -> Iterator[tuple[tuple[int, ...], PlanNode, tuple[tuple[PlanNode, int], ...]]]:
    """Yield the shuffled hash joins of a fragment, each with its path and the operators above, by number of input."""
    if node.kind == "hash_join" and codec.fields_of(node).partition_mode == codec.PARTITIONED:
        yield path, node, above
    for number, child in enumerate(node.children):
        yield from _joins(child, (*path, number), (*above, (node, number)))


def _takes_any_share(node: PlanNode, number: int) -> bool:
    """Whether an operator is right over any share of the rows of an input, in each of several tasks."""
    found = classify(node)
    if len(node.children) == 2:
        return has_build_side(node) and number == 1 and found.needs is Needs.BUILD
    return found.needs is Needs.SHARE


def _sides(reader: Stage, path: tuple[int, ...], join: PlanNode, leaf: int) -> tuple[int, ...] | None:
    """Return the leaves of a join's first side, if its other side is a certain leaf and tasks may share that out."""
    if join_type(join) in BUILD_EMITTING_JOINS or is_null_aware(join):
        return None
    left, right = join.children
    while right.kind in _ROW_BY_ROW and not _has_limit(right):
        right = right.children[0]
    before = sum(1 for place, node in reader.fragment.walk_paths() if node.is_file_scan and place < (*path, 0))
    build = tuple(range(before, before + sum(node.is_file_scan for node in left.walk())))
    if not right.is_file_scan or leaf != before + len(build):
        return None
    leaves = [reader.leaves[number] for number in build]
    if not leaves or not all(isinstance(found, ExchangeLeaf) and not found.ordered for found in leaves):
        return None
    if any(partition_count(node) != 1 for node in left.walk()) or why_it_differs(left):
        return None
    return build


def _has_limit(node: PlanNode) -> bool:
    return node.kind in {"filter", "coalesce_batches"} and bool(codec.fields_of(node).HasField("fetch"))


# -- how it is done --------------------------------------------------------------------------------------------------


def _joined(place: _Place, made: Sequence[PartialRef], reads_bytes: int) -> Joined:
    reader, probe, leaf = place.reader, place.probe, place.leaf
    rows = probe.fragment.children[0]
    if probe.schema is not None and probe.schema.renamed:
        # What reads the exchange expects the names that its partials would have had.
        rows = codec.rename_projection(rows, probe.schema.names, probe.schema.arrow.names)
    (mine,) = reader.variants
    added = len(probe.leaves) - 1
    whole = {number + added * (number > leaf) for number in (*mine.whole, *place.build)}
    stage = replace(
        reader,
        fragment=_rebuilt(reader.fragment, place.path, rows),
        leaves=(*reader.leaves[:leaf], *probe.leaves, *reader.leaves[leaf + 1 :]),
        variants=tuple(_moved(variant, leaf, whole) for variant in probe.variants),
        unions=probe.unions,
    )
    builds = ", ".join(map(str, place.build_stages))
    why = (
        f"its rows are joined where they are made, in stage {reader.stage}, with all {committed_rows(made)} rows of "
        f"stage {builds}, which are {format_bytes(committed_bytes(made))} against {format_bytes(reads_bytes)} to read"
    )
    left_out = replace(probe, fragment=_EMPTY, output=LEFT_OUT, leaves=(), variants=(), unions=0)
    return Joined(stage=stage, left_out=left_out, why=why)


def _moved(variant: Variant, leaves: int, whole: set[int]) -> Variant:
    """Return a variant of the large side's stage as one of the join's, before whose rows stand so many leaves."""
    own = {number + leaves for number in variant.whole}
    return replace(variant, whole=tuple(sorted(whole | own)), split=tuple(number + leaves for number in variant.split))


def _rebuilt(node: PlanNode, path: tuple[int, ...], rows: PlanNode) -> PlanNode:
    """Return a fragment whose join at a path collects its first side, and is given these rows on its other."""
    if path:
        children = [_rebuilt(c, path[1:], rows) if n == path[0] else c for n, c in enumerate(node.children)]
        return node.with_children(*children)
    left, right = node.children
    return codec.replace(node, left, _with_rows(right, rows), partition_mode=codec.COLLECT_LEFT)


def _with_rows(node: PlanNode, rows: PlanNode) -> PlanNode:
    return rows if node.is_file_scan else node.with_children(_with_rows(node.children[0], rows))
