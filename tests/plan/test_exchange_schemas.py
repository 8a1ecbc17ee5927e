"""What is remembered of schemas is what DataFusion would say if it were asked again."""

from __future__ import annotations

import datafusion
import pyarrow as pa
import pytest

from apiary_df.plan import codec
from apiary_df.plan.schema import ExchangeSchemas
from apiary_df.plan.tree import PlanNode

NOTE = {b"note": b"kept"}
COLUMNS = {
    "plain": [pa.field("a", pa.int64()), pa.field("b", pa.string_view()), pa.field("c", pa.decimal128(15, 2))],
    "other parameters": [pa.field("a", pa.decimal128(15, 3)), pa.field("b", pa.timestamp("us", "UTC"))],
    "metadata": [pa.field("a", pa.int64(), metadata=NOTE), pa.field("b", pa.int64())],
    "metadata within": [pa.field("a", pa.struct([pa.field("x", pa.int64(), metadata=NOTE)]))],
    "nested alike": [pa.field("a", pa.struct([pa.field("x", pa.int64())])), pa.field("b", pa.list_(pa.int64()))],
    "dictionary": [pa.field("a", pa.dictionary(pa.int32(), pa.string())), pa.field("b", pa.string())],
    "names twice": [pa.field("a", pa.int64()), pa.field("a", pa.string())],
}


@pytest.fixture(scope="module")
def session() -> datafusion.SessionContext:
    return datafusion.SessionContext()


def table_of(session: datafusion.SessionContext, fields: list[pa.Field]) -> PlanNode:
    by_position = pa.schema([field.with_name(f"c{i}") for i, field in enumerate(fields)])
    frame = session.create_dataframe([[pa.RecordBatch.from_pylist([], schema=by_position)]])
    scan = codec.decode(frame.execution_plan().to_bytes(session))
    columns = codec.schema_columns(codec.fields_of(scan).schema)
    named = codec.schema_of_columns(columns, [field.name for field in fields])
    return codec.coalesce(codec.replace(scan, schema=named))


@pytest.mark.parametrize("name", COLUMNS)
def test_a_schema_is_the_same_whatever_was_asked_before(name: str, session: datafusion.SessionContext) -> None:
    table = table_of(session, COLUMNS[name])
    used = ExchangeSchemas()
    for fields in COLUMNS.values():
        used.of(session, table_of(session, fields))
    anew = ExchangeSchemas().of(session, table)
    used.forget()
    for known in (used.of(session, table), used.of(session, table)):
        assert known == anew
        assert known.arrow.equals(anew.arrow, check_metadata=True)
    assert anew.names == tuple(field.name for field in COLUMNS[name])


def test_what_is_remembered_is_not_asked_again(session: datafusion.SessionContext) -> None:
    schemas = ExchangeSchemas()
    table = table_of(session, COLUMNS["plain"])
    first = schemas.of(session, table)
    sorted_rows = codec.build("sort", table, preserve_partitioning=True)
    assert schemas.of(session, sorted_rows) is first
