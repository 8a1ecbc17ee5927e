"""Row groups of Parquet objects."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import SessionContext

from apiary_df.errors import TableError
from apiary_df.footers import FOOTER_GUESS_BYTES, FooterCache, read_row_groups, row_group_offsets
from apiary_df.plan import codec


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": range(1_000), "b": ["text"] * 1_000}), path, row_group_size=250)
    return path


def test_row_groups_are_those_of_the_footer(file: Path) -> None:
    groups = read_row_groups(str(file), file.stat().st_size)
    metadata = pq.read_metadata(file)
    assert [g.rows for g in groups] == [250] * 4
    assert [g.compressed_bytes for g in groups] == [
        sum(metadata.row_group(i).column(c).total_compressed_size for c in range(2)) for i in range(4)
    ]
    assert groups[0].start_offset == len(b"PAR1")
    assert [g.start_offset for g in groups] == sorted({g.start_offset for g in groups})


@pytest.mark.parametrize("wanted", range(4))
def test_datafusion_reads_just_the_row_group_whose_start_lies_in_a_range(file: Path, wanted: int) -> None:
    size = file.stat().st_size
    starts = [g.start_offset for g in read_row_groups(str(file), size)]
    ctx = SessionContext()
    node = codec.decode(ctx.read_parquet(str(file)).select("a").execution_plan().to_bytes(ctx))
    (entry,) = codec.scan_groups(node)[0]
    begin = starts[wanted]
    ranged = type(entry)(path=entry.path, size_bytes=entry.size_bytes, range_start=begin, range_end=begin + 1)
    plan = type(ctx.read_parquet(str(file)).execution_plan()).from_bytes(
        ctx, codec.encode(codec.with_scan_groups(node, [[ranged]]))
    )
    rows = [v for batch in ctx.execute(plan, 0) for v in batch.to_pyarrow().column(0).to_pylist()]
    assert rows == list(range(wanted * 250, (wanted + 1) * 250))


def test_a_footer_longer_than_the_first_guess_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "wide.parquet"
    pq.write_table(pa.table({f"column_number_{i}": [1] for i in range(1_500)}), path)
    assert pq.read_metadata(path).serialized_size > FOOTER_GUESS_BYTES
    assert [g.rows for g in read_row_groups(str(path), path.stat().st_size)] == [1]


def test_an_empty_table_has_no_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), path)
    assert [g.rows for g in read_row_groups(str(path), path.stat().st_size) if g.rows] == []


def test_the_cache_does_not_read_again(file: Path) -> None:
    cache = FooterCache()
    size = file.stat().st_size
    first = cache.row_groups(str(file), size, last_modified_ns=1)
    file.unlink()
    assert cache.row_groups(str(file), size, last_modified_ns=1) == first


def test_another_version_of_an_object_is_read_again(file: Path) -> None:
    cache = FooterCache()
    size = file.stat().st_size
    cache.row_groups(str(file), size, last_modified_ns=1)
    file.unlink()
    with pytest.raises(TableError):
        cache.row_groups(str(file), size, last_modified_ns=2)


def test_the_cache_forgets_what_was_used_longest_ago(file: Path) -> None:
    cache = FooterCache(max_entries=2)
    size = file.stat().st_size
    for version in (1, 2, 1, 3):
        cache.row_groups(str(file), size, last_modified_ns=version)
    file.unlink()
    assert len(cache) == 2
    assert cache.row_groups(str(file), size, last_modified_ns=1)
    with pytest.raises(TableError):
        cache.row_groups(str(file), size, last_modified_ns=2)


def test_the_shared_cache_answers(file: Path) -> None:
    assert len(row_group_offsets(str(file), file.stat().st_size)) == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PAR1", "too short for a footer"),
        (b"PAR1 garbage that is no footer", "does not end in PAR1"),
        (b"PAR1" + b"x" * 20 + (5_000).to_bytes(4, "little") + b"PAR1", "longer than the object"),
        (b"PAR1" + b"x" * 20 + (20).to_bytes(4, "little") + b"PAR1", "as parquet: "),
    ],
)
def test_what_is_no_parquet_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.parquet"
    path.write_bytes(content)
    with pytest.raises(TableError, match=words) as caught:
        read_row_groups(str(path), len(content))
    assert str(path) in caught.value.message
