"""The partial's layout, what it costs, and how damage and misuse are told."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc

from apiary_df.errors import ObjectDamaged, ObjectMissing, PlanError, StorageTransient
from apiary_df.model import PartialRef
from apiary_df.protocol import partial as partial_module
from apiary_df.protocol.arrow import compact
from apiary_df.protocol.partial import checksum, materialize, read_partial
from apiary_df.protocol.partial_writer import FinishedPartial, PartialWriter
from apiary_df.store import Store, open_store

SCHEMA = pa.schema([pa.field("x", pa.int64()), pa.field("s", pa.string())])
PLENTY = 10**9


def batch(start: int, rows: int = 100) -> pa.RecordBatch:
    numbers = range(start, start + rows)
    return pa.RecordBatch.from_arrays([pa.array(numbers), pa.array([str(n) for n in numbers])], schema=SCHEMA)


def write(
    folder: Path,
    batches: dict[int, list[pa.RecordBatch]],
    *,
    partitions: int = 3,
    memory_bytes: int = PLENTY,
    schema: pa.Schema = SCHEMA,
) -> tuple[FinishedPartial, bytes]:
    with PartialWriter(schema, partitions, folder / "scratch", memory_bytes) as writer:
        for partition, parts in batches.items():
            for part in parts:
                writer.write(partition, part)
        finished = writer.finish()
        data = finished.data.read_bytes() if isinstance(finished.data, Path) else finished.data.to_pybytes()
    return finished, data


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Store, PartialRef, bytes]:
    """A partial of three partitions, the middle one empty, in a store that is no folder."""
    store = open_store(f"memory://{tmp_path.name}", environ={})
    finished, data = write(tmp_path, {0: [batch(0), batch(100)], 2: [batch(1_000)]})
    store.put("p.arrow", data)
    return store, finished.ref("p.arrow"), data


@pytest.mark.parametrize("type_", [pa.string(), pa.string_view(), pa.list_(pa.string_view())], ids=str)
def test_batches_are_of_the_size_that_readers_take_and_hold_nothing_of_their_neighbours(
    type_: pa.DataType, tmp_path: Path
) -> None:
    texts = [f"{number:05}" * 4 for number in range(1_000)]
    column = pa.array([[text] for text in texts] if pa.types.is_list(type_) else texts, type_)
    schema = pa.schema([pa.field("x", type_)])
    with PartialWriter(schema, 1, tmp_path, PLENTY, batch_rows=100) as writer:
        for rows in (250, 30, 30, 690):
            writer.write(0, pa.record_batch([column[:rows]], schema=schema))
            column = column[rows:]
        finished = writer.finish()
        assert isinstance(finished.data, pa.Buffer)
    read = read_partial(finished.data, finished.ref("p.arrow"), 0)
    assert [row for batch in read for row in batch.column(0).to_pylist()] == (
        [[text] for text in texts] if pa.types.is_list(type_) else texts
    )
    assert max(batch.num_rows for batch in read) == 100
    # A row has twenty letters and, at most, two views or offsets of it.
    assert all(batch.get_total_buffer_size() < 100 * 70 for batch in read)


def test_head_segments_and_footer_cover_the_file_without_gaps(stored: tuple[Store, PartialRef, bytes]) -> None:
    _, ref, data = stored
    position = ref.head_length
    for segment in ref.segments:
        assert segment.offset == position
        position += segment.length
    assert position == ref.footer_offset
    assert ref.length == len(data)
    assert [s.rows for s in ref.segments] == [200, 0, 100]
    assert ref.segments[1].length == 0
    assert ref.footer_checksum == checksum(data[ref.footer_offset :])


def test_a_checksum_is_xxh3_64_in_16_hex_digits() -> None:
    assert checksum(b"") == "2d06800538d394c2"  # the algorithm's published value for no input


@pytest.mark.parametrize("memory_bytes", [0, 2_000, PLENTY])
@pytest.mark.parametrize("partitions", [1, 3])
def test_the_same_batches_give_the_same_rows_however_little_memory_there_is(
    tmp_path: Path, memory_bytes: int, partitions: int
) -> None:
    parts = {p: [batch(1_000 * p + 100 * i) for i in range(4)] for p in range(partitions)}
    finished, data = write(tmp_path, parts, partitions=partitions, memory_bytes=memory_bytes)
    assert isinstance(finished.data, Path) == (memory_bytes < PLENTY)
    for partition in range(partitions):
        rows = pa.Table.from_batches(read_partial(data, finished.ref("k"), partition))
        assert rows.equals(pa.Table.from_batches(parts[partition]))


def test_batches_that_take_turns_over_partitions_are_grouped_by_partition(tmp_path: Path) -> None:
    with PartialWriter(SCHEMA, 2, tmp_path, 2_500) as writer:
        for i in range(10):
            writer.write(i % 2, batch(100 * i))
        ref, data = (done := writer.finish()).ref("k"), done.data
        assert isinstance(data, Path)
        got = [b.column(0)[0].as_py() // 100 % 2 for p in (0, 1) for b in read_partial(data.read_bytes(), ref, p)]
    assert got == sorted(got)


def test_small_batches_are_put_together(tmp_path: Path) -> None:
    finished, data = write(tmp_path, {0: [batch(i, 1) for i in range(500)]})
    assert len(read_partial(data, finished.ref("k"), 0)) == 1


def test_batches_of_a_good_size_pass_as_they_are(tmp_path: Path) -> None:
    finished, data = write(tmp_path, {0: [batch(0, 8_192), batch(8_192, 8_192)]})
    assert [b.num_rows for b in read_partial(data, finished.ref("k"), 0)] == [8_192, 8_192]


@pytest.mark.parametrize("memory_bytes", [0, PLENTY])
def test_closing_leaves_no_scratch_file(tmp_path: Path, memory_bytes: int) -> None:
    for partitions in (1, 2):
        with PartialWriter(SCHEMA, partitions, tmp_path, memory_bytes) as writer:
            writer.write(0, batch(0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "type_",
    [
        pa.string_view(),
        pa.binary_view(),
        pa.list_(pa.string_view()),
        pa.struct([pa.field("v", pa.string_view())]),
        pa.list_view(pa.int64()),
        pa.string(),
        pa.list_(pa.int64()),
    ],
    ids=str,
)
def test_a_slice_does_not_carry_the_buffers_of_other_rows(tmp_path: Path, type_: pa.DataType) -> None:
    words = [f"a value that is too long to be inlined: {i}" for i in range(20_000)]
    values: list[Any] = list(words)
    if pa.types.is_binary_view(type_):
        values = [w.encode() for w in words]
    elif pa.types.is_struct(type_):
        values = [{"v": w} for w in words]
    elif pa.types.is_list(type_) or pa.types.is_list_view(type_):
        inner = type_.value_type
        values = [[i, i] for i in range(20_000)] if inner == pa.int64() else [[w] for w in words]
    schema = pa.schema([pa.field("x", type_)])
    whole = pa.RecordBatch.from_arrays([pa.array(values, type_)], schema=schema)
    finished, data = write(tmp_path, {0: [whole.slice(10_000, 5)]}, schema=schema)
    assert finished.length < 5_000
    [back] = read_partial(data, finished.ref("k"), 0)
    assert back.column(0).to_pylist() == values[10_000:10_005]


def test_views_over_a_small_dictionary_are_not_copied() -> None:
    word = "a value that is too long to be inlined"
    views = pa.array([word] * 10_000, pa.string_view())
    shared = pa.Array.from_buffers(pa.string_view(), 10_000, [None, *_views_of(word, 10_000)])
    assert shared.equals(views)
    (kept,) = compact(pa.record_batch({"x": shared})).columns
    assert kept.get_total_buffer_size() == shared.get_total_buffer_size()
    (copied,) = compact(pa.record_batch({"x": views})).columns
    assert copied.get_total_buffer_size() <= views.get_total_buffer_size()


def _views_of(word: str, count: int) -> list[pa.Buffer]:
    """Return the buffers of a column that holds one word so many times, and its letters once."""
    data = word.encode()
    view = len(data).to_bytes(4, "little") + data[:4] + bytes(8)
    return [pa.py_buffer(view * count), pa.py_buffer(data)]


def _dictionary(indices: list[int | None], values: list[Any], type_: pa.DataType) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(indices, type_.index_type), pa.array(values, type_.value_type))


@pytest.mark.parametrize("memory_bytes", [0, PLENTY])
@pytest.mark.parametrize("values", [["a", None], ["a", "a"], [None, None]], ids=str)
def test_dictionaries_with_nulls_or_repeated_values_are_put_together(
    tmp_path: Path, values: list[Any], memory_bytes: int
) -> None:
    type_ = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema([pa.field("d", type_)])
    columns = [_dictionary([0, 1, None], values, type_), _dictionary([0, 1], ["z", "a"], type_)]
    parts = [pa.RecordBatch.from_arrays([c], schema=schema) for c in columns]
    finished, data = write(tmp_path, {0: parts}, schema=schema, memory_bytes=memory_bytes)
    got = [v for b in read_partial(data, finished.ref("k"), 0) for v in b.column(0).to_pylist()]
    assert got == [*values, None, "z", "a"]


def test_unifying_nested_dictionaries_does_not_change_the_batches_that_came_in(tmp_path: Path) -> None:
    type_ = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema([pa.field("l", pa.list_(type_))])

    def lists(word: str) -> pa.RecordBatch:
        values = _dictionary([0], [word], type_)
        return pa.RecordBatch.from_arrays([pa.ListArray.from_arrays([0, 1], values)], schema=schema)

    parts = [lists("one"), lists("two")]
    finished, data = write(tmp_path, {0: parts}, schema=schema)
    assert [p.to_pylist() for p in parts] == [[{"l": ["one"]}], [{"l": ["two"]}]]
    got = [row for b in read_partial(data, finished.ref("k"), 0) for row in b.to_pylist()]
    assert got == [{"l": ["one"]}, {"l": ["two"]}]


def test_values_that_no_row_uses_do_not_make_dictionaries_overflow(tmp_path: Path) -> None:
    type_ = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema([pa.field("d", type_)])
    parts = [
        pa.RecordBatch.from_arrays([_dictionary([5], [f"{name}{i}" for i in range(100)], type_)], schema=schema)
        for name in "ab"
    ]
    finished, data = write(tmp_path, {0: parts}, schema=schema)
    got = [v for b in read_partial(data, finished.ref("k"), 0) for v in b.column(0).to_pylist()]
    assert got == ["a5", "b5"]


def test_dictionaries_that_overflow_their_index_name_the_column_and_the_way_out(tmp_path: Path) -> None:
    type_ = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema([pa.field("day", type_)])
    words = [[f"{name}{i}" for i in range(100)] for name in "ab"]
    parts = [pa.RecordBatch.from_arrays([_dictionary(list(range(100)), w, type_)], schema=schema) for w in words]
    with pytest.raises(PlanError, match=r"'day'.*cast the column to its plain type"):
        write(tmp_path, {0: parts}, schema=schema)


def test_batches_are_conformed_by_position(tmp_path: Path) -> None:
    declared = pa.schema(
        [pa.field("a", pa.list_(pa.field("item", pa.int64(), nullable=True))), pa.field("a", pa.string())],
        metadata={"k": "v"},
    )
    came = pa.schema(
        [
            pa.field("other", pa.list_(pa.field("element", pa.int64(), nullable=False)), nullable=False),
            pa.field("name", pa.string(), metadata={"x": "y"}),
        ]
    )
    rows = pa.RecordBatch.from_arrays([pa.array([[1], [2, 3]], came.field(0).type), pa.array(["p", "q"])], schema=came)
    finished, data = write(tmp_path, {0: [rows.slice(1)]}, schema=declared)
    [back] = read_partial(data, finished.ref("k"), 0)
    assert back.schema.equals(declared, check_metadata=True)
    assert [c.to_pylist() for c in back.columns] == [[[2, 3]], ["q"]]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([pa.array([1])], "has 1 columns where the stage's schema has 2"),
        ([pa.array([1]), pa.array([b"x"])], "'s' came as binary although the stage's schema says string"),
        ([pa.array([1], pa.int32()), pa.array(["x"])], "'x' came as int32"),
    ],
)
def test_a_batch_of_other_types_is_a_plan_error(tmp_path: Path, columns: list[pa.Array], words: str) -> None:
    wrong = pa.RecordBatch.from_arrays(columns, names=[str(i) for i in range(len(columns))])
    with pytest.raises(PlanError, match=words):
        write(tmp_path, {0: [wrong]})


def test_nulls_in_a_column_that_declares_none_are_a_plan_error(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("x", pa.int64(), nullable=False)])
    with pytest.raises(PlanError, match="'x' holds 1 nulls"):
        write(tmp_path, {0: [pa.record_batch([pa.array([1, None])], names=["x"])]}, schema=schema)


def test_batches_without_columns_keep_their_rows(tmp_path: Path) -> None:
    rows = pa.record_batch([pa.array([1, 2, 3])], names=["x"]).select([])
    finished, data = write(tmp_path, {0: [rows, rows]}, schema=pa.schema([]))
    assert finished.segments[0].rows == 6
    assert sum(b.num_rows for b in read_partial(data, finished.ref("k"), 0)) == 6


@pytest.mark.parametrize("partition", [-1, 3])
def test_a_partition_that_does_not_exist_is_a_plan_error(
    tmp_path: Path, stored: tuple[Store, PartialRef, bytes], partition: int
) -> None:
    _, ref, data = stored
    with pytest.raises(PlanError, match="3 partitions"):
        write(tmp_path, {partition: [batch(0)]})
    with pytest.raises(PlanError, match="3 partitions"):
        read_partial(data, ref, partition)


def test_writing_after_the_end_is_a_plan_error(tmp_path: Path) -> None:
    with PartialWriter(SCHEMA, 1, tmp_path, PLENTY) as writer:
        writer.finish()
        with pytest.raises(PlanError, match="finished"):
            writer.write(0, batch(0))
        with pytest.raises(PlanError, match="twice"):
            writer.finish()


def test_a_scratch_folder_that_takes_nothing_is_transient(tmp_path: Path) -> None:
    (tmp_path / "scratch").write_bytes(b"a file, where a folder is needed")
    with pytest.raises(StorageTransient, match=r"scratch folder .*make room"):
        write(tmp_path, {0: [batch(0)]}, memory_bytes=0)


def test_a_store_is_read_like_bytes(stored: tuple[Store, PartialRef, bytes]) -> None:
    store, ref, data = stored
    for partition in range(3):
        assert read_partial(store, ref, partition) == read_partial(data, ref, partition)
        by_segment = ref.segment_ref(ref.segments[partition])
        assert read_partial(store, by_segment) == read_partial(data, ref, partition)


@pytest.mark.parametrize("where", ["head", "segment", "footer"])
def test_a_flipped_bit_is_damage(stored: tuple[Store, PartialRef, bytes], tmp_path: Path, where: str) -> None:
    store, ref, data = stored
    position = {"head": 20, "segment": ref.segments[2].offset + 40, "footer": ref.footer_offset + 20}[where]
    broken = bytearray(data)
    broken[position] ^= 1
    store.put("p.arrow", broken)
    wanted = ref.segment_ref(ref.segments[2])
    with pytest.raises(ObjectDamaged, match=r"'p.arrow' is damaged.*checksum"):
        materialize(store, [wanted], tmp_path / "copy.arrow")
    assert not (tmp_path / "copy.arrow").exists()
    folder = open_store(str(tmp_path / "root"), environ={})
    folder.put("p.arrow", broken)
    with pytest.raises(ObjectDamaged, match="checksum"):
        materialize(folder, [wanted], tmp_path / "unused")
    if where != "footer":
        with pytest.raises(ObjectDamaged, match="checksum"):
            read_partial(bytes(broken), ref, 2)


def test_a_cut_off_object_is_damage(stored: tuple[Store, PartialRef, bytes], tmp_path: Path) -> None:
    store, ref, data = stored
    short = data[:-1]
    store.put("p.arrow", short)
    wanted = ref.segment_ref(ref.segments[0])
    with pytest.raises(ObjectDamaged, match="ends at"):
        materialize(store, [wanted], tmp_path / "copy.arrow")
    with pytest.raises(ObjectDamaged, match="bytes instead of"):
        read_partial(short, ref, 0)
    folder = open_store(str(tmp_path / "root"), environ={})
    folder.put("p.arrow", short)
    with pytest.raises(ObjectDamaged, match="bytes instead of"):
        materialize(folder, [wanted], tmp_path / "unused")


def test_fewer_rows_than_committed_are_damage(stored: tuple[Store, PartialRef, bytes]) -> None:
    _, ref, data = stored
    promised = replace(ref, segments=(replace(ref.segments[0], rows=201), *ref.segments[1:]))
    with pytest.raises(ObjectDamaged, match="200 rows instead of 201"):
        read_partial(data, promised, 0)


def test_an_absent_partial_is_missing(tmp_path: Path, stored: tuple[Store, PartialRef, bytes]) -> None:
    store, ref, _ = stored
    wanted = ref.segment_ref(ref.segments[0])
    for empty in (open_store(f"memory://{tmp_path.name}-empty", environ={}), open_store(str(tmp_path), environ={})):
        with pytest.raises(ObjectMissing):
            materialize(empty, [wanted], tmp_path / "copy.arrow")
        with pytest.raises(ObjectMissing):
            read_partial(empty, ref, 0)
    assert store.get("p.arrow")


def test_a_folder_gives_the_object_itself(tmp_path: Path, stored: tuple[Store, PartialRef, bytes]) -> None:
    _, ref, data = stored
    folder = open_store(str(tmp_path / "root"), environ={})
    folder.put("p.arrow", data)
    path = materialize(folder, [ref.segment_ref(ref.segments[0])], tmp_path / "unused")
    assert path == tmp_path / "root/p.arrow"
    assert not (tmp_path / "unused").exists()


def test_a_sparse_copy_holds_only_what_is_wanted(stored: tuple[Store, PartialRef, bytes], tmp_path: Path) -> None:
    store, ref, data = stored
    first, _, last = ref.segments
    path = materialize(store, [ref.segment_ref(last)], tmp_path / "a/b/copy.arrow")
    copy = path.read_bytes()
    assert len(copy) == len(data)
    assert copy[first.offset : first.offset + first.length] == bytes(first.length)
    assert copy[last.offset :] == data[last.offset :]
    assert os.listdir(path.parent) == ["copy.arrow"]  # noqa: PTH208


def test_a_large_segment_is_fetched_in_pieces(
    stored: tuple[Store, PartialRef, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ref, data = stored
    monkeypatch.setattr(partial_module, "PIECE_BYTES", 100)
    before = store.counts.snapshot()["get"]
    path = materialize(store, [ref.segment_ref(s) for s in ref.segments], tmp_path / "copy.arrow")
    assert path.read_bytes() == data
    assert store.counts.snapshot()["get"] - before >= len(data) // 100


def test_segments_of_two_partials_cannot_share_a_file(stored: tuple[Store, PartialRef, bytes], tmp_path: Path) -> None:
    store, ref, _ = stored
    one, other = ref.segment_ref(ref.segments[0]), replace(ref, key="q").segment_ref(ref.segments[0])
    for refs in ([], [one, other]):
        with pytest.raises(PlanError, match="exactly one partial"):
            materialize(store, refs, tmp_path / "copy.arrow")


def test_a_partial_is_a_plain_arrow_file(stored: tuple[Store, PartialRef, bytes]) -> None:
    _, _, data = stored
    assert ipc.open_file(data).read_all().num_rows == 300
