"""Removing what lost sessions and dead nodes have left below a root, as :mod:`apiary_df.collect` decides.

Nodes look all the time and know ages from what they have seen themselves; ``apiary gc`` looks once and knows them from
the store's clock. Every removal can be done by several at once, and be broken off anywhere: the manifest goes first, so
that whoever still works on a query stops. What belongs here: the requests. Files that statements were writing are taken
back by :mod:`apiary_df.lost_writes`, before the query goes.
"""

from __future__ import annotations

import logging
from collections.abc import Collection as AbstractCollection
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from apiary_df.collect import Group, Kind, Limits, Stillness, Verdict, grouped, judge, judge_mail
from apiary_df.errors import ApiaryError, ObjectMissing, ObjectRefused
from apiary_df.lost_writes import take_back_noted
from apiary_df.protocol import keys
from apiary_df.protocol.messages import Mail
from apiary_df.protocol.storage import read_message
from apiary_df.roots import ANYWHERE, Roots
from apiary_df.store import Store
from apiary_df.store_options import ObjectMeta, StoreOptions

logger = logging.getLogger("apiary_df")

LOOKS_A_GRACE = 10
"""Looks of a node in a grace period: what is lost goes a fifth of it late at most, and a look is one listing."""

TIME_GRAIN_S = 1.0
"""Two answers of a store about one object's time may differ by less: in headers, times are whole seconds."""

SWARM_PREFIXES = (keys.NODES, keys.INBOX, keys.PROBES)
"""Where nodes, and those who look for them, leave things."""


class Collector:
    """A node's collection: what has not changed for the grace period, by its own clock, goes. Holds no clock.

    Args:
        store: The root.
        limits: How old what must be.
        by: Who collects, for the log.
    """

    def __init__(self, store: Store, limits: Limits, by: str) -> None:
        self._store = store
        self._limits = limits
        self._by = by
        self.look_s = limits.grace_s / LOOKS_A_GRACE
        self._swarm_look_s = limits.node_gc_s / LOOKS_A_GRACE
        self._queries: Stillness[tuple[Kind, str]] = Stillness(2 * self.look_s)
        self._swarm: Stillness[tuple[Kind, str]] = Stillness(2 * max(self.look_s, self._swarm_look_s))
        self._looked_s: float | None = None

    def look(self, now_s: float) -> int:
        """Look once, and remove what is due; what cannot be removed is logged, and tried again by the next look.

        Args:
            now_s: The observer's monotonic clock. Looks should be :attr:`look_s` apart.

        Returns:
            How many queries are there that are neither kept nor gone by now.

        Raises:
            StorageError: If the root cannot be listed.
        """
        queries = [group for group in grouped(self._store.list(keys.QUERIES)) if group.kind is Kind.QUERY]
        verdicts = self._judged(queries, self._queries, now_s)
        gone = self._remove(verdicts)
        if gone:
            remove_mail(self._store, gone)
        if self._looked_s is None or now_s - self._looked_s >= self._swarm_look_s:
            self._looked_s = now_s
            swarm = grouped(meta for prefix in SWARM_PREFIXES for meta in self._store.list(prefix))
            self._remove(self._judged(swarm, self._swarm, now_s))
        kept = sum("outcome" in group.kinds for group in queries)
        return len(queries) - kept - len(gone)

    def _judged(
        self, groups: Iterable[Group], stillness: Stillness[tuple[Kind, str]], now_s: float
    ) -> tuple[Verdict, ...]:
        found = tuple(groups)
        stillness.forget_others({(group.kind, group.name) for group in found})
        ages_s = ((group, stillness.look((group.kind, group.name), group.mark, now_s)) for group in found)
        return tuple(judge(group, age_s, self._limits) for group, age_s in ages_s)

    def _remove(self, verdicts: Iterable[Verdict]) -> set[str]:
        """Remove what is to go; returns the names of what went."""
        gone: set[str] = set()
        for verdict in verdicts:
            try:
                if verdict.remove and remove(self._store, verdict.group):
                    gone.add(verdict.group.name)
                    logger.warning("%s removed %s %s: %s", self._by, *_named(verdict))
            except ApiaryError as error:
                logger.warning("%s cannot remove %s: %s", self._by, verdict.group.name, error)
        return gone


def _named(verdict: Verdict) -> tuple[str, str, str]:
    return verdict.group.kind.value, verdict.group.name, verdict.why


def remove(store: Store, group: Group) -> bool:
    """Remove a group of objects.

    Args:
        store: The root.
        group: What was found.

    Returns:
        False if it stays: it shows a sign of life that the listing did not, or a write has to be taken back first.

    Raises:
        StorageError: If something cannot be removed; another try goes on from there.
    """
    if group.kind is Kind.QUERY:
        return _remove_query(store, group)
    if group.kind is Kind.NODE:
        if _has_changed(store, group, keys.heartbeat(group.name)):
            return False
        store.delete([keys.heartbeat(group.name)])
        store.delete_prefix(keys.inbox_prefix(group.name))
        return True
    store.delete([meta.key for meta in group.objects])
    return True


