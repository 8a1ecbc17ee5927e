"""What a suite is: queries as data, and the tables that they read.

Running and judging them belongs to ``harness``; which suites there are, to ``catalogue``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datafusion

from apiary_df.comparison.tables import DIGITS
from apiary_df.verify.verdict import SUM_DIGITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query, and what is peculiar about it. Whether its rows are ordered is read from its plan.

    Attributes:
        name: Unique within its suite.
        sql: One statement that gives rows.
        settings: DataFusion options (name, value) that it runs under, on both sides.
        digits: Significant digits of floats that must agree: ``DIGITS``, or ``SUM_DIGITS`` where floats are added up
            whose sum is not exact, since its last digits change with the order in which tasks come.
        session: Part of the reason why it rightly runs in the session; None: it must be distributed.
        one_task: Why it is right that no stage of it has two tasks; None: some stage must, if a scan has two cells.
        empty: Why it is right that it gives no rows; None: it must give some.
        undetermined: Why only the schema and the number of its rows are determined; None: all of it is, but for
            what a LIMIT chooses among rows that its ORDER BY does not tell apart.
    """

    name: str
    sql: str
    settings: tuple[tuple[str, str], ...] = ()
    digits: int = DIGITS
    session: str | None = None
    one_task: str | None = None
    empty: str | None = None
    undetermined: str | None = None

    def __post_init__(self) -> None:
        if self.digits not in {DIGITS, SUM_DIGITS}:
            raise ValueError(f"query {self.name}: floats agree to {DIGITS} or {SUM_DIGITS} digits, not {self.digits}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Queries over common tables.

    Attributes:
        name: As ``--suite`` takes it.
        queries: In the order in which they run; names are unique.
        write: Writes the tables' files into an empty folder, the same ones each time. Tables of any size in
            several files of a few KB, since a file is the least that is shared out.
        register: Makes the tables of that folder known to a session, plain or not.
    """

    name: str
    queries: tuple[Query, ...]
    write: Callable[[Path], None]
    register: Callable[[datafusion.SessionContext, Path], None]

    def __post_init__(self) -> None:
        names = [query.name for query in self.queries]
        if len(set(names)) != len(names):
            twice = next(name for index, name in enumerate(names) if name in names[:index])
            raise ValueError(f"suite {self.name} has two queries of the name {twice!r}")
