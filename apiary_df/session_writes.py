"""Statements of a session that write: which way each goes, and the rows that DataFusion's own tables are fed with.

What belongs here builds statements and runs. Files are staged and published by :mod:`apiary_df.publish`; where a query
runs is decided in :mod:`apiary_df.session_swarm`.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import datafusion
import pyarrow as pa
from datafusion.plan import LogicalPlan

from apiary_df.config import Settings
from apiary_df.dataframe import ResultStream
from apiary_df.errors import ApiaryError, SqlError
from apiary_df.objects import register_object_store_for
from apiary_df.plan.sinks import find_sink, target_of
from apiary_df.planning import INSERTING_PLAN, WRITING_PLANS, SwarmPlanner
from apiary_df.protocol.arrow import conform_result
from apiary_df.publish import Write
from apiary_df.query import new_query_id
from apiary_df.runs import Run, local_write
from apiary_df.statements import reading_from
from apiary_df.store_options import StoreOptions
from apiary_df.worker.bee import execution_error

logger = logging.getLogger("apiary_df")

CREATING_PLAN = "CreateMemoryTable:"
"""What the text of a CREATE TABLE AS statement's logical plan begins with."""

Start = Callable[[datafusion.DataFrame], "ResultStream | None"]
"""Starts a query if it is one for the swarm; None if it is not."""


def writes(df: datafusion.DataFrame) -> bool:
    """Whether a statement writes: files, or rows into a table."""
    return df.logical_plan().display().startswith(WRITING_PLANS)


def forget_inserted(df: datafusion.DataFrame) -> None:
    """Let a session that has inserted into a table of files list that table's files anew."""
    if df.logical_plan().display().startswith(INSERTING_PLAN):
        # DataFusion forgets the files of a table whenever it plans an INSERT into it. This one was planned before.
        try:
            df.df.execution_plan()
        except Exception as error:  # noqa: BLE001 - DataFusion raises bare Exception; the rows are written all the same
            logger.warning(
                "this session may not see what it has just inserted, until the table is registered anew: %s", error
            )


def staged_here(
    session: datafusion.SessionContext,
    planner: SwarmPlanner,
    logical: LogicalPlan,
    settings: Settings,
    options: StoreOptions | None,
    *,
    single_file: bool,
    is_users_own: Callable[[str], bool],
) -> Callable[[threading.Event], Iterator[pa.RecordBatch]] | None:
    """Return what runs a statement that writes files in this process; None if plain DataFusion is to run it.

    Args:
        session: The session.
        planner: Its planner.
        logical: The statement.
        settings: Settings.
        options: How the target is reached.
        single_file: Write one file, whatever the path looks like.
        is_users_own: Whether a URL lies in an object store that the user has given to the session.

    Raises:
        ConfigError: If files cannot be written there.
        SqlError: If DataFusion cannot plan the statement.
    """
    tree = planner.plan_write(logical, os.cpu_count() or 1, single_file=single_file)
    sink = None if tree is None else find_sink(tree)
    if tree is None or sink is None:
        return None
    target = target_of(sink)
    if is_users_own(target.url):
        # Nothing but DataFusion in this process can reach it.
        return None
    register_object_store_for(session, target.url, options)
    write = Write(
        target,
        new_query_id(),
        f"process-{os.getpid()}",
        options=options,
        settings=settings,
        root=None,
    )
    return functools.partial(local_write, session, tree, write, options)


def bound_to(
    session: datafusion.SessionContext, df: datafusion.DataFrame, statement: Callable[[str], str]
) -> tuple[datafusion.DataFrame, str]:
    """Return a statement over a DataFrame's rows, bound but not run, and its text.

    Args:
        session: The session.
        df: The rows.
        statement: Makes the text, given the name under which the rows are to be read.

    Raises:
        SqlError: If it does not bind.
    """
    name = _new_name()
    text = statement(name)
    try:
        datafusion.SessionContext.register_view(session, name, df)
        try:
            return datafusion.SessionContext.sql(session, text), text
        finally:
            session.deregister_table(name)
    except Exception as error:
        raise SqlError(f"{error}; in: {text}", sql=text) from error


