"""A process of some sessions, run by :mod:`.driver` as a script: a plan on standard input, outcomes on standard output.

It says ``ready`` when its sessions are open, and begins when it is told to.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import datafusion
import pyarrow as pa

from apiary_df import SessionContext
from apiary_df.demo import TPCH_ORDER_COLUMNS, tpch_queries
from apiary_df.demo.data import tpch_paths
from apiary_df.errors import ApiaryError
from apiary_df.testing import compare_tables


def expected_answers(folder: Path, numbers: list[int]) -> dict[int, pa.Table]:
    """Return plain DataFusion's answers."""
    plain = datafusion.SessionContext()
    register(plain, folder)
    queries = tpch_queries()
    return {number: plain.sql(queries[number]).to_arrow_table() for number in numbers}


def register(ctx: datafusion.SessionContext, folder: Path) -> None:
    """Register the TPC-H tables."""
    for name, path in tpch_paths(folder).items():
        ctx.register_parquet(name, str(path))


class Lane:
    """Queries that a session runs one after the other; a greedy session has several lanes.

    Args:
        ctx: The session.
        number: The session's number.
        queries: Numbers of the queries, in order; None is all of them in turn until told to stop.
        stop: Set when a lane without end is to end.
        expected: The right answers.
    """

    def __init__(
        self,
        ctx: SessionContext,
        number: int,
        queries: list[int],
        expected: dict[int, pa.Table],
        stop: threading.Event | None = None,
    ) -> None:
        self.outcomes: list[dict[str, Any]] = []
        self._ctx = ctx
        self._number = number
        self._queries = queries
        self._expected = expected
        self._stop = stop
        self._texts = tpch_queries()

    def run(self) -> None:
        while True:
            for query in self._queries:
                if self._stop is not None and self._stop.is_set():
                    return
                self._run(query)
            if self._stop is None:
                return

    def _run(self, query: int) -> None:
        started_s = time.monotonic()
        fault = ""
        try:
            actual = self._ctx.sql(self._texts[query]).to_arrow_table()
            columns = TPCH_ORDER_COLUMNS[query]
            difference = compare_tables(
                self._expected[query], actual, ordered=bool(columns), order_columns=columns or None
            )
            fault = "" if difference is None else str(difference)
        except ApiaryError as error:
            fault = f"{type(error).__name__}: {error}"
        report = self._ctx.last_query
        self.outcomes.append(
            {
                "session": self._number,
                "query": query,
                "seconds": time.monotonic() - started_s,
                "fault": fault,
                "repeated": 0 if report is None else sum(1 for a in report.attempts if a.outcome != "committed"),
                "distributed": report is not None and report.distributed,
            }
        )


def main() -> None:
    """Do what the plan says."""
    plan = json.loads(sys.stdin.readline())
    folder = Path(plan["data"])
    expected = expected_answers(folder, plan["queries"])
    stop = threading.Event()
    lanes: list[Lane] = []
    contexts: list[SessionContext] = []
    for number in plan["sessions"]:
        ctx = SessionContext(storage=plan["storage"], **plan["settings"])
        register(ctx, folder)
        contexts.append(ctx)
        order = list(plan["queries"])
        Random(f"{plan['seed']}-{number}").shuffle(order)
        endless = stop if plan["lanes"] > 1 else None
        lanes += [Lane(ctx, number, order, expected, endless) for _ in range(plan["lanes"])]
    print("ready", flush=True)  # noqa: T201 - what its starter waits for
    if not sys.stdin.readline():
        return  # its starter has ended
    threads = [threading.Thread(target=lane.run, daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    if plan["lanes"] > 1:
        sys.stdin.readline()
        stop.set()
    for thread in threads:
        thread.join()
    for ctx in contexts:
        ctx.close()
    print(json.dumps([outcome for lane in lanes for outcome in lane.outcomes]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
