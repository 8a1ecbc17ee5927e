"""The Star Schema Benchmark: its 13 queries, and a star of its five tables in any size.

The tables have the columns and the rules of O'Neil, O'Neil and Chen's definition (revision 3, 2009), with one
difference: cities and brands are drawn with weights, since evenly spread ones would leave the most selective queries
without a row where the tables are small. The tests compare the answers over small ones.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Rows of the tables.

    Attributes:
        lineorder: About four make an order.
        customer: Customers.
        supplier: Suppliers.
        part: Parts.
    """

    lineorder: int = 30_000
    customer: int = 900
    supplier: int = 300
    part: int = 2_000


FIRST_DAY, LAST_DAY = datetime.date(1992, 1, 1), datetime.date(1998, 12, 31)

REGIONS = {
    "AFRICA": ("ALGERIA", "ETHIOPIA", "KENYA", "MOROCCO", "MOZAMBIQUE"),
    "AMERICA": ("ARGENTINA", "BRAZIL", "CANADA", "PERU", "UNITED STATES"),
    "ASIA": ("CHINA", "INDIA", "INDONESIA", "JAPAN", "VIETNAM"),
    "EUROPE": ("FRANCE", "GERMANY", "ROMANIA", "RUSSIA", "UNITED KINGDOM"),
    "MIDDLE EAST": ("EGYPT", "IRAN", "IRAQ", "JORDAN", "SAUDI ARABIA"),
}
NATIONS = tuple((nation, region) for region, nations in REGIONS.items() for nation in nations)

FAVOURED = {"UNITED KINGDOM": 8.0, "UNITED STATES": 5.0, "CHINA": 3.0}
"""Nations that the queries ask for, and how much likelier they are than others."""

FAVOURED_CITIES = (1, 5)
"""Of each nation's ten cities, those that the queries ask for: as likely as the other eight together."""


def _places(rng: np.random.Generator, count: int) -> dict[str, list[str]]:
    weights = np.array([FAVOURED.get(nation, 1.0) for nation, _ in NATIONS])
    chosen = rng.choice(len(NATIONS), size=count, p=weights / weights.sum())
    city_weights = np.array([4.0 if city in FAVOURED_CITIES else 1.0 for city in range(10)])
    cities = rng.choice(10, size=count, p=city_weights / city_weights.sum())
    return {
        # A city is its nation's name, cut or filled to nine characters, and a digit.
        "city": [f"{NATIONS[n][0]:9.9}{city}" for n, city in zip(chosen, cities, strict=True)],
        "nation": [NATIONS[n][0] for n in chosen],
        "region": [NATIONS[n][1] for n in chosen],
        "phone": [
            f"{10 + n}-{rng.integers(100, 999)}-{rng.integers(100, 999)}-{rng.integers(1000, 9999)}" for n in chosen
        ],
    }


def _customers(rng: np.random.Generator, count: int) -> pa.Table:
    keys = range(1, count + 1)
    places = _places(rng, count)
    segments = ("AUTOMOBILE", "BUILDING", "FURNITURE", "HOUSEHOLD", "MACHINERY")
    return pa.table(
        {
            "c_custkey": pa.array(keys, pa.int32()),
            "c_name": [f"Customer#{key:09}" for key in keys],
            "c_address": [f"Street {key * 7919 % 10_007}" for key in keys],
            **{f"c_{name}": values for name, values in places.items()},
            "c_mktsegment": [segments[i] for i in rng.integers(0, len(segments), count)],
        }
    )


def _suppliers(rng: np.random.Generator, count: int) -> pa.Table:
    keys = range(1, count + 1)
    return pa.table(
        {
            "s_suppkey": pa.array(keys, pa.int32()),
            "s_name": [f"Supplier#{key:09}" for key in keys],
            "s_address": [f"Quay {key * 6101 % 10_007}" for key in keys],
            **{f"s_{name}": values for name, values in _places(rng, count).items()},
        }
    )


