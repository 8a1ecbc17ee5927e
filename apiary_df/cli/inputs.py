"""Arguments that several commands take: settings, and tables by path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import datafusion
import typer

from apiary_df.config import Settings
from apiary_df.errors import ConfigError, TableError
from apiary_df.machine import load_settings
from apiary_df.store import StoreOptions
from apiary_df.tables import CellTable, register
from apiary_df.tables.cells import COMPRESSIONS, EXTENSIONS

STORAGE_HELP = "URL or folder of the swarm: s3://bucket/prefix, gs://..., az://..., file:///folder, or a path."

StorageOption = Annotated[
    str | None, typer.Option("--storage", "-s", envvar="APIARY_STORAGE", metavar="URL", help=STORAGE_HELP)
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings in TOML; APIARY_CONFIG names one as well."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting, over file and environment, such as small_bytes=1MiB."),
]
AllowRootOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-root",
        metavar="URL",
        help="Folder or bucket prefix of tables and of files to write, besides --storage; again for more.",
    ),
]


def settings_from(config: Path | None, assignments: Sequence[str] | None, **more: object) -> Settings:
    """Return the settings of the file, the environment, ``--set`` and further flags, weakest first.

    Args:
        config: The settings file that was named, or None.
        assignments: Texts ``name=value``.
        **more: Settings by name; None means that the flag was not given.

    Raises:
        ConfigError: If something in it is not a setting or not allowed.
    """
    given: dict[str, object] = dict(_pair(text, "--set") for text in assignments or ())
    given.update({name: value for name, value in more.items() if value is not None})
    return load_settings(config, None, **given)


def register_tables(
    ctx: datafusion.SessionContext, tables: Sequence[str] | None, options: StoreOptions | None = None
) -> None:
    """Register what ``--table name=PATH`` names.

    Args:
        ctx: The session.
        tables: Texts ``name=PATH``; a path is a file, a folder or a URL of Parquet, CSV, JSON or Arrow.
        options: How to reach the store that the paths point into.

    Raises:
        ConfigError: If a text has no name or no path.
        TableError: If a path holds no table.
        StorageError: If the store cannot be asked.
    """
    for text in tables or ():
        name, place = _pair(text, "--table")
        register(ctx, f'"{name}"' if not name.isidentifier() else name, find_table(place, options))


def find_table(place: str, options: StoreOptions | None = None) -> CellTable:
    """Return what lies at a place as a table: by its extension, or by what a folder holds, Parquet first.

    Raises:
        TableError: If there are no files of a known format.
        StorageError: If the store cannot be asked.
    """
    for format_, endings in EXTENSIONS.items():
        for compression, suffix in (None, ""), *COMPRESSIONS.items():
            if place.lower().endswith(tuple(ending + suffix for ending in endings)):
                return CellTable.from_prefix(place, format=format_, compression=compression, options=options)
    first: TableError | None = None
    for format_ in EXTENSIONS:
        try:
            return CellTable.from_prefix(place, format=format_, options=options)
        except TableError as error:
            first = first or error
    assert first is not None
    raise first


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise ConfigError(f"{flag} {text!r}: write name=value", flag=flag)
    return name.strip(), value.strip()
