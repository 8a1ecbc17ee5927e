"""Every promise of docs/security.md has its test, and every reason for a refusal is named there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from apiary_df.protocol.seal import REASONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
PROMISES = re.findall(r"^\| (?!promise|---)(.+?) \| `(.+?)::(\w+)` \|$", PAGE, re.MULTILINE)


def test_every_row_of_a_table_is_a_promise_with_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert len(PROMISES) == len(rows) - 2 * PAGE.count("| promise | shown by |")
    assert len(PROMISES) > 20


@pytest.mark.parametrize(("path", "name"), sorted({(path, name) for _, path, name in PROMISES}))
def test_the_test_of_a_promise_is_there(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_all_reasons_are_named() -> None:
    made = PAGE.split("<!-- made: reasons -->\n")[1].split("<!-- end -->")[0]
    assert made == "".join(f"- `{reason}`\n" for reason in REASONS)
