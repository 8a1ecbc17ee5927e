"""What the simulation would notice: the protocol with one of its rules broken, and worlds that bring it to light.

Each mutation is one line of meaning, put over the shipped code while its worlds are played. A protocol that does as
well without a rule does not need it; a simulation that does not notice would miss a defect of that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from apiary_df import collector, leases
from apiary_df.collect import Stillness
from apiary_df.errors import ObjectExists, ObjectMissing, PartialLost, StorageTransient
from apiary_df.model import NodeState
from apiary_df.protocol import heartbeat, inbox, keys, partial, seal, storage, streaming
from apiary_df.query_objects import QueryObjects
from apiary_df.schedule import handing, machine
from apiary_df.standing import Standing
from apiary_df.store import Store
from apiary_df.view import SwarmView

from . import shapes
from .scenario import scenario_of
from .simulation import Verdict, simulate

Patch = tuple[object, str, object]
"""Where, which name, and what stands there instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A broken rule.

    Attributes:
        name: What is done to the protocol.
        kinds: Kinds of worlds in which it matters.
        patches: Makes it so.
        worlds: Most worlds of those kinds that it may survive.
    """

    name: str
    kinds: tuple[str, ...]
    patches: Callable[[], tuple[Patch, ...]]
    worlds: int = 400


@contextmanager
def broken(mutation: Mutation) -> Iterator[None]:
    """Have a rule broken for a while."""
    with ExitStack() as stack:
        for where, name, value in mutation.patches():
            stack.enter_context(patch.object(where, name, value))
        yield


def seeds_of(mutation: Mutation) -> Iterator[int]:
    """Yield the seeds of the worlds in which a mutation matters."""
    seed = found = 0
    while found < mutation.worlds:
        if scenario_of(seed).kind in mutation.kinds:
            found += 1
            yield seed
        seed += 1


def catch(mutation: Mutation) -> Verdict | None:
    """Return the first verdict that shows a mutation; None if it survives all its worlds."""
    with broken(mutation):
        for seed in seeds_of(mutation):
            verdict = simulate(seed)
            if verdict.problems:
                return verdict
    return None


# -- the rules --------------------------------------------------------------------------------------------------------


def _no_checksums() -> tuple[Patch, ...]:
    return ((partial, "_compare", lambda *_: None),)


def _no_seals() -> tuple[Patch, ...]:
    return ((storage, "open_sealed", lambda data, _key, _swarm_key: seal.unchecked_content(data)),)


def _create(when_failed: bool) -> Callable[[Store, str, bytes, str], bool]:
    def create(store: Store, key: str, data: bytes, _token: str) -> bool:
        try:
            store._create(key, data)
        except (ObjectExists, StorageTransient):
            return when_failed
        return True

    return create


def _failed_create_lost() -> tuple[Patch, ...]:
    return ((Store, "create", _create(False)),)


def _failed_create_won() -> tuple[Patch, ...]:
    return ((Store, "create", _create(True)),)


def _two_attempts_count() -> tuple[Patch, ...]:
    def partials(self: machine.Schedule) -> dict[int, tuple[Any, ...]]:
        return {
            stage: tuple(task.partial for task in tasks for _ in task.attempts)
            for stage, tasks in self._tasks.stages()
            if self.is_complete(stage)
        }

    return ((machine.Schedule, "partials", partials),)


def _nobody_dies() -> tuple[Patch, ...]:
    forgotten = (SwarmView, "_forget", lambda _self: None)
    return ((heartbeat.NodeObserver, "_state", lambda _self, _age_s: NodeState.ALIVE), forgotten)


def _live_queries_collected() -> tuple[Patch, ...]:
    class Impatient(Stillness[Any]):
        def look(self, name: Any, mark: object, now_s: float) -> float:
            return float("inf")

    return ((collector, "Stillness", Impatient),)


def _nothing_collected() -> tuple[Patch, ...]:
    return ((collector.Collector, "look", lambda _self, _now_s: 0),)


def _no_renewal() -> tuple[Patch, ...]:
    return ((leases.LeaseKeeper, "_write", lambda _self, _held: None),)


def _mail_forgotten() -> tuple[Patch, ...]:
    read = inbox.Inbox._read

    def forgetful(self: inbox.Inbox, key: str) -> Any:
        self._tokens.clear()
        return read(self, key)

    return ((inbox.Inbox, "_read", forgetful),)


def _missing_is_empty() -> tuple[Patch, ...]:
    def read(_key: str, reading: Callable[[], Any]) -> Any:
        try:
            return reading()
        except (ObjectMissing, PartialLost):
            return []

    return ((streaming, "read_or_lost", read), (shapes, "read_or_lost", read))


def _made_again_after_rows() -> tuple[Patch, ...]:
    return ((handing.Handing, "forbids", lambda _self, _task: False),)


def _late_commits_lost() -> tuple[Patch, ...]:
    found = QueryObjects._commit_of

    def commit_of(self: QueryObjects, task: Any, listed: Any) -> Any:
        event = found(self, task, listed)
        newest = event is None or not hasattr(event, "key") or event.key.attempt == task.attempts - 1
        return event if newest else None

    return ((QueryObjects, "_commit_of", commit_of),)


def _no_bound() -> tuple[Patch, ...]:
    def again(_self: machine.Schedule, task: Any, due_s: float) -> tuple[()]:
        task.due_s = due_s
        return ()

    return ((machine.Schedule, "_again", again),)


def _no_deadline() -> tuple[Patch, ...]:
    return ((Standing, "is_overdue", lambda _self: False),)


def _one_epoch() -> tuple[Patch, ...]:
    made = keys.commit
    return ((keys, "commit", lambda query_id, stage, task, _epoch: made(query_id, stage, task, 0)),)


MUTATIONS = (
    Mutation(name="drop the checksums of partials", kinds=("damage",), patches=_no_checksums),
    Mutation(name="drop the seals of messages", kinds=("damage",), patches=_no_seals),
    Mutation(
        name="take a failed create for lost, without a read-back", kinds=("creates",), patches=_failed_create_lost
    ),
    Mutation(name="take a failed create for won, without a read-back", kinds=("creates",), patches=_failed_create_won),
    Mutation(name="count every attempt of a task", kinds=("deaths", "losses"), patches=_two_attempts_count),
    Mutation(name="take no node for dead", kinds=("deaths",), patches=_nobody_dies),
    Mutation(name="collect queries whose lease is renewed", kinds=("calm",), patches=_live_queries_collected),
    Mutation(name="never renew a lease", kinds=("calm",), patches=_no_renewal),
    Mutation(name="collect nothing", kinds=("deaths", "sessions"), patches=_nothing_collected),
    Mutation(name="forget which mail was read", kinds=("store", "creates"), patches=_mail_forgotten),
    Mutation(name="take a partial that is missing for empty", kinds=("losses",), patches=_missing_is_empty),
    Mutation(
        name="make again what rows that went out were made from", kinds=("losses",), patches=_made_again_after_rows
    ),
    Mutation(name="overlook commits but of the newest attempt", kinds=("stragglers",), patches=_late_commits_lost),
    Mutation(name="try again without bound", kinds=("calm", "lag"), patches=_no_bound),
    Mutation(name="pass over the deadline", kinds=("deaths",), patches=_no_deadline),
    Mutation(name="give a task that is done again the same record", kinds=("losses",), patches=_one_epoch),
)
"""All of them."""