def _parts(rng: np.random.Generator, count: int) -> pa.Table:
    keys = range(1, count + 1)
    makers, categories = rng.integers(1, 6, count), rng.integers(1, 6, count)
    brands = np.where(rng.random(count) < 0.5, rng.integers(20, 30, count), rng.integers(1, 41, count))
    colours = ("almond", "azure", "beige", "blue", "coral", "ivory", "khaki", "linen", "peach", "plum", "rose", "teal")
    first, second = rng.integers(0, len(colours), count), rng.integers(0, len(colours), count)
    kinds = ("ECONOMY BRUSHED TIN", "LARGE PLATED STEEL", "PROMO BURNISHED COPPER", "SMALL POLISHED BRASS")
    return pa.table(
        {
            "p_partkey": pa.array(keys, pa.int32()),
            "p_name": [f"{colours[a]} {colours[b]}" for a, b in zip(first, second, strict=True)],
            "p_mfgr": [f"MFGR#{m}" for m in makers],
            "p_category": [f"MFGR#{m}{c}" for m, c in zip(makers, categories, strict=True)],
            "p_brand1": [f"MFGR#{m}{c}{b}" for m, c, b in zip(makers, categories, brands, strict=True)],
            "p_color": [colours[a] for a in first],
            "p_type": [kinds[i] for i in rng.integers(0, len(kinds), count)],
            "p_size": pa.array(rng.integers(1, 51, count), pa.int32()),
            "p_container": [("SM BOX", "MED BAG", "LG CASE", "JUMBO JAR")[i] for i in rng.integers(0, 4, count)],
        }
    )


def _days() -> list[datetime.date]:
    return [FIRST_DAY + datetime.timedelta(days=i) for i in range((LAST_DAY - FIRST_DAY).days + 1)]


def _key(day: datetime.date) -> int:
    return day.year * 10_000 + day.month * 100 + day.day


