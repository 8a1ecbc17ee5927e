"""The schemas of exchanges, asked of DataFusion without reading any input, and remembered.

A decoded plan does not say its schema in Python. A left nested-loop join of one empty row with the plan, limited to no
rows, yields exactly one row whose columns have the plan's types; no operator below the limit is ever polled.
All columns come back nullable: what reads an exchange does not rest on nullability, and a query's result gets
the schema of the query.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import pyarrow as pa
from datafusion import SessionContext
from datafusion.plan import ExecutionPlan

from apiary_df.errors import PlanError
from apiary_df.plan import codec
from apiary_df.plan.sinks import COUNT_COLUMN, SINKS
from apiary_df.plan.tree import PlanNode, transform_up

SINK_SCHEMA = pa.schema([pa.field(COUNT_COLUMN, pa.uint64())])
"""What every sink gives. It is not asked of DataFusion, since a sink that runs writes."""

_MOVES_ROWS = frozenset({"repartition", "coalesce_partitions", "sort_preserving_merge", "sort", "coalesce_batches"})
"""Operators that have the columns of their input, and stand on top of what feeds an exchange."""

KNOWN_SCHEMAS = 1_024
"""Exchanges whose schemas are remembered: about two hundred queries' worth."""

KNOWN_PLAN_BYTES = 64 * 1024
"""Longest plan that is remembered with its schema: longer ones hold in-memory tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeSchema:
    """The schema of what a stage hands on.

    Attributes:
        arrow: Schema of the partials, with column names that are unique.
        encoded: The same, as DataFusion's schema message.
        names: The plan's own column names, by position; these may repeat after joins.
    """

    arrow: pa.Schema
    encoded: bytes
    names: tuple[str, ...]

    @property
    def renamed(self) -> bool:
        """Whether the partials' column names differ from the plan's."""
        return tuple(self.arrow.names) != self.names


class ExchangeSchemas:
    """Tells schemas of exchanges: asking DataFusion takes half a millisecond, so what it said is remembered."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, ExchangeSchema] = OrderedDict()
        self._columns: dict[tuple[pa.DataType, bool], bytes] = {}

    def forget(self) -> None:
        """Forget what plans give: they may name what is something else from now on."""
        self._known.clear()

    def of(self, ctx: SessionContext, node: PlanNode) -> ExchangeSchema:
        """Return the schema of an exchange fed by ``node``.

        Args:
            ctx: A session that knows the functions that the plan names.
            node: The plan; its scans are emptied first, so no file is touched.

        Raises:
            PlanError: If DataFusion cannot decode the plan, or a column has a type that an exchange cannot carry.
        """
        if node.kind in SINKS:
            return self._exchange(ctx, SINK_SCHEMA)
        probe = codec.encode(_probe(node))
        known = self._known.get(probe)
        if known is None:
            known = self._exchange(ctx, _schema_by_probe(ctx, probe, node.kind))
            if len(probe) <= KNOWN_PLAN_BYTES:
                self._known[probe] = known
                while len(self._known) > KNOWN_SCHEMAS:
                    self._known.popitem(last=False)
        return known

    def _exchange(self, ctx: SessionContext, schema: pa.Schema) -> ExchangeSchema:
        for field in schema:
            unfit = _not_for_exchanges(field.type)
            if unfit is not None:
                raise PlanError(
                    f"column {field.name!r} cannot pass from task to task: {unfit}; cast it to its plain type"
                )
        names = tuple(schema.names)
        unique = names if len(set(names)) == len(names) else tuple(f"c{i}" for i in range(len(names)))
        arrow = pa.schema([field.with_name(name) for field, name in zip(schema, unique, strict=True)])
        return ExchangeSchema(arrow=arrow, encoded=self._encoded(ctx, arrow), names=names)

    def _encoded(self, ctx: SessionContext, schema: pa.Schema) -> bytes:
        """Return an Arrow schema as DataFusion encodes it; of plain types, it is asked only once each."""
        kinds = [(field.type, field.nullable) if _is_plain(field) else None for field in schema]
        columns = [None if kind is None else self._columns.get(kind) for kind in kinds]
        known = [column for column in columns if column is not None]
        if len(known) < len(columns):
            known = codec.schema_columns(_encode_schema(ctx, schema))
            fresh = zip(kinds, known, strict=True)
            self._columns.update((kind, column) for kind, column in fresh if kind is not None)
        return codec.schema_of_columns(known, schema.names)


