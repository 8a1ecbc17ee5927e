"""Settings as one frozen value.

What belongs here: :class:`Settings`, what is allowed in it, the by-store defaults, and reading it out of a mapping
and of bytes that the caller hands in. What does not: opening a file or ``os.environ`` (:mod:`apiary_df.machine`),
the words for sizes and times (:mod:`apiary_df.units`), storage credentials (``store_options``), and DataFusion's own
options (they stay in its ``SessionConfig``).
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from apiary_df.errors import ConfigError
from apiary_df.units import DAY_S, KIB, MIB, TIB, format_bytes, parse_size

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

Compression = Literal["lz4", "zstd", "none"]
Isolation = Literal["process", "thread"]
Admission = Literal["second_use", "first_use"]
StoreKind = Literal["folder", "memory", "bucket"]
SettingKind = Literal["bytes", "seconds", "count", "factor", "flag", "text", "choice"]

REUSE_FROM_VALUES = 100.0
"""Values for each partition with which a shuffle fills them evenly: the fullest of many has a third more than most."""

MIN_CELL_BYTES = 256 * KIB
"""Default of ``min_cell_bytes``: pieces below this size cost more to open than to read."""

ENV_PREFIX = "APIARY_"
"""An environment variable of this prefix and a field's name in capitals sets that field."""

OTHER_VARIABLES = frozenset({"APIARY_CONFIG", "APIARY_STORAGE", "APIARY_SWARM_KEY", "APIARY_SWARM_KEY_FILE"})
"""Variables of the prefix that are no settings: the settings file's path, the command line's storage, the swarm key."""

OTHER_PREFIXES = ("APIARY_TEST_",)
"""Prefixes of variables that belong to the project's own tests."""

CODECS: tuple[Compression, ...] = ("lz4", "zstd", "none")

ISOLATIONS: tuple[Isolation, ...] = ("process", "thread")

ADMISSIONS: tuple[Admission, ...] = ("second_use", "first_use")

_LONGEST_WAIT_S = 3_600.0
"""Upper bound of all periods: a heartbeat, poll or store timeout above an hour is a slip of units."""

_SUSPECT_BEATS = 2.4
"""Heartbeats that fit into the time to suspicion: two may be lost, and the third be late."""

_DEAD_BEATS = 6.0
"""Heartbeats that fit into the time to death."""

_GRACE_DEATHS = 2.0
"""Deaths that fit into the grace period at least: a query is dropped long before it is removed."""

