"""DataFusion in one process, its settings as they come: what everything is measured against."""

from __future__ import annotations

import datafusion
import pyarrow as pa

from apiary_df.tables import register_object_store_for
from benchmarks.engines.adapter import Engine, Setup


class Single(Engine):
    """A plain session; its options are DataFusion's (``datafusion.execution.batch_size=4096``)."""

    def start(self, setup: Setup) -> None:
        """Open a session and register the tables."""
        self._session = self._open(setup)
        for name, url in setup.tables.items():
            # Its own object store reads S3 as the swarm's cells are read, so that both send the same requests.
            register_object_store_for(self._session, url)
            self._session.register_parquet(name, url)

    def _open(self, setup: Setup) -> datafusion.SessionContext:
        config = datafusion.SessionConfig(dict(setup.options)).with_target_partitions(setup.workers)
        return datafusion.SessionContext(config)

    def run(self, sql: str) -> pa.Table:
        """Run a query."""
        return self._session.sql(sql).to_arrow_table()

    def close(self) -> None:
        """There is nothing to end."""
