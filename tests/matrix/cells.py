"""The cells of the table: which there are, how one is run, and whether what came of it is what was to come."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .lab import SHORT_S, Lab, Seen
from .shapes import Planned
from .table import EXPECTED, KINDS, PLACES, Expected, in_task, lay

IN_ALL_SHAPES = ("partial written", "commit record created")
"""Places before, during and after a task's commit: every test run tries them in every shape."""

SHORT_OF_TIME = ("out of time",)
"""Kinds that are given a deadline that can be missed."""

ONCE = tuple(kind for kind in KINDS if kind not in ("for good", "on one node"))
"""Kinds that strike one request."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One fault at one place in a query of one shape."""

    place: str
    kind: str
    shape: str

    @property
    def expected(self) -> Expected:
        """What is to come of it."""
        return EXPECTED[self.place][self.kind]

    def __str__(self) -> str:
        return f"{self.kind}: {self.place}: {self.shape}"


def all_cells() -> Iterator[Cell]:
    """Yield every cell."""
    for place in EXPECTED:
        for kind in KINDS:
            if kind in EXPECTED[place]:
                yield from (Cell(place, kind, shape) for shape in PLACES[place].shapes)


def some_cells() -> Iterator[Cell]:
    """Yield every fault at every place in one shape, those about a commit in all shapes."""
    for cell in all_cells():
        shapes = PLACES[cell.place].shapes
        chosen = shapes[zlib.crc32(f"{cell.place}/{cell.kind}".encode()) % len(shapes)]
        if cell.shape == chosen or cell.place in IN_ALL_SHAPES:
            yield cell


def run(lab: Lab, planned: Planned, cell: Cell) -> Seen:
    """Run a query of the cell's shape with its fault in wait."""
    timeout_s = SHORT_S if cell.kind in SHORT_OF_TIME else 3600.0
    collected = cell.expected.collected
    lab.ensure_nodes()
    place = PLACES[cell.place]
    if place.request == "run":
        return lab.try_query(planned, in_task=in_task(lab, cell.kind), timeout_s=timeout_s, collected=collected)
    faults = lay(lab, place, cell.kind)
    assert faults, f"there is no such fault: {cell}"
    seen = lab.try_query(planned, faults, timeout_s=timeout_s, collected=collected, attached=place.attached)
    struck = [made for made in lab.faults.made if made.is_struck_at(place.request, place.key)]
    seen.struck = tuple(next(key for key in made.keys if fnmatchcase(key, place.key)) for made in struck)
    return seen


def differences(cell: Cell, planned: Planned, seen: Seen) -> list[str]:
    """Return in what the outcome of a cell differs from the table; nothing if it does not."""
    expected, found = cell.expected, []
    if PLACES[cell.place].request != "run" and (not seen.struck or (cell.kind in ONCE and len(seen.struck) > 1)):
        found.append(f"{len(seen.struck)} requests were struck")
    if seen.left:
        found.append(f"left behind: {', '.join(seen.left)}")
    if planned.out is not None and seen.rows not in ([], planned.rows):
        found.append(f"{len(seen.rows or ())} rows were written, not all or none")
    if cell.kind == "session killed":
        return found if seen.killed else [*found, f"the session lives: {seen.error!r}"]
    outcome = "killed" if seen.killed else seen.error.code if seen.error is not None else ""
    if outcome != expected.error:
        found.append(f"it raised {seen.error!r} instead of {expected.error or 'nothing'}")
    elif seen.error is not None:
        if expected.cause and seen.error.details.get("cause") != expected.cause:
            found.append(f"the cause is {seen.error.details.get('cause')!r} instead of {expected.cause!r}")
        if expected.names_key and not any(name_of(key) in seen.error.message for key in seen.struck):
            found.append(f"{seen.struck} is not named in: {seen.error.message}")
    if seen.error is None and seen.rows != planned.rows:
        found.append(f"{len(seen.rows or ())} rows, not the {len(planned.rows)} of plain DataFusion")
    if seen.error is not None and planned.out is not None and seen.rows:
        found.append(f"{len(seen.rows)} rows were written by a statement that failed")
    extra = expected.extra(cell.shape)
    if extra is not None and seen.extra != extra:
        found.append(f"{seen.extra} more attempts than tasks instead of {extra}: {seen.attempts}")
    if expected.tries is not None and max(seen.attempts.values(), default=0) != expected.tries:
        found.append(f"the affected task was not tried {expected.tries} times: {seen.attempts}")
    return found


def name_of(key: str) -> str:
    """Return the last segment of a key."""
    return key.rsplit("/", 1)[-1]
