"""Roots that only lay their input's rows end to end: what they read, and how many rows of it they want.

Such a root needs no engine and, as the rows are in no order, it need not wait for all of its input either. What belongs
here: telling such a root from its plan. When rows are handed over is the schedule's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from apiary_df.plan import codec
from apiary_df.plan.stages import Stage, StageGraph

OFF = "stream_result is off"
COMPUTES = "it merges or computes rows of all of them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gather:
    """What a root does that only lays rows end to end.

    Attributes:
        stage: The stage that it reads.
        skip_rows: Rows that it passes over first.
        fetch_rows: Rows that it hands on after these; None is all.
    """

    stage: int
    skip_rows: int = 0
    fetch_rows: int | None = None


def gather_of(root: Stage) -> Gather | None:
    """Return what a root lays end to end; None if it does more than that, or reads more than one stage."""
    node, skip_rows, limits = root.fragment, 0, list[int]()
    if node.kind == "global_limit":
        limit = codec.fields_of(node)
        skip_rows = limit.skip
        limits += [limit.fetch] if limit.fetch >= 0 else []
        node = node.children[0]
    if node.kind != "coalesce_partitions" or node.children[0].kind != "arrow_scan" or len(root.inputs) != 1:
        return None
    gathered = codec.fields_of(node)
    if gathered.HasField("fetch"):
        limits.append(gathered.fetch - skip_rows)
    fetch_rows = max(0, min(limits)) if limits else None
    return Gather(stage=root.inputs[0], skip_rows=skip_rows, fetch_rows=fetch_rows)


def early_gather(graph: StageGraph, *, enabled: bool) -> Gather | None:
    """Return what the root of a query hands over while its input is still made; None if it waits for all of it."""
    return gather_of(graph.root) if not why_whole(graph, enabled=enabled) else None


def why_whole(graph: StageGraph, *, enabled: bool) -> str:
    """Return why a root waits until all of its input is made; empty if it hands rows over as tasks commit.

    Args:
        graph: The stages of the query.
        enabled: Whether the session's settings let rows be handed over early.
    """
    gather = gather_of(graph.root)
    if gather is None or graph.stages[gather.stage].output != "gather":
        return COMPUTES
    return "" if enabled else OFF
