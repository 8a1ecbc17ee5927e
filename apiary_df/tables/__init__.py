"""Tables over explicit lists of cells, for any DataFusion session.

What belongs here: finding the objects of a table, checking that they make one, and scanning them through DataFusion.
Which node reads which cell is decided elsewhere, from the physical plan.
"""

from __future__ import annotations

from apiary_df.objects import register_object_store_for
from apiary_df.tables.catalog import CellSchemaProvider, CellsTableFactory, install
from apiary_df.tables.cells import CellTable, CsvOptions
from apiary_df.tables.scan import register, to_dataframe

__all__ = [
    "CellSchemaProvider",
    "CellTable",
    "CellsTableFactory",
    "CsvOptions",
    "install",
    "register",
    "register_object_store_for",
    "to_dataframe",
]