def _remove_query(store: Store, group: Group) -> bool:
    lease = keys.lease(group.name)
    if _has_changed(store, group, lease) or store.get_or_none(keys.write(group.name)) is not None:
        return False
    # A session that was only paused finds its lease gone; a node that still works on the query, too.
    store.delete([lease, keys.manifest(group.name)])
    store.delete_prefix(keys.query_prefix(group.name))
    return True


def _has_changed(store: Store, group: Group, key: str) -> bool:
    """Whether an object was written after the listing that found the group: listings only ever discover."""
    listed = next((meta for meta in group.objects if meta.key == key), None)
    try:
        there = store.head(key)
    except ObjectMissing:
        # Somebody else is removing it.
        return False
    return listed is None or (there.last_modified - listed.last_modified).total_seconds() >= TIME_GRAIN_S


def remove_mail(store: Store, query_ids: AbstractCollection[str]) -> int:
    """Remove undelivered mail of queries that are gone; returns how many mails.

    Raises:
        StorageError: If inboxes cannot be listed or read, or mail cannot be removed.
    """
    found = senders_of_mail(store, store.list(keys.INBOX))
    undelivered = [key for key, query_id in found.items() if query_id in query_ids]
    store.delete(undelivered)
    return len(undelivered)


def senders_of_mail(store: Store, listed: Iterable[ObjectMeta]) -> dict[str, str]:
    """Return which query each mail is of, by its key; mail that is refused, or was read meanwhile, is left out.

    Raises:
        StorageError: If mail cannot be read.
    """
    found: dict[str, str] = {}
    for meta in listed:
        if keys.node_of_mail(meta.key) is None:
            continue
        with suppress(ObjectRefused):
            mail = read_message(store, meta.key, Mail)
            if mail is not None:
                found[meta.key] = mail.query_id
    return found


# -- by hand -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What a collection by hand found.

    Attributes:
        removed: What went, or would have gone in a dry run.
        left: What stays, with the reason.
    """

    removed: tuple[Verdict, ...]
    left: tuple[Verdict, ...]


def collect_now(
    store: Store,
    limits: Limits,
    *,
    options: StoreOptions | None,
    dead_after_s: float,
    dry_run: bool,
    roots: Roots = ANYWHERE,
) -> Collection:
    """Remove, at once, what by the store's own clock is old enough.

    Args:
        store: The root.
        limits: How old what must be.
        options: How places that statements write files to are reached.
        dead_after_s: Age from which on a write without a new journal is a lost session's, in seconds.
        dry_run: Only say what would go. The clock is read from a probe that is written and removed.
        roots: Where files of lost writes may be taken back.

    Raises:
        StorageUnreachable: If the root cannot be reached or written.
        StorageError: If it cannot be listed, or something cannot be removed.
    """
    # The clock before the listing: what is written in between is younger than nothing.
    now_ts = store.check_writable().timestamp()
    listed = [meta for prefix in (keys.QUERIES, *SWARM_PREFIXES) for meta in store.list(prefix)]
    groups = grouped(listed)
    notes = {keys.query_of_write(meta.key) for meta in store.list(keys.WRITES)}
    writes = {query_id for query_id in notes if query_id is not None}
    verdicts: list[Verdict] = []
    for group in groups:
        verdict = judge(group, max(0.0, now_ts - group.last_modified_ts), limits)
        if verdict.remove and not dry_run:
            if (
                group.kind is Kind.QUERY
                and group.name in writes
                and not take_back_noted(store, group.name, options, "apiary gc", dead_after_s=dead_after_s, roots=roots)
            ):
                verdict = judge(group, verdict.age_s, limits, writes=writes)
            elif not remove(store, group):
                verdict = Verdict(group=group, age_s=0.0, remove=False, why="it has shown a sign of life")
        verdicts.append(verdict)
    verdicts += _collect_mail(store, verdicts, now_ts, limits.grace_s, dry_run=dry_run)
    return Collection(
        removed=tuple(verdict for verdict in verdicts if verdict.remove),
        left=tuple(verdict for verdict in verdicts if not verdict.remove),
    )


def _collect_mail(
    store: Store, verdicts: Iterable[Verdict], now_ts: float, grace_s: float, *, dry_run: bool
) -> list[Verdict]:
    """Remove mail of queries that are gone from inboxes that stay."""
    stay = [verdict.group for verdict in verdicts if not verdict.remove]
    there = {group.name for group in stay if group.kind is Kind.QUERY}
    found: list[Verdict] = []
    for group in stay:
        if group.kind is not Kind.NODE:
            continue
        ages_s = {meta.key: max(0.0, now_ts - meta.last_modified.timestamp()) for meta in group.objects}
        old = [meta for meta in group.objects if ages_s[meta.key] >= grace_s]
        found += judge_mail(group, ages_s, senders_of_mail(store, old), there, grace_s)
    if not dry_run:
        store.delete([meta.key for verdict in found for meta in verdict.group.objects])
    return found
