"""Many reads of a bucket at a time: in flight within a budget, and asked for once more when one takes too long.

What belongs here: how reads are made. What does not: what is read, and what its bytes mean (``protocol``).
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from apiary_df.config import Settings
from apiary_df.costs import IN_FLIGHT, Latencies
from apiary_df.errors import ObjectDamaged
from apiary_df.store import Data, Store
from apiary_df.units import MIB

HEDGED_SHARE = 0.05
"""Share of the reads that are asked for once more at most, but for one: when all are slow, more are slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How reads are made.

    Attributes:
        budget_bytes: Bytes in flight at a time; a single larger read is made alone.
        hedge_factor: How many times the expected time a read may take before it is asked for once more; None: never.
        latencies: What is expected of the store.
    """

    budget_bytes: int = 64 * MIB
    hedge_factor: float | None = 4.0
    latencies: Latencies = field(default_factory=Latencies)

    @classmethod
    def of(cls, settings: Settings) -> Reading:
        """Return how settings have reads made."""
        return cls(
            budget_bytes=settings.fetch_bytes,
            hedge_factor=settings.hedge_factor if settings.hedge else None,
            latencies=Latencies.of(settings),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A range of an object.

    Attributes:
        key: The object.
        start: First byte.
        length: Bytes, >= 1.
        place: Where they go, for who reads to know.
        file: In which file, likewise.
    """

    key: str
    start: int
    length: int
    place: int = 0
    file: int = 0


Take = Callable[[Read, Data], None]
"""Told each read's bytes, one read at a time, in no certain order."""


def fetch(store: Store, reads: Sequence[Read], take: Take, reading: Reading) -> Mapping[str, ObjectDamaged]:
    """Make reads, each of which is one request unless it is asked for once more.

    Args:
        store: The store.
        reads: What to read.
        take: Told what was read.
        reading: How.

    Returns:
        Objects that ended before a read of them did, by key; all else was read.

    Raises:
        ObjectMissing: There is no such object.
        StorageTransient: The store failed, still after the retries.
        StorageError: The store refused.
    """
    if not reads:
        # All came with the task: no event loop for nothing.
        return {}
    if store.kind != "bucket":
        return _one_by_one(store, reads, take)
    fetcher = _Fetcher(store, take, reading, len(reads))
    # In a thread of its own: whoever calls may be within an event loop already.
    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
        running = pool.submit(asyncio.run, fetcher.run(reads))
        try:
            running.result()
        finally:
            if not running.done():  # the caller is interrupted
                fetcher.stop()
    return fetcher.damaged


def _one_by_one(store: Store, reads: Sequence[Read], take: Take) -> Mapping[str, ObjectDamaged]:
    damaged: dict[str, ObjectDamaged] = {}
    for read in reads:
        try:
            take(read, store.get_range(read.key, read.start, read.length))
        except ObjectDamaged as error:
            damaged[read.key] = error
    return damaged


class _Fetcher:
    def __init__(self, store: Store, take: Take, reading: Reading, reads: int) -> None:
        self.damaged: dict[str, ObjectDamaged] = {}
        self._store = store
        self._take = take
        self._reading = reading
        self._hedges_left = 1 + int(reads * HEDGED_SHARE)
        self._took_s: list[float] = []
        self._main: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    def stop(self) -> None:
        """Break off what is under way; from another thread."""
        if self._main is not None:
            loop, task = self._main
            with suppress(RuntimeError):  # it ended just now
                loop.call_soon_threadsafe(task.cancel)

    async def run(self, reads: Sequence[Read]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._main = (asyncio.get_running_loop(), task)
        waiting = list(reversed(reads))
        flying: dict[asyncio.Task[None], int] = {}
        try:
            while waiting or flying:
                while waiting and self._has_room(waiting[-1].length, flying):
                    read = waiting.pop()
                    flying[asyncio.create_task(self._read(read))] = read.length
                done, _ = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
                for ended in done:
                    del flying[ended]
                    ended.result()
        finally:
            await _cancelled(flying)

    def _has_room(self, length: int, flying: Mapping[asyncio.Task[None], int]) -> bool:
        if not flying:
            return True
        return len(flying) < IN_FLIGHT and sum(flying.values()) + length <= self._reading.budget_bytes

    async def _read(self, read: Read) -> None:
        begun_s = time.monotonic()
        try:
            data = await self._hedged(read)
        except ObjectDamaged as error:
            self.damaged[read.key] = error
            return
        self._took_s.append(time.monotonic() - begun_s)
        self._take(read, data)

    async def _hedged(self, read: Read) -> Data:
        """Return what the first of two requests answers, the second of which is made when the first takes too long."""
        tasks = {asyncio.create_task(self._store.read_range(read.key, read.start, read.length))}
        try:
            await asyncio.wait(tasks, timeout=self._patience_s(read))
            if not any(task.done() for task in tasks) and self._hedges_left:
                self._hedges_left -= 1
                self._store.counts.add(hedged=1)
                tasks.add(asyncio.create_task(self._store.read_range(read.key, read.start, read.length)))
            pending = set(tasks)
            while True:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                good = next((task for task in done if task.exception() is None), None)
                if good is not None or not pending:
                    return (good or done.pop()).result()
        finally:
            await _cancelled(tasks)

    def _patience_s(self, read: Read) -> float | None:
        """Return how long the first request has: several times what the model says, or what others took."""
        if self._reading.hedge_factor is None:
            return None
        usual_s = statistics.median(self._took_s) if self._took_s else 0.0
        return self._reading.hedge_factor * max(self._reading.latencies.expected_s(read.length), usual_s)


async def _cancelled(tasks: Mapping[asyncio.Task[None], int] | set[asyncio.Task[Data]]) -> None:
    """Cancel tasks that are not done, and see them end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
