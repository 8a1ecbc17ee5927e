"""``python -m tests.decoders --minutes M``: hostile bytes for every decoder; exit code 0 means no defect."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .campaign import child, run_target
from .targets import TARGETS, run_one


def main() -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.decoders", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long in all (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="first seed (default 0)")
    parser.add_argument("--case", help="run this one case (target:seed) here, and stop")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--state", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        name, _, seed = options.case.partition(":")
        sys.stdout.write(f"{run_one(name, int(seed))}\n")
        return 0
    if options.child:
        return child(options.child, options.seed, options.minutes * 60, options.state)
    defects = 0
    for name in TARGETS:
        outcome = run_target(name, options.seed, options.minutes * 60 / len(TARGETS))
        ends = ", ".join(f"{end} {number}" for end, number in outcome.ends.most_common())
        sys.stdout.write(f"{name}: {outcome.cases} cases: {outcome.defect or ends}\n")
        sys.stdout.flush()
        defects += bool(outcome.defect)
    return min(defects, 1)


if __name__ == "__main__":
    sys.exit(main())
