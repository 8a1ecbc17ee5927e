"""Starting the process of an engine, asking it to run queries, and ending it with everything that it started."""

from __future__ import annotations

import compileall
import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.engines.adapter import Kind, Setup

_REPOSITORY = Path(__file__).resolve().parent.parent.parent
_START_TIMEOUT_S = 300.0
"""Spark takes half a minute on a quiet machine."""

_CLOSE_TIMEOUT_S = 30.0
_KILL_TIMEOUT_S = 10.0
_LAST_WORDS_CHARS = 300


def as_installed() -> dict[str, str]:
    """Return the environment for a process in which this package starts as an installed one does: from bytecode.

    Whoever installs a package has it compiled. In a source tree, whose Python may be told not to keep what it compiles,
    every start of every process would compile all of it anew.
    """
    compileall.compile_dir(_REPOSITORY / "apiary_df", quiet=2)
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class EngineFailed(Exception):
    """An engine could not start, raised from a query, took too long, or died; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What a start told.

    Attributes:
        version: Of the engine's package.
        import_s: Seconds of importing it.
        start_s: Seconds from then until tables were registered.
    """

    version: str
    import_s: float
    start_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a run told.

    Attributes:
        seconds: From giving the engine the SQL to having all rows as Arrow.
        rows: Rows of the answer.
        report: What the engine says of the query, if it says anything.
    """

    seconds: float
    rows: int
    report: dict[str, Any] | None


class EngineProcess:
    """One engine in a process of its own.

    Args:
        kind: Which.
        setup: What it is started with; its scratch folder is made anew.
        python: The interpreter that has it.
        timeout_s: What a query may take before the engine counts as dead.
    """

    def __init__(self, kind: Kind, setup: Setup, *, python: str = sys.executable, timeout_s: float = 300.0) -> None:
        self.kind = kind
        self._timeout_s = timeout_s
        scratch = Path(setup.scratch)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        self._log = scratch.with_suffix(".log")
        self.began_s = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.engines.host", kind.adapter],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env={
                    **as_installed(),
                    "PYTHONPATH": os.pathsep.join([str(_REPOSITORY), os.environ.get("PYTHONPATH", "")]),
                },
            )
        self._answers = b""
        try:
            answer = self._ask({"do": "start", "setup": asdict(setup)}, _START_TIMEOUT_S)
        except EngineFailed:
            self.kill()
            raise
        self.started = Started(**answer)

    @property
    def pid(self) -> int:
        """Process id of the host; its descendants are the engine's."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def run(self, sql: str, save: Path | None = None) -> Ran:
        """Run a query, and keep its rows as an Arrow file if wanted.

        Raises:
            EngineFailed: The engine raised, took too long (it is ended then), or died.
        """
        return Ran(**self._ask({"do": "run", "sql": sql, "save": None if save is None else str(save)}, self._timeout_s))

    def close(self) -> None:
        """End the engine in its own way; what is left of it after half a minute is killed."""
        if self.alive:
            try:
                self._ask({"do": "close"}, _CLOSE_TIMEOUT_S)
                self._process.wait(_CLOSE_TIMEOUT_S)
            except (EngineFailed, subprocess.TimeoutExpired):
                pass
        self.kill()

    def kill(self) -> None:
        """Kill the host and all of its descendants."""
        try:
            host = psutil.Process(self.pid)
            # Orphans become the host's children, so it goes last.
            family = [*host.children(recursive=True), host]
        except psutil.NoSuchProcess:
            family = []
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait(_KILL_TIMEOUT_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except (BrokenPipeError, ValueError) as error:
            raise EngineFailed(self._death()) from error
        line = self._read_line(timeout_s)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineFailed(answer["error"])
        return answer

    def _read_line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        give_up_s = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._answers:
                if not selector.select(max(0.0, give_up_s - time.monotonic())):
                    self.kill()
                    raise EngineFailed(f"no answer within {timeout_s:g} s; the engine was ended")
                more = self._process.stdout.read(1 << 16)
                if not more:
                    raise EngineFailed(self._death())
                self._answers += more
        line, _, self._answers = self._answers.partition(b"\n")
        return line

    def _death(self) -> str:
        code = self._process.wait(_KILL_TIMEOUT_S)
        words = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"its process ended with code {code}: {' '.join(words[-1:])[-_LAST_WORDS_CHARS:] or 'no word'}"
