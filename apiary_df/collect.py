"""What may be removed from a storage root, and why: pure decisions over listings and ages.

Queries whose sessions were lost, folders that no manifest was ever written for, late writes of nodes, mail that nobody
will read, and what dead nodes left behind. Nodes and ``apiary gc`` decide by the same rules; they differ in how they
know an age. What belongs here takes values and gives values; requests are made by :mod:`apiary_df.collector`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from apiary_df.protocol import keys
from apiary_df.store_options import ObjectMeta
from apiary_df.units import format_seconds

_Name = TypeVar("_Name")

_PROBE = re.compile(rf"{keys.PROBES}[0-9a-f]{{16}}")


class Kind(Enum):
    """What a group of objects is."""

    QUERY = "query"
    NODE = "node"
    MAIL = "mail"
    PROBE = "probe"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Objects that stay or go together.

    Attributes:
        kind: What they are.
        name: Id of the query or node; the key of a mail or a probe; the folder of foreign objects.
        objects: All of them, sorted by key.
    """

    kind: Kind
    name: str
    objects: tuple[ObjectMeta, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all of them."""
        return sum(meta.size_bytes for meta in self.objects)

    @property
    def mark(self) -> object:
        """What is another value as soon as one of the objects is written anew, is added or goes away."""
        return tuple((meta.key, meta.last_modified, meta.e_tag) for meta in self._signs())

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of the objects of a query, as far as their keys tell."""
        parsed = (keys.parse_query_key(meta.key) for meta in self.objects)
        return frozenset(key.kind for key in parsed if key is not None)

    @property
    def last_modified_ts(self) -> float:
        """When the newest of them that is a sign of life was written, by the store's clock, in seconds."""
        return max(meta.last_modified.timestamp() for meta in self._signs())

    def _signs(self) -> tuple[ObjectMeta, ...]:
        """Return the objects that tell whether somebody lives: of a node its heartbeat, if there is one."""
        if self.kind is Kind.NODE:
            beats = tuple(meta for meta in self.objects if keys.node_of_heartbeat(meta.key))
            return beats or self.objects
        return self.objects


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How old what must be before it is removed.

    Attributes:
        grace_s: Seconds for which nothing of a query must have changed; for probes and mail as well.
        node_gc_s: Seconds for which a node must have given no sign of life.
        kept: Whether queries that were kept on purpose go too.
    """

    grace_s: float
    node_gc_s: float
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a group.

    Attributes:
        group: The group.
        age_s: Seconds for which it is known not to have changed.
        remove: Whether it goes.
        why: The reason, for people.
    """

    group: Group
    age_s: float
    remove: bool
    why: str


class Stillness(Generic[_Name]):
    """For how long things have been the same, as one observer has seen it. Holds no clock: times are arguments.

    Only time in which the observer was looking counts: who was stopped for an hour has not seen an hour of stillness,
    since what it watches may have been stopped with it.

    Args:
        most_gap_s: What counts at most of the time between two looks, in seconds.
    """

    def __init__(self, most_gap_s: float) -> None:
        self._most_gap_s = most_gap_s
        self._seen: dict[_Name, tuple[object, float, float]] = {}

    def look(self, name: _Name, mark: object, now_s: float) -> float:
        """Note how something is now, and return for how many seconds it has been seen so.

        Args:
            name: Which thing.
            mark: A value that changes when the thing does.
            now_s: The observer's monotonic clock.
        """
        before = self._seen.get(name)
        still_s = 0.0
        if before is not None and before[0] == mark:
            _, looked_s, so_far_s = before
            still_s = so_far_s + min(max(0.0, now_s - looked_s), self._most_gap_s)
        self._seen[name] = (mark, now_s, still_s)
        return still_s

    def forget_others(self, names: AbstractSet[_Name]) -> None:
        """Forget all things but these."""
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}


