"""The process of one engine: reads what to do from its standard input, one JSON object a line, and answers likewise.

    python -m benchmarks.engines.host benchmarks.engines.duck:Duck

Queries are timed here, next to the engine, so that no pipe is in the figures. Rows go to a file, if they are wanted.
Whatever the engine prints goes to standard error. Imports nothing but the adapter, pyarrow and the standard library:
it runs in environments without apiary_df.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import time
from importlib.metadata import version
from typing import IO, Any

import pyarrow as pa

from benchmarks.engines.adapter import KINDS, Engine, Setup

_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    answers = _take_standard_streams()
    _adopt_orphans()
    path = sys.argv[1]
    engine: Engine | None = None
    # Read by lines as they come: iterating over standard input would read ahead.
    while line := _requests.readline():
        request = json.loads(line)
        try:
            if request["do"] == "start":
                engine, answer = _start(path, Setup(**request["setup"]))
            elif engine is None:
                raise RuntimeError("the engine was not started")
            elif request["do"] == "run":
                answer = _run(engine, request["sql"], request["save"])
            else:
                engine.close()
                answer = {}
        except BaseException as error:  # noqa: BLE001 - engines raise what they like, panics of Rust among it
            answer = {"error": _in_short(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if request["do"] == "close":
            # Threads of engines that do not end must not keep the process.
            os._exit(0)


_requests: IO[str]


def _take_standard_streams() -> IO[str]:
    """Keep the pipes to the harness from the engine and its children: they get nothing to read, and standard error."""
    global _requests  # noqa: PLW0603 - there is one standard input
    _requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return answers


def _adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, so that their memory counts, and none outlives a run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _start(path: str, setup: Setup) -> tuple[Engine, dict[str, Any]]:
    module, name = path.split(":")
    began_s = time.perf_counter()
    engine: Engine = getattr(importlib.import_module(module), name)()
    imported_s = time.perf_counter()
    engine.start(setup)
    package = next(kind.package for kind in KINDS.values() if kind.adapter == path)
    return engine, {
        "version": version(package),
        "import_s": imported_s - began_s,
        "start_s": time.perf_counter() - imported_s,
    }


def _run(engine: Engine, sql: str, save: str | None) -> dict[str, Any]:
    began_s = time.perf_counter()
    table: pa.Table = engine.run(sql)
    seconds = time.perf_counter() - began_s
    if save is not None:
        with pa.OSFile(save, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    return {"seconds": seconds, "rows": table.num_rows, "report": engine.report()}


def _in_short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Ray and Spark put the stack first and what is wrong last.
    text = lines[0] if len(lines) < 2 else f"{lines[0]} ... {lines[-1]}"
    return f"{type(error).__name__}: {text if lines else repr(error)}"[:400]


if __name__ == "__main__":
    main()
