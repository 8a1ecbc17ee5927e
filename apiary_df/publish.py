"""Files that a statement writes: staged beside their target, published together, or taken back.

A write that ends well leaves its files and nothing else; any other leaves nothing. Its steps:

1. A note below the swarm's root says that the query writes, and a journal in the staging folder what to take back. The
   journal is written anew all the time: one that is old is of a session that is lost.
2. Attempts write into folders of their own within the staging folder. Commit records say which attempts count.
3. The journal gets the final keys, then the files of these attempts are moved there.
4. The verdict is created. Whoever finds an old journal creates it as well, against the write: the first verdict holds.
5. Journal, staging folder and note are deleted.

What belongs here moves and deletes objects of a session's own writes; those of lost sessions are taken back by
:mod:`apiary_df.lost_writes`. Names are made in :mod:`apiary_df.writes`, when a write begins and ends is decided by
whoever runs the query.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from apiary_df.config import Settings
from apiary_df.errors import ApiaryError, ObjectMissing, WriteUndone
from apiary_df.host import SYSTEM, Activity, Host
from apiary_df.lost_writes import decide, open_folder, take_back_here
from apiary_df.model import WrittenFile
from apiary_df.plan.sinks import SinkTarget, find_sink, redirected, target_of
from apiary_df.plan.stages import Stage, StageGraph
from apiary_df.plan.tree import PlanNode
from apiary_df.protocol import keys
from apiary_df.protocol.messages import CommitRecord, WriteJournal, WriteNote
from apiary_df.protocol.storage import write_message
from apiary_df.store import Store
from apiary_df.store_options import StoreOptions
from apiary_df.writes import (
    JOURNAL,
    SINGLE_FILE,
    Move,
    attempt_folder,
    base_url,
    moves,
    staging_folder,
)

logger = logging.getLogger("apiary_df")

ROOT_FOLDER = "root"
"""Name, within a staging folder, of what the session's own stage writes."""


