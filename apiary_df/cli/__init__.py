"""The command line: ``apiary node``, ``sql``, ``status``, ``replay``, ``gc``, ``key`` and ``demo``.

What belongs here: reading arguments, showing results, exit codes. What does not: anything that a Python program could
not do as well through the package; a command is a short use of the public API. One module a command; what several of
them need is in ``exits`` (how a command ends), ``inputs`` (arguments) and ``output`` (formats).
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentError, ArgumentParser
from collections.abc import Mapping, Sequence

from apiary_df.errors import ConfigError
from apiary_df.late_pandas import load_datafusion
from apiary_df.units import parse_size

NODE_COMMAND = "node"

KEEPING_BEE_BYTES = 256 << 20
"""Bees of at least this budget keep freed memory for their next task.

Handing each task fresh pages makes large shuffles take up to twice as long. But each thread keeps its own, 100 MB
and more in a shuffle of a hundred partitions, which a smaller bee does not have.
"""

NODE_LIBRARY_VARIABLES: Mapping[str, str] = {
    # These libraries would start threads when they are loaded, and a process with threads must not be forked. The
    # first is an allocator of pyarrow's that is not in use; and a bee is to use one core.
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OPENBLAS_NUM_THREADS": "1",
}
"""What libraries are told in a node by the environment, unless it says something else; they read it when loaded."""


def main() -> None:
    """Run the command line with the process's arguments, and exit."""
    if NODE_COMMAND in sys.argv[1:2]:
        kept = "0" if _bees_are_small(sys.argv[2:]) else "-1"
        for name, value in (*NODE_LIBRARY_VARIABLES.items(), ("MIMALLOC_PURGE_DELAY", kept)):
            os.environ.setdefault(name, value)
        load_datafusion()
    from apiary_df.cli.app import app

    app(prog_name="apiary")


def _bees_are_small(arguments: Sequence[str]) -> bool:
    """Whether a node's arguments give its bees too little memory to keep any; typer reads them when it is too late."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--memory")
    parser.add_argument("--bees", type=int, default=1)
    try:
        given, _ = parser.parse_known_args(list(arguments))
        return given.memory is not None and parse_size(given.memory) < KEEPING_BEE_BYTES * max(1, given.bees)
    except (ArgumentError, ConfigError):
        return False  # typer says what is wrong
