"""Random aggregates and window functions that have one answer whatever order rows come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from sqlglot import exp

from .expressions import Expressions, Field, call, integer
from .scopes import Output
from .tables import Kind

NUMBERS = (Kind.INT, Kind.FLOAT, Kind.DECIMAL)

_FRAME_STARTS = (("UNBOUNDED", "PRECEDING"), ("2", "PRECEDING"), ("1", "PRECEDING"), ("CURRENT ROW", None))
_FRAME_ENDS = (("CURRENT ROW", None), ("1", "FOLLOWING"), ("3", "FOLLOWING"), ("UNBOUNDED", "FOLLOWING"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A call: its SQL, and what its result is."""

    tree: exp.Expr
    kind: Kind | None
    exact: bool = True

    def output(self, name: str) -> Output:
        """Return it as a column of a result."""
        return Output(name=name, kind=self.kind, exact=self.exact)


def ordered(random: Random, tree: exp.Expr) -> exp.Ordered:
    """Order by something, in a random direction and with NULLs at either end."""
    return exp.Ordered(this=tree, desc=random.random() < 0.4, nulls_first=random.random() < 0.5)


def total_order(random: Random, fields: Sequence[Field], first: exp.Expr | None = None) -> exp.Order:
    """Order by all fields: rows that are equal in all of them are one and the same to whoever looks.

    Nothing occurs twice (DataFusion 55 panics in ``first_value`` then), and nothing is a literal (it would be taken for
    the position of a column).

    Args:
        random: The source of choices.
        fields: All fields in scope.
        first: What to order by before them.
    """
    keys: list[exp.Expr] = [field.column() for field in random.sample(list(fields), len(fields))]
    if first is not None and first.find(exp.Column):
        keys = [first, *(key for key in keys if key != first)]
    return exp.Order(expressions=[ordered(random, key) for key in keys])


