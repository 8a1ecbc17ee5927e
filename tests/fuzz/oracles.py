"""Three oracles, each a judgement over one query: plain DataFusion, the query's own partitions, DuckDB."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random

import datafusion
import duckdb
import pyarrow as pa

from apiary_df.errors import ApiaryError, InternalError, PlanError, QueryTimeout, StorageError, SwarmError
from apiary_df.testing.compare import compare_tables

from .dialect import to_duckdb, to_sql
from .lab import Lab
from .queries import Partitioned, Queries, Query
from .tables import Table, draw_tables

SIGNIFICANT_DIGITS = 14
"""Sums are exact in any order, so floats differ at most by what makes an average or a root of them."""

SLOW_S = 10.0
"""Seconds of plain DataFusion after which a swarm that meets its deadline of two minutes is not to blame."""

UNSTABLE_DIGITS = 9
"""Digits of standard deviations and variances, which do depend on the order in which they are added up."""

_FILE_GROUPS = re.compile(r"file_groups=\{(\d+) groups?: \[\[([^\]]*)\]")
_DEFECTS = ("Internal error", "panicked", "JoinError", "SanityCheckPlan", "Optimizer rule")
"""What DataFusion says of defects of its own; a swarm that answers nevertheless is not wrong."""
_UNSTABLE = ("STDDEV", "VAR_")


class Verdict(Enum):
    """What came of one query."""

    SAME = "same"
    BOTH_RAISED = "both raised"
    DIFFERENT = "DIFFERENT"
    PLAIN_BUG = "plain DataFusion disagrees with itself"
    NOT_COMPARABLE = "the other engine refused it"
    TOO_SLOW = "plain DataFusion takes long as well"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A judgement.

    Attributes:
        verdict: What came of it.
        detail: The difference, or the error.
        distributed: For each query that the swarm ran, whether it was distributed.
        left_here: Why those were not that read several files.
        rows: Rows of the answer.
        texts: The SQL of it all, for a person.
    """

    verdict: Verdict
    detail: str = ""
    distributed: tuple[bool, ...] = ()
    left_here: tuple[str, ...] = ()
    rows: int = 0
    texts: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Rows, or the error in their place."""

    table: pa.Table | None = None
    error: Exception | None = None


def _ask(ctx: datafusion.SessionContext, sql: str) -> _Answer:
    try:
        return _Answer(ctx.sql(sql).to_arrow_table(), None)
    except Exception as error:  # noqa: BLE001 - DataFusion raises bare Exception; which errors are right is judged later
        return _Answer(None, error)


class Swarm:
    """Asks the swarm, and keeps what it said of each query."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.distributed: list[bool] = []
        self.left_here: list[str] = []

    def ask(self, sql: str) -> _Answer:
        """Return its answer."""
        answer = _ask(self._lab.swarm, sql)
        if answer.error is None:
            report = self._lab.last_report
            self.distributed.append(report.distributed)
            if not report.distributed and self._reads_several_files(sql):
                self.left_here.append(report.reason)
        return answer

    def _reads_several_files(self, sql: str) -> bool:
        """Whether some scan of a query has more than one file once DataFusion has planned it."""
        text = self._lab.plain.sql(sql).execution_plan().display_indent()
        return any(int(groups) > 1 or "," in first for groups, first in _FILE_GROUPS.findall(text))

    def judged(self, verdict: Verdict, texts: Sequence[str], detail: str = "", rows: int = 0) -> Judged:
        """Return a judgement with what was kept."""
        return Judged(
            verdict=verdict,
            detail=detail,
            rows=rows,
            texts=tuple(texts),
            distributed=tuple(self.distributed),
            left_here=tuple(self.left_here),
        )


# -- plain DataFusion ------------------------------------------------------------------------------------------------


