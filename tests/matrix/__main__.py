"""Run the failure matrix: all of it, or the cells whose names hold a word.

``python -m tests.matrix [--only WORD] [--page docs/failures.md]``
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from .cells import all_cells, differences, run
from .lab import Lab
from .page import with_table
from .shapes import plan_shapes


def main(
    only: Annotated[str, typer.Option(help="Run the cells whose names hold this.")] = "",
    page: Annotated[Path | None, typer.Option(help="Write the table into this page, and run nothing.")] = None,
    verbose: Annotated[bool, typer.Option(help="Name every cell, and what came of it.")] = False,
) -> None:
    """Run every cell of the failure matrix."""
    if page is not None:
        page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")
        return
    logging.disable(logging.CRITICAL)  # a thousand faults make thousands of warnings
    wrong = ran = 0
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="apiary-matrix-") as folder:
        planned = plan_shapes(Path(folder))
        lab = Lab(Path(folder))
        for cell in all_cells():
            if only not in str(cell):
                continue
            seen = run(lab, planned[cell.shape], cell)
            found = differences(cell, planned[cell.shape], seen)
            ran += 1
            wrong += bool(found)
            if found or verbose:
                sys.stdout.write(
                    f"{cell}: {'; '.join(found) or 'as expected'} [{seen.error!r} +{seen.extra} {seen.seconds:.2f} s]\n"
                )
        lab.close()
    sys.stdout.write(f"{ran} cells, {wrong} not as expected, {time.monotonic() - started_s:.0f} s\n")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    typer.run(main)
