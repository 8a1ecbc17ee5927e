"""Rule: a wide shuffle through a bucket goes by way of a stage that puts its many small pieces together."""

from __future__ import annotations

from apiary_df.plan import codec
from apiary_df.plan.operators import UNKNOWN_BYTES, partition_count, source_bytes
from apiary_df.plan.rules.options import RewriteOptions
from apiary_df.plan.tree import PlanNode, transform_up


def combine_wide_shuffles(plan: PlanNode, options: RewriteOptions) -> PlanNode:
    """Put a second repartition, by the same hash, above each that is cheaper so.

    M tasks into N partitions are M x N reads. With tasks between them that each read some partitions of some of the
    first tasks, and write them as they are, there are far fewer, and the rows are written twice. Which is cheaper
    :meth:`apiary_df.costs.ShufflePlanning.saved_dollars` says of the counts and bytes that the plan expects. One
    process that runs the plan hashes its rows twice.
    """
    planning = options.shuffles
    if planning is None:
        return plan

    def combine(node: PlanNode) -> PlanNode:
        hashing = codec.hash_of_repartition(node)
        # What one task shuffles is in order within each partition, and the plan may rest on that.
        if hashing is None or codec.keeps_order(node) or (producers := partition_count(node.children[0])) == 1:
            return node
        size_bytes = source_bytes(node.children[0])
        if size_bytes >= UNKNOWN_BYTES or not planning.combines(producers, hashing[1], size_bytes):
            return node
        return codec.hash_repartition(node, *hashing)

    return transform_up(plan, combine)
