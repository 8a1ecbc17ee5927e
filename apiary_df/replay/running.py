"""The queries that run on a swarm now, as far as their objects tell."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from apiary_df.protocol import keys
from apiary_df.protocol.messages import Manifest
from apiary_df.replay.trace import READ_THREADS, Reader
from apiary_df.store import Store
from apiary_df.store_options import ObjectMeta

MOST_READ = 100
"""Running queries whose manifests are read; of a swarm with more, the oldest are shown."""


_ENDED = {"outcome", "cancel"}
"""Kinds of objects that say that a query is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A query without an end.

    Attributes:
        query_id: The query.
        coordinator: The session that runs it; empty if nothing tells.
        age_s: Seconds since it was announced, by the store's clock.
        silent_s: Seconds since its session last gave a sign of life of it, by the store's clock.
        committed: Tasks that are committed; how many there will be is not known before the last stage.
        failed: Attempts that failed.
        sql: Its text; None if it did not come as SQL, or nothing tells.
    """

    query_id: str
    coordinator: str
    age_s: float
    silent_s: float
    committed: int
    failed: int
    sql: str | None


def running_queries(store: Store, now: datetime) -> list[Running]:
    """Return the queries that have objects in storage and no recorded end, the oldest first.

    Args:
        store: The swarm's root.
        now: The time by the store's clock, as it stamps objects.

    Raises:
        ObjectRefused: If the swarm signs its messages, and this process has no swarm key.
        StorageError: If the store cannot be read.
    """
    by_query: dict[str, dict[str, list[ObjectMeta]]] = {}
    for meta in store.list(keys.QUERIES):
        parsed = keys.parse_query_key(meta.key)
        if parsed is not None:
            by_query.setdefault(parsed.query_id, {}).setdefault(parsed.kind, []).append(meta)
    open_ids = [query_id for query_id in sorted(by_query) if not by_query[query_id].keys() & _ENDED][:MOST_READ]
    if not open_ids:
        return []
    reader = Reader(store)
    with ThreadPoolExecutor(min(READ_THREADS, len(open_ids)), thread_name_prefix="status") as pool:
        manifests = pool.map(lambda query_id: reader.read(keys.manifest(query_id), Manifest), open_ids)
        return [_running(q, by_query[q], manifest, now) for q, manifest in zip(open_ids, manifests, strict=True)]


def _running(query_id: str, kinds: dict[str, list[ObjectMeta]], manifest: Manifest | None, now: datetime) -> Running:
    everything = [meta for metas in kinds.values() for meta in metas]
    commits = {keys.parse_query_key(meta.key) for meta in kinds.get("commit", ())}
    return Running(
        query_id=query_id,
        coordinator="" if manifest is None else manifest.coordinator,
        age_s=_age_s(min(kinds.get("manifest", everything), key=lambda meta: meta.last_modified), now),
        silent_s=_silence_s(kinds.get("lease") or kinds.get("manifest") or everything, now),
        committed=len({(key.stage, key.task) for key in commits if key is not None}),
        failed=len(kinds.get("error", ())),
        sql=None if manifest is None else manifest.sql,
    )


def _silence_s(metas: Iterable[ObjectMeta], now: datetime) -> float:
    return _age_s(max(metas, key=lambda meta: meta.last_modified), now)


def _age_s(meta: ObjectMeta, now: datetime) -> float:
    return max(0.0, (now - meta.last_modified).total_seconds())
