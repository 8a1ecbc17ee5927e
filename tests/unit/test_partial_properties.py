"""Whatever batches go into a partial, the same rows come out of it, partition by partition."""

from __future__ import annotations

import decimal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import ipc

from apiary_df.protocol.partial import read_partial
from apiary_df.protocol.partial_writer import PartialWriter

I32, I64 = 2**31 - 1, 2**63 - 1
SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def _ints(bits: int, signed: bool) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)


def _decimals(digits: int, scale: int) -> st.SearchStrategy[decimal.Decimal]:
    context = decimal.Context(prec=digits)
    return st.integers(-(10**digits) + 1, 10**digits - 1).map(lambda n: decimal.Decimal(n).scaleb(-scale, context))


# Types whose values are given by their storage integer, up to limits that Python's own types can still show.
BY_INTEGER: dict[pa.DataType, tuple[pa.DataType, int, int]] = {
    pa.date32(): (pa.int32(), 1, 700_000),
    pa.date64(): (pa.int64(), 86_400_000, 700_000),
    pa.time32("s"): (pa.int32(), 1, 86_399),
    pa.time32("ms"): (pa.int32(), 1, 86_399_999),
    pa.time64("us"): (pa.int64(), 1, 86_399_999_999),
    pa.time64("ns"): (pa.int64(), 1_000, 86_399_999_999),
    pa.timestamp("s"): (pa.int64(), 1, 6 * 10**10),
    pa.timestamp("ns"): (pa.int64(), 1, I64),
    pa.timestamp("us", "Europe/Berlin"): (pa.int64(), 1, 6 * 10**16),
    pa.duration("s"): (pa.int64(), 1, 8 * 10**13),
    pa.duration("ns"): (pa.int64(), 1, I64),
}

BY_VALUE: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    **{t: _ints(t.bit_width, True) for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{t: _ints(t.bit_width, False) for t in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    pa.float16(): st.floats(width=16, allow_nan=False),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.decimal32(7, 2): _decimals(7, 2),
    pa.decimal64(18, 3): _decimals(18, 3),
    pa.decimal128(38, 10): _decimals(38, 10),
    pa.decimal256(76, 20): _decimals(76, 20),
    pa.month_day_nano_interval(): st.tuples(st.integers(0, I32), st.integers(0, I32), st.integers(0, I64)).map(
        pa.MonthDayNano
    ),
    pa.string(): st.text(max_size=20),
    pa.large_string(): st.text(max_size=20),
    pa.string_view(): st.text(max_size=40),
    pa.binary(): st.binary(max_size=20),
    pa.large_binary(): st.binary(max_size=20),
    pa.binary_view(): st.binary(max_size=40),
    pa.binary(3): st.binary(min_size=3, max_size=3),
}


def leaf_types() -> st.SearchStrategy[pa.DataType]:
    dictionary = st.builds(
        pa.dictionary,
        st.sampled_from([pa.int8(), pa.int32(), pa.uint16(), pa.int64()]),
        st.sampled_from([pa.string(), pa.int64(), pa.binary(), pa.string_view(), pa.float64()]),
    )
    return st.one_of(
        st.sampled_from([pa.null(), *BY_INTEGER, *BY_VALUE]),
        dictionary,
    )


def _nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    return st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(pa.list_view),
        inner.map(lambda t: pa.list_(t, 2)),
        st.lists(inner, min_size=0, max_size=3).map(
            lambda ts: pa.struct([pa.field(f"f{i}", t) for i, t in enumerate(ts)])
        ),
        st.builds(pa.map_, st.sampled_from([pa.string(), pa.int32()]), inner),
    )


TYPES = st.recursive(leaf_types(), _nested, max_leaves=3)


