"""Measurements that are run by hand: ``python -m benchmarks --help``. No test depends on their figures."""
