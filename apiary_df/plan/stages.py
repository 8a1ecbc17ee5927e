"""Cutting a rewritten plan into stages at its exchanges. It cuts; it rewrites nothing.

A stage's fragment is a plan whose every leaf holds *one task's share* of the input, so that a fragment always runs
over one partition, whatever the whole plan's partition count was: the reading end of a shuffle then cannot mix
partitions. What a task gets is said by variants: a region of the plan can be run in several alternative ways only
below a union, where each branch brings its own tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from apiary_df.errors import PlanError
from apiary_df.model import ScanFile
from apiary_df.plan import codec
from apiary_df.plan.classes import Needs, classify
from apiary_df.plan.operators import EMBED_BYTES, has_build_side, is_large_table, partition_count
from apiary_df.plan.order import leaves_in_order
from apiary_df.plan.repeatable import why_it_differs
from apiary_df.plan.schema import ExchangeSchema
from apiary_df.plan.sinks import COUNT_COLUMN, SINKS, can_be_shared_out
from apiary_df.plan.tree import PlanNode

EXCHANGE_STORE_URL = "file:///"
"""Where exchange leaves read: a task always reads partials through its own file system."""

_PARQUET_MAP = re.compile(rb"\x8a\x02.{1,3}\x0a.{1,3}\x0a(?:\x09key_value|\x03map)", re.DOTALL)
"""An encoded map type whose entries have the name that Parquet's format, or its older writers, give them."""

_GATHERS = frozenset({"coalesce_partitions", "sort_preserving_merge"})

_TEXT_SCANS = frozenset({"csv_scan", "json_scan"})

_READING = frozenset({"arrow_scan", "projection"})
"""Operators of the reading end of an exchange."""

