"""What a plan reads and writes by itself, and whether a node's roots allow it.

A session asks this of a query before it gives any of it to a node; a node asks it again of every task, since what lies
in storage may say anything. What belongs here: the places that plans name. What a place is, and which are allowed, is
:mod:`apiary_df.roots`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from apiary_df.errors import RootsRefused
from apiary_df.model import ScanFile, TaskSpec
from apiary_df.plan import codec
from apiary_df.plan.sinks import SINKS, target_of
from apiary_df.plan.stages import ScanLeaf, StageGraph
from apiary_df.plan.tree import UNKNOWN, PlanNode
from apiary_df.roots import ANYWHERE, Place, Roots, place_of_file, place_of_url

OPAQUE = frozenset({UNKNOWN, "extension"})
"""Operators of which nobody here can tell what they read: they are left to nodes that may read everything."""

SINGLE_FILES = 1_000
"""Files of a scan up to which a session looks at each; of more it looks at their folders."""


def check_permitted(fragment: PlanNode, task: TaskSpec, roots: Roots) -> None:
    """Check that a task, run with this fragment, reads and writes below the roots alone.

    Args:
        fragment: The stage's fragment. Of its scans the task says what they read; those of which it says nothing read
            nothing.
        task: The task.
        roots: The node's roots.

    Raises:
        RootsRefused: If it reads or writes elsewhere, or nobody can tell.
    """
    if _allow_all(roots):
        return
    check_writes(fragment, roots)
    files = {scan.leaf: scan.files for scan in task.scans}
    scans = (node for node in fragment.walk() if node.is_file_scan)
    for leaf, scan in enumerate(scans):
        if leaf not in files:
            continue
        store_url = codec.text(codec.scan_conf(scan).object_store_url)
        for file in files[leaf]:
            if not roots.allow_here(place_of_file(store_url, file.path)):
                raise refusal([f"{store_url} {file.path!r}"], f"task {task.stage}.{task.task} reads", roots)


def check_writes(fragment: PlanNode, roots: Roots) -> None:
    """Check that a fragment writes below the roots alone, and has no operator of which nobody can tell.

    Raises:
        RootsRefused: If not.
    """
    if _allow_all(roots):
        return
    for node in fragment.walk():
        if node.kind in SINKS:
            url = target_of(node).url
            place = place_of_url(url)
            store = place_of_file(codec.text(codec.fields_of(node).sink.config.object_store_url), "")
            if place is None or store is None or not store.holds(place) or not roots.allow_here(place):
                raise refusal([url], "the fragment writes", roots)
        elif node.kind in OPAQUE:
            raise refusal(["what only DataFusion can tell"], "the fragment reads", roots)


def places_of(graph: StageGraph) -> frozenset[Place | None]:
    """Return what the tasks of a query read and write; None among them stands for what nobody can tell."""
    found: set[Place | None] = set()
    for stage in graph.stages[:-1]:
        if stage.in_session:
            continue
        for leaf in stage.leaves:
            if isinstance(leaf, ScanLeaf):
                found.update(_places_of_files(leaf.store_url, leaf.files))
        for node in stage.fragment.walk():
            if node.kind in SINKS:
                found.add(place_of_url(target_of(node).url))
            elif node.kind in OPAQUE:
                found.add(None)
    return frozenset(found)


def _places_of_files(store_url: str, files: Iterable[ScanFile]) -> Iterator[Place | None]:
    paths = {file.path for file in files}
    if len(paths) > SINGLE_FILES:
        paths = {path.rpartition("/")[0] for path in paths}
    for path in paths:
        yield place_of_file(store_url, path)


def outside(places: Iterable[Place | None], roots: Roots) -> list[str]:
    """Return those places that roots do not allow, as text."""
    if _allow_all(roots):
        return []
    return sorted("(what only DataFusion can tell)" if p is None else p.url for p in places if not roots.allow(p))


def refusal(places: Iterable[str], what: str, roots: Roots) -> RootsRefused:
    """Return the error for what is not allowed.

    Args:
        places: Where it would read or write.
        what: Who does it, as the beginning of the sentence.
        roots: What is allowed.
    """
    named = sorted(places)
    more = f" and {len(named) - 1} more places" if len(named) > 1 else ""
    return RootsRefused(
        f"{what} {named[0]}{more}, which is below none of the roots that this node may use: "
        f"{', '.join(roots.urls) or 'none'}; start nodes with --allow-root for what they are to read and write",
        place=named[0],
    )


def _allow_all(roots: Roots) -> bool:
    return set(ANYWHERE.urls) <= set(roots.urls)
