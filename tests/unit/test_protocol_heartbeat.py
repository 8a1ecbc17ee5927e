"""How fresh a node is to one observer, by that observer's clock alone. No test waits: time is an argument."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import datafusion
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm import planted

from apiary_df.errors import VersionMismatch
from apiary_df.model import NodeState
from apiary_df.protocol import keys, versions
from apiary_df.protocol.heartbeat import NodeObserver, read_nodes, to_node_info
from apiary_df.protocol.messages import Heartbeat, encode
from apiary_df.protocol.seal import seal
from apiary_df.protocol.storage import write_message
from apiary_df.store import Store, open_store

SUSPECT_S, DEAD_S = 3.0, 10.0
CLOCK = datetime(2026, 1, 1, tzinfo=timezone.utc)
START_S = 500.0


def heartbeat(seq: int = 1, node_id: str = "n1", **changes: Any) -> Heartbeat:
    facts = {"cores": 4, "memory_bytes": 4_000, "memory_per_bee": 1_000, "target_cell_size": 100, "bees_busy": 1}
    return planted.heartbeat(node_id, seq=seq, **{**facts, "cached_cells": {"c": 7}, **changes})


def observer() -> NodeObserver:
    return NodeObserver(suspect_after_s=SUSPECT_S, dead_after_s=DEAD_S, store_now=CLOCK, now_s=START_S)


def ago(seconds: float) -> datetime:
    return CLOCK - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("age_s", "state"),
    [
        (0.0, NodeState.ALIVE),
        (2.9, NodeState.ALIVE),
        (3.0, NodeState.SUSPECT),
        (9.9, NodeState.SUSPECT),
        (10.0, NodeState.DEAD),
        (10**6, NodeState.DEAD),
        (-5.0, NodeState.ALIVE),
    ],
)
def test_at_first_sight_a_heartbeat_is_as_old_as_the_store_says(age_s: float, state: NodeState) -> None:
    assert observer().observe(heartbeat(), ago(age_s), START_S).info.state is state


def test_the_stores_clock_goes_on_with_the_observers() -> None:
    view = observer().observe(heartbeat(), ago(0), START_S + 4)
    assert view.info.state is NodeState.SUSPECT
    assert view.age_s == 4


def test_a_leftover_heartbeat_that_changes_is_alive_again() -> None:
    watching = observer()
    assert watching.observe(heartbeat(1), ago(60), START_S).info.state is NodeState.DEAD
    assert watching.observe(heartbeat(2), ago(60), START_S + 1).info.state is NodeState.ALIVE


def test_after_the_first_sight_only_changes_count_whatever_the_store_says() -> None:
    watching = observer()
    watching.observe(heartbeat(1), ago(0), START_S)
    states = [
        watching.observe(heartbeat(seq), ago(10**6), START_S + s).info.state
        for seq, s in [(1, 2.9), (1, 3.0), (1, 10.0), (2, 11.0), (2, 13.9), (2, 14.0)]
    ]
    assert [state.value for state in states] == ["alive", "suspect", "dead", "alive", "alive", "suspect"]


def test_only_an_alive_node_of_equal_versions_that_stays_is_usable() -> None:
    cases = {
        "": heartbeat(),
        "leaving": heartbeat(leaving=True),
        "protocol 99": heartbeat(protocol_version=99),
        "DataFusion 54.0.0": heartbeat(datafusion_version="54.0.0"),
    }
    for words, beat in cases.items():
        view = observer().observe(beat, ago(0), START_S)
        assert words in view.reason
        assert view.usable is (words == "")
    old = observer().observe(heartbeat(), ago(5), START_S)
    assert (old.usable, old.reason) == (False, "suspect: no new heartbeat for 5.0 s")


def test_a_node_that_went_and_came_back_is_judged_anew() -> None:
    watching = observer()
    watching.observe(heartbeat(1), ago(0), START_S)
    watching.forget_others([])
    assert watching.observe(heartbeat(1), ago(60), START_S).info.state is NodeState.DEAD


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=20), st.floats(0, 20))
def test_a_node_is_dead_exactly_if_nothing_changed_for_long(looks: list[tuple[float, bool]], age_s: float) -> None:
    watching, now_s, seq, changed_s = observer(), START_S, 1, START_S - age_s
    watching.observe(heartbeat(seq), ago(age_s), now_s)
    for step_s, beats in looks:
        now_s += step_s
        if beats:
            seq, changed_s = seq + 1, now_s
        view = watching.observe(heartbeat(seq), ago(0), now_s)
        assert view.age_s == pytest.approx(now_s - changed_s, abs=1e-5)
        assert (view.info.state is NodeState.DEAD) == (view.age_s >= DEAD_S)


def test_what_the_planner_sees_is_what_the_node_said() -> None:
    info = to_node_info(heartbeat(), NodeState.SUSPECT)
    assert (info.node_id, info.state, info.cores, info.memory_bytes) == ("n1", NodeState.SUSPECT, 4, 4_000)
    assert (info.memory_per_bee, info.target_cell_size) == (1_000, 100)
    assert (info.bees_total, info.bees_busy, info.idle_bees) == (4, 1, 3)
    assert info.cached_cells == {"c": 7}
    assert to_node_info(heartbeat(bees_busy=9), NodeState.ALIVE).idle_bees == 0


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}", environ={})


def sealed(content: bytes) -> bytes:
    return seal(content, keys.heartbeat("n1"), None)


def looking(store: Store) -> NodeObserver:
    return NodeObserver(suspect_after_s=SUSPECT_S, dead_after_s=DEAD_S, store_now=store.check_writable(), now_s=START_S)


def test_nodes_are_read_from_storage_in_order(store: Store) -> None:
    for name in ("b", "a"):
        write_message(store, keys.heartbeat(name), heartbeat(node_id=name))
    watching = looking(store)
    views = read_nodes(store, watching, START_S)
    assert [(v.info.node_id, v.usable) for v in views] == [("a", True), ("b", True)]
    later = read_nodes(store, watching, START_S + 60)
    assert [v.info.state for v in later] == [NodeState.DEAD, NodeState.DEAD]
    store.delete([keys.heartbeat("a")])
    assert [v.info.node_id for v in read_nodes(store, watching, START_S + 61)] == ["b"]


def test_an_empty_swarm_has_no_nodes(store: Store) -> None:
    assert read_nodes(store, looking(store), START_S) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cannot be read"),
        (b"{}", "cannot be read"),
        (sealed(encode(heartbeat(node_id="another"))), "is of node 'another'"),
        (sealed(json.dumps({**json.loads(encode(heartbeat())), "bees_total": -1}).encode()), "bees_total"),
    ],
)
def test_a_damaged_heartbeat_is_shown_with_the_reason_and_gets_no_work(store: Store, data: bytes, words: str) -> None:
    store.put(keys.heartbeat("n1"), data)
    write_message(store, keys.heartbeat("good"), heartbeat(node_id="good"))
    good, bad = read_nodes(store, looking(store), START_S)
    assert good.usable
    assert (bad.info.node_id, bad.usable, bad.info.bees_total) == ("n1", False, 0)
    assert words in bad.reason


def test_a_node_of_a_protocol_that_cannot_be_read_is_told_by_its_version(store: Store) -> None:
    newer = {"node_id": "n1", "protocol_version": 7, "datafusion_version": "99.0.0", "beat": "another form"}
    store.put(keys.heartbeat("n1"), json.dumps(newer).encode())
    [view] = read_nodes(store, looking(store), START_S)
    assert not view.usable
    assert f"it speaks protocol 7, this side {versions.PROTOCOL_VERSION}" in view.reason
    assert view.heartbeat.datafusion_version == "99.0.0"


def test_objects_that_are_no_heartbeats_are_passed_over(store: Store) -> None:
    store.put("_swarm/nodes/README.txt", b"hello")
    assert read_nodes(store, looking(store), START_S) == []


def test_peers_of_other_versions_are_refused_with_both_versions() -> None:
    versions.check(versions.PROTOCOL_VERSION, datafusion.__version__, "the coordinator")
    with pytest.raises(VersionMismatch, match=rf"the coordinator .*protocol 1, this side {versions.PROTOCOL_VERSION}"):
        versions.check(1, datafusion.__version__, "the coordinator")
    with pytest.raises(VersionMismatch, match=rf"DataFusion 1\.0, this side {datafusion.__version__}"):
        versions.check(versions.PROTOCOL_VERSION, "1.0", "the coordinator")
