"""A difference as a file of its own: a script that holds tables and query, and runs both engines over them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc

from .lab import Lab, Setting
from .tables import Column, Kind, Table

_SCRIPT = '''"""{title}

Run it from the root of the repository: python {name}
"""

import datetime
from decimal import Decimal

from pandas import Timestamp

from tests.fuzz.reproduce import run

nan, inf = float("nan"), float("inf")

run(
    bees={bees},
    ends_here={ends_here},
    options={options!r},
    sql={sql!r},
    tables=[
{tables}    ],
)
'''


def write_script(path: Path, setting: Setting, sql: str, detail: str) -> None:
    """Write a script that shows a difference."""
    title = " ".join(detail.split())[:300].replace('"""', "'''").replace("\\", "/")
    tables = "".join(f"        {_table_as_text(table)},\n" for table in setting.tables)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        _SCRIPT.format(
            title=title,
            name=path,
            bees=setting.bees,
            ends_here=setting.ends_here,
            options=dict(setting.options),
            sql=sql,
            tables=tables,
        )
    )


def _table_as_text(table: Table) -> str:
    schema = base64.b64encode(table.schema.serialize().to_pybytes()).decode()
    parts = [part.to_pylist() for part in table.parts]
    columns = ", ".join(f"{column.name} {column.type}" for column in table.columns)
    about = {"name": table.name, "format": table.format, "group_rows": table.group_rows, "schema": schema}
    return f"# {columns}\n        dict(**{about!r}, parts={parts!r})"


def run(
    *, bees: int, options: Mapping[str, str], sql: str, tables: Sequence[Mapping[str, Any]], ends_here: bool = False
) -> None:
    """Run a query on plain DataFusion and on a swarm over tables that are given, and print both answers."""
    known = tuple(_table_of(about) for about in tables)
    setting = Setting(tables=known, bees=bees, options=options, ends_here=ends_here)
    print(f"{setting.describe()}\n\n{sql}")
    with Lab() as lab:
        lab.prepare(setting)
        for name, ctx in (("plain DataFusion", lab.plain), ("the swarm", lab.swarm)):
            print(f"\n{name}:")
            try:
                print(ctx.sql(sql).to_arrow_table().to_pandas().to_string())
            except Exception as error:  # noqa: BLE001 - DataFusion raises bare Exception; it is what is to be shown
                print(f"{type(error).__name__}: {error}")


def _table_of(about: Mapping[str, Any]) -> Table:
    schema = ipc.read_schema(pa.py_buffer(base64.b64decode(about["schema"])))
    return Table(
        name=about["name"],
        columns=tuple(Column(name=field.name, kind=Kind.INT, type=field.type) for field in schema),
        format=about["format"],
        parts=tuple(_part(rows, schema) for rows in about["parts"]),
        group_rows=about["group_rows"],
    )


def _part(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    arrays = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if pa.types.is_dictionary(field.type):
            arrays.append(pa.array(values, field.type.value_type).dictionary_encode().cast(field.type))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)
