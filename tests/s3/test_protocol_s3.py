"""The protocol's objects over HTTP: partials by spans, mail by create-once, heartbeats by the store's clock."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from swarm.planted import heartbeat

from apiary_df.errors import ObjectDamaged
from apiary_df.model import NodeState
from apiary_df.protocol import keys
from apiary_df.protocol.heartbeat import NodeObserver, read_nodes
from apiary_df.protocol.inbox import Inbox, send
from apiary_df.protocol.messages import Mail
from apiary_df.protocol.partial import materialize, read_partial
from apiary_df.protocol.partial_writer import PartialWriter
from apiary_df.protocol.storage import write_message
from apiary_df.store import Store, StoreOptions, open_store

pytestmark = pytest.mark.s3

SCHEMA = pa.schema([pa.field("x", pa.int64())])


@pytest.fixture
def store(s3_url: str, s3_endpoint: StoreOptions) -> Store:
    return open_store(s3_url, s3_endpoint, environ={})


@pytest.mark.parametrize("memory_bytes", [0, 10**9], ids=["file", "buffer"])
def test_a_partial_is_read_by_spans(store: Store, tmp_path: Path, memory_bytes: int) -> None:
    with PartialWriter(SCHEMA, 3, tmp_path / "scratch", memory_bytes) as writer:
        for partition in (0, 1, 2):
            numbers = range(partition * 10**6, partition * 10**6 + 300_000)
            writer.write(partition, pa.record_batch([pa.array(numbers)], schema=SCHEMA))
        finished = writer.finish()
        store.put("p.arrow", finished.data)
    ref = finished.ref("p.arrow")
    before = store.counts.snapshot()
    path = materialize(store, [ref.segment_ref(ref.segments[1])], tmp_path / "p.arrow")
    spent = {name: count - before[name] for name, count in store.counts.snapshot().items()}
    assert spent["bytes_in"] < ref.length / 2
    assert spent["get"] == 3  # head, segment and footer lie too far apart to share a request
    segment = ref.segments[1]
    assert checksum_of(path, segment.offset, segment.length) == segment.checksum
    assert read_partial(store, ref, 1)[0].column(0)[0].as_py() == 10**6


def checksum_of(path: Path, start: int, length: int) -> str:
    from apiary_df.protocol.partial import checksum

    return checksum(path.read_bytes()[start : start + length])


def test_a_partial_that_was_replaced_by_a_shorter_one_is_damage(store: Store, tmp_path: Path) -> None:
    with PartialWriter(SCHEMA, 1, tmp_path / "scratch", 10**9) as writer:
        writer.write(0, pa.record_batch([pa.array(range(1_000))], schema=SCHEMA))
        finished = writer.finish()
    ref = finished.ref("p.arrow")
    store.put("p.arrow", b"short")
    with pytest.raises(ObjectDamaged):
        materialize(store, [ref.segment_ref(ref.segments[0])], tmp_path / "p.arrow")


def test_concurrent_senders_get_numbers_of_their_own(store: Store) -> None:
    def sent(i: int) -> int:
        return send(store, "n", 0, Mail(token=f"t{i}", query_id="q", sender="s", tasks=()))

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(sent, range(8)))
    assert sorted(numbers) == list(range(8))
    assert sorted(m.token for m in Inbox(store, "n").poll()) == [f"t{i}" for i in range(8)]
    assert store.list("") == []


def test_a_heartbeat_just_written_is_alive_at_first_sight(store: Store) -> None:
    write_message(store, keys.heartbeat("n"), heartbeat("n"))
    # S3 stamps whole seconds, hence limits of more than that.
    observer = NodeObserver(suspect_after_s=5, dead_after_s=10, store_now=store.check_writable(), now_s=0)
    [view] = read_nodes(store, observer, 0)
    assert (view.info.state, view.usable) == (NodeState.ALIVE, True)
    [later] = read_nodes(store, observer, 20)
    assert later.info.state is NodeState.DEAD
