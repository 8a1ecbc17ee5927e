"""Plan bytes to tree and back, and typed access to what the rules need of an operator.

Beside :mod:`apiary_df.plan.wire`, this is the only module that imports protobuf. It knows where an operator keeps its
inputs and how to build the few operators that rules insert. It decides nothing about plans.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from apiary_df.errors import PlanError, VersionMismatch
from apiary_df.model import ScanFile
from apiary_df.plan.spans import spans, varint
from apiary_df.plan.tree import UNKNOWN, PlanNode
from apiary_df.plan.wire import CLASSES, EXPRESSIONS, MESSAGES, OPERATOR_NUMBERS

SUPPORTED_DATAFUSION = "55."
"""Prefix of the DataFusion versions whose plan format this schema was written for."""

MAX_DEPTH = 200
"""Deepest plan that is decoded: what walks a tree takes up to three of the interpreter's 1,000 frames a level."""

COLLECT_LEFT, PARTITIONED, AUTO = 0, 1, 2
"""Partition modes of a hash join."""

PARTIAL, FINAL, FINAL_PARTITIONED, SINGLE, SINGLE_PARTITIONED, PARTIAL_REDUCE = range(6)
"""Modes of an aggregate."""

AGGREGATE_MODES = ("Partial", "Final", "FinalPartitioned", "Single", "SinglePartitioned", "PartialReduce")
JOIN_TYPES = (
    "Inner",
    "Left",
    "Right",
    "Full",
    "LeftSemi",
    "LeftAnti",
    "RightSemi",
    "RightAnti",
    "LeftMark",
    "RightMark",
)
LEFT_JOIN = JOIN_TYPES.index("Left")

_CHILD_FIELDS = ("input", "left", "right", "inputs", "subqueries")


def check_datafusion_version(version: str) -> None:
    """Check that plans of this DataFusion version can be decoded.

    Args:
        version: As ``datafusion.__version__`` gives it.

    Raises:
        VersionMismatch: If the plan format of that version is not the one that this schema describes.
    """
    if not version.startswith(SUPPORTED_DATAFUSION):
        raise VersionMismatch(
            f"cannot read physical plans of DataFusion {version}: this apiary_df knows the plan format of "
            f"{SUPPORTED_DATAFUSION}x; install datafusion>=55,<56",
            datafusion=version,
        )


def child_fields(kind: str) -> tuple[str, ...]:
    """Return the names of the fields in which an operator keeps its inputs, in order."""
    return tuple(name for name in _CHILD_FIELDS if name in MESSAGES[kind])


def decode(data: bytes) -> PlanNode:
    """Decode a physical plan.

    Args:
        data: What ``ExecutionPlan.to_bytes`` gave.

    Returns:
        The plan as a tree; operators that this schema does not know become leaves of kind ``unknown``.

    Raises:
        PlanError: If the bytes are not a plan, or the plan is nested too deeply.
    """
    return _decode(memoryview(data), 0)


def _decode(data: memoryview, depth: int) -> PlanNode:
    """Decode a node. Its inputs are sought in the bytes themselves: protobuf would copy each of them at every level."""
    if depth > MAX_DEPTH:
        raise PlanError(f"cannot decode the plan: it is nested more than {MAX_DEPTH} operators deep")
    present = list(spans(data))
    operator = CLASSES["PlanNode"].DESCRIPTOR.fields_by_number.get(present[0].number) if len(present) == 1 else None
    if operator is None:
        return PlanNode(UNKNOWN, bytes(data))
    kind: str = operator.name
    body = data[present[0].value : present[0].end]
    names = child_fields(kind)
    if not names:
        return PlanNode(kind, bytes(body))
    inputs: dict[int, list[memoryview]] = {MESSAGES[kind][name].number: [] for name in names}
    rest: list[memoryview] = []
    for span in spans(body):
        if span.number in inputs:
            inputs[span.number].append(body[span.value : span.end])
        else:
            rest.append(body[span.start : span.end])
    children: list[PlanNode] = []
    for name in names:
        found = inputs[MESSAGES[kind][name].number]
        present_inputs = found if MESSAGES[kind][name].repeated else (found or [memoryview(b"")])[-1:]
        children += [_decode(child, depth + 1) for child in present_inputs]
    message = parse(kind, b"".join(rest))
    return PlanNode(kind, message.SerializeToString(deterministic=True), tuple(children))