def judge_by_plain(lab: Lab, query: Query) -> Judged:
    """Compare the swarm's rows, their types, and its errors with those of plain DataFusion.

    Which columns hold no NULL is not compared: DataFusion says it batch by batch, and of a union each branch otherwise.
    """
    sql = to_sql(query.tree)
    swarm = Swarm(lab)
    started_s = time.monotonic()
    expected = _ask(lab.plain, sql)
    plain_s = time.monotonic() - started_s
    actual = swarm.ask(sql)
    if isinstance(actual.error, QueryTimeout) and plain_s > SLOW_S:
        return swarm.judged(Verdict.TOO_SLOW, [sql], f"plain took over {SLOW_S:g} s")
    wrong = _difference(expected, actual, query, sql)
    if wrong is None:
        verdict = Verdict.SAME if expected.error is None else Verdict.BOTH_RAISED
        rows = 0 if expected.table is None else expected.table.num_rows
        return swarm.judged(verdict, [sql], "" if expected.error is None else str(expected.error), rows)
    own = expected.error is not None and any(word in str(expected.error) for word in _DEFECTS)
    verdict = Verdict.PLAIN_BUG if own or plain_disagrees(lab, query, expected) else Verdict.DIFFERENT
    return swarm.judged(verdict, [sql], wrong)


def plain_disagrees(lab: Lab, query: Query, expected: _Answer) -> bool:
    """Whether plain DataFusion gives other answers, or errors, when it plans in other ways."""
    sql = to_sql(query.tree)
    return any(_difference(expected, _ask(ctx, sql), query, sql, typed=False) for ctx in lab.plain_variants())


def _difference(expected: _Answer, actual: _Answer, query: Query, sql: str, *, typed: bool = True) -> str | None:
    if actual.error is not None:
        if typed and not isinstance(actual.error, ApiaryError):
            return f"an error that is not typed: {type(actual.error).__name__}: {actual.error}"
        if isinstance(actual.error, (InternalError, PlanError, QueryTimeout, StorageError, SwarmError)):
            return f"{type(actual.error).__name__}: {actual.error}"
        if expected.error is not None:
            return None
        return f"the swarm raised, plain DataFusion did not: {type(actual.error).__name__}: {actual.error}"
    if expected.error is not None:
        return f"plain DataFusion raised, the swarm did not: {expected.error}"
    assert expected.table is not None
    assert actual.table is not None
    if not expected.table.num_rows and not actual.table.num_rows:
        # Whether nothing comes as a batch without rows, or as no batch, is chance, and the types depend on it.
        return None
    rows = compare_tables(
        expected.table,
        actual.table,
        ordered=bool(query.order),
        order_columns=query.order or None,
        significant_digits=_digits(sql),
    )
    return None if rows is None else str(rows)


def _digits(sql: str) -> int:
    return UNSTABLE_DIGITS if any(name in sql for name in _UNSTABLE) else SIGNIFICANT_DIGITS


# -- the query's own partitions --------------------------------------------------------------------------------------


def judge_by_partitions(lab: Lab, query: Partitioned) -> Judged:
    """Compare the swarm's answer with what its answers to the three partitions of the query make together."""
    sqls = [to_sql(each.tree) for each in (query.whole, *query.parts)]
    swarm = Swarm(lab)
    whole, *parts = (swarm.ask(sql) for sql in sqls)
    failed = next((answer.error for answer in (whole, *parts) if answer.error is not None), None)
    if failed is not None:
        # Whether it may raise at all is the other oracle's question.
        return swarm.judged(Verdict.BOTH_RAISED, sqls, str(failed))
    tables = [answer.table for answer in parts if answer.table is not None]
    assert whole.table is not None
    together = _laid_together(tables, whole.table.schema)
    if query.combine is not None:
        together = _combined(together, query.combine, whole.table.schema)
    found = compare_tables(together, whole.table, ordered=False, significant_digits=SIGNIFICANT_DIGITS)
    if found is None:
        return swarm.judged(Verdict.SAME, sqls, rows=together.num_rows)
    agrees = judge_plain_partitions(lab, query)
    return swarm.judged(Verdict.DIFFERENT if agrees else Verdict.PLAIN_BUG, sqls, str(found))


