"""Bees whose engine is reckoning, and a coordinator's root without an engine."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pyarrow as pa

from apiary_df.adapt.broadcasts import BroadcastOptions
from apiary_df.adapt.key_filters import KeyFilterOptions
from apiary_df.adapt.skew import SkewOptions
from apiary_df.coordinator import QueryRun
from apiary_df.errors import ExecutionFailed, QueryCancelled, ResourcesExhausted
from apiary_df.model import TaskSpec
from apiary_df.plan.stages import Stage
from apiary_df.protocol.partial_writer import PartialWriter
from apiary_df.root import Root
from apiary_df.store import Store
from apiary_df.worker.bee import Work
from apiary_df.worker.executor import Job

from .kernel import Process
from .shapes import SCHEMA, Row, batch_of, partition_of, rows_of_task

ALWAYS = KeyFilterOptions(
    most_bytes=1 << 40,
    from_bytes=0,
    least_gain=0,
    most_kept=float("inf"),
    most_waited=float("inf"),
    any_stage=True,
)
"""Keys are handed on wherever they may be: which stage has few of them is nothing that rows of a number show."""

WHOLE = BroadcastOptions(most_bytes=1 << 40, from_bytes=0, least_gain=0, most_waited=float("inf"))
"""Sides of joins are read whole wherever they may be."""

DEALT = SkewOptions(factor=1e-9, from_bytes=0, least_own=0)
"""Rows of partitions are dealt out wherever they may be."""

POISON = "poisoned cell"
"""What the error says that a cell gives which nobody can read."""

LONGEST_STEP_S = 2.0
"""Longest time between two such looks: an attempt that takes longer is ended with its bee's process."""

STEPS = 4
"""Least looks that an attempt takes at whether its query is over, batch by batch."""


@dataclass(slots=True, kw_only=True)
class WorkModel:
    """How long work takes, and what goes wrong in it.

    Attributes:
        random: What is drawn from.
        task_s: Longest time of an ordinary attempt.
        straggles: Chance that one takes twenty times as long.
        exhausts: Chance that a task needs several bees' memory.
        poisoned: Query id to the cell that cannot be read.
        ran: Attempts that were begun, each with its process.
    """

    random: Random
    task_s: float
    straggles: float
    exhausts: float
    poisoned: dict[str, int] = field(default_factory=dict)
    ran: list[tuple[str, str]] = field(default_factory=list)
    _needs: dict[tuple[str, int, int], int] = field(default_factory=dict)

    def seconds(self) -> float:
        """Return how long an attempt takes."""
        seconds = self.random.random() * self.task_s
        return seconds * 20 if self.straggles and self.random.random() < self.straggles else seconds

    def taste(self, query_id: str, task: TaskSpec) -> None:
        """Raise if a task reads the cell that cannot be read.

        Raises:
            ExecutionFailed: If it does.
        """
        poisoned = self.poisoned.get(query_id)
        if any(Path(f.path).stem == str(poisoned) for scan in task.scans for f in scan.files):
            raise ExecutionFailed(f"{POISON} {poisoned}")

    def slots_needed(self, query_id: str, stage: int, task: int) -> int:
        """Return how many bees' memory a task needs; the same for all of its attempts."""
        key = (query_id, stage, task)
        if key not in self._needs:
            hungry = self.exhausts and self.random.random() < self.exhausts
            self._needs[key] = 2 if hungry else 1
        return self._needs[key]


class SimExecutor:
    """Runs attempts as :class:`apiary_df.worker.executor.Executor` says, by reckoning."""

    def __init__(self, store: Store, process: Process, scratch: Path, model: WorkModel, bee_bytes: int) -> None:
        self._store = store
        self._process = process
        self._scratch = scratch
        self._model = model
        self._bee_bytes = bee_bytes

    def run(self, job: Job) -> Work:
        """Run one attempt."""
        model, host, task = self._model, self._process.host, job.task
        model.ran.append((self._process.name, job.partial_key))
        self._process.world.note(self._process.name, f"runs {job.partial_key}")
        seconds = model.seconds()
        self._scratch.mkdir(parents=True, exist_ok=True)
        rows = rows_of_task(job.fragment, task, self._store, self._scratch)
        steps = max(STEPS, int(seconds / LONGEST_STEP_S) + 1)
        for _ in range(steps):
            host.sleep(seconds / steps)
            if job.cancelled.is_set():
                raise QueryCancelled(f"stopped {job.partial_key}: the query is over")
        model.taste(job.query_id, task)
        if job.memory_bytes < model.slots_needed(job.query_id, task.stage, task.task) * self._bee_bytes:
            raise ResourcesExhausted("the bee's budget did not suffice: it is simulated")
        return self._stored(job, rows)

    def close(self) -> None:
        """Nothing is held."""

    def _stored(self, job: Job, rows: list[Row]) -> Work:
        partitions = job.task.output_partitions
        with PartialWriter(job.schema, partitions, self._scratch, 64 << 20) as writer:
            for partition in range(partitions):
                own = [row for row in rows if partitions == 1 or partition_of(row[0], partitions) == partition]
                if own:
                    writer.write(partition, batch_of(own, job.schema))
            finished = writer.finish()
            attached = finished.attachable(job.task.attached_bytes)
            if attached is None:
                self._store.put(job.partial_key, finished.data)
        return Work(partial=finished.ref(job.partial_key), spills=0, spilled_bytes=0, attached=attached)


class SimRoot(Root):
    """A root that is reckoned, where it is more than laying partials end to end."""

    query_id: str
    scratch: Path
    model: WorkModel

    def executed(self, stage: Stage, task: TaskSpec) -> Generator[pa.RecordBatch, None, None]:
        """Yield the rows of the root stage."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.model.taste(self.query_id, task)
        rows = rows_of_task(stage.fragment, task, self._store, self.scratch)
        yield batch_of(rows, SCHEMA)


class SimQueryRun(QueryRun):
    """A run of a query whose root is reckoned, and whose stages are changed wherever that is right."""

    root_type = SimRoot
    root: SimRoot

    def set_up(self, folder: Path, model: WorkModel) -> None:
        """Say how its root is reckoned.

        Args:
            folder: For scratch files.
            model: How long work takes, and what goes wrong in it.
        """
        self.root.query_id, self.root.scratch, self.root.model = self.query_id, folder / f"root-{self.query_id}", model
        if self._planning.key_options.most_bytes:
            self._planning.key_options = ALWAYS
        if self._planning.broadcast_options.most_bytes:
            self._planning.broadcast_options = WHOLE
        if self._planning.skew_options.factor:
            self._planning.skew_options = DEALT
