"""No node outlives the session that started it, however the session's process ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from swarm.helpers import wait_until

from apiary_df.config import Settings
from apiary_df.scratch import ScratchFolder
from apiary_df.swarm import LocalSwarm

SCRIPT = """
import json, os, signal, sys
import apiary_df
ctx = apiary_df.SessionContext(nodes=1, node_start_timeout_s=120, scratch_dir=sys.argv[2])
ctx.sql("SELECT 1").collect()
(node,) = ctx.nodes()
print(json.dumps({"pid": node.heartbeat.pid, "storage": ctx.storage}), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def ended(how: str, scratch: Path) -> int:
    """Run a session that nobody closes; returns its node's process id."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how, str(scratch)], capture_output=True, text=True, check=False
    )
    said = json.loads(done.stdout)
    assert Path(said["storage"].removeprefix("file://")).is_relative_to(scratch)
    return int(said["pid"])


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.processes
def test_nodes_leave_when_the_session_is_killed_and_the_next_one_removes_its_folders(tmp_path: Path) -> None:
    node = ended("killed", tmp_path)
    wait_until(lambda: is_gone(node), "the node gone")
    assert list(tmp_path.iterdir()), "a killed process can have removed nothing"
    folder = ScratchFolder("next", str(tmp_path))
    assert list(tmp_path.iterdir()) == [folder.path]
    folder.remove()


@pytest.mark.processes
def test_nodes_and_folder_go_when_a_session_that_nobody_closed_ends(tmp_path: Path) -> None:
    node = ended("forgotten", tmp_path)
    wait_until(lambda: is_gone(node), "the node gone")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_folders_of_killed_nodes_go_when_the_next_one_starts(tmp_path: Path) -> None:
    with LocalSwarm(1, settings=Settings(scratch_dir=str(tmp_path), node_start_timeout_s=120)) as swarm:
        (first,) = swarm.node_ids
        swarm.processes[first].kill()
        swarm.processes[first].wait()
        (left,) = tmp_path.glob(f"apiary-{first}-*")
        second = swarm.add_node()
        wait_until(lambda: [*tmp_path.glob(f"apiary-{second}-*")], "the second node works", 120.0)
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []
