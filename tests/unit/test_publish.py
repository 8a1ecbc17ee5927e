"""Files of a write are there all or not at all, wherever a session is killed, silent, or taken for dead."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datafusion
import pytest

from apiary_df.config import Settings
from apiary_df.errors import ApiaryError, ConfigError, ObjectMissing, StorageError, WriteUndone
from apiary_df.lost_writes import WriteWatch, open_folder, take_back
from apiary_df.model import WrittenFile
from apiary_df.plan import codec
from apiary_df.plan.sinks import SinkTarget
from apiary_df.protocol import keys
from apiary_df.publish import Write, discard, for_attempt
from apiary_df.store import Store, open_store
from apiary_df.writes import staging_folder

QUERY = "q1-a"
SLOW = Settings(heartbeat_s=60.0, suspect_after_s=120.0, dead_after_s=600.0)
"""No sign of life comes in between: these tests say themselves when a session is lost."""

ATTEMPTS = (("0_0_0", ("a=1/x.staged", "a=2/x.staged")), ("0_1_1", ("x_0.staged", "x_1.staged")))
FINAL = {"a=1/q1-a_0_0_0.csv", "a=2/q1-a_0_0_0.csv", "q1-a_0_1_1_0.csv", "q1-a_0_1_1_1.csv"}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the session runs after it."""


class Watched(Store):
    """A store that does something of the test's just before its nth change."""

    at: int = -1
    then: Callable[[], None] = staticmethod(lambda: None)
    changes: int = 0

    def _count(self) -> None:
        self.changes += 1
        if self.changes - 1 == self.at:
            self.then()

    def put(self, *args: Any) -> None:
        self._count()
        super().put(*args)

    def create(self, *args: Any) -> bool:
        self._count()
        return super().create(*args)

    def move(self, *args: Any) -> None:
        self._count()
        super().move(*args)

    def delete(self, *args: Any) -> None:
        self._count()
        super().delete(*args)

    def delete_prefix(self, *args: Any) -> int:
        self._count()
        return super().delete_prefix(*args)


def watched(store: Store, at: int, then: Callable[[], None]) -> Watched:
    store.__class__ = Watched
    assert isinstance(store, Watched)
    store.at, store.then = at, then
    return store


