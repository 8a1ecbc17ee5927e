"""``apiary replay`` on what real queries left."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from apiary_df import LocalSwarm, SessionContext, Settings
from apiary_df.cli.app import app
from apiary_df.errors import TaskFailed
from swarm.helpers import CALM, FORCED

pytestmark = pytest.mark.processes

GROUPS = "SELECT g, count(*) AS n FROM t GROUP BY g"
CASTS = "SELECT g, sum(CAST(text AS INT)) AS s FROM t GROUP BY g"


ONE_ATTEMPT: dict[str, Any] = {**CALM, "heartbeat_s": 0.2, "speculate": False}
"""One attempt a task, however busy the machine is."""


@dataclass(frozen=True, slots=True)
class Left:
    """A root with two queries in it, their ids, and the table that they read."""

    root: str
    table: str
    done: str
    failed: str


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    """What a query that succeeded and one that failed have left."""
    folder, root = tmp_path_factory.mktemp("data"), str(tmp_path_factory.mktemp("root"))
    pq.write_table(pa.table({"g": [1, 2], "text": ["1", "2"]}), folder / "0.parquet")
    pq.write_table(pa.table({"g": [1, 2], "text": ["3", "hive"]}), folder / "1.parquet")
    with (
        LocalSwarm(2, storage=root, in_process=True, settings=Settings(**ONE_ATTEMPT)),
        SessionContext(storage=root, keep=True, **{**FORCED, **ONE_ATTEMPT}) as ctx,
    ):
        ctx.register_parquet("t", str(folder))
        ctx.sql(GROUPS).collect()
        assert ctx.last_query is not None
        done = ctx.last_query.query_id
        with pytest.raises(TaskFailed):
            ctx.sql(CASTS).collect()
        yield Left(root, str(folder), done, ctx.last_query.query_id)


def replay(*arguments: str, fails: int = 0) -> str:
    result = CliRunner(env={"COLUMNS": "120"}).invoke(app, ["replay", *arguments])
    assert result.exit_code == fails, result.output
    return result.output


def replay_json(*arguments: str) -> Any:
    return json.loads(replay(*arguments, "--json"))


def test_without_an_id_it_lists_what_is_there(left: Left) -> None:
    text = replay(left.root)
    assert "2 queries" in text
    assert text.index(left.done) < text.index(GROUPS) < text.index(left.failed) < text.index(CASTS)
    listed = replay_json(left.root)["queries"]
    assert [(query["query_id"], query["state"]) for query in listed] == [(left.done, "done"), (left.failed, "failed")]


def test_it_shows_every_attempt_of_a_query(left: Left) -> None:
    text = replay(left.root, left.done)
    assert f"query {left.done}: done after" in text
    facts = replay_json(left.root, left.done)
    assert facts["rows"] == 2
    for attempt in facts["attempts"]:
        assert f"\n{attempt['stage']}.{attempt['task']} " in text
        assert attempt["outcome"] == "committed"


def test_it_shows_why_a_query_failed(left: Left) -> None:
    text = replay(left.root, left.failed)
    assert "failed after" in text
    assert "execution_failed: DataFusion error" in text
    assert "hive" in text


def test_a_task_is_run_once_more_and_compared(left: Left) -> None:
    for attempt in replay_json(left.root, left.done)["attempts"]:
        task = f"{attempt['stage']}.{attempt['task']}"
        text = replay(left.root, left.done, "--task", task, "--run")
        compared = "nothing was committed to compare with" if attempt["here"] else "as many in each as were committed"
        assert compared in text
        run = replay_json(left.root, left.done, "--task", task, "--run")["run"]
        assert sum(run["rows"]) == attempt["rows"]


def test_a_task_that_failed_fails_again_with_the_commands_exit_code(left: Left) -> None:
    (failed,) = (a for a in replay_json(left.root, left.failed)["attempts"] if a["outcome"] == "failed")
    text = replay(left.root, left.failed, "--task", f"{failed['stage']}.{failed['task']}", "--run", fails=1)
    assert "hive" in text


@pytest.mark.parametrize(("then", "code"), [("c", 0), ("q", 130)])
def test_the_debugger_has_the_task_before_it_runs(left: Left, then: str, code: int) -> None:
    # A process of its own, since pytest puts its own debugger in the place of Python's.
    done = subprocess.run(
        [sys.executable, "-m", "apiary_df.cli", "replay", left.root, left.done, "--task", "0.0", "--debug"],
        input=f"print('task', ready.task.stage, ready.task.task)\n{then}\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "task 0 0" in done.stdout
    assert ("run once more" in done.stdout) is (then == "c")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("q0",), "nothing of query 'q0' is below"),
        (("../q0",), "characters of a-z"),
        (("{done}", "--task", "7.7"), "has no task 7.7; it has 0.0"),
        (("{done}", "--task", "first"), "write the numbers of stage and task"),
        (("{done}", "--run"), "say which with --task"),
        (("--task", "0.0"), "of which query?"),
        (("{done}", "--task", "0.0", "--debug", "--json"), "give one of them"),
        (("{done}", "--task", "0.0", "--run", "--memory", "lots"), "is not a size"),
    ],
)
def test_nonsense_ends_with_a_message_and_code_2(left: Left, arguments: tuple[str, ...], words: str) -> None:
    named = [argument.format(done=left.done) for argument in arguments]
    assert words in " ".join(replay(left.root, *named, fails=2).split())


def test_the_command_that_ran_a_query_says_how_to_replay_it(left: Left) -> None:
    forced = [flag for name, value in {**FORCED, **ONE_ATTEMPT}.items() for flag in ("--set", f"{name}={value}")]
    flags = ["sql", "-s", left.root, "-t", f"t={left.table}", "--set", "keep_failed=yes", *forced]
    result = CliRunner().invoke(app, [*flags, CASTS])
    assert result.exit_code == 1
    told = re.search(r"apiary: the query is kept: apiary replay (\S+) (\S+)\n", result.stderr)
    assert told is not None
    assert "hive" in replay(told[1], told[2])
    assert "is kept" not in CliRunner().invoke(app, [*flags, GROUPS]).stderr


def test_a_root_without_queries_says_so(tmp_path: Path) -> None:
    assert "nothing of any query" in replay(str(tmp_path))
    assert replay_json(str(tmp_path))["queries"] == []
