"""Engines for work that is a session's own, in its own process, each with a place to work.

What belongs here: how they are made, lent, kept for the next query, and given back. What is done with them (root
stages, in-memory tables, a replayed task) is decided elsewhere; the engines of nodes are
:mod:`apiary_df.worker.executor`'s.
"""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from apiary_df.config import Settings
from apiary_df.errors import ConfigError
from apiary_df.fetching import Reading
from apiary_df.host import SYSTEM, Host
from apiary_df.scratch import ScratchFolder
from apiary_df.store import Store
from apiary_df.store_options import StoreOptions
from apiary_df.worker.bee import Bench, codec_of
from apiary_df.worker.cell_cache import QueryCells
from apiary_df.worker.engine import Engine

ENGINE_MEMORY_BYTES = 1 << 30
"""Memory of an engine in a session's process; what exceeds it spills."""

SPARE_ENGINES = 2
"""Engines that are kept while no query uses them: as many as a session that runs queries side by side mostly has."""

WORK_FOLDER = "work"
"""Folder of what a query puts beside an engine's own files; made by what needs it, which small queries do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """An engine, and the folder that is its own."""

    wanted: tuple[object, ...]
    engine: Engine
    folder: ScratchFolder


class Workbenches:
    """Lends engines of a session's own, and keeps some of them: making one takes about a millisecond. Thread-safe.

    Args:
        store: The swarm's root.
        settings: The session's settings.
        options: How cells are reached.
        memory_bytes: Budget of an engine; what exceeds it spills.
        host: The machine.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        options: StoreOptions | None,
        *,
        memory_bytes: int = ENGINE_MEMORY_BYTES,
        host: Host = SYSTEM,
    ) -> None:
        self._store = store
        self._settings = settings
        self._options = options
        self._memory_bytes = memory_bytes
        self._lock = host.lock()
        self._spare: list[_Place] = []
        weakref.finalize(self, _remove_all, self._spare)

    @contextmanager
    def lend(
        self, query_settings: Mapping[str, str], *, cells: QueryCells | None = None, allow_udfs: bool = True
    ) -> Iterator[tuple[Engine, Bench]]:
        """Give an engine and a bench; what was put into their folder is removed afterwards.

        Args:
            query_settings: DataFusion options of the query.
            cells: Serves cells from this machine's disk, if they are not to be read where they lie.
            allow_udfs: Whether plans may carry Python functions: a session's own may.

        Raises:
            ConfigError: If there is no place for a folder, or DataFusion does not know one of its options.
        """
        place = self._taken((tuple(sorted(query_settings.items())), allow_udfs), query_settings, allow_udfs)
        bench = Bench(
            store=self._store,
            scratch=place.folder.path / WORK_FOLDER,
            options=self._options,
            partial_memory_bytes=self._settings.partial_memory_bytes,
            compression=codec_of(self._settings),
            cells=cells,
            reading=Reading.of(self._settings),
        )
        went_well = False
        try:
            with cells or nullcontext():
                yield place.engine, bench
            went_well = True
        finally:
            self._give_back(place, bench.scratch, keep=went_well)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a folder alone; it is removed afterwards.

        Raises:
            ConfigError: If there is no place for it.
        """
        folder = self._folder()
        try:
            yield folder.path
        finally:
            folder.remove()

    def close(self) -> None:
        """Drop the engines that are kept, and their folders. More may be lent; closing twice does nothing."""
        with self._lock:
            dropped, self._spare[:] = list(self._spare), []
        _remove_all(dropped)

    def _taken(self, wanted: tuple[object, ...], query_settings: Mapping[str, str], allow_udfs: bool) -> _Place:
        with self._lock:
            for number, place in enumerate(self._spare):
                if place.wanted == wanted:
                    return self._spare.pop(number)
        folder = self._folder()
        try:
            engine = Engine(query_settings, self._memory_bytes, folder.path, allow_udfs=allow_udfs)
        except BaseException:
            folder.remove()
            raise
        return _Place(wanted=wanted, engine=engine, folder=folder)

    def _give_back(self, place: _Place, work: Path, *, keep: bool) -> None:
        dropped = [place]
        if keep:
            if work.exists():
                shutil.rmtree(work, ignore_errors=True)
            with self._lock:
                # What was used last is likeliest to be wanted next.
                self._spare.insert(0, place)
                dropped, self._spare[SPARE_ENGINES:] = self._spare[SPARE_ENGINES:], []
        _remove_all(dropped)

    def _folder(self) -> ScratchFolder:
        folder = self._settings.scratch_dir
        try:
            return ScratchFolder("session", folder)
        except OSError as error:
            raise ConfigError(
                f"cannot make a folder in scratch_dir={folder}: {error}; name one that is there"
            ) from error


def _remove_all(places: list[_Place]) -> None:
    for place in places:
        place.folder.remove()