class Write:
    """One query's files, from staging to where they count.

    Args:
        target: Where they are to go.
        query_id: The query.
        coordinator: Who runs it.
        options: How the target is reached.
        settings: They say how often a session gives a sign of life, and when it is taken for dead.
        root: The swarm's root, whose nodes take a lost session's files back; None without a swarm.
        host: The machine.

    Raises:
        ConfigError: If nothing can be written there.
    """

    def __init__(
        self,
        target: SinkTarget,
        query_id: str,
        coordinator: str,
        *,
        options: StoreOptions | None,
        settings: Settings,
        root: Store | None,
        host: Host = SYSTEM,
    ) -> None:
        self.query_id = query_id
        self.stands = False
        self._target = target
        self._options = options
        self._coordinator = coordinator
        self._base_url = base_url(target)
        self._base = open_folder(self._base_url, options)
        self._beat_s, self._dead_after_s = _signs_of_life(settings, self._base)
        self._root = root
        self._folder = staging_folder(query_id)
        self._host = host
        self._lock = host.lock()
        self._over = host.event()
        self._keeper: Activity | None = None
        self._moves: tuple[Move, ...] = ()
        self._moved: list[Move] = []
        self._seq = 0
        self._begun = False
        self._created: Path | None = None

    # -- the way of a write -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Announce the write, and take back what lost sessions have left at the same place.

        Raises:
            StorageError: If nothing can be written there.
        """
        self._created = _first_missing(self._base)
        # The journal first: where it cannot be written, nothing has begun, and there is nothing for nodes to watch.
        try:
            self._put_journal()
        except ApiaryError:
            # It may be there all the same, if it was only the reply that got lost.
            with suppress(ApiaryError):
                self._base.delete_prefix(self._folder)
            _remove_empty(self._base, (), self._created)
            raise
        self._begun = True
        if self._root is not None:
            note = WriteNote(query_id=self.query_id, coordinator=self._coordinator, base=self._base_url)
            write_message(self._root, keys.write(self.query_id), note)
        self._keeper = self._host.start(f"write-{self.query_id}", self._keep)
        take_back_here(self._base, self._journal_key, self._dead_after_s)

    @property
    def created_folders(self) -> int:
        """How many folders the write has made: the one that it writes to, and those above it. 0 in a bucket."""
        return len(_created_folders(self._base, self._created))

    def staged(self, fragment: PlanNode, folder: str = "") -> PlanNode:
        """Return a plan whose sink writes into the staging folder, or one attempt's folder within it."""
        return staged_at(fragment, f"{self._base_url}/{self._folder}/{folder}", single_file=self._target.single_file)

    def publish(self, attempts: Iterable[tuple[str, Iterable[WrittenFile]]]) -> None:
        """Move the files of these attempts to where they count, all or none.

        Args:
            attempts: Folder within the staging folder, and the files in it.

        Raises:
            WriteUndone: If another process took this session for dead.
            StorageError: If a file cannot be moved; those that were are taken back.
        """
        self._moves = moves(self._target, self.query_id, attempts)
        if self._target.single_file:
            # The one move shows the file whole, and cannot be taken back from what it replaced: the verdict is first.
            self._decide()
            self._move_all()
        else:
            self._put_journal()
            self._move_all()
            self._decide()
            self._check_there()
        self.stands = True

    def publish_stage(self, stage: Stage, commits: Iterable[CommitRecord]) -> None:
        """Publish what a query has written, by its last stage.

        Args:
            stage: The stage that the session ran: it wrote the files, or has counted those of its inputs.
            commits: The commit records that count.

        Raises:
            WriteUndone: If another process took this session for dead.
            StorageError: If a file cannot be moved; those that were are taken back.
        """
        if find_sink(stage.fragment) is None:
            counting = [commit for commit in commits if commit.stage in stage.inputs]
            self.publish((attempt_folder(c.stage, c.task, c.attempt), c.files) for c in counting)
        else:
            self.publish([(ROOT_FOLDER, written(self.staged(stage.fragment, ROOT_FOLDER), self._options))])

    def end(self) -> None:
        """Take back what does not stand, and remove all traces of the write. Calling it twice does nothing.

        Raises:
            StorageError: If something could not be removed.
        """
        if not self._begun:
            return
        self._begun = False
        self._over.set()
        if self._keeper is not None:
            self._keeper.join()
        if not self.stands and not self._target.single_file:
            self._base.delete([move.final for move in self._moved])
        # The journal before the verdict: who finds it gone once it has created its own verdict knows that all is over.
        self._base.delete([f"{self._folder}/{JOURNAL}"])
        self._base.delete_prefix(self._folder)
        _remove_empty(self._base, () if self.stands else self._moved, self._created)
        if self._root is not None:
            self._root.delete([keys.write(self.query_id)])

    # -- its parts ----------------------------------------------------------------------------------------------------

    @property
    def _journal_key(self) -> str:
        return f"{self._folder}/{JOURNAL}"

    def _put_journal(self) -> None:
        with self._lock:
            self._seq += 1
            published = () if self._target.single_file else tuple(move.final for move in self._moves)
            journal = WriteJournal(
                query_id=self.query_id,
                coordinator=self._coordinator,
                seq=self._seq,
                dead_after_s=self._dead_after_s,
                published=published,
            )
            write_message(self._base, self._journal_key, journal)

    def _keep(self) -> None:
        while not self._over.wait(self._beat_s):
            try:
                self._put_journal()
            except ApiaryError as error:
                logger.warning("query %s cannot renew the journal of its write: %s", self.query_id, error)

    def _move_all(self) -> None:
        for move in self._moves:
            # Noted before: a move whose reply got lost has to be taken back as well.
            self._moved.append(move)
            self._base.move(move.staged, move.final)

    def _decide(self) -> None:
        if not decide(self._base, self._folder, self.query_id, self._coordinator, stands=True):
            raise self._undone()

    def _check_there(self) -> None:
        """Check that no other process has taken everything back, verdict and all, just before this one's verdict."""
        if self._moves:
            try:
                self._base.head(self._moves[0].final)
            except ObjectMissing:
                raise self._undone() from None

    def _undone(self) -> WriteUndone:
        return WriteUndone(
            f"query {self.query_id}: its files at {self._base_url} were taken back by another process, which had not "
            f"heard of this session for {self._dead_after_s:g} s; run the statement again",
            query=self.query_id,
            target=self._base_url,
        )