_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is allowed in a setting.

    Attributes:
        kind: What its values are, which also says how text is read.
        lowest: Smallest value, inclusive, in the setting's own unit.
        highest: Largest value, inclusive.
        nullable: Whether None is a value.
        choices: All values, if there are only some.
    """

    kind: SettingKind
    lowest: float = 0
    highest: float = math.inf
    nullable: bool = False
    choices: tuple[str, ...] = ()

    def allowed(self) -> str:
        """Say what is allowed, for messages and documentation."""
        words = {
            "bytes": f"a size of {format_bytes(int(self.lowest))} to {_limit(self.highest)}",
            "seconds": f"{self.lowest:.12g} to {self.highest:.12g} seconds",
            "count": f"a whole number, {self.lowest:.12g} to {self.highest:.12g}",
            "factor": f"a number, {self.lowest:.12g} to {self.highest:.12g}",
            "flag": "true or false",
            "text": "a text that is not empty",
            "choice": ", ".join(self.choices),
        }[self.kind]
        return f"{words}, or None" if self.nullable else words

    def read(self, value: object) -> object:
        """Return a value as its kind has it; text is read as a person writes it.

        Raises:
            ConfigError: The text does not say a value of this kind.
        """
        if not isinstance(value, str):
            return value
        word = value.strip().lower()
        if self.nullable and (word == "auto" or (word == "none" and word not in self.choices)):
            return None
        if self.kind == "text":
            return value
        if self.kind == "bytes":
            return 0 if word == "0" else parse_size(word)
        if self.kind == "flag":
            return _FLAGS.get(word, value)
        if self.kind == "choice":
            return word
        try:
            return int(word) if self.kind == "count" else float(word)
        except ValueError:
            return value

    def accepts(self, value: object) -> bool:
        """Whether a value is allowed."""
        if value is None:
            return self.nullable
        if self.kind == "flag":
            return isinstance(value, bool)
        if self.kind == "text":
            return isinstance(value, str) and value != ""
        if self.kind == "choice":
            return value in self.choices
        # bool is an int to Python, but True is neither a size nor a count.
        numbers = (int, float) if self.kind in {"seconds", "factor"} else (int,)
        return isinstance(value, numbers) and not isinstance(value, bool) and self.lowest <= value <= self.highest


def _setting(default: Any, kind: SettingKind, lowest: float = 0, highest: float = math.inf) -> Any:
    rule = Rule(kind=kind, lowest=lowest, highest=highest, nullable=default is None)
    return field(default=default, metadata={"rule": rule})


def _choice(default: Any, choices: tuple[str, ...]) -> Any:
    rule = Rule(kind="choice", nullable=default is None, choices=choices)
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreProfile:
    """The settings that depend on how costly and how fast the storage root is, all resolved.

    Attributes:
        heartbeat_s: Seconds between a node's heartbeats.
        suspect_after_s: Seconds without a new heartbeat until a node gets no new work.
        dead_after_s: Seconds without one until its tasks go to others.
        gc_grace_s: Seconds for which nothing of a query must have changed before others remove it.
        poll_max_s: Longest wait between two looks for a known key that is expected, in seconds.
        poll_idle_s: Longest such wait of all, when nothing has come for minutes.
        compression: Codec of partials.
        attached_partial_bytes: Size up to which a partial lies behind its commit record.
    """

    heartbeat_s: float
    suspect_after_s: float
    dead_after_s: float
    gc_grace_s: float
    poll_max_s: float
    poll_idle_s: float
    compression: Compression
    attached_partial_bytes: int


_PROFILES: Mapping[StoreKind, StoreProfile] = MappingProxyType(
    {
        # A look at a folder costs 0.1 ms and nothing else, so ask often; its pages are in memory, so that
        # compressing would only cost time, and a partial that is a file is read where it lies. A process that is
        # starved for two seconds is rare, for five dead.
        "folder": StoreProfile(
            heartbeat_s=0.25,
            suspect_after_s=2.0,
            dead_after_s=5.0,
            gc_grace_s=60.0,
            poll_max_s=0.008,
            poll_idle_s=0.05,
            compression="none",
            attached_partial_bytes=0,
        ),
        # One process: the nodes are its own threads, which cannot die alone; as on a folder otherwise.
        "memory": StoreProfile(
            heartbeat_s=0.25,
            suspect_after_s=2.0,
            dead_after_s=5.0,
            gc_grace_s=60.0,
            poll_max_s=0.005,
            poll_idle_s=0.05,
            compression="none",
            attached_partial_bytes=0,
        ),
        # Requests cost money (a PUT $5 a million: 17,000 heartbeats a day are 9 cents) and answer in 30 ms,
        # now and then in seconds; two lost heartbeats must not condemn a node. Bytes cost more than lz4.
        "bucket": StoreProfile(
            heartbeat_s=5.0,
            suspect_after_s=12.0,
            dead_after_s=30.0,
            gc_grace_s=600.0,
            poll_max_s=0.25,
            poll_idle_s=2.0,
            compression="lz4",
            attached_partial_bytes=8 * MIB,
        ),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How apiary_df works, in one value. Bounds are inclusive; see :meth:`load` for where values come from.

    Attributes:
        timeout_s: Seconds that a query may take from its start to its last row, 0.001 to 30 days; then it raises
            ``QueryTimeout`` and cleans up. None: no limit, since only the caller knows what is long.
        small_bytes: Plan subtrees that read at most so many bytes of the columns that they ask for run inside their
            consumer instead of as a stage of their own, 0 to 1 TiB. 2 MiB: TPC-H as a whole took as long with
            1 to 4 MiB, but a stage of its own may hand keys to other scans: Q9 took 336 ms with 2 MiB, 432 with 4.
        min_task_bytes: Shuffle partitions are put together until a task reads so many bytes, 0 to 1 TiB. 4 MiB:
            below it starting the task costs more than running it.
        finish_here_bytes: When all that is left of a query reads at most so many bytes, the session runs it itself
            instead of as further stages, 0 to 1 TiB. 8 MiB: most aggregations end this way, after one stage.
        finish_here_threads: Threads that this keeps busy at most, 1 to 1024: shuffles are read in about as many parts.
            None: one for each core that the process may use.
        finish_here_part_bytes: Each of these parts has at least so many bytes of shuffles, 0 to 1 TiB. 128 KiB: one
            thread is done with twice that in 2 ms, of which a second one could save 1.
        key_filter_bytes: Keys of one side of a join that a complete stage holds are handed to stages that make rows of
            the other side if they have at most so many bytes, 0 to 1 TiB; 0 hands none on. 4 MiB: each task reads them.
            More are handed on if all bees' copies of them are an eighth of what is read, or less.
        key_filter_from_bytes: Only to stages that read at least so many bytes, 0 to 1 TiB. 16 MiB: below it there is
            less to save than a stage's round trip costs.
        broadcast_bytes: A side of a shuffled join that came out no larger is read whole by the tasks that make the
            other side, which is then not shuffled, 0 to 1 TiB; 0: never. 4 MiB: each task reads all of it.
        broadcast_from_bytes: Only if these read at least so many bytes, 0 to 1 TiB. 16 MiB, as above.
        skew_factor: A shuffle partition of more than so many times the bytes of its stage's median is dealt out to
            several tasks, where a join lets its rows fare by themselves, 0 to 1000; 0: never. 5: what is less skewed
            is even enough once there are a few partitions for each bee.
        skew_from_bytes: Only if it has more than so many bytes, 0 to 1 TiB; each task is to read about as many.
            64 MiB: a task reads and joins that in about a second, and less is not worth reading other inputs again.
        reuse_from_values: Rows that lie together by some of the keys of a join or an aggregate, since an earlier
            shuffle, are not shuffled again if statistics let these keys have so many values for each partition, 0 to
            1000000; by all of the keys, always; 0: never. 100: the fullest partition then has a third more than most.
        min_cell_bytes: Files are not cut into cells smaller than this, 1 byte to 1 TiB, even where that leaves some
            bees without one; it wins over ``target_cell_bytes``. 256 KiB: less costs more to open than to read.
        target_cell_bytes: Cells above this are split at row groups, 1 byte to 1 TiB. 32 MiB give a few tasks
            for each bee on files of ordinary size, and a lost task costs little.
        local_bees: Bees (execution slots) that a session which joined a swarm adds of its own, 0 to 1024. 0: the
            swarm does the work; the session only coordinates and finishes what is small.
        progress: Whether to show progress on stderr. None: only if stderr is a terminal.
        progress_after_s: Seconds that a query runs before progress shows, 0 to 3600. 1: nobody reads it earlier.
        heartbeat_s: Seconds between heartbeats, 0.01 to 300. None: by the store, 0.25 on a folder, 5 on a bucket.
        suspect_after_s: Seconds without a new heartbeat until a node gets no new work, 0.05 to 1200; above
            ``heartbeat_s``. None: 2 on a folder, 12 on a bucket (two beats lost), more if the heartbeat is slower.
        dead_after_s: Seconds without one until a node's tasks go to others, and without a new lease until nodes
            drop a session's query, 0.1 to 3600; above ``suspect_after_s``. None: 5 on a folder, 30 on a bucket.
        gc_grace_s: Seconds for which nothing of a query must have changed before other processes remove it as a lost
            session's, 0.1 to 30 days; never less than ``dead_after_s``. None: 60 on a folder, 600 on a bucket. A
            session that is only paused finds its query again if it returns sooner.
        node_gc_s: Seconds without a sign of life until other processes remove a dead node's heartbeat and mail, 0.1 to
            30 days. An hour: until then ``apiary status`` shows that it died.
        poll_min_s: First wait between two looks for a known key, in seconds, 0.0001 to 3600. 0.001: a stage of
            trivial work takes 2 to 4 ms, and must not take longer for being looked at.
        poll_max_s: What that wait grows to, at least ``poll_min_s``, to 3600. None: 0.008 on a folder, 0.25 on a
            bucket, where an empty look costs as much as a full one.
        poll_idle_s: What that wait grows to further when nothing has come for minutes, at least ``poll_max_s``, to
            3600. None: 0.05 on a folder, 2 on a bucket: a swarm that has had nothing to do for eight minutes takes so
            much longer to begin, and its looks cost an eighth.
        enclosed_bytes: Manifest and fragments of no more than so many bytes go with each mail, 0 to 32 MiB, so that a
            node need not read them: that spares it two waits for a bucket. 256 KiB: all but plans over very many
            columns; what is larger would be written once for each node. 0: never.
        partial_memory_bytes: Bytes of its partial that a task holds in memory before it spools to disk, 0 to
            1 TiB. 256 MiB: the partials of most tasks fit, and a bee's budget is larger.
        compression: Codec of partials: ``lz4``, ``zstd`` or ``none``. None: ``none`` on a folder, ``lz4`` on a
            bucket.
        isolation: ``process`` gives each bee of ``apiary node`` a process of its own, so that a task that crashes costs
            an attempt; ``thread`` has them share the node's, which takes less memory. ``process``: it costs 10 ms at
            a bee's start and about a millisecond a task. Nodes within a session's process always have threads.
        scratch_dir: Folder for spills, spools and fetched partials. None: the system's folder for such files.
        node_start_timeout_s: Seconds that a node process may take to its first heartbeat, 0.1 to 3600. 20: it
            takes one on a quiet machine.
        max_attempts: Tries at a task that fails by its environment, 1 to 100. 4: what fails thrice more elsewhere
            fails by itself.
        retry_after_s: Longest wait before the second attempt at a task that failed, in seconds, 0 to 3600; it doubles
            with each further one, up to 10 s, and never takes more than half of the time left. 0.1: the store's own
            retries came before it. What was lost with its node is sent again at once.
        speculate: Whether a task that is far behind its siblings, or waits for one that is, gets a second attempt on
            an idle bee elsewhere; the first commit counts. True: one slow machine would otherwise set the pace of all.
        speculate_factor: How many times the median of its committed siblings a task may take before that, 1 to 1000,
            on a node that is not known to be slow. 3: tasks of one stage rarely differ by more, since they read about
            the same.
        speculate_after_s: Seconds that it may take in any case, 0 to 3600. 5: shorter tasks are over before it pays.
        stream_result: Whether rows of a result in no order are handed over as each task commits, while others are still
            at work; what made them cannot be made again then, should it be lost. True: the first row comes sooner,
            and a ``LIMIT`` ends the query once it has its rows. False: rows come when all are made, in task order.
        dollars_per_1000_puts: Price of a thousand requests that write, in dollars, 0 to 1000. 0.005, as S3's list says;
            reports say what a query's requests cost, and exchanges are planned by it.
        dollars_per_1000_lists: The same of listings, 0 to 1000. 0.005.
        dollars_per_1000_gets: The same of requests that read, 0 to 1000. 0.0004.
        first_byte_s: Seconds that a request to a bucket usually takes to its first byte, 0.0001 to 60. 0.03, as
            measured of S3; what takes much longer is asked for once more.
        mib_s: Seconds that each MiB of a request takes after that, 0 to 60. 0.02.
        combine_from_dollars: A shuffle through a bucket gets a stage that puts its pieces together if that saves at
            least so many dollars in requests by the prices above, 0 to 1000. 0.05: what a second pass over the rows is
            worth; with S3's prices that is 400 bees into 400 partitions, and fewer never pay for it.
        inline_partial_bytes: Partials of at most so many bytes lie in the commit record itself, 0 to 1 MiB, and no
            object is written and read for them; all of a stage's together have at most 64 KiB. 16 KiB: it saves each
            task that writes one request, and each that reads as many as there are.
        attached_partial_bytes: Larger ones of at most so many bytes lie behind their commit record, in the same object,
            which is created once, 0 to 64 MiB: that saves a request, and a wait for it. 0: every one is an object of
            its own. None: 0 on a folder, whose files are read where they lie, 8 MiB on a bucket, since one request
            writes as much as that in any case; larger objects are written faster in parts, which create-once is not.
        fetch_bytes: Bytes of partials that a task has in flight from a bucket at a time, 1 byte to 1 TiB. 64 MiB: four
            requests of the size at which a bucket gives most for its price.
        hedge: Whether a read of a bucket that takes too long is asked for once more; the first answer counts. True: one
            in a thousand takes a hundred times as long as others.
        hedge_factor: How many times the expected time it may take before that, 1 to 1000. 4: 120 ms for a small one,
            well above the slowest of twenty.
        verify: Whether every query that ran on the swarm is run by plain DataFusion too, in this process, and its
            answer compared before any row of it is handed over; see ``SessionContext``. False: it takes the time of
            both, and the memory of both answers.
        allow_roots: Where nodes may read cells and write files besides the swarm's own root: folders and URLs with
            commas between, ``s3://`` for all buckets. None: ``apiary node`` may what its ``--allow-root`` say; nodes
            that a session starts may all that its user may, but no files of this machine if the root is on a bucket.
        cache_bytes: Most bytes that the cell cache holds of objects in buckets, 0 to 1 TiB; all processes of a
            machine's user share it. 0: no cache. None: a tenth of what its disk has free, and at most 32 GiB.
        cache_dir: Its folder, on a disk of the machine itself. None: ``apiary_df/cells`` in the user's folder for
            caches.
        cache_admission: ``second_use`` keeps a cell when a second query reads it, ``first_use`` at once.
            ``second_use``: what is read once only would cost the disk, and push out what is read again; and cells are
            kept with all of their columns, which is more than most queries read.
        keep: Whether a query's objects stay in storage when it has ended, for ``apiary replay``. False: nothing stays.
        keep_failed: The same, of queries that fail only.
    """

    timeout_s: float | None = _setting(None, "seconds", 0.001, 30 * DAY_S)
    small_bytes: int = _setting(2 * MIB, "bytes", 0, TIB)
    min_task_bytes: int = _setting(4 * MIB, "bytes", 0, TIB)
    finish_here_bytes: int = _setting(8 * MIB, "bytes", 0, TIB)
    finish_here_threads: int | None = _setting(None, "count", 1, 1024)
    finish_here_part_bytes: int = _setting(128 * KIB, "bytes", 0, TIB)
    key_filter_bytes: int = _setting(4 * MIB, "bytes", 0, TIB)
    key_filter_from_bytes: int = _setting(16 * MIB, "bytes", 0, TIB)
    broadcast_bytes: int = _setting(4 * MIB, "bytes", 0, TIB)
    broadcast_from_bytes: int = _setting(16 * MIB, "bytes", 0, TIB)
    skew_factor: float = _setting(5.0, "factor", 0, 1000)
    skew_from_bytes: int = _setting(64 * MIB, "bytes", 0, TIB)
    reuse_from_values: float = _setting(REUSE_FROM_VALUES, "factor", 0, 1_000_000)
    min_cell_bytes: int = _setting(MIN_CELL_BYTES, "bytes", 1, TIB)
    target_cell_bytes: int = _setting(32 * MIB, "bytes", 1, TIB)
    local_bees: int = _setting(0, "count", 0, 1024)
    progress: bool | None = _setting(None, "flag")
    progress_after_s: float = _setting(1.0, "seconds", 0, _LONGEST_WAIT_S)
    heartbeat_s: float | None = _setting(None, "seconds", 0.01, _LONGEST_WAIT_S / 12)
    suspect_after_s: float | None = _setting(None, "seconds", 0.05, _LONGEST_WAIT_S / 3)
    dead_after_s: float | None = _setting(None, "seconds", 0.1, _LONGEST_WAIT_S)
    gc_grace_s: float | None = _setting(None, "seconds", 0.1, 30 * DAY_S)
    node_gc_s: float = _setting(_LONGEST_WAIT_S, "seconds", 0.1, 30 * DAY_S)
    poll_min_s: float = _setting(0.001, "seconds", 0.0001, _LONGEST_WAIT_S)
    poll_max_s: float | None = _setting(None, "seconds", 0.0001, _LONGEST_WAIT_S)
    poll_idle_s: float | None = _setting(None, "seconds", 0.0001, _LONGEST_WAIT_S)
    enclosed_bytes: int = _setting(256 * KIB, "bytes", 0, 32 * MIB)
    partial_memory_bytes: int = _setting(256 * MIB, "bytes", 0, TIB)
    compression: Compression | None = _choice(None, CODECS)  # noqa: RUF009  # a field, as all the others
    isolation: Isolation = _choice("process", ISOLATIONS)  # noqa: RUF009
    scratch_dir: str | None = _setting(None, "text")
    node_start_timeout_s: float = _setting(20.0, "seconds", 0.1, _LONGEST_WAIT_S)
    max_attempts: int = _setting(4, "count", 1, 100)
    retry_after_s: float = _setting(0.1, "seconds", 0, _LONGEST_WAIT_S)
    speculate: bool = _setting(True, "flag")
    speculate_factor: float = _setting(3.0, "factor", 1, 1000)
    speculate_after_s: float = _setting(5.0, "seconds", 0, _LONGEST_WAIT_S)
    stream_result: bool = _setting(True, "flag")
    dollars_per_1000_puts: float = _setting(0.005, "factor", 0, 1000)
    dollars_per_1000_lists: float = _setting(0.005, "factor", 0, 1000)
    dollars_per_1000_gets: float = _setting(0.0004, "factor", 0, 1000)
    first_byte_s: float = _setting(0.03, "seconds", 0.0001, 60)
    mib_s: float = _setting(0.02, "seconds", 0, 60)
    combine_from_dollars: float = _setting(0.05, "factor", 0, 1000)
    inline_partial_bytes: int = _setting(16 * KIB, "bytes", 0, MIB)
    attached_partial_bytes: int | None = _setting(None, "bytes", 0, 64 * MIB)
    fetch_bytes: int = _setting(64 * MIB, "bytes", 1, TIB)
    hedge: bool = _setting(True, "flag")
    hedge_factor: float = _setting(4.0, "factor", 1, 1000)
    verify: bool = _setting(False, "flag")
    allow_roots: str | None = _setting(None, "text")
    cache_bytes: int | None = _setting(None, "bytes", 0, TIB)
    cache_dir: str | None = _setting(None, "text")
    cache_admission: Admission = _choice("second_use", ADMISSIONS)  # noqa: RUF009
    keep: bool = _setting(False, "flag")
    keep_failed: bool = _setting(False, "flag")

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            value = getattr(self, name)
            if not rule.accepts(value):
                raise _refused(name, value, rule)
        self._check_order("poll_min_s", "poll_max_s", equal=True)
        self._check_order("poll_max_s", "poll_idle_s", equal=True)
        self._check_order("poll_min_s", "poll_idle_s", equal=True)
        self._check_order("heartbeat_s", "suspect_after_s")
        self._check_order("suspect_after_s", "dead_after_s")
        self._check_order("heartbeat_s", "dead_after_s")
        self._check_order("dead_after_s", "gc_grace_s", equal=True)
        self._check_order("dead_after_s", "node_gc_s", equal=True)

    def _check_order(self, lower: str, upper: str, *, equal: bool = False) -> None:
        low, high = getattr(self, lower), getattr(self, upper)
        if low is None or high is None or low < high or (equal and low == high):
            return
        raise ConfigError(
            f"setting {upper} must be {'at least' if equal else 'above'} {lower}, but {upper} is {high:g} "
            f"and {lower} is {low:g} (seconds)",
            setting=upper,
            value=high,
        )

    @classmethod
    def load(cls, environ: Mapping[str, str], file: bytes | None = None, /, **overrides: object) -> Settings:
        """Return settings from a file, the environment and arguments; what comes later in this list wins.

        Text is read as a person writes it, wherever it comes from: ``"4GiB"``, ``"yes"``, and ``auto`` (or
        ``none``) for None where a setting may be None.

        Args:
            environ: A mapping such as ``os.environ``. ``APIARY_SMALL_BYTES`` sets ``small_bytes``, and so on; an
                empty value sets nothing, variables without the prefix are not looked at.
            file: A TOML document with settings at its top level, or None.
            **overrides: Settings by name.

        Raises:
            ConfigError: The file is not TOML, a name is no setting (the nearest one is offered), or a value is
                not allowed. The message names setting, source, value, and what is allowed.
        """
        given: dict[str, object] = {}
        if file is not None:
            given.update(_read_all(_parse_toml(file), "in the settings file"))
        for variable, text in sorted(environ.items()):
            if not _sets_something(variable, text):
                continue
            name = variable[len(ENV_PREFIX) :].lower()
            given.update(_read_all({name: text}, f"in the environment variable {variable}"))
        given.update(_read_all(overrides, "in the arguments"))
        return cls(**given)  # type: ignore[arg-type]  # every value was checked against its rule

    def with_overrides(self, **overrides: object) -> Settings:
        """Return these settings with some of them replaced; values are read as in :meth:`load`.

        Raises:
            ConfigError: A name is no setting, or a value is not allowed.
        """
        return replace(self, **_read_all(overrides, "in the arguments"))  # type: ignore[arg-type]

    def to_environ(self) -> dict[str, str]:
        """Return the environment variables that make :meth:`load` give these settings, whatever else is set."""
        return {ENV_PREFIX + name.upper(): _as_text(getattr(self, name)) for name in RULES}

    def profile_for(self, kind: StoreKind) -> StoreProfile:
        """Return the settings that depend on the store, each as set here or else as fits the kind of store.

        Unset ones give way to set ones, so that a heartbeat stays shorter than the time to suspicion, and that
        than the time to death.

        Args:
            kind: What the storage root is.
        """
        base = _PROFILES[kind]
        heartbeat_s = self.heartbeat_s
        if heartbeat_s is None:
            caps = [base.heartbeat_s]
            if self.suspect_after_s is not None:
                caps.append(self.suspect_after_s / _SUSPECT_BEATS)
            if self.dead_after_s is not None:
                caps.append(self.dead_after_s / _DEAD_BEATS)
            heartbeat_s = min(caps)
        suspect_s = self.suspect_after_s
        if suspect_s is None:
            suspect_s = max(base.suspect_after_s, heartbeat_s * _SUSPECT_BEATS)
            if self.dead_after_s is not None and suspect_s >= self.dead_after_s:
                suspect_s = (heartbeat_s + self.dead_after_s) / 2
        dead_s = self.dead_after_s
        if dead_s is None:
            dead_s = max(base.dead_after_s, suspect_s * _DEAD_BEATS / _SUSPECT_BEATS)
        grace_s = max(base.gc_grace_s, dead_s * _GRACE_DEATHS) if self.gc_grace_s is None else self.gc_grace_s
        poll_max_s = self.poll_max_s
        if poll_max_s is None:
            poll_max_s = max(base.poll_max_s, self.poll_min_s)
            if self.poll_idle_s is not None:
                poll_max_s = min(poll_max_s, self.poll_idle_s)
        return StoreProfile(
            heartbeat_s=heartbeat_s,
            suspect_after_s=suspect_s,
            dead_after_s=dead_s,
            gc_grace_s=max(grace_s, dead_s),
            poll_max_s=poll_max_s,
            poll_idle_s=max(base.poll_idle_s, poll_max_s) if self.poll_idle_s is None else self.poll_idle_s,
            compression=self.compression or base.compression,
            attached_partial_bytes=(
                base.attached_partial_bytes if self.attached_partial_bytes is None else self.attached_partial_bytes
            ),
        )

    def for_store(self, kind: StoreKind) -> Settings:
        """Return these settings with :meth:`profile_for` this kind of store filled in."""
        profile = self.profile_for(kind)
        return replace(self, **{f.name: getattr(profile, f.name) for f in fields(profile)})


