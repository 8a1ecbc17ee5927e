"""A run whose rows are handed over only after they were found to be plain DataFusion's.

What belongs here: running the query a second time, and the error that tells a difference. What makes two answers equal
is in :mod:`apiary_df.verify.verdict`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

import datafusion
import pyarrow as pa

from apiary_df.comparison.tables import Difference
from apiary_df.errors import AnswerDiffers, ApiaryError, QueryCancelled
from apiary_df.report import QueryReport, Verification
from apiary_df.runs import Run, local_run
from apiary_df.verify import shape
from apiary_df.verify.verdict import Judge

StartRun = Callable[[Callable[[QueryReport], None]], Run]
"""Starts the query on the swarm, and hands its report over at its end."""

ENDED_HERE = "it ran in this process, as plain DataFusion runs it: there is no second answer"


def with_time_put_in(session: datafusion.SessionContext, df: datafusion.DataFrame) -> datafusion.DataFrame:
    """Return a query in which the time, if it asks for it, is put in: that of the frame's making, as in DataFusion."""
    if not shape.reads_clock(df.logical_plan().display_indent()):
        return df
    return datafusion.SessionContext.create_dataframe_from_logical_plan(session, df.optimized_logical_plan())


def verified_run(
    session: datafusion.SessionContext,
    query: datafusion.DataFrame,
    schema: pa.Schema,
    start: StartRun,
    ended: Callable[[QueryReport], None],
) -> Run:
    """Return a run that gives its first row when the whole answer was compared with plain DataFusion's.

    Args:
        session: The user's session.
        query: The query, with the time put in.
        schema: Schema of the result.
        start: Starts it on the swarm.
        ended: Takes the report, with what was compared in it.

    Raises:
        AnswerDiffers: When it is read: the answers differ in what SQL fixes.
    """
    reports: list[QueryReport] = []
    swarm = start(reports.append)
    plain = local_run(query, None, "", lambda _: None)

    def batches() -> Generator[pa.RecordBatch, None, None]:
        verification: Verification | None = None
        try:
            answer = list(swarm)
            verification = _verify(Judge(session, query.logical_plan()), plain, _table(answer, schema), reports[-1])
        finally:
            swarm.close()
            plain.close()
            if reports:
                ended(replace(reports[-1], verified=verification))
        yield from answer

    def cancel() -> None:
        swarm.cancel()
        plain.cancel()

    return Run(schema, batches(), cancel)


def _verify(judge: Judge, plain: Run, answer: pa.Table, report: QueryReport) -> Verification:
    started_s = time.monotonic()
    try:
        expected = _table(list(plain), plain.schema)
    except QueryCancelled:
        raise
    except ApiaryError as error:
        reason = f"plain DataFusion raised {error.message!r}, the swarm answered {len(answer)} rows"
        raise _differs(Difference(reason=reason), report) from error
    verdict = judge.judge(expected, answer)
    if verdict.difference is not None:
        raise _differs(verdict.difference, report)
    return Verification(compared=verdict.compared, open=verdict.open, elapsed_s=time.monotonic() - started_s)


def _table(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Return the batches under their own names, types and metadata; what they know of NULLs depends on the way."""
    if not batches:
        return pa.Table.from_batches([], schema=schema)
    found = batches[0].schema
    fields = [field.with_nullable(wanted.nullable) for field, wanted in zip(found, schema, strict=True)]
    return pa.Table.from_arrays(pa.Table.from_batches(batches).columns, schema=pa.schema(fields, found.metadata))


def _differs(difference: Difference, report: QueryReport) -> AnswerDiffers:
    sql = report.sql or "a DataFrame"
    return AnswerDiffers(
        f"query {report.query_id}: the swarm's answer is not plain DataFusion's (expected), and was not handed over: "
        f"{difference}\nquery: {sql}\nThis is a defect of apiary_df, or of data that changed in between. To reproduce "
        "it, run the query again with keep=True, which leaves its plans and partials under the storage root; please "
        "report it with this message, the settings and what EXPLAIN VERBOSE says",
        query_id=report.query_id,
        sql=report.sql,
        difference=difference,
    )
