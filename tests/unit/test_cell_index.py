"""The index of a cell cache under many processes at once, each of which may be the first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from apiary_df.worker.cell_index import CellIndex

ROUNDS = 60
"""Before it waited for others that prepare it, one round in fourteen failed."""

TOGETHER = 8


def test_all_may_open_a_new_index_at_once(tmp_path: Path) -> None:
    for number in range(ROUNDS):
        path = tmp_path / f"{number}.sqlite"
        start = threading.Barrier(TOGETHER)

        def known(_: int, path: Path = path, start: threading.Barrier = start) -> set[str]:
            index = CellIndex(path)
            start.wait()
            try:
                return index.known(["a place"], "a query")
            finally:
                index.close()

        with ThreadPoolExecutor(TOGETHER) as pool:
            assert list(pool.map(known, range(TOGETHER))) == [set()] * TOGETHER
