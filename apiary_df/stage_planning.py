"""What is left of a query, and how its next stage is run: the coordinator's planning step.

What belongs here: a query's stages as they are to be run, given what is complete. Each decision is a pure function of
another room (:mod:`apiary_df.tasks`, :mod:`apiary_df.plan.fold`); this puts them in order and remembers what they said.
What does not: which stage is next (:mod:`apiary_df.schedule`), and sending anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from apiary_df.adapt.broadcasts import BroadcastOptions, Joined, join_or_hold
from apiary_df.adapt.dependencies import committed_bytes, scanned_bytes
from apiary_df.adapt.key_filters import (
    Filtered,
    Hold,
    KeyFilter,
    KeyFilterOptions,
    Readers,
    hold_or_filter,
    key_filters,
)
from apiary_df.adapt.skew import Skewed, SkewOptions, skewed_partitions, told
from apiary_df.config import Settings
from apiary_df.footers import FooterCache, row_group_starts
from apiary_df.machine import usable_cores
from apiary_df.model import NodeInfo, PartialRef, TaskSpec
from apiary_df.plan.fold import FoldOptions, can_fold, fold_in_parts, remaining_bytes
from apiary_df.plan.gather import early_gather
from apiary_df.plan.stages import Stage, StageGraph
from apiary_df.plan.tree import PlanNode
from apiary_df.planner import extract_alive_nodes
from apiary_df.planner.soon import count_soon_idle
from apiary_df.report import Change
from apiary_df.store_options import StoreOptions
from apiary_df.tasks import TaskOptions, plan_in_session, plan_stage

Partials = Mapping[int, Sequence[PartialRef]]
"""What complete stages committed, in task order."""


class StagePlanning:
    """The stages of one query, as they are run.

    Args:
        graph: The stages as they were cut.
        settings: The session's settings.
        footers: Parquet footers that were read before.
        options: How cells are reached; None is the environment's way.

    Attributes:
        root: The stage that gives the result, with all that was put back into it.
        folded: Stages that were put back into the root.
        folded_how: In how many threads the root then runs, and why; empty if nothing was put back into it.
        key_options: When keys of one stage are handed to another.
        early: What the root hands over as tasks commit; None if it waits for all of them.
        broadcast_options: When rows are joined where they are made.
        skew_options: When rows of a partition are dealt out to several tasks.
        fold_options: In how many threads all that is left is done here.
    """

    def __init__(
        self, graph: StageGraph, settings: Settings, footers: FooterCache, options: StoreOptions | None
    ) -> None:
        self._cut = graph
        # The same with stages that became one; that is never undone, whatever is lost.
        self._graph = graph
        self._settings = settings
        self._footers = footers
        self._options = options
        self._filters: tuple[KeyFilter, ...] | None = None
        self.key_options = KeyFilterOptions.of(settings)
        self.broadcast_options = BroadcastOptions.of(settings)
        self.skew_options = SkewOptions.of(settings)
        self.fold_options = FoldOptions.of(settings, usable_cores())
        self._versions: dict[int, list[PlanNode]] = {}
        self._changes: dict[int, Change] = {}
        self._left_out: dict[int, Change] = {}
        self._dealt: dict[int, Change] = {}
        self.root = graph.root
        self.folded: tuple[int, ...] = ()
        self.folded_how = ""
        self.early = early_gather(graph, enabled=settings.stream_result)

    def rest_is_small(self, partials: Partials) -> bool:
        """Whether all that is left runs in the session sooner than as stages, if nothing is under way."""
        started = any(not self._graph.stages[stage].in_session for stage in partials)
        if not started or not self.can_fold(partials):
            return False
        return remaining_bytes(self._graph, partials) <= self._settings.finish_here_bytes

    def can_fold(self, partials: Partials) -> bool:
        """Whether all that is left can be done by the root."""
        return can_fold(self._graph, partials)

    def fold(self, partials: Partials) -> None:
        """Make the root do all that is left."""
        folded = fold_in_parts(self._graph, partials, self.fold_options)
        self.root, self.folded_how = folded.root, folded.why
        self.folded = tuple(s.stage for s in self._graph.stages[:-1] if not s.is_left_out and s.stage not in partials)

    def unfold(self) -> None:
        """Let the root be what it was: what it read was lost, and stages are to make it again."""
        self.root, self.folded, self.folded_how = self._graph.root, (), ""

    @property
    def changes(self) -> tuple[Change, ...]:
        """How stages are run otherwise than they were cut."""
        return (*self._left_out.values(), *self._changes.values(), *self._dealt.values())

    def next(
        self,
        number: int,
        as_run: StageGraph,
        partials: Partials,
        held: Mapping[int, int],
        nodes: Sequence[NodeInfo],
    ) -> Stage | Hold | Joined:
        """Return a stage whose inputs are complete as it is to be run now, or what it should wait for or be part of.

        Args:
            number: The stage.
            as_run: The stages with all changes so far: what is done again still reads what it was changed to read.
            partials: What complete stages committed.
            held: Stages that wait already, and for which.
            nodes: The nodes that may run it.
        """
        stage = self._graph.stages[number]
        joined = join_or_hold(
            self._graph, stage, as_run=as_run, partials=partials, held=held, options=self.broadcast_options
        )
        if isinstance(joined, Joined):
            return self._joined(joined)
        if joined is not None:
            return joined
        if self._filters is None:
            self._filters = key_filters(self._graph, self.key_options)
        decided = hold_or_filter(
            as_run,
            stage,
            filters=self._filters,
            partials=partials,
            held=held,
            options=self.key_options,
            readers=Readers.of(nodes),
        )
        if isinstance(decided, Hold):
            return decided
        self._changes.pop(number, None)
        if not isinstance(decided, Filtered):
            return self._numbered(stage)
        self._changes[number] = Change(stage=number, what=decided.why)
        return self._numbered(decided.stage)

    def _joined(self, joined: Joined) -> Joined:
        self._left_out[joined.left_out.stage] = Change(stage=joined.left_out.stage, what=joined.why, left_out=True)
        joined = replace(joined, stage=self._numbered(joined.stage))
        self._graph = self._graph.with_stage(joined.stage).with_stage(joined.left_out)
        self._filters = None
        return joined

    def _numbered(self, stage: Stage) -> Stage:
        """Give a changed stage a version of its own: nodes remember fragments by it."""
        known = self._versions.setdefault(stage.stage, [self._cut.stages[stage.stage].fragment])
        if stage.fragment not in known:
            known.append(stage.fragment)
        return replace(stage, version=known.index(stage.fragment))

    def tasks(
        self, stage: Stage, nodes: Sequence[NodeInfo], partials: Partials, underway: Iterable[tuple[str, int]] = ()
    ) -> tuple[TaskSpec, ...]:
        """Return the tasks of a stage whose inputs are complete.

        Args:
            stage: The stage; nodes run it.
            nodes: All nodes that may be given tasks of the query.
            partials: What complete stages committed.
            underway: Of each attempt of the query that is under way, its node and the bytes that it reads.

        Raises:
            NoAliveNodes: If no alive node has a bee.
        """
        reads_bytes = scanned_bytes(stage) + sum(committed_bytes(partials[number]) for number in stage.inputs)
        nodes = count_soon_idle(nodes, underway, reads_bytes)
        early = self.early is not None and stage.stage == self.early.stage
        starts = row_group_starts(
            stage, nodes, self._footers, self._options, min_cell_bytes=self._settings.min_cell_bytes
        )
        skewed = self.skewed(stage, nodes, partials)
        options = TaskOptions.of(self._settings, early=early)
        return plan_stage(stage, nodes, partials, starts, options, skewed=skewed)

    def skewed(self, stage: Stage, nodes: Sequence[NodeInfo], partials: Partials) -> Skewed:
        """Return the partitions of a stage that are far larger than their siblings, and note what is done about it.

        Args:
            stage: The stage, as it is to be run.
            nodes: All nodes that may be given tasks of the query.
            partials: What complete stages committed.
        """
        bees = sum(node.bees_total for node in extract_alive_nodes(nodes))
        found = skewed_partitions(stage, partials, bees, self.skew_options)
        self._dealt.pop(stage.stage, None)
        if what := told(stage, found):
            self._dealt[stage.stage] = Change(stage=stage.stage, what=what)
        return found

    def task_of_session(self, stage: Stage, node_id: str) -> tuple[TaskSpec, ...]:
        """Return the one task of a stage that the session, of this id, runs itself."""
        return (plan_in_session(stage, node_id),)
