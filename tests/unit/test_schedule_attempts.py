"""When another attempt is made, with how much memory, and beside which."""

from __future__ import annotations

from plan.schedules import (
    CHAIN,
    QUERY,
    committed,
    erred,
    key,
    running,
    seen,
    sent,
    sent_to,
    specs,
    tell,
    transient,
)

from apiary_df.errors import (
    ResourcesExhausted,
)
from apiary_df.model import NodeState
from apiary_df.schedule import (
    NodeSight,
    NodesSeen,
    Policy,
    RunRoot,
    Schedule,
    SendTasks,
    StagePlanned,
    Started,
    StopTasks,
    Tick,
)

# -- waiting before another attempt ---------------------------------------------------------------------------------


def patient(*, max_attempts: int = 4, deadline_s: float | None = None) -> Schedule:
    """Return a schedule of one task on node a, which waits up to a second before it tries again."""
    schedule = Schedule(QUERY, CHAIN, max_attempts=max_attempts, retry_after_s=1.0)
    tell(schedule, Started(deadline_s=deadline_s))
    tell(schedule, seen("a", "b"))
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 1, "a")))
    return schedule


def test_a_task_that_failed_is_sent_again_after_a_while_elsewhere() -> None:
    schedule = patient()
    assert tell(schedule, erred(0, 0, 0, transient()), 10.0) == ()
    assert schedule.pending() == ()
    assert [task.epoch for task in schedule.open_tasks()] == [0]
    assert tell(schedule, Tick(), 10.4) == ()
    again = tell(schedule, Tick(), 11.0)
    assert (sent(again), sent_to(again)) == ([(0, 0, 1)], ["b"])
    assert tell(schedule, Tick(), 12.0) == ()


def test_the_second_wait_is_longer() -> None:
    schedule = patient()
    tell(schedule, erred(0, 0, 0, transient()), 0.0)
    tell(schedule, Tick(), 1.0)
    tell(schedule, erred(0, 0, 1, transient(), node_id="b"), 1.0)
    assert tell(schedule, Tick(), 1.9) == ()
    assert sent(tell(schedule, Tick(), 3.0)) == [(0, 0, 2)]


def test_no_wait_goes_beyond_the_deadline() -> None:
    schedule = patient(deadline_s=10.1)
    tell(schedule, erred(0, 0, 0, transient()), 10.0)
    assert sent(tell(schedule, Tick(), 10.05)) == [(0, 0, 1)]


def test_a_commit_of_an_attempt_before_the_wait_ends_it() -> None:
    schedule = patient()
    tell(schedule, seen("b"))
    tell(schedule, erred(0, 0, 1, transient(), node_id="b"))
    assert tell(schedule, committed(0, 0, attempt=0)) == (RunRoot(),)
    assert tell(schedule, Tick(), 60.0) == ()


# -- more memory ------------------------------------------------------------------------------------------------------


def exhausted() -> ResourcesExhausted:
    return ResourcesExhausted("the bee's budget did not suffice")


def test_a_task_that_ran_out_of_memory_gets_twice_as_much_up_to_all_of_the_node() -> None:
    schedule = Schedule(QUERY, CHAIN, max_attempts=9)
    tell(schedule, Started())
    tell(schedule, seen("a", bees_total=6, idle_bees=6))
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 1, "a")))
    slots = []
    for attempt in range(4):
        (again,) = tell(schedule, erred(0, 0, attempt, exhausted()))
        assert isinstance(again, SendTasks)
        slots.append(again.tasks[0].slots)
    assert slots == [2, 4, 6, 6]


def test_it_goes_to_the_node_that_has_the_most() -> None:
    schedule = running(1)
    small = NodeSight(node_id="b", bees_total=8, idle_bees=8, memory_per_bee=1)
    large = NodeSight(node_id="a", bees_total=2, idle_bees=0, memory_per_bee=100)
    tell(schedule, NodesSeen(nodes=(small, large)))
    assert sent_to(tell(schedule, erred(0, 0, 0, exhausted()))) == ["a"]


