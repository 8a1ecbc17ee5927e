"""A scan's files as cells, cells as a scan's files, and filling a fragment's leaves with one task's share."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from apiary_df.errors import PlanError
from apiary_df.model import BranchChoice, CellInfo, ExchangeInput, ScanFile, ScanInput, SegmentRef
from apiary_df.plan import codec
from apiary_df.plan.stages import EXCHANGE_STORE_URL, ScanLeaf
from apiary_df.plan.tree import PlanNode

PIECE_BYTES = 16 << 20
"""Largest range of an Arrow file that is scanned at a time: DataFusion reads all of a range into memory before it gives
the first batch, and tells no memory pool of it."""

PIECES_BYTES = 256 << 20
"""What the ranges that one scan reads at a time have together: a merge reads one of each partial, and opens another."""

LEAST_PIECE_BYTES = 256 << 10
"""Smaller ranges are not worth opening; a thousand partials can be merged with these."""

LocateSegment = Callable[[SegmentRef], ScanFile]
"""Says where a segment lies: a range of a local Arrow file."""


def segment_file(ref: SegmentRef, path: object) -> ScanFile:
    """Return a segment as it lies in a file that is laid out as its partial is.

    Args:
        ref: The segment.
        path: Absolute path of the file.
    """
    start = ref.segment.offset
    return ScanFile(
        path=str(path).lstrip("/"),
        size_bytes=ref.object_length,
        range_start=start,
        range_end=start + ref.segment.length,
    )


def file_url(store_url: str, path: str) -> str:
    """Return the URL of a file, from its store's URL and its path within."""
    return f"{store_url}{path}" if store_url.endswith("/") else f"{store_url}/{path}"


