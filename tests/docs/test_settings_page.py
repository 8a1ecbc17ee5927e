from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from apiary_df.cli.exits import ExitCode
from apiary_df.config import RULES, Settings
from apiary_df.units import format_bytes

DOCS = Path(__file__).parents[2] / "docs"


def test_settings_page_shows_every_setting_as_the_code_has_it() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| .+ \|$", page, re.MULTILINE)
    expected = []
    for field in fields(Settings):
        rule = RULES[field.name]
        value: Any = field.default
        default = format_bytes(value) if rule.kind == "bytes" and value is not None else str(value)
        expected.append((field.name, default, rule.allowed()))
    assert rows == expected


def test_example_of_the_settings_page_loads() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert example is not None
    assert Settings.load({}, example[1].encode()).compression == "zstd"


def test_cli_page_lists_every_exit_code() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    codes = page.split("## Exit codes")[1].split("##")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", codes, re.MULTILINE)] == sorted(ExitCode)
