"""Playing a seed's scenario, and judging what came of it."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from unittest.mock import patch

from apiary_df.errors import ApiaryError, InternalError, QueryTimeout
from apiary_df.footers import FooterCache
from apiary_df.host import Host
from apiary_df.protocol import keys
from apiary_df.protocol.seal import DAMAGED, REPLAYED, UNSEALED, sealed_bytes
from apiary_df.report import AttemptReport
from apiary_df.view import SwarmView
from apiary_df.worker import node as node_module
from apiary_df.worker.node import MIN_BEE_BYTES, Node

from .kernel import Killed, Process, Stuck, World
from .scenario import Event, QueryPlan, Scenario, scenario_of
from .shapes import Ask, Row, ask
from .stillness import stillness
from .storage import Backend, SimStore
from .workers import POISON, SimExecutor, SimQueryRun, WorkModel

SLACK_S = 90.0
"""What may come on top of a query's deadline: requests under way, and cleaning up against a store that fails."""

LEAVING_S = 120.0
"""How long a node may take to leave: it ends what it has taken on."""

GIVE_UP_S = 60.0
"""How long a session looks for nodes before it has nothing to ask."""

MEMORY_FOLDER = Path("/dev/shm")
"""Where scratch files cost least, on systems that have it."""

BEE_BYTES = max(MIN_BEE_BYTES, 1 << 30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one query ended.

    Attributes:
        shape: Its shape.
        ended: ``rows``, ``closed``, ``no nodes``, ``killed`` with its session, or the code of an error.
        error: The error, if it was one.
    """

    shape: str
    ended: str
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a seed came to.

    Attributes:
        seed: The seed.
        kind: What was made hard.
        hash: Hash of the trace.
        problems: What must not be; empty if all is well.
        outcomes: How its queries ended.
        turns: Turns that its threads took.
        seconds: Virtual seconds that it lasted.
        lines: The trace, if it was asked for.
    """

    seed: int
    kind: str
    hash: int
    problems: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    turns: int
    seconds: float
    lines: tuple[str, ...] = field(default=(), repr=False)


def simulate(seed: int, *, tracing: bool = False) -> Verdict:
    """Play a seed.

    Args:
        seed: Which.
        tracing: Whether to keep the trace.
    """
    scenario = scenario_of(seed)
    world = World(seed, tracing=tracing)
    scratch = Path(tempfile.mkdtemp(prefix="apiary-simulation-", dir=MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None))
    play: _Play | None = None
    try:
        with stillness(world, seed) as logged:
            play = _Play(scenario, world, seed, scratch)
            try:
                play.run()
            except Stuck as error:
                play.problems.append(str(error))
            finally:
                play.kill_all()
        play.problems.extend(f"logged: {said}" for said in logged)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Verdict(
        seed=seed,
        kind=scenario.kind,
        hash=world.hash,
        problems=tuple(play.problems),
        outcomes=tuple(play.outcomes),
        turns=world.turns,
        seconds=world.now_s,
        lines=tuple(world.lines),
    )


@dataclass(slots=True)
class _NodeSeat:
    """The place of a node in the swarm: one incarnation after the other."""

    number: int
    incarnations: int = 0
    process: Process | None = None
    node: Node | None = None
    is_leaving: bool = False

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.alive


class _Play:
    """One seed being played."""

    def __init__(self, scenario: Scenario, world: World, seed: int, scratch: Path) -> None:
        self.scenario = scenario
        self.world = world
        self.problems: list[str] = []
        self.outcomes: list[Outcome] = []
        self._scratch = scratch
        self._backend = Backend(world, Random(f"{seed} store"), scenario.faults, _may_damage)
        self._model = WorkModel(
            random=Random(f"{seed} work"),
            task_s=scenario.task_s,
            straggles=scenario.straggles,
            exhausts=scenario.exhausts,
        )
        self._random = Random(f"{seed} play")
        self._seats = [_NodeSeat(i) for i in range(len(scenario.nodes))]
        self._sessions: list[Process] = []
        self._stores: list[SimStore] = []
        self._over = 0
        self._healed = False

    # -- the course of it ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Play it to its end."""
        with ExitStack() as stack:
            stack.enter_context(patch.object(node_module, "check_engine", lambda _scratch: None))
            for seat in self._seats:
                self._start_node(seat)
            for number in range(len(self.scenario.sessions)):
                self._start_session(number)
            for event in self.scenario.events:
                self.world.at(event.at_s, lambda event=event: self._happen(event))  # type: ignore[misc]
            limit_s = self._longest_s()
            if not self.world.run(lambda: self._over == len(self._sessions), limit_s):
                self.problems.append(f"sessions still run after {limit_s:.0f} s")
            self._settle()

    def _longest_s(self) -> float:
        """Return by when every session must have ended."""
        settings = self.scenario.settings
        assert settings.timeout_s is not None
        hurt_s = sum(event.for_s for event in self.scenario.events)
        return GIVE_UP_S + (settings.timeout_s + SLACK_S) * 1.05 + hurt_s

    def _settle(self) -> None:
        """Let the store heal, and see that nothing is left."""
        self._healed = True
        self._backend.heal()
        for seat in self._seats:
            if seat.process is not None:
                seat.process.cut_off_until_s = 0.0
        self.world.note("-", "heals")
        if all(seat.is_leaving for seat in self._seats if seat.is_up):
            self.world.run(lambda: not any(seat.is_up for seat in self._seats), self.world.now_s + LEAVING_S)
            self._start_node(self._seats[0])
        self.world.run(lambda: False, self.world.now_s + self._settle_s())
        self._judge_idle()
        for seat in self._seats:
            if seat.is_up and seat.node is not None:
                seat.is_leaving = True
                seat.node.stop()
        if not self.world.run(lambda: not any(seat.is_up for seat in self._seats), self.world.now_s + LEAVING_S):
            self.problems.append("nodes do not leave")
        self._judge_all()
        left = sorted(self._backend.objects)
        if left:
            self.problems.append(f"left behind: {', '.join(left[:5])} ({len(left)} in all)")

    def _settle_s(self) -> float:
        """Return for how long a healed swarm must be left alone until nothing of the past is there any more."""
        settings = self.scenario.settings
        stopped = [seat.process.stopped_until_s for seat in self._seats if seat.process is not None]
        stopped_s = max([0.0, *(until_s - self.world.now_s for until_s in stopped)])
        # What is late still arrives; then a collector has to see it lie still for so long, at its own pace.
        return stopped_s + self.scenario.faults.late_s + 2 * max(settings.gc_grace_s or 0.0, settings.node_gc_s) + 5.0

    def _judge_idle(self) -> None:
        for seat in self._seats:
            if seat.is_up and seat.node is not None and (at_work := seat.node._desk.queries()):
                self.problems.append(
                    f"{seat.node.node_id} still works on {sorted(at_work)}, though all sessions are gone"
                )

    def kill_all(self) -> None:
        """End whatever still runs."""
        for process in [*self._sessions, *(seat.process for seat in self._seats if seat.process is not None)]:
            process.kill()

    # -- nodes --------------------------------------------------------------------------------------------------------

    def _start_node(self, seat: _NodeSeat) -> None:
        if seat.is_up:
            return
        plan = self.scenario.nodes[seat.number]
        seat.incarnations += 1
        name = f"node{seat.number}-{seat.incarnations}"
        node_id = f"node{seat.number}" if self.scenario.same_ids else name
        process = Process(self.world, name, offset_s=plan.offset_s, rate=plan.rate, on_crash=self._crashed)
        store = SimStore(self._backend, process, self.scenario.listing_kind)
        host: Host = process.host
        self._stores.append(store)
        scratch = self._scratch / name
        scratch.mkdir()
        bees = iter(range(plan.bees))
        node = Node(
            store,
            bees=plan.bees,
            memory_bytes=plan.bees * BEE_BYTES,
            settings=replace(self.scenario.settings, scratch_dir=str(scratch)),
            node_id=node_id,
            executors=lambda _: SimExecutor(store, process, scratch / f"own-{next(bees)}", self._model, BEE_BYTES),
            host=host,
        )
        seat.process, seat.node, seat.is_leaving = process, node, False

        def main() -> None:
            try:
                node.run()
            except ApiaryError as error:
                if node.ready.is_set():
                    raise
                self.world.note(name, f"did not start: {error.code}")
                self.world.at(self.world.now_s + 2.0, lambda: None if seat.is_leaving else self._start_node(seat))
            self.world.at(self.world.now_s, process.kill)

        process.start("main", main)

    # -- sessions -----------------------------------------------------------------------------------------------------

    def _start_session(self, number: int) -> None:
        plan = self.scenario.sessions[number]
        name = f"session{number}"
        process = Process(self.world, name, offset_s=plan.offset_s, rate=plan.rate, on_crash=self._crashed)
        self._sessions.append(process)
        store = SimStore(self._backend, process, self.scenario.listing_kind)
        self._stores.append(store)

        def main() -> None:
            view = self._joined(process, store, name)
            if view is not None:
                threads = [
                    process.start(f"query-{i}", lambda query=query: self._ask(process, view, query))  # type: ignore[misc]
                    for i, query in enumerate(plan.queries)
                ]
                for thread in threads:
                    thread.join()
            self._over += 1
            self.world.at(self.world.now_s, process.kill)

        process.start("main", main)

    def _joined(self, process: Process, store: SimStore, name: str) -> SwarmView | None:
        """Return the swarm as the session sees it once there is a node; None if there never is."""
        view: SwarmView | None = None
        for _ in range(int(GIVE_UP_S)):
            try:
                view = view or SwarmView(store, name, self.scenario.settings, host=process.host)
                if view.node_infos():
                    return view
            except ApiaryError as error:
                self.world.note(name, f"cannot look: {error.code}")
            process.sleep(1.0)
        return None

    def _ask(self, process: Process, view: SwarmView, plan: QueryPlan) -> None:
        """Run one query as its plan says, and judge it."""
        process.sleep(plan.after_s)
        asked = ask(plan.shape, plan.cells, self._random)
        run = SimQueryRun(asked.query, view, self.scenario.settings, FooterCache(), host=process.host)
        run.set_up(self._scratch, self._model)
        if plan.poisoned is not None:
            self._model.poisoned[run.query_id] = plan.poisoned
        if plan.ending == "cancel":
            process.start("cancel", lambda: self._cancel_later(process, run, plan.cancel_s))
        started_s = self.world.now_s
        rows: list[Row] = []
        error: ApiaryError | None = None
        try:
            for batch in run:
                rows.extend(zip(*(column.to_pylist() for column in batch.columns), strict=True))
                if plan.ending == "close":
                    run.close()
                    break
                if plan.pause_s:
                    process.sleep(plan.pause_s)
        except ApiaryError as raised:
            error = raised
        except Killed:
            # A reader that is killed between two batches leaves a run that has not ended: nothing of it has an effect.
            with suppress(Killed):
                run.close()
            raise
        self.world.note(process.name, f"query {plan.shape} ended: {type(error).__name__ if error else len(rows)}")
        self._judge(plan, asked, run, rows, error)
        took_s = self.world.now_s - started_s
        timeout_s = self.scenario.settings.timeout_s or 0.0
        if took_s > timeout_s / process.rate + SLACK_S + sum(event.for_s for event in self.scenario.events):
            self.problems.append(f"query {plan.shape} took {took_s:.1f} s, its deadline is {timeout_s:.0f} s")

    def _cancel_later(self, process: Process, run: SimQueryRun, after_s: float) -> None:
        process.sleep(after_s)
        run.cancel()

    # -- judgement ----------------------------------------------------------------------------------------------------

    def _judge(self, plan: QueryPlan, asked: Ask, run: SimQueryRun, rows: list[Row], error: ApiaryError | None) -> None:
        ended = "rows" if error is None else error.code
        if error is None and plan.ending == "close":
            ended = "closed"
        self.outcomes.append(Outcome(shape=plan.shape, ended=ended, error="" if error is None else str(error)))
        name = f"query {plan.shape} ({plan.ending})"
        if isinstance(error, InternalError) or any(isinstance(e, InternalError) for e in _causes(error)):
            self.problems.append(f"{name}: {error}")
        found, wanted = Counter(rows), Counter(asked.expected)
        if ended == "rows" and found != wanted:
            self.problems.append(f"{name}: wrong rows: {_differ(found, wanted)}")
        elif found - wanted:
            self.problems.append(f"{name}: rows that are none: {_differ(found, wanted)}")
        if ended == "rows" and plan.poisoned is not None:
            self.problems.append(f"{name}: an answer though cell {plan.poisoned} cannot be read")
        self._judge_attempts(plan, name, run.report().attempts)
        self._judge_error(plan, name, error, handed_over=bool(rows))

    def _judge_attempts(self, plan: QueryPlan, name: str, attempts: Sequence[AttemptReport]) -> None:
        for outcome, most in (("committed", 1), ("failed", self.scenario.settings.max_attempts)):
            counted = Counter((a.stage, a.task) for a in attempts if a.outcome == outcome)
            many = [task for task, times in counted.items() if times > most]
            if many:
                self.problems.append(f"{name}: more than {most} attempts {outcome} of {many}")
        # The root is said to have failed if the query's time was up meanwhile, which some worlds are slow enough for.
        timely = [a for a in attempts if a.error is None or a.error.code != QueryTimeout.code]
        spoiled = [a for a in timely if a.outcome in {"failed", "lost", "undone"}]
        if spoiled and self.scenario.must_try_once and plan.poisoned is None:
            words = [(a.stage, a.task, a.attempt, a.outcome, a.error and a.error.message) for a in spoiled]
            self.problems.append(f"{name}: attempts failed for no reason: {words}")

    def _judge_all(self) -> None:
        """Judge what is no single query's."""
        again = [attempt for attempt, times in Counter(self._model.ran).items() if times > 1]
        if again:
            self.problems.append(f"attempts were made twice by one process: {again[:4]}")
        refused = Counter[str]()
        for store in self._stores:
            refused.update(store.refusals.snapshot())
        if self._backend.bad_records_read and not (refused[DAMAGED] or refused[UNSEALED]):
            self.problems.append(f"{self._backend.bad_records_read} damaged mails and records passed for whole ones")
        if self.scenario.events or self.scenario.faults.fails or self.scenario.same_ids:
            del refused[REPLAYED]  # what arrives twice, or in a next life, is to be refused
        if refused and not self.scenario.faults.damages:
            self.problems.append(f"objects were refused, though none was damaged: {dict(refused)}")

    def _judge_error(self, plan: QueryPlan, name: str, error: ApiaryError | None, *, handed_over: bool) -> None:
        if error is None or not self.scenario.must_answer:
            return
        timeout_s = self.scenario.settings.timeout_s or 0.0
        if plan.poisoned is not None and POISON in str(error):
            return
        if plan.ending == "cancel" and error.code == "query_cancelled":
            return
        if timeout_s < 100 and error.code == "query_timeout":
            return
        if handed_over and any(event.trouble == "lose" for event in self.scenario.events):
            return  # rows that were handed over cannot be taken back
        self.problems.append(f"{name}: no answer, and nothing was in its way: {error}")

    def _crashed(self, process: Process, error: BaseException) -> None:
        self.problems.append(f"{process.name}: a thread ended by {type(error).__name__}: {error}")

    # -- trouble ------------------------------------------------------------------------------------------------------

    def _happen(self, event: Event) -> None:
        if self._healed:
            return
        self.world.note("-", f"{event.trouble} {event.who} {event.for_s:.3f}")
        if event.trouble == "burst":
            self._backend.fail_for(event.for_s, self._random.choice((0.5, 1.0)))
            return
        if event.trouble == "lose":
            self.world.note("-", f"lost {self._backend.lose(_is_partial)}")
            return
        kind, _, number = event.who.partition(" ")
        seat = self._seats[int(number)] if kind == "node" else None
        process = self._sessions[int(number)] if seat is None else seat.process
        if process is None or not process.alive:
            return
        if event.trouble == "stop":
            process.stop_for(event.for_s)
        elif event.trouble == "cut off":
            process.cut_off_until_s = self.world.now_s + event.for_s
        elif event.trouble == "leave" and seat is not None and seat.node is not None:
            seat.is_leaving = True
            seat.node.stop()
        else:
            process.kill()
            if seat is None:
                self._over += 1
            elif event.for_s:
                self.world.at(self.world.now_s + event.for_s, lambda: None if self._healed else self._start_node(seat))


def _is_partial(key: str, data: bytes) -> bool:
    """Whether an object holds a partial, its commit record before it or not."""
    parsed = keys.parse_query_key(key)
    if parsed is None:
        return False
    return parsed.kind == "partial" or (parsed.kind == "commit" and sealed_bytes(data, len(data)) < len(data))


def _may_damage(_key: str) -> bool:
    return True


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None:
        found.append(error)
        error = error.__cause__
    return found


def _differ(found: Counter[Row], wanted: Counter[Row]) -> str:
    missing, extra = sorted((wanted - found).elements()), sorted((found - wanted).elements())
    return f"{len(missing)} missing {missing[:4]}, {len(extra)} too many {extra[:4]}"
