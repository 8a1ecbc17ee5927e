"""``python -m tests.simulation``: play many seeds, or one with its trace."""

from __future__ import annotations

import argparse
import sys
import time

from .campaign import Tally, verdicts
from .simulation import Verdict, simulate

REPORT_EVERY = 5_000
"""Seeds between two lines of progress."""

SHOWN = 20
"""Failing seeds that are shown."""


def main() -> int:
    """Run the command; returns 1 if a seed has a problem."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100_000, help="how many seeds to play (100000)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them (0)")
    parser.add_argument("--seed", type=int, help="play this one alone, twice, and compare")
    parser.add_argument("--trace", action="store_true", help="with --seed: print what happened, line by line")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return _one(arguments.seed, tracing=arguments.trace)
    return _many(arguments.first, arguments.seeds, arguments.jobs)


def _one(seed: int, *, tracing: bool) -> int:
    verdict = simulate(seed, tracing=tracing)
    for line in verdict.lines:
        print(line)
    print(f"seed {seed}: {verdict.kind}, {verdict.seconds:.0f} s in {verdict.turns} turns, trace {verdict.hash:08x}")
    for outcome in verdict.outcomes:
        print(f"  {outcome.shape}: {outcome.ended} {outcome.error}")
    for problem in verdict.problems:
        print(f"  PROBLEM {problem}")
    same = simulate(seed).hash == verdict.hash
    print("played again: the same" if same else "played again: ANOTHER TRACE")
    return 1 if verdict.problems or not same else 0


def _many(first: int, seeds: int, jobs: int) -> int:
    tally, began_s = Tally(), time.perf_counter()
    for verdict in verdicts(range(first, first + seeds), jobs):
        tally.add(verdict)
        if verdict.problems and len(tally.failed) <= SHOWN:
            _show(verdict)
        if tally.seeds % REPORT_EVERY == 0:
            spent_s = time.perf_counter() - began_s
            print(
                f"{tally.seeds} seeds, {len(tally.failed)} failed, {spent_s / tally.seeds * 1e3:.1f} ms each",
                flush=True,
            )
    _sum_up(tally, time.perf_counter() - began_s)
    return 1 if tally.failed else 0


def _show(verdict: Verdict) -> None:
    print(f"seed {verdict.seed} ({verdict.kind})")
    for problem in verdict.problems:
        print(f"  {problem}")


def _sum_up(tally: Tally, spent_s: float) -> None:
    print(
        f"{tally.seeds} seeds, {tally.queries()} queries, {tally.answered()} answered; {len(tally.failed)} seeds failed"
    )
    print(f"{tally.seconds / 86_400:.1f} virtual days in {spent_s:.0f} s, {spent_s / tally.seeds * 1e3:.1f} ms a seed")
    for kind, ended in sorted(tally.ended.items()):
        words = ", ".join(f"{how} {count}" for how, count in ended.most_common())
        print(f"  {kind:11} {tally.seeds_of_kind[kind]:6} seeds: {words}")


if __name__ == "__main__":
    sys.exit(main())
