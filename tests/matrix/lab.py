"""Two in-process nodes and a session, all over faulty stores, on a clock that moves only while nobody has work.

The clock is what makes attempt counts exact: a session's time passes only while every living node is idle and has just
given a sign of life. So no task is ever taken for lost because the machine is slow, and a node that was killed is
found dead within milliseconds. Nodes themselves run on the system's clock, with limits that no test reaches.
"""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.dataset as ds

from apiary_df import lost_writes, publish
from apiary_df.config import Settings
from apiary_df.coordinator import QueryRun
from apiary_df.errors import ApiaryError, ObjectMissing, StorageError
from apiary_df.footers import FooterCache
from apiary_df.host import Activity, SystemHost
from apiary_df.protocol import keys
from apiary_df.scratch import LOCK
from apiary_df.store import Store, open_store
from apiary_df.testing.faults import Fault, Faults, FaultyStore, Killed
from apiary_df.view import SwarmView
from apiary_df.worker.bee import Work
from apiary_df.worker.executor import Job, ThreadExecutor
from apiary_df.worker.node import Node

from .shapes import Planned, sorted_rows

NODES = 2

STEP_S = 0.5
"""Seconds by which a session's clock moves at a time: two of its heartbeats."""

CALM_S = 600.0
"""What the nodes' own clocks never reach within a test."""

GIVE_UP_S = 60.0
"""Real seconds after which a query that has not ended counts as stuck."""

LATE_S = 60.0
"""Real seconds within which everything that a query left must be gone."""

DEAF_AFTER = 3
"""Failures to read mail, one after the other, from which on a node does not hold up the clock any more."""

SHORT_S = 0.5
"""Deadline of queries that are to miss it: too short for a node to look silent."""

ATTACHED_BYTES = 8 << 20
"""Up to which size partials lie behind their commit records, where they are to."""

SESSION = "session"
BEE_BYTES = 64 << 20

SESSION_SETTINGS = Settings(
    heartbeat_s=0.25,
    suspect_after_s=2.0,
    dead_after_s=3.0,
    small_bytes=0,
    finish_here_bytes=0,
    min_task_bytes=0,
    speculate=False,
    inline_partial_bytes=0,
    enclosed_bytes=0,  # so that nodes read manifests and fragments, and meet what can happen then
)
NODE_SETTINGS = Settings(heartbeat_s=0.01, suspect_after_s=CALM_S, dead_after_s=2 * CALM_S)


class LabHost(SystemHost):
    """The machine of one process of the lab; threads of a process that was killed end without a word."""

    def start(self, name: str, run: Callable[[], None], /) -> Activity:
        """Start a thread."""
        return super().start(name, lambda: _until_killed(run))


