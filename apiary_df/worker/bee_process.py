"""What a bee's process does: it takes jobs from a pipe, runs them, and says how they went.

What belongs here: the messages between a node and its bees, and the bee's side of the pipe. The node's side is in
:mod:`apiary_df.worker.process_executor`, what an attempt does in :mod:`apiary_df.worker.bee`.

The pipe joins a process and its own fork, so its messages are trusted; they are typed to be exact, not to be safe. How
to reach the store, secrets among it, comes with the fork and is never sent.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeAlias

import msgspec
import pyarrow as pa

from apiary_df.config import Settings
from apiary_df.errors import ApiaryError, ErrorInfo, InternalError
from apiary_df.model import TaskSpec
from apiary_df.plan import codec
from apiary_df.store import open_store
from apiary_df.store_options import StoreOptions
from apiary_df.worker.bee import Work
from apiary_df.worker.engine import check_engine
from apiary_df.worker.executor import Job, ThreadExecutor

logger = logging.getLogger("apiary_df")


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first message to a bee.

    Attributes:
        scratch: Its folder.
        check: Whether it is to check its engine before it says that it is ready.
    """

    scratch: str
    check: bool


class Run(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Run an attempt; the fields are those of :class:`~apiary_df.worker.executor.Job`, encoded.

    Attributes:
        number: Number of the job, which its answer has too.
        query_id: The query.
        task: What it reads.
        fragment: The plan, as DataFusion's bytes.
        schema: Schema of the partial, as an Arrow IPC message.
        inputs: Schemas of the partials that it reads, likewise, by stage.
        settings: DataFusion options.
        partial_key: Where the partial goes.
        memory_bytes: Memory that it may use.
    """

    number: int
    query_id: str
    task: TaskSpec
    fragment: bytes
    schema: bytes
    inputs: dict[int, bytes]
    settings: dict[str, str]
    partial_key: str
    memory_bytes: int


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Stop a job at its next batch."""

    number: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The bee takes jobs."""


class Done(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A job is done.

    Attributes:
        number: The job.
        work: What it made.
    """

    number: int
    work: Work


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A job failed, or the bee's start (number -1).

    Attributes:
        number: The job.
        error: How.
    """

    number: int
    error: ErrorInfo


ToBee: TypeAlias = Begin | Run | Cancel
FromBee: TypeAlias = Ready | Done | Failed

START = -1
"""Number of the job that a bee's start is, in :class:`Failed`."""

_to_bee = msgspec.msgpack.Decoder(ToBee)
_from_bee = msgspec.msgpack.Decoder(FromBee)


def send(pipe: Connection, message: ToBee | FromBee) -> None:
    """Write a message to a pipe.

    Raises:
        OSError: If the other end is gone.
    """
    pipe.send_bytes(msgspec.msgpack.encode(message))


def receive(pipe: Connection) -> FromBee:
    """Read a bee's message.

    Raises:
        EOFError: If the bee is gone.
        OSError: Likewise.
    """
    message: FromBee = _from_bee.decode(pipe.recv_bytes())
    return message


def run_message(job: Job, number: int) -> Run:
    """Return the message that has a job run."""
    return Run(
        number=number,
        query_id=job.query_id,
        task=job.task,
        fragment=codec.encode(job.fragment),
        schema=job.schema.serialize().to_pybytes(),
        inputs={stage: schema.serialize().to_pybytes() for stage, schema in job.inputs.items()},
        settings=dict(job.settings),
        partial_key=job.partial_key,
        memory_bytes=job.memory_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BeeSetup:
    """What all bees of a node have in common; it comes with the fork.

    Attributes:
        storage: URL of the root.
        options: How root and cells are reached; None is the environment's way.
        settings: The node's settings.
        allow_udfs: Whether plans may carry Python functions.
    """

    storage: str
    options: StoreOptions | None
    settings: Settings
    allow_udfs: bool

    def __call__(self, pipe: Connection) -> None:
        """Be a bee until the node is gone."""
        _Bee(self, pipe).serve()


class _Bee:
    def __init__(self, setup: BeeSetup, pipe: Connection) -> None:
        self._setup = setup
        self._pipe = pipe
        self._jobs: queue.SimpleQueue[tuple[Run, threading.Event]] = queue.SimpleQueue()
        self._cancelled: dict[int, threading.Event] = {}
        self._store = open_store(setup.storage, setup.options)

    def serve(self) -> None:
        begin = _to_bee.decode(self._pipe.recv_bytes())
        assert isinstance(begin, Begin)
        scratch = Path(begin.scratch)
        try:
            if begin.check:
                check_engine(scratch)
        except ApiaryError as error:
            send(self._pipe, Failed(number=START, error=error.to_info()))
            return
        send(self._pipe, Ready())
        threading.Thread(target=self._read, name="pipe", daemon=True).start()
        settings = self._setup.settings.for_store(self._store.kind)
        executor = ThreadExecutor(
            self._store, scratch, self._setup.options, settings, allow_udfs=self._setup.allow_udfs
        )
        while True:
            message, cancelled = self._jobs.get()
            answer = self._answer(executor.run, message, cancelled)
            self._cancelled.pop(message.number, None)
            try:
                send(self._pipe, answer)
            except OSError:
                return  # the node is gone, and with it everybody who would want to know

    def _read(self) -> None:
        """Take messages while a job runs. The end of the pipe is the end of the node, and of this process."""
        try:
            while True:
                message = _to_bee.decode(self._pipe.recv_bytes())
                if isinstance(message, Run):
                    event = self._cancelled[message.number] = threading.Event()
                    self._jobs.put((message, event))
                elif isinstance(message, Cancel) and (running := self._cancelled.get(message.number)) is not None:
                    running.set()
        except (EOFError, OSError):
            os._exit(0)

    def _answer(self, run: Callable[[Job], Work], message: Run, cancelled: threading.Event) -> Done | Failed:
        try:
            work = run(
                Job(
                    query_id=message.query_id,
                    task=message.task,
                    fragment=codec.decode(message.fragment),
                    schema=pa.ipc.read_schema(pa.py_buffer(message.schema)),
                    inputs={s: pa.ipc.read_schema(pa.py_buffer(data)) for s, data in message.inputs.items()},
                    settings=message.settings,
                    partial_key=message.partial_key,
                    memory_bytes=message.memory_bytes,
                    cancelled=cancelled,
                )
            )
        except ApiaryError as error:
            return Failed(number=message.number, error=error.to_info())
        except BaseException as error:  # defects, and panics of native code, which are no Exception
            logger.exception("task %d.%d raised what it should not", message.task.stage, message.task.task)
            wrapped = InternalError(f"{type(error).__name__}: {error}")
            return Failed(number=message.number, error=wrapped.to_info())
        return Done(number=message.number, work=work)
