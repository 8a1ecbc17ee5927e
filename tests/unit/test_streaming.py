"""A result's partial is read batch by batch, whole and verified before its first batch, from memory and from a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from apiary_df.errors import PartialLost
from apiary_df.model import PartialRef
from apiary_df.protocol import keys, streaming
from apiary_df.protocol.partial_writer import PartialWriter
from apiary_df.protocol.streaming import HELD_BYTES, stream_partial
from apiary_df.store import Store, open_store

KEY = keys.partial("q1", 0, 0, 0)
ROWS = 1_000
BATCHES = 10
SCHEMA = pa.schema([pa.field("x", pa.int64()), pa.field("s", pa.string())])


class Scratch:
    """Gives folders for copies, and knows those that are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.given = 0

    @contextmanager
    def __call__(self) -> Iterator[Path]:
        self.given += 1
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            yield Path(name)


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    (tmp_path / "scratch").mkdir()
    return Scratch(tmp_path / "scratch")


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root") if request.param == "folder" else f"memory://{tmp_path.name}", environ={})


@pytest.fixture(params=[HELD_BYTES, 0], ids=["held", "from a file"])
def held_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(streaming, "HELD_BYTES", request.param)
    return int(request.param)


def stored(store: Store, folder: Path) -> PartialRef:
    """Put a partial of one partition and some batches into a store."""
    size = ROWS // BATCHES
    with PartialWriter(SCHEMA, 1, folder, 10**9, batch_rows=size) as writer:
        for start in range(0, ROWS, size):
            numbers = range(start, start + size)
            writer.write(0, pa.record_batch([pa.array(numbers), pa.array(map(str, numbers))], schema=SCHEMA))
        finished = writer.finish()
        store.put(KEY, finished.data)
    return finished.ref(KEY)


@pytest.mark.usefixtures("held_bytes")
def test_all_rows_come_in_order_in_batches(store: Store, scratch: Scratch, tmp_path: Path) -> None:
    batches = list(stream_partial(store, stored(store, tmp_path / "made"), scratch))
    assert len(batches) == BATCHES
    assert pa.Table.from_batches(batches)["x"].to_pylist() == list(range(ROWS))


def test_a_copy_is_made_of_a_large_one_that_lies_elsewhere_and_goes_when_nobody_reads_on(
    store: Store, scratch: Scratch, tmp_path: Path, held_bytes: int
) -> None:
    rows = stream_partial(store, stored(store, tmp_path / "made"), scratch)
    next(rows)
    copied = [path for path in scratch.folder.rglob("*") if path.is_file()]
    assert bool(copied) is (held_bytes == 0 and store.kind == "memory")
    rows.close()
    assert not list(scratch.folder.iterdir())


@pytest.mark.usefixtures("held_bytes")
@pytest.mark.parametrize("how", ["gone", "damaged at its end", "cut short"])
def test_what_is_lost_is_told_before_the_first_batch(store: Store, scratch: Scratch, tmp_path: Path, how: str) -> None:
    ref = stored(store, tmp_path / "made")
    data = bytearray(store.get(KEY))
    if how == "gone":
        store.delete([KEY])
    elif how == "cut short":
        store.put(KEY, bytes(data[: ref.segments[-1].offset]))
    else:
        last = ref.segments[-1]
        data[last.offset + last.length - 1] ^= 1
        store.put(KEY, bytes(data))
    with pytest.raises(PartialLost) as caught:
        next(stream_partial(store, ref, scratch))
    assert caught.value.producer == (0, 0, 0)
    assert not list(scratch.folder.iterdir())


@pytest.mark.usefixtures("held_bytes")
def test_a_partial_without_rows_is_not_read(store: Store, scratch: Scratch, tmp_path: Path) -> None:
    with PartialWriter(SCHEMA, 1, tmp_path / "made", 10**9) as writer:
        ref = writer.finish().ref(KEY)
    assert list(stream_partial(store, ref, scratch)) == []
    assert scratch.given == 0
