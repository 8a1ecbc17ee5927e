"""How a command ends: the exit codes, and errors as a line for a person instead of a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from apiary_df.errors import ApiaryError, InputError, QueryTimeout, StorageError


class ExitCode(IntEnum):
    """What the command line's exit codes mean. Stable."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    STORAGE = 3
    TIMEOUT = 4
    INTERRUPTED = 130
    BROKEN_PIPE = 141


EXIT_CODES_HELP = """
**Exit codes**: 0 done; 1 the query or the swarm failed, or a demo's answer differs; 2 bad input (flags, settings, SQL,
tables); 3 the storage root; 4 timeout; 130 interrupted; 141 the reader of the output went away.
"""


def exit_code_of(error: ApiaryError) -> ExitCode:
    """Return the exit code of an error."""
    if isinstance(error, InputError):
        return ExitCode.BAD_INPUT
    if isinstance(error, StorageError):
        return ExitCode.STORAGE
    if isinstance(error, QueryTimeout):
        return ExitCode.TIMEOUT
    return ExitCode.FAILED


@contextmanager
def ending_well() -> Iterator[None]:
    """Turn what a command's body raises into a message on stderr and an exit code.

    Raises:
        typer.Exit: With the code, if the body raised an error of apiary_df, was interrupted, or lost its reader.
    """
    try:
        yield
    except ApiaryError as error:
        typer.echo(f"apiary: {error.message}", err=True)
        raise typer.Exit(exit_code_of(error)) from error
    except KeyboardInterrupt as interrupt:
        typer.echo("apiary: interrupted", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from interrupt
    except BrokenPipeError as error:
        # Python would complain once more when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.BROKEN_PIPE) from error
    except Exception as error:
        # What DataFusion raises has no class of its own. Anything that has one is a defect, and keeps its traceback.
        if type(error) is not Exception:
            raise
        typer.echo(f"apiary: {error}", err=True)
        raise typer.Exit(ExitCode.FAILED) from error