def _laid_together(parts: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """Return the rows of all parts under the whole's types.

    The optimizer may know of the whole that it has no NULLs, and of a part that it is empty, which may have
    dictionaries then.
    """
    nullable = pa.schema([field.with_nullable(True) for field in schema])
    return pa.concat_tables([_spelled_out(part, nullable).cast(nullable) for part in parts])


def _spelled_out(part: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        column.cast(column.type.value_type)
        if pa.types.is_dictionary(column.type) and not pa.types.is_dictionary(field.type)
        else column
        for column, field in zip(part.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, names=part.column_names)


def judge_plain_partitions(lab: Lab, query: Partitioned) -> bool:
    """Whether plain DataFusion passes the same test."""
    answers = [_ask(lab.plain, to_sql(each.tree)).table for each in (query.whole, *query.parts)]
    if any(answer is None for answer in answers):
        return False
    whole, *parts = (answer for answer in answers if answer is not None)
    together = _laid_together(parts, whole.schema)
    if query.combine is not None:
        together = _combined(together, query.combine, whole.schema)
    return compare_tables(together, whole, ordered=False, significant_digits=SIGNIFICANT_DIGITS) is None


def _combined(parts: pa.Table, sql: str, schema: pa.Schema) -> pa.Table:
    ctx = datafusion.SessionContext()
    ctx.register_record_batches("parts", [parts.to_batches() or [pa.RecordBatch.from_pylist([], schema=parts.schema)]])
    return ctx.sql(sql).to_arrow_table().cast(schema)


# -- DuckDB ----------------------------------------------------------------------------------------------------------


def judge_by_duckdb(lab: Lab, query: Query) -> Judged:
    """Compare the swarm's answer with DuckDB's over the same files."""
    sql, other = to_sql(query.tree), to_duckdb(query.tree)
    swarm = Swarm(lab)
    actual = swarm.ask(sql)
    if actual.table is None:
        return swarm.judged(Verdict.BOTH_RAISED, [sql], str(actual.error))
    try:
        answer = lab.ask_duckdb(other)
    except duckdb.Error as error:
        return swarm.judged(Verdict.NOT_COMPARABLE, [sql, other], f"{type(error).__name__}: {error}")
    expected = _cast_to(answer, actual.table.schema)
    found = compare_tables(
        expected,
        actual.table,
        ordered=bool(query.order),
        order_columns=query.order or None,
        significant_digits=min(_digits(sql), 12),
        exact_types=False,
    )
    if found is None:
        return swarm.judged(Verdict.SAME, [sql, other], rows=expected.num_rows)
    plain = _ask(lab.plain, sql)
    agree = plain.table is not None and _difference(plain, actual, query, sql) is None
    # Both of DataFusion's answers differ from DuckDB's: the engines differ, which is not the swarm's doing.
    return swarm.judged(Verdict.PLAIN_BUG if agree else Verdict.DIFFERENT, [sql, other], str(found))


def _cast_to(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give DuckDB's columns the types of DataFusion's: numbers of other widths, strings of other layout."""
    types = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in schema]
    columns = [column.cast(kind) for column, kind in zip(table.columns, types, strict=True)]
    return pa.Table.from_arrays(columns, names=schema.names)


# -- by name ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """An oracle.

    Attributes:
        name: Its name on the command line.
        tables: Draws tables that it can judge over.
        judge: Draws a query and judges it.
    """

    name: str
    tables: Callable[[Random], tuple[Table, ...]]
    judge: Callable[[Lab, Random, Sequence[Table]], tuple[Query | Partitioned, Judged]]


def _plain(lab: Lab, random: Random, tables: Sequence[Table]) -> tuple[Query, Judged]:
    query = Queries(random, tables).query()
    return query, judge_by_plain(lab, query)


def _tlp(lab: Lab, random: Random, tables: Sequence[Table]) -> tuple[Partitioned, Judged]:
    query = Queries(random, tables).partitioned()
    return query, judge_by_partitions(lab, query)


def _duckdb(lab: Lab, random: Random, tables: Sequence[Table]) -> tuple[Query, Judged]:
    query = Queries(random, tables, common=True).query()
    return query, judge_by_duckdb(lab, query)


def _common_tables(random: Random) -> tuple[Table, ...]:
    return draw_tables(random, common=True)


ORACLES = {
    oracle.name: oracle
    for oracle in (
        Oracle(name="plain", tables=draw_tables, judge=_plain),
        Oracle(name="tlp", tables=draw_tables, judge=_tlp),
        Oracle(name="duckdb", tables=_common_tables, judge=_duckdb),
    )
}
"""Oracles by name."""
