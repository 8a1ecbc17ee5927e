"""Random queries over given tables, as sqlglot trees.

A query is drawn with what its answer depends on: everything that would leave the choice of rows or their order to the
engine (LIMIT without an order of all columns, ``first_value`` without one, ties) is left out, so that two right answers
are always equal as multisets, and in the order of :attr:`Query.order`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from sqlglot import exp

from .calls import Calls, Drawn, ordered
from .expressions import Expressions, Field, integer, paren
from .scopes import MOST_ROWS, Body, Joined, Output, Relation, fields_of
from .tables import KINDS, Kind, Table

EXPRESSION_DEPTH = 2
QUERY_DEPTH = 2

_EQUI_SELECTIVITY = 4
"""An equality of two columns is taken to keep one row pair in so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A whole query.

    Attributes:
        tree: Its SQL.
        order: Names of the columns that it orders by, the first first; empty if it has no order.
    """

    tree: exp.Query
    order: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Partitioned:
    """A query, and three others by a predicate, whose answers together make up its answer.

    Attributes:
        whole: The query.
        parts: The same where a predicate is true, false, and NULL.
        combine: SQL over a table ``parts`` with all their rows that gives the whole; None: the rows themselves do.
    """

    whole: Query
    parts: tuple[Query, Query, Query]
    combine: str | None = None


class Queries:
    """Draws queries over tables.

    Args:
        random: The source of choices.
        tables: What there is to read.
        common: Only what DataFusion and DuckDB mean alike.
    """

    def __init__(self, random: Random, tables: Sequence[Table], *, common: bool = False) -> None:
        self.random = random
        self.tables = tables
        self.common = common
        self.expressions = Expressions(random, common=common)
        self.calls = Calls(random, self.expressions, common=common)
        self._aliases = 0
        self._ctes: list[tuple[str, Body]] = []

    # -- whole queries ------------------------------------------------------------------------------------------------

    def query(self) -> Query:
        """Draw a query."""
        self._ctes = []
        if self.random.random() < 0.2:
            for _ in range(self.random.choice((1, 1, 2))):
                self._ctes.append((f"w{len(self._ctes)}", self._body(QUERY_DEPTH - 1)))
        body = self._body(QUERY_DEPTH)
        tree, order = self._finished(body)
        for name, cte in self._ctes:
            tree = tree.with_(name, as_=cte.tree, copy=False)
        return Query(tree=tree, order=order)

    def _finished(self, body: Body) -> tuple[exp.Query, tuple[str, ...]]:
        """Put an order on top, or none; with an order of all columns, now and then a limit."""
        sortable = [output for output in body.outputs if output.kind is not None and output.exact]
        if self.random.random() < 0.5 or not sortable:
            return body.tree, ()
        if len(sortable) < len(body.outputs) or self.random.random() < 0.4:
            chosen = self.random.sample(sortable, self.random.randint(1, len(sortable)))
            return self._order_by(body.tree, chosen), tuple(output.name for output in chosen)
        chosen = self.random.sample(sortable, len(sortable))
        return self._limited(self._order_by(body.tree, chosen)), tuple(output.name for output in chosen)

    def _order_by(self, tree: exp.Query, outputs: Sequence[Output]) -> exp.Query:
        return tree.order_by(*(ordered(self.random, output.column()) for output in outputs), copy=False)

    def _limited(self, tree: exp.Query) -> exp.Query:
        if self.random.random() < 0.6:
            tree = tree.limit(self.random.choice((0, 1, 3, 5, 10, 10, 30, 50)), copy=False)
            if self.random.random() < 0.4:
                tree = tree.offset(self.random.choice((0, 1, 2, 4, 20)), copy=False)
        return tree

    def partitioned(self) -> Partitioned:
        """Draw a query together with its three partitions by a predicate."""
        self._ctes = []
        joined = self._joined(QUERY_DEPTH)
        where = self._condition(joined.fields, QUERY_DEPTH) if self.random.random() < 0.4 else None
        # Without IN (SELECT ...): what is NULL of it, DataFusion 55 takes for false when asked whether it is NULL.
        predicate = self.expressions.predicate(joined.fields, EXPRESSION_DEPTH)
        if self.random.random() < 0.2:
            predicate = paren(exp.Or(this=predicate, expression=self._exists(joined.fields, QUERY_DEPTH)))
        items, combine = self._partitionable(joined.fields)
        group = [item.this for item in items if item.alias.startswith("k")] if combine and "GROUP BY" in combine else []
        distinct = combine is not None and "DISTINCT" in combine

        def tree(condition: exp.Expr | None) -> Query:
            select = joined.select(items).copy()
            for each in (where, condition):
                select = select if each is None else select.where(each.copy(), copy=False)
            select = select.group_by(*(key.copy() for key in group), copy=False) if group else select
            return Query(tree=select.distinct(copy=False) if distinct else select)

        p = paren(predicate)
        parts = (tree(p), tree(paren(exp.Not(this=p))), tree(paren(exp.Is(this=p, expression=exp.null()))))
        return Partitioned(whole=tree(None), parts=parts, combine=combine)

    def _partitionable(self, fields: Sequence[Field]) -> tuple[list[exp.Expr], str | None]:
        """Draw the items of a query whose answer can be made from the answers over parts of its rows."""
        which = self.random.random()
        keys = [
            exp.alias_(self._value(fields).tree, f"k{position}", copy=False)
            for position in range(self.random.randint(1, 3))
        ]
        names = ", ".join(key.alias for key in keys)
        if which < 0.4:
            return list(keys), None
        if which < 0.55:
            return list(keys), "SELECT DISTINCT * FROM parts"
        aggregates: list[exp.Expr] = [exp.alias_(exp.Count(this=exp.Star()), "a0")]
        combined = ["CAST(sum(a0) AS BIGINT) AS a0"]
        for position in range(1, self.random.randint(2, 4)):
            kind = self.random.choice((Kind.INT, Kind.FLOAT))
            name = self.random.choice(("sum", "min", "max"))
            value = self.expressions.of(fields, kind, EXPRESSION_DEPTH)
            aggregates.append(exp.alias_(exp.Anonymous(this=name, expressions=[value]), f"a{position}"))
            combined.append(f"{name}(a{position}) AS a{position}")
        if which < 0.7:
            return aggregates, f"SELECT {', '.join(combined)} FROM parts"
        return [*keys, *aggregates], f"SELECT {names}, {', '.join(combined)} FROM parts GROUP BY {names}"

    # -- bodies -------------------------------------------------------------------------------------------------------

    def _body(self, depth: int) -> Body:
        which = self.random.random()
        if depth > 0 and which < 0.15:
            return self._set_operation(depth)
        if which < 0.5:
            return self._grouped(depth)
        return self._selected(depth)

    def _selected(self, depth: int, kinds: Sequence[Kind] | None = None) -> Body:
        joined = self._joined(depth)
        fields = joined.fields
        if kinds is None:
            drawn = [self._value(fields) for _ in range(self.random.randint(1, 4))]
            if self.random.random() < 0.3:
                drawn += [self.calls.window(fields, 1) for _ in range(self.random.randint(1, 2))]
            if self.random.random() < 0.1:
                drawn.append(self._scalar_value(fields, depth))
        else:
            drawn = [Drawn(tree=self.expressions.of(fields, kind, EXPRESSION_DEPTH), kind=kind) for kind in kinds]
        tree = joined.select(_items(drawn))
        if self.random.random() < 0.3:
            tree = tree.where(self._condition(fields, depth), copy=False)
        if self.random.random() < 0.15:
            tree = tree.distinct(copy=False)
        return Body(tree=tree, outputs=_outputs(drawn), rows=joined.rows)

    def _value(self, fields: Sequence[Field]) -> Drawn:
        kind = self.expressions.kind_of_some(fields)
        return Drawn(tree=self.expressions.of(fields, kind, EXPRESSION_DEPTH), kind=kind)

    def _scalar_value(self, fields: Sequence[Field], depth: int) -> Drawn:
        kind = self.expressions.kind_of_some(fields)
        return Drawn(tree=self._scalar_subquery(fields, kind, depth), kind=kind)

    def _grouped(self, depth: int) -> Body:
        joined = self._joined(depth)
        fields = joined.fields
        keys = self._keys(fields)
        drawn = [*keys, *(self.calls.aggregate(fields, 1) for _ in range(self.random.randint(0 if keys else 1, 3)))]
        tree = joined.select(_items(drawn))
        if self.random.random() < 0.3:
            tree = tree.where(self._condition(fields, depth), copy=False)
        if keys:
            self._group(tree, [key.tree for key in keys])
        if keys and self.random.random() < 0.3:
            tree = tree.having(self._having(fields), copy=False)
        if self.random.random() < 0.05:
            tree = tree.distinct(copy=False)
        return Body(tree=tree, outputs=_outputs(drawn), rows=joined.rows)

    def _keys(self, fields: Sequence[Field]) -> list[Drawn]:
        keys: list[Drawn] = []
        for _ in range(self.random.choice((0, 1, 1, 1, 2, 2, 3))):
            key = self._value(fields)
            # A literal as a key would be taken for the position of a column.
            if key.tree.find(exp.Column) and all(key.tree != other.tree for other in keys):
                keys.append(key)
        return keys

    def _group(self, tree: exp.Select, keys: list[exp.Expr]) -> None:
        which = self.random.random()
        keys = [key.copy() for key in keys]
        # DataFusion 55 loses sight of expressions in sets, but for columns.
        if which < 0.75 or not all(isinstance(key, exp.Column) for key in keys):
            tree.set("group", exp.Group(expressions=keys))
        elif which < 0.83:
            tree.set("group", exp.Group(rollup=[exp.Rollup(expressions=keys)]))
        elif which < 0.91:
            tree.set("group", exp.Group(cube=[exp.Cube(expressions=keys)]))
        else:
            sets = [exp.Tuple(expressions=[key.copy() for key in keys if self.random.random() < 0.6]) for _ in range(2)]
            sets.append(exp.Tuple(expressions=keys))
            tree.set("group", exp.Group(grouping_sets=[exp.GroupingSets(expressions=sets)]))

    def _having(self, fields: Sequence[Field]) -> exp.Expr:
        drawn = self.calls.aggregate(fields, 0, opaque=False)
        operator = self.random.choice((exp.GT, exp.LTE, exp.NEQ))
        assert drawn.kind is not None
        if not drawn.exact:
            return paren(exp.Not(this=paren(exp.Is(this=drawn.tree, expression=exp.null()))))
        return paren(operator(this=drawn.tree, expression=self.expressions.literal(drawn.kind)))

    def _set_operation(self, depth: int) -> Body:
        kinds = [self.random.choice(KINDS) for _ in range(self.random.randint(1, 3))]
        body = self._selected(depth - 1, kinds)
        for _ in range(self.random.choice((1, 1, 2))):
            other = self._selected(depth - 1, kinds)
            operator = self.random.choice((exp.Union, exp.Union, exp.Union, exp.Intersect, exp.Except))
            # DataFusion makes semi joins of INTERSECT ALL and EXCEPT ALL, which loses how often a row occurs.
            distinct = self.random.random() < 0.5 or (self.common and operator is not exp.Union)
            left = body.tree if isinstance(body.tree, exp.Select) else exp.Subquery(this=body.tree)
            tree = operator(this=left, expression=other.tree, distinct=distinct)
            body = Body(tree=tree, outputs=body.outputs, rows=body.rows + other.rows)
        return body

    # -- FROM ---------------------------------------------------------------------------------------------------------

    def _joined(self, depth: int) -> Joined:
        first = self._relation(depth)
        fields, rows = first.fields, first.rows
        joins: list[exp.Join] = []
        for _ in range(self.random.choice((0, 0, 1, 1, 2) if depth > 0 else (0, 0, 0, 1))):
            other = self._relation(depth)
            join, kept, rows = self._join(fields, rows, other)
            joins.append(join)
            fields = kept
        return Joined(first=first.tree, joins=tuple(joins), fields=fields, rows=rows)

    def _relation(self, depth: int) -> Relation:
        alias = self._alias()
        which = self.random.random()
        if self._ctes and which < 0.4:
            name, body = self.random.choice(self._ctes)
            if fields := fields_of(body.outputs, alias):
                return Relation(tree=_named(name, alias), fields=fields, rows=body.rows)
        if depth > 0 and which < 0.65 and which > 0.45:
            return self._derived(alias, depth)
        if which > 0.96:
            return self._values(alias)
        table = self.random.choice(self.tables)
        fields = tuple(Field(name=c.name, relation=alias, kind=c.kind) for c in table.columns)
        return Relation(tree=_named(table.name, alias), fields=fields, rows=max(table.rows, 1))

    def _derived(self, alias: str, depth: int) -> Relation:
        body = self._body(depth - 1)
        fields = fields_of(body.outputs, alias)
        if not fields:
            return self._relation(0)
        tree = body.tree
        if all(output.kind is not None and output.exact for output in body.outputs) and self.random.random() < 0.2:
            tree = self._limited(self._order_by(tree, body.outputs))
        return Relation(tree=tree.subquery(alias, copy=False), fields=fields, rows=body.rows)

    def _values(self, alias: str) -> Relation:
        kinds = [self.random.choice(KINDS) for _ in range(self.random.randint(1, 3))]
        rows = [
            exp.Tuple(expressions=[self.expressions.literal(kind) for kind in kinds])
            for _ in range(self.random.randint(1, 4))
        ]
        names = [f"v{position}" for position in range(len(kinds))]
        columns = exp.TableAlias(this=exp.to_identifier(alias), columns=[exp.to_identifier(name) for name in names])
        fields = tuple(Field(name=name, relation=alias, kind=kind) for name, kind in zip(names, kinds, strict=True))
        return Relation(tree=exp.Values(expressions=rows, alias=columns), fields=fields, rows=len(rows))

    def _alias(self) -> str:
        self._aliases += 1
        return f"r{self._aliases}"

    def _join(self, fields: tuple[Field, ...], rows: int, other: Relation) -> tuple[exp.Join, tuple[Field, ...], int]:
        both = fields + other.fields
        pairs = [(a, b) for a in fields for b in other.fields if a.kind is b.kind and a.exact and b.exact]
        product = rows * other.rows
        matched = product // _EQUI_SELECTIVITY
        which = self.random.random()
        if product <= MOST_ROWS // 10 and which < 0.1:
            return exp.Join(this=other.tree, kind="CROSS"), both, product
        if product <= MOST_ROWS // 10 and (which < 0.2 or not pairs):
            side = self.random.choice(("", "", "LEFT", "RIGHT", "FULL"))
            condition = self.expressions.predicate(both, 1)
            return exp.Join(this=other.tree, side=side, on=condition), both, product + rows + other.rows
        if not pairs or matched > MOST_ROWS:
            # Too many rows: only the left ones stay.
            kind, condition = "SEMI", self._equalities(pairs, 2) if pairs else self.expressions.predicate(both, 0)
            return exp.Join(this=other.tree, side="LEFT", kind=kind, on=condition), fields, rows
        condition = self._equalities(pairs, self.random.choice((1, 1, 1, 2)))
        if self.random.random() < 0.3:
            condition = exp.And(this=condition, expression=self.expressions.predicate(both, 1))
        if self.random.random() < 0.2:
            return self._one_sided(fields, rows, other, condition)
        side = self.random.choice(("", "", "", "LEFT", "LEFT", "RIGHT", "FULL"))
        using = self._using(fields, other) if self.random.random() < 0.2 else None
        if using is not None:
            join = exp.Join(this=other.tree, side=side, using=[exp.to_identifier(using)])
        else:
            join = exp.Join(this=other.tree, side=side, on=condition)
        return join, both, matched + rows + other.rows

    def _one_sided(
        self, fields: tuple[Field, ...], rows: int, other: Relation, condition: exp.Expr
    ) -> tuple[exp.Join, tuple[Field, ...], int]:
        side = "LEFT" if self.common else self.random.choice(("LEFT", "LEFT", "RIGHT"))
        kind = self.random.choice(("SEMI", "ANTI"))
        join = exp.Join(this=other.tree, side=side, kind=kind, on=condition)
        return (join, fields, rows) if side == "LEFT" else (join, other.fields, other.rows)

    def _equalities(self, pairs: Sequence[tuple[Field, Field]], count: int) -> exp.Expr:
        chosen = self.random.sample(list(pairs), min(count, len(pairs)))
        equals = [paren(exp.EQ(this=a.column(), expression=b.column())) for a, b in chosen]
        return equals[0] if len(equals) == 1 else exp.And(this=equals[0], expression=equals[1])

    def _using(self, fields: Sequence[Field], other: Relation) -> str | None:
        """Return a name that both sides have once, and as the same kind, for USING."""
        names = [field.name for field in fields]
        shared = [
            theirs.name
            for theirs in other.fields
            for ours in fields
            if ours.name == theirs.name and ours.kind is theirs.kind and names.count(ours.name) == 1
        ]
        return self.random.choice(shared) if shared else None

    # -- conditions and subqueries ------------------------------------------------------------------------------------

    def _condition(self, fields: Sequence[Field], depth: int) -> exp.Expr:
        condition = self.expressions.predicate(fields, EXPRESSION_DEPTH)
        if depth <= 0 or self.random.random() < 0.7:
            return condition
        asked = self._subquery_test(fields, depth)
        which = self.random.random()
        if which < 0.4:
            return asked
        connector = exp.And if which < 0.7 else exp.Or
        return paren(connector(this=asked, expression=condition))

    def _subquery_test(self, fields: Sequence[Field], depth: int) -> exp.Expr:
        which = self.random.random()
        if which < 0.35:
            test: exp.Expr = self._exists(fields, depth)
        elif which < 0.7:
            kind = self.expressions.kind_of_some(fields)
            inner = self._selected(depth - 2, [kind]).tree
            value = self.expressions.of(fields, kind, 1)
            test = paren(exp.In(this=value, query=exp.Subquery(this=inner)))
        else:
            kind = self.expressions.kind_of_some(fields)
            operator = self.random.choice((exp.EQ, exp.LT, exp.GTE, exp.NEQ))
            value = self.expressions.of(fields, kind, 1)
            test = paren(operator(this=value, expression=self._scalar_subquery(fields, kind, depth)))
        return test if self.random.random() < 0.6 else paren(exp.Not(this=test))

    def _exists(self, fields: Sequence[Field], depth: int) -> exp.Expr:
        inner = self._relation(0)
        conditions = self._correlation(fields, inner)
        tree = exp.select(integer(1), copy=False).from_(inner.tree, copy=False)
        if self.random.random() < 0.4:
            conditions.append(self.expressions.predicate(inner.fields, 1))
        return exp.Exists(this=tree.where(*conditions, copy=False) if conditions else tree)

    def _correlation(self, fields: Sequence[Field], inner: Relation) -> list[exp.Expr]:
        pairs = [(a, b) for a in fields for b in inner.fields if a.kind is b.kind and a.exact and b.exact]
        return [self._equalities(pairs, 1)] if pairs and self.random.random() < 0.8 else []

    def _scalar_subquery(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        inner = self._relation(0)
        value = self.expressions.of(inner.fields, kind, 1)
        name = "bool_and" if kind is Kind.BOOL else self.random.choice(("min", "max"))
        tree = exp.select(exp.Anonymous(this=name, expressions=[value]), copy=False).from_(inner.tree, copy=False)
        conditions = self._correlation(fields, inner) if self.random.random() < 0.5 else []
        if self.random.random() < 0.4:
            conditions.append(self.expressions.predicate(inner.fields, 1))
        return exp.Subquery(this=tree.where(*conditions, copy=False) if conditions else tree)


def _named(name: str, alias: str) -> exp.Expr:
    return exp.alias_(exp.to_table(name), alias, table=True)


def _items(drawn: Sequence[Drawn]) -> list[exp.Expr]:
    return [exp.alias_(each.tree, f"o{position}", copy=False) for position, each in enumerate(drawn)]


def _outputs(drawn: Sequence[Drawn]) -> tuple[Output, ...]:
    return tuple(each.output(f"o{position}") for position, each in enumerate(drawn))
