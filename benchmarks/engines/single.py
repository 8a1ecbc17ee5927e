"""DataFusion in one process, its settings as they come: what everything is measured against."""

from __future__ import annotations

from typing import Any

import datafusion
import pyarrow as pa

from apiary_df.tables import register_object_store_for
from benchmarks.engines.adapter import Setup


class Single:
    """A plain session; its options are DataFusion's (``datafusion.execution.batch_size=4096``)."""

    def start(self, setup: Setup) -> None:
        """Open a session."""
        config = datafusion.SessionConfig(dict(setup.options)).with_target_partitions(setup.workers)
        self._session = datafusion.SessionContext(config)
        for name, url in setup.tables.items():
            # Its own object store reads S3 as the swarm's cells are read, so that both send the same requests.
            register_object_store_for(self._session, url)
            self._session.register_parquet(name, url)

    def run(self, sql: str) -> pa.Table:
        """Run a query."""
        return self._session.sql(sql).to_arrow_table()

    def report(self) -> dict[str, Any] | None:
        """Tell nothing."""
        return None

    def close(self) -> None:
        """There is nothing to end."""
