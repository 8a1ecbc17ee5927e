"""Measurements that are run by hand: ``python -m benchmarks.tpch --help``. No test depends on their figures."""
