"""What is in scope: relations with their fields, and how many rows they may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import exp

from .expressions import Field
from .tables import Kind

MOST_ROWS = 20_000
"""Joins that may have more rows than this are not drawn: a query is to take milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A column of a query's result.

    Attributes:
        name: Its name.
        kind: What it is; None if no other query may use it (a list, a float that depends on the order of rows).
        exact: Whether sums of it are exact.
    """

    name: str
    kind: Kind | None
    exact: bool = True

    def column(self) -> exp.Column:
        """Return a reference to it, by its name alone."""
        return exp.column(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A query without ORDER BY and LIMIT.

    Attributes:
        tree: Its SQL.
        outputs: Its columns.
        rows: At most so many rows, more or less.
    """

    tree: exp.Query
    outputs: tuple[Output, ...]
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """Something that stands in a FROM clause.

    Attributes:
        tree: Its SQL, alias and all.
        fields: Its columns.
        rows: At most so many rows, more or less.
    """

    tree: exp.Expr
    fields: tuple[Field, ...]
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A FROM clause: a first relation, joins, and what is in scope above them."""

    first: exp.Expr
    joins: tuple[exp.Join, ...]
    fields: tuple[Field, ...]
    rows: int

    def select(self, items: Sequence[exp.Expr]) -> exp.Select:
        """Return a SELECT of these items from it."""
        tree = exp.select(*items, copy=False).from_(self.first, copy=False)
        for join in self.joins:
            tree = tree.join(join, copy=False)
        return tree


def fields_of(outputs: Sequence[Output], alias: str) -> tuple[Field, ...]:
    """Return what a query's result has to offer under an alias."""
    return tuple(
        Field(name=output.name, relation=alias, kind=output.kind, exact=output.exact)
        for output in outputs
        if output.kind is not None
    )
