"""Whose turn it is, for all ways in which work can arrive and end."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from apiary_df.worker.turns import PASSED_OVER, Turns

SLOTS = 4


@dataclass(frozen=True)
class Work:
    number: int
    session: str
    query: str
    slots: int


@st.composite
def arrivals(draw: st.DrawFn, widest: int = SLOTS) -> list[list[Work]]:
    """Work that arrives before each step; some sessions have several queries, some queries many tasks."""
    number = 0
    steps: list[list[Work]] = []
    for _ in range(draw(st.integers(1, 20))):
        step: list[Work] = []
        for _ in range(draw(st.integers(0, 6))):
            session = draw(st.sampled_from("abc"))
            query = session + draw(st.sampled_from("123"))
            slots = draw(st.sampled_from([1, 1, 1, widest]) | st.integers(1, widest))
            step.append(Work(number, session, query, slots))
            number += 1
        steps.append(step)
    return steps


@dataclass
class Bees:
    """A node as the turns see it: slots that are taken and fall free again. It checks what must always hold."""

    turns: Turns[Work]
    waiting: dict[str, list[Work]]
    running: list[Work]
    served: list[Work]

    @classmethod
    def new(cls) -> Bees:
        return cls(Turns(), {}, [], [])

    @property
    def free(self) -> int:
        return SLOTS - sum(work.slots for work in self.running)

    def arrive(self, work: Work) -> None:
        self.turns.add(work, session=work.session, query=work.query, slots=work.slots)
        self.waiting.setdefault(work.query, []).append(work)

    def take_all(self) -> None:
        while (work := self.turns.take(self.free)) is not None:
            assert work.slots <= self.free
            assert self.waiting[work.query].pop(0) is work, "within a query, first come is first served"
            self.running.append(work)
            self.served.append(work)

    def firsts(self) -> list[Work]:
        return [entries[0] for entries in self.waiting.values() if entries]


@given(arrivals(), st.randoms(use_true_random=False))
def test_everything_is_served_exactly_once_and_in_order_within_a_query(
    steps: list[list[Work]], chance: random.Random
) -> None:
    bees = Bees.new()
    for step in steps:
        for work in step:
            bees.arrive(work)
        bees.take_all()
        if bees.running:
            bees.running.pop(chance.randrange(len(bees.running)))
    while bees.running or len(bees.turns):
        bees.take_all()
        assert bees.running, "work waits, and nothing runs"
        bees.running.pop(0)
    assert Counter(work.number for work in bees.served) == Counter(work.number for step in steps for work in step)


@given(arrivals(widest=1))
def test_no_slot_is_idle_while_narrow_work_waits(steps: list[list[Work]]) -> None:
    bees = Bees.new()
    for step in steps:
        for work in step:
            bees.arrive(work)
        bees.take_all()
        assert bees.free == 0 or not len(bees.turns)
        if bees.running:
            bees.running.pop(0)


@given(arrivals(), st.randoms(use_true_random=False))
def test_idle_slots_are_kept_for_wide_work_only_after_it_was_passed_over(
    steps: list[list[Work]], chance: random.Random
) -> None:
    bees = Bees.new()
    came: dict[int, int] = {}
    for step in steps:
        for work in step:
            came[work.number] = len(bees.served)
            bees.arrive(work)
        bees.take_all()
        if any(work.slots <= bees.free for work in bees.firsts()):
            overtaken = [len(bees.served) - came[work.number] for work in bees.firsts() if work.slots > bees.free]
            assert max(overtaken) >= PASSED_OVER
        if bees.running:
            bees.running.pop(chance.randrange(len(bees.running)))


@given(arrivals(), st.integers(1, SLOTS), st.integers(0, 3))
def test_nobody_starves(steps: list[list[Work]], slots: int, rank: int) -> None:
    """However much else keeps arriving, work is served after a number of others that its own place bounds."""
    bees = Bees.new()
    flood = [work for step in steps for work in step]
    for work in flood:
        bees.arrive(work)
    mine = [Work(-1 - n, "mine", "mine1", slots) for n in range(rank + 1)]
    for work in mine:
        bees.arrive(work)
    sessions, queries = 4, 1
    bound = (rank + 1) * (queries + PASSED_OVER) * sessions
    before = len(bees.served)
    number = len(flood)
    while mine[-1] not in bees.served:
        assert len(bees.served) - before <= bound + SLOTS
        # Whatever is served is replaced at once: the others never run dry.
        for session in "abc":
            bees.arrive(Work(number, session, session + "1", 1))
            number += 1
        bees.take_all()
        bees.running.pop(0)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 3))
def test_two_sessions_get_as_much_whatever_they_ask_for(ours: int, theirs: int, queries: int) -> None:
    turns: Turns[str] = Turns()
    for n in range(ours):
        turns.add("ours", session="a", query=f"a{n % queries}")
    for n in range(theirs):
        turns.add("theirs", session="b", query=f"b{n}")
    both = 2 * min(ours, theirs)
    served = Counter(turns.take(1) for _ in range(both))
    assert served == {"ours": both // 2, "theirs": both // 2}


def test_a_session_that_comes_back_goes_behind_those_that_wait() -> None:
    turns: Turns[str] = Turns()
    for _ in range(3):
        turns.add("b", session="b", query="b1")
        turns.add("c", session="c", query="c1")
    turns.add("a", session="a", query="a1")
    assert [turns.take(1) for _ in range(3)] == ["b", "c", "a"]
    turns.add("a", session="a", query="a2")
    assert [turns.take(1) for _ in range(4)] == ["b", "c", "a", "b"]


def test_wide_work_is_passed_over_a_few_times_and_then_slots_are_kept_for_it() -> None:
    turns: Turns[str] = Turns()
    turns.add("wide", session="a", query="a1", slots=2)
    for _ in range(PASSED_OVER + 5):
        turns.add("narrow", session="b", query="b1")
    assert [turns.take(1) for _ in range(PASSED_OVER + 2)] == ["narrow"] * PASSED_OVER + [None, None]
    assert [turns.take(2), turns.take(1)] == ["wide", "narrow"]
