"""The output schema of a plan tree, asked of DataFusion without reading any input.

A decoded plan does not say its schema in Python. A left nested-loop join of one empty row with the plan, limited to no
rows, yields exactly one row whose columns have the plan's types; no operator below the limit is ever polled.
All columns come back nullable: what reads an exchange does not rest on nullability, and a query's result gets
the schema of the query.
"""

from __future__ import annotations

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


def output_schema(ctx: SessionContext, node: PlanNode) -> pa.Schema:
    """Return the Arrow schema that a plan produces; every column nullable.

    Args:
        ctx: A session that knows the functions that the plan names.
        node: The plan; its scans are emptied first, so no file is touched.

    Raises:
        PlanError: If DataFusion cannot decode the plan.
    """
    probe = codec.build(
        "nested_loop_join",
        codec.build("placeholder_row", schema=b""),
        codec.local_limit(codec.coalesce(emptied(node)), 0),
        join_type=codec.LEFT_JOIN,
    )
    try:
        plan = ExecutionPlan.from_bytes(ctx, codec.encode(probe))
        batch = next(iter(ctx.execute(plan, 0))).to_pyarrow()
    except (Exception, StopIteration) as error:
        raise PlanError(f"cannot tell the schema of a {node.kind} plan: {error}") from error
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


def exchange_schema(ctx: SessionContext, node: PlanNode) -> ExchangeSchema:
    """Return the schema of an exchange fed by ``node``.

    Raises:
        PlanError: If the schema cannot be told or holds a type that an exchange cannot carry.
    """
    schema = SINK_SCHEMA if node.kind in SINKS else output_schema(ctx, node)
    for field in schema:
        unfit = _not_for_exchanges(field.type)
        if unfit is not None:
            raise PlanError(f"column {field.name!r} cannot pass from task to task: {unfit}; cast it to its plain type")
    names = tuple(schema.names)
    unique = names if len(set(names)) == len(names) else tuple(f"c{i}" for i in range(len(names)))
    arrow = pa.schema([field.with_name(name) for field, name in zip(schema, unique, strict=True)])
    return ExchangeSchema(arrow=arrow, encoded=_encode_schema(ctx, arrow), names=names)


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


def _encode_schema(ctx: SessionContext, schema: pa.Schema) -> bytes:
    """Encode an Arrow schema as DataFusion does, by letting it encode a scan of an empty table."""
    by_position = pa.schema([field.with_name(f"c{i}") for i, field in enumerate(schema)])
    try:
        data = ctx.create_dataframe([[]], schema=by_position).execution_plan().to_bytes(ctx)
    except Exception as error:
        raise PlanError(f"cannot encode the schema {schema.to_string()}: {error}") from error
    scan = codec.decode(data)
    if scan.kind != "memory_scan":
        raise PlanError(f"an empty in-memory table was planned as {scan.kind}, not as a memory scan")
    return codec.schema_with_names(codec.fields_of(scan).schema, schema.names)
