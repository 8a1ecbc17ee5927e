"""Every command of the benchmarks can be started, and what they name by a text is there."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest

from benchmarks.engines.adapter import KINDS, Kind

FOLDER = Path(__file__).parents[2] / "benchmarks"
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted(FOLDER.rglob("*.py"))}

IN_NODES = {"phases", "tracing", "host"}
"""What other commands start in place of a node or an engine: these pass on what they are given."""

COMMANDS = [path for path, text in SOURCES.items() if '__name__ == "__main__"' in text and path.stem not in IN_NODES]

MODULE = re.compile(r"-m(?:\", \"| )(benchmarks(?:\.\w+)*)")


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_the_command_tells_how_it_is_used(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code in (None, 0)
    assert "usage" in capsys.readouterr().out.lower()


def test_modules_that_are_run_by_name_are_there() -> None:
    named = {name for text in SOURCES.values() for name in MODULE.findall(text)}
    assert {"benchmarks.phases", "benchmarks.tracing", "benchmarks.engines.host"} <= named
    assert [name for name in sorted(named) if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_adapter_of_an_engine_is_there_whether_the_engine_is_or_not(kind: Kind) -> None:
    module, name = kind.adapter.split(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    assert name in {node.name for node in body if isinstance(node, ast.ClassDef)}
