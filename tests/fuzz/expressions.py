"""Random expressions of a wanted kind over what is in scope, as sqlglot trees.

Everything here means one thing only: no expression depends on the order of rows, and floats stay multiples of a small
power of two, so that no sum depends on the order in which it is added up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from sqlglot import exp

from .tables import Kind

CAST_NAMES = {
    Kind.INT: "BIGINT",
    Kind.FLOAT: "DOUBLE",
    Kind.DECIMAL: "DECIMAL(10, 2)",
    Kind.STRING: "VARCHAR",
    Kind.BOOL: "BOOLEAN",
    Kind.DATE: "DATE",
    Kind.TIMESTAMP: "TIMESTAMP",
}

_STRING_LITERALS = ("", "a", "b", "ab", "B", "it's", "zz", "x y")
_PATTERNS = ("%a%", "a%", "_", "%b", "", "%", "it's")
_Maker = Callable[[Sequence["Field"], Kind, int], exp.Expr]
_CAST_TYPES = {kind: exp.DataType.build(name) for kind, name in CAST_NAMES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A column that is in scope.

    Attributes:
        name: Its name.
        relation: Alias of the relation that it is of; empty if it must be named alone.
        kind: What it is.
        exact: Whether sums of it are exact in any order; floats only.
    """

    name: str
    relation: str
    kind: Kind
    exact: bool = True

    def column(self) -> exp.Column:
        """Return a reference to it."""
        return exp.column(self.name, table=self.relation or None, quoted=False)


def paren(tree: exp.Expr) -> exp.Expr:
    """Put brackets around what is not an atom: trees that are built by hand have none."""
    atoms = (exp.Column, exp.Literal, exp.Func, exp.Paren, exp.Boolean, exp.Null, exp.Window, exp.Subquery)
    # AND and OR are functions to sqlglot, too.
    atom = isinstance(tree, atoms) and not isinstance(tree, exp.Binary)
    return tree if atom else exp.paren(tree, copy=False)


def call(name: str, *args: exp.Expr) -> exp.Expr:
    """Call a function by the very name that both engines know it by."""
    return exp.Anonymous(this=name, expressions=list(args))


def cast(tree: exp.Expr, kind: Kind) -> exp.Expr:
    """Cast to the usual type of a kind."""
    return exp.Cast(this=tree, to=_CAST_TYPES[kind].copy())


def integer(value: int) -> exp.Expr:
    """Write an integer, in brackets if it is negative."""
    return exp.Literal.number(value) if value >= 0 else paren(exp.Neg(this=exp.Literal.number(-value)))


def interval(count: int, unit: str) -> exp.Expr:
    """Write an interval."""
    return exp.Interval(this=exp.Literal.string(str(count)), unit=exp.var(unit))


