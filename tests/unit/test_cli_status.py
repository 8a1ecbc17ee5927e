from __future__ import annotations

import io

import pytest
from rich.console import Console
from swarm.planted import heartbeat

from apiary_df.cli.status import SILENT_S, node_facts, render, render_queries
from apiary_df.model import NodeState
from apiary_df.protocol.heartbeat import NodeView, to_node_info
from apiary_df.replay.running import Running


def view(node_id: str, *, state: NodeState = NodeState.ALIVE, reason: str = "", **facts: object) -> NodeView:
    values = {
        "seq": 3,
        "protocol_version": 1,
        "datafusion_version": "55.0.0",
        "apiary_version": "0.1.0",
        "memory_bytes": 2**31,
        "memory_per_bee": 2**30,
        "bees_total": 2,
        "bees_busy": 1,
        "cached_cells": {"a": 2**20, "b": 2**20},
        "queries": ("q1",),
        "started_at": "2026-01-01T00:00:00+00:00",
        "python_version": "3.11",
        **facts,
    }
    beat = heartbeat(node_id, **values)
    return NodeView(info=to_node_info(beat, state), heartbeat=beat, age_s=0.1234567, reason=reason)


def shown(*views: NodeView, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render("s3://b/swarm", views))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_nodes_of_a_healthy_swarm_take_one_line_each_on_a_narrow_terminal() -> None:
    lines = shown(view("n1"), view("n2", queries=())).splitlines()
    assert lines[0] == "s3://b/swarm: 2 nodes at work of 2, 2 of 4 bees busy, 1 query running"
    assert "".join(lines[1:3]).replace("  ", " ") == (
        "apiary_df 0.1.0, DataFusion 55.0.0, protocol 1, Python 3.11, Python functions refused"
    )
    assert [line.split()[:6] for line in lines if line.strip().startswith("n")][1:] == [
        ["n1", "alive", "1/2", "2.0", "GiB", "2"],
        ["n2", "alive", "1/2", "2.0", "GiB", "2"],
    ]
    assert "because" not in "".join(lines)


def test_node_without_work_says_why() -> None:
    dead = view("n2", state=NodeState.DEAD, reason="dead: no new heartbeat for 9.0 s")
    text = shown(view("n1"), dead, width=160)
    assert "1 node at work of 2, 1 of 2 bees busy" in text
    assert "dead: no new heartbeat for 9.0 s" in text


def test_versions_are_shown_by_node_where_they_differ() -> None:
    text = shown(view("n1"), view("n2", datafusion_version="54.1.0"), width=200)
    assert "DataFusion 55.0.0" in text
    assert "DataFusion 54.1.0" in text


def test_nodes_that_run_python_functions_can_be_told_from_those_that_do_not() -> None:
    text = shown(view("n1"), view("n2", allow_udfs=True), width=240)
    assert "Python functions refused" in text
    assert "Python functions allowed" in text


def test_facts_for_programs_are_in_bytes_and_seconds() -> None:
    facts = node_facts(view("n1"))
    assert facts["cached_cells"] == 2
    assert facts["cached_bytes"] == 2**21
    assert facts["memory_bytes"] == 2**31
    assert facts["silent_s"] == pytest.approx(0.123)
    assert facts["gets_work"] is True
    assert (facts["allow_udfs"], facts["python_version"]) == (False, "3.11")


def test_empty_swarm_says_how_to_start_a_node() -> None:
    assert "start one with: apiary node --storage s3://b/swarm" in shown()


def test_queries_that_run_are_told_with_their_session_and_their_text() -> None:
    running = Running(
        query_id="q1", coordinator="session-1", age_s=12.34, silent_s=0.2, committed=5, failed=1, sql="SELECT\n  1"
    )
    silent = Running(query_id="q2", coordinator="", age_s=99.0, silent_s=SILENT_S, committed=0, failed=0, sql=None)
    console = Console(file=io.StringIO(), width=80)
    console.print(*render_queries([running, silent]), sep="\n")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "q1  12.3 s old, 5 tasks committed, 1 attempt failed, of session-1",
        "  SELECT 1",
        "q2  99.0 s old, 0 tasks committed, whose last sign of life is 30 s old",
    ]