class Calls:
    """Draws aggregates and window functions.

    Args:
        random: The source of choices.
        expressions: Draws their arguments.
        common: Only what DataFusion and DuckDB mean alike.
    """

    def __init__(self, random: Random, expressions: Expressions, *, common: bool) -> None:
        self.random = random
        self.expressions = expressions
        self.common = common

    # -- aggregates ---------------------------------------------------------------------------------------------------

    def aggregate(self, fields: Sequence[Field], depth: int, *, opaque: bool = True) -> Drawn:
        """Draw an aggregate over the rows of a group.

        Args:
            fields: What is in scope below the GROUP BY.
            depth: Levels of the arguments.
            opaque: Whether a result that nothing can be done with (a list, an inexact float) will do.
        """
        which = self.random.random()
        if which < 0.15:
            drawn = Drawn(tree=exp.Count(this=exp.Star()), kind=Kind.INT)
        elif which < 0.3:
            drawn = self._count(fields, depth)
        elif which < 0.8 or not opaque:
            drawn = self._reducing(fields, depth)
        elif which < 0.9:
            drawn = self._in_order(fields, depth)
        else:
            drawn = self._opaque(fields, depth)
        if self.random.random() < 0.15:
            condition = exp.Where(this=self.expressions.predicate(fields, depth))
            drawn = Drawn(tree=exp.Filter(this=drawn.tree, expression=condition), kind=drawn.kind, exact=drawn.exact)
        return drawn

    def _count(self, fields: Sequence[Field], depth: int) -> Drawn:
        value = self.expressions.of(fields, self.expressions.kind_of_some(fields), depth)
        if self.random.random() < 0.5:
            value = exp.Distinct(expressions=[value])
        return Drawn(tree=exp.Count(this=value), kind=Kind.INT)

    def _reducing(self, fields: Sequence[Field], depth: int) -> Drawn:
        kind = self.expressions.kind_of_some(fields)
        value = self.expressions.of(fields, kind, depth)
        if kind is Kind.BOOL:
            return Drawn(tree=call(self.random.choice(("bool_and", "bool_or")), value), kind=kind)
        name = self.random.choice(("min", "max", "sum", "avg") if kind in NUMBERS else ("min", "max"))
        if name == "avg" and kind is Kind.DECIMAL and self.common:
            name = "sum"
        if kind is Kind.INT and self.random.random() < 0.1:
            return Drawn(tree=call(self.random.choice(("bit_and", "bit_or", "bit_xor")), value), kind=kind)
        if name in {"sum", "avg"} and self.random.random() < 0.2:
            value = exp.Distinct(expressions=[value])
        if name == "avg" and kind is not Kind.DECIMAL:
            return Drawn(tree=call(name, value), kind=Kind.FLOAT, exact=False)
        return Drawn(tree=call(name, value), kind=kind)

    def _in_order(self, fields: Sequence[Field], depth: int) -> Drawn:
        if self.random.random() < 0.3:
            value = self.expressions.of(fields, Kind.STRING, depth)
            separator = total_order(self.random, fields, value.copy())
            separator.set("this", exp.Literal.string(","))
            return Drawn(tree=call("string_agg", value, separator), kind=Kind.STRING)
        kind = self.expressions.kind_of_some(fields)
        value = self.expressions.of(fields, kind, depth)
        order = total_order(self.random, fields, value.copy())
        order.set("this", value)
        if self.common or self.random.random() < 0.4:
            return Drawn(tree=call("array_agg", order), kind=None)
        return Drawn(tree=call(self.random.choice(("first_value", "last_value")), order), kind=kind)

    def _opaque(self, fields: Sequence[Field], depth: int) -> Drawn:
        kind = self.random.choice((Kind.INT, Kind.FLOAT))
        value = self.expressions.of(fields, kind, depth)
        if self.common or self.random.random() < 0.5:
            return Drawn(tree=call(self.random.choice(("stddev", "var_pop", "var_samp")), value), kind=None)
        if kind is Kind.INT and self.random.random() < 0.5:
            return Drawn(tree=call("approx_distinct", value), kind=Kind.INT)
        return Drawn(tree=call("median", value), kind=kind, exact=False)

    # -- windows ------------------------------------------------------------------------------------------------------

    def window(self, fields: Sequence[Field], depth: int) -> Drawn:
        """Draw a window function over what is in scope."""
        random = self.random
        partition = [f.column() for f in random.sample(list(fields), min(len(fields), random.choice((0, 1, 1, 2))))]
        if random.random() < 0.35:
            return self._by_rank(fields, depth, partition)
        if random.random() < 0.35:
            return self._by_position(fields, depth, partition)
        drawn = self._windowed_aggregate(fields, depth)
        order, spec = self._order_and_frame(fields)
        tree = exp.Window(this=drawn.tree, partition_by=partition, order=order, spec=spec)
        return Drawn(tree=tree, kind=drawn.kind, exact=drawn.exact)

    def _by_rank(self, fields: Sequence[Field], depth: int, partition: list[exp.Column]) -> Drawn:
        # Peers have one rank, so any order will do.
        name = self.random.choice(("rank", "dense_rank", "percent_rank", "cume_dist"))
        value = self.expressions.of(fields, self.expressions.kind_of_some(fields), depth)
        order = exp.Order(expressions=[ordered(self.random, value)])
        kind = Kind.FLOAT if name in {"percent_rank", "cume_dist"} else Kind.INT
        tree = exp.Window(this=call(name), partition_by=partition, order=order)
        return Drawn(tree=tree, kind=kind, exact=kind is Kind.INT)

    def _by_position(self, fields: Sequence[Field], depth: int, partition: list[exp.Column]) -> Drawn:
        name = self.random.choice(("row_number", "ntile", "lag", "lead", "first_value", "last_value", "nth_value"))
        kind = Kind.INT
        args: list[exp.Expr] = []
        if name == "ntile":
            args = [integer(self.random.randint(1, 4))]
        elif name != "row_number":
            # A column of the order: rows that tie are then equal in what is looked up, too.
            field = self.random.choice(list(fields))
            kind, args = field.kind, [field.column()]
            args += [integer(self.random.randint(1, 3))] if name in {"lag", "lead", "nth_value"} else []
        tree = exp.Window(this=call(name, *args), partition_by=partition, order=total_order(self.random, fields))
        if name in {"first_value", "last_value", "nth_value"} and self.random.random() < 0.5:
            tree.set("spec", self._frame("ROWS"))
        return Drawn(tree=tree, kind=kind)

    def _windowed_aggregate(self, fields: Sequence[Field], depth: int) -> Drawn:
        if self.random.random() < 0.25:
            return Drawn(tree=exp.Count(this=exp.Star()), kind=Kind.INT)
        kind = self.expressions.kind_of_some(fields)
        names = ("min", "max", "count", "sum", "avg") if kind in NUMBERS else ("min", "max", "count")
        name = self.random.choice(names)
        if name == "avg" and kind is Kind.DECIMAL and self.common:
            name = "sum"
        tree = call(name, self.expressions.of(fields, kind, depth))
        if name == "count":
            return Drawn(tree=tree, kind=Kind.INT)
        if name == "avg" and kind is not Kind.DECIMAL:
            return Drawn(tree=tree, kind=Kind.FLOAT, exact=False)
        return Drawn(tree=tree, kind=kind)

    def _order_and_frame(self, fields: Sequence[Field]) -> tuple[exp.Order | None, exp.WindowSpec | None]:
        which = self.random.random()
        if which < 0.25:
            return None, None
        if which < 0.6:
            return total_order(self.random, fields), self._frame("ROWS")
        integers = [field for field in fields if field.kind is Kind.INT]
        if which < 0.75 and integers:
            key = ordered(self.random, self.random.choice(integers).column())
            return exp.Order(expressions=[key]), self._frame("RANGE")
        key = ordered(self.random, self.random.choice(list(fields)).column())
        return exp.Order(expressions=[key]), self._frame("GROUPS") if which < 0.9 else None

    def _frame(self, kind: str) -> exp.WindowSpec:
        start, start_side = self.random.choice(_FRAME_STARTS)
        end, end_side = self.random.choice(_FRAME_ENDS)
        return exp.WindowSpec(
            kind=kind,
            start=start if start in {"UNBOUNDED", "CURRENT ROW"} else exp.Literal.number(start),
            start_side=start_side,
            end=end if end in {"UNBOUNDED", "CURRENT ROW"} else exp.Literal.number(end),
            end_side=end_side,
        )
