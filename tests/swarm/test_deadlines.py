"""Deadlines hold whatever a query waits for: native code that is deep in one batch, or storage that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apiary_df import SessionContext
from apiary_df.errors import QueryTimeout
from apiary_df.protocol import keys
from apiary_df.store import Store
from swarm.helpers import FORCED, left_over, wait_until

LONG = "SELECT count(*) AS n FROM t a JOIN t b ON a.g = b.g WHERE (a.x * b.x) % 1000003 = 7"
"""A good part of a second of work in one batch."""

ROWS = 18_000


@pytest.fixture
def table(tmp_path: Path) -> str:
    for part in range(2):
        rows = range(part * ROWS // 2, (part + 1) * ROWS // 2)
        pq.write_table(pa.table({"x": rows, "g": [x % 3 for x in rows]}), tmp_path / f"{part}.parquet")
    return str(tmp_path)


def test_query_of_this_process_ends_at_its_deadline_within_one_batch(table: str) -> None:
    ctx = SessionContext(timeout_s=0.05)
    ctx.register_parquet("t", table)
    with pytest.raises(QueryTimeout, match=r"timeout_s=0\.05"):
        ctx.sql(LONG).collect()
    # It ended by itself, later: the answer alone, a batch late, would not have.
    wait_until(lambda: ctx.last_query is not None, "the query's own end", 60)
    assert ctx.last_query is not None
    assert ctx.last_query.state != "done"


def test_query_of_this_process_that_is_quick_enough_gives_its_rows(table: str) -> None:
    ctx = SessionContext(timeout_s=60)
    ctx.register_parquet("t", table)
    assert ctx.sql("SELECT count(*) AS n FROM t").to_pydict() == {"n": [ROWS]}
    assert sorted(ctx.sql("SELECT x FROM t").to_pydict()["x"]) == list(range(ROWS))


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], threading.Event]]:
    """Lets every look at commit records hang from a moment on, until the event is set."""
    let_go = threading.Event()
    real = Store.get_or_none

    def begin() -> threading.Event:
        def get_or_none(self: Store, key: str, limit_bytes: int | None = None) -> bytes | None:
            parsed = keys.parse_query_key(key)
            if parsed is not None and parsed.kind in ("commit", "error"):
                assert let_go.wait(60)
            return real(self, key, limit_bytes)

        monkeypatch.setattr(Store, "get_or_none", get_or_none)
        return let_go

    yield begin
    let_go.set()


def test_deadline_holds_while_storage_hangs_and_all_goes_when_it_comes_back(
    table: str, hanging: Callable[[], threading.Event]
) -> None:
    with SessionContext(storage="memory://deadlines", nodes=1, timeout_s=0.5, **FORCED) as ctx:
        ctx.register_parquet("t", table)
        store = ctx._swarm._view.store  # type: ignore[union-attr]
        let_go = hanging()
        with pytest.raises(QueryTimeout, match=r"timeout_s=0\.5"):
            ctx.sql("SELECT g, count(*) AS n FROM t GROUP BY g").collect()
        assert left_over(store)
        let_go.set()
        wait_until(lambda: not left_over(store), "the query's own clean-up", 60)