def encode(node: PlanNode) -> bytes:
    """Encode a tree as plan bytes, for ``ExecutionPlan.from_bytes``.

    Raises:
        PlanError: If a node has not as many inputs as its operator takes, or is of an operator that is not known.
    """
    if node.kind == UNKNOWN:
        return node.body
    body = node.body
    fields = child_fields(node.kind)
    if fields:
        message = parse(node.kind, body)
        _set_children(message, node, fields)
        body = message.SerializeToString(deterministic=True)
    try:
        wrapper = CLASSES["PlanNode"](**{node.kind: body})
    except ValueError as error:
        raise PlanError(f"cannot encode the plan: this version knows no operator {node.kind!r}") from error
    encoded: bytes = wrapper.SerializeToString(deterministic=True)
    return encoded


def _set_children(message: Any, node: PlanNode, fields: Sequence[str]) -> None:
    children = [encode(child) for child in node.children]
    single = [name for name in fields if not MESSAGES[node.kind][name].repeated]
    if len(children) < len(single) or (len(children) > len(single) and len(single) == len(fields)):
        raise PlanError(f"{node.kind} has {len(children)} inputs, its operator takes {len(fields)}")
    for name in fields:
        if name in single:
            setattr(message, name, children.pop(0))
        else:
            getattr(message, name).extend(children)
            children = []


def parse(message: str, data: bytes) -> Any:
    """Parse bytes as one of the messages of :data:`apiary_df.plan.wire.MESSAGES`.

    Raises:
        PlanError: If the bytes are not such a message.
    """
    try:
        return CLASSES[message].FromString(data)
    except DecodeError as error:
        raise PlanError(f"cannot decode {len(data)} bytes as {message}: {error}") from error


def text(value: Any) -> str:
    """Return a text field's value.

    Raises:
        PlanError: If its bytes are no UTF-8, in which case protobuf hands out the bytes.
    """
    if not isinstance(value, str):
        raise PlanError(f"cannot decode the plan: a text in it is no UTF-8: {value!r:.100}")
    return value


def fields_of(node: PlanNode) -> Any:
    """Return a node's operator message, for reading."""
    return parse(node.kind, node.body)


def build(kind: str, *children: PlanNode, **fields: Any) -> PlanNode:
    """Build a node of an operator from field values and inputs."""
    message = CLASSES[kind](**fields)
    return PlanNode(kind, message.SerializeToString(deterministic=True), tuple(children))


def replace(node: PlanNode, *children: PlanNode, **fields: Any) -> PlanNode:
    """Return a node with some fields set to other values; inputs stay unless others are given.

    A value of None clears the field.
    """
    message = fields_of(node)
    for name, value in fields.items():
        message.ClearField(name)
        if value is None:
            continue
        target = getattr(message, name)
        if MESSAGES[node.kind][name].repeated:
            target.extend(value)
        elif hasattr(target, "CopyFrom"):
            target.CopyFrom(value)
        else:
            setattr(message, name, value)
    return PlanNode(node.kind, message.SerializeToString(deterministic=True), children or node.children)


# -- operators that rules insert -------------------------------------------------------------------------------


def coalesce(child: PlanNode, fetch: int | None = None) -> PlanNode:
    """Build a gather of all partitions into one, in any order."""
    return build("coalesce_partitions", child, **({} if fetch is None else {"fetch": fetch}))


def local_limit(child: PlanNode, fetch: int) -> PlanNode:
    """Build a limit that holds for each partition by itself."""
    return build("local_limit", child, fetch=fetch)


def hash_repartition(child: PlanNode, exprs: Iterable[bytes], count: int) -> PlanNode:
    """Build a shuffle by the hash of expressions."""
    hashing = CLASSES["HashPartitioning"](expr=list(exprs), count=count)
    return build("repartition", child, partitioning=CLASSES["Partitioning"](hash=hashing))


def union(children: Sequence[PlanNode]) -> PlanNode:
    """Build a union that lays its inputs' partitions end to end."""
    return build("union", *children)


def sum_of_column(child: PlanNode, name: str, schema: bytes) -> PlanNode:
    """Build an aggregate of one row and one column: the sum of the input's first column, under the same name.

    Args:
        child: The input, of one partition.
        name: The column.
        schema: The input's encoded schema message.
    """
    column = CLASSES["Expr"](column=CLASSES["Column"](name=name, index=0))
    total = CLASSES["AggregateExpr"](name="sum", args=[column])
    return build(
        "aggregate",
        child,
        aggr_expr=[CLASSES["AggregateExprNode"](aggregate=total).SerializeToString(deterministic=True)],
        aggr_expr_name=[name],
        mode=SINGLE,
        input_schema=schema,
        filter_expr=[b""],
    )


