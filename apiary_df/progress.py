"""A line on the terminal while a query runs longer than a moment."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from apiary_df.config import Settings

if TYPE_CHECKING:
    from rich.progress import Progress

_display_lock = threading.Lock()


class QueryProgress:
    """Shows how far a query is, once it has run for ``progress_after_s``; silent where nobody would see it.

    Only one query shows at a time: a terminal has one line for it.

    Args:
        settings: Says whether and when to show.
    """

    def __init__(self, settings: Settings) -> None:
        shown = sys.stderr.isatty() if settings.progress is None else settings.progress
        # Asked for by name, it is shown even where rich sees no terminal (a pipe that somebody displays).
        self._forced = settings.progress
        self._after_s = settings.progress_after_s if shown else float("inf")
        self._started_s = time.monotonic()
        self._progress: Progress | None = None

    def __call__(self, done: int, known: int, doing: str) -> None:
        """Take news: committed tasks, tasks known so far, and what goes on."""
        if self._progress is None:
            if time.monotonic() - self._started_s < self._after_s or not _display_lock.acquire(blocking=False):
                return
            self._progress = self._open()
        self._progress.update(self._progress.task_ids[0], completed=done, total=max(known, 1), description=doing)

    def _open(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("tasks"),
            TimeElapsedColumn(),
            console=Console(stderr=True, force_terminal=self._forced),
            transient=True,
        )
        progress.add_task("running", total=None)
        progress.start()
        return progress

    def close(self) -> None:
        """Take the line away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            _display_lock.release()

    def __enter__(self) -> QueryProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
