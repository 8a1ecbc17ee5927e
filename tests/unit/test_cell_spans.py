"""Which bytes of an object a scan reads: arithmetic of spans, and the layout of Parquet files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion.plan import ExecutionPlan
from hypothesis import given
from hypothesis import strategies as st

from apiary_df.model import ScanFile
from apiary_df.plan import codec
from apiary_df.plan.tree import PlanNode
from apiary_df.worker.cell_spans import (
    Span,
    footer_bytes,
    layout_of,
    missing,
    overlap,
    pieces_of,
    spans_read,
    total_bytes,
    united,
)

GROUP_ROWS = 250
GROUPS = 6
SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda p: (min(p), max(p))), max_size=6)


def bytes_of(spans: object) -> set[int]:
    return {byte for start, end in spans for byte in range(start, end)}  # type: ignore[attr-defined]


@given(wanted=SPANS, held=SPANS)
def test_what_is_missing_is_what_is_wanted_and_not_held(wanted: list[Span], held: list[Span]) -> None:
    found = missing(wanted, held)
    assert bytes_of(found) == bytes_of(wanted) - bytes_of(held)
    assert total_bytes(found) == len(bytes_of(found))
    assert found == tuple(sorted(found))


@given(spans=SPANS)
def test_united_spans_are_the_same_bytes_apart_from_each_other(spans: list[Span]) -> None:
    found = united(spans)
    assert bytes_of(found) == bytes_of(spans)
    assert all(end < start for (_, end), (start, _) in pairwise(found))


@given(spans=SPANS, most=st.integers(1, 7))
def test_pieces_are_the_same_bytes_and_none_is_too_large(spans: list[Span], most: int) -> None:
    pieces = pieces_of(united(spans), most)
    assert bytes_of(pieces) == bytes_of(spans)
    assert all(0 < end - start <= most for start, end in pieces)


@given(span=st.tuples(st.integers(0, 40), st.integers(0, 40)), others=SPANS)
def test_overlap_is_a_byte_in_common(span: Span, others: list[Span]) -> None:
    if span[0] < span[1]:
        assert overlap(span, united(others)) == bool(bytes_of([span]) & bytes_of(others))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layout") / "t.parquet"
    rows = GROUP_ROWS * GROUPS
    table = pa.table(
        {"k": range(rows), "v": [f"value {i % 97}" for i in range(rows)], "f": [i / 7 for i in range(rows)]}
    )
    pq.write_table(table, path, row_group_size=GROUP_ROWS, write_page_index=True)
    return path


def read(path: Path, first: int, end: int) -> list[dict[str, object]]:
    """Return what DataFusion reads of a range of a file, with all that makes it look at indexes and filters."""
    config = datafusion.SessionConfig({"datafusion.execution.parquet.pushdown_filters": "true"})
    ctx = datafusion.SessionContext(config)
    frame = ctx.read_parquet(str(path)).filter(datafusion.col("v") == datafusion.lit("value 5"))
    plan = codec.decode(frame.execution_plan().to_bytes(ctx))

    def ranged(node: PlanNode) -> PlanNode:
        if not node.is_file_scan:
            return node.with_children(*map(ranged, node.children))
        entry = ScanFile(path=str(path).lstrip("/"), size_bytes=path.stat().st_size, range_start=first, range_end=end)
        return codec.with_scan_groups(node, [[entry]])

    filled = ExecutionPlan.from_bytes(ctx, codec.encode(ranged(plan)))
    batches = [batch.to_pyarrow() for n in range(filled.partition_count) for batch in ctx.execute(filled, n)]
    return [row for batch in batches for row in batch.to_pylist()]


@pytest.mark.parametrize(("first", "last"), [(0, 0), (1, 1), (2, 4), (5, 5), (0, 5)])
def test_a_copy_that_is_a_hole_elsewhere_gives_the_rows_of_its_ranges(
    file: Path, tmp_path: Path, first: int, last: int
) -> None:
    data = file.read_bytes()
    layout = layout_of(data)
    assert layout is not None
    assert len(layout.starts) == GROUPS
    begin = layout.starts[first] if first else 0
    end = layout.starts[last + 1] if last + 1 < GROUPS else len(data)
    spans = spans_read(len(data), [(begin, end)], layout)
    copy = tmp_path / "copy.parquet"
    with copy.open("wb") as sparse:
        sparse.truncate(len(data))
        for start, stop in spans:
            sparse.seek(start)
            sparse.write(data[start:stop])
    assert read(copy, begin, end) == read(file, begin, end) != []
    if (first, last) != (0, GROUPS - 1):
        assert total_bytes(spans) < len(data)


def test_a_range_that_no_row_group_starts_in_reads_the_end_alone(file: Path) -> None:
    size = file.stat().st_size
    layout = layout_of(file.read_bytes())
    assert layout is not None
    begin = layout.starts[1] + 1
    assert spans_read(size, [(begin, begin + 1)], layout) == ((layout.tail, size),)


def test_all_row_groups_are_all_of_a_file(file: Path) -> None:
    data = file.read_bytes()
    layout = layout_of(data)
    assert layout is not None
    halves = [(0, layout.starts[3]), (layout.starts[3], len(data))]
    assert united(span for half in halves for span in spans_read(len(data), [half], layout)) == ((0, len(data)),)


def test_without_a_layout_or_a_range_all_of_an_object_is_read(file: Path) -> None:
    layout = layout_of(file.read_bytes())
    assert spans_read(100, [(3, 5)], None) == ((0, 100),)
    assert spans_read(100, [None, (3, 5)], layout) == ((0, 100),)
    assert spans_read(0, [None], None) == ()


@pytest.mark.parametrize("data", [b"", b"short", b"no magic at the end", b"PAR1" * 5])
def test_what_is_no_parquet_has_no_layout(data: bytes) -> None:
    assert layout_of(data) is None


def test_the_length_of_a_footer_is_told_by_the_end_of_its_file(file: Path) -> None:
    data = file.read_bytes()
    length = footer_bytes(data[-8:])
    assert length is not None
    assert layout_of(data[-length:]) == layout_of(data)
    assert footer_bytes(b"12345678") is None
    assert footer_bytes(b"PAR1") is None