def rename_projection(child: PlanNode, inner: Sequence[str], outer: Sequence[str]) -> PlanNode:
    """Build a projection that passes columns through by position under other names."""
    return build("projection", child, expr=[column(i, name) for i, name in enumerate(inner)], expr_name=list(outer))


def arrow_scan(schema: bytes, object_store_url: str) -> PlanNode:
    """Build an Arrow IPC scan with one empty file group, to be filled by a task.

    Args:
        schema: Encoded schema message of the files.
        object_store_url: Store that the files lie in, as DataFusion names it (``file:///``).
    """
    conf = CLASSES["FileScanConf"](
        file_groups=[CLASSES["FileGroup"]()],
        schema=schema,
        statistics=b"",
        constraints=b"",
        object_store_url=object_store_url,
    )
    return build("arrow_scan", base_conf=conf)


# -- in-memory tables ------------------------------------------------------------------------------------------


def table_partitions(node: PlanNode) -> int:
    """Return how many partitions an in-memory table has; its rows, which may be many megabytes, are not touched."""
    return len(_without_partitions(node.body)[0])


def emptied_table(node: PlanNode) -> PlanNode:
    """Return an in-memory table without its rows, of one partition."""
    _, rest = _without_partitions(node.body)
    return PlanNode(node.kind, varint(MESSAGES["memory_scan"]["partitions"].number << 3 | 2) + b"\0" + rest)


def _without_partitions(body: bytes) -> tuple[list[int], bytes]:
    """Return the lengths of a memory scan's partitions, and the message without them; protobuf would copy them all.

    Raises:
        PlanError: If the bytes are no message.
    """
    wanted = MESSAGES["memory_scan"]["partitions"].number
    fields = list(spans(memoryview(body)))
    lengths = [field.end - field.value for field in fields if field.number == wanted]
    return lengths, b"".join(body[field.start : field.end] for field in fields if field.number != wanted)


# -- what rules ask of an operator ------------------------------------------------------------------------------


def scan_conf(node: PlanNode) -> Any:
    """Return a file scan's configuration message, for reading."""
    return fields_of(node).base_conf


def scan_groups(node: PlanNode) -> list[list[ScanFile]]:
    """Return a file scan's file groups."""
    return [[_scan_file(f) for f in group.files] for group in scan_conf(node).file_groups]


def scan_group_count(node: PlanNode) -> int:
    """Return how many file groups a file scan has; each is a partition."""
    return len(scan_conf(node).file_groups)


def _scan_file(file: Any) -> ScanFile:
    ranged = file.HasField("range")
    return ScanFile(
        path=file.path,
        size_bytes=file.size,
        last_modified_ns=file.last_modified_ns,
        partition_values=tuple(file.partition_values),
        range_start=file.range.start if ranged else None,
        range_end=file.range.end if ranged else None,
    )


def with_scan_groups(
    node: PlanNode, groups: Iterable[Iterable[ScanFile]], object_store_url: str | None = None
) -> PlanNode:
    """Return a file scan over other file groups (and, if given, in another store)."""
    message = fields_of(node)
    conf = message.base_conf
    conf.ClearField("file_groups")
    if object_store_url is not None:
        conf.object_store_url = object_store_url
    for group in groups:
        added = conf.file_groups.add()
        for file in group:
            entry = added.files.add(
                path=file.path,
                size=file.size_bytes,
                last_modified_ns=file.last_modified_ns,
                partition_values=list(file.partition_values),
            )
            if file.range_start is not None and file.range_end is not None:
                entry.range.start = file.range_start
                entry.range.end = file.range_end
    return PlanNode(node.kind, message.SerializeToString(deterministic=True))


def hash_of_repartition(node: PlanNode) -> tuple[tuple[bytes, ...], int] | None:
    """Return the expressions and partition count of a hash repartition; None for any other."""
    if node.kind != "repartition":
        return None
    partitioning = fields_of(node).partitioning
    if not partitioning.HasField("hash"):
        return None
    return tuple(partitioning.hash.expr), partitioning.hash.count


