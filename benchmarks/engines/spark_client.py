"""What engines have in common that a Spark session stands in front of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from benchmarks.engines.adapter import Engine


class SparkClient(Engine):
    """A session of Spark's, whatever runs its queries. Who starts it hands it to :meth:`_open`."""

    def _open(self, session: Any, tables: Mapping[str, str]) -> None:
        """Take a session over, and make the tables known to it."""
        self._session = session
        for name, url in tables.items():
            session.read.parquet(url).createOrReplaceTempView(name)

    def run(self, sql: str) -> pa.Table:
        """Run a query."""
        return self._session.sql(sql).toArrow()

    def close(self) -> None:
        """End the session, and what it has started."""
        self._session.stop()