@st.composite
def arrays(draw: st.DrawFn, type_: pa.DataType, size: int) -> pa.Array:
    types = pa.types
    valid = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    mask = pa.array([not v for v in valid], pa.bool_())
    if types.is_null(type_):
        return pa.nulls(size)
    if type_ in BY_INTEGER:
        storage, step, limit = BY_INTEGER[type_]
        low = 0 if types.is_time(type_) else -limit
        numbers = draw(st.lists(st.integers(low, limit), min_size=size, max_size=size))
        kept = [n * step if v else None for n, v in zip(numbers, valid, strict=True)]
        return pa.array(kept, storage).view(type_)
    if type_ in BY_VALUE:
        values = draw(st.lists(BY_VALUE[type_], min_size=size, max_size=size))
        return pa.array([x if v else None for x, v in zip(values, valid, strict=True)], type_)
    if types.is_dictionary(type_):
        words = pa.array(draw(st.lists(BY_VALUE[type_.value_type], min_size=1, max_size=4)), type_.value_type)
        picks = draw(st.lists(st.integers(0, len(words) - 1), min_size=size, max_size=size))
        indices = pa.array([p if v else None for p, v in zip(picks, valid, strict=True)], type_.index_type)
        return pa.DictionaryArray.from_arrays(indices, words)
    if types.is_struct(type_):
        children = [draw(arrays(type_.field(i).type, size)) for i in range(type_.num_fields)]
        if not children:
            return pa.array([{} if v else None for v in valid], type_)
        return pa.StructArray.from_arrays(children, fields=[type_.field(i) for i in range(len(children))], mask=mask)
    if types.is_fixed_size_list(type_):
        return pa.FixedSizeListArray.from_arrays(draw(arrays(type_.value_type, 2 * size)), type=type_, mask=mask)
    lengths = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    ends = [sum(lengths[:i]) for i in range(size + 1)]
    if types.is_map(type_):
        keys = draw(arrays(type_.key_type, ends[-1])).fill_null(_some(type_.key_type))
        items = draw(arrays(type_.item_type, ends[-1]))
        return pa.MapArray.from_arrays(pa.array(ends, pa.int32()), keys, items, type=type_)
    values = draw(arrays(type_.value_type, ends[-1]))
    if types.is_list_view(type_):
        return pa.ListViewArray.from_arrays(
            pa.array(ends[:-1], pa.int32()), pa.array(lengths, pa.int32()), values, type=type_, mask=mask
        )
    if types.is_large_list(type_):
        return pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), values, type=type_)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values, type=type_, mask=mask)


def _some(type_: pa.DataType) -> Any:
    return "key" if pa.types.is_string(type_) else 7


def _unions(size: int) -> st.SearchStrategy[pa.Array]:
    codes = st.lists(st.integers(0, 1), min_size=size, max_size=size)
    return codes.map(
        lambda picks: pa.UnionArray.from_sparse(
            pa.array(picks, pa.int8()), [pa.array(range(size), pa.int64()), pa.array([str(i) for i in range(size)])]
        )
    )


def _dense_unions(size: int) -> st.SearchStrategy[pa.Array]:
    codes = st.lists(st.integers(0, 1), min_size=size, max_size=size)
    return codes.map(
        lambda picks: pa.UnionArray.from_dense(
            pa.array(picks, pa.int8()),
            pa.array(range(size), pa.int32()),
            [pa.array(range(size), pa.int64()), pa.array([str(i) for i in range(size)])],
        )
    )


def _run_ends(size: int) -> st.SearchStrategy[pa.Array]:
    numbers = st.lists(st.integers(0, 2), min_size=size, max_size=size)
    return numbers.map(lambda n: pc.run_end_encode(pa.array(n, pa.int64())))


