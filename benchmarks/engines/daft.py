"""Daft: on Ray on this machine, and by its native runner in one process."""

from __future__ import annotations

import re

import pyarrow as pa

from benchmarks.engines.adapter import Engine, Setup

_SUBSTRING = re.compile(r"substring\((\w+) FROM (\d+) FOR (\d+)\)", re.IGNORECASE)
"""The way of the SQL standard to write it, which Daft does not read."""


class Daft(Engine):
    """The native runner. It takes no options."""

    def start(self, setup: Setup) -> None:
        """Choose the runner and open the tables."""
        import daft

        self._choose_runner(setup)
        self._sql = daft.sql
        self._tables = {
            name: daft.read_parquet(f"{url}*.parquet" if url.endswith("/") else url)
            for name, url in setup.tables.items()
        }

    def _choose_runner(self, setup: Setup) -> None:  # noqa: ARG002 - the other kind needs it
        import daft

        daft.set_runner_native()

    def run(self, sql: str) -> pa.Table:
        """Run a query."""
        return self._sql(_SUBSTRING.sub(r"substring(\1, \2, \3)", sql), **self._tables).to_arrow()

    def close(self) -> None:
        """There is nothing to end."""


class DaftOnRay(Daft):
    """Ray with as many cores as there are workers, started for this."""

    def _choose_runner(self, setup: Setup) -> None:
        import daft
        import ray

        ray.init(num_cpus=setup.workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        daft.set_runner_ray()

    def close(self) -> None:
        """End Ray."""
        import ray

        ray.shutdown()
