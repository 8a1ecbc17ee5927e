"""Pairing of rows whose floats are the same to so many significant digits.

Here belongs the search for a one-to-one pairing within groups of rows that are equal in everything else.
Which rows those are, and what a row that finds no partner is called, is the caller's business.

"The same to N digits" is not transitive, so sorting both sides and comparing in step may miss a pairing that
exists. It is tried first, since it nearly always finds one; only the groups in which it fails are searched
with augmenting paths (Berge 1957), one path at a time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from apiary_df.comparison.leaves import close, last_digit

_Row = tuple[float, ...]


def first_unmatched(
    ids: pa.Array, floats: Sequence[pa.Array], count: int, significant_digits: int
) -> tuple[int, list[int]] | None:
    """Pair the first ``count`` rows with the rest, and return a row without a partner, if there is one.

    Args:
        ids: int64 group of each row; each has as many rows among the first ``count`` as among the rest.
        floats: Finite float columns over the same rows.
        count: Half the number of rows.
        significant_digits: What makes two floats the same.

    Returns:
        None if all rows find a partner; else a row of the first half, and the rows of the second half (counted
        from its own start) in the same group that have no partner either.
    """
    if not floats or count == 0:
        return None
    ours, our_order = _sorted_half(ids, floats, 0, count)
    theirs, their_order = _sorted_half(ids, floats, count, count)
    same = pa.repeat(pa.scalar(True), count)
    for left, right in zip(ours[1:], theirs[1:], strict=True):
        same = pc.and_(same, close(left, right, significant_digits))
    groups = ours[0]
    for group in pc.unique(groups.filter(pc.invert(same))).to_pylist():
        start, length = pc.index(groups, group).as_py(), pc.sum(pc.equal(groups, group)).as_py()
        search = _Search(
            ours=_rows(ours[1:], start, length), theirs=_rows(theirs[1:], start, length), digits=significant_digits
        )
        found = search.first_unmatched(same.slice(start, length).to_pylist())
        if found is not None:
            row, rest = found
            return our_order[start + row].as_py(), [their_order[start + i].as_py() for i in rest]
    return None


def _sorted_half(ids: pa.Array, floats: Sequence[pa.Array], start: int, count: int) -> tuple[list[pa.Array], pa.Array]:
    """Return the ids and floats of so many rows, sorted, and the row that each came from, counted from start."""
    columns = [column.slice(start, count) for column in (ids, *floats)]
    table = pa.table(columns, names=[str(i) for i in range(len(columns))])
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in table.column_names])
    return [column.take(order) for column in columns], order


def _rows(columns: Sequence[pa.Array], start: int, length: int) -> list[_Row]:
    return list(zip(*(column.slice(start, length).to_pylist() for column in columns), strict=True))


class _Search:
    """The pairing within one group; both sides are sorted."""

    def __init__(self, *, ours: list[_Row], theirs: list[_Row], digits: int) -> None:
        self.ours = ours
        self.theirs = theirs
        self.digits = digits
        self.leading = [row[0] for row in theirs]
        self.partner_of_theirs: dict[int, int] = {}

    def first_unmatched(self, in_step: Sequence[bool]) -> tuple[int, list[int]] | None:
        """Start from the pairs that are the same in step; return a row of ours without a partner, and theirs."""
        self.partner_of_theirs = {i: i for i, same in enumerate(in_step) if same}
        for start, same in enumerate(in_step):
            if not same and not self._augment(start):
                return start, [i for i in range(len(self.theirs)) if i not in self.partner_of_theirs]
        return None

    def _augment(self, start: int) -> bool:
        """Give one more of our rows a partner, re-pairing others if need be; False if that is impossible."""
        reached_from: dict[int, int] = {}
        waiting = [start]
        while waiting:
            mine = waiting.pop()
            for other in self._candidates(self.ours[mine]):
                if other in reached_from:
                    continue
                reached_from[other] = mine
                if other in self.partner_of_theirs:
                    waiting.append(self.partner_of_theirs[other])
                    continue
                self._turn_path(other, start, reached_from)
                return True
        return False

    def _turn_path(self, end: int, start: int, reached_from: dict[int, int]) -> None:
        """Re-pair along the path from a free row of theirs back to the row that looked for a partner."""
        held = {mine: other for other, mine in self.partner_of_theirs.items()}
        other = end
        while (mine := reached_from[other]) != start:
            self.partner_of_theirs[other] = mine
            other = held[mine]
        self.partner_of_theirs[other] = start

    def _candidates(self, row: _Row) -> list[int]:
        # The other value may be the larger one, and past a power of ten its last digit is ten times as large.
        reach = 10 * last_digit(row[0], self.digits) * (1 + 1e-9)
        window = range(bisect_left(self.leading, row[0] - reach), bisect_right(self.leading, row[0] + reach))
        return [i for i in window if self._close(row, self.theirs[i])]

    def _close(self, ours: _Row, theirs: _Row) -> bool:
        return all(
            abs(a - b) <= last_digit(max(abs(a), abs(b)), self.digits) for a, b in zip(ours, theirs, strict=True)
        )
