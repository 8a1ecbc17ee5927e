"""``apiary node``: one node of a swarm, in the foreground until it is told to leave."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from apiary_df.cli.exits import ExitCode, ending_well
from apiary_df.cli.inputs import STORAGE_HELP, AllowRootOption, ConfigOption, SetOption, settings_from
from apiary_df.config import Settings
from apiary_df.errors import ConfigError
from apiary_df.machine import Machine, detect_machine
from apiary_df.protocol.keys import check_id
from apiary_df.roots import roots_of, split_roots
from apiary_df.store_options import StoreOptions, split_url
from apiary_df.swarm_key import read_key_file
from apiary_df.units import format_bytes, parse_size

if TYPE_CHECKING:
    from apiary_df.worker.node import Node
    from apiary_df.worker.process_executor import BeeProcesses

MAX_BEES = 1024
"""More execution slots than any machine has cores: a number above it is a slip."""

MEMORY_BASE_BYTES = 192 << 20
"""What the processes of a node take without any task: Python, the engine's code, a nursery and a first bee."""

MEMORY_SHARE = 0.8
"""Part of the memory that the bees get by default; the rest is for Python, the engine's code and buffers on the way."""

LAST_WORDS_S = 1.0
"""How long a node that was interrupted twice may take to say goodbye before the process ends regardless."""

HELP = """
Run a node: a process that takes tasks of the swarm at --storage until it is told to leave.

It reads tables and writes files only below --storage and below what --allow-root names, whatever its tasks say.

Cores and memory come from the cgroup where there is one. SIGTERM (or SIGINT) lets it finish what runs, say goodbye and
leave; a second SIGINT ends it at once, and its tasks go to other nodes.

**Examples**

    apiary node --storage /shared/swarm --allow-root /shared/tables

    apiary node --storage s3://bucket/swarm --allow-root s3://bucket/tables --bees 4 --memory 8GiB

    AWS_ENDPOINT_URL=http://minio:9000 AWS_ALLOW_HTTP=true apiary node --storage s3://bucket/swarm
"""


class LogLevel(str, Enum):
    """How much is logged to stderr."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def node(
    *,
    storage: Annotated[str, typer.Option("--storage", "-s", envvar="APIARY_STORAGE", metavar="URL", help=STORAGE_HELP)],
    bees: Annotated[
        int | None, typer.Option("--bees", metavar="N", help="Tasks at once. Default: one for each core.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="Memory of all bees: 8GiB, 512M. Default: 80% but for 192 MiB."),
    ] = None,
    allow_udfs: Annotated[
        bool, typer.Option("--allow-udfs", help="Take plans with Python functions: they are pickles, which run code.")
    ] = False,
    allow_root: AllowRootOption = None,
    swarm_key_file: Annotated[
        Path | None,
        typer.Option("--swarm-key-file", metavar="FILE", help="Take only what is signed with the key in this file."),
    ] = None,
    node_id: Annotated[
        str | None, typer.Option("--node-id", metavar="ID", help="Name in the swarm. Default: made up, unique.")
    ] = None,
    while_stdin: Annotated[
        bool, typer.Option("--while-stdin", help="Leave when standard input ends: with the process that started it.")
    ] = False,
    log_level: Annotated[LogLevel, typer.Option("--log-level", help="What is logged to stderr.")] = LogLevel.WARNING,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Run a node; see ``HELP``."""
    with ending_well():
        machine = detect_machine()
        bees_total = check_bees(bees, machine)
        memory_bytes = check_memory(memory, machine)
        logging.basicConfig(
            level=log_level.value.upper(), format="%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"
        )
        settings = settings_from(config, set_)
        if node_id is not None:
            check_id(node_id, "--node-id")
        options = None if swarm_key_file is None else StoreOptions(swarm_key=read_key_file(swarm_key_file))
        roots = roots_of((storage, *split_roots(settings.allow_roots or ""), *(allow_root or ())))
        from apiary_df.worker.node import Node

        processes = _bee_processes(storage, options, settings, allow_udfs=allow_udfs)
        worker = Node(
            storage,
            bees=bees_total,
            memory_bytes=memory_bytes,
            options=options,
            settings=settings,
            node_id=node_id,
            allow_udfs=allow_udfs,
            cores=machine.cores,
            executors=processes,
            roots=roots,
        )
        leaving = Leaving(worker)
        threading.Thread(target=_say_when_ready, args=(worker, memory_bytes), name="ready", daemon=True).start()
        if while_stdin:
            threading.Thread(target=_leave_with_stdin, args=(worker,), name="stdin", daemon=True).start()
        if processes is not None:
            processes.on_hopeless = worker.stop
        try:
            worker.run()
        finally:
            if processes is not None:
                processes.close()
        if leaving.at_once:
            raise typer.Exit(ExitCode.INTERRUPTED)


