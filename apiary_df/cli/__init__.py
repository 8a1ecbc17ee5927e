"""The command line: ``apiary node``, ``sql``, ``status``, ``replay``, ``gc``, ``key`` and ``demo``.

What belongs here: reading arguments, showing results, exit codes. What does not: anything that a Python program could
not do as well through the package; a command is a short use of the public API. One module a command; what several of
them need is in ``exits`` (how a command ends), ``inputs`` (arguments) and ``output`` (formats).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

NODE_COMMAND = "node"

NODE_LIBRARY_VARIABLES: Mapping[str, str] = {
    # The engine's allocator keeps memory that a task frees for the next one, until the end. What the bees may hold is
    # bounded by their budgets, and handing each task fresh pages makes large shuffles take up to twice as long.
    "MIMALLOC_PURGE_DELAY": "-1",
    # These libraries would start threads when they are loaded, and a process with threads must not be forked. The
    # first is an allocator of pyarrow's that is not in use; and a bee is to use one core.
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OPENBLAS_NUM_THREADS": "1",
}
"""What libraries are told in a node by the environment, unless it says something else; they read it when loaded."""


def main() -> None:
    """Run the command line with the process's arguments, and exit."""
    if NODE_COMMAND in sys.argv[1:2]:
        for name, value in NODE_LIBRARY_VARIABLES.items():
            os.environ.setdefault(name, value)
    from apiary_df.cli.app import app

    app(prog_name="apiary")
