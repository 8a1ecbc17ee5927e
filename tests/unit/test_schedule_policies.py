"""Waiting, placing and speculating: the policies that a schedule asks, each by itself."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from plan.schedules import key, partial, spec

from apiary_df.model import TaskKey
from apiary_df.schedule import NodeSight, Policy
from apiary_df.schedule.attempts import Attempt, Outcome, Task
from apiary_df.schedule.backoff import LONGEST_WAIT_S, wait_s
from apiary_df.schedule.placing import choose_node
from apiary_df.schedule.speculation import Course, Underway, stragglers

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


def runs(task: int, runs_s: float, *, left_s: float = 0.0, silent: bool = False) -> Underway:
    return Underway(task=task, sent_s=runs_s, runs_s=runs_s, left_s=left_s, silent=silent)


def waits(task: int, sent_s: float, left_s: float) -> Underway:
    return Underway(task=task, sent_s=sent_s, runs_s=None, left_s=left_s)


def late(underway: Sequence[Underway], took_s: Sequence[float], *, extra: int = 0, idle_bees: int = 9) -> list[int]:
    return [found.task for found in stragglers(underway, took_s, extra=extra, idle_bees=idle_bees, policy=POLICY)]


class TestSpeculation:
    def test_nothing_is_slow_before_half_of_the_stage_is_done(self) -> None:
        underway = [runs(n, 99.0) for n in range(3)]
        assert late(underway, [1.0]) == []
        assert late(underway, [1.0, 1.0, 1.0]) == [0]

    def test_slow_is_what_exceeds_both_the_floor_and_the_siblings(self) -> None:
        found = [late([runs(0, runs_s)], [took_s]) for runs_s, took_s in [(2.9, 1), (3.1, 1), (3.1, 2), (4.1, 2)]]
        assert found == [[], [0], [], [0]]

    def test_what_is_expected_to_need_long_is_late_before_it_is_slow(self) -> None:
        found = [late([runs(0, 3.5, left_s=left_s)], [2.0]) for left_s in (2.9, 3.1)]
        assert found == [[], [0]]
        assert late([runs(0, 2.9, left_s=99.0)], [2.0]) == [], "it was sent just now"

    def test_what_waits_is_late_if_it_would_wait_long_and_counts_towards_no_share(self) -> None:
        queue = [waits(n, 4.0, 10.0 + n) for n in range(5)]
        assert late([*queue, waits(5, 4.0, 2.9), waits(6, 2.9, 99.0)], [2.0] * 9) == [4, 3, 2, 1, 0]
        assert late(queue, [2.0] * 9, idle_bees=2) == [4, 3]
        assert late(queue, [2.0] * 30, extra=9) == [4, 3, 2, 1, 0]

    def test_the_slowest_come_first_and_silent_nodes_before_them(self) -> None:
        assert late([runs(0, 9.0), runs(1, 11.0), runs(2, 0.1, silent=True)], [1.0] * 27) == [2, 1, 0]

    def test_a_single_task_of_a_silent_node_needs_no_siblings(self) -> None:
        assert late([runs(0, 0.0, silent=True)], [], idle_bees=1) == [0]

    def test_it_can_be_switched_off(self) -> None:
        off = Policy(enabled=False)
        assert stragglers([runs(0, 99.0, silent=True)], [1.0], extra=0, idle_bees=9, policy=off) == ()

    @given(
        elapsed=st.lists(st.tuples(st.floats(0, 1e4), st.booleans()), max_size=30),
        done=st.lists(st.floats(0, 1e4), max_size=60),
        extra=st.integers(0, 5),
        idle=st.integers(0, 10),
    )
    def test_there_are_never_more_extra_attempts_than_bees_nor_of_running_ones_than_a_share_of_the_stage(
        self, elapsed: list[tuple[float, bool]], done: list[float], extra: int, idle: int
    ) -> None:
        underway = [waits(n, s, 3 * s) if queued else runs(n, s) for n, (s, queued) in enumerate(elapsed)]
        chosen = stragglers(underway, done, extra=extra, idle_bees=idle, policy=POLICY)
        assert len({found.task for found in chosen}) == len(chosen) <= idle
        assert all(found.waits == elapsed[found.task][1] for found in chosen)
        running = sum(not found.waits for found in chosen)
        total = len(underway) + len(done) + extra
        assert not running or running + extra <= max(1, -(-total // 10))


def tasks_of(stage: int, *attempts: tuple[str, float, float | None]) -> list[Task]:
    """Return tasks of one attempt each: its node, when it was sent, and when it committed."""
    found: list[Task] = []
    for number, (node_id, sent_s, ended_s) in enumerate(attempts):
        task = Task(spec=spec(stage, number, node_id))
        task.begin(Attempt(node_id=node_id, sent_s=sent_s))
        if ended_s is not None:
            task.partial = partial(key(stage, number))
            task.end(0, Outcome.COMMITTED, ended_s)
        found.append(task)
    return found


class TestCourse:
    def test_a_bee_takes_what_was_sent_in_order(self) -> None:
        tasks = tasks_of(0, ("a", 0, 10), ("b", 0, 40), ("a", 0, 20), ("b", 0, None), ("a", 0, 30), ("b", 0, None))
        course = Course([(0, tasks)], {"a": 1, "b": 1}, 50.0)
        assert sorted(course.took_s(0)) == [10, 10, 10, 40]
        runs, queued = (course.underway(tasks[number], ()) for number in (3, 5))
        assert (runs.runs_s, runs.sent_s, runs.left_s) == (10, 50, 30)
        assert (queued.runs_s, queued.left_s) == (None, 30 + 40)
        assert course.is_slow(0, "b")
        assert not course.is_slow(0, "a")
        assert [course.waits(tasks[number]) for number in (3, 5)] == [False, True]

    def test_as_many_run_as_there_are_bees_whatever_their_stage(self) -> None:
        first = tasks_of(0, ("a", 0, None), ("a", 0, 5))
        second = tasks_of(1, ("a", 1, None), ("a", 1, None))
        course = Course([(0, first), (1, second)], {"a": 2}, 9.0)
        assert [course.underway(task, ()).runs_s for task in (first[0], *second)] == [9, 4, None]

    def test_what_a_node_is_doing_tells_how_long_it_takes_as_long_as_it_has_done_nothing(self) -> None:
        tasks = tasks_of(0, ("a", 0, 2), ("a", 0, 4), ("b", 0, None), ("b", 0, None))
        course = Course([(0, tasks)], {}, 7.0)
        assert course.underway(tasks[3], ()).left_s == 7
        assert course.is_slow(0, "b")

    def test_a_node_that_was_slow_is_expected_to_be_slow_again(self) -> None:
        before = tasks_of(0, ("a", 0, 10), ("b", 0, 40), ("c", 0, 10))
        now = tasks_of(1, ("a", 40, 60), ("b", 40, None), ("c", 40, 60))
        course = Course([(0, before), (1, now)], {}, 60.0)
        assert course.underway(now[1], ()).left_s == 4 * 20 - 20
        shorter = tasks_of(0, ("a", 0, 0.1), ("b", 0, 0.4), ("c", 0, 0.1))
        assert Course([(0, shorter), (1, now)], {}, 60.0).underway(now[1], ()).left_s == 0

    def test_of_commits_that_are_seen_at_once_only_the_sum_is_known(self) -> None:
        tasks = tasks_of(0, *[("a", 0, 6)] * 3, ("b", 0, 2))
        assert sorted(Course([(0, tasks)], {}, 9.0).took_s(0)) == [2, 2, 2, 2]

    def test_attempts_out_of_order_count_from_when_they_were_sent(self) -> None:
        tasks = tasks_of(0, ("a", 1, None), ("a", 2, 5))
        assert Course([(0, tasks)], {}, 9.0).took_s(0) == [3]