# -- slow tasks -------------------------------------------------------------------------------------------------------


def slow() -> Schedule:
    """Return a schedule whose task 0, on node a, is late; three others took a second."""
    schedule = Schedule(QUERY, CHAIN, policy=Policy(factor=2.0, after_s=1.5))
    tell(schedule, Started())
    tell(schedule, seen("a", "b", "c", "d", "e"))
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 4, "acde")))
    for task in (1, 2, 3):
        tell(schedule, committed(0, task), 1.0)
    return schedule


def test_a_task_far_behind_its_siblings_gets_a_second_attempt_elsewhere_once() -> None:
    schedule = slow()
    assert tell(schedule, seen("a", "b"), 1.9) == ()
    extra = tell(schedule, seen("a", "b"), 2.1)
    assert (sent(extra), sent_to(extra)) == ([(0, 0, 1)], ["b"])
    assert tell(schedule, seen("a", "b"), 60.0) == ()
    assert [node_id for _, node_id in schedule.pending()] == ["a", "b"]


def test_what_waits_for_a_slow_node_is_tried_elsewhere() -> None:
    schedule = Schedule(QUERY, CHAIN, policy=Policy(factor=9.0, after_s=1.5))
    tell(schedule, Started())
    one_bee = seen("a", "b", bees_total=1, idle_bees=1)
    tell(schedule, one_bee)
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 8, "ab")))
    for number, task in enumerate((0, 2, 4, 6), start=1):
        tell(schedule, committed(0, task), float(number))
    assert tell(schedule, seen("a", "b", bees_total=1, idle_bees=0), 4.0) == (), "no bee is idle"
    extra = tell(schedule, one_bee, 4.0)
    # Node b has been at its first task for four seconds, and its last one would wait longest.
    assert (sent(extra), sent_to(extra)) == ([(0, 7, 1)], ["a"])
    (command,) = extra
    assert isinstance(command, SendTasks)
    assert command.tasks[0].spec.why == "it waits for a bee of node b"
    stop = StopTasks(node_id="b", keys=(key(0, 7, 0),))
    assert tell(schedule, committed(0, 7, attempt=1), 5.0) == (stop,)
    assert sent(tell(schedule, one_bee, 5.0)) == [(0, 5, 1)]


def test_there_is_no_second_attempt_where_two_failures_would_be_too_many() -> None:
    schedule = Schedule(QUERY, CHAIN, max_attempts=2)
    tell(schedule, Started())
    tell(schedule, seen("a", "b"))
    tell(schedule, StagePlanned(stage=0, specs=specs(0, 1, "a")))
    silent = NodesSeen(nodes=(NodeSight(node_id="b", state=NodeState.SUSPECT, usable=False), NodeSight(node_id="c")))
    tell(schedule, erred(0, 0, 0, transient()))
    assert [node_id for _, node_id in schedule.pending()] == ["b"]
    assert tell(schedule, silent) == ()


def test_the_first_of_both_commits_and_the_other_is_stopped() -> None:
    schedule = slow()
    tell(schedule, seen("a", "b"), 3.0)
    stop = StopTasks(node_id="a", keys=(key(0, 0, 0),))
    assert tell(schedule, committed(0, 0, attempt=1), 3.5) == (stop, RunRoot())
    assert schedule.attempts(0, 0)[1].speculative


def test_a_failure_of_one_leaves_the_other_to_go_on() -> None:
    schedule = slow()
    tell(schedule, seen("a", "b"), 3.0)
    assert tell(schedule, erred(0, 0, 0, transient())) == ()
    assert [node_id for _, node_id in schedule.pending()] == ["b"]


def test_what_a_silent_node_has_is_tried_elsewhere_before_that_is_dead() -> None:
    schedule = running(1)
    nodes = (NodeSight(node_id="a", state=NodeState.SUSPECT, usable=False), NodeSight(node_id="b"))
    assert sent_to(tell(schedule, NodesSeen(nodes=nodes))) == ["b"]
    assert [node_id for _, node_id in schedule.pending()] == ["a", "b"]