def scan_cells(
    leaf: ScanLeaf, row_group_starts: Mapping[str, Sequence[int]], target_bytes: int
) -> tuple[CellInfo, ...]:
    """Return the cells of a scan: its files, the large ones in pieces.

    A Parquet file is split at row groups, so that no cell is empty; DataFusion gives a row group to the byte range
    that holds its first byte. Other formats are split into equal ranges, which DataFusion aligns to records.

    Args:
        leaf: The scan.
        row_group_starts: File URL to the first byte of each of its row groups, ascending; a Parquet file that is not
            in it stays whole.
        target_bytes: Size to aim at for a piece, in bytes, >= 1.
    """
    cells: list[CellInfo] = []
    above = file_url(leaf.store_url, "")
    whole_bytes = max(target_bytes, leaf.split_above_bytes)
    for file in leaf.files:
        url = above + file.path
        if not leaf.splittable or file.size_bytes <= whole_bytes:
            cells.append(CellInfo(storage_key=url, bytes=file.size_bytes))
            continue
        if leaf.format == "parquet_scan":
            cuts = _row_group_cuts(row_group_starts.get(url, ()), file.size_bytes, target_bytes)
        else:
            pieces = -(-file.size_bytes // target_bytes)
            cuts = [file.size_bytes * i // pieces for i in range(pieces + 1)]
        if len(cuts) == 2:
            cells.append(CellInfo(storage_key=url, bytes=file.size_bytes))
            continue
        cells.extend(
            CellInfo(storage_key=url, bytes=end - start, range_start=start, range_end=end)
            for start, end in pairwise(cuts)
        )
    return tuple(cells)


def _row_group_cuts(starts: Sequence[int], size_bytes: int, target_bytes: int) -> list[int]:
    """Return where to cut a file: at the row group starts nearest to the ends of equal pieces."""
    inner = [start for start in starts[1:] if 0 < start < size_bytes]
    pieces = min(-(-size_bytes // target_bytes), len(inner) + 1)
    cuts = [0]
    for piece in range(1, pieces):
        ideal = size_bytes * piece // pieces
        after = bisect_left(inner, ideal)
        nearest = min(inner[max(0, after - 1) : after + 1], key=lambda start: abs(start - ideal), default=0)
        if nearest > cuts[-1]:
            cuts.append(nearest)
    return [*cuts, size_bytes]


def files_by_url(leaf: ScanLeaf) -> dict[str, ScanFile]:
    """Return a scan's files by the URLs that its cells have as storage keys."""
    above = file_url(leaf.store_url, "")
    return {above + file.path: file for file in leaf.files}


def files_of_cells(by_url: Mapping[str, ScanFile], cells: Iterable[CellInfo]) -> tuple[ScanFile, ...]:
    """Return the file entries that make a scan read exactly these cells; adjacent ranges become one.

    Args:
        by_url: The scan's files, from :func:`files_by_url`: made once for all shares of a scan.
        cells: A share of its cells, in storage order.

    Raises:
        PlanError: If a cell is of no file of the scan.
    """
    files: list[ScanFile] = []
    for cell in cells:
        file = by_url.get(cell.storage_key)
        if file is None:
            raise PlanError(f"cell {cell.storage_key!r} is of no file of the scan")
        last = files[-1] if files else None
        if cell.range_start is None:
            files.append(file)
        elif last is not None and last.path == file.path and last.range_end == cell.range_start:
            files[-1] = replace(last, range_end=cell.range_end)
        else:
            files.append(replace(file, range_start=cell.range_start, range_end=cell.range_end))
    return tuple(files)


def fill_fragment(
    fragment: PlanNode,
    scans: Iterable[ScanInput],
    exchanges: Iterable[ExchangeInput],
    branches: Iterable[BranchChoice],
    *,
    locate_segment: LocateSegment,
    stores: Mapping[int, str] | None = None,
) -> PlanNode:
    """Return a fragment whose leaves read one task's share.

    A leaf gets as many file groups as its template has: one, or several into which partitions of a shuffle are dealt
    (:mod:`apiary_df.plan.fold`). Leaves that the task has no input for read nothing. Union branches that are not the
    task's are limited to no rows, so that nothing below them is ever polled.

    Args:
        fragment: A stage's fragment.
        scans: Source files by leaf.
        exchanges: Partials by leaf.
        branches: The active branch of each union that is split.
        locate_segment: Says where a segment lies in the local file system.
        stores: Leaves whose files lie in another store than was planned, with its URL.

    Raises:
        PlanError: If an input is for a leaf that the fragment does not have.
    """
    filler = _Filler(scans, exchanges, branches, locate_segment, stores or {})
    filled = filler.fill(fragment)
    filler.check_all_used()
    return filled


class _Filler:
    def __init__(
        self,
        scans: Iterable[ScanInput],
        exchanges: Iterable[ExchangeInput],
        branches: Iterable[BranchChoice],
        locate_segment: LocateSegment,
        stores: Mapping[int, str],
    ) -> None:
        self._scans = {scan.leaf: scan for scan in scans}
        self._exchanges = {exchange.leaf: exchange for exchange in exchanges}
        self._branches = {choice.union: choice.branch for choice in branches}
        self._locate = locate_segment
        self._stores = stores
        self._next_leaf = 0
        self._next_union = 0

    def fill(self, node: PlanNode) -> PlanNode:
        if node.is_file_scan:
            return self._leaf(node)
        children = [self.fill(child) for child in node.children]
        if node.kind == "union":
            active = self._branches.get(self._next_union)
            self._next_union += 1
            if active is not None:
                children = [child if i == active else codec.local_limit(child, 0) for i, child in enumerate(children)]
        return node.with_children(*children)

    def check_all_used(self) -> None:
        named = max([*self._scans, *self._exchanges], default=-1)
        if named >= self._next_leaf or max(self._branches, default=-1) >= self._next_union:
            raise PlanError(
                f"the fragment has {self._next_leaf} file leaves and {self._next_union} unions, its task's inputs "
                f"are for leaves {sorted([*self._scans, *self._exchanges])} and unions {sorted(self._branches)}"
            )

    def _leaf(self, node: PlanNode) -> PlanNode:
        index = self._next_leaf
        self._next_leaf += 1
        if (exchange := self._exchanges.get(index)) is not None:
            groups = self._segment_groups(exchange, codec.scan_group_count(node))
            piece_bytes = max(LEAST_PIECE_BYTES, min(PIECE_BYTES, PIECES_BYTES // max(1, 2 * len(groups))))
            pieces = [[piece for file in group for piece in _pieces(file, piece_bytes)] for group in groups]
            return codec.with_scan_groups(node, pieces, EXCHANGE_STORE_URL)
        if (scan := self._scans.get(index)) is not None:
            return codec.with_scan_groups(node, _groups(scan.files, scan.ordered), self._stores.get(index))
        return codec.with_scan_groups(node, [[] for _ in range(codec.scan_group_count(node))])

    def _segment_groups(self, exchange: ExchangeInput, count: int) -> list[list[ScanFile]]:
        refs = [ref for ref in exchange.segments if ref.segment.rows]
        if exchange.ordered:
            return _groups([self._locate(ref) for ref in refs], ordered=True)
        groups: list[list[ScanFile]] = [[] for _ in range(count)]
        for ref in refs:
            groups[ref.segment.partition % count].append(self._locate(ref))
        return [_joined(group) for group in groups]


def _joined(files: Iterable[ScanFile]) -> list[ScanFile]:
    """Put ranges together that follow each other in one file: each would be opened by itself."""
    joined: list[ScanFile] = []
    for file in files:
        if joined and joined[-1].path == file.path and joined[-1].range_end == file.range_start:
            joined[-1] = replace(joined[-1], range_end=file.range_end)
        else:
            joined.append(file)
    return joined


def _pieces(file: ScanFile, most_bytes: int) -> Iterator[ScanFile]:
    """Yield ranges of a file, one after the other, none larger than that; each batch begins in one of them."""
    if file.range_start is None or file.range_end is None:
        yield file
        return
    for start in range(file.range_start, file.range_end, most_bytes):
        yield replace(file, range_start=start, range_end=min(file.range_end, start + most_bytes))


def _groups(files: Sequence[ScanFile], ordered: bool) -> list[list[ScanFile]]:
    return [[file] for file in files] if ordered and files else [list(files)]