def _dates() -> pa.Table:
    days = _days()
    seasons = ("Winter", "Spring", "Summer", "Fall", "Christmas")
    return pa.table(
        {
            "d_datekey": pa.array(map(_key, days), pa.int32()),
            "d_date": [day.strftime("%B %d, %Y") for day in days],
            "d_dayofweek": [day.strftime("%A") for day in days],
            "d_month": [day.strftime("%B") for day in days],
            "d_year": pa.array([day.year for day in days], pa.int32()),
            "d_yearmonthnum": pa.array([day.year * 100 + day.month for day in days], pa.int32()),
            "d_yearmonth": [day.strftime("%b%Y") for day in days],
            "d_daynuminweek": pa.array([day.isoweekday() for day in days], pa.int32()),
            "d_daynuminmonth": pa.array([day.day for day in days], pa.int32()),
            "d_daynuminyear": pa.array([day.timetuple().tm_yday for day in days], pa.int32()),
            "d_monthnuminyear": pa.array([day.month for day in days], pa.int32()),
            "d_weeknuminyear": pa.array([(day.timetuple().tm_yday - 1) // 7 + 1 for day in days], pa.int32()),
            "d_sellingseason": [seasons[4 if day.month == 12 else (day.month % 12) // 3] for day in days],
            "d_lastdayinmonthfl": [(day + datetime.timedelta(days=1)).day == 1 for day in days],
            "d_holidayfl": [(day.month, day.day) in {(1, 1), (12, 25)} for day in days],
            "d_weekdayfl": [day.isoweekday() <= 5 for day in days],
        }
    )


def _lineorder(rng: np.random.Generator, sizes: Sizes) -> pa.Table:
    rows = sizes.lineorder
    orders = np.sort(rng.integers(1, rows // 4, rows))
    line = np.arange(rows) - np.searchsorted(orders, orders) + 1
    keys = np.array([_key(day) for day in _days()])
    ordered = rng.integers(0, len(keys), rows // 4)[orders - 1]
    quantity, discount = rng.integers(1, 51, rows), rng.integers(0, 11, rows)
    price = rng.integers(90_000, 200_000, rows) * quantity // 10
    priorities = ("1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECI", "5-LOW")
    modes = ("AIR", "FOB", "MAIL", "RAIL", "REG AIR", "SHIP", "TRUCK")
    numbers = {
        "lo_orderkey": orders,
        "lo_linenumber": line,
        "lo_custkey": rng.integers(1, sizes.customer + 1, rows // 4)[orders - 1],
        "lo_partkey": rng.integers(1, sizes.part + 1, rows),
        "lo_suppkey": rng.integers(1, sizes.supplier + 1, rows),
        "lo_orderdate": keys[ordered],
    }
    amounts = {
        "lo_quantity": quantity,
        "lo_extendedprice": price,
        "lo_ordtotalprice": np.bincount(orders, weights=price)[orders].astype(np.int64),
        "lo_discount": discount,
        "lo_revenue": price * (100 - discount) // 100,
        "lo_supplycost": price * 6 // 10 // quantity,
        "lo_tax": rng.integers(0, 9, rows),
        "lo_commitdate": keys[np.minimum(ordered + rng.integers(30, 91, rows), len(keys) - 1)],
    }
    return pa.table(
        {
            **{name: pa.array(values, pa.int32()) for name, values in numbers.items()},
            "lo_orderpriority": [priorities[i] for i in orders % len(priorities)],
            "lo_shippriority": ["0"] * rows,
            **{name: pa.array(values, pa.int32()) for name, values in amounts.items()},
            "lo_shipmode": [modes[i] for i in rng.integers(0, len(modes), rows)],
        }
    )


def make_star(sizes: Sizes) -> Iterator[tuple[str, pa.Table]]:
    """Yield the five tables by name, the same ones each time."""
    rng = np.random.default_rng(13)
    yield "customer", _customers(rng, sizes.customer)
    yield "supplier", _suppliers(rng, sizes.supplier)
    yield "part", _parts(rng, sizes.part)
    yield "dates", _dates()
    yield "lineorder", _lineorder(rng, sizes)


def _discounts(condition: str) -> str:
    return f"""
        SELECT sum(lo_extendedprice * lo_discount) AS revenue
        FROM lineorder, dates
        WHERE lo_orderdate = d_datekey AND {condition}
    """


def _brands(condition: str) -> str:
    return f"""
        SELECT sum(lo_revenue) AS revenue, d_year, p_brand1
        FROM lineorder, dates, part, supplier
        WHERE lo_orderdate = d_datekey AND lo_partkey = p_partkey AND lo_suppkey = s_suppkey AND {condition}
        GROUP BY d_year, p_brand1
        ORDER BY d_year, p_brand1
    """


def _trade(level: str, condition: str) -> str:
    return f"""
        SELECT c_{level}, s_{level}, d_year, sum(lo_revenue) AS revenue
        FROM customer, lineorder, supplier, dates
        WHERE lo_custkey = c_custkey AND lo_suppkey = s_suppkey AND lo_orderdate = d_datekey AND {condition}
        GROUP BY c_{level}, s_{level}, d_year
        ORDER BY d_year ASC, revenue DESC
    """


def _profit(keys: str, condition: str) -> str:
    return f"""
        SELECT {keys}, sum(lo_revenue - lo_supplycost) AS profit
        FROM dates, customer, supplier, part, lineorder
        WHERE lo_custkey = c_custkey AND lo_suppkey = s_suppkey AND lo_partkey = p_partkey
            AND lo_orderdate = d_datekey AND {condition}
        GROUP BY {keys}
        ORDER BY {keys}
    """


_BRITISH = "{0}_city IN ('UNITED KI1', 'UNITED KI5')"
_BOTH_BRITISH = f"{_BRITISH.format('c')} AND {_BRITISH.format('s')}"
_TWO_MAKERS = "p_mfgr IN ('MFGR#1', 'MFGR#2')"

QUERIES = {
    "q1.1": _discounts("d_year = 1993 AND lo_discount BETWEEN 1 AND 3 AND lo_quantity < 25"),
    "q1.2": _discounts("d_yearmonthnum = 199401 AND lo_discount BETWEEN 4 AND 6 AND lo_quantity BETWEEN 26 AND 35"),
    "q1.3": _discounts(
        "d_weeknuminyear = 6 AND d_year = 1994 AND lo_discount BETWEEN 5 AND 7 AND lo_quantity BETWEEN 26 AND 35"
    ),
    "q2.1": _brands("p_category = 'MFGR#12' AND s_region = 'AMERICA'"),
    "q2.2": _brands("p_brand1 BETWEEN 'MFGR#2221' AND 'MFGR#2228' AND s_region = 'ASIA'"),
    "q2.3": _brands("p_brand1 = 'MFGR#2221' AND s_region = 'EUROPE'"),
    "q3.1": _trade("nation", "c_region = 'ASIA' AND s_region = 'ASIA' AND d_year BETWEEN 1992 AND 1997"),
    "q3.2": _trade(
        "city", "c_nation = 'UNITED STATES' AND s_nation = 'UNITED STATES' AND d_year BETWEEN 1992 AND 1997"
    ),
    "q3.3": _trade("city", f"{_BOTH_BRITISH} AND d_year BETWEEN 1992 AND 1997"),
    "q3.4": _trade("city", f"{_BOTH_BRITISH} AND d_yearmonth = 'Dec1997'"),
    "q4.1": _profit("d_year, c_nation", f"c_region = 'AMERICA' AND s_region = 'AMERICA' AND {_TWO_MAKERS}"),
    "q4.2": _profit(
        "d_year, s_nation, p_category",
        f"c_region = 'AMERICA' AND s_region = 'AMERICA' AND d_year IN (1997, 1998) AND {_TWO_MAKERS}",
    ),
    "q4.3": _profit(
        "d_year, s_city, p_brand1",
        "c_region = 'AMERICA' AND s_nation = 'UNITED STATES' AND d_year IN (1997, 1998) AND p_category = 'MFGR#14'",
    ),
}
"""Name to SQL."""
