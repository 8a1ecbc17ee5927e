"""DuckDB: what one machine can do."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from benchmarks.engines.adapter import Engine, Setup


class Duck(Engine):
    """A connection in memory, with a view over each table's files; its options are DuckDB's."""

    def start(self, setup: Setup) -> None:
        """Open a connection."""
        self._connection = duckdb.connect(config={"threads": setup.workers, **setup.options})
        for name, url in setup.tables.items():
            if url.startswith("s3://"):
                raise NotImplementedError("DuckDB reads S3 by an extension that does not come from PyPI")
            files = f"{url}*.parquet" if url.endswith("/") else url
            self._connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{files}')")

    def run(self, sql: str) -> pa.Table:
        """Run a query."""
        return self._connection.execute(sql).to_arrow_table()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
