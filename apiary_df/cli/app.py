"""The command ``apiary`` as typer sees it: all commands with their names and help texts."""

from __future__ import annotations

from typing import Annotated

import typer

from apiary_df.cli import NODE_COMMAND, demo, gc, key, node, replay, sql, status
from apiary_df.cli.exits import EXIT_CODES_HELP

app = typer.Typer(
    name="apiary",
    help="SQL on a swarm of processes that share nothing but a folder or a bucket.\n" + EXIT_CODES_HELP,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

app.command("sql", help=sql.HELP)(sql.sql)
app.command(NODE_COMMAND, help=node.HELP)(node.node)
app.command("status", help=status.HELP)(status.status)
app.command("replay", help=replay.HELP)(replay.replay)
app.command("key", help=key.HELP)(key.key)
app.command("gc", help=gc.HELP)(gc.gc)
app.command("demo", help=demo.HELP)(demo.demo)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"apiary-df {version('apiary-df')}, DataFusion {version('datafusion')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show versions and exit.")
    ] = False,
) -> None:
    """Hold what comes before a command."""
