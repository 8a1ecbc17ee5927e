"""What a node leaves of an attempt that it could not even begin, and what it says that an attempt has asked."""

from __future__ import annotations

import uuid

import pytest
from swarm.planted import manifest

from apiary_df.host import SYSTEM
from apiary_df.model import PartialRef, TaskSpec
from apiary_df.plan import codec
from apiary_df.protocol import keys
from apiary_df.protocol.messages import CommitRecord, Lease, Mail, Manifest, StageFragment, TaskMail
from apiary_df.protocol.storage import read_message, write_bytes, write_message
from apiary_df.roots import Roots
from apiary_df.store import Store, open_store
from apiary_df.worker.attempts import Attempts
from apiary_df.worker.bee import Work
from apiary_df.worker.desk import Order
from apiary_df.worker.executor import Executor, Job

QUERY = "q1"


class _Idle(Executor):
    def run(self, job: Job) -> Work:
        raise AssertionError("there is nothing to run")

    def close(self) -> None:
        return


@pytest.fixture
def store() -> Store:
    made = open_store(f"memory://{uuid.uuid4().hex}", environ={})
    made.put(keys.manifest(QUERY), b"this is no manifest")
    return made


def announce(store: Store) -> None:
    """Put into storage what a node has to know of a query."""
    write_message(store, keys.lease(QUERY), Lease(query_id=QUERY, coordinator="s1", seq=0))
    write_bytes(store, keys.plan(QUERY, 0), codec.encode(codec.build("placeholder_row", schema=b"")))
    write_message(store, keys.manifest(QUERY), manifest(QUERY))


def order_of(version: int = 0, task: int = 0, letter: Mail | None = None) -> Order:
    """Return an order for a share of one of the stage's fragments."""
    spec = TaskSpec(stage=0, task=task, node_id="n1", output_partitions=1, version=version)
    return Order(query_id=QUERY, sender="s1", mail=TaskMail(spec=spec, attempt=0), received_s=0.0, letter=letter)


def attempts_on(store: Store) -> Attempts:
    return Attempts(store, "n1", None, bee_bytes=1 << 24, roots=Roots(places=(), urls=()), host=SYSTEM)


def run_one(store: Store, executor: Executor | None = None) -> list[str]:
    """Let a node find out about a query whose manifest is damaged; return what is there then."""
    attempts_on(store).run(order_of(), executor or _Idle())
    return [meta.key for meta in store.list(keys.QUERIES)]


def test_an_attempt_that_cannot_begin_is_reported_while_the_query_lives(store: Store) -> None:
    write_message(store, keys.lease(QUERY), Lease(query_id=QUERY, coordinator="s1", seq=0))
    assert keys.error(QUERY, 0, 0, 0) in run_one(store)


def test_no_report_of_it_stays_once_the_query_is_over(store: Store) -> None:
    assert run_one(store) == []


class _Asking(Executor):
    """Makes requests for its attempt, while the node's own thread asks as much again."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def run(self, job: Job) -> Work:
        for _ in range(7):
            self._store.get_or_none("_swarm/inbox/n1/0000000000.json")
        partial = PartialRef(
            key=job.partial_key, length=0, footer_offset=0, footer_checksum="", segments=(), head_length=0
        )
        return Work(partial=partial, spills=0, spilled_bytes=0, requests={"get": 2, "put": 1, "bytes_in": 50})

    def close(self) -> None:
        return


def test_an_attempts_requests_are_its_own_and_no_others() -> None:
    store = open_store(f"memory://{uuid.uuid4().hex}", environ={})
    announce(store)
    before = store.counts.snapshot()
    run_one(store, _Asking(store))
    spent = {kind: count - before[kind] for kind, count in store.counts.snapshot().items()}
    record = read_message(store, keys.commit(QUERY, 0, 0, 0), CommitRecord)
    assert record is not None
    # Manifest, fragment and lease by the node; the executor's, which are not the store's here; not the seven looks.
    assert record.metrics.requests["get"] == 3 + 2 == spent["get"] - 7 + 2
    assert record.metrics.requests["put"] == 1 + 1 == spent["put"] + 1


class _Noting(_Asking):
    """Notes which plans it was given."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.plans: list[bytes] = []

    def run(self, job: Job) -> Work:
        self.plans.append(codec.encode(job.fragment))
        return super().run(job)


def test_a_task_runs_the_version_that_it_is_a_share_of_whatever_is_known_or_enclosed() -> None:
    store = open_store(f"memory://{uuid.uuid4().hex}", environ={})
    announce(store)
    plans = [codec.encode(codec.build("placeholder_row", schema=b"\x0a" * version)) for version in range(3)]
    write_bytes(store, keys.plan(QUERY, 0, 1), plans[1])
    manifest = read_message(store, keys.manifest(QUERY), Manifest)
    enclosing = [
        Mail(
            token="t",
            query_id=QUERY,
            sender="s1",
            tasks=(),
            manifest=manifest,
            fragments=(StageFragment(stage=0, version=version, plan=plans[version]),),
        )
        for version in (0, 2)
    ]
    executor, attempts = _Noting(store), attempts_on(store)
    # Version 2 lies in the mail alone, version 1 in storage alone.
    for task, (version, letter) in enumerate([(0, enclosing[0]), (1, enclosing[0]), (2, enclosing[1]), (0, None)]):
        attempts.run(order_of(version, task, letter), executor)
    assert executor.plans == [plans[0], plans[1], plans[2], plans[0]]
