"""Spark in its local-cluster mode: a driver, a master, and a process for each executor, on this machine.

It needs a Java runtime (17 or later) on PATH or in JAVA_HOME, with the module jdk.incubator.vector: nothing that comes
from PyPI has that.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.engines.adapter import Setup
from benchmarks.engines.spark_client import SparkClient

EXECUTOR_MB = 2_048
"""Memory of each executor; with less, TPC-H of scale 1 spills."""


class Spark(SparkClient):
    """Executors of one core each; its options are Spark's (``spark.sql.adaptive.enabled=false``)."""

    def start(self, setup: Setup) -> None:
        """Start driver and executors."""
        import pyspark

        os.environ["SPARK_HOME"] = str(Path(pyspark.__file__).parent)
        os.environ["SPARK_WORKER_DIR"] = str(Path(setup.scratch).resolve())
        # Names of this machine that nobody resolves make it wait, or give up.
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
        os.environ["PYSPARK_PYTHON"] = sys.executable
        settings = {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.memory": f"{EXECUTOR_MB}m",
            "spark.executor.memory": f"{EXECUTOR_MB}m",
            "spark.local.dir": str(Path(setup.scratch).resolve()),
            "spark.sql.ansi.doubleQuotedIdentifiers": "true",
            "spark.sql.shuffle.partitions": str(setup.workers),
            "spark.ui.enabled": "false",
            **setup.options,
        }
        from pyspark.sql import SparkSession

        builder = SparkSession.builder.master(f"local-cluster[{setup.workers},1,{EXECUTOR_MB}]")
        for name, value in settings.items():
            builder = builder.config(name, value)
        self._open(builder.getOrCreate(), setup.tables)
