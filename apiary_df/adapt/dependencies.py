"""What stages of a graph rest on each other. Pure reading."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from apiary_df.model import PartialRef
from apiary_df.plan.stages import ScanLeaf, Stage, StageGraph


def ancestors(graph: StageGraph, stage: int, held: Mapping[int, int] | None = None) -> frozenset[int]:
    """Return the stages that must be complete before one is: its inputs and theirs, and what any of them waits for.

    Args:
        graph: All stages.
        stage: The stage.
        held: Stages that wait for another one, which is no input of theirs.
    """
    found: set[int] = set()
    open_ = [stage]
    while open_:
        number = open_.pop()
        before = {*graph.stages[number].inputs}
        if held is not None and number in held:
            before.add(held[number])
        open_.extend(before - found)
        found |= before
    return frozenset(found)


def scanned_bytes(stage: Stage) -> int:
    """Return the bytes of the source files that a stage reads."""
    return sum(file.size_bytes for leaf in stage.leaves if isinstance(leaf, ScanLeaf) for file in leaf.files)


def work_bytes(graph: StageGraph, stage: int, complete: Collection[int]) -> int:
    """Return the bytes of source files that are still to be read until a stage is complete.

    Args:
        graph: All stages.
        stage: The stage.
        complete: Stages that are.
    """
    if stage in complete:
        return 0
    open_ = {stage, *ancestors(graph, stage)} - set(complete)
    return sum(scanned_bytes(graph.stages[number]) for number in open_)


def committed_bytes(partials: Collection[PartialRef]) -> int:
    """Return the bytes of all segments of some partials."""
    return sum(segment.length for partial in partials for segment in partial.segments)


def committed_rows(partials: Collection[PartialRef]) -> int:
    """Return the rows of some partials."""
    return sum(partial.rows for partial in partials)
