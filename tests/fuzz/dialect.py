"""DataFusion's SQL as a dialect of sqlglot, for writing trees down; DuckDB's comes with sqlglot."""

from __future__ import annotations

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect


class DataFusion(Dialect):
    """What DataFusion's own dialect makes of a tree."""

    NULL_ORDERING = "nulls_are_large"
    TYPED_DIVISION = True


def to_sql(tree: exp.Expr) -> str:
    """Write a tree as DataFusion reads it."""
    return tree.sql(dialect=DataFusion)


def to_duckdb(tree: exp.Expr) -> str:
    """Write a tree as DuckDB reads it."""
    return tree.sql(dialect="duckdb")
