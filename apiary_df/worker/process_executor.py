"""Runs attempts in processes of their own, so that one that crashes costs an attempt and not the node.

What belongs here: the node's side of a bee's process: its start, its jobs, its memory, and its end. What the process
itself does is in :mod:`apiary_df.worker.bee_process`.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from apiary_df.errors import ApiaryError, BeeLost, BeeOutOfMemory, NodeStartFailed, QueryCancelled
from apiary_df.host import SYSTEM, Host
from apiary_df.units import MIB, format_bytes
from apiary_df.worker.bee import Work
from apiary_df.worker.bee_process import (
    BeeSetup,
    Begin,
    Cancel,
    Done,
    Failed,
    FromBee,
    Ready,
    Run,
    receive,
    run_message,
    send,
)
from apiary_df.worker.executor import Job
from apiary_df.worker.nursery import Ending, Nursery, open_nursery

logger = logging.getLogger("apiary_df")

WATCH_S = 0.02
"""How often a job is looked after while it runs: whether it is still wanted, and how much memory it holds."""

CANCEL_GRACE_S = 0.5
"""How long a job that is not wanted any more may take to stop by itself; then its bee is killed."""

START_TRIES = 3
"""Processes that are started for one job: a bee may be killed while it has nothing to do, but not over and over."""

READY_WITHIN_S = 60.0
"""How long a new process may take to be ready. It has next to nothing to do until then: one that needs longer hangs."""

OVERRUN = 1.25
OVERRUN_BYTES = 128 * MIB
OVERRUN_BYTES_A_PARTITION = 1 * MIB
"""A bee that holds more than so many times its budget, and so much on top, is killed.

