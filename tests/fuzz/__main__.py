"""``python -m tests.fuzz``: random queries against three oracles, from a seed.

Exit code 0 means no difference. Each one is reduced to a small query over small
tables, printed, and written as a script.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from random import Random

from .campaign import Case, describe, run_campaign
from .lab import Lab, draw_setting
from .oracles import ORACLES


def main() -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--queries", type=int, default=10_000, help="queries for each oracle (default 10000)")
    parser.add_argument("--seed", default="1", help="what they are drawn from (default 1)")
    parser.add_argument("--from-setting", type=int, default=0, help="number of the first set of tables (default 0)")
    parser.add_argument("--oracle", default="plain,tlp,duckdb", help="which of plain, tlp, duckdb; by default all")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes, however many queries there were")
    parser.add_argument("--reports", type=Path, default=Path(".fuzz"), help="folder for reproductions (default .fuzz)")
    parser.add_argument("--case", help="judge this one case (oracle:seed:setting:query) again, and stop")
    options = parser.parse_args()
    if options.case:
        return judge_again(Case.parse(options.case), options.reports)
    names = options.oracle.split(",")
    unknown = [name for name in names if name not in ORACLES]
    if unknown:
        parser.error(f"no oracle is called {', '.join(unknown)}; there are {', '.join(ORACLES)}")
    until_s = time.monotonic() + options.minutes * 60 if options.minutes else float("inf")
    differences = 0
    with Lab() as lab:
        for name in names:
            started_s = time.monotonic()
            tally = run_campaign(
                lab,
                ORACLES[name],
                seed=options.seed,
                queries=options.queries,
                first_setting=options.from_setting,
                until_s=until_s,
                reports=options.reports,
                progress=tell,
            )
            count = sum(tally.verdicts.values())
            elapsed_s = time.monotonic() - started_s
            tell(f"\n{name}, seed {options.seed}: {count:,} queries in {elapsed_s:,.0f} s")
            tell("\n".join(tally.lines()))
            differences += len(tally.differences)
    tell(f"\n{differences} differences")
    return 1 if differences else 0


def judge_again(case: Case, reports: Path) -> int:
    """Draw one case again, judge it, and print everything about it."""
    oracle = ORACLES[case.oracle]
    setting = draw_setting(Random(f"{case.oracle}:{case.seed}:{case.setting}"), oracle.tables)
    with Lab() as lab:
        lab.prepare(setting)
        query, judged = oracle.judge(lab, Random(str(case)), setting.tables)
        tell(describe(lab, case, setting, query, judged, reports=None))
    return 0


def tell(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
