# ruff: noqa: E501 - the page has lines of its own length
"""docs/coverage.md shows the table of operators. ``cd tests && python -m plan.test_coverage_page`` writes it anew."""

from __future__ import annotations

import sys
from pathlib import Path

from apiary_df.plan.classes import TABLE, UNKNOWN_OPERATOR, OperatorClass, Placement
from plan.operator_examples import EXAMPLES, NOT_PLANNED

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"

HEAD = """# Coverage

Every physical operator that DataFusion 55 can put into a plan, and where a swarm runs it. The page is made from the table in the code
(`apiary_df.plan.classes.TABLE`) that the rules, the cutter and `EXPLAIN` read; how a plan is cut is in [architecture.md](architecture.md).

- *Runs in any task*: right over any share of the rows.
- *Needs an exchange*: right once the rows of a key, or a whole build side, have been brought together; also the exchanges themselves.
- *Must be one task*: its stage is a single task, and the rest of the query is divided.
- *Coordinator only*: the query runs in the session's process, as plain DataFusion runs it.

Where the class depends on how an operator is used, it has a line for each use. An operator that is not listed is not looked into: it and all below it
run as one task. Most queries below are run by a test, over tables with NULLs, duplicates and several files, and compared with plain DataFusion;
the test also checks that they plan the operator. Options that a query needs are given with it.
"""


def page() -> str:
    return HEAD + "".join(_section(placement) for placement in Placement)


def _section(placement: Placement) -> str:
    rows = [row for row in (*TABLE, UNKNOWN_OPERATOR) if row.placement is placement]
    title = placement.value[0].upper() + placement.value[1:]
    lines = [f"\n## {title}\n", "| operator | use | why | example |", "| --- | --- | --- | --- |"]
    lines += [f"| `{row.operator}` | {_code(row.use)} | {row.reason} | {_example(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _example(row: OperatorClass) -> str:
    if row.name not in EXAMPLES:
        return f"none: {NOT_PLANNED[row.name]}" if row.name in NOT_PLANNED else ""
    example = EXAMPLES[row.name][0]
    options = ", ".join(f"`{name}={value}`" for name, value in (example.settings or {}).items())
    return f"`{example.sql}`" + (f" with {options}" if options else "")


def test_the_page_is_made_from_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: cd tests && python -m plan.test_coverage_page"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")
