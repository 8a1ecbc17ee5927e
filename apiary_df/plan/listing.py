"""Logical scans of file tables: putting a list of files into one, and reading declared columns out of DDL.

What belongs here turns plan bytes into plan bytes. DataFusion's own API makes a file table of one URL only,
but its logical scan holds any number of them; so a scan planned for one file becomes a scan of exactly the
listed files. Reading files, inferring schemas and talking to a session belong to :mod:`apiary_df.tables`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apiary_df.errors import PlanError
from apiary_df.plan.codec import parse
from apiary_df.plan.wire import CLASSES


def with_paths(plan: bytes, paths: Sequence[str]) -> bytes:
    """Return a logical file scan over exactly these files.

    Args:
        plan: An encoded logical plan that is a single, unprojected file scan.
        paths: URLs of the files, percent-encoded, in scan order; at least one.

    Returns:
        The same scan (schema, format and options kept) over ``paths``, with no file-name extension to match.

    Raises:
        PlanError: If ``plan`` is not such a scan, or there are no paths.
    """
    if not paths:
        raise PlanError("cannot make a file scan without files")
    message = _listing(plan)
    scan = message.listing_scan
    if scan.table_partition_cols:
        # DataFusion takes partition values from what follows the URL in a file's path. After a file's own
        # URL nothing follows, and planning a query on such a scan panics.
        raise PlanError("a scan of listed files cannot take partition columns from their paths")
    scan.paths[:] = list(paths)
    scan.file_extension = ""
    return _encoded(message)


def paths_of(plan: bytes) -> tuple[str, ...]:
    """Return the URLs that a logical file scan reads.

    Raises:
        PlanError: If ``plan`` is not a single file scan.
    """
    return tuple(_listing(plan).listing_scan.paths)


def with_declared_columns(plan: bytes, ddl: bytes) -> bytes | None:
    """Return a file scan whose schema is the column list of a ``CREATE EXTERNAL TABLE`` plan.

    DataFusion tells a table factory only the names of declared columns. Their types are in the statement's
    plan, and a scan that carries them can be decoded and asked for its schema.

    Args:
        plan: An encoded logical plan that is a single file scan; its schema is replaced.
        ddl: The encoded logical plan of ``CREATE EXTERNAL TABLE ...`` or of ``EXPLAIN CREATE EXTERNAL TABLE
            ...``.

    Returns:
        The encoded scan; None if the statement declares no columns or is another statement.

    Raises:
        PlanError: If either argument cannot be decoded, or ``plan`` is not a single file scan.
    """
    statement = parse("LogicalPlan", ddl)
    while statement.HasField("explain"):
        statement = statement.explain.input
    if not statement.HasField("create_external_table"):
        return None
    columns = statement.create_external_table.schema.columns
    if not columns:
        return None
    message = _listing(plan)
    schema = CLASSES["Schema"](columns=[column.field for column in columns])
    message.listing_scan.schema = schema.SerializeToString(deterministic=True)
    return _encoded(message)


def _listing(plan: bytes) -> Any:
    message = parse("LogicalPlan", plan)
    if not message.HasField("listing_scan"):
        raise PlanError("expected the logical plan of a single file scan; this plan is of another kind")
    return message


def _encoded(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString(deterministic=True)
    return encoded
