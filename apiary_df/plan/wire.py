"""The small protobuf schema with which plans are read and written.

DataFusion's plan messages have hundreds of fields. This table names only the ones that apiary_df touches, under
DataFusion's field numbers; whatever else a message holds stays in it as unknown fields, which protobuf keeps
byte for byte, behind the known ones. (So that a plan which nobody changed comes out as it went in, a field in front of
a known one is named too.) Sub-messages that are only ever moved around as a whole (expressions, schemas, statistics)
are declared as ``bytes``, which has the same wire type. Everything is proto2, so that presence is visible on every
field.

The authority on the numbers is ``datafusion.proto`` of the pinned DataFusion minor version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "apiary_df.plan"
_Type = descriptor_pb2.FieldDescriptorProto


class Field(NamedTuple):
    """One field of a message: its number, its type (a scalar's or a message's name) and whether it repeats."""

    number: int
    type: str
    repeated: bool = False


def one(number: int, type_: str = "bytes") -> Field:
    """Return a field that stands at most once."""
    return Field(number, type_)


def many(number: int, type_: str = "bytes") -> Field:
    """Return a field that repeats."""
    return Field(number, type_, repeated=True)


_SCALARS = {
    "bytes": _Type.TYPE_BYTES,
    "string": _Type.TYPE_STRING,
    "bool": _Type.TYPE_BOOL,
    "uint32": _Type.TYPE_UINT32,
    "uint64": _Type.TYPE_UINT64,
    "int32": _Type.TYPE_INT32,
    "int64": _Type.TYPE_INT64,
}
_PACKABLE = {"bool", "uint32", "uint64", "int32", "int64"}

# Operators whose bodies are never looked into besides their inputs.
_UNARY = {"input": one(1)}
_PAIR = {"left": one(1), "right": one(2)}

# Operators that write files, alike but for their writer's options.
_SINK = {"input": one(1), "sink": one(2, "FileSink")}

OPERATOR_NUMBERS: Mapping[str, int] = {
    "parquet_scan": 1,
    "csv_scan": 2,
    "empty": 3,
    "projection": 4,
    "global_limit": 6,
    "local_limit": 7,
    "aggregate": 8,
    "hash_join": 9,
    "sort": 10,
    "coalesce_batches": 11,
    "filter": 12,
    "coalesce_partitions": 13,
    "repartition": 14,
    "window": 15,
    "cross_join": 16,
    "avro_scan": 17,
    "extension": 18,
    "union": 19,
    "explain": 20,
    "sort_preserving_merge": 21,
    "nested_loop_join": 22,
    "analyze": 23,
    "json_sink": 24,
    "symmetric_hash_join": 25,
    "interleave": 26,
    "placeholder_row": 27,
    "csv_sink": 28,
    "parquet_sink": 29,
    "unnest": 30,
    "json_scan": 31,
    "cooperative": 32,
    "generate_series": 33,
    "sort_merge_join": 34,
    "memory_scan": 35,
    "async_func": 36,
    "buffer": 37,
    "arrow_scan": 38,
    "scalar_subquery": 39,
}
"""Operator name to its field number in a plan node."""

EXPRESSIONS: Mapping[str, Mapping[str, Field]] = {
    "parquet_scan": {"base_conf": one(1, "ScanExprs"), "predicate": one(3, "AnyExpr")},
    "csv_scan": {"base_conf": one(1, "ScanExprs")},
    "avro_scan": {"base_conf": one(1, "ScanExprs")},
    "json_scan": {"base_conf": one(1, "ScanExprs")},
    "arrow_scan": {"base_conf": one(1, "ScanExprs")},
    "projection": {"expr": many(2, "AnyExpr")},
    "filter": {"expr": one(2, "AnyExpr")},
    "aggregate": {
        "group_expr": many(1, "AnyExpr"),
        "aggr_expr": many(2, "AnyExpr"),
        "null_expr": many(8, "AnyExpr"),
        "filter_expr": many(10, "ExprIn1"),
    },
    "window": {"window_expr": many(2, "WindowCall"), "partition_keys": many(5, "AnyExpr")},
    "sort": {"expr": many(2, "AnyExpr")},
    "sort_preserving_merge": {"expr": many(2, "AnyExpr")},
    "hash_join": {"on": many(3, "TwoExprs"), "filter": one(8, "ExprIn1")},
    "sort_merge_join": {"on": many(3, "TwoExprs"), "filter": one(5, "ExprIn1")},
    "nested_loop_join": {"filter": one(4, "ExprIn1")},
    "symmetric_hash_join": {"on": many(3, "TwoExprs"), "filter": one(8, "ExprIn1")},
    "repartition": {"partitioning": one(5, "PartitioningExprs")},
    "async_func": {"exprs": many(2, "AnyExpr")},
}
"""Operator name to the fields in which it keeps expressions: a second way to read its message, only ever read."""

_ANY_EXPR: Mapping[str, Mapping[str, Field]] = {
    # One expression: exactly one of these is set, beside an id.
    "AnyExpr": {
        "column": one(1),
        "literal": one(2),
        "binary": one(3, "Operands"),
        "aggregate_call": one(4, "AggregateCall"),
        "is_null": one(5, "ExprIn1"),
        "is_not_null": one(6, "ExprIn1"),
        "negation": one(7, "ExprIn1"),
        "case": one(8, "Case"),
        "cast": one(9, "ExprIn1"),
        "sort": one(10, "ExprIn1"),
        "negative": one(11, "ExprIn1"),
        "in_list": one(12, "InList"),
        "try_cast": one(14, "ExprIn1"),
        "window_call": one(15, "WindowCall"),
        "scalar_call": one(16, "ScalarCall"),
        "like": one(18, "Like"),
        "extension": one(19),
        "unknown_column": one(20),
        "hash": one(21, "ExprsIn1"),
        "scalar_subquery": one(22),
        "dynamic_filter": one(23),
        "higher_order_call": one(24, "ScalarCall"),
        "lambda": one(25, "ExprIn2"),
        "lambda_variable": one(26),
        "id": one(30, "uint64"),
    },
    "ExprIn1": {"expr": one(1, "AnyExpr")},
    "ExprIn2": {"expr": one(2, "AnyExpr")},
    "ExprsIn1": {"exprs": many(1, "AnyExpr")},
    "TwoExprs": {"first": one(1, "AnyExpr"), "second": one(2, "AnyExpr")},
    "Operands": {"left": one(1, "AnyExpr"), "right": one(2, "AnyExpr"), "operands": many(4, "AnyExpr")},
    "Case": {"expr": one(1, "AnyExpr"), "branches": many(2, "TwoExprs"), "otherwise": one(3, "AnyExpr")},
    "InList": {"expr": one(1, "AnyExpr"), "items": many(2, "AnyExpr")},
    "Like": {"expr": one(3, "AnyExpr"), "pattern": one(4, "AnyExpr")},
    "ScalarCall": {"name": one(1, "string"), "args": many(2, "AnyExpr"), "definition": one(3)},
    "AggregateCall": {
        "args": many(2, "AnyExpr"),
        "name": one(4, "string"),
        "order_by": many(5, "ExprIn1"),
        "definition": one(7),
    },
    "WindowCall": {
        "aggregate_name": one(3, "string"),
        "args": many(4, "AnyExpr"),
        "partition_by": many(5, "AnyExpr"),
        "order_by": many(6, "ExprIn1"),
        "definition": one(9),
        "window_name": one(10, "string"),
    },
    "PartitioningExprs": {"hash": one(2, "ExprsIn1"), "range": one(4, "SortKeys")},
    "SortKeys": {"keys": many(1, "ExprIn1")},
    "ScanExprs": {"projection": one(13, "ScanProjection")},
    "ScanProjection": {"columns": many(1, "ScanColumn")},
    "ScanColumn": {"alias": one(1, "string"), "expr": one(2, "AnyExpr")},
}

MESSAGES: Mapping[str, Mapping[str, Field]] = {
    **_ANY_EXPR,
    **{f"{kind}_expressions": fields for kind, fields in EXPRESSIONS.items()},
    # One plan node: exactly one of these is set.
    "PlanNode": {name: one(number) for name, number in OPERATOR_NUMBERS.items()},
    # -- operators -------------------------------------------------------------------------------------------
    "parquet_scan": {"base_conf": one(1, "FileScanConf"), "predicate": one(3), "parquet_options": one(4)},
    "csv_scan": {"base_conf": one(1, "FileScanConf")},
    "avro_scan": {"base_conf": one(1, "FileScanConf")},
    "json_scan": {"base_conf": one(1, "FileScanConf")},
    "arrow_scan": {"base_conf": one(1, "FileScanConf")},
    "memory_scan": {
        "partitions": many(1),
        "schema": one(2),
        "projection": many(3, "uint32"),
        "sort_information": many(4),
        "show_sizes": one(5, "bool"),
        "fetch": one(6, "uint32"),
    },
    "empty": {"schema": one(1), "partitions": one(2, "uint32")},
    "placeholder_row": {"schema": one(1), "partitions": one(2, "uint32")},
    "generate_series": {"schema": one(1)},
    "projection": {"input": one(1), "expr": many(2), "expr_name": many(3, "string")},
    "global_limit": {"input": one(1), "skip": one(2, "uint32"), "fetch": one(3, "int64")},
    "local_limit": {"input": one(1), "fetch": one(2, "uint32")},
    "aggregate": {
        "group_expr": many(1),
        "aggr_expr": many(2),
        "mode": one(3, "int32"),
        "input": one(4),
        "group_expr_name": many(5, "string"),
        "aggr_expr_name": many(6, "string"),
        "input_schema": one(7),
        "null_expr": many(8),
        "groups": many(9, "bool"),
        "filter_expr": many(10),
        "limit": one(11),
    },
    "hash_join": {
        "left": one(1),
        "right": one(2),
        "on": many(3, "JoinOn"),
        "join_type": one(4, "int32"),
        "partition_mode": one(6, "int32"),
        "null_equality": one(7, "int32"),
        "filter": one(8),
        "projection": many(9, "uint32"),
        "null_aware": one(10, "bool"),
    },
    "sort": {
        "input": one(1),
        "expr": many(2),
        "fetch": one(3, "int64"),
        "preserve_partitioning": one(4, "bool"),
    },
    "coalesce_batches": {"input": one(1), "target_rows": one(2, "uint32"), "fetch": one(3, "uint32")},
    "filter": {
        "input": one(1),
        "expr": one(2),
        "selectivity": one(3, "uint32"),
        "projection": many(9, "uint32"),
        "batch_rows": one(10, "uint32"),
        "fetch": one(11, "uint32"),
    },
    "coalesce_partitions": {"input": one(1), "fetch": one(2, "uint32")},
    "repartition": {"input": one(1), "partitioning": one(5, "Partitioning"), "preserve_order": one(6, "bool")},
    "window": {
        "input": one(1),
        "window_expr": many(2),
        "partition_keys": many(5),
        "linear": one(7),
        "partially_sorted": one(8),
        "sorted": one(9),
    },
    "cross_join": _PAIR,
    "extension": {"node": one(1), "inputs": many(2)},
    "union": {"inputs": many(1)},
    "explain": {},
    "sort_preserving_merge": {"input": one(1), "expr": many(2), "fetch": one(3, "int64")},
    "nested_loop_join": {**_PAIR, "join_type": one(3, "int32"), "filter": one(4)},
    "analyze": {"input": one(3)},
    "json_sink": _SINK,
    "symmetric_hash_join": _PAIR,
    "interleave": {"inputs": many(1)},
    "csv_sink": _SINK,
    "parquet_sink": _SINK,
    "unnest": _UNARY,
    "cooperative": _UNARY,
    "sort_merge_join": {**_PAIR, "on": many(3, "JoinOn"), "join_type": one(4, "int32")},
    "async_func": _UNARY,
    "buffer": _UNARY,
    "scalar_subquery": {"input": one(1), "subqueries": many(2)},
    # -- parts of operators ----------------------------------------------------------------------------------
    "JoinOn": {"left": one(1), "right": one(2)},
    "FileSink": {"config": one(1, "FileSinkConfig")},
    "FileSinkConfig": {
        "object_store_url": one(1, "string"),
        "file_groups": many(2),
        "table_paths": many(3, "string"),
        "output_schema": one(4),
        "table_partition_cols": many(5),
        "keep_partition_by_columns": one(9, "bool"),
        "insert_op": one(10, "int32"),
        "file_extension": one(11, "string"),
        "file_output_mode": one(12, "int32"),
    },
    "Partitioning": {"round_robin": one(1, "uint64"), "hash": one(2, "HashPartitioning"), "unknown": one(3, "uint64")},
    "HashPartitioning": {"expr": many(1), "count": one(2, "uint64")},
    "FileScanConf": {
        "file_groups": many(1, "FileGroup"),
        "schema": one(2),
        "projection": many(4, "uint32"),
        "limit": one(5, "ScanLimit"),
        "statistics": one(6),
        "table_partition_cols": many(7, "string"),
        "object_store_url": one(8, "string"),
        "output_ordering": many(9),
        "constraints": one(11),
        "batch_size": one(12, "uint64"),
        "projection_exprs": one(13),
        "partitioned_by_file_group": one(14, "bool"),
        "output_partitioning": one(15),
    },
    "ScanLimit": {"limit": one(1, "uint32")},
    # Of these, what tells how much of a file a scan reads, how many rows, and how many values a column may have.
    "Statistics": {"num_rows": one(1, "Precision"), "column_stats": many(3, "ColumnStatistics")},
    "ColumnStatistics": {
        "min_value": one(1, "Precision"),
        "max_value": one(2, "Precision"),
        "distinct_count": one(4, "Precision"),
        "byte_size": one(6, "Precision"),
    },
    "Precision": {"kind": one(1, "int32"), "value": one(2, "Count")},
    "Count": {
        "int8": one(4, "int32"),
        "int16": one(5, "int32"),
        "int32": one(6, "int32"),
        "int64": one(7, "int64"),
        "uint8": one(8, "uint32"),
        "uint16": one(9, "uint32"),
        "uint32": one(10, "uint32"),
        "uint64": one(11, "uint64"),
        "date32": one(14, "int32"),
    },
    "ProjectionExprs": {"projections": many(1, "ProjectionExpr")},
    "ProjectionExpr": {"expr": one(2, "Expr")},
    "FileGroup": {"files": many(1, "PartitionedFile")},
    "PartitionedFile": {
        "path": one(1, "string"),
        "size": one(2, "uint64"),
        "last_modified_ns": one(3, "uint64"),
        "partition_values": many(4),
        "range": one(5, "FileRange"),
        "statistics": one(6),
    },
    "FileRange": {"start": one(1, "int64"), "end": one(2, "int64")},
    "Schema": {"columns": many(1, "SchemaField")},
    "SchemaField": {"name": one(1, "string")},
    # -- logical plans, as far as tables are made of them (plan/listing) ---------------------------------------
    "LogicalPlan": {
        "listing_scan": one(1, "ListingScan"),
        "create_external_table": one(11, "CreateExternalTable"),
        "explain": one(12, "LogicalExplain"),
    },
    "ListingScan": {
        "paths": many(2, "string"),
        "file_extension": one(3, "string"),
        "projection": one(4),
        "schema": one(5),
        "filters": many(6),
        "table_partition_cols": many(7),
        "csv": one(10, "CsvFormat"),
        "json": one(15, "JsonFormat"),
    },
    "CsvFormat": {"options": one(5, "CsvOptions")},
    "CsvOptions": {"compression": one(5, "int32"), "terminator": one(17)},
    "JsonFormat": {"options": one(1, "JsonOptions")},
    "JsonOptions": {"compression": one(1, "int32"), "newline_delimited": one(4, "bool")},
    "LogicalExplain": {"input": one(1, "LogicalPlan")},
    "CreateExternalTable": {"schema": one(4, "DfSchema")},
    "DfSchema": {"columns": many(1, "DfField")},
    "DfField": {"field": one(1, "SchemaField")},
    # -- expressions, as far as they are looked into -----------------------------------------------------------
    "Expr": {"column": one(1, "Column"), "binary": one(3, "BinaryExpr"), "scalar_udf": one(16, "ScalarUdf")},
    "Column": {"name": one(1, "string"), "index": one(2, "uint32")},
    "BinaryExpr": {"left": one(1, "Expr"), "right": one(2, "Expr"), "op": one(3, "string")},
    "ScalarUdf": {"name": one(1, "string"), "args": many(2, "Expr"), "definition": one(3)},
    "SortExpr": {"expr": one(1, "Expr"), "asc": one(2, "bool"), "nulls_first": one(3, "bool")},
    "SortExprNode": {"sort": one(10, "SortExpr")},
    "WindowExpr": {"partition_by": many(5), "order_by": many(6, "SortExpr")},
    "AggregateExprNode": {"aggregate": one(4, "AggregateExpr")},
    "AggregateExpr": {"name": one(4, "string"), "args": many(2, "Expr"), "distinct": one(3, "bool")},
}
"""Message name to its fields. Operator messages carry the operator's name."""