ODD: tuple[Callable[[int], st.SearchStrategy[pa.Array]], ...] = (_unions, _dense_unions, _run_ends)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[pa.Schema, int, list[tuple[int, pa.RecordBatch]]]:
    """A schema, a number of partitions, and batches for them in any order, some empty, some sliced."""
    columns = draw(st.lists(TYPES, min_size=1, max_size=3))
    schema = pa.schema([pa.field(f"c{i % 2}", type_) for i, type_ in enumerate(columns)])  # names may repeat
    partitions = draw(st.integers(1, 4))
    batches = []
    for _ in range(draw(st.integers(0, 5))):
        size = draw(st.integers(0, 6))
        batch = pa.RecordBatch.from_arrays([draw(arrays(t, size)) for t in columns], schema=schema)
        start = draw(st.integers(0, size))
        batches.append((draw(st.integers(0, partitions - 1)), batch.slice(start)))
    return schema, partitions, batches


def round_trip(
    schema: pa.Schema,
    partitions: int,
    batches: list[tuple[int, pa.RecordBatch]],
    *,
    memory_bytes: int,
    compression: Any,
) -> list[list[pa.RecordBatch]]:
    with tempfile.TemporaryDirectory() as folder:
        with PartialWriter(schema, partitions, Path(folder), memory_bytes, compression) as writer:
            for partition, batch in batches:
                writer.write(partition, batch)
            finished = writer.finish()
            data = finished.data.read_bytes() if isinstance(finished.data, Path) else finished.data.to_pybytes()
        assert list(Path(folder).iterdir()) == []
    assert len(data) == finished.length
    ref = finished.ref("k")
    assert [s.partition for s in ref.segments] == list(range(partitions))
    whole = ipc.open_file(data)
    assert whole.schema.equals(schema)
    assert sum(whole.get_batch(i).num_rows for i in range(whole.num_record_batches)) == ref.rows
    return [read_partial(data, ref, partition) for partition in range(partitions)]


def assert_same_rows(schema: pa.Schema, got: list[pa.RecordBatch], wanted: list[pa.RecordBatch]) -> None:
    assert sum(b.num_rows for b in got) == sum(b.num_rows for b in wanted)
    for index, field in enumerate(schema):
        ours = [row for b in got for row in b.column(index).to_pylist()]
        theirs = [row for b in wanted for row in b.column(index).to_pylist()]
        assert ours == theirs, str(field)


@SETTINGS
@given(
    deliveries(),
    st.sampled_from([0, 500, 10**9]),
    st.sampled_from([None, "lz4", "zstd"]),
)
def test_every_type_round_trips_in_memory_and_through_scratch_files(
    delivery: tuple[pa.Schema, int, list[tuple[int, pa.RecordBatch]]], memory_bytes: int, compression: Any
) -> None:
    schema, partitions, batches = delivery
    got = round_trip(schema, partitions, batches, memory_bytes=memory_bytes, compression=compression)
    for partition in range(partitions):
        assert_same_rows(schema, got[partition], [b for p, b in batches if p == partition])


@SETTINGS
@given(st.data(), st.sampled_from(ODD), st.sampled_from([0, 10**9]))
def test_unions_and_runs_round_trip(
    data: st.DataObject, make: Callable[[int], st.SearchStrategy[pa.Array]], memory_bytes: int
) -> None:
    columns = [data.draw(make(data.draw(st.integers(1, 6)))) for _ in range(3)]
    batches = [(i % 2, pa.record_batch([column], names=["x"])) for i, column in enumerate(columns)]
    schema = batches[0][1].schema
    got = round_trip(schema, 2, batches, memory_bytes=memory_bytes, compression=None)
    for partition in range(2):
        assert_same_rows(schema, got[partition], [b for p, b in batches if p == partition])


@SETTINGS
@given(TYPES, st.integers(1, 3))
def test_a_partial_without_any_batch_has_the_schema_and_empty_segments(type_: pa.DataType, partitions: int) -> None:
    schema = pa.schema([pa.field("x", type_, metadata={"k": "v"})], metadata={"of": "schema"})
    got = round_trip(schema, partitions, [], memory_bytes=0, compression=None)
    assert got == [[]] * partitions
