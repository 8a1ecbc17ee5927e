"""Hostile bytes for everything that is decoded out of storage."""