def _file_descriptor(messages: Mapping[str, Mapping[str, Field]]) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="apiary_df/plan.proto", package=_PACKAGE, syntax="proto2")
    for message_name, fields in messages.items():
        message = file.message_type.add(name=message_name)
        for field_name, field in fields.items():
            label = _Type.LABEL_REPEATED if field.repeated else _Type.LABEL_OPTIONAL
            added = message.field.add(name=field_name, number=field.number, label=label)
            scalar = _SCALARS.get(field.type)
            if scalar is None:
                added.type = _Type.TYPE_MESSAGE
                added.type_name = f".{_PACKAGE}.{field.type}"
            else:
                added.type = scalar
                # prost writes repeated numbers packed; so does this side, to keep bytes stable.
                if field.repeated and field.type in _PACKABLE:
                    added.options.packed = True
    return file


def build_classes(messages: Mapping[str, Mapping[str, Field]]) -> dict[str, type[Any]]:
    """Return the protobuf classes of a schema, by message name."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file_descriptor(messages))
    file = pool.FindFileByName("apiary_df/plan.proto")
    return {name: message_factory.GetMessageClass(file.message_types_by_name[name]) for name in messages}


CLASSES: Mapping[str, type[Any]] = build_classes(MESSAGES)
"""Message name to the generated protobuf class."""
