"""Networks and services that fail, under obstore's real retries: the right bytes, or an error that names the key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from swarm.helpers import FORCED

from apiary_df import LocalSwarm, SessionContext, Settings
from apiary_df.errors import StorageTransient
from apiary_df.store import Store, StoreOptions, open_store
from apiary_df.testing import assert_same
from s3.proxy import Proxy, Trouble, What, proxy_before

pytestmark = pytest.mark.s3

DATA = bytes(range(256)) * 40

PASSING: tuple[What, ...] = ("500", "slow down", "reset", "stall", "lost reply")
"""Troubles that a repeated request gets over."""

STALL_NOTICED_S = 1.0
"""Seconds after which clients here give a stalled request up."""

Ask = Callable[[Store], object]

REQUESTS: dict[str, tuple[str, str, Ask, object]] = {
    "get": ("GET", "/k$", lambda store: store.get("k"), DATA),
    "range": ("GET", "/k$", lambda store: store.get_range("k", 100, 300), DATA[100:400]),
    "list": ("GET", "list-type", lambda store: [meta.key for meta in store.list("")], ["k"]),
    "head": ("HEAD", "/k$", lambda store: store.head("k").size_bytes, len(DATA)),
    "put": ("PUT", "/n$", lambda store: store.put("n", DATA), None),
    "create": ("PUT", "/n$", lambda store: store.create("n", b"token " + DATA, "token"), True),
    "delete": ("POST", "delete", lambda store: store.delete(["k"]), None),
}
"""Name to HTTP method, path, what is asked, and the answer."""


@pytest.fixture
def proxy(s3_endpoint: StoreOptions) -> Iterator[Proxy]:
    with proxy_before(replace(s3_endpoint, request_timeout_s=20.0, max_retries=3, retry_timeout_s=60.0)) as made:
        yield made


@pytest.fixture
def store(proxy: Proxy, s3_url: str) -> Store:
    made = open_store(s3_url, proxy.options, environ={})
    made.put("k", DATA)
    return made


@pytest.mark.parametrize("what", PASSING)
@pytest.mark.parametrize("name", REQUESTS)
def test_trouble_that_passes_is_not_noticed(store: Store, proxy: Proxy, name: str, what: What) -> None:
    method, path, ask, answer = REQUESTS[name]
    trouble = Trouble(what=what, method=method, path=path)
    proxy.troubles.append(trouble)
    if what == "stall":
        # The service itself may stand still for longer on a busy machine, however often it is asked.
        impatient = replace(proxy.options, request_timeout_s=STALL_NOTICED_S, max_retries=60)
        store = open_store(store.url, impatient, environ={})
    assert ask(store) == answer
    once = name == "create" and what == "lost reply"  # what is read back tells that it is there
    assert (trouble.struck, trouble.seen > 1) == (1, not once)


@pytest.mark.parametrize("what", ["500", "slow down", "reset"])
@pytest.mark.parametrize("name", REQUESTS)
def test_trouble_that_stays_is_told_with_the_key(s3_url: str, proxy: Proxy, name: str, what: What) -> None:
    method, path, ask, _ = REQUESTS[name]
    store = open_store(s3_url, replace(proxy.options, max_retries=1), environ={})
    store.sleep = lambda _: None
    store.put("k", DATA)
    proxy.troubles.append(Trouble(what=what, method=method, path=path, times=None))
    with pytest.raises(StorageTransient) as caught:
        ask(store)
    assert s3_url in caught.value.message
    assert name == "list" or caught.value.details["key"].rsplit("/", 1)[-1] in ("k", "n")


@pytest.mark.parametrize("name", ["get", "range"])
def test_a_body_that_is_cut_short_is_read_again_or_an_error(store: Store, proxy: Proxy, name: str) -> None:
    method, path, ask, answer = REQUESTS[name]
    proxy.troubles.append(Trouble(what="cut short", method=method, path=path))
    try:
        assert ask(store) == answer
    except StorageTransient as error:
        assert error.details["key"] == "k"


@pytest.mark.parametrize("name", ["get", "range"])
def test_the_store_alone_does_not_see_a_flipped_bit(store: Store, proxy: Proxy, name: str) -> None:
    """Which is why whoever reads checks: seals of messages, checksums of partials."""
    method, path, ask, answer = REQUESTS[name]
    proxy.troubles.append(Trouble(what="bit flipped", method=method, path=path))
    found = ask(store)
    assert isinstance(found, bytes)
    assert isinstance(answer, bytes)
    assert sum(a != b for a, b in zip(found, answer, strict=True)) == 1


TROUBLES = (
    Trouble(what="slow down", method="PUT", path="/manifest.json"),
    Trouble(what="lost reply", method="PUT", path="/_swarm/inbox/"),
    Trouble(what="bit flipped", method="GET", path=r"/_swarm/inbox/.*/0*1\.json"),
    Trouble(what="reset", method="GET", path="/stage_0.plan"),
    Trouble(what="500", method="PUT", path="/partial_0_"),
    Trouble(what="lost reply", method="PUT", path="/commit_0_"),
    Trouble(what="lost reply", method="PUT", path="/partial_0_", nth=2),
    Trouble(what="bit flipped", method="GET", path="/partial_0_"),
    Trouble(what="cut short", method="GET", path="/partial_0_", nth=3),
    Trouble(what="bit flipped", method="GET", path="/partial_1_"),
    Trouble(what="500", method="GET", path="list-type"),
    Trouble(what="lost reply", method="POST", path="delete"),
)
"""What goes wrong while one query runs whose partials are objects of their own."""

TROUBLES_ATTACHED = (
    *(trouble for trouble in TROUBLES if "partial_" not in trouble.path and trouble.what != "reset"),
    Trouble(what="500", method="PUT", path="/commit_0_", nth=2),
    Trouble(what="bit flipped", method="GET", path="/commit_0_", nth=2),
    Trouble(what="cut short", method="GET", path="/commit_0_", nth=4),
    Trouble(what="bit flipped", method="GET", path="/commit_1_"),
    Trouble(what="reset", method="GET", path="/commit_1_", nth=2),
)
"""The same for one whose partials lie behind their commit records."""


@pytest.mark.parametrize(("attached", "troubles"), [(0, TROUBLES), (8 << 20, TROUBLES_ATTACHED)])
def test_a_query_among_all_of_it_gives_its_rows(
    s3_url: str, proxy: Proxy, tmp_path: Path, attached: int, troubles: tuple[Trouble, ...]
) -> None:
    for number in range(2):
        keys = range(number * 500, number * 500 + 500)
        pq.write_table(pa.table({"g": [k % 11 for k in keys], "v": list(keys)}), tmp_path / f"{number}.parquet")
    lives = {"heartbeat_s": 0.5, "suspect_after_s": 10.0, "dead_after_s": 20.0, "poll_max_s": 0.05}
    chosen = {"inline_partial_bytes": 0, "attached_partial_bytes": attached, "allow_roots": str(tmp_path)}
    settings = Settings().with_overrides(**{**FORCED, **lives, **chosen})
    sql = "SELECT g, count(*) AS n, sum(v) AS total FROM t GROUP BY g"
    plain = datafusion.SessionContext()
    plain.register_parquet("t", str(tmp_path))
    with (
        LocalSwarm(2, storage=s3_url, options=proxy.options, settings=settings, in_process=True),
        SessionContext(storage=s3_url, storage_options=proxy.options, settings=settings) as ctx,
    ):
        ctx.register_parquet("t", str(tmp_path))
        proxy.troubles.extend(replace(trouble) for trouble in troubles)
        assert_same(plain.sql(sql).to_arrow_table(), ctx.sql(sql).to_arrow_table())
        assert ctx.last_query is not None
        assert ctx.last_query.distributed, ctx.last_query.reason
        struck = [trouble.what for trouble in proxy.troubles if trouble.struck]
        assert len(struck) >= len(troubles) - 4, struck  # how many requests there are is for the swarm to say
        assert open_store(s3_url, proxy.options, environ={}).list("_queries") == []
