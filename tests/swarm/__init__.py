"""Tests of whole queries on real nodes."""
