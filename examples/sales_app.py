"""A small analytics application with apiary_df inside: reports over sales, asked for by an asyncio program.

Run it: ``python examples/sales_app.py``. It makes its own data in a temporary folder, starts two node processes, and
stops them at the end.
"""

from __future__ import annotations

import asyncio
import datetime
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

import apiary_df
from apiary_df.errors import ApiaryError

SHOPS = ("Bonn", "Jena", "Kiel", "Ulm")
PRODUCTS = ("comb", "frame", "hive", "smoker")
TICK_S = 0.01


def generate_sales(folder: Path, months: int = 6, rows_a_month: int = 20_000) -> int:
    """Write one Parquet file a month, in Hive folders; return the cents sold, to check reports against."""
    dice = random.Random(7)
    total_cents = 0
    for month in range(1, months + 1):
        cents = [dice.randrange(100, 50_000) for _ in range(rows_a_month)]
        total_cents += sum(cents)
        table = pa.table(
            {
                "day": [datetime.date(2026, month, dice.randrange(1, 29)) for _ in range(rows_a_month)],
                "shop": dice.choices(SHOPS, k=rows_a_month),
                "product": dice.choices(PRODUCTS, k=rows_a_month),
                "cents": pa.array(cents, pa.int64()),
            }
        )
        target = folder / f"month={month}"
        target.mkdir(parents=True)
        pq.write_table(table, target / "sales.parquet")
    return total_cents


@dataclass(frozen=True, slots=True, kw_only=True)
class Revenue:
    """A line of a report: a name, and what was sold under it."""

    name: str
    euros: float


class SalesReports:
    """The reports that this application offers. Safe to use from several threads.

    Args:
        sales: Folder with the sales, one Hive folder a month.
        nodes: Node processes to start; with None, reports run in this process.
    """

    def __init__(self, sales: Path, nodes: int | None = 2) -> None:
        # Data of this size is not worth a round trip, and would be read here; a real application leaves small_bytes be.
        self._ctx = apiary_df.SessionContext(nodes=nodes, timeout_s=60, progress=False, small_bytes=0)
        # PARTITIONED BY is not needed: the folders say it, and a filter on the month skips the others.
        self._ctx.sql(f"CREATE EXTERNAL TABLE sales STORED AS CELLS LOCATION '{sales}'")

    def __enter__(self) -> SalesReports:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ctx.close()

    def by_shop(self) -> list[Revenue]:
        """Return the revenue of every shop, largest first."""
        return self._revenues("SELECT shop AS name, sum(cents) AS cents FROM sales GROUP BY shop ORDER BY cents DESC")

    def best_products(self, month: int, count: int = 2) -> list[Revenue]:
        """Return the products with the largest revenue in a month."""
        return self._revenues(
            "SELECT product AS name, sum(cents) AS cents FROM sales WHERE month = $month "
            f"GROUP BY product ORDER BY cents DESC LIMIT {count:d}",
            month=month,
        )

    def sold_cents(self) -> int:
        """Return everything that was sold, in cents."""
        rows = self._ctx.sql("SELECT sum(cents) AS cents FROM sales").to_pylist()
        return int(rows[0]["cents"])

    def cost_of_last(self) -> str:
        """Say what the newest report took."""
        report = self._ctx.last_query
        return "nothing yet" if report is None else f"{report.tasks} tasks on nodes, {report.elapsed_s:.2f} s"

    def _revenues(self, text: str, **parameters: int) -> list[Revenue]:
        rows = self._ctx.sql(text, param_values=parameters or None).to_pylist()
        return [Revenue(name=row["name"], euros=row["cents"] / 100) for row in rows]


async def serve(reports: SalesReports) -> int:
    """Ask for several reports at once while the event loop goes on with other things; return how often it could."""
    done = asyncio.Event()

    async def tick() -> int:
        ticks = 0
        while not done.is_set():
            await asyncio.sleep(TICK_S)
            ticks += 1
        return ticks

    ticking = asyncio.create_task(tick())
    shops, products = await asyncio.gather(
        asyncio.to_thread(reports.by_shop),
        asyncio.to_thread(reports.best_products, month=3),
    )
    done.set()
    print("revenue by shop:", ", ".join(f"{line.name} {line.euros:,.2f}" for line in shops))
    print("best in March:  ", ", ".join(f"{line.name} {line.euros:,.2f}" for line in products))
    return await ticking


def main() -> None:
    """Make data, start the application, print its reports."""
    with tempfile.TemporaryDirectory() as folder:
        sales = Path(folder) / "sales"
        total_cents = generate_sales(sales)
        start_s = time.perf_counter()
        try:
            with SalesReports(sales) as reports:
                print(f"two nodes are up after {time.perf_counter() - start_s:.1f} s")
                ticks = asyncio.run(serve(reports))
                print(f"the event loop ran {ticks} times while the reports were made")
                assert reports.sold_cents() == total_cents
                print(f"sold in all: {total_cents / 100:,.2f} ({reports.cost_of_last()})")
        except ApiaryError as error:
            raise SystemExit(f"the reports failed ({error.code}): {error.message}") from error


if __name__ == "__main__":
    main()