def planned_write(
    graph: StageGraph,
    query_id: str,
    coordinator: str,
    *,
    options: StoreOptions | None,
    settings: Settings,
    root: Store,
    host: Host,
) -> Write | None:
    """Return the files that a query is to write; None if it writes none. Arguments are those of :class:`Write`."""
    sinks = (find_sink(stage.fragment) for stage in graph.stages)
    sink = next((sink for sink in sinks if sink is not None), None)
    if sink is None:
        return None
    return Write(target_of(sink), query_id, coordinator, options=options, settings=settings, root=root, host=host)


def _signs_of_life(settings: Settings, base: Store) -> tuple[float, float]:
    """Return seconds between two journals, and after which there must have been one."""
    wanted, usual = settings.for_store(base.kind), Settings().for_store(base.kind)
    beat_s, dead_after_s = wanted.heartbeat_s or 1.0, wanted.dead_after_s or 1.0
    if base.kind == "bucket":
        # The settings may have been made for a root that costs nothing to write to.
        beat_s, dead_after_s = max(beat_s, usual.heartbeat_s or 0.0), max(dead_after_s, usual.dead_after_s or 0.0)
    return beat_s, dead_after_s


# -- what attempts do ----------------------------------------------------------------------------------------------


def staged_at(fragment: PlanNode, url: str, *, single_file: bool) -> PlanNode:
    """Return a plan whose sink, if it has one, writes into a folder of staged files."""
    folder = url.rstrip("/") + "/"
    return redirected(fragment, folder + SINGLE_FILE if single_file else folder, single_file=single_file)


def for_attempt(fragment: PlanNode, stage: int, task: int, attempt: int) -> PlanNode:
    """Return a task's fragment whose sink, if it has one, writes into a folder of this attempt alone."""
    sink = find_sink(fragment)
    if sink is None:
        return fragment
    url = target_of(sink).url.rstrip("/")
    return staged_at(fragment, f"{url}/{attempt_folder(stage, task, attempt)}", single_file=False)


def written(fragment: PlanNode, options: StoreOptions | None) -> tuple[WrittenFile, ...]:
    """Return the files that the sink of a fragment has written; none if it has no sink.

    Raises:
        StorageError: If the folder cannot be listed.
    """
    sink = find_sink(fragment)
    if sink is None:
        return ()
    found = open_folder(base_url(target_of(sink)), options).list("")
    return tuple(WrittenFile(path=meta.key, size_bytes=meta.size_bytes) for meta in found)


def discard(fragment: PlanNode, options: StoreOptions | None, created_folders: int) -> None:
    """Remove what the sink of an attempt's fragment has written, if it has a sink, after its write was taken back.

    Args:
        fragment: The attempt's fragment.
        options: How its target is reached.
        created_folders: Folders that the write had made, from the one that it writes to upwards: those that are empty
            now were made again by this attempt.

    Raises:
        StorageError: If it cannot be removed.
    """
    sink = find_sink(fragment)
    if sink is None:
        return
    parent, _, name = base_url(target_of(sink)).rpartition("/")
    store = open_folder(parent, options)
    store.delete_prefix(unquote(name))
    staging = _local_folder(store)
    if staging is not None:
        _remove_if_empty([staging, *list(staging.parents)[:created_folders]])


def _local_folder(store: Store) -> Path | None:
    inside = store.local_path("x")
    return None if inside is None else inside.parent


def _first_missing(store: Store) -> Path | None:
    """Return the outermost folder that does not exist yet and that writing to a store will create."""
    missing: Path | None = None
    folder = _local_folder(store)
    while folder is not None and not folder.exists() and folder != folder.parent:
        missing, folder = folder, folder.parent
    return missing


def _remove_empty(store: Store, taken_back: Sequence[Move], created: Path | None) -> None:
    """Remove folders that hold nothing and that the write has created."""
    root = _local_folder(store)
    if root is None:
        return
    folders = {root / parent for move in taken_back for parent in PurePosixPath(move.final).parents}
    if created is None:
        folders.discard(root)
    folders.update(_created_folders(store, created))
    _remove_if_empty(sorted(folders, key=lambda folder: len(folder.parts), reverse=True))


def _created_folders(store: Store, outermost: Path | None) -> list[Path]:
    """Return a store's folder and those above it up to the outermost that was made for it, innermost first."""
    root = _local_folder(store)
    if root is None or outermost is None:
        return []
    return [folder for folder in (root, *root.parents) if folder == outermost or outermost in folder.parents]


def _remove_if_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # it is not empty, or not there
            folder.rmdir()
