"""The command line: ``apiary node``, ``apiary sql``, ``apiary status`` and ``apiary demo``.

What belongs here: reading arguments, showing results, exit codes. What does not: anything that a Python program could
not do as well through the package; a command is a short use of the public API. One module a command; what several of
them need is in ``exits`` (how a command ends), ``inputs`` (arguments) and ``output`` (formats).
"""

from __future__ import annotations


def main() -> None:
    """Run the command line with the process's arguments, and exit."""
    from apiary_df.cli.app import app

    app(prog_name="apiary")