class Place:
    """A folder that is written to, with a file of somebody else's in it."""

    def __init__(self, folder: Path, *, single: bool = False) -> None:
        self.folder = folder / "out"
        self.root = open_store(str(folder / "root"))
        self.target = SinkTarget(
            url=f"file://{self.folder}/" + ("one.csv" if single else ""), extension="csv", single_file=single
        )
        (self.folder / "a=1").mkdir(parents=True)
        (self.folder / "a=1" / "old.csv").write_text("old")

    def write(self) -> Write:
        return Write(self.target, QUERY, "session-1", options=None, settings=SLOW, root=self.root)

    @property
    def base(self) -> Store:
        return open_folder(f"file://{self.folder}", None)

    def stage(self) -> list[tuple[str, list[WrittenFile]]]:
        """Write what attempts would, one that does not count among them."""
        names = (("root", ("file.staged",)),) if self.target.single_file else ATTEMPTS
        for folder, files in (*names, ("0_1_0", ("x_0.staged",))):
            for file in files:
                path = self.folder / staging_folder(QUERY) / folder / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("new")
        return [(folder, [WrittenFile(path=file, size_bytes=3) for file in files]) for folder, files in names]

    def all(self) -> set[str]:
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()} - {"a=1/old.csv"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def run(place: Place, write: Write) -> None:
    """Do what a session does; what it raises, it raises."""
    try:
        write.begin()
        write.publish(place.stage())
    finally:
        write.end()


def killed(place: Place, at: int) -> bool:
    """Run a write that is killed before its nth change below the target; False if it has not as many."""
    write = place.write()

    def kill() -> None:
        raise Killed

    base = watched(write._base, at, kill)
    try:
        write.begin()
        write.publish(place.stage())
        write.end()
    except Killed:
        write._over.set()
        return True
    assert base.changes <= at
    return False


def test_a_write_leaves_its_files_and_nothing_else(place: Place) -> None:
    run(place, place.write())
    assert place.all() == FINAL
    assert place.root.list("") == []
    assert not (place.folder / staging_folder(QUERY)).exists()
    assert (place.folder / "a=1" / "old.csv").read_text() == "old"


def test_a_move_that_fails_takes_the_others_back(place: Place) -> None:
    write = place.write()
    write.begin()
    attempts = place.stage()
    (place.folder / staging_folder(QUERY) / "0_1_1" / "x_1.staged").unlink()
    with pytest.raises(ObjectMissing):
        write.publish(attempts)
    write.end()
    assert place.all() == set()
    assert not (place.folder / "a=2").exists()


@pytest.mark.parametrize("at", range(14))
def test_killed_anywhere_a_session_leaves_all_or_nothing_to_whoever_takes_it_back(tmp_path: Path, at: int) -> None:
    place = Place(tmp_path)
    was_killed = killed(place, at)
    watch = WriteWatch(place.root, None, SLOW.dead_after_s or 0.0, "a node")
    watch.look(0.0)
    watch.look(601.0)
    assert place.all() in (set(), FINAL)
    assert was_killed or place.all() == FINAL
    assert not (place.folder / staging_folder(QUERY)).exists()
    assert place.root.list("") == []


def test_the_range_above_covers_every_change_of_a_write(place: Place) -> None:
    assert not killed(place, 13)


@pytest.mark.parametrize("at", range(5))
def test_a_single_file_is_replaced_whole_or_not_at_all(tmp_path: Path, at: int) -> None:
    place = Place(tmp_path, single=True)
    (place.folder / "one.csv").write_text("old")
    killed(place, at)
    watch = WriteWatch(place.root, None, SLOW.dead_after_s or 0.0, "a node")
    watch.look(0.0)
    watch.look(601.0)
    assert place.all() == {"one.csv"}
    assert (place.folder / "one.csv").read_text() in {"old", "new"}


def check_consistent(place: Place, error: BaseException | None) -> None:
    """Check that a session that reports success has all of its files, and one that fails has none."""
    assert error is None or isinstance(error, (WriteUndone, StorageError)), error
    assert {name for name in place.all() if not name.startswith("_")} == (FINAL if error is None else set())


@pytest.mark.parametrize("at", range(14))
def test_a_session_that_was_only_silent_knows_whether_its_files_stand(tmp_path: Path, at: int) -> None:
    place = Place(tmp_path)
    write = place.write()
    watched(write._base, at, lambda: take_back(place.base, staging_folder(QUERY), "a node"))
    error: BaseException | None = None
    try:
        run(place, write)
    except ApiaryError as raised:
        error = raised
    check_consistent(place, error)


@pytest.mark.parametrize("begun", range(1, 13))
def test_two_that_decide_at_the_same_time_agree(tmp_path: Path, begun: int) -> None:
    """The session is silent before one of its changes, and goes on in the midst of its being taken back."""
    for paused in range(8):
        folder = tmp_path / str(paused)
        folder.mkdir()
        place = Place(folder)
        silent, go_on = threading.Event(), threading.Event()
        errors: list[BaseException] = []

        def pause(silent: threading.Event = silent, go_on: threading.Event = go_on) -> None:
            silent.set()
            go_on.wait(60)

        def session(
            place: Place = place,
            pause: Callable[[], None] = pause,
            silent: threading.Event = silent,
            errors: list[BaseException] = errors,
        ) -> None:
            write = place.write()
            watched(write._base, begun, pause)
            try:
                run(place, write)
            except ApiaryError as raised:
                errors.append(raised)
            silent.set()

        thread = threading.Thread(target=session)
        thread.start()
        assert silent.wait(60)

        def wake(thread: threading.Thread = thread, go_on: threading.Event = go_on) -> None:
            go_on.set()
            thread.join(60)

        take_back(watched(place.base, paused, wake), staging_folder(QUERY), "a node")
        wake()
        check_consistent(place, errors[0] if errors else None)


def test_a_write_whose_journal_changes_is_left_alone(place: Place) -> None:
    write = place.write()
    write.begin()
    watch = WriteWatch(place.root, None, SLOW.dead_after_s or 0.0, "a node")
    assert watch.look(0.0) == 1
    write._put_journal()
    assert watch.look(601.0) == 0
    write.publish(place.stage())
    write.end()
    assert place.all() == FINAL
    assert watch.look(1_300.0) == 0


def test_a_sign_of_life_counts_only_for_those_who_saw_the_one_before(place: Place) -> None:
    write = place.write()
    write.begin()
    old, new = (WriteWatch(place.root, None, 5.0, "a node") for _ in range(2))
    assert old.look(0.0) == 1
    write._put_journal()
    write._over.set()
    assert old.look(1.0) == 0
    assert old.look(2.0) == 0
    assert new.look(2.0) == 1
    assert new.look(3.0) == 1
    assert new.look(700.0) == 0
    assert place.root.list("") == []


def test_a_later_write_takes_back_what_a_lost_session_left(place: Place) -> None:
    assert killed(place, 5)
    assert place.all()
    for path in place.folder.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    other = Write(place.target, "q2-b", "session-2", options=None, settings=SLOW, root=None)
    other.begin()
    other.end()
    assert place.all() == set()


def test_a_later_write_leaves_one_that_is_under_way(place: Place) -> None:
    write = place.write()
    write.begin()
    other = Write(place.target, "q2-b", "session-2", options=None, settings=SLOW, root=None)
    other.begin()
    other.end()
    write.publish(place.stage())
    write.end()
    assert place.all() == FINAL


def test_what_cannot_be_written_to_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot write files to http://"):
        open_folder("http://host/files", None)


def test_a_note_without_a_journal_goes_away_in_time(place: Place) -> None:
    write = place.write()
    write.begin()
    write._over.set()
    place.base.delete_prefix(staging_folder(QUERY))
    watch = WriteWatch(place.root, None, 5.0, "a node")
    assert watch.look(0.0) == 1
    assert watch.look(6.0) == 0
    assert place.root.list(keys.WRITES) == []


@pytest.mark.parametrize("made", [0, 2])
def test_an_attempt_that_outlives_its_write_leaves_only_folders_that_were_there_before(
    tmp_path: Path, made: int
) -> None:
    if not made:
        (tmp_path / "a" / "b").mkdir(parents=True)
    copy = f"COPY (SELECT 1) TO '{tmp_path}/a/b/' STORED AS CSV"
    ctx = datafusion.SessionContext()
    plan = codec.decode(ctx.sql(copy).execution_plan().to_bytes(ctx))
    target = SinkTarget(url=f"file://{tmp_path}/a/b/", extension="csv", single_file=False)
    write = Write(target, QUERY, "session-1", options=None, settings=SLOW, root=None)
    write.begin()
    assert write.created_folders == made
    fragment = for_attempt(write.staged(plan), 0, 1, 0)
    write.end()
    assert (tmp_path / "a").exists() == (made == 0)

    late = tmp_path / "a" / "b" / staging_folder(QUERY) / "0_1_0"
    late.mkdir(parents=True)
    (late / "x_0.staged").write_text("late")
    discard(fragment, None, write.created_folders)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ([] if made else ["a", "b"])
