"""Which file of a query is damaged, when DataFusion cannot plan it and does not say.

DataFusion reads the footers of a table's files while it plans, and its error names no file. What belongs here looks for
the file afterwards; files that are checked when a table is made are :mod:`apiary_df.tables.schemas`'s.
"""

from __future__ import annotations

from collections.abc import Iterator

from datafusion import SessionContext
from datafusion.plan import LogicalPlan

from apiary_df.errors import PlanError, TableError
from apiary_df.footers import read_row_groups
from apiary_df.objects import list_objects, parse_location
from apiary_df.plan import listing
from apiary_df.store_options import StoreOptions

PARQUET_EXTENSION = ".parquet"


def damaged_file(ctx: SessionContext, plan: LogicalPlan, options: StoreOptions | None) -> TableError | None:
    """Return what is wrong with the first Parquet file that a query cannot read; None if there is none.

    Args:
        ctx: The session whose query it is.
        plan: The query.
        options: How to reach the files' stores.

    Raises:
        StorageError: If a store cannot be asked.
    """
    try:
        for place in _scanned(ctx, plan):
            for found in list_objects(parse_location(place), options):
                if found.location.key.endswith(PARQUET_EXTENSION):
                    read_row_groups(found.location.url, found.size_bytes, options)
    except TableError as error:
        return error
    return None


def _scanned(ctx: SessionContext, plan: LogicalPlan) -> Iterator[str]:
    """Yield the URLs of files and folders that a query scans; scans of what are no files are passed over."""
    inputs = plan.inputs()
    for child in inputs:
        yield from _scanned(ctx, child)
    if inputs:
        return
    try:
        yield from listing.paths_of(plan.to_bytes(ctx))
    except PlanError:
        return
    except Exception:  # noqa: BLE001 - DataFusion raises bare Exception for leaves that it cannot encode
        return