def with_one_partition(node: PlanNode) -> PlanNode:
    """Return a hash or round-robin repartition into one partition; any other node as it is."""
    if node.kind != "repartition":
        return node
    message = fields_of(node)
    if message.partitioning.HasField("hash"):
        message.partitioning.hash.count = 1
    elif message.partitioning.HasField("round_robin"):
        message.partitioning.round_robin = 1
    return PlanNode(node.kind, message.SerializeToString(deterministic=True), node.children)


def with_hash_partitions(node: PlanNode, count: int) -> PlanNode:
    """Return a hash repartition into another number of partitions."""
    message = fields_of(node)
    message.partitioning.hash.count = count
    return PlanNode(node.kind, message.SerializeToString(deterministic=True), node.children)


def keeps_order(node: PlanNode) -> bool:
    """Whether a node is a hash repartition that merges rows in order, in each of its partitions."""
    if node.kind != "repartition":
        return False
    fields = fields_of(node)
    return bool(fields.preserve_order) and bool(fields.partitioning.HasField("hash"))


def window_partition_keys(node: PlanNode) -> tuple[bytes, ...]:
    """Return the PARTITION BY expressions of a window, which all of its functions share."""
    return tuple(parse("WindowExpr", fields_of(node).window_expr[0]).partition_by)


def window_order(node: PlanNode) -> tuple[bytes, ...]:
    """Return the ORDER BY of a window, which all of its functions share, as the items of a sort."""
    items = parse("WindowExpr", fields_of(node).window_expr[0]).order_by
    return tuple(CLASSES["SortExprNode"](sort=item).SerializeToString(deterministic=True) for item in items)


def sort_key(sort_expr: bytes) -> bytes:
    """Return the expression that one item of a sort sorts by."""
    key: bytes = parse("SortExprNode", sort_expr).sort.expr.SerializeToString(deterministic=True)
    return key


def sort_like(model: bytes | None, key: bytes) -> bytes:
    """Build an item of a sort in the direction of another one; ascending, NULLs last, without one."""
    item = parse("SortExprNode", model) if model is not None else CLASSES["SortExprNode"]()
    item.sort.asc = item.sort.asc if model is not None else True
    item.sort.expr.CopyFrom(parse("Expr", key))
    encoded: bytes = item.SerializeToString(deterministic=True)
    return encoded


def normal_expr(expr: bytes) -> bytes:
    """Return an expression's bytes with its fields in one order, so that equal expressions have equal bytes."""
    normal: bytes = parse("Expr", expr).SerializeToString(deterministic=True)
    return normal


def column_of(expr: bytes) -> tuple[int, str] | None:
    """Return position and name of the column that an expression is; None if it is any other."""
    message = parse("Expr", expr)
    if not message.HasField("column"):
        return None
    return message.column.index, text(message.column.name)


def scan_width(node: PlanNode) -> int | None:
    """Return how many columns a file scan hands on; None if its projection is not spelled out."""
    conf = scan_conf(node)
    if conf.HasField("projection_exprs"):
        return len(parse("ScanProjection", conf.projection_exprs).columns)
    if node.kind != "arrow_scan" or conf.projection or conf.table_partition_cols:
        return None
    return len(parse("Schema", conf.schema).columns)


def scan_rows(node: PlanNode) -> int | None:
    """Return how many rows a file scan's statistics tell of; None if they tell of none."""
    known = parse("Statistics", scan_conf(node).statistics).num_rows
    return known.value.uint64 if known.value.HasField("uint64") else None


def scan_values(node: PlanNode, index: int) -> int | None:
    """Return how many values a column of a scan may have at most, by its statistics; None if they do not tell.

    They do of numbers and dates: these cannot be more than lie between the least and the largest, nor than rows.
    """
    conf = scan_conf(node)
    statistics = parse("Statistics", conf.statistics)
    columns = parse("ProjectionExprs", conf.projection_exprs).projections
    if index >= len(columns) or not columns[index].expr.HasField("column"):
        return None
    stored = columns[index].expr.column.index
    if stored >= len(statistics.column_stats):
        return None
    told = statistics.column_stats[stored]
    rows, distinct = _number(statistics.num_rows), _number(told.distinct_count)
    least, most = _number(told.min_value), _number(told.max_value)
    between = None if least is None or most is None else most - least + 1
    known = [bound for bound in (rows, distinct, between) if bound is not None]
    return None if distinct is None and between is None else min(known)


