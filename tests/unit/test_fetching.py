"""Reads of a bucket: within a budget, all of them, and asked for once more when one takes too long."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from apiary_df.connect import Site
from apiary_df.costs import IN_FLIGHT, Latencies
from apiary_df.errors import ObjectDamaged, ObjectMissing, StorageTransient
from apiary_df.fetching import HEDGED_SHARE, Read, Reading, fetch
from apiary_df.store import Data, Store, StoreOptions

AT_ONCE = Latencies(first_byte_s=0.0001, mib_s=0)
LONG = Latencies(first_byte_s=3600, mib_s=0)


class Answering(Store):
    """A bucket whose answers a test gives: told key and number of the request for it, from 0."""

    def __init__(self, answer: Callable[[str, int], bytes | Exception | None]) -> None:
        site = Site(url="s3://nowhere", connect=lambda _: pytest.fail("no request goes out"))
        super().__init__(site, StoreOptions())
        self._answer = answer
        self.asked: Counter[str] = Counter()
        self.given_up: list[str] = []
        self.flying = 0
        self.most_flying = 0
        self.most_bytes = 0
        self._bytes = 0

    async def read_range(self, key: str, start: int, length: int) -> Data:
        number = self.asked[key]
        self.asked[key] += 1
        self.counts.add(get=1)
        self.flying, self._bytes = self.flying + 1, self._bytes + length
        self.most_flying = max(self.most_flying, self.flying)
        self.most_bytes = max(self.most_bytes, self._bytes)
        try:
            await asyncio.sleep(0)
            answer = self._answer(key, number)
            if answer is None:
                await asyncio.Event().wait()  # for ever
            if isinstance(answer, Exception):
                raise answer
            return answer
        except asyncio.CancelledError:
            self.given_up.append(f"{key} {number}")
            raise
        finally:
            self.flying, self._bytes = self.flying - 1, self._bytes - length


def fetched(store: Store, reads: list[Read], reading: Reading) -> dict[str, bytes]:
    found: dict[str, bytes] = {}

    def take(read: Read, data: Data) -> None:
        assert read.key not in found
        found[read.key] = bytes(data)

    fetch(store, reads, take, reading)
    return found


def reads_of(count: int, length: int = 1) -> list[Read]:
    return [Read(key=f"k{i}", start=0, length=length) for i in range(count)]


def test_every_read_is_one_request() -> None:
    store = Answering(lambda key, _: key.encode())
    assert fetched(store, reads_of(300), Reading(latencies=LONG)) == {f"k{i}": f"k{i}".encode() for i in range(300)}
    assert store.counts.snapshot()["get"] == 300
    assert store.counts.snapshot()["hedged"] == 0
    assert store.most_flying == IN_FLIGHT


def test_no_more_bytes_are_in_flight_than_the_budget() -> None:
    store = Answering(lambda key, _: b"")
    fetched(store, reads_of(40, length=10), Reading(latencies=LONG, budget_bytes=35))
    assert store.most_bytes == 30


def test_a_read_above_the_budget_is_made_alone() -> None:
    store = Answering(lambda key, _: b"")
    fetched(store, reads_of(5, length=100), Reading(latencies=LONG, budget_bytes=35))
    assert store.most_bytes == 100


def test_a_read_that_takes_too_long_is_asked_for_once_more() -> None:
    store = Answering(lambda key, number: b"second" if number else None)
    assert fetched(store, reads_of(1), Reading(latencies=AT_ONCE)) == {"k0": b"second"}
    assert store.given_up == ["k0 0"]
    assert store.counts.snapshot()["hedged"] == 1
    assert store.counts.snapshot()["get"] == 2


def test_the_first_answer_counts_though_the_second_request_fails() -> None:
    first_may_end = asyncio.Event()

    class Late(Answering):
        async def read_range(self, key: str, start: int, length: int) -> Data:
            if not self.asked[key]:
                self.asked[key] += 1
                await first_may_end.wait()
                return b"first"
            first_may_end.set()
            raise StorageTransient("503")

    assert fetched(Late(lambda *_: None), reads_of(1), Reading(latencies=AT_ONCE)) == {"k0": b"first"}


def test_few_reads_are_asked_for_once_more_when_all_are_slow() -> None:
    most = 1 + int(60 * HEDGED_SHARE)

    class Slow(Answering):
        """Answers nothing before as many second requests came as may come."""

        def __init__(self) -> None:
            super().__init__(lambda *_: None)
            self.enough = asyncio.Event()

        async def read_range(self, key: str, start: int, length: int) -> Data:
            self.asked[key] += 1
            if sum(self.asked.values()) - len(self.asked) == most:
                self.enough.set()
            await self.enough.wait()
            return b"x"

    store = Slow()
    assert len(fetched(store, reads_of(60), Reading(latencies=AT_ONCE))) == 60
    assert store.counts.snapshot()["hedged"] == most


def test_nothing_is_asked_for_once_more_when_that_is_switched_off() -> None:
    slow = iter([None, b"never"])

    class Slow(Answering):
        async def read_range(self, key: str, start: int, length: int) -> Data:
            self.counts.add(get=1)
            for _ in range(200):
                await asyncio.sleep(0)
            return next(slow) or b"first"

    store = Slow(lambda *_: None)
    assert fetched(store, reads_of(1), Reading(latencies=AT_ONCE, hedge_factor=None)) == {"k0": b"first"}
    assert store.counts.snapshot()["get"] == 1


def test_an_error_ends_the_others() -> None:
    store = Answering(lambda key, _: ObjectMissing("gone", key=key) if key == "k3" else None)
    with pytest.raises(ObjectMissing, match="gone"):
        fetched(store, reads_of(8), Reading(latencies=LONG))
    assert store.flying == 0
    assert len(store.given_up) == 7


def test_damaged_objects_are_told_and_the_others_read() -> None:
    store = Answering(lambda key, _: ObjectDamaged("short", key=key) if key == "k1" else b"x")
    found: list[str] = []
    damaged = fetch(store, reads_of(3), lambda read, _: found.append(read.key), Reading(latencies=LONG))
    assert set(damaged) == {"k1"}
    assert sorted(found) == ["k0", "k2"]


def test_within_an_event_loop_it_works_too() -> None:
    store = Answering(lambda key, _: b"x")

    async def within() -> dict[str, bytes]:
        return fetched(store, reads_of(2), Reading(latencies=LONG))

    assert asyncio.run(within()) == {"k0": b"x", "k1": b"x"}
