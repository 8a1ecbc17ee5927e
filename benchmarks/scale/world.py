"""One query in virtual time: the real planner and the real schedule, over modelled nodes and storage.

The coordinator is a single thread, as the real one is: it plans, sends mail, reads heartbeats, looks for news and
finishes the query one after the other, and whatever it does takes time in which it does nothing else. Nodes, bees and
their attempts go on meanwhile. Everything random is drawn from one seed, so the same world comes out the same.

Which stage, which task, which node, and when again: that is asked of :mod:`apiary_df.schedule` and
:mod:`apiary_df.tasks` themselves. What is modelled is how long things take, and what requests they make.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from apiary_df.config import Settings
from apiary_df.costs import ShufflePlanning
from apiary_df.errors import InternalError
from apiary_df.model import NodeInfo, NodeState, PartialRef, TaskKey
from apiary_df.pace import Pace
from apiary_df.plan.fold import can_fold, remaining_bytes
from apiary_df.plan.stages import ExchangeLeaf, ScanLeaf, StageGraph
from apiary_df.planning import MAX_PARTITIONS, MIN_PARTITIONS
from apiary_df.query_objects import LIST_ABOVE, LIST_ABOVE_IN_FOLDER
from apiary_df.schedule import (
    Command,
    Dispatch,
    Event,
    NodeSight,
    NodesSeen,
    PlanStage,
    Policy,
    RestIsSmall,
    RootFinished,
    RunRoot,
    Schedule,
    SendTasks,
    StagePlanned,
    Started,
    Stop,
    StopTasks,
    TaskCommitted,
    Tick,
)
from apiary_df.store import LIST_PAGE_KEYS
from apiary_df.tasks import TaskOptions, plan_stage
from apiary_df.worker.watches import lease_look_s
from benchmarks.scale.assumptions import Assumptions
from benchmarks.scale.levels import with_levels
from benchmarks.scale.profiles import QueryShape, graph_of
from benchmarks.scale.storage import ModelStore
from benchmarks.scale.work import QUERY_PREFIX, Work

BELL_S = 0.0001
"""On a folder who waits for a file is woken when it is there (:mod:`apiary_df.bell`), so much later."""

DELETED_AT_ONCE = 1_000
"""Keys of one bulk delete."""

GIVE_UP_S = 30 * 86_400.0
"""A world that takes longer has gone wrong."""


@dataclass(slots=True, kw_only=True)
class Attempt:
    """An attempt on a node."""

    key: TaskKey
    dispatch: Dispatch
    over: bool = False


@dataclass(slots=True, kw_only=True)
class Node:
    """A node: its bees, what waits for one, and whether it lives."""

    node_id: str
    born_s: float
    slowness: float
    free: int
    died_s: float = math.inf
    waiting: deque[Attempt] = field(default_factory=deque)
    running: list[Attempt] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a query came to.

    Attributes:
        elapsed_s: From the SQL to the end of its clean-up.
        coordinator_s: What the coordinator's time went to; the parts add up to ``elapsed_s``. ``waiting`` and
            ``watching`` are what it does while there is nothing else to do: pauses, and looks that find nothing.
        bees_s: What the bees' time went to, over all bees; ``idle`` is the rest of it.
        requests: Requests by kind, those of polling among them.
        requests_usd: Their price.
        nodes_usd: Price of the nodes for as long.
        tasks: Tasks that were committed.
        attempts: Attempts that were sent.
        deaths: Nodes that died.
        combined: Shuffles that were planned with two levels.
        cells: Cells that were read.
        bytes_in: Bytes that were read from storage.
        decided_s: CPU seconds of this machine that the real planner and schedule took: told, never part of the model.
    """

    elapsed_s: float
    coordinator_s: dict[str, float]
    bees_s: dict[str, float]
    requests: dict[str, int]
    requests_usd: float
    nodes_usd: float
    tasks: int
    attempts: int
    deaths: int
    combined: int
    cells: int
    bytes_in: int
    decided_s: float

    @property
    def usd(self) -> float:
        """Requests and nodes."""
        return self.requests_usd + self.nodes_usd