def _probe(node: PlanNode) -> PlanNode:
    """Return a plan of one row that has the columns of ``node``, of which nothing is ever read."""
    while node.kind in _MOVES_ROWS:
        (node,) = node.children
    return codec.build(
        "nested_loop_join",
        codec.build("placeholder_row", schema=b""),
        codec.local_limit(codec.coalesce(emptied(node)), 0),
        join_type=codec.LEFT_JOIN,
    )


def _schema_by_probe(ctx: SessionContext, probe: bytes, kind: str) -> pa.Schema:
    """Return the schema of a probe's row; every column is nullable.

    Raises:
        PlanError: If DataFusion cannot decode the plan, or begin with it.
    """
    try:
        plan = ExecutionPlan.from_bytes(ctx, probe)
        batch = next(iter(ctx.execute(plan, 0))).to_pyarrow()
    except BaseException as error:
        # Some aggregates make DataFusion panic as they begin, and a panic is no Exception.
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise PlanError(f"cannot tell the schema of a {kind} plan: {error}") from error
    return batch.schema.remove_metadata()


def emptied(plan: PlanNode) -> PlanNode:
    """Return a plan of the same schema that reads no files and no batches, in one partition wherever it has several.

    DataFusion makes a channel for every pair of a repartition's inputs and outputs before the first row: as cut for a
    thousand bees, a plan takes it seconds to begin.

    Args:
        plan: A plan without unknown operators but such as have one partition.
    """

    def change(node: PlanNode) -> PlanNode:
        if node.kind == "memory_scan":
            return codec.emptied_table(node)
        if node.kind in {"empty", "placeholder_row"}:
            return codec.replace(node, partitions=1)
        if node.is_file_scan:
            return codec.with_scan_groups(node, [[]])
        return codec.with_one_partition(node)

    return transform_up(plan, change)


def _not_for_exchanges(type_: pa.DataType, *, within: bool = False) -> str | None:
    """Return what of a type an Arrow file of several batches cannot hold, as pyarrow writes it; None if it can.

    A file has one dictionary a column, and pyarrow puts dictionaries together only of plain values. Run ends within
    lists come from DataFusion in a form that pyarrow does not write.
    """
    if pa.types.is_dictionary(type_):
        plain = not (pa.types.is_nested(type_.value_type) or pa.types.is_dictionary(type_.value_type))
        return None if plain else f"{type_} is a dictionary of what are no plain values"
    if pa.types.is_run_end_encoded(type_):
        return f"{type_} stands within another type" if within else _not_for_exchanges(type_.value_type, within=True)
    children = (type_.field(i) for i in range(type_.num_fields)) if pa.types.is_nested(type_) else ()
    return next((found for child in children if (found := _not_for_exchanges(child.type, within=True))), None)


def _is_plain(field: pa.Field) -> bool:
    """Whether a column's type and whether it may be NULL are all that there is to say of it."""
    composed = pa.types.is_nested(field.type) or pa.types.is_dictionary(field.type)
    special = pa.types.is_run_end_encoded(field.type) or isinstance(field.type, pa.BaseExtensionType)
    return not (composed or special or field.metadata)


def _encode_schema(ctx: SessionContext, schema: pa.Schema) -> bytes:
    """Encode an Arrow schema as DataFusion does, by letting it encode a scan of an empty table; its names are lost.

    Raises:
        PlanError: If DataFusion cannot make such a table.
    """
    by_position = pa.schema([field.with_name(f"c{i}") for i, field in enumerate(schema)])
    try:
        data = ctx.create_dataframe([[]], schema=by_position).execution_plan().to_bytes(ctx)
    except Exception as error:
        raise PlanError(f"cannot encode the schema {schema.to_string()}: {error}") from error
    scan = codec.decode(data)
    if scan.kind != "memory_scan":
        raise PlanError(f"an empty in-memory table was planned as {scan.kind}, not as a memory scan")
    encoded: bytes = codec.fields_of(scan).schema
    return encoded
