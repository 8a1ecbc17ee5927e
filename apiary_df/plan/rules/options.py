"""What the rules are told beside the plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteOptions:
    """Settings of the rewrite.

    Attributes:
        partitions: Output partitions of a shuffle that a rule inserts, >= 1.
        small_bytes: A subtree that reads at most this many bytes of source data runs whole inside its
            consumer; 0 keeps every exchange.
    """

    partitions: int
    small_bytes: int
