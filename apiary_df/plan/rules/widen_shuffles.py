"""Rule: shuffles below operators that cannot spill get as many partitions as their data needs."""

from __future__ import annotations

from apiary_df.plan import codec
from apiary_df.plan.operators import UNKNOWN_BYTES, source_bytes
from apiary_df.plan.rules.options import RewriteOptions
from apiary_df.plan.tree import PlanNode, transform_up

DECODED_FACTOR = 3
"""Bytes in memory for one in a source file: columns of Parquet files are encoded, and a join adds its hash table."""

HELD_SHARE = 0.375
"""Share of a bee's memory that one partition may take in an operator that holds it whole; half of its engine's pool."""

MAX_SHUFFLE_PARTITIONS = 256
"""Most partitions that a shuffle is widened to: a task that writes them has a thread, and buffers, for each."""


def widen_shuffles(plan: PlanNode, options: RewriteOptions) -> PlanNode:
    """Give all shuffles more partitions, if one partition of what a hash join or a window holds would not fit a bee.

    Neither spills: what does not fit a bee's budget would end the task. What goes into them is estimated from the
    files below. All shuffles get the same count, since inputs of one operator must agree.
    """
    if options.bee_bytes is None:
        return plan
    held_bytes = max((source_bytes(held) for node in plan.walk() if (held := _held_by(node)) is not None), default=0)
    if held_bytes >= UNKNOWN_BYTES:
        return plan
    needed = -(-held_bytes * DECODED_FACTOR // max(1, int(options.bee_bytes * HELD_SHARE)))
    count = min(needed, MAX_SHUFFLE_PARTITIONS)

    def widen(node: PlanNode) -> PlanNode:
        hashing = codec.hash_of_repartition(node)
        if hashing is None or hashing[1] >= count or codec.keeps_order(node):
            return node
        return codec.hash_repartition(node.children[0], hashing[0], count)

    return plan if count <= options.partitions else transform_up(plan, widen)


def _held_by(node: PlanNode) -> PlanNode | None:
    """Return the input of which an operator holds all rows of a task, None if it holds none or can spill them."""
    if node.kind == "hash_join" and codec.fields_of(node).partition_mode == codec.PARTITIONED:
        return node.children[0]
    if node.kind == "window" and not codec.is_bounded_window(node) and codec.fields_of(node).partition_keys:
        return node.children[0]
    return None