def grouped(listed: Iterable[ObjectMeta]) -> tuple[Group, ...]:
    """Return the objects below a root's own prefixes in groups.

    A folder below ``_queries/`` is a query's if it holds at least one object that this version knows; then all of it
    is, since another version may have further kinds. What has none is foreign, and so is any key of another shape.

    Args:
        listed: What a listing gave, in any order.
    """
    queries: dict[str, list[ObjectMeta]] = {}
    nodes: dict[str, list[ObjectMeta]] = {}
    probes: list[ObjectMeta] = []
    foreign: dict[str, list[ObjectMeta]] = {}
    for meta in sorted(listed, key=lambda meta: meta.key):
        if (query_id := keys.query_of(meta.key)) is not None:
            queries.setdefault(query_id, []).append(meta)
        elif (node_id := keys.node_of_heartbeat(meta.key) or keys.node_of_mail(meta.key)) is not None:
            nodes.setdefault(node_id, []).append(meta)
        elif _PROBE.fullmatch(meta.key):
            probes.append(meta)
        elif keys.query_of_write(meta.key) is None:
            foreign.setdefault(meta.key.rpartition("/")[0] + "/", []).append(meta)
    for query_id in [name for name, found in queries.items() if not any(map(_is_known, found))]:
        foreign.setdefault(keys.query_prefix(query_id), []).extend(queries.pop(query_id))
    return (
        *(_group(Kind.QUERY, name, found) for name, found in sorted(queries.items())),
        *(_group(Kind.NODE, name, found) for name, found in sorted(nodes.items())),
        *(_group(Kind.PROBE, meta.key, [meta]) for meta in probes),
        *(_group(Kind.FOREIGN, name, found) for name, found in sorted(foreign.items())),
    )


def _is_known(meta: ObjectMeta) -> bool:
    return keys.parse_query_key(meta.key) is not None


def _group(kind: Kind, name: str, found: Sequence[ObjectMeta]) -> Group:
    return Group(kind=kind, name=name, objects=tuple(found))


def judge(group: Group, age_s: float, limits: Limits, *, writes: AbstractSet[str] = frozenset()) -> Verdict:
    """Return what becomes of a group.

    Args:
        group: The group.
        age_s: Seconds for which it is known not to have changed.
        limits: How old it must be.
        writes: Queries whose files are still noted as under way: these are taken back first.
    """

    def verdict(why: str, *, remove: bool) -> Verdict:
        return Verdict(group=group, age_s=age_s, remove=remove, why=why)

    if group.kind is Kind.FOREIGN:
        return verdict("not apiary's", remove=False)
    needed_s = limits.node_gc_s if group.kind is Kind.NODE else limits.grace_s
    if group.kind is Kind.QUERY and "outcome" in group.kinds:
        return verdict("kept on purpose", remove=limits.kept and age_s >= needed_s)
    if age_s < needed_s:
        return verdict(f"younger than {format_seconds(needed_s)}", remove=False)
    if group.kind is Kind.QUERY and group.name in writes:
        return verdict("the files that it was writing have to be taken back first", remove=False)
    return verdict(_why(group), remove=True)


def _why(group: Group) -> str:
    if group.kind is Kind.NODE:
        return "the node is dead"
    if group.kind is Kind.PROBE:
        return "a probe that nobody removed"
    kinds = group.kinds
    if "cancel" in kinds:
        return "it has ended, and was not removed whole"
    if "manifest" not in kinds:
        return "no manifest: never announced, or written after its end"
    return "its session was lost: the lease is not renewed"


def judge_mail(
    group: Group, ages_s: Mapping[str, float], senders_query: Mapping[str, str], there: AbstractSet[str], grace_s: float
) -> tuple[Verdict, ...]:
    """Return which mails of a node go although the node stays: those of queries that are not there any more.

    Args:
        group: A node.
        ages_s: Age of each of its mails, by key, in seconds.
        senders_query: Which query a mail is of, by the mail's key; mails that could not be read are absent.
        there: Queries that stay.
        grace_s: Age that a mail must have.
    """
    return tuple(
        Verdict(
            group=_group(Kind.MAIL, meta.key, [meta]),
            age_s=ages_s[meta.key],
            remove=True,
            why=f"its query {senders_query[meta.key]} is gone",
        )
        for meta in group.objects
        if meta.key in senders_query and senders_query[meta.key] not in there and ages_s[meta.key] >= grace_s
    )