def _bee_processes(
    storage: str, options: StoreOptions | None, settings: Settings, *, allow_udfs: bool
) -> BeeProcesses | None:
    """Return what gives each bee a process; None if they are threads. Nothing may have started a thread before."""
    if settings.isolation == "thread" or split_url(storage)[0] == "memory":
        return None
    from apiary_df.worker.bee_process import BeeSetup
    from apiary_df.worker.process_executor import BeeProcesses

    return BeeProcesses(BeeSetup(storage=storage, options=options, settings=settings, allow_udfs=allow_udfs))


def _say_when_ready(worker: Node, memory_bytes: int) -> None:
    worker.ready.wait()
    typer.echo(
        f"node {worker.node_id} is ready: {worker.bees} bee{'s' if worker.bees > 1 else ''}, "
        f"{format_bytes(memory_bytes)}, on {worker.store.url}",
        err=True,
    )


def _leave_with_stdin(worker: Node) -> None:
    """Wait until the other end of standard input is closed, which the system does however its process ends."""
    # Not through sys.stdin: its lock, held by this thread while the process ends, would abort the interpreter.
    while os.read(sys.stdin.fileno(), 1):
        continue
    worker.stop()


def check_bees(bees: int | None, machine: Machine) -> int:
    """Return the number of bees; that of the machine's cores if none is given.

    Raises:
        ConfigError: If it is not 1 to :data:`MAX_BEES`.
    """
    if bees is None:
        return machine.cores
    if not 1 <= bees <= MAX_BEES:
        raise ConfigError(f"--bees {bees}: a node has 1 to {MAX_BEES} bees; there are {machine.cores} cores here")
    return bees


def check_memory(memory: str | None, machine: Machine) -> int:
    """Return the memory of all bees in bytes; most of what there is if none is given.

    Raises:
        ConfigError: If it is not a size, or more than this process may use.
    """
    if memory is None:
        return int(max(0, machine.memory_bytes - MEMORY_BASE_BYTES) * MEMORY_SHARE)
    try:
        memory_bytes = parse_size(memory)
    except ConfigError as error:
        raise ConfigError(f"--memory {error.message}") from error
    if memory_bytes > machine.memory_bytes:
        raise ConfigError(
            f"--memory {memory}: this process may use {format_bytes(machine.memory_bytes)} ({machine.source}), and a "
            "node that takes more is killed by the system"
        )
    return memory_bytes


class Leaving:
    """Lets SIGTERM and SIGINT end a node well, and a second SIGINT end it at once.

    Args:
        worker: The node; it must run in the main thread, where Python's signal handlers do.
    """

    def __init__(self, worker: Node) -> None:
        self._worker = worker
        self._interrupts = 0
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGINT, self._on_interrupt)

    @property
    def at_once(self) -> bool:
        """Whether the node was told not to finish its tasks."""
        return self._interrupts > 1

    def _on_terminate(self, _signal: int, _frame: FrameType | None) -> None:
        self._worker.stop()

    def _on_interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        self._interrupts += 1
        if not self.at_once:
            self._worker.stop()
            return
        # A task deep in native code cannot be stopped from here, so the process does not wait for it.
        timer = threading.Timer(LAST_WORDS_S, os._exit, (ExitCode.INTERRUPTED,))
        timer.daemon = True
        timer.start()
        self._worker.stop(now=True)
