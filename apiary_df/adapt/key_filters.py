"""Handing the keys of a finished side of a join to stages that make rows of the other side.

A row of one side of a join that finds no partner on the other is often of no use. Where the join's own stage comes
after a shuffle, that is found out only when the row has been scanned, aggregated and shuffled. So once a stage is
complete that holds all keys of one side, and is small, the rows of the other side are kept only if their key is among
these, as far down as it can be followed: by a semi join with what that stage committed, which compares as the join
does.

Nothing changes in what the other side's rows are, so whatever is left out here is left out by the join as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from apiary_df.adapt.dependencies import ancestors, committed_bytes, committed_rows, scanned_bytes, work_bytes
from apiary_df.config import Settings
from apiary_df.model import NodeInfo, PartialRef
from apiary_df.plan import codec
from apiary_df.plan.columns import Column, by_input, filtered_through, holding
from apiary_df.plan.operators import is_null_aware, join_type
from apiary_df.plan.stages import EXCHANGE_STORE_URL, ExchangeLeaf, Stage, StageGraph, Variant
from apiary_df.plan.tree import PlanNode
from apiary_df.units import format_bytes

_LOSING_LEFT = frozenset({"Inner", "Right", "RightSemi", "RightAnti", "RightMark", "LeftSemi"})
_LOSING_RIGHT = frozenset({"Inner", "Left", "LeftSemi", "LeftAnti", "LeftMark", "RightSemi"})
"""Join types that hand on nothing of a row of that side which has no partner."""

_SELECTIVE = frozenset({"filter", "local_limit", "global_limit"})
"""Operators that leave rows out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFilterOptions:
    """When keys are handed on.

    Attributes:
        most_bytes: Bytes that the keys may have without a look at who is to read them, with all else that their stage
            committed; 0 hands none on.
        from_bytes: Bytes that a stage must read for it to be given any.
        least_gain: How many times as many bytes it must read as the keys have; above ``most_bytes``, as all copies of
            them have, since every bee reads all of them.
        bee_share: Share of a bee's memory that keys above ``most_bytes`` may take: their hash table takes several times
            as much, and cannot spill.
        most_kept: Share of a table's rows up to which a stage's rows are taken for few of the table's keys; of the
            smallest table in which the keys are found.
        most_waited: How many times as many bytes as it reads may have to be read before the keys for it are there.
        most_partials: Partials in which keys lie at most: every task makes a request for each.
        any_stage: Take keys also of stages that leave no rows out, so that nothing is to be expected of them.
    """

    most_bytes: int
    from_bytes: int
    least_gain: float = 8
    bee_share: float = 1 / 16
    most_kept: float = 0.3
    most_waited: float = 4
    most_partials: int = 256
    any_stage: bool = False

    @classmethod
    def of(cls, settings: Settings) -> KeyFilterOptions:
        """Return the options that a session's settings give."""
        return cls(most_bytes=settings.key_filter_bytes, from_bytes=settings.key_filter_from_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """Who would read keys that are handed on.

    Attributes:
        bees: All bees together.
        bee_bytes: Memory of the smallest of them.
    """

    bees: int
    bee_bytes: int

    @classmethod
    def of(cls, nodes: Iterable[NodeInfo]) -> Readers:
        """Return what nodes come to."""
        working = [node for node in nodes if node.bees_total]
        return cls(
            bees=sum(node.bees_total for node in working),
            bee_bytes=min((node.memory_per_bee for node in working), default=0),
        )


Path = tuple[int, ...]
"""Numbers of inputs that lead from the top of a fragment to an operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """A stage whose rows hold all keys of one side of a join.

    Attributes:
        stage: The stage.
        columns: Where the keys are in its partials, by number of the pair.
        table_rows: Rows of the smallest table that the keys come from, as statistics tell; None if they do not.
        filtered: Whether rows were left out by a filter or a limit on the way of the keys themselves. A join that
            leaves rows out for another column leaves most keys of which there are several rows.
    """

    stage: int
    columns: Mapping[int, Column]
    table_rows: int | None
    filtered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTarget:
    """A place in a stage's fragment where rows of the other side are made.

    Attributes:
        stage: The stage.
        path: The operator whose rows are to be filtered.
        columns: Where the keys are in its rows, by number of the pair.
    """

    stage: int
    path: Path
    columns: Mapping[int, Column]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFilter:
    """What may be left out of a stage's rows once another is complete.

    Attributes:
        source: The stage that holds the keys.
        target: Where rows may be left out.
        pairs: Columns that are to be equal: of the source's partials, of the target's rows.
        null_equality: As in the join that the keys are of.
        table_rows: Rows of the smallest table in which the keys are found, on whichever side: there are no more of
            them. None if statistics do not tell.
    """

    source: KeySource
    target: KeyTarget
    pairs: tuple[tuple[Column, Column], ...]
    null_equality: int
    table_rows: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Wait for another stage before this one is planned.

    Attributes:
        until: The stage to wait for.
    """

    until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filtered:
    """A stage that leaves rows out.

    Attributes:
        stage: The stage as it is to be run.
        why: What was done, and on what grounds.
    """

    stage: Stage
    why: str


# -- where keys can be handed to -------------------------------------------------------------------------------------


def key_filters(graph: StageGraph, options: KeyFilterOptions) -> tuple[KeyFilter, ...]:
    """Return all that may be handed from one stage of a graph to another.

    Args:
        graph: The stages, as they were cut.
        options: Whether that is wanted at all, and from which stages.
    """
    if not options.most_bytes or not any(scanned_bytes(s) >= options.from_bytes for s in graph.stages[:-1]):
        return ()
    finder = _Finder(graph, options)
    found: dict[tuple[int, Path, int], KeyFilter] = {}
    for stage in graph.stages:
        for path, node in stage.fragment.walk_paths():
            if node.kind != "hash_join" or is_null_aware(node):
                continue
            for filter_ in finder.of_join(stage, path, node):
                key = (filter_.target.stage, filter_.target.path, filter_.source.stage)
                if key not in found or len(filter_.pairs) > len(found[key].pairs):
                    found[key] = filter_
    return tuple(found.values())


class _Traced(NamedTuple):
    """Where some columns come from.

    Attributes:
        sources: The stages whose partials hold all of their values, the nearest first.
        table_rows: Rows of the smallest table that they are followed to; None if that is unknown.
        filtered: Whether a filter or a limit stands on their way.
    """

    sources: list[KeySource]
    table_rows: int | None
    filtered: bool


class _Finder:
    def __init__(self, graph: StageGraph, options: KeyFilterOptions) -> None:
        self._graph = graph
        self._options = options
        self._leaves = [_leaf_numbers(stage.fragment) for stage in graph.stages]
        readers = [leaf.stage for stage in graph.stages for leaf in stage.leaves if isinstance(leaf, ExchangeLeaf)]
        self._read_once = {number for number in readers if readers.count(number) == 1}
        self._selective: dict[int, bool] = {}

    def of_join(self, stage: Stage, path: Path, join: PlanNode) -> Iterator[KeyFilter]:
        fields = codec.fields_of(join)
        pairs = [(codec.column_of(pair.left), codec.column_of(pair.right)) for pair in fields.on]
        for side, losing in enumerate((_LOSING_LEFT, _LOSING_RIGHT)):
            if join_type(join) not in losing:
                continue
            keys = [{i: Column(*p[s]) for i, p in enumerate(pairs) if p[0] and p[1]} for s in (0, 1)]  # type: ignore[misc]
            if not keys[side]:
                continue
            targets = [
                target
                for target in self._targets(stage, (*path, side), join.children[side], keys[side])
                if target.stage != stage.stage
            ]
            if not targets:
                continue
            sources = self._traced(stage, (*path, 1 - side), join.children[1 - side], keys[1 - side]).sources
            for source in sources:
                for target in targets:
                    common = sorted(source.columns.keys() & target.columns.keys())
                    if common and self._may_wait(target.stage, source.stage):
                        yield KeyFilter(
                            source=source,
                            target=target,
                            pairs=tuple((source.columns[i], target.columns[i]) for i in common),
                            null_equality=fields.null_equality,
                            table_rows=_least(
                                source.table_rows,
                                self._table_rows(
                                    stage, (*path, side), join.children[side], {i: keys[side][i] for i in common}
                                ),
                            ),
                        )

    def _may_wait(self, target: int, source: int) -> bool:
        """Whether a stage may wait for another, and that one leaves rows out at all."""
        there = self._graph.stages[source]
        if source == target or there.in_session or source in self._graph.stages[target].inputs:
            return False
        if target in ancestors(self._graph, source):
            return False
        return self._options.any_stage or self._is_selective(source)

    def _is_selective(self, stage: int) -> bool:
        if stage not in self._selective:
            there = self._graph.stages[stage]
            own = any(node.kind in _SELECTIVE for node in there.fragment.walk())
            self._selective[stage] = own or any(self._is_selective(number) for number in there.inputs)
        return self._selective[stage]

    def _producer(self, stage: Stage, path: Path) -> Stage | None:
        """Return the stage that a leaf reads; None if it reads source files."""
        leaf = stage.leaves[self._leaves[stage.stage][path]]
        return self._graph.stages[leaf.stage] if isinstance(leaf, ExchangeLeaf) else None

    def _traced(self, stage: Stage, path: Path, node: PlanNode, keys: Mapping[int, Column]) -> _Traced:
        """Return the stages whose partials hold all values of some columns, and what is known of these."""
        if node.is_file_scan:
            producer = self._producer(stage, path)
            if producer is None:
                return _Traced([], codec.scan_rows(node), False)
            beyond = self._traced(producer, (), producer.fragment, _beyond(producer, keys))
            here = KeySource(
                stage=producer.stage, columns=dict(keys), table_rows=beyond.table_rows, filtered=beyond.filtered
            )
            return _Traced([here, *beyond.sources], beyond.table_rows, beyond.filtered)
        found = _Traced([], None, False)
        for number, columns in by_input(keys, lambda column: holding(node, column)).items():
            below = self._traced(stage, (*path, number), node.children[number], columns)
            found = _Traced(
                [*found.sources, *below.sources],
                _least(found.table_rows, below.table_rows),
                found.filtered or below.filtered or node.kind in _SELECTIVE,
            )
        return found

    def _table_rows(self, stage: Stage, path: Path, node: PlanNode, keys: Mapping[int, Column]) -> int | None:
        """Return the rows of the smallest table to which some columns are followed together; None if it is unknown."""
        if node.is_file_scan:
            producer = self._producer(stage, path)
            if producer is None:
                return codec.scan_rows(node)
            return self._table_rows(producer, (), producer.fragment, _beyond(producer, keys))
        least: int | None = None
        for number, columns in by_input(keys, lambda column: holding(node, column)).items():
            if len(columns) == len(keys):
                least = _least(least, self._table_rows(stage, (*path, number), node.children[number], columns))
        return least

    def _targets(self, stage: Stage, path: Path, node: PlanNode, keys: Mapping[int, Column]) -> list[KeyTarget]:
        """Return the lowest places where rows may be left out by some columns."""
        here = KeyTarget(stage=stage.stage, path=path, columns=dict(keys))
        if node.is_file_scan:
            producer = self._producer(stage, path)
            if producer is None:
                return [here]
            if producer.in_session or producer.stage not in self._read_once:
                return []
            return self._targets(producer, (), producer.fragment, _beyond(producer, keys))
        inputs = by_input(keys, lambda column: filtered_through(node, column))
        if not inputs or (node.kind == "filter" and self._scans_source(stage, (*path, 0), node.children[0])):
            # What a filter leaves is less to look at than what it is given.
            return [here]
        return [
            target
            for number, columns in inputs.items()
            for target in self._targets(stage, (*path, number), node.children[number], columns)
        ]

    def _scans_source(self, stage: Stage, path: Path, node: PlanNode) -> bool:
        return node.is_file_scan and self._producer(stage, path) is None


def _least(*known: int | None) -> int | None:
    return min((number for number in known if number is not None), default=None)


def _leaf_numbers(fragment: PlanNode) -> dict[Path, int]:
    paths = [path for path, node in fragment.walk_paths() if node.is_file_scan]
    return {path: number for number, path in enumerate(paths)}


def _beyond(producer: Stage, keys: Mapping[int, Column]) -> dict[int, Column]:
    """Return the columns of an exchange under the names that they have in the stage that fills it."""
    assert producer.schema is not None
    return {pair: Column(key.index, producer.schema.names[key.index]) for pair, key in keys.items()}


# -- whether they are ------------------------------------------------------------------------------------------------


def hold_or_filter(
    graph: StageGraph,
    stage: Stage,
    *,
    filters: Sequence[KeyFilter],
    partials: Mapping[int, Sequence[PartialRef]],
    held: Mapping[int, int],
    options: KeyFilterOptions,
    readers: Readers,
) -> Hold | Filtered | None:
    """Return what is to become of a stage whose inputs are complete, before it is planned; None if nothing is.

    Args:
        graph: All stages, as they are run: what has changed already may read more than it was cut to read.
        stage: The stage, as it was cut.
        filters: All that may be handed on, of :func:`key_filters`.
        partials: What complete stages committed.
        held: Stages that wait already, and for which.
        options: When keys are handed on.
        readers: Who is to run the stage.
    """
    mine = [filter_ for filter_ in filters if filter_.target.stage == stage.stage]
    reads_bytes = scanned_bytes(stage) + sum(committed_bytes(partials[number]) for number in stage.inputs)
    if not mine or reads_bytes < options.from_bytes:
        return None
    ready = [filter_ for filter_ in mine if _is_small(filter_, partials, reads_bytes, options, readers)]
    if ready:
        best = min(ready, key=lambda f: (committed_rows(partials[f.source.stage]), f.source.stage))
        at_once = [f for f in ready if f.source.stage == best.source.stage]
        return _filtered(graph, stage, at_once, partials, reads_bytes)
    work = {
        filter_.source.stage: work_bytes(graph, filter_.source.stage, partials)
        for filter_ in mine
        if filter_.source.stage not in partials and stage.stage not in ancestors(graph, filter_.source.stage, held)
    }
    soon = [
        number
        for number, bytes_ in work.items()
        if bytes_ <= reads_bytes * options.most_waited
        and _goes_first(graph, stage, number, filters, options, work=bytes_, reads_bytes=reads_bytes)
    ]
    return Hold(until=min(soon, key=lambda number: (work[number], number))) if soon else None


def _goes_first(
    graph: StageGraph,
    stage: Stage,
    source: int,
    filters: Sequence[KeyFilter],
    options: KeyFilterOptions,
    *,
    work: int,
    reads_bytes: int,
) -> bool:
    """Whether another stage is to be complete before this one, though it might be the other way round as well.

    If both have about as much to read, that one goes first whose keys a filter of their own left. If that tells
    nothing, or one has far less to read, the one goes first that is complete sooner.

    Args:
        graph: All stages.
        stage: This stage, which may be given the other's keys.
        source: The other one.
        filters: All that may be handed on.
        options: When keys are handed on.
        work: Bytes that are to be read until the other one is complete.
        reads_bytes: What this one reads.
    """
    before = {source, *ancestors(graph, source)}
    ours = [f.source.filtered for f in filters if f.source.stage == stage.stage and f.target.stage in before]
    theirs = [f.source.filtered for f in filters if f.source.stage == source and f.target.stage == stage.stage]
    if not ours or work * options.most_waited <= reads_bytes:
        return True
    return work <= reads_bytes if any(ours) == any(theirs) else any(theirs)


def _is_small(
    filter_: KeyFilter,
    partials: Mapping[int, Sequence[PartialRef]],
    reads_bytes: int,
    options: KeyFilterOptions,
    readers: Readers,
) -> bool:
    made = partials.get(filter_.source.stage)
    if made is None or len(made) > options.most_partials:
        return False
    size_bytes = committed_bytes(made)
    copies = 1
    if size_bytes > options.most_bytes:
        copies = readers.bees
        if size_bytes > readers.bee_bytes * options.bee_share:
            return False
    if size_bytes * copies * options.least_gain > reads_bytes:
        return False
    return filter_.table_rows is None or committed_rows(made) <= options.most_kept * filter_.table_rows


def _filtered(
    graph: StageGraph,
    stage: Stage,
    filters: Sequence[KeyFilter],
    partials: Mapping[int, Sequence[PartialRef]],
    reads_bytes: int,
) -> Filtered:
    source = graph.stages[filters[0].source.stage]
    # From the back, since what is put in moves what stands behind it.
    for filter_ in sorted(filters, key=lambda f: f.target.path, reverse=True):
        stage = with_key_filter(stage, source, filter_)
    made = partials[source.stage]
    names = ", ".join(dict.fromkeys(column.name for f in filters for _, column in f.pairs))
    why = (
        f"keeps rows whose {names} is among the {committed_rows(made)} rows of stage {source.stage}, which are "
        f"{format_bytes(committed_bytes(made))} against {format_bytes(reads_bytes)} to read"
    )
    return Filtered(stage=stage, why=why)


def with_key_filter(stage: Stage, source: Stage, filter_: KeyFilter) -> Stage:
    """Return a stage whose rows are kept only if their key is among those that another stage committed.

    Args:
        stage: The stage, with the operator that the filter's target names.
        source: The stage that holds the keys.
        filter_: What to compare.
    """
    assert source.schema is not None
    names = [f"key{i}" for i in range(len(filter_.pairs))]
    keys = codec.build(
        "projection",
        codec.arrow_scan(source.schema.encoded, EXCHANGE_STORE_URL),
        expr=[codec.column(held.index, held.name) for held, _ in filter_.pairs],
        expr_name=names,
    )
    on = [
        (codec.column(i, name), codec.column(own.index, own.name))
        for (i, name), (_, own) in zip(enumerate(names), filter_.pairs, strict=True)
    ]

    def below(node: PlanNode, path: Path) -> PlanNode:
        if not path:
            return codec.semi_join(keys, node, on, filter_.null_equality)
        children = [below(c, path[1:]) if i == path[0] else c for i, c in enumerate(node.children)]
        return node.with_children(*children)

    before = sum(1 for path, node in stage.fragment.walk_paths() if node.is_file_scan and path < filter_.target.path)
    read = ExchangeLeaf(stage=source.stage, ordered=False)
    return replace(
        stage,
        fragment=below(stage.fragment, filter_.target.path),
        leaves=(*stage.leaves[:before], read, *stage.leaves[before:]),
        variants=tuple(_with_whole_leaf(variant, before) for variant in stage.variants),
    )


def _with_whole_leaf(variant: Variant, number: int) -> Variant:
    """Return a variant whose tasks all read one more leaf, before which stand so many."""

    def moved(leaves: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(leaf + (leaf >= number) for leaf in leaves)

    return replace(variant, whole=tuple(sorted((number, *moved(variant.whole)))), split=moved(variant.split))
