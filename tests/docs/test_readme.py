"""Everything that a reader of the README types is run here, or is known to be run elsewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WAIT_S = 120

ELSEWHERE = {
    "make demo": "tests/processes/test_cli_processes.py runs `apiary demo`, which is all that this target does",
    "make test": "it is what runs this test",
    "apiary node --storage s3://bucket/swarm --allow-root s3://bucket/tables": (
        "tests/processes/test_cli_processes.py, on a folder"
    ),
    "apiary status -s s3://bucket/swarm --watch": "tests/processes/test_cli_processes.py, on a folder, once",
}
"""Commands of the README that are not run here, and why not."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.mark.processes
def test_python_of_the_readme_works_when_pasted(tmp_path: Path) -> None:
    [block] = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", block], capture_output=True, text=True, cwd=tmp_path, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    rides, reason = done.stdout.splitlines()
    assert rides == "[{'city': 'Bonn', 'rides': 1, 'fares': 12.0}, {'city': 'Ulm', 'rides': 2, 'fares': 11.0}]"
    assert reason


@pytest.mark.processes
def test_sql_commands_of_the_readme_work(tmp_path: Path) -> None:
    write = blocks("python")[0].split("with ")[0]
    subprocess.run([sys.executable, "-c", write], cwd=tmp_path, check=True, timeout=WAIT_S)
    outputs = []
    for command in commands():
        name, *arguments = shlex.split(command)
        if command in ELSEWHERE:
            continue
        assert name == "apiary"
        done = subprocess.run(
            [sys.executable, "-m", "apiary_df.cli", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs == ["city | rides\n-----+------\nBonn |     1\nUlm  |     2\n(2 rows)\n", '{"fares":23.0}\n']


def test_commands_that_are_run_elsewhere_are_still_in_the_readme() -> None:
    assert ELSEWHERE.keys() <= set(commands())


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_of_the_readme_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_package_imports_without_side_effects_on_the_working_folder(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", "import apiary_df"], cwd=tmp_path, check=True, timeout=WAIT_S, env=dict(os.environ)
    )
    assert list(tmp_path.iterdir()) == []
