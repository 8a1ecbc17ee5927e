"""Waiting, placing and speculating: the policies that a schedule asks, each by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apiary_df.model import TaskKey
from apiary_df.schedule import NodeSight, Policy
from apiary_df.schedule.backoff import LONGEST_WAIT_S, wait_s
from apiary_df.schedule.placing import choose_node
from apiary_df.schedule.speculation import Running, stragglers

FAILED = TaskKey(query_id="q", stage=0, task=3, attempt=1)
POLICY = Policy(factor=2.0, after_s=3.0)


class TestWaiting:
    def test_waits_double_up_to_the_longest(self) -> None:
        waits = [wait_s(FAILED, failures, first_s=1.0, now_s=0.0, deadline_s=None) for failures in (1, 2, 3, 30)]
        assert [wait / waits[0] for wait in waits[:3]] == [1.0, 2.0, 4.0]
        assert waits[3] <= LONGEST_WAIT_S

    def test_tasks_that_failed_together_come_back_apart(self) -> None:
        waits = {
            wait_s(TaskKey(query_id="q", stage=0, task=n), 1, first_s=1.0, now_s=0.0, deadline_s=None)
            for n in range(50)
        }
        assert len(waits) == 50

    @given(
        failures=st.integers(1, 10_000),
        first_s=st.floats(0, 3600),
        now_s=st.floats(0, 1e6),
        left_s=st.none() | st.floats(-10, 1e4),
    )
    def test_a_wait_is_never_longer_than_allowed_and_always_the_same(
        self, failures: int, first_s: float, now_s: float, left_s: float | None
    ) -> None:
        deadline_s = None if left_s is None else now_s + left_s
        waited_s = wait_s(FAILED, failures, first_s=first_s, now_s=now_s, deadline_s=deadline_s)
        assert 0.0 <= waited_s <= LONGEST_WAIT_S
        assert deadline_s is None or now_s + waited_s <= max(now_s, deadline_s)
        assert waited_s == wait_s(FAILED, failures, first_s=first_s, now_s=now_s, deadline_s=deadline_s)


class TestPlacing:
    def test_a_node_that_failed_is_taken_only_if_there_is_no_other(self) -> None:
        a, b = NodeSight(node_id="a"), NodeSight(node_id="b", idle_bees=0)
        assert choose_node([a, b], avoided={"a"}) == b
        assert choose_node([a], avoided={"a"}) == a

    def test_a_node_that_refused_is_never_taken(self) -> None:
        assert choose_node([NodeSight(node_id="a")], refused={"a"}) is None

    def test_what_was_given_since_counts_as_load(self) -> None:
        a, b = (NodeSight(node_id=n, bees_total=2, idle_bees=2) for n in "ab")
        assert choose_node([a, b], given={"a": 1}) == b

    def test_unusable_nodes_and_those_without_bees_get_nothing(self) -> None:
        assert choose_node([NodeSight(node_id="a", usable=False), NodeSight(node_id="b", bees_total=0)]) is None


class TestSpeculation:
    def test_nothing_is_slow_before_half_of_the_stage_is_done(self) -> None:
        running = [Running(task=n, elapsed_s=99.0) for n in range(3)]
        assert stragglers(running, [1.0], extra=0, idle_bees=9, policy=POLICY) == ()
        assert stragglers(running, [1.0, 1.0, 1.0], extra=0, idle_bees=9, policy=POLICY) == (0,)

    def test_slow_is_what_exceeds_both_the_floor_and_the_siblings(self) -> None:
        def late(elapsed_s: float, took_s: float) -> bool:
            return bool(
                stragglers([Running(task=0, elapsed_s=elapsed_s)], [took_s], extra=0, idle_bees=1, policy=POLICY)
            )

        assert [late(2.9, 1.0), late(3.1, 1.0), late(3.1, 2.0), late(4.1, 2.0)] == [False, True, False, True]

    def test_the_slowest_come_first_and_silent_nodes_before_them(self) -> None:
        running = [
            Running(task=0, elapsed_s=9.0),
            Running(task=1, elapsed_s=11.0),
            Running(task=2, elapsed_s=0.1, silent=True),
        ]
        done = [1.0] * 27
        assert stragglers(running, done, extra=0, idle_bees=9, policy=POLICY) == (2, 1, 0)

    def test_a_single_task_of_a_silent_node_needs_no_siblings(self) -> None:
        assert stragglers([Running(task=0, elapsed_s=0.0, silent=True)], [], extra=0, idle_bees=1, policy=POLICY) == (
            0,
        )

    def test_it_can_be_switched_off(self) -> None:
        off = Policy(enabled=False)
        running = [Running(task=0, elapsed_s=99.0, silent=True)]
        assert stragglers(running, [1.0], extra=0, idle_bees=9, policy=off) == ()

    @given(
        elapsed=st.lists(st.floats(0, 1e4), max_size=30),
        done=st.lists(st.floats(0, 1e4), max_size=60),
        extra=st.integers(0, 5),
        idle=st.integers(0, 10),
    )
    def test_there_are_never_more_extra_attempts_than_bees_or_a_share_of_the_stage(
        self, elapsed: list[float], done: list[float], extra: int, idle: int
    ) -> None:
        running = [Running(task=n, elapsed_s=s) for n, s in enumerate(elapsed)]
        chosen = stragglers(running, done, extra=extra, idle_bees=idle, policy=POLICY)
        assert len(set(chosen)) == len(chosen) <= idle
        total = len(running) + len(done) + extra
        assert not chosen or len(chosen) + extra <= max(1, -(-total // 10))