The engine's pool is three quarters of the budget. What it does not count has the rest: buffers on the way, threads, and
what the allocators keep, which for small budgets is more than the budget: a sort in 24 MiB was seen to hold 130 MiB. A
shuffle has a thread, and buffers, for each of its output partitions: one into 80 was seen to hold 170 MiB.
"""


class BeeProcesses:
    """The bees of a node, as processes: makes an executor for each.

    To be made before the process starts its first thread, since it forks.

    Args:
        setup: What the bees have in common.
        host: The clock.

    Attributes:
        on_hopeless: Called, perhaps more than once, when no bee can be started any more; the node should leave then.
    """

    def __init__(self, setup: BeeSetup, host: Host = SYSTEM) -> None:
        self.on_hopeless: Callable[[], None] = lambda: None
        self._host = host
        self._nursery = open_nursery(setup)
        self._checked = False
        self._closing = False
        self._watch = host.start("nursery", self._watch_nursery)

    def __call__(self, scratch: Path) -> ProcessExecutor:
        """Return the executor of one more bee, whose process has started.

        Raises:
            NodeStartFailed: If it cannot be started, or fails its self-check; the first one makes it for all.
        """
        check, self._checked = not self._checked, True
        return ProcessExecutor(self._nursery, scratch, self._host, self._give_up, check=check)

    def _give_up(self) -> None:
        self.on_hopeless()

    def close(self) -> None:
        """End all bees that are left."""
        self._closing = True
        self._nursery.close()
        self._watch.join()

    def _watch_nursery(self) -> None:
        self._nursery.wait()
        if not self._closing:
            logger.error("the process that this node's bees come from was lost: the node leaves")
            self.on_hopeless()


@dataclass(slots=True, kw_only=True)
class _Bee:
    """A bee's process.

    Attributes:
        pid: Its process id.
        pipe: The way to it.
        base_bytes: Memory that it held before its first job: what it shares with the node, mostly.
        ready: Whether it has said so.
    """

    pid: int
    pipe: Connection
    base_bytes: int = 0
    ready: bool = False

    def held_bytes(self) -> int:
        """Return the memory that it holds of its own, in bytes; 0 where the system does not tell."""
        return max(0, _anonymous_bytes(self.pid) - self.base_bytes)


class ProcessExecutor:
    """One bee's hands, in a process that may be killed.

    Args:
        nursery: Where processes come from.
        scratch: The bee's folder.
        host: The clock.
        on_hopeless: Called when no process can be started any more.
        check: Whether the first process is to check its engine; waits for that.

    Raises:
        NodeStartFailed: If the first process cannot be started, or fails the check.
    """

    def __init__(
        self, nursery: Nursery, scratch: Path, host: Host, on_hopeless: Callable[[], None], *, check: bool
    ) -> None:
        self._nursery = nursery
        self._scratch = scratch
        self._host = host
        self._on_hopeless = on_hopeless
        self._number = 0
        self._bee: _Bee | None = None
        try:
            self._bee = self._started(check=check)
            if check:
                self._await_ready(self._bee)
        except (ApiaryError, EOFError, OSError) as error:
            if isinstance(error, NodeStartFailed):
                raise
            raise NodeStartFailed(f"a bee's process did not start: {str(error) or 'it ended'}") from error

    def run(self, job: Job) -> Work:
        """Run one attempt; see :class:`~apiary_df.worker.executor.Executor`.

        Raises:
            QueryCancelled: If ``job.cancelled`` was set; if it did not stop by itself, its process was killed.
            BeeLost: If the process died.
            BeeOutOfMemory: If it held more memory than it may, or the system killed it.
            ApiaryError: How it failed otherwise.
        """
        self._number += 1
        message = run_message(job, self._number)
        bee = self._living_bee()
        try:
            send(bee.pipe, message)
            answer = self._answer(bee, job, message)
        except (EOFError, OSError) as error:
            raise self._lost(bee, message) from error
        if bee.held_bytes() > job.memory_bytes:
            # Its allocator keeps what the next job is to have.
            self._replace(bee)
        if isinstance(answer, Failed):
            raise ApiaryError.from_info(answer.error)
        return answer.work

    def close(self) -> None:
        """End the process."""
        bee, self._bee = self._bee, None
        if bee is not None:
            bee.pipe.close()
            try:
                self._nursery.end(bee.pid)
            except OSError as error:
                logger.info("the nursery was gone before bee %d was ended: %s", bee.pid, error)

    # -- a job --------------------------------------------------------------------------------------------------------

    def _answer(self, bee: _Bee, job: Job, message: Run) -> Done | Failed:
        """Look after a job until its bee answers."""
        limit_bytes = limit_of(job)
        stop_by_s: float | None = None
        while True:
            if bee.pipe.poll(WATCH_S):
                answer = receive(bee.pipe)
                if not isinstance(answer, Ready) and answer.number == message.number:
                    return answer
            if job.cancelled.is_set():
                if stop_by_s is None:
                    send(bee.pipe, Cancel(number=message.number))
                    stop_by_s = self._host.now_s() + CANCEL_GRACE_S
                elif self._host.now_s() > stop_by_s:
                    self._replace(bee)
                    raise QueryCancelled(
                        f"killed the bee of task {_name(message)}, which did not stop within {CANCEL_GRACE_S:g} s"
                    )
            held_bytes = bee.held_bytes()
            if held_bytes > limit_bytes:
                ending = self._replace(bee)
                raise BeeOutOfMemory(
                    f"killed the bee of task {_name(message)}: it held {format_bytes(held_bytes)}, its budget is "
                    f"{format_bytes(job.memory_bytes)}; what it ran takes memory that the engine does not count",
                    held_bytes=held_bytes,
                    budget_bytes=job.memory_bytes,
                    peak_bytes=None if ending is None else ending.peak_bytes,
                )

    def _lost(self, bee: _Bee, message: Run) -> ApiaryError:
        """Return the error of a job whose process died under it; another process is started."""
        ending = self._replace(bee)
        if ending is None:
            return BeeLost(f"the process of task {_name(message)} was lost, and no other can be started here")
        details = {"ending": str(ending), "peak_bytes": ending.peak_bytes, "budget_bytes": message.memory_bytes}
        if ending.exit_code == -signal.SIGKILL:
            return BeeOutOfMemory(
                f"the bee of task {_name(message)} was killed by the system, which does so when memory runs out; it "
                f"had held up to {format_bytes(ending.peak_bytes)}, its budget is {format_bytes(message.memory_bytes)}",
                **details,
            )
        return BeeLost(
            f"the bee of task {_name(message)} died of it ({ending}): native code crashed, or a Python function ended "
            "the process",
            **details,
        )

    # -- the process --------------------------------------------------------------------------------------------------

    def _living_bee(self) -> _Bee:
        """Return the bee; a new one if it died while it had nothing to do."""
        for _ in range(START_TRIES):
            try:
                bee = self._bee = self._bee or self._started(check=False)
            except OSError as error:
                self._on_hopeless()
                raise BeeLost(f"no process can be started for a bee: {error}; the node leaves") from error
            try:
                self._await_ready(bee)
                # Between two jobs it has nothing to say: what can be read then is the end of its pipe.
                if not bee.pipe.poll(0):
                    return bee
            except (EOFError, OSError) as error:
                logger.warning("bee %d was lost before it had a job: %s", bee.pid, str(error) or "its pipe ended")
            self._replace(bee)
        raise BeeLost(f"{START_TRIES} processes for a bee died, or were never ready, before they had a job")

    def _replace(self, bee: _Bee) -> Ending | None:
        """End a bee, remove what it left, and start another; returns how it ended, None if the nursery is gone."""
        self._bee = None
        bee.pipe.close()
        try:
            ending = self._nursery.end(bee.pid)
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._bee = self._started(check=False)
        except OSError as error:
            logger.error("the nursery of this node is gone (%s): it cannot go on", error)
            self._on_hopeless()
            return None
        except BeeLost as error:
            # The next job tries again.
            logger.warning("no new process for a bee: %s", error)
        return ending

    def _started(self, *, check: bool) -> _Bee:
        self._scratch.mkdir(parents=True, exist_ok=True)
        pid, pipe = self._nursery.start()
        send(pipe, Begin(scratch=str(self._scratch), check=check))
        return _Bee(pid=pid, pipe=pipe)

    def _await_ready(self, bee: _Bee) -> None:
        if bee.ready:
            return
        if not bee.pipe.poll(READY_WITHIN_S):
            raise TimeoutError(f"it was not ready within {READY_WITHIN_S:g} s")
        said: FromBee = receive(bee.pipe)
        if isinstance(said, Failed):
            raise ApiaryError.from_info(said.error)
        bee.ready = True
        bee.base_bytes = _anonymous_bytes(bee.pid)


def limit_of(job: Job) -> int:
    """Return how much memory of its own a bee may hold while it runs a job, in bytes."""
    partitions = job.task.output_partitions
    return int(job.memory_bytes * OVERRUN) + OVERRUN_BYTES + partitions * OVERRUN_BYTES_A_PARTITION


def _name(message: Run) -> str:
    return f"{message.query_id}/{message.task.stage}.{message.task.task}"


def _anonymous_bytes(pid: int) -> int:
    """Return the memory of a process that is no file's, in bytes; 0 where the system does not tell."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
