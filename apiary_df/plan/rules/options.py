"""What the rules are told beside the plan."""

from __future__ import annotations

from dataclasses import dataclass

from apiary_df.config import REUSE_FROM_VALUES
from apiary_df.costs import ShufflePlanning
from apiary_df.plan.operators import EMBED_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteOptions:
    """Settings of the rewrite.

    Attributes:
        partitions: Output partitions of a shuffle that a rule inserts, >= 1.
        small_bytes: A subtree that reads at most this many bytes of source data runs whole inside its
            consumer; 0 keeps every exchange.
        embed_bytes: In-memory tables of at most this many bytes travel inside the fragments that read them; larger
            ones are stored once, by the session, and shared out like a shuffle's partitions.
        shuffles: Tells which shuffles are combined on their way; None where requests cost nothing, and none is.
        reuse_from_values: Rows that lie together by some of an operator's keys, since an earlier shuffle, are not
            shuffled again if these may have so many values for each partition; 0: all shuffles stay.
        bee_bytes: Memory of the smallest bee that may get a task; None where memory is no matter.
    """

    partitions: int
    small_bytes: int
    embed_bytes: int = EMBED_BYTES
    bee_bytes: int | None = None
    reuse_from_values: float = REUSE_FROM_VALUES
    shuffles: ShufflePlanning | None = None
