"""Small storms over real nodes: every answer exact, none missing, nothing left. `make chaos` is the large one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from swarm.helpers import wait_until

from apiary_df import SessionContext
from apiary_df.store import Store, open_store

from .campaign import Plan, run_campaign
from .nodes import Supervisor
from .places import stray_objects
from .sessions import do
from .work import Errand, Work, make_work

PATIENT_S = 90.0
"""For what processes do in their own time: machines may be twenty times busier than they should be."""

SMALL = Plan(
    sessions=2,
    doomed=False,
    gap_s=0.6,
    dead_after_s=4.0,
    scale=0.005,
    parts=3,
    only=frozenset({1, 3, 6, 13, 18}),
)
"""A gather, two joins, one stage, an outer join, a large group by; and the write that every storm has."""

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]


@pytest.mark.parametrize(("storage", "kills"), [("folder", 5), pytest.param("s3", 3, marks=pytest.mark.s3)])
def test_answers_are_exact_while_nodes_are_killed(storage: str, kills: int, tmp_path: Path) -> None:
    report = run_campaign(replace(SMALL, storage=storage, kills=kills), tmp_path)
    assert not report.faults, report.faults[:5]
    assert report.blows["SIGKILL"] >= kills
    assert len(report.outcomes) >= SMALL.sessions
    assert any(outcome.distributed for outcome in report.outcomes)


@pytest.fixture
def root(tmp_path: Path) -> Store:
    return open_store((tmp_path / "root").as_uri())


@pytest.fixture
def nodes(root: Store, tmp_path: Path) -> Iterator[Supervisor]:
    logs = tmp_path / "logs"
    logs.mkdir()
    supervisor = Supervisor(root, None, SMALL.settings(), nodes=2, folder=logs, allowed=tmp_path.as_uri())
    wait_until(lambda: supervisor.is_ready(0) and supervisor.is_ready(1), "both nodes ready", PATIENT_S)
    yield supervisor
    supervisor.close()


@pytest.fixture
def work(root: Store, tmp_path: Path) -> Work:
    return make_work(tmp_path / "tpch", root, None, scale=0.005, parts=3, only=frozenset({13}))


@pytest.fixture
def session(root: Store, work: Work) -> Iterator[SessionContext]:
    with SessionContext(storage=root.url, settings=SMALL.settings()) as ctx:
        work.register(ctx)
        yield ctx


def test_a_session_whose_nodes_are_all_killed_for_good_gives_the_right_rows_alone(
    nodes: Supervisor, root: Store, work: Work, session: SessionContext
) -> None:
    q13 = work.errands[0]
    nodes.stop(0)
    nodes.stop(1)
    outcomes: list[str | None] = []
    query = threading.Thread(target=lambda: outcomes.append(do(session, q13).fault), daemon=True)
    query.start()
    wait_until(lambda: root.list("_swarm/inbox/"), "mail for the nodes", PATIENT_S)
    killed = [node.name for node in nodes.nodes if node is not None]
    nodes.kill(0)
    nodes.kill(1)
    query.join(PATIENT_S)
    assert outcomes == [""]
    report = session.last_query
    assert report is not None
    assert report.distributed
    assert report.folded_stages, "it was the session that did the work"
    assert stray_objects(root, killed) == []


def test_a_node_that_ends_by_itself_and_an_answer_that_differs_are_faults(
    nodes: Supervisor, session: SessionContext
) -> None:
    first = nodes.nodes[0]
    assert first is not None
    os.kill(first.process.pid, signal.SIGKILL)

    def buried() -> bool:
        nodes.tend(restart=False)
        return nodes.nodes[0] is None

    wait_until(buried, "the node buried", PATIENT_S)
    assert [first.name in fault for fault in nodes.faults] == [True]

    def wrong(ctx: SessionContext) -> str | None:
        table = ctx.sql("SELECT count(*) AS n FROM lineitem").to_arrow_table()
        return None if table.equals(pa.table({"n": [-1]})) else "another count"

    assert do(session, Errand(name="wrong", run=wrong)).fault == "another count"
    assert do(session, Errand(name="none", run=lambda ctx: str(ctx.sql("SELEKT")))).fault.startswith("SqlError")