class Expressions:
    """Draws expressions.

    Args:
        random: The source of choices.
        common: Only what DataFusion and DuckDB mean alike.
    """

    def __init__(self, random: Random, *, common: bool) -> None:
        self.random = random
        self.common = common
        self._makers: dict[Kind, Sequence[_Maker]] = {
            Kind.INT: (self._arithmetic, self._product, self._negated, self._length, self._year, self._remainder),
            Kind.FLOAT: (self._arithmetic, self._product, self._absolute, self._float_of_int),
            Kind.DECIMAL: (self._arithmetic, self._product, self._negated, self._decimal_of_int),
            Kind.STRING: (self._joined, self._case_changed, self._substring, self._replaced, self._string_of),
            Kind.BOOL: (self._truth,),
            Kind.DATE: (self._moved, self._date_of_timestamp),
            Kind.TIMESTAMP: (self._moved, self._truncated, self._timestamp_of_date),
        }

    # -- any kind -----------------------------------------------------------------------------------------------------

    def of(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        """Draw an expression of a kind, of at most so many levels."""
        if depth <= 0 or self.random.random() < 0.4:
            return self.leaf(fields, kind)
        if self.random.random() < 0.35:
            return self._of_any_kind(fields, kind, depth - 1)
        return self.random.choice(self._makers[kind])(fields, kind, depth - 1)

    def leaf(self, fields: Sequence[Field], kind: Kind) -> exp.Expr:
        """Draw a column of a kind if there is one, else (and now and then) a literal."""
        columns = [field for field in fields if field.kind is kind and field.exact]
        if columns and self.random.random() < 0.85:
            return self.random.choice(columns).column()
        return self.literal(kind)

    def kind_of_some(self, fields: Sequence[Field]) -> Kind:
        """Draw a kind that some field has."""
        usable = [field for field in fields if field.exact]
        return self.random.choice(usable).kind if usable else Kind.INT

    def literal(self, kind: Kind) -> exp.Expr:
        """Draw a literal, NULL among them."""
        random = self.random
        if random.random() < 0.06:
            return cast(exp.null(), kind)
        if kind is Kind.INT:
            return integer(random.randint(-2, 9))
        if kind is Kind.BOOL:
            return exp.Boolean(this=random.random() < 0.5)
        if kind is Kind.STRING:
            return exp.Literal.string(random.choice(_STRING_LITERALS))
        if kind is Kind.FLOAT:
            return cast(exp.Literal.string(str(random.randint(-20, 40) / 8)), kind)
        if kind is Kind.DECIMAL:
            return cast(exp.Literal.string(f"{random.randint(-200, 400) / 100:.2f}"), kind)
        if kind is Kind.DATE:
            return cast(exp.Literal.string(f"2024-02-{random.randint(25, 29)}"), kind)
        return cast(
            exp.Literal.string(f"2024-01-0{random.randint(1, 4)} {random.choice(('00', '06', '12'))}:00:00"), kind
        )

    def _of_any_kind(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        which = self.random.randrange(4)
        first, second = self.of(fields, kind, depth), self.of(fields, kind, depth)
        if which == 0:
            return exp.Coalesce(this=first, expressions=[second])
        if which == 1:
            return exp.Nullif(this=first, expression=second)
        branches = [exp.If(this=self.predicate(fields, depth), true=first)]
        if which == 2:
            branches.append(exp.If(this=self.predicate(fields, depth), true=self.of(fields, kind, depth)))
        otherwise = second if self.random.random() < 0.7 else None
        return paren(exp.Case(ifs=branches, default=otherwise))

    # -- numbers ------------------------------------------------------------------------------------------------------

    def _arithmetic(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        operator = self.random.choice((exp.Add, exp.Sub))
        return paren(operator(this=self._wide(fields, kind, depth), expression=self._wide(fields, kind, depth)))

    def _product(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        # By a small literal only: products of products would leave the range in which sums of floats are exact. Above
        # zero only: a float times 0 or -1 may be -0, which is equal to 0 and yet not the same.
        factor = integer(self.random.randint(1, 3))
        return paren(exp.Mul(this=self._wide(fields, kind, depth), expression=factor))

    def _negated(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        value = self._wide(fields, kind, depth)
        return exp.Abs(this=value) if self.random.random() < 0.5 else paren(exp.Neg(this=value))

    def _absolute(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        return exp.Abs(this=self.of(fields, kind, depth))

    def _wide(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        """Draw an operand; integers of eight bits would overflow, which is another error on every path."""
        value = self.of(fields, kind, depth)
        return value if kind is Kind.DECIMAL else cast(value, kind)

    def _remainder(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        divisor = integer(self.random.choice((2, 3, 5)))
        value = cast(self.of(fields, Kind.INT, depth), Kind.INT)
        if self.common or self.random.random() < 0.6:
            return paren(exp.Mod(this=value, expression=divisor))
        return paren(exp.Div(this=value, expression=divisor))

    def _length(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        return call("length", self.of(fields, Kind.STRING, depth))

    def _year(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        part = self.random.choice(("year", "month", "day"))
        source = self.random.choice((Kind.DATE, Kind.TIMESTAMP))
        return call("date_part", exp.Literal.string(part), self.of(fields, source, depth))

    def _float_of_int(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        return cast(self.of(fields, Kind.INT, depth), Kind.FLOAT)

    def _decimal_of_int(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        return cast(self.of(fields, Kind.INT, 0), Kind.DECIMAL)

    # -- strings ------------------------------------------------------------------------------------------------------

    def _joined(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        return paren(
            exp.DPipe(this=self.of(fields, Kind.STRING, depth), expression=self.of(fields, Kind.STRING, depth))
        )

    def _case_changed(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        name = self.random.choice(("upper", "lower", "trim", "reverse"))
        return call(name, self.of(fields, Kind.STRING, depth))

    def _substring(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        value = self.of(fields, Kind.STRING, depth)
        if self.random.random() < 0.5:
            return call(self.random.choice(("left", "right")), value, integer(self.random.randint(0, 3)))
        return call("substr", value, integer(self.random.randint(1, 3)), integer(self.random.randint(0, 3)))

    def _replaced(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        return call("replace", self.of(fields, Kind.STRING, depth), exp.Literal.string("a"), exp.Literal.string("bb"))

    def _string_of(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        source = self.random.choice((Kind.INT, Kind.DATE))
        return cast(self.of(fields, source, depth), Kind.STRING)

    # -- times --------------------------------------------------------------------------------------------------------

    def _moved(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        step = interval(self.random.randint(1, 9), self.random.choice(("DAY", "MONTH")))
        operator = self.random.choice((exp.Add, exp.Sub))
        # Months and days added to a date are a date to one engine and a timestamp to the other.
        return cast(paren(operator(this=self.of(fields, kind, depth), expression=step)), kind)

    def _truncated(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        unit = self.random.choice(("year", "month", "day"))
        return call(
            "date_trunc", exp.Literal.string(unit), cast(self.of(fields, Kind.TIMESTAMP, depth), Kind.TIMESTAMP)
        )

    def _date_of_timestamp(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        return cast(self.of(fields, Kind.TIMESTAMP, depth), Kind.DATE)

    def _timestamp_of_date(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        return cast(self.of(fields, Kind.DATE, depth), Kind.TIMESTAMP)

    # -- predicates ---------------------------------------------------------------------------------------------------

    def _truth(self, fields: Sequence[Field], kind: Kind, depth: int) -> exp.Expr:
        return self.predicate(fields, depth)

    def predicate(self, fields: Sequence[Field], depth: int) -> exp.Expr:
        """Draw a condition, which may be NULL."""
        makers: list[Callable[[Sequence[Field], int], exp.Expr]] = [
            self._comparison,
            self._comparison,
            self._comparison,
            self._null_test,
            self._in_list,
            self._between,
            self._like,
            self._bool_value,
        ]
        if depth > 0:
            makers += [self._connected, self._connected, self._negation, self._distinct_from]
        return self.random.choice(makers)(fields, depth - 1)

    def _comparison(self, fields: Sequence[Field], depth: int) -> exp.Expr:
        operator = self.random.choice((exp.EQ, exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE))
        return paren(self._pair(operator, fields, depth))

    def _pair(self, operator: type[exp.Binary], fields: Sequence[Field], depth: int) -> exp.Expr:
        kind = self.kind_of_some(fields)
        return operator(this=self.of(fields, kind, depth), expression=self.of(fields, kind, depth))

    def _distinct_from(self, fields: Sequence[Field], depth: int) -> exp.Expr:
        return paren(self._pair(self.random.choice((exp.NullSafeEQ, exp.NullSafeNEQ)), fields, depth))

    def _null_test(self, fields: Sequence[Field], depth: int) -> exp.Expr:
        value = self.of(fields, self.kind_of_some(fields), depth)
        test = paren(exp.Is(this=value, expression=exp.null()))
        return test if self.random.random() < 0.5 else paren(exp.Not(this=test))

    def _in_list(self, fields: Sequence[Field], depth: int) -> exp.Expr:
        kind = self.kind_of_some(fields)
        values = [self.literal(kind) for _ in range(self.random.choice((1, 2, 3, 5)))]
        test = paren(exp.In(this=self.of(fields, kind, depth), expressions=values))
        return test if self.random.random() < 0.6 else paren(exp.Not(this=test))

    def _between(self, fields: Sequence[Field], depth: int) -> exp.Expr:
        kind = self.kind_of_some(fields)
        low, high = self.of(fields, kind, 0), self.of(fields, kind, 0)
        return paren(exp.Between(this=self.of(fields, kind, depth), low=low, high=high))

    def _like(self, fields: Sequence[Field], depth: int) -> exp.Expr:
        pattern = exp.Literal.string(self.random.choice(_PATTERNS))
        return paren(exp.Like(this=self.of(fields, Kind.STRING, depth), expression=pattern))

    def _bool_value(self, fields: Sequence[Field], depth: int) -> exp.Expr:
        value = self.leaf(fields, Kind.BOOL)
        if self.random.random() < 0.5:
            return value
        return paren(exp.Is(this=value, expression=exp.Boolean(this=self.random.random() < 0.5)))

    def _connected(self, fields: Sequence[Field], depth: int) -> exp.Expr:
        connector = self.random.choice((exp.And, exp.Or))
        return paren(connector(this=self.predicate(fields, depth), expression=self.predicate(fields, depth)))

    def _negation(self, fields: Sequence[Field], depth: int) -> exp.Expr:
        return paren(exp.Not(this=self.predicate(fields, depth)))
