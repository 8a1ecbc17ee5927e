"""Turning a plan of many partitions into the same plan of one."""

from __future__ import annotations

from apiary_df.plan import codec
from apiary_df.plan.operators import partition_count
from apiary_df.plan.tree import PlanNode, transform_up


def to_single_partition(plan: PlanNode) -> PlanNode:
    """Return a plan with the same rows that runs in one partition wherever its scans allow it.

    Scans get one file group, and in-memory tables a gather, unless the order of their files or partitions is declared
    (then these, and the merge above them, stay). Shuffles go away: over one partition, every row is in the right one.
    Gathers over one partition that limit nothing go away too.
    """
    return transform_up(plan, _single)


def _single(node: PlanNode) -> PlanNode:
    if node.is_file_scan:
        groups = codec.scan_groups(node)
        if len(groups) <= 1 or codec.scan_conf(node).output_ordering:
            return node
        return codec.with_scan_groups(node, [[file for group in groups for file in group]])
    if node.kind == "memory_scan":
        fields = codec.fields_of(node)
        return node if len(fields.partitions) <= 1 or fields.sort_information else codec.coalesce(node)
    if node.kind == "repartition":
        child = node.children[0]
        return child if partition_count(child) == 1 else codec.coalesce(child)
    if node.kind == "interleave":
        return codec.coalesce(codec.union(node.children))
    if node.kind == "coalesce_partitions" and partition_count(node.children[0]) == 1:
        fields = codec.fields_of(node)
        if not fields.HasField("fetch"):
            return node.children[0]
    return node
