"""Who reads a query that is stepped in a thread waits until its deadline, and the query ends by itself."""

from __future__ import annotations

import contextvars
import gc
import signal
import threading
from collections.abc import Generator, Iterator

import pytest

from apiary_df.errors import QueryTimeout
from apiary_df.pump import pumped

PATIENCE_S = 60.0


class Work:
    """Items of which one may hang until it is let go."""

    def __init__(self, items: int, hangs_at: int | None = None, fails_at: int | None = None) -> None:
        self.made = 0
        self.let_go = threading.Event()
        self.hangs = threading.Event()
        self.cancelled = threading.Event()
        self.ended = threading.Event()
        self.threads: set[str] = set()
        self._items, self._hangs_at, self._fails_at = items, hangs_at, fails_at

    def steps(self) -> Generator[int, None, None]:
        try:
            for item in range(self._items):
                if item == self._hangs_at:
                    self.hangs.set()
                    assert self.let_go.wait(PATIENCE_S)
                if item == self._fails_at:
                    raise ValueError(f"item {item}")
                self.made += 1
                self.threads.add(threading.current_thread().name)
                yield item
        finally:
            self.ended.set()


def stepped(work: Work, timeout_s: float | None = None, *, settled: bool = False) -> Generator[int, None, None]:
    return pumped(work.steps(), work.cancelled.set, timeout_s=timeout_s, is_settled=lambda: settled)


def test_items_come_in_order_and_only_when_asked_for() -> None:
    work = Work(5)
    run = stepped(work)
    assert work.made == 0
    assert next(run) == 0
    assert work.made == 1
    assert list(run) == [1, 2, 3, 4]
    assert work.ended.is_set()
    assert not work.cancelled.is_set()
    assert work.threads == {"query"}


def test_error_of_the_work_reaches_the_reader_after_what_came_before() -> None:
    run = stepped(Work(5, fails_at=2))
    assert [next(run), next(run)] == [0, 1]
    with pytest.raises(ValueError, match="item 2"):
        next(run)
    assert list(run) == []


def test_reader_stops_waiting_at_the_deadline_and_the_work_ends_when_it_can() -> None:
    work = Work(5, hangs_at=1)
    run = stepped(work, timeout_s=0.05)
    next(run)
    with pytest.raises(QueryTimeout, match=r"timeout_s=0\.05") as caught:
        next(run)
    assert caught.value.details["timeout_s"] == "0.05"
    assert work.cancelled.is_set()
    assert not work.ended.is_set()
    work.let_go.set()
    assert work.ended.wait(PATIENCE_S)


def test_what_is_settled_is_waited_for_beyond_the_deadline() -> None:
    work = Work(2, hangs_at=1)
    run = stepped(work, timeout_s=0.05, settled=True)
    next(run)

    def let_go_when_cancelled() -> None:
        assert work.cancelled.wait(PATIENCE_S)
        work.let_go.set()

    threading.Thread(target=let_go_when_cancelled).start()
    assert list(run) == [1]


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_work_of_a_stream_that_nobody_reads_any_more_is_closed(how: str) -> None:
    work = Work(5)
    run = stepped(work)
    next(run)
    if how == "closed":
        run.close()
    else:
        del run
        gc.collect()
    assert work.ended.wait(PATIENCE_S)
    assert work.cancelled.is_set()
    assert work.made == 1


@pytest.fixture
def interrupts_are_heard() -> Iterator[None]:
    """Tests that run in the background may be deaf to interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts_are_heard")
def test_interrupt_reaches_a_reader_whose_work_hangs() -> None:
    work = Work(5, hangs_at=0)
    main = threading.get_ident()

    def interrupt() -> None:
        assert work.hangs.wait(PATIENCE_S)
        signal.pthread_kill(main, signal.SIGINT)
        assert work.cancelled.wait(PATIENCE_S)
        work.let_go.set()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        next(stepped(work))
    assert work.ended.wait(PATIENCE_S)


def test_work_sees_the_context_variables_of_its_reader() -> None:
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("reader's")

    def work() -> Generator[str, None, None]:
        yield variable.get()

    assert list(pumped(work(), lambda: None, timeout_s=None)) == ["reader's"]