SchemaOf = Callable[[PlanNode], ExchangeSchema]
"""Tells the schema of an exchange fed by a fragment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanLeaf:
    """A leaf of a fragment that reads source files.

    Attributes:
        files: All files of the scan; ranges that DataFusion planned are joined back into whole objects.
        store_url: The object store that the paths lie in (``file:///``, ``s3://bucket/``).
        ordered: The order within each file is declared, so that every file needs a group of its own.
        splittable: Byte ranges of a file may be read by different tasks.
        split_above_bytes: Only of files that are larger than this.
        format: Kind of the scan operator.
    """

    files: tuple[ScanFile, ...]
    store_url: str
    ordered: bool
    splittable: bool
    format: str
    split_above_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeLeaf:
    """A leaf of a fragment that reads what another stage's tasks wrote.

    Attributes:
        stage: The producing stage.
        ordered: Each producer's rows are in order and are merged above: every partial needs a group of its own.
    """

    stage: int
    ordered: bool


Leaf = ScanLeaf | ExchangeLeaf


LEFT_OUT = "none"
"""Output of a stage that is not run: it was put into the one that read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way in which tasks run a region of a fragment.

    Attributes:
        kind: ``single`` (one task), ``cells`` (tasks share the files of one scan), ``hash`` (a task takes
            partitions of its shuffles) or ``spread`` (a task takes partitions of an in-memory table, which hold
            whatever rows they hold).
        choices: (union, branch) pairs that are active, unions counted in post-order.
        whole: Leaves that every task reads in full.
        split: Leaves that tasks share.
        partitions: For ``hash`` and ``spread``, how many partitions the tasks share.
    """

    kind: str
    choices: tuple[tuple[int, int], ...] = ()
    whole: tuple[int, ...] = ()
    split: tuple[int, ...] = ()
    partitions: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of the plan between exchanges.

    Attributes:
        stage: Number of the stage; inputs have lower numbers, the root has the highest.
        fragment: Plan whose file leaves are templates, filled by each task.
        output: ``hash``, ``gather``, ``result``, ``spread`` for an in-memory table, which the session stores as
            the one task of this stage, or :data:`LEFT_OUT`.
        partitions: Output partitions: those of the shuffle or the in-memory table, else 1.
        leaves: The fragment's file leaves, in pre-order.
        variants: How tasks run it.
        unions: Number of unions in the fragment.
        schema: What it hands on; None for the root.
        version: Which of the stage's fragments this is; 0 is the one that was cut.
    """

    stage: int
    fragment: PlanNode
    output: str
    partitions: int
    leaves: tuple[Leaf, ...]
    variants: tuple[Variant, ...]
    unions: int
    schema: ExchangeSchema | None
    version: int = 0

    @property
    def inputs(self) -> tuple[int, ...]:
        """The stages that this one reads, each once, in order."""
        return tuple(dict.fromkeys(leaf.stage for leaf in self.leaves if isinstance(leaf, ExchangeLeaf)))

    @property
    def in_session(self) -> bool:
        """Whether the session runs this stage: an in-memory table is nowhere else."""
        return self.output == "spread"

    @property
    def combines(self) -> bool:
        """Whether this stage only hands on, into partitions, what a shuffle brought: any task may do any part of it."""
        return (
            self.fragment.kind == "repartition"
            and tuple(variant.kind for variant in self.variants) == ("hash",)
            and all(node.kind in _READING for node in self.fragment.children[0].walk())
        )

    @property
    def is_left_out(self) -> bool:
        """Whether nothing is left of this stage: another one does its work, and nothing reads it."""
        return self.output == LEFT_OUT

    @property
    def rests_on_partition_order(self) -> bool:
        """Whether a task must not read several partitions of a shuffle: one alone is in order, and that is needed.

        A shuffle of one task's rows keeps their order within each partition, and DataFusion leaves out sorts above.
        """
        leaves = (self.leaves[index] for index in leaves_in_order(self.fragment))
        return any(isinstance(leaf, ExchangeLeaf) and not leaf.ordered for leaf in leaves)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageGraph:
    """All stages of a query; the last is the root, which the coordinator runs."""

    stages: tuple[Stage, ...]

    @property
    def root(self) -> Stage:
        """The stage that gives the result."""
        return self.stages[-1]

    def with_stage(self, stage: Stage) -> StageGraph:
        """Return the graph with another stage in place of the one of its number."""
        return StageGraph(stages=tuple(stage if old.stage == stage.stage else old for old in self.stages))

    @property
    def is_divided(self) -> bool:
        """Whether nodes run any of it."""
        return any(not stage.in_session for stage in self.stages[:-1])


@dataclass(frozen=True, slots=True)
class _Region:
    """A fragment in the making: a subtree, its leaves, and how it can be run."""

    tree: PlanNode
    leaves: tuple[Leaf, ...]
    variants: tuple[Variant, ...]
    unions: int = 0

    @property
    def is_single(self) -> bool:
        return len(self.variants) == 1 and self.variants[0].kind == "single"


def cut(
    plan: PlanNode, schema_of: SchemaOf, *, embed_bytes: int = EMBED_BYTES, split_text_bytes: int = 0
) -> StageGraph:
    """Cut a rewritten plan into stages.

    Args:
        plan: What the last rule left.
        schema_of: Tells the schema of an exchange.
        embed_bytes: In-memory tables above this size become stages of the session.
        split_text_bytes: Files of text up to this size are never split: a range of one begins at a line, and a record
            may go over several lines. DataFusion itself splits larger ones, unless it is told of such records.

    Raises:
        PlanError: If the plan's distribution is not one that this cutter understands; nothing is guessed.
    """
    cutter = _Cutter(schema_of, embed_bytes, split_text_bytes)
    region = cutter.region(plan)
    if not region.is_single:
        region = cutter.gathered(codec.coalesce(region.tree), region)
    elif partition_count(region.tree) > 1:
        # One task, but a union's or an in-memory table's partitions: the result is one stream.
        region = replace(region, tree=codec.coalesce(region.tree))
    cutter.add_stage(region, output="result", partitions=1, schema=None)
    return StageGraph(stages=tuple(cutter.stages))


class _Cutter:
    def __init__(self, schema_of: SchemaOf, embed_bytes: int, split_text_bytes: int) -> None:
        self._schema_of = schema_of
        self._split_text_bytes = split_text_bytes
        self._embed_bytes = embed_bytes
        self._tables: dict[PlanNode, int] = {}
        self.stages: list[Stage] = []

    def add_stage(self, region: _Region, *, output: str, partitions: int, schema: ExchangeSchema | None) -> int:
        stage = Stage(
            stage=len(self.stages),
            fragment=region.tree,
            output=output,
            partitions=partitions,
            leaves=region.leaves,
            variants=region.variants,
            unions=region.unions,
            schema=schema,
        )
        self.stages.append(stage)
        return stage.stage

    def region(self, node: PlanNode) -> _Region:
        if node.is_file_scan:
            return self._scan(node)
        if is_large_table(node, self._embed_bytes) or codec.is_round_robin(node):
            return self._table(node)
        if not node.children:
            return _Region(node, (), (Variant(kind="single"),))
        if node.kind == "repartition":
            return self._shuffled(node, self.region(node.children[0]))
        if node.kind in _GATHERS:
            child = self.region(node.children[0])
            if child.is_single:
                return replace(child, tree=node.with_children(child.tree))
            if _is_table(child):
                return _whole_table(node, child)
            return self.gathered(node, child)
        if node.kind in {"union", "interleave"}:
            return self._union(node)
        if len(node.children) == 2:
            return self._join(node)
        if node.kind in SINKS and can_be_shared_out(node):
            return self._sink(node)
        child = self.region(node.children[0])
        _check_distribution(node, child)
        _check_map_names(node, child)
        return replace(child, tree=node.with_children(child.tree))

    def _scan(self, node: PlanNode) -> _Region:
        groups = codec.scan_groups(node)
        conf = codec.scan_conf(node)
        planned = [file for group in groups for file in group]
        leaf = ScanLeaf(
            files=whole_files(planned),
            store_url=conf.object_store_url,
            # Files that were planned one after the other in one group are in order as they stand there.
            ordered=bool(conf.output_ordering) and len(groups) > 1,
            splittable=node.kind == "parquet_scan" or any(f.range_start is not None for f in planned),
            format=node.kind,
            split_above_bytes=self._split_text_bytes if node.kind in _TEXT_SCANS else 0,
        )
        template = codec.with_scan_groups(node, [[]])
        if len(groups) == 1:
            # One group was planned as one partition: what stands above may rest on that (a limit, say).
            return _Region(template, (leaf,), (Variant(kind="single", whole=(0,)),))
        return _Region(template, (leaf,), (Variant(kind="cells", split=(0,)),))

    def _table(self, node: PlanNode) -> _Region:
        """Make a stage of a large in-memory table, once however often the plan reads it, and return its reading end.

        Raises:
            PlanError: If the node is a round-robin repartition of anything else, which a rule should have removed.
        """
        if node.children and not is_large_table(node.children[0], self._embed_bytes):
            raise PlanError("cannot cut the plan: a round-robin repartition was left in it")
        schema = self._schema_of(node)
        count = partition_count(node)
        if node not in self._tables:
            region = _Region(node, (), (Variant(kind="single"),))
            self._tables[node] = self.add_stage(region, output="spread", partitions=count, schema=schema)
        tree, leaf = self._exchange(self._tables[node], schema, ordered=False)
        if count == 1:
            # It was planned as one partition: what stands above may rest on that.
            return _Region(tree, (leaf,), (Variant(kind="single", whole=(0,)),))
        return _Region(tree, (leaf,), (Variant(kind="spread", split=(0,), partitions=count),))

    def _exchange(self, stage: int, schema: ExchangeSchema, *, ordered: bool) -> tuple[PlanNode, ExchangeLeaf]:
        scan = codec.arrow_scan(schema.encoded, EXCHANGE_STORE_URL)
        if schema.renamed:
            scan = codec.rename_projection(scan, schema.arrow.names, schema.names)
        return scan, ExchangeLeaf(stage=stage, ordered=ordered)

    def _shuffled(self, node: PlanNode, child: _Region) -> _Region:
        hashing = codec.hash_of_repartition(node)
        if hashing is None:
            raise PlanError("cannot cut the plan: a repartition that is not by hash was left in it")
        _, count = hashing
        producer = replace(child, tree=node.with_children(child.tree))
        schema = self._schema_of(producer.tree)
        stage = self.add_stage(producer, output="hash", partitions=count, schema=schema)
        tree, leaf = self._exchange(stage, schema, ordered=False)
        return _Region(tree, (leaf,), (Variant(kind="hash", split=(0,), partitions=count),))

    def gathered(self, node: PlanNode, child: _Region) -> _Region:
        """Make ``child`` a stage that ends in the gather ``node``, and return the reading end.

        The gather stands on both sides: a task merges (and limits) its own partitions, the reader merges the tasks'.
        """
        producer = replace(child, tree=node.with_children(child.tree))
        schema = self._schema_of(producer.tree)
        stage = self.add_stage(producer, output="gather", partitions=1, schema=schema)
        tree, leaf = self._exchange(stage, schema, ordered=node.kind == "sort_preserving_merge")
        return _Region(node.with_children(tree), (leaf,), (Variant(kind="single", whole=(0,)),))

    def _sink(self, node: PlanNode) -> _Region:
        """Let each task write files of its own; what it hands on is how many rows these hold, and the reader adds up.

        As with a gather, a task merges its own partitions: what is in order within the files stays so.
        """
        (gather,) = node.children
        child = self.region(gather.children[0])
        written = replace(child, tree=node.with_children(gather.with_children(child.tree)))
        if child.is_single:
            return written
        schema = self._schema_of(written.tree)
        stage = self.add_stage(written, output="gather", partitions=1, schema=schema)
        tree, leaf = self._exchange(stage, schema, ordered=False)
        total = codec.sum_of_column(codec.coalesce(tree), COUNT_COLUMN, schema.encoded)
        return _Region(total, (leaf,), (Variant(kind="single", whole=(0,)),))

    def _union(self, node: PlanNode) -> _Region:
        children = [self.region(child) for child in node.children]
        merged = children[0]
        for child in children[1:]:
            merged = _side_by_side(merged, child)
        trees = [child.tree for child in children]
        if all(child.is_single for child in children):
            tree = node.with_children(*trees)
            variant = _merge_variants([_only(v) for v in _shifted(children)])
            return _Region(tree, merged.leaves, (variant,), merged.unions + 1)
        if node.kind == "interleave":
            variants = [_only(shifted) for shifted in _shifted(children)]
            # A task holds one partition of every input: interleaving these is reading them one after the other.
            tree = codec.coalesce(codec.union(trees))
            return _Region(tree, merged.leaves, (_merge_hash(node, variants),), merged.unions + 1)
        number = merged.unions
        variants = [
            replace(variant, choices=(*variant.choices, (number, branch)))
            for branch, shifted in enumerate(_shifted(children))
            for variant in shifted
        ]
        return _Region(node.with_children(*trees), merged.leaves, tuple(variants), number + 1)

    def _join(self, node: PlanNode) -> _Region:
        left_node, right_node = node.children
        right = self.region(right_node)
        if not has_build_side(node):
            left = self.region(left_node)
            joined = _side_by_side(left, right)
            sides = [_only(v) for v in _shifted([left, right])]
            both_single = left.is_single and right.is_single
            variant = _merge_variants(sides) if both_single else _merge_hash(node, sides)
            return replace(joined, tree=node.with_children(left.tree, right.tree), variants=(variant,))
        left = self.region(left_node)
        if left_node.kind in _GATHERS and left.is_single and not right.is_single and not _is_exchange(left):
            # A gather of one task's rows: a stage after all, so that not every task of the join computes them.
            left = self.gathered(left_node, replace(left, tree=left.tree.children[0]))
        if not left.is_single:
            raise PlanError(f"cannot cut the plan: the build side of a {node.kind} has several partitions")
        if not right.is_single and why_it_differs(left.tree, merged=any(leaf.ordered for leaf in left.leaves)):
            # Each task would compute other rows for itself: they are computed once, in a stage of their own.
            left = self.gathered(codec.coalesce(left.tree), left)
        if not right.is_single:
            _check_split_probe(node)
        joined = _side_by_side(left, right)
        (left_variants, right_variants) = _shifted([left, right])
        variants = tuple(
            replace(
                variant,
                whole=(*left_variants[0].whole, *variant.whole),
                choices=(*left_variants[0].choices, *variant.choices),
            )
            for variant in right_variants
        )
        return replace(joined, tree=node.with_children(left.tree, right.tree), variants=variants)


def _is_exchange(region: _Region) -> bool:
    """Whether a gather region is the reading end of an exchange already."""
    return any(isinstance(leaf, ExchangeLeaf) for leaf in region.leaves) and all(
        node.kind in {*_GATHERS, *_READING} for node in region.tree.walk()
    )


def _is_table(region: _Region) -> bool:
    """Whether a region is a shared in-memory table and nothing else."""
    (variant, *others) = region.variants
    return not others and variant.kind == "spread" and all(n.kind in _READING for n in region.tree.walk())


def _whole_table(gather: PlanNode, table: _Region) -> _Region:
    """Return a gather of an in-memory table: whoever wants all of it reads what the session stored."""
    (leaf,) = table.leaves
    assert isinstance(leaf, ExchangeLeaf)
    read = replace(leaf, ordered=gather.kind == "sort_preserving_merge")
    return _Region(gather.with_children(table.tree), (read,), (Variant(kind="single", whole=(0,)),))


def whole_files(planned: list[ScanFile]) -> tuple[ScanFile, ...]:
    """Join the byte ranges that DataFusion planned back into objects, in order of path.

    Raises:
        PlanError: If the ranges of an object do not cover it exactly once.
    """
    by_object: dict[tuple[str, int, tuple[bytes, ...]], list[ScanFile]] = {}
    for file in planned:
        by_object.setdefault((file.path, file.size_bytes, file.partition_values), []).append(file)
    files: list[ScanFile] = []
    for entries in by_object.values():
        first = entries[0]
        if len(entries) == 1 and first.range_start is None:
            files.append(first)
            continue
        position = 0
        for entry in sorted(entries, key=lambda e: e.range_start or 0):
            if entry.range_start != position or entry.range_end is None:
                raise PlanError(f"the planned ranges of {first.path!r} do not cover it exactly once")
            position = entry.range_end
        if position != first.size_bytes:
            raise PlanError(f"the planned ranges of {first.path!r} end at {position} of {first.size_bytes} bytes")
        files.append(replace(first, range_start=None, range_end=None))
    return tuple(files)


def _check_distribution(node: PlanNode, child: _Region) -> None:
    """Check that an operator which needs all rows, or all rows of a key, in one partition has them.

    Raises:
        PlanError: If it has not; this would be a wrong answer, and means that a rule or DataFusion has changed.
    """
    if child.is_single:
        return
    # Over a union's branches, rows of one key are in several tasks, however each branch is shuffled.
    kinds = {variant.kind if len(child.variants) == 1 else "union" for variant in child.variants}
    found = classify(node)
    if found.needs is Needs.SHARE or (found.needs is Needs.KEY and kinds == {"hash"}):
        return
    raise PlanError(
        f"cannot cut the plan: {found.name} needs {found.needs.value} in one task, and stands over an input in "
        f"several parts ({', '.join(sorted(kinds))})"
    )


def _check_map_names(node: PlanNode, child: _Region) -> None:
    """Check that an aggregate over an exchange takes no maps for ones whose entries have Parquet's names.

    An aggregate is encoded with the types of what was scanned. Beyond an exchange the entries of a map have Arrow's
    name, and the aggregate would refuse its own groups.

    Raises:
        PlanError: If it takes such maps.
    """
    over_exchange = any(isinstance(leaf, ExchangeLeaf) for leaf in child.leaves)
    if over_exchange and node.kind == "aggregate" and _PARQUET_MAP.search(codec.fields_of(node).input_schema):
        raise PlanError("cannot cut the plan: an aggregate of maps from Parquet stands over an exchange")


def _check_split_probe(node: PlanNode) -> None:
    """Check that several tasks may share the probe side of a join that collects its build side.

    Raises:
        PlanError: If they may not: each would emit build rows, or miss NULLs, for itself.
    """
    found = classify(node)
    if found.needs is not Needs.BUILD:
        raise PlanError(f"cannot cut the plan: {found.name} over a probe side in several parts: {found.reason}")


def _shift(variant: Variant, leaves: int, unions: int) -> Variant:
    return replace(
        variant,
        whole=tuple(i + leaves for i in variant.whole),
        split=tuple(i + leaves for i in variant.split),
        choices=tuple((union + unions, branch) for union, branch in variant.choices),
    )


def _shifted(regions: list[_Region]) -> list[tuple[Variant, ...]]:
    """Return each region's variants, numbered as when the regions stand side by side."""
    shifted: list[tuple[Variant, ...]] = []
    leaves = unions = 0
    for region in regions:
        shifted.append(tuple(_shift(variant, leaves, unions) for variant in region.variants))
        leaves += len(region.leaves)
        unions += region.unions
    return shifted


def _side_by_side(left: _Region, right: _Region) -> _Region:
    return _Region(left.tree, left.leaves + right.leaves, (), left.unions + right.unions)


def _only(variants: tuple[Variant, ...]) -> Variant:
    if len(variants) != 1:
        raise PlanError("cannot cut the plan: a union's branches stand below an operator that needs them as one")
    return variants[0]


def _merge_variants(variants: list[Variant]) -> Variant:
    first = variants[0]
    return replace(
        first,
        whole=tuple(i for v in variants for i in v.whole),
        split=tuple(i for v in variants for i in v.split),
        choices=tuple(c for v in variants for c in v.choices),
    )


def _merge_hash(node: PlanNode, variants: list[Variant]) -> Variant:
    """Merge the variants of inputs that must be partitioned alike.

    Raises:
        PlanError: If they are not all shuffled into the same number of partitions.
    """
    if any(v.kind != "hash" for v in variants) or len({v.partitions for v in variants}) != 1:
        seen = ", ".join(f"{v.kind}({v.partitions})" for v in variants)
        raise PlanError(f"cannot cut the plan: the inputs of a {node.kind} are not partitioned alike: {seen}")
    return _merge_variants(variants)
