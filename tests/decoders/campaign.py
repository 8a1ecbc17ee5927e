"""Running targets in processes of their own, so that a crash, a hang or greed is seen and told with its seed."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from .targets import run_one

MEMORY_BYTES = 6 << 30
"""Address space of a process: who allocates by a length that bytes only claim, fails."""

HANG_S = 60.0
"""One case takes milliseconds; a machine under load may stop for long."""

LEAST_CASES = 200
"""Cases of a run, however long they take: few bytes that are changed leave something that can be taken."""

_STATE = struct.Struct("<q")


@dataclass(slots=True)
class Outcome:
    """What became of a target's cases.

    Attributes:
        cases: How many ran.
        ends: How many ended how: an error's code, or ``taken``.
        defect: What went wrong with the last one; empty if nothing did.
    """

    cases: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    defect: str = ""


def run_target(name: str, first: int, seconds: float) -> Outcome:
    """Run cases of a target for some seconds in another process, from a seed on."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        state.write_bytes(_STATE.pack(first))
        words = Path(folder) / "words"
        command = [sys.executable, "-m", "tests.decoders", "--child", name]
        command += ["--seed", str(first), "--minutes", str(seconds / 60), "--state", str(state)]
        with words.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
            code = _wait(process, state)
        seed = _STATE.unpack(state.read_bytes())[0]
        said = words.read_text(errors="replace")
    outcome = Outcome(cases=seed - first)
    for line in said.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "end":
            end, number = rest.rsplit(" ", 1)
            outcome.ends[end] = int(number)
    if code != 0:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        told = "\n".join(said.splitlines()[-30:])
        outcome.defect = (
            f"{name} ended with {how} at seed {seed}: python -m tests.decoders --case {name}:{seed}\n{told}"
        )
    return outcome


def _wait(process: subprocess.Popen[bytes], state: Path) -> int:
    """Wait for a process; one whose seed does not change any more is killed."""
    seen, since_s = b"", time.monotonic()
    while process.poll() is None:
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            now = state.read_bytes()
            if now != seen:
                seen, since_s = now, time.monotonic()
            elif time.monotonic() - since_s > HANG_S:
                process.kill()
                process.wait()
    return int(process.returncode)


def child(name: str, first: int, seconds: float, state: Path) -> int:
    """Run cases here; returns the process's exit code."""
    run_one(name, first)  # what is made once is made before the limit
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    ends: Counter[str] = Counter()
    give_up_s = time.monotonic() + seconds
    seed = first
    with state.open("r+b", buffering=0) as file:
        while time.monotonic() < give_up_s or seed - first < LEAST_CASES:
            _note(file, seed)
            ends[run_one(name, seed)] += 1
            seed += 1
        _note(file, seed)
    for end, number in sorted(ends.items()):
        sys.stdout.write(f"end {end} {number}\n")
    return 0


def _note(file: BinaryIO, seed: int) -> None:
    os.pwrite(file.fileno(), _STATE.pack(seed), 0)
