"""Smaller queries and tables that show the same difference.

A step takes something away; it stays away if the judgement stays the same. What the step makes of the query need not be
sensible: a query that plain DataFusion refuses, or answers in several ways, does not show the difference any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import takewhile

from sqlglot import exp

from .lab import Lab, Setting
from .queries import Query
from .tables import Table

Shows = Callable[[Query], bool]

_CLAUSES = ("limit", "offset", "order", "having", "where", "distinct", "with_", "group")


def reduce(lab: Lab, setting: Setting, query: Query, shows: Shows, *, seconds: float) -> tuple[Setting, Query]:
    """Return a smaller query over smaller tables that still shows the difference.

    Args:
        lab: Where to try.
        setting: What the query runs over.
        query: The query.
        shows: Says whether a query shows the difference over the present tables.
        seconds: How long to try.
    """
    until_s = time.monotonic() + seconds
    query = _reduce_query(query, shows, until_s)
    setting = _reduce_tables(lab, setting, query, shows, until_s)
    lab.prepare(setting)
    return setting, _reduce_query(query, shows, until_s)


def _reduce_query(query: Query, shows: Shows, until_s: float) -> Query:
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller_queries(query):
            if time.monotonic() > until_s:
                return query
            if shows(candidate):
                query, smaller = candidate, True
                break
    return query


def _smaller_queries(query: Query) -> Iterator[Query]:
    for tree in _smaller_trees(query.tree):
        order = query.order if tree.args.get("order") else ()
        yield Query(tree=tree, order=tuple(takewhile(tree.named_selects.__contains__, order)))


def _smaller_trees(tree: exp.Query) -> Iterator[exp.Query]:
    """Yield trees with one thing less, large things first."""
    nodes = list(tree.walk())
    for number, node in enumerate(nodes):
        for change in _changes(node):
            copy = tree.copy()
            twin = list(copy.walk())[number]
            changed = change(twin)
            if changed is not None:
                yield changed if twin is copy else copy


def _changes(node: exp.Expr) -> Iterator[Callable[[exp.Expr], exp.Query | None]]:
    """Yield ways to make a node smaller in place; of the topmost node, what to take for the tree."""
    if isinstance(node, exp.SetOperation):
        yield lambda twin: _put(twin, twin.this)
        yield lambda twin: _put(twin, twin.expression)
    for clause in _CLAUSES:
        if node.args.get(clause):
            yield lambda twin, clause=clause: _without(twin, clause)  # type: ignore[misc]
    for clause in ("joins", "expressions"):
        items = node.args.get(clause)
        if isinstance(items, list) and len(items) > (0 if clause == "joins" else 1):
            for position in range(len(items)):
                yield lambda twin, clause=clause, position=position: _shorter(twin, clause, position)  # type: ignore[misc]
    if isinstance(node, exp.Condition) and not isinstance(node, (exp.Column, exp.Literal, exp.Null, exp.Boolean)):
        for position, child in enumerate(node.iter_expressions()):
            if isinstance(child, exp.Condition):
                yield lambda twin, position=position: _put(twin, list(twin.iter_expressions())[position])  # type: ignore[misc]


def _put(twin: exp.Expr, child: exp.Expr) -> exp.Query | None:
    if twin.parent is None:
        return child if isinstance(child, exp.Query) else None
    twin.replace(child)
    return exp.select()


def _without(twin: exp.Expr, clause: str) -> exp.Query:
    twin.set(clause, None)
    return twin if isinstance(twin, exp.Query) else exp.select()


def _shorter(twin: exp.Expr, clause: str, position: int) -> exp.Query:
    twin.set(clause, [item for index, item in enumerate(twin.args[clause]) if index != position])
    return twin if isinstance(twin, exp.Query) else exp.select()


def _reduce_tables(lab: Lab, setting: Setting, query: Query, shows: Shows, until_s: float) -> Setting:
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller_settings(setting):
            if time.monotonic() > until_s:
                return setting
            lab.prepare(candidate)
            if shows(query):
                setting, smaller = candidate, True
                break
    return setting


def _smaller_settings(setting: Setting) -> Iterator[Setting]:
    for position, table in enumerate(setting.tables):
        others = setting.tables[:position] + setting.tables[position + 1 :]
        yield replace(setting, tables=others)
        for smaller in _smaller_tables(table):
            yield replace(setting, tables=(*setting.tables[:position], smaller, *setting.tables[position + 1 :]))
    if setting.options:
        yield replace(setting, options={})
    for bees in (2, 1):
        if bees < setting.bees:
            yield replace(setting, bees=bees)


def _smaller_tables(table: Table) -> Iterator[Table]:
    for position, part in enumerate(table.parts):
        before, after = table.parts[:position], table.parts[position + 1 :]
        yield replace(table, parts=before + after)
        half = part.num_rows // 2
        if half:
            yield replace(table, parts=(*before, part.slice(0, half), *after))
            yield replace(table, parts=(*before, part.slice(half), *after))
