"""What requests to a store cost, in dollars and in time: a model, pure, over prices and latencies that are settings.

What belongs here: arithmetic on counts of requests and bytes. What does not: counting them (``store``), and acting upon
the outcome.

The model of a shuffle of M producers into N consumers. Each producer writes one object and a commit record, or both as
one object, if that is not too large. *Direct*:
every consumer reads one range of every producer's object, M x N requests. *Combined*: between them stand tasks that
put together what A groups of producers have for B groups of partitions; each writes one object again. Each producer's
object is then read once for each group of partitions, and each consumer reads one object for each group of
producers: B x M + A x N requests, and A x B more objects. The idea is that of Starling (SIGMOD 2020, section 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from apiary_df.config import Settings
from apiary_df.units import MIB

PUTS_A_TASK = 2
"""Objects that a task of a shuffle writes, at most: its partial, and the record that commits it."""

STAGE_REQUESTS = 5
"""Requests that follow each other from the end of a stage's inputs to its own end, at most."""

MOST_GROUPS = 64
"""Groups of producers, or of partitions, that are tried for a combining stage: the best is near the square root."""

IN_FLIGHT = 64
"""Requests that a task has under way at a time, at most: they hide a bucket's latency long before they use its request
limit up."""

NO_REQUESTS = frozenset({"bytes_in", "bytes_out", "hedged"})
"""What counts of requests hold besides: bytes, and how many of the requests were second ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Dollars for a thousand requests of a kind.

    Attributes:
        put: Writing, copying.
        list: Listing, each page.
        get: Reading, and looking up.
    """

    put: float = 0.005
    list: float = 0.005
    get: float = 0.0004

    @classmethod
    def of(cls, settings: Settings) -> Prices:
        """Return the prices that settings name."""
        return cls(
            put=settings.dollars_per_1000_puts,
            list=settings.dollars_per_1000_lists,
            get=settings.dollars_per_1000_gets,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """How long a request takes.

    Attributes:
        first_byte_s: Seconds to the first byte.
        mib_s: Seconds for each further MiB of one request.
    """

    first_byte_s: float = 0.03
    mib_s: float = 0.02

    @classmethod
    def of(cls, settings: Settings) -> Latencies:
        """Return the latencies that settings name."""
        return cls(first_byte_s=settings.first_byte_s, mib_s=settings.mib_s)

    def expected_s(self, size_bytes: int) -> float:
        """Return how long one request for so many bytes should take, in seconds."""
        return self.first_byte_s + self.mib_s * size_bytes / MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleCost:
    """What a shuffle costs by the model.

    Attributes:
        puts: Objects written.
        gets: Ranges read, before those that a small partial saves.
        dollars: What both cost.
        seconds: From the producers' last record to the consumers' last byte.
        producer_groups: Groups of producers that are combined; 0 if nothing is.
        partition_groups: Groups of partitions; 0 if nothing is combined.
    """

    puts: int
    gets: int
    dollars: float
    seconds: float
    producer_groups: int = 0
    partition_groups: int = 0

    @property
    def combiners(self) -> int:
        """Tasks of the combining stage; 0 without one."""
        return self.producer_groups * self.partition_groups


def dollars(requests: Mapping[str, int], prices: Prices) -> float:
    """Return what requests cost, by kind as a store counts them; deletes and bytes cost nothing."""
    thousand = {"put": prices.put, "list": prices.list, "get": prices.get, "head": prices.get}
    return sum(count * thousand.get(kind, 0.0) / 1000 for kind, count in requests.items())


def in_all(requests: Mapping[str, int]) -> int:
    """Return how many requests there were, of all kinds."""
    return sum(count for kind, count in requests.items() if kind not in NO_REQUESTS)


def direct(
    producers: int, consumers: int, size_bytes: int, prices: Prices, latencies: Latencies, *, attached_bytes: int = 0
) -> ShuffleCost:
    """Return what a shuffle costs whose consumers read the producers' own objects.

    Args:
        producers: Tasks that write, >= 1.
        consumers: Tasks that read, >= 1.
        size_bytes: Bytes that change hands in all.
        prices: Prices.
        latencies: Latencies.
        attached_bytes: Size up to which what a task writes is one object with its commit record.
    """
    puts, gets = _puts(producers, size_bytes, attached_bytes), producers * consumers
    return ShuffleCost(
        puts=puts,
        gets=gets,
        dollars=dollars({"put": puts, "get": gets}, prices),
        seconds=_reading_s(producers, size_bytes / consumers, latencies),
    )


def combined(
    producers: int,
    consumers: int,
    size_bytes: int,
    prices: Prices,
    latencies: Latencies,
    *,
    least_combiners: int = 1,
    attached_bytes: int = 0,
) -> ShuffleCost:
    """Return what the shuffle costs with a combining stage whose groups are as cheap as any.

    Args:
        producers: Tasks that write, >= 1.
        consumers: Tasks that read, >= 1.
        size_bytes: Bytes that change hands in all.
        prices: Prices.
        latencies: Latencies.
        least_combiners: Tasks that the combining stage must have, as far as there are producers and consumers for so
            many: with fewer than there are bees, some would have nothing to do.
        attached_bytes: As in :func:`direct`.
    """

    def shaped(groups: int, parts: int) -> ShuffleCost:
        combiners = groups * parts
        puts = _puts(producers, size_bytes, attached_bytes) + _puts(combiners, size_bytes, attached_bytes)
        requests = {"put": puts, "get": parts * producers + groups * consumers}
        share_bytes = size_bytes / combiners
        seconds = _reading_s(math.ceil(producers / groups), share_bytes, latencies)
        seconds += STAGE_REQUESTS * latencies.first_byte_s + latencies.mib_s * share_bytes / MIB
        seconds += _reading_s(groups, size_bytes / consumers, latencies)
        return ShuffleCost(
            puts=requests["put"],
            gets=requests["get"],
            dollars=dollars(requests, prices),
            seconds=seconds,
            producer_groups=groups,
            partition_groups=parts,
        )

    most_groups, most_parts = min(producers, MOST_GROUPS), min(consumers, MOST_GROUPS)
    least = min(least_combiners, most_groups * most_parts)
    # Each further group costs more, so of partitions there are just as many as make enough tasks.
    sides = ((groups, math.ceil(least / groups)) for groups in range(1, most_groups + 1))
    shapes = (shaped(groups, parts) for groups, parts in sides if parts <= most_parts)
    return min(shapes, key=lambda cost: (cost.dollars, cost.seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShufflePlanning:
    """By what it is decided whether, and how, the pieces of a shuffle are put together on their way.

    Attributes:
        from_dollars: What a combining stage must save in requests.
        bees: Tasks that can run at a time, >= 1.
        task_bytes: Bytes below which a task is not worth its start: neighbouring partitions are read by one task.
        prices: Prices.
        latencies: Latencies.
        attached_bytes: Size up to which what a task writes is one object with its commit record.
    """

    from_dollars: float = 0.05
    bees: int = 1
    task_bytes: int = 0
    prices: Prices = Prices()
    latencies: Latencies = Latencies()
    attached_bytes: int = 0

    @classmethod
    def of(cls, settings: Settings, bees: int = 1) -> ShufflePlanning:
        """Return how shuffles are planned by a session's settings, for so many bees."""
        return cls(
            from_dollars=settings.combine_from_dollars,
            bees=max(1, bees),
            task_bytes=settings.min_task_bytes,
            prices=Prices.of(settings),
            latencies=Latencies.of(settings),
            attached_bytes=settings.attached_partial_bytes or 0,
        )

    def combines(self, producers: int, partitions: int, size_bytes: int) -> bool:
        """Whether a shuffle goes through a combining stage.

        Args:
            producers: Partitions of the plan below the shuffle, >= 1.
            partitions: Partitions of the shuffle, >= 1.
            size_bytes: Bytes that change hands, at most: no more tasks write or read than these are worth.
        """
        most = max(1, size_bytes // self.task_bytes) if self.task_bytes else max(producers, partitions)
        producing, consuming = min(producers, most), min(partitions, most)
        given = self.prices, self.latencies
        plain = direct(producing, consuming, size_bytes, *given, attached_bytes=self.attached_bytes)
        if plain.dollars < self.from_dollars:
            return False
        return plain.dollars - self.shape(producing, consuming, size_bytes).dollars >= self.from_dollars

    def shape(self, producers: int, consumers: int, size_bytes: int) -> ShuffleCost:
        """Return the cheapest combining stage that has work for all bees."""
        return combined(
            producers,
            consumers,
            size_bytes,
            self.prices,
            self.latencies,
            least_combiners=self.bees,
            attached_bytes=self.attached_bytes,
        )


def _puts(tasks: int, size_bytes: int, attached_bytes: int) -> int:
    """Return how many objects tasks write that share so many bytes evenly."""
    return tasks * (PUTS_A_TASK if size_bytes > tasks * attached_bytes else 1)


def _reading_s(objects: int, size_bytes: float, latencies: Latencies) -> float:
    """Return how long one task reads its share, spread evenly over so many objects, several requests at a time."""
    rounds = math.ceil(objects / IN_FLIGHT)
    return rounds * (latencies.first_byte_s + latencies.mib_s * size_bytes / objects / MIB)
