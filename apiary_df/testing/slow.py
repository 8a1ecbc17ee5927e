"""A store that answers as late as a bucket, and notes when; and how many requests of a stage came one after the other.

A :class:`SlowStore` is a real store (this process's memory, a folder) that takes itself for a bucket, so that processes
above it behave as they do there. Several stores, one for each process of a swarm, note in one list. What belongs here:
noting and counting. How many requests there should be is for tests to say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from apiary_df.errors import ObjectMissing
from apiary_df.protocol import keys
from apiary_df.store import Data, ObjectMeta, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedRequest:
    """A request that was made.

    Attributes:
        process: Whose it was.
        verb: ``get``, ``ranges``, ``put``, ``create``, ``head``, ``list`` or ``delete``.
        key: Of what; the first of several.
        start_s: When it was made, by the system's monotonic clock.
        end_s: When it was answered.
        found: Whether it found what it looked for.
    """

    process: str
    verb: str
    key: str
    start_s: float
    end_s: float
    found: bool = True


class SlowStore(Store):
    """A store whose requests all take at least a certain time.

    Args:
        store: The store whose root it uses.
        latency_s: How long a request takes at least, in seconds.
        noted: Where requests are noted, in order of their end.
        process: Name under which they are noted.
    """

    def __init__(self, store: Store, latency_s: float, noted: list[NotedRequest], process: str) -> None:
        super().__init__(replace(store.site, connect=lambda _: store.connect()), store.options)
        self.process = process
        self._latency_s = latency_s
        self._noted = noted

    @property
    def kind(self) -> Literal["folder", "memory", "bucket"]:
        """What shells take it for."""
        return "bucket"

    def get(self, key: str, limit_bytes: int | None = None) -> bytes:
        """Read a whole object; see :meth:`Store.get`."""
        start_s = self._wait()
        try:
            data = super().get(key, limit_bytes)
        except ObjectMissing:
            self._note("get", key, start_s, found=False)
            raise
        self._note("get", key, start_s)
        return data

    def get_start(self, key: str, length: int) -> tuple[bytes, int] | None:
        """Read an object's first bytes; see :meth:`Store.get_start`."""
        start_s = self._wait()
        found = super().get_start(key, length)
        self._note("get", key, start_s, found=found is not None)
        return found

    async def read_range(self, key: str, start: int, length: int) -> Data:
        """Read a range beside others; see :meth:`Store.read_range`."""
        start_s = time.monotonic()
        await asyncio.sleep(self._latency_s)
        found = await super().read_range(key, start, length)
        self._note("ranges", key, start_s)
        return found

    def put(self, key: str, data: Data) -> None:
        """Write an object; see :meth:`Store.put`."""
        start_s = self._wait()
        super().put(key, data)
        self._note("put", key, start_s)

    def head(self, key: str) -> ObjectMeta:
        """Look an object up; see :meth:`Store.head`."""
        start_s = self._wait()
        meta = super().head(key)
        self._note("head", key, start_s)
        return meta

    def list(self, prefix: str) -> list[ObjectMeta]:
        """List a prefix; see :meth:`Store.list`."""
        start_s = self._wait()
        found = super().list(prefix)
        self._note("list", prefix, start_s)
        return found

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; see :meth:`Store.delete`."""
        wanted = [*keys]
        if wanted:
            start_s = self._wait()
            super().delete(wanted)
            self._note("delete", wanted[0], start_s)

    def _create(self, key: str, data: bytes) -> None:
        start_s = self._wait()
        super()._create(key, data)
        self._note("create", key, start_s)

    def _fetch_spans(self, key: str, spans: Sequence[tuple[int, int]]) -> Sequence[memoryview]:
        start_s = self._wait()
        found = super()._fetch_spans(key, spans)
        self._note("ranges", key, start_s)
        return found

    def _wait(self) -> float:
        start_s = time.monotonic()
        time.sleep(self._latency_s)
        return start_s

    def _note(self, verb: str, key: str, start_s: float, *, found: bool = True) -> None:
        self._noted.append(
            NotedRequest(process=self.process, verb=verb, key=key, start_s=start_s, end_s=time.monotonic(), found=found)
        )


def sequences_of_stages(noted: Iterable[NotedRequest], session: str) -> dict[int, tuple[NotedRequest, ...]]:
    """Return, of each stage that nodes ran, the longest row of requests that came one after the other.

    A stage lasts from its first mail until its last commit record is read, and what is counted is what that waits for:
    mail written and read, manifest and fragment, inputs, partial, commit record written and read. Looks that found
    nothing are not, as what they wait for takes its time anyhow; nor are lists and deletes, for which nobody waits.

    Args:
        noted: The requests of one query whose stages run one after the other, a task of each on a node.
        session: Who runs it.
    """
    known = [request for request in noted if request.found]
    ends: dict[int, float] = {}
    for request in known:
        place = keys.parse_query_key(request.key)
        if request.process == session and request.verb == "get" and place is not None and place.kind == "commit":
            ends[place.stage or 0] = max(ends.get(place.stage or 0, 0.0), request.end_s)
    rows: dict[int, tuple[NotedRequest, ...]] = {}
    makers = {request.key: request.process for request in known if request.verb == "create"}
    begun_s = float("-inf")
    for stage, end_s in sorted(ends.items(), key=lambda item: item[1]):
        within = [request for request in known if begun_s <= request.start_s and request.end_s <= end_s]
        nodes = {request.process for request in within} - {session}
        rows[stage] = max((_row([r for r in within if _is_of(r, node, session, makers)]) for node in nodes), key=len)
        begun_s = end_s
    return rows


def _is_of(request: NotedRequest, node: str, session: str, makers: Mapping[str, str]) -> bool:
    """Whether a stage waits for a request that is made by a node, or by the session for that node.

    Args:
        request: The request.
        node: The node.
        session: The session.
        makers: Who has created which key.
    """
    place = keys.parse_query_key(request.key)
    if keys.node_of_mail(request.key) == node:
        return request.verb in ("create", "get")
    if place is None:
        return False
    if request.process == session:
        return request.verb == "get" and place.kind == "commit" and makers.get(request.key) == node
    return request.process == node and place.kind in ("manifest", "stage", "partial", "commit")


def _row(requests: list[NotedRequest]) -> tuple[NotedRequest, ...]:
    """Return the most requests of which each began when the one before had ended, or reads what that one wrote.

    A look may be under way already when what it finds is written; on another day it is not.
    """
    row: list[NotedRequest] = []
    for request in sorted(requests, key=lambda request: request.end_s):
        if not row or request.start_s >= row[-1].end_s or request.key == row[-1].key:
            row.append(request)
    return tuple(row)
