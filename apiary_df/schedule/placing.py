"""Which node makes the next attempt at a task. Pure; where first attempts go is :mod:`apiary_df.tasks`' business."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from apiary_df.schedule.events import NodeSight


def choose_node(
    nodes: Iterable[NodeSight],
    *,
    avoided: Collection[str] = (),
    refused: Collection[str] = (),
    given: Mapping[str, int] | None = None,
    slots: int = 1,
) -> NodeSight | None:
    """Return the node for the next attempt; None if there is none for it.

    An attempt that ran out of memory goes where it gets the most; else one that failed goes to another node, and of
    those to the one with the least work for its bees.

    Args:
        nodes: Nodes that live.
        avoided: Nodes that have failed at the task, to be taken only if there is no other.
        refused: Nodes that said that they never can do it.
        given: Attempts that were given to nodes since these were seen.
        slots: Bees' shares of memory that the attempt asks for; more than one if it ran out of memory before.
    """
    fit = [node for node in nodes if node.usable and node.bees_total and node.node_id not in refused]
    counts = given or {}

    def rank(node: NodeSight) -> tuple[int, bool, float, str]:
        memory_bytes = node.memory_per_bee * min(slots, node.bees_total) if slots > 1 else 0
        load = (node.bees_total - node.idle_bees + counts.get(node.node_id, 0)) / node.bees_total
        return (-memory_bytes, node.node_id in avoided, load, node.node_id)

    return min(fit, key=rank, default=None)
