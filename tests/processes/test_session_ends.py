"""No node outlives the session that started it, however the session's process ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENCE_S = 20.0

SCRIPT = """
import json, os, signal, sys
import apiary_df
ctx = apiary_df.SessionContext(nodes=1, node_start_timeout_s=120)
(node,) = ctx.nodes()
print(json.dumps({"pid": node.heartbeat.pid, "storage": ctx.storage}), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def ended(how: str) -> tuple[int, Path]:
    """Run a session that nobody closes; returns its node's process id and its folder."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=False)
    said = json.loads(done.stdout)
    return said["pid"], Path(said["storage"].removeprefix("file://"))


def is_gone(pid: int) -> bool:
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.processes
def test_nodes_leave_when_the_session_is_killed() -> None:
    pid, _ = ended("killed")
    assert is_gone(pid)


@pytest.mark.processes
def test_nodes_and_folder_go_when_a_session_that_nobody_closed_ends() -> None:
    pid, folder = ended("forgotten")
    assert is_gone(pid)
    assert not folder.exists()
