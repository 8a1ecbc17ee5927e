"""The desk of a node: bees that wait, slots that are taken, and what happens when it is closed."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace

from apiary_df.host import SYSTEM
from apiary_df.model import TaskSpec
from apiary_df.protocol.messages import TaskMail
from apiary_df.worker.desk import Desk, Order

PATIENCE_S = 60.0


def order(task: int, *, query: str = "q1", sender: str = "s1", slots: int = 1, attempt: int = 0) -> Order:
    spec = TaskSpec(stage=0, task=task, node_id="n1", output_partitions=1)
    mail = TaskMail(spec=spec, attempt=attempt, slots=slots)
    return Order(query_id=query, sender=sender, mail=mail, received_s=0.0, slots=slots)


def test_an_order_that_is_waiting_or_running_is_not_taken_on_again() -> None:
    desk = Desk(SYSTEM, 2)
    desk.add(order(0))
    desk.add(order(0))
    assert desk.size() == 1
    taken = desk.next()
    assert taken is not None
    desk.add(order(0))
    assert desk.size() == 1
    desk.done(taken)
    assert desk.size() == 0


def test_queries_are_those_that_wait_or_run() -> None:
    desk = Desk(SYSTEM, 1)
    desk.add(order(0, query="q1"))
    desk.add(order(0, query="q2"))
    assert desk.next() is not None
    assert desk.queries() == {"q1", "q2"}


def test_an_attempt_that_waits_or_runs_can_be_given_up_and_no_other_is_touched() -> None:
    desk = Desk(SYSTEM, 1)
    orders = [replace(order(task), stopped=SYSTEM.event()) for task in range(3)]
    for each in orders:
        desk.add(each)
    running = desk.next()
    assert running is not None
    desk.stop(running.key)
    desk.stop(orders[2].key)
    desk.stop(order(7).key)
    assert [each.stopped is not None and each.stopped.is_set() for each in orders] == [True, False, True]


def test_more_slots_than_there_are_means_all_of_them() -> None:
    desk = Desk(SYSTEM, 2)
    desk.add(order(0, slots=100))
    taken = desk.next()
    assert taken is not None
    assert taken.slots == 2


def test_bees_go_home_when_the_desk_is_closed_and_nothing_waits() -> None:
    desk = Desk(SYSTEM, 3)
    desk.add(order(0))
    desk.close()
    assert desk.next() is not None
    assert desk.next() is None


def test_bees_never_take_more_slots_than_there_are_and_do_everything() -> None:
    """Real threads: each takes orders of one to three slots of three until all are done."""
    slots, tasks = 3, 200
    desk = Desk(SYSTEM, slots)
    lock = threading.Lock()
    taken = [0]
    most = [0]
    done: list[int] = []

    def bee() -> None:
        while (mine := desk.next()) is not None:
            with lock:
                taken[0] += mine.slots
                most[0] = max(most[0], taken[0])
            with lock:
                taken[0] -= mine.slots
                done.append(mine.mail.spec.task)
            desk.done(mine)

    bees = [threading.Thread(target=bee, daemon=True) for _ in range(slots)]
    for thread in bees:
        thread.start()
    for number in range(tasks):
        desk.add(order(number, query=f"q{number % 5}", sender=f"s{number % 3}", slots=1 + number % slots))
    desk.close()
    for thread in bees:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in bees)
    assert most[0] <= slots
    assert Counter(done) == Counter(range(tasks))
