"""Tests of the benchmarks' harness: that it measures, compares and shows; none looks at how fast anything is."""