RULES: Mapping[str, Rule] = MappingProxyType({f.name: f.metadata["rule"] for f in fields(Settings)})
"""Name of a setting to what is allowed in it, in the order of the fields."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like this one, or None if none is."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def _as_text(value: object) -> str:
    if value is None:
        return "auto"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _limit(highest: float) -> str:
    return format_bytes(int(highest)) if math.isfinite(highest) else "any size"


def _sets_something(variable: str, text: str) -> bool:
    if not variable.startswith(ENV_PREFIX) or not text.strip():
        return False
    return variable not in OTHER_VARIABLES and not variable.startswith(OTHER_PREFIXES)


def _parse_toml(file: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = tomllib.loads(file.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the settings file is not TOML in UTF-8: {error}") from error
    return document


def _read_all(given: Mapping[str, object], where: str) -> dict[str, object]:
    read: dict[str, object] = {}
    for name, value in given.items():
        rule = RULES.get(name)
        if rule is None:
            guess = nearest(name, RULES)
            hint = f"did you mean {guess!r}?" if guess else f"settings are {', '.join(RULES)}"
            raise ConfigError(f"unknown setting {name!r} {where}: {hint}", setting=name)
        try:
            read[name] = rule.read(value)
        except ConfigError as error:
            raise ConfigError(f"setting {name} {where}: {error.message}", setting=name, value=value) from error
        if not rule.accepts(read[name]):
            raise _refused(name, value, rule, where)
    return read


def _refused(name: str, value: object, rule: Rule, where: str = "") -> ConfigError:
    place = f" {where}" if where else ""
    return ConfigError(f"setting {name}{place} is {value!r}; allowed is {rule.allowed()}", setting=name, value=value)
