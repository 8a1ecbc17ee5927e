"""Sail in its local-cluster mode: a server in this process, its workers beside it, a Spark client in front.

The workers are threads of one process that speak with each other and with the driver over gRPC, as workers on several
machines do.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.engines.adapter import Setup
from benchmarks.engines.spark_client import SparkClient


class Sail(SparkClient):
    """Workers that stream shuffles to each other; its options are Sail's (``cluster.worker_task_slots=4``)."""

    def start(self, setup: Setup) -> None:
        """Start server and workers and connect to them."""
        workers = str(setup.workers)
        settings = {
            "mode": "local-cluster",
            "cluster.worker_initial_count": workers,
            "cluster.worker_max_count": workers,
            "execution.default_parallelism": workers,
            **self._shuffle(setup),
            **setup.options,
        }
        for name, value in settings.items():
            os.environ["SAIL_" + name.upper().replace(".", "__")] = value
        from pysail.spark import SparkConnectServer
        from pyspark.sql import SparkSession

        self._server = SparkConnectServer("127.0.0.1", 0)
        self._server.start(background=True)
        host, port = self._server.listening_address
        self._open(SparkSession.builder.remote(f"sc://{host}:{port}").getOrCreate(), setup.tables)

    def _shuffle(self, setup: Setup) -> dict[str, str]:  # noqa: ARG002 - the other kind needs it
        return {"cluster.shuffle_backend.type": "flight"}

    def close(self) -> None:
        """End the client and the server."""
        super().close()
        self._server.stop()


class SailOnStorage(Sail):
    """Workers that shuffle through files, as the swarm does."""

    def _shuffle(self, setup: Setup) -> dict[str, str]:
        folder = Path(setup.scratch).resolve() / "shuffle"
        folder.mkdir()
        return {"cluster.shuffle_backend.type": "storage", "cluster.shuffle_backend.storage.path": folder.as_uri()}
