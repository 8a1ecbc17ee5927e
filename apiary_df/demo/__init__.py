"""What `apiary demo` and the benchmarks run: the 22 TPC-H queries and the data generator.

Here belong the query texts (the only copy) and what makes data for them. How they are run, timed and shown
does not: that is the command line's and the benchmarks' part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

TPCH_TABLES: tuple[str, ...] = (
    "customer",
    "lineitem",
    "nation",
    "orders",
    "part",
    "partsupp",
    "region",
    "supplier",
)
"""The eight tables of TPC-H; each is a Parquet file, or a folder of Parquet files, of this name."""

TPCH_ORDER_COLUMNS: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        1: ("l_returnflag", "l_linestatus"),
        2: ("s_acctbal", "n_name", "s_name", "p_partkey"),
        3: ("revenue", "o_orderdate"),
        4: ("o_orderpriority",),
        5: ("revenue",),
        6: (),
        7: ("supp_nation", "cust_nation", "l_year"),
        8: ("o_year",),
        9: ("nation", "o_year"),
        10: ("revenue",),
        11: ("value",),
        12: ("l_shipmode",),
        13: ("custdist", "c_count"),
        14: (),
        15: ("s_suppkey",),
        16: ("supplier_cnt", "p_brand", "p_type", "p_size"),
        17: (),
        18: ("o_totalprice", "o_orderdate"),
        19: (),
        20: ("s_name",),
        21: ("numwait", "s_name"),
        22: ("cntrycode",),
    }
)
"""Query number to the output columns of its ORDER BY; rows that agree in all of them may swap."""

_QUERY_FILE = re.compile(r"q(\d\d)\.sql")


def tpch_queries() -> dict[int, str]:
    """Return the 22 TPC-H queries with the specification's validation parameters.

    Each is one SELECT statement in DataFusion's dialect without semicolon over :data:`TPCH_TABLES`: section
    2.4 of the TPC-H specification, revision 3, with Q15's view written as a common table expression.

    Returns:
        Query number, 1 to 22, to its text; in this order.
    """
    found: dict[int, str] = {}
    for entry in files(__name__).joinpath("queries").iterdir():
        name = _QUERY_FILE.fullmatch(entry.name)
        if name is not None:
            found[int(name.group(1))] = entry.read_text(encoding="utf-8")
    return dict(sorted(found.items()))