class NodeEvent:
    """A flag whose waiters' time is their host's."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._set = False
        self.changed = threading.Condition()

    def set(self) -> None:
        """Raise the flag."""
        with self.changed:
            self._set = True
            self.changed.notify_all()

    def is_set(self) -> bool:
        """Whether the flag is raised."""
        return self._set

    def wait(self, timeout: float | None = None, /) -> bool:
        """Wait for the flag."""
        until_s = None if timeout is None else self._now_s() + timeout
        with self.changed:
            while not self._set:
                left_s = None if until_s is None else until_s - self._now_s()
                if left_s is not None and left_s <= 0:
                    break
                self.changed.wait(left_s)
            return self._set


class NodeHost(LabHost):
    """A node's machine: the system's clock, and what a test adds to it."""

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self._events: weakref.WeakSet[NodeEvent] = weakref.WeakSet()

    def now_s(self) -> float:
        """Return the time."""
        return super().now_s() + self._ahead_s

    def event(self) -> NodeEvent:
        """Return a new flag."""
        event = NodeEvent(self.now_s)
        self._events.add(event)
        return event

    def jump(self, seconds: float) -> None:
        """Let time pass, and wake those for whom it is enough."""
        self._ahead_s += seconds
        for event in list(self._events):
            with event.changed:
                event.changed.notify_all()


class SessionHost(LabHost):
    """The session's machine: its clock moves a step whenever the session's own thread asks and nobody has work."""

    def __init__(self, may_step: Callable[[], bool]) -> None:
        self._may_step = may_step
        self._thread = threading.get_ident()
        self._now_s = 0.0

    def now_s(self) -> float:
        """Return the time."""
        if threading.get_ident() == self._thread and self._may_step():
            self._now_s += STEP_S
        return self._now_s

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self._now_s += seconds


class LabStore(FaultyStore):
    """A faulty store that tells of heartbeats."""

    def __init__(self, store: Store, faults: Faults, process: str, on_beat: Callable[[str], None]) -> None:
        super().__init__(store, faults, process)
        self.sleep = lambda _: None
        self._failures = self._on_their_way = 0
        self._on_beat = on_beat

    def get(self, key: str, limit_bytes: int | None = None) -> bytes:
        """Read a whole object."""
        if not key.startswith(keys.inbox_prefix(self.process)):
            return super().get(key, limit_bytes)
        try:
            data = super().get(key, limit_bytes)
        except StorageError as error:
            self._failures += not isinstance(error, ObjectMissing)
            self._on_their_way = max(0, self._on_their_way - 1)
            raise
        self._failures, self._on_their_way = 0, 2
        return data

    @property
    def has_read_mail(self) -> bool:
        """Whether its process has just read mail; it has taken it on when it has looked for more a second time."""
        return self._on_their_way > 0

    @property
    def is_deaf(self) -> bool:
        """Whether its process cannot read its mail."""
        return self._failures > DEAF_AFTER

    def put(self, key: str, data: object) -> None:
        """Write an object."""
        super().put(key, data)
        if key == keys.heartbeat(self.process):
            self._on_beat(self.process)


class LabExecutor(ThreadExecutor):
    """Runs attempts as ever, but for those that a test lets fail by themselves."""

    on_job: Callable[[], None]

    def run(self, job: Job) -> Work:
        """Run one attempt."""
        self.on_job()
        return super().run(job)


@dataclass(slots=True)
class _Member:
    node: Node
    store: LabStore
    host: NodeHost
    thread: threading.Thread
    beats: int = 0
    beats_seen: int = 0


@dataclass(slots=True, kw_only=True)
class Seen:
    """What came of a query.

    Attributes:
        error: What it raised; None if it gave rows.
        rows: What it gave, sorted; of a write, what the files hold.
        attempts: Attempts at each task: stage and task to their number.
        struck: Keys of the requests that the cell's fault struck, in order.
        left: What was still there after a while: keys, files, nodes at work.
        killed: Whether the session was killed.
        seconds: How long it all took.
    """

    error: ApiaryError | None = None
    rows: list[tuple[object, ...]] | None = None
    attempts: dict[tuple[int, int], int] = field(default_factory=dict)
    struck: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    killed: bool = False
    seconds: float = 0.0

    @property
    def extra(self) -> int:
        """Attempts beyond one a task."""
        return sum(self.attempts.values()) - len(self.attempts)


class Lab:
    """A swarm that cell after cell of the matrix is run on.

    Args:
        folder: For scratch and for tables.
    """

    def __init__(self, folder: Path) -> None:
        self.faults = Faults()
        self.run: QueryRun | None = None
        self.session = ""
        self.host = SessionHost(self._may_step)
        self._in_task: Callable[[str], None] | None = None
        self._stands_still = False
        self._store = open_store(f"memory://{uuid.uuid4().hex}", environ={})
        self._scratch = folder / "scratch"
        self._scratch.mkdir()
        self._members: dict[str, _Member] = {}
        self._paused: set[str] = set()
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._footers = FooterCache()

    @property
    def node_ids(self) -> list[str]:
        """Names of the nodes, dead ones among them until others have taken their place."""
        return list(self._members)

    # -- nodes --------------------------------------------------------------------------------------------------------

    def ensure_nodes(self) -> None:
        """Bury the dead and start others in their place."""
        for name, member in list(self._members.items()):
            if self.faults.is_dead(name) or not member.thread.is_alive():
                member.thread.join(LATE_S)
                del self._members[name]
                self._store.delete([keys.heartbeat(name)])
                self._store.delete_prefix(keys.inbox_prefix(name))
        while len(self._members) < NODES:
            # In the order of their names, as planners take them: the first of them has a stage's first task.
            self._start(f"node-{next(self._numbers):06}")
        for member in self._members.values():
            assert member.node.ready.wait(LATE_S), "a node did not start"

    def _start(self, name: str) -> None:
        host = NodeHost()

        def executor(scratch: Path) -> LabExecutor:
            made = LabExecutor(store, scratch, None, NODE_SETTINGS, allow_udfs=False)
            made.on_job = lambda: self._on_job(name)
            return made

        store = LabStore(self._store, self.faults, name, self._beat)
        settings = NODE_SETTINGS.with_overrides(scratch_dir=str(self._scratch))
        node = Node(
            store, bees=1, memory_bytes=BEE_BYTES, settings=settings, node_id=name, executors=executor, host=host
        )
        thread = threading.Thread(target=_until_killed, args=(node.run,), name=name, daemon=True)
        self._members[name] = _Member(node, store, host, thread)
        thread.start()

    def _on_job(self, name: str) -> None:
        with self._lock:
            act, self._in_task = self._in_task, None
        if act is not None:
            act(name)

    def _beat(self, name: str) -> None:
        with self._lock:
            if name in self._members:
                self._members[name].beats += 1

    def _living(self) -> list[tuple[str, _Member]]:
        return [
            (name, member)
            for name, member in list(self._members.items())
            if name not in self._paused and not self.faults.is_dead(name)
        ]

    def _may_step(self) -> bool:
        """Whether a session's time may pass: all living nodes are idle, and have beaten since the last step."""
        if self._stands_still:
            return False
        living = self._living()
        if any(self._is_busy(name, member) for name, member in living):
            return False
        with self._lock:
            if any(member.beats == member.beats_seen for _, member in living):
                return False
            for _, member in living:
                member.beats_seen = member.beats
        return True

    def _is_busy(self, name: str, member: _Member) -> bool:
        """Whether a node has something to do, or is about to get it."""
        has_mail = bool(self._store.list(keys.inbox_prefix(name)))
        at_work = member.node._desk.size() or member.store.has_read_mail
        return bool(at_work) or (has_mail and not member.store.is_deaf)

    def close(self) -> None:
        """Stop the nodes."""
        self.faults.disarm()
        for member in self._members.values():
            member.node.stop()
        for member in self._members.values():
            member.thread.join(LATE_S)

    # -- what faults do -----------------------------------------------------------------------------------------------

    def kill(self, process: str, _key: str = "") -> None:
        """Kill a process."""
        self.faults.kill(process)

    def pause(self, process: str, _key: str = "") -> None:
        """Stop a process where it is."""
        self._paused.add(process)
        self.faults.pause(process)

    def resume_all(self) -> None:
        """Let all paused processes go on."""
        for process in list(self._paused):
            self.faults.resume(process)
            self._paused.discard(process)

    def kill_session(self, _process: str = "", _key: str = "") -> None:
        """Kill the session."""
        self.faults.kill(self.session)

    def cancel(self, _process: str = "", _key: str = "") -> None:
        """Cancel the query, as another thread of the user's would."""
        assert self.run is not None
        self.run.cancel()

    def pass_deadline(self, _process: str = "", _key: str = "") -> None:
        """Let the query's time be up."""
        self.host.jump(2 * SHORT_S)

    # -- one query ----------------------------------------------------------------------------------------------------

    def try_query(
        self,
        planned: Planned,
        faults: Sequence[Fault] = (),
        *,
        in_task: Callable[[str], None] | None = None,
        timeout_s: float = 3600.0,
        collected: bool = False,
        attached: bool = False,
    ) -> Seen:
        """Run a query among faults, and see what comes of it.

        Args:
            planned: The query.
            faults: What lies in wait. Their processes are ``session``, and ``node-`` with a number.
            in_task: What is done in the first task that runs.
            timeout_s: Its deadline.
            collected: Whether nodes may have to collect what it leaves.
            attached: Whether partials lie behind their commit records.
        """
        self.ensure_nodes()
        self.faults.forget()
        started_s = time.monotonic()
        seen = Seen()
        session = self.session = f"{SESSION}-{next(self._numbers)}"
        # Where tasks read partials, it is a race whether rows of a sibling went out before a loss is seen.
        chosen = SESSION_SETTINGS.with_overrides(
            scratch_dir=str(self._scratch),
            timeout_s=timeout_s,
            stream_result=planned.shape == "scan",
            attached_partial_bytes=ATTACHED_BYTES if attached else 0,
        )
        settings = chosen.for_store("memory")
        store = LabStore(self._store, self.faults, session, self._beat)
        with self._target_through(session):
            view = SwarmView(store, session, settings, host=self.host)
            self._wait_until_ready(view)
            self.run = run = QueryRun(planned.query, view, settings, self._footers, host=self.host)
            self._in_task = in_task
            # A deadline is to pass where the fault says so, and nowhere else.
            self._stands_still = timeout_s == SHORT_S
            for fault in faults:
                self.faults.add(fault)
            stuck = threading.Timer(GIVE_UP_S, run.cancel)
            stuck.daemon = True
            stuck.start()
            try:
                table = pa.Table.from_batches(list(run), schema=run.schema)
                seen.rows = sorted_rows(table)
            except ApiaryError as error:
                seen.error = error
            except Killed:
                seen.killed = True
            finally:
                stuck.cancel()
                run.close() if not seen.killed else None
        self._note(seen, run)
        self.faults.disarm()
        self.resume_all()
        self._stands_still = False
        seen.left = self._left(planned, collected=collected or seen.killed)
        if planned.out is not None:
            seen.rows = _written_rows(planned.out)
            shutil.rmtree(planned.out, ignore_errors=True)
        seen.seconds = time.monotonic() - started_s
        return seen

    def _wait_until_ready(self, view: SwarmView) -> None:
        """Wait until the heartbeats of all nodes say that they are idle."""
        give_up_s = time.monotonic() + LATE_S
        while True:
            idle = [node for node in view.refresh() if node.usable and not node.heartbeat.bees_busy]
            if len(idle) == NODES:
                return
            assert time.monotonic() < give_up_s, f"the nodes do not come to rest: {view.nodes()}"
            time.sleep(0.002)

    @contextmanager
    def _target_through(self, session: str) -> Iterator[None]:
        """Let the session's requests to the folder that it writes to meet faults as well."""
        real = lost_writes.open_folder

        def opened(url: str, options: object = None) -> Store:
            return FaultyStore(real(url, options), self.faults, session)  # type: ignore[arg-type]

        with patch.object(publish, "open_folder", opened):
            yield

    def _note(self, seen: Seen, run: QueryRun) -> None:
        schedule = run._schedule
        for stage in run._query.graph.stages[:-1]:
            for task in range(len(schedule.specs(stage.stage))):
                seen.attempts[stage.stage, task] = len(schedule.attempts(stage.stage, task))

    def _left(self, planned: Planned, *, collected: bool) -> tuple[str, ...]:
        """Return what does not go away in time.

        Args:
            planned: The query.
            collected: Let the nodes' time pass, as often as it takes them to collect what is left.
        """
        give_up_s = time.monotonic() + LATE_S
        for look in itertools.count():
            left = self._there(planned)
            if not left or time.monotonic() > give_up_s:
                break
            if collected and look % 10 == 9:
                for _, member in self._living():
                    member.host.jump(CALM_S)
            time.sleep(0.002)
        if left:
            # The next cell is not to suffer for it.
            for prefix in (keys.QUERIES, keys.WRITES):
                self._store.delete_prefix(prefix)
        return tuple(left)

    def _there(self, planned: Planned) -> list[str]:
        found = [meta.key for prefix in (keys.QUERIES, keys.WRITES) for meta in self._store.list(prefix)]
        for name, member in self._living():
            found += [meta.key for meta in self._store.list(keys.inbox_prefix(name))]
            if member.node._desk.size():
                found.append(f"{name} is at work")
        dead = [name for name in self._members if self.faults.is_dead(name)]
        for parent, _, files in os.walk(self._scratch):
            if not any(f"apiary-{name}-" in parent for name in dead):
                found += [f"{parent}/{name}" for name in files if name != LOCK]
        if planned.out is not None and planned.out.exists():
            found += [str(path) for path in planned.out.glob("_*")]
        return found


def _until_killed(run: Callable[[], None]) -> None:
    try:
        run()
    except Killed:
        return


def _written_rows(out: Path) -> list[tuple[object, ...]]:
    return sorted_rows(ds.dataset(out, format="parquet").to_table()) if out.exists() else []