def _number(told: Any) -> int | None:
    """Return a whole number that statistics tell of; None if they tell of none, or of something else."""
    present = told.value.ListFields()
    return int(present[0][1]) if present else None


def semi_join(keys: PlanNode, kept: PlanNode, on: Iterable[tuple[bytes, bytes]], null_equality: int) -> PlanNode:
    """Build a join that hands on those rows of its second input whose key is among those of its first, in order.

    Args:
        keys: The keys, in one partition; it is collected.
        kept: The rows.
        on: Expressions of the first and the second input that are to be equal.
        null_equality: As in the join that the keys are for.
    """
    pairs = [CLASSES["JoinOn"](left=left, right=right) for left, right in on]
    return build(
        "hash_join",
        keys,
        kept,
        on=pairs,
        join_type=JOIN_TYPES.index("RightSemi"),
        partition_mode=COLLECT_LEFT,
        null_equality=null_equality,
    )


def column(index: int, name: str) -> bytes:
    """Build the expression that is a column of the input."""
    encoded: bytes = CLASSES["Expr"](column=CLASSES["Column"](name=name, index=index)).SerializeToString()
    return encoded


def is_round_robin(node: PlanNode) -> bool:
    """Whether a node is a round-robin repartition."""
    return node.kind == "repartition" and fields_of(node).partitioning.HasField("round_robin")


def is_bounded_window(node: PlanNode) -> bool:
    """Whether a window node keeps only a part of its input in memory: these say how their input is ordered."""
    fields = fields_of(node)
    return any(fields.HasField(name) for name in ("linear", "partially_sorted", "sorted"))


def schema_columns(schema: bytes) -> list[bytes]:
    """Return the columns of an encoded schema message, each encoded."""
    return [column.SerializeToString(deterministic=True) for column in parse("Schema", schema).columns]


def schema_of_columns(columns: Sequence[bytes], names: Sequence[str]) -> bytes:
    """Return the schema message of encoded columns, under other names.

    Raises:
        PlanError: If there are not as many names as columns.
    """
    if len(names) != len(columns):
        raise PlanError(f"a schema of {len(columns)} columns got {len(names)} names")
    message = CLASSES["Schema"]()
    for column, name in zip(columns, names, strict=True):
        added = message.columns.add()
        added.MergeFromString(column)
        added.name = name
    encoded: bytes = message.SerializeToString(deterministic=True)
    return encoded


def calls_of(node: PlanNode) -> Iterator[tuple[str, str, bool]]:
    """Yield what an operator's expressions call, however deep: message, name, whether the plan carries its definition.

    The message is that of :data:`apiary_df.plan.wire.MESSAGES`: ``ScalarCall``, ``AggregateCall``, ``WindowCall``, or
    ``AnyExpr`` with the name ``""`` for an expression that cannot be looked into.

    Raises:
        PlanError: If the operator's message cannot be decoded.
    """
    if node.kind in EXPRESSIONS:
        yield from _calls(parse(f"{node.kind}_expressions", node.body))


_CALLS = frozenset({"ScalarCall", "AggregateCall", "WindowCall"})
_CLOSED = frozenset({"extension", "scalar_subquery", "dynamic_filter"})
"""Expressions that are not looked into."""


def _calls(message: Any) -> Iterator[tuple[str, str, bool]]:
    kind = message.DESCRIPTOR.name
    present = message.ListFields()
    if kind in _CALLS:
        name = message.aggregate_name or message.window_name if kind == "WindowCall" else message.name
        yield kind, name, message.HasField("definition")
    elif kind == "AnyExpr" and {field.name for field, _ in present} <= {"id"} | _CLOSED:
        yield kind, "", False
    for field, value in present:
        if field.message_type is not None:
            for item in [value] if hasattr(value, "ListFields") else value:
                yield from _calls(item)


def unknown_name(node: PlanNode) -> str:
    """Return how to call an operator that this version does not know: by its number in the plan format.

    Gathers that were put on top of it are looked through.
    """
    data = node.body
    while (present := parse("PlanNode", data).ListFields()) and present[0][0].name == "coalesce_partitions":
        data = parse("coalesce_partitions", present[0][1]).input
    number = next((span.number for span in spans(memoryview(data))), 0)
    return f"operator number {number} of the plan format"


def operator_number(kind: str) -> int:
    """Return the field number of an operator in a plan node."""
    return OPERATOR_NUMBERS[kind]
