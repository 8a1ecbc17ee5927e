"""``python -m tests.stalls -- tests/swarm -n 2``: pytest on a machine that stands still for seconds now and then.

All processes of the tests are stopped at random moments and go on a little later, as when a machine is paused or has no
time for them; with ``--some``, half of the time only some of them are. What fails then, and not otherwise, measures
time or takes an order for granted: a test, or the product. What belongs here: stopping processes. What is run is
pytest's.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from random import Random

import psutil

MARK = "TESTS_STALLED_BY"
"""A variable of the environment that all processes of a run have, whoever their parents are by now."""

LOOK_S = 0.05


def processes_of(mark: str) -> list[psutil.Process]:
    """Return the living processes that were started with such a mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def send(processes: Iterable[psutil.Process], what: signal.Signals) -> None:
    """Send a signal to those that still live."""
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(what)


def main() -> int:
    """Run the command; returns pytest's exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.stalls", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="what the moments are drawn from (default 0)")
    parser.add_argument("--apart", type=float, nargs=2, default=(3.0, 12.0), help="seconds between stalls (3 to 12)")
    parser.add_argument("--stall", type=float, nargs=2, default=(1.0, 6.0), help="seconds of a stall (1 to 6)")
    parser.add_argument("--some", action="store_true", help="stop only some processes, every other time")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, after --")
    options = parser.parse_args()
    random, mark = Random(options.seed), secrets.token_hex(8)
    stalls, stalled_s = 0, 0.0
    tests = subprocess.Popen([sys.executable, "-m", "pytest", *options.pytest], env={**os.environ, MARK: mark})
    try:
        while tests.poll() is None:
            next_s = time.monotonic() + random.uniform(*options.apart)
            while tests.poll() is None and time.monotonic() < next_s:
                time.sleep(LOOK_S)
            if tests.poll() is not None:
                break
            some, length_s = options.some and random.random() < 0.5, random.uniform(*options.stall)
            chosen = [process for process in processes_of(mark) if not some or random.random() < 0.5]
            send(chosen, signal.SIGSTOP)
            stalls, stalled_s = stalls + 1, stalled_s + length_s
            try:
                time.sleep(length_s)
            finally:
                send(chosen, signal.SIGCONT)
    finally:
        if tests.poll() is None:
            tests.terminate()
            tests.wait()
    sys.stdout.write(f"{stalls} stalls, {stalled_s:.0f} s in all; seed {options.seed}\n")
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main())
