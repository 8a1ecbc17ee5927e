"""What the shipped code asks of the real machine past its host, answered from the seed while a world runs.

Random tokens and dates lie in what is written, so they must be the same in every run of a seed. Real waits and threads
would take a world out of its own time: they raise. Other threads of the process, such as nodes that an earlier test has
left, get what they ask for from the real machine, and draw nothing from the seed. Garbage is not collected meanwhile:
what an earlier test has dropped may draw, too, when it goes.
"""

from __future__ import annotations

import datetime as real_datetime
import gc
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any
from unittest.mock import patch

from greenlet import getcurrent

from .kernel import Killed, World
from .storage import EPOCH


def _refused(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def instead(*args: Any, **named: Any) -> Any:
        if getcurrent().parent is not None:
            raise AssertionError(f"{name} inside of a simulated process: ask its host")
        return real(*args, **named)

    return instead


class _Journal(logging.Handler):
    """Puts what is logged into the trace, and remembers errors: shells log one where they meet a defect."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world
        self._thread = threading.get_ident()
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        thread = self._world.thread
        if threading.get_ident() != self._thread or thread is None or not thread.process.alive:
            return
        if record.levelno >= logging.ERROR:
            said = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                said += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
            self.errors.append(f"{thread.process.name}: {said}")
        self._world.log(thread.process.name, record)


@contextmanager
def stillness(world: World, seed: int) -> Iterator[list[str]]:
    """Answer from the seed while a world runs; gives the list of errors that are logged meanwhile."""
    random = Random(f"{seed} tokens")
    own_thread = threading.get_ident()

    class Dates(real_datetime.datetime):
        @classmethod
        def now(cls, tz: real_datetime.tzinfo | None = None) -> Any:
            if threading.get_ident() != own_thread:
                return real_datetime.datetime.now(tz)
            return (EPOCH + real_datetime.timedelta(seconds=world.now_s)).astimezone(tz)

    logger = logging.getLogger("apiary_df")
    journal = _Journal(world)
    kept = logger.propagate, logger.level, list(logger.handlers)
    hook = sys.unraisablehook
    collects = gc.isenabled()
    gc.disable()
    with ExitStack() as stack:

        def instead(where: object, name: str, told: Callable[..., Any]) -> None:
            real = getattr(where, name)

            def asked(*args: Any, **named: Any) -> Any:
                return (told if threading.get_ident() == own_thread else real)(*args, **named)

            stack.enter_context(patch.object(where, name, asked))

        instead(secrets, "token_hex", lambda size=32: f"{random.getrandbits(8 * size):0{2 * size}x}")
        instead(secrets, "token_bytes", lambda size=32: random.randbytes(size))
        instead(secrets, "randbelow", random.randrange)
        instead(time, "time", lambda: EPOCH.timestamp() + world.now_s)
        instead(time, "sleep", _refused("time.sleep", time.sleep))
        instead(threading.Thread, "start", _refused("Thread.start", threading.Thread.start))
        instead(socket, "gethostname", lambda: "hive")
        instead(os, "getpid", lambda: 1)
        for name, module in list(sys.modules.items()):
            if name.startswith("apiary_df") and getattr(module, "datetime", None) is real_datetime.datetime:
                stack.enter_context(patch.object(module, "datetime", Dates))
        logger.handlers[:] = [journal]
        logger.propagate = False
        logger.setLevel(logging.INFO)
        # What a killed process leaves is taken apart by the interpreter, which finds that nothing can be done any more.
        sys.unraisablehook = lambda raised: None if raised.exc_type is Killed else hook(raised)
        try:
            yield journal.errors
        finally:
            if collects:
                gc.enable()
            sys.unraisablehook = hook
            logger.propagate, logger.handlers[:] = kept[0], kept[2]
            logger.setLevel(kept[1])
