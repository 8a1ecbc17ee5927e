"""Which shuffles of a modelled query go by two levels: what the rule ``combine_wide_shuffles`` does to a real plan.

The decision is the real one (:class:`apiary_df.costs.ShufflePlanning`); what it is told of the plan is the model's.
"""

from __future__ import annotations

from dataclasses import replace

from apiary_df.costs import ShufflePlanning
from apiary_df.plan.stages import Variant
from benchmarks.scale.profiles import LeafShape, QueryShape, StageShape, cells_of


def with_levels(
    shape: QueryShape, planning: ShufflePlanning, *, scale: float, partitions: int, cell_bytes: int, byte_s: float
) -> QueryShape:
    """Return a query with a combining stage after each stage whose shuffle is cheaper so.

    Args:
        shape: The query as it was measured.
        planning: Says what is cheaper.
        scale: TPC-H scale factor.
        partitions: Partitions of its shuffles.
        cell_bytes: Bytes of a cell.
        byte_s: Seconds of a bee for each byte that a combining stage hands on.
    """
    times = scale / shape.scale
    stages: list[StageShape] = []
    read_as: list[int] = []
    sources_bytes: list[int] = []
    for stage in shape.stages:
        scans = [cells_of(leaf, times, cell_bytes) for leaf in stage.leaves if leaf.stage < 0]
        inputs = [leaf.stage for leaf in stage.leaves if leaf.stage >= 0]
        sources_bytes.append(sum(size for size, _ in scans) + sum(sources_bytes[number] for number in inputs))
        leaves = tuple(leaf if leaf.stage < 0 else replace(leaf, stage=read_as[leaf.stage]) for leaf in stage.leaves)
        stages.append(replace(stage, leaves=leaves))
        producers = partitions if inputs else min(partitions, max(cells for _, cells in scans))
        divided = producers > 1 and any(variant.kind != "single" for variant in stage.variants)
        if stage.output == "hash" and divided and planning.combines(producers, partitions, sources_bytes[-1]):
            stages.append(_combining(len(stages) - 1, partitions, byte_s))
        read_as.append(len(stages) - 1)
    return replace(shape, stages=tuple(stages))


def _combining(read: int, partitions: int, byte_s: float) -> StageShape:
    return StageShape(
        output="hash",
        leaves=(LeafShape(stage=read),),
        variants=(Variant(kind="hash", split=(0,), partitions=partitions),),
        byte_s=byte_s,
        combines=True,
    )