def rows_fed(
    session: datafusion.SessionContext, planner: SwarmPlanner, df: datafusion.DataFrame
) -> datafusion.DataFrame | None:
    """Return the query of a statement that only this process can carry out; None if it is no such one."""
    logical = df.logical_plan()
    if not logical.display().startswith(CREATING_PLAN) and (
        not writes(df) or planner.plan_write(logical, os.cpu_count() or 1) is not None
    ):
        return None
    (query,) = logical.inputs()
    return session.create_dataframe_from_logical_plan(query)


def fed_run(
    session: datafusion.SessionContext,
    sql: str | None,
    df: datafusion.DataFrame,
    start: Start,
    done: Callable[[], None],
) -> Run | None:
    """Return a run of a statement that puts a query's rows where only this process can; None if it is no such one.

    The query runs on the swarm; then DataFusion carries out the same statement over the result: an INSERT into a table
    in memory, a COPY to a format whose writer cannot be sent.

    Args:
        session: The session.
        sql: The statement; None if it is not known.
        df: The statement, bound.
        start: Starts its query.
        done: Told at the end.
    """
    logical = df.logical_plan()
    if sql is None:
        return None
    name = _new_name()
    statement = reading_from(sql, name)
    if statement is None:
        return None
    (query,) = logical.inputs()
    stream = start(session.create_dataframe_from_logical_plan(query))
    if stream is None:
        return None

    def batches() -> Generator[pa.RecordBatch, None, None]:
        with _as_table(session, name, _table_of(stream)):
            try:
                yield from datafusion.SessionContext.sql(session, statement).collect()
            except ApiaryError:
                raise
            except Exception as error:
                raise execution_error(error) from error
            finally:
                done()

    return Run(df.schema(), batches(), stream.cancel)


@contextmanager
def created_from_rows(session: datafusion.SessionContext, sql: str, start: Start) -> Iterator[str]:
    """Run the query of a CREATE TABLE AS on the swarm, and give the same statement over its rows; or the statement.

    DataFusion carries out what is given: it knows about names, IF NOT EXISTS, OR REPLACE and lists of columns. What it
    refuses, or has nothing to do for, is given as it was written.
    """
    stream: ResultStream | None = None
    name = _new_name()
    statement = reading_from(sql, name)
    query = None if statement is None else _query_of_new_table(session, sql)
    if query is not None:
        stream = start(session.create_dataframe_from_logical_plan(query))
    if stream is None or statement is None:
        yield sql
        return
    with _as_table(session, name, _table_of(stream)):
        yield statement


def _query_of_new_table(session: datafusion.SessionContext, sql: str) -> LogicalPlan | None:
    """Return the query of a CREATE TABLE AS that DataFusion would run now; None if it would not."""
    try:
        (create,) = datafusion.SessionContext.sql(session, f"EXPLAIN {sql}").logical_plan().inputs()
        variant = create.to_variant()
        if type(variant).__name__ != "CreateMemoryTable":
            return None
        if session.table_exist(variant.name()) and not variant.or_replace():
            return None
        (query,) = create.inputs()
    except Exception:  # noqa: BLE001 - DataFusion is about to say so itself, of the statement as it was written
        return None
    return query


def _table_of(stream: ResultStream) -> pa.Table:
    try:
        return pa.Table.from_batches([conform_result(batch, stream.schema) for batch in stream], schema=stream.schema)
    finally:
        stream.close()


@contextmanager
def _as_table(session: datafusion.SessionContext, name: str, table: pa.Table) -> Iterator[None]:
    datafusion.SessionContext.from_arrow(session, table, name)
    try:
        yield
    finally:
        session.deregister_table(name)


def _new_name() -> str:
    return f"apiary_{secrets.token_hex(8)}"