def run(
    shape: QueryShape,
    assumptions: Assumptions,
    *,
    nodes: int,
    scale: float,
    cell_bytes: int,
    seed: int = 0,
    settings: Settings | None = None,
) -> Run:
    """Run a query on paper.

    Args:
        shape: The query.
        assumptions: What storage, nodes and coordinator are like.
        nodes: How many nodes.
        scale: TPC-H scale factor.
        cell_bytes: Bytes of the tables' files, a cell each.
        seed: Of all that is random.
        settings: The session's; None: as they come.
    """
    chosen = settings or Settings()
    return _World(shape, assumptions, nodes=nodes, scale=scale, cell_bytes=cell_bytes, seed=seed, settings=chosen).run()


class _World:
    def __init__(
        self,
        shape: QueryShape,
        assumptions: Assumptions,
        *,
        nodes: int,
        scale: float,
        cell_bytes: int,
        seed: int,
        settings: Settings,
    ) -> None:
        self._given = assumptions
        self._rng = random.Random(seed)
        self._store = ModelStore(assumptions.storage, self._rng)
        kind = assumptions.storage.kind
        self._settings = settings.for_store("bucket" if kind == "bucket" else "folder")
        self._pace = Pace(self._settings, 0.0)
        self._lease_look_s = lease_look_s(self._settings, kind)
        self._beat_s = self._settings.heartbeat_s or 1.0
        self._rings = kind == "folder"
        self._list_above = LIST_ABOVE if kind == "bucket" else LIST_ABOVE_IN_FOLDER
        self._now_s = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._nodes: dict[str, Node] = {}
        self._size = nodes
        self._partitions = min(MAX_PARTITIONS, max(MIN_PARTITIONS, nodes * assumptions.node.bees))
        if not self._rings:
            shape = with_levels(
                shape,
                ShufflePlanning.of(self._settings, nodes * assumptions.node.bees),
                scale=scale,
                partitions=self._partitions,
                cell_bytes=cell_bytes,
                byte_s=assumptions.combine_byte_s,
            )
        self._shape = shape
        self._graph: StageGraph = graph_of(shape, scale, self._partitions, cell_bytes)
        self._schedule = Schedule(
            "q",
            self._graph,
            max_attempts=settings.max_attempts,
            retry_after_s=settings.retry_after_s,
            policy=Policy(
                enabled=settings.speculate, factor=settings.speculate_factor, after_s=settings.speculate_after_s
            ),
        )
        self._ledger: defaultdict[str, float] = defaultdict(float)
        self._commits: dict[tuple[int, int, int], tuple[TaskKey, PartialRef]] = {}
        self._made: set[tuple[int, int, int]] = set()
        self._work = Work(shape, assumptions, self._settings, self._store, self._rng)
        self._objects = 0
        self._attempts = 0
        self._mails = 0
        self._deaths = 0
        self._read_s = -math.inf
        self._sights: tuple[NodeSight, ...] = ()
        self._decided_s = 0.0
        for _ in range(nodes):
            self._join()
        # Every node that works on the query looks at its lease.
        self._store.poll(QUERY_PREFIX, nodes / self._lease_look_s)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _at(self, when_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when_s, next(self._numbers), act))

    def _spend(self, seconds: float, doing: str) -> None:
        """Let the coordinator do something for so long; all else happens meanwhile."""
        self._ledger[doing] += seconds
        until_s = self._now_s + seconds
        while self._queue and self._queue[0][0] <= until_s:
            self._now_s, _, act = heapq.heappop(self._queue)
            act()
        self._now_s = until_s
        if until_s > GIVE_UP_S:
            raise InternalError(f"the modelled query still ran after {until_s:.0f} s")

    def _ask(self, kind: str, count: int, doing: str) -> None:
        """Let the coordinator make so many requests without bytes."""
        model = self._given.coordinator
        waited_s = self._store.several(kind, count, model.in_flight)
        self._spend(max(waited_s, count * model.request_cpu_s), doing)

    # -- nodes --------------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        model = self._given.node
        slow = model.slow_factor if self._rng.random() < model.slow_share else 1.0
        slowness = slow * math.exp(self._rng.gauss(0.0, model.uneven)) / model.speed
        number = len(self._nodes)
        node = Node(node_id=f"node-{number:05}", born_s=self._now_s, slowness=slowness, free=model.bees)
        self._nodes[node.node_id] = node
        if model.deaths_h > 0:
            lives_s = self._rng.expovariate(model.deaths_h / 3_600)
            self._at(self._now_s + lives_s, lambda: self._die(node))

    def _die(self, node: Node) -> None:
        node.died_s = self._now_s
        self._deaths += 1
        for attempt in (*node.running, *node.waiting):
            attempt.over = True
        node.running.clear()
        node.waiting.clear()
        if math.isfinite(self._given.node.replaced_s):
            self._at(self._now_s + self._given.node.replaced_s, self._join)

    def _mail(self, node: Node, dispatches: Sequence[Dispatch]) -> None:
        """Let mail be written to a node, which takes it at its next look."""
        looks_s = BELL_S if self._rings else (self._settings.poll_max_s or 0.0) * self._rng.random()
        comes_s = self._now_s + looks_s + self._store.one("get")
        self._store.requests["delete"] += 1
        self._mails += 1
        self._at(comes_s, lambda: self._accept(node, dispatches))

    def _accept(self, node: Node, dispatches: Sequence[Dispatch]) -> None:
        if math.isfinite(node.died_s):
            return
        for dispatch in dispatches:
            key = TaskKey(query_id="q", stage=dispatch.spec.stage, task=dispatch.spec.task, attempt=dispatch.attempt)
            node.waiting.append(Attempt(key=key, dispatch=dispatch))
        self._begin(node)

    def _begin(self, node: Node) -> None:
        while node.free and node.waiting:
            attempt = node.waiting.popleft()
            if attempt.over:
                continue
            node.free -= 1
            node.running.append(attempt)
            work = self._work.attempt(attempt.dispatch, self._now_s, slowness=node.slowness)
            self._at(self._now_s + work.committed_s, functools.partial(self._commit, attempt, work.partial))
            self._at(self._now_s + work.over_s, functools.partial(self._end, node, attempt))

    def _commit(self, attempt: Attempt, partial: PartialRef) -> None:
        if attempt.over:
            return
        name = (attempt.key.stage, attempt.key.task, attempt.dispatch.epoch)
        self._objects += partial.key not in self._work.inlined
        if name not in self._made:
            self._made.add(name)
            self._commits[name] = (attempt.key, partial)
            self._objects += 1

    def _end(self, node: Node, attempt: Attempt) -> None:
        if attempt.over:
            return
        attempt.over = True
        node.running.remove(attempt)
        node.free += 1
        self._begin(node)

    def _stop(self, node: Node, keys: Sequence[TaskKey]) -> None:
        """Let a node give up attempts that nobody wants any more."""
        unwanted = set(keys)
        for attempt in (*node.waiting, *node.running):
            if attempt.key in unwanted and not attempt.over:
                attempt.over = True
                if attempt in node.running:
                    node.running.remove(attempt)
                    node.free += 1
        self._begin(node)

    # -- the coordinator ----------------------------------------------------------------------------------------------

    def run(self) -> Run:
        """Run the query to its end."""
        model = self._given.coordinator
        self._spend(model.start_s + self._partitions * model.start_partition_s, "planning")
        self._read_heartbeats()
        cells = sum(len(leaf.files) for s in self._graph.stages for leaf in s.leaves if isinstance(leaf, ScanLeaf))
        self._spend(cells * model.cell_s / 2, "planning")
        # The lease before all else; fragments and manifest side by side.
        self._ask("put", 1, "announcing")
        self._ask("put", len(self._graph.stages), "announcing")
        self._objects += 1 + len(self._graph.stages)
        commands: deque[Command] = deque(self._handle(Started()))
        while True:
            while commands:
                command = commands.popleft()
                if isinstance(command, Stop):
                    if command.error is not None:
                        raise command.error
                    self._clean_up()
                    return self._outcome(cells)
                commands.extend(self._carry_out(command))
            commands.extend(self._look())

    def _handle(self, event: Event) -> tuple[Command, ...]:
        began_s = time.process_time()
        commands = self._schedule.handle(event, self._now_s)
        self._decided_s += time.process_time() - began_s
        return commands

    def _carry_out(self, command: Command) -> Sequence[Command]:
        if isinstance(command, PlanStage):
            return self._plan(command.stage)
        if isinstance(command, SendTasks):
            self._send([command])
        elif isinstance(command, StopTasks):
            self._ask("put", 1, "sending mail")
            node = self._nodes[command.node_id]
            self._at(self._now_s, lambda: self._stop(node, command.keys))
        elif isinstance(command, RunRoot):
            self._root()
            return self._handle(RootFinished())
        return ()

    def _plan(self, number: int) -> Sequence[Command]:
        partials = self._schedule.partials()
        may_end = partials and not self._schedule.open_tasks() and can_fold(self._graph, partials)
        if may_end and remaining_bytes(self._graph, partials) <= self._settings.finish_here_bytes:
            return self._handle(RestIsSmall())
        stage = self._graph.stages[number]
        while not (nodes := self._infos()):
            self._spend(self._settings.heartbeat_s or 1.0, "waiting")
            self._read_heartbeats()
        commands: list[Command] = list(self._handle(NodesSeen(nodes=self._sights)))
        began_s = time.process_time()
        specs = plan_stage(stage, nodes, partials, {}, TaskOptions.of(self._settings))
        self._decided_s += time.process_time() - began_s
        model = self._given.coordinator
        cells = sum(len(leaf.files) for leaf in stage.leaves if isinstance(leaf, ScanLeaf))
        self._spend(cells * model.cell_s + len(specs) * model.task_s, "planning")
        sends: list[SendTasks] = []
        for command in self._handle(StagePlanned(stage=number, specs=specs)):
            if isinstance(command, SendTasks):
                sends.append(command)
            else:
                commands.append(command)
        self._send(sends)
        return commands

    def _send(self, sends: Sequence[SendTasks]) -> None:
        """Send mail, so many at a time."""
        model = self._given.coordinator
        for start in range(0, len(sends), model.in_flight):
            some = sends[start : start + model.in_flight]
            dispatches = [dispatch for command in some for dispatch in command.tasks]
            segments = sum(len(e.segments) for dispatch in dispatches for e in dispatch.spec.exchanges)
            self._attempts += len(dispatches)
            self._spend(segments * model.segment_s, "sending mail")
            self._ask("put", len(some), "sending mail")
            for command in some:
                self._mail(self._nodes[command.node_id], command.tasks)

    # -- looking ------------------------------------------------------------------------------------------------------

    def _look(self) -> Sequence[Command]:
        """Wait for news, and return what follows from it."""
        open_tasks = self._schedule.open_tasks()
        self._pace.news(self._now_s)
        while True:
            self._pass_over(len(open_tasks))
            self._spend(BELL_S if self._rings else self._pace.wait_s(self._now_s), "waiting")
            commands: list[Command] = []
            if self._now_s - self._read_s >= self._beat_s:
                self._read_heartbeats()
                commands += self._handle(NodesSeen(nodes=self._sights))
            found = self._news(len(open_tasks))
            self._spend(len(open_tasks) * self._given.coordinator.open_task_s, "looking for news")
            for key, partial in found:
                commands += self._handle(TaskCommitted(key=key, partial=partial))
            commands += self._handle(Tick())
            if found or commands:
                return commands

    def _pass_over(self, open_tasks: int) -> None:
        """Pass over looks and readings that would find nothing new, counting all that they ask."""
        if self._commits or self._has_late():
            return
        median_s = self._given.storage.read_s
        next_s = self._queue[0][0] if self._queue else self._now_s
        living = len(self._sights)
        reading_s = median_s * (1 + living / self._given.coordinator.in_flight)
        beats = int((next_s - self._now_s) / max(self._beat_s, reading_s)) - 2
        if beats > 0:
            self._store.requests["list"] += beats
            self._store.requests["get"] += beats * living
            self._skip(beats * reading_s, "watching")
            self._read_s += beats * self._beat_s
        next_s = min(next_s, self._read_s + self._beat_s)
        if self._rings:
            # No looks: it is woken when a file appears.
            self._skip(max(0.0, next_s - self._now_s), "waiting")
            return
        lists = open_tasks > self._list_above
        pages = self._pages() if lists else 2 * open_tasks
        look_s = (pages if lists else 2) * median_s
        while self._now_s + (wait_s := self._pace.wait_s(self._now_s)) + look_s < next_s:
            self._store.requests["list" if lists else "get"] += pages
            self._skip(look_s, "watching")
            self._skip(wait_s, "waiting")

    def _has_late(self) -> bool:
        """Whether tasks are open while bees are idle: a reading of heartbeats may begin a second attempt then."""
        return any(sight.usable and sight.idle_bees for sight in self._sights)

    def _skip(self, seconds: float, doing: str) -> None:
        """Let the coordinator do something while nothing else happens."""
        self._ledger[doing] += seconds
        self._now_s += seconds

    def _pages(self) -> int:
        """Return how many pages a listing of the query has."""
        return max(1, -(-self._objects // LIST_PAGE_KEYS))

    def _news(self, open_tasks: int) -> list[tuple[TaskKey, PartialRef]]:
        """Look for commit records, and read those that are there."""
        if not open_tasks:
            return []
        if open_tasks > self._list_above:
            self._ask_in_turn("list", self._pages(), "looking for news")
            self._spend(self._objects * self._given.coordinator.listed_s, "looking for news")
        else:
            # For each task its commit record, and then the error report of what runs.
            self._ask("get", open_tasks, "looking for news")
            self._ask("get", open_tasks, "looking for news")
        found = list(self._commits.values())
        self._commits.clear()
        self._ask("get", len(found), "reading commit records")
        segments = sum(len(partial.segments) for _, partial in found)
        self._spend(segments * self._given.coordinator.segment_s / 4, "reading commit records")
        return found

    def _ask_in_turn(self, kind: str, count: int, doing: str) -> None:
        """Let the coordinator make requests of which each needs the reply of the one before: pages of a listing."""
        self._spend(self._store.several(kind, count, 1), doing)

    def _read_heartbeats(self) -> None:
        seen_s = self._now_s
        self._read_s = seen_s
        model = self._given.coordinator
        living = [n for n in self._nodes.values() if seen_s - n.died_s < (self._settings.dead_after_s or 0.0)]
        self._ask_in_turn("list", max(1, -(-len(living) // LIST_PAGE_KEYS)), "reading heartbeats")
        self._ask("get", len(living), "reading heartbeats")
        self._spend(len(living) * model.heartbeat_s, "reading heartbeats")
        busy = Counter(node_id for _, node_id in self._schedule.pending())
        bees, memory_bytes = self._given.node.bees, self._given.node.bee_bytes
        self._sights = tuple(
            NodeSight(
                node_id=node.node_id,
                incarnation=node.node_id,
                state=self._state(node, seen_s),
                usable=self._state(node, seen_s) is NodeState.ALIVE,
                bees_total=bees,
                idle_bees=max(0, bees - busy[node.node_id]),
                memory_per_bee=memory_bytes,
            )
            for node in living
        )

    def _state(self, node: Node, seen_s: float) -> NodeState:
        silent_s = seen_s - node.died_s
        return NodeState.SUSPECT if silent_s >= (self._settings.suspect_after_s or 0.0) else NodeState.ALIVE

    def _infos(self) -> tuple[NodeInfo, ...]:
        busy = Counter(node_id for _, node_id in self._schedule.pending())
        bees, memory_bytes = self._given.node.bees, self._given.node.bee_bytes
        return tuple(
            NodeInfo(
                node_id=sight.node_id,
                state=sight.state,
                cores=bees,
                memory_bytes=bees * memory_bytes,
                memory_per_bee=memory_bytes,
                target_cell_size=self._settings.target_cell_bytes,
                bees_total=bees,
                bees_busy=min(bees, busy[sight.node_id]),
                idle_bees=max(0, bees - busy[sight.node_id]),
            )
            for sight in self._sights
            if sight.usable
        )

    # -- the end ------------------------------------------------------------------------------------------------------

    def _root(self) -> None:
        """Do what is left in the session: what complete stages made for it is read and computed with."""
        partials = self._schedule.partials()
        read = {
            leaf.stage
            for stage in self._graph.stages
            if stage.stage not in partials
            for leaf in stage.leaves
            if isinstance(leaf, ExchangeLeaf) and leaf.stage in partials
        }
        found = [partial for stage in read for partial in partials[stage]]
        lengths = [partial.length for partial in found]
        model = self._given.coordinator
        took = self._work.fetch(
            self._now_s, len({partial.key for partial in found} - self._work.inlined), sum(lengths), model.bytes_s
        )
        cpu_s = len(lengths) * model.request_cpu_s + self._shape.stages[-1].byte_s * sum(lengths)
        self._spend(took.total_s + cpu_s, "the root stage")

    def _clean_up(self) -> None:
        """Remove lease, manifest and mail, then list what is left and remove that."""
        self._ask("delete", 2, "cleaning up")
        self._ask_in_turn("list", self._pages(), "cleaning up")
        self._ask("delete", -(-self._objects // DELETED_AT_ONCE), "cleaning up")

    def _looks_in(self, still_s: float) -> int:
        """Return how often a node looks for mail while none comes for so long."""
        pace, now_s, looks = Pace(self._settings, 0.0), 0.0, 0
        while now_s < still_s:
            now_s += pace.wait_s(now_s)
            looks += 1
        return looks

    def _outcome(self, cells: int) -> Run:
        """Return what it came to, with what nodes ask for while they wait."""
        elapsed_s = self._now_s
        lived_s = sum(min(n.died_s, elapsed_s) - n.born_s for n in self._nodes.values() if n.born_s < elapsed_s)
        # Each looks for mail and at the query's lease, and writes heartbeats; the session renews the lease.
        mails = max(1, self._mails)
        looks = 0 if self._rings else mails * self._looks_in(lived_s / mails)
        self._store.requests["get"] += round(looks + lived_s / self._lease_look_s)
        self._store.requests["put"] += round((lived_s + elapsed_s) / (self._settings.heartbeat_s or 1.0))
        bees_s = {name: seconds for name, seconds in self._work.bees_s.items() if seconds}
        bees_s["idle"] = max(0.0, lived_s * self._given.node.bees - sum(bees_s.values()))
        done, _ = self._schedule.progress()
        return Run(
            elapsed_s=elapsed_s,
            coordinator_s=dict(self._ledger),
            bees_s=bees_s,
            requests=dict(self._store.requests),
            requests_usd=self._store.cost_usd(),
            nodes_usd=lived_s / 3_600 * self._given.node.price_usd_h,
            tasks=done,
            attempts=self._attempts,
            deaths=self._deaths,
            combined=sum(stage.combines for stage in self._shape.stages),
            cells=cells,
            bytes_in=self._store.bytes_in,
            decided_s=self._decided_s,
        )
