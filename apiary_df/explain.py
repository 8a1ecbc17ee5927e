"""Texts that tell how a query is run, and what it did. Pure: plans, nodes and reports in, text out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datafusion.plan import LogicalPlan

from apiary_df.costs import in_all
from apiary_df.model import CellUse, NodeInfo, TaskSpec
from apiary_df.plan.classes import UNKNOWN_OPERATOR, classify, one_task_operators
from apiary_df.plan.codec import unknown_name
from apiary_df.plan.gather import gather_of, why_whole
from apiary_df.plan.operators import source_bytes
from apiary_df.plan.repeatable import why_it_differs
from apiary_df.plan.rules import Phase
from apiary_df.plan.rules.reuse_shuffles import reuse_shuffles, told
from apiary_df.plan.sinks import find_sink, target_of
from apiary_df.plan.stages import ExchangeLeaf, ScanLeaf, Stage, StageGraph
from apiary_df.plan.tree import UNKNOWN, PlanNode
from apiary_df.planning import RunsHere, RunsOnSwarm
from apiary_df.report import AttemptReport, QueryReport
from apiary_df.units import format_bytes

MOST_TASKS_SHOWN = 8
"""Tasks of a stage that are shown one by one unless all are asked for."""

_EXPLAIN = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*explain\b", re.IGNORECASE | re.DOTALL)
_NATIVE_FORMAT = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*explain\b[^;]*?\bformat\b", re.IGNORECASE | re.DOTALL)

_GATHER = "CoalescePartitionsExec"
"""What an operator that is not known was put below, to have one partition."""

Display = Callable[[PlanNode], str]
"""Renders a plan as DataFusion displays it."""

PlanTasks = Callable[[Stage], tuple[TaskSpec, ...]]
"""Plans the tasks of a stage that reads source files only, as they would be planned now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """The query inside of an EXPLAIN statement."""

    plan: LogicalPlan
    analyze: bool
    verbose: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What there is to tell.

    Attributes:
        plan: How the query was planned.
        reason: Why it runs here, or why it is distributed.
        nodes: The nodes that would take part.
        notes: What else there is to know of how it is run.
        refusal: Why it is not run at all; empty if it is.
        report: What it did, if it was run.
        streams: Whether the session lets rows be handed over as tasks commit.
        until: How far to follow it: ``physical``, ``rewritten``, ``stages`` or ``assignment``.
        verbose: Show the plan after every rule, and all tasks.
    """

    plan: RunsHere | RunsOnSwarm
    reason: str = ""
    nodes: tuple[NodeInfo, ...] = ()
    notes: tuple[str, ...] = ()
    refusal: str = ""
    report: QueryReport | None = None
    streams: bool = True
    until: str = "assignment"
    verbose: bool = False


def is_explain(sql: str) -> bool:
    """Whether a statement is an EXPLAIN that is answered here; one with a FORMAT is datafusion's."""
    return _EXPLAIN.match(sql) is not None and _NATIVE_FORMAT.match(sql) is None


def logical_of_explain(plan: LogicalPlan) -> Explained | None:
    """Return what an EXPLAIN statement's plan explains; None if it is no such plan."""
    variant = type(plan.to_variant()).__name__
    if variant not in {"Explain", "Analyze"}:
        return None
    (inner,) = plan.inputs()
    verbose = bool(plan.to_variant().verbose())
    return Explained(plan=inner, analyze=variant == "Analyze", verbose=verbose)


def render(explanation: Explanation, display: Display, plan_tasks: PlanTasks) -> str:
    """Return the text of an explanation.

    Args:
        explanation: What there is to tell.
        display: Renders plans.
        plan_tasks: Plans the tasks of stages whose inputs are source files.
    """
    plan = explanation.plan
    lines: list[str] = []
    if explanation.until == "physical":
        return plan.physical.rstrip()
    if explanation.until == "rewritten":
        return _rewritten(explanation, display)
    if explanation.refusal:
        lines.append(f"refused: {explanation.refusal}")
        lines.extend(_indented(plan.physical))
    elif isinstance(plan, RunsHere) or not explanation.nodes:
        lines.append(f"runs in this process: {explanation.reason}")
        lines.extend(_indented(plan.physical))
    else:
        lines.extend(_distributed(plan, explanation, display, plan_tasks))
    if explanation.report is not None:
        lines.extend(_measured(explanation.report))
    return "\n".join(line.rstrip() for line in lines)


def _rewritten(explanation: Explanation, display: Display) -> str:
    phases = explanation.plan.phases
    if not phases:
        return f"not rewritten: {explanation.reason}"
    shown = phases if explanation.verbose else phases[-1:]
    lines: list[str] = []
    for phase in shown:
        if explanation.verbose:
            lines.append(f"after {phase.rule}:")
        lines.extend(_indented(display(phase.plan)) if explanation.verbose else [display(phase.plan).rstrip()])
    return "\n".join(lines)


def _distributed(plan: RunsOnSwarm, explanation: Explanation, display: Display, plan_tasks: PlanTasks) -> list[str]:
    graph = plan.graph
    bees = sum(node.bees_total for node in explanation.nodes)
    lines = [f"distributed: {len(graph.stages)} stages on {len(explanation.nodes)} nodes, {bees} bees"]
    if explanation.reason:
        lines.append(f"why: {explanation.reason}")
    lines.extend(explanation.notes)
    lines.extend(_reused(plan.phases))
    by_stage: dict[int, list[AttemptReport]] = {}
    for attempt in explanation.report.attempts if explanation.report else ():
        if not attempt.here:
            by_stage.setdefault(attempt.stage, []).append(attempt)
    for stage in graph.stages:
        lines.append(_stage_title(stage, graph, display))
        lines.extend(_indented(display(stage.fragment)))
        if explanation.until == "stages":
            continue
        if stage is graph.root:
            lines.append(f"  rows: {_how_rows_come(explanation, graph)}")
            continue
        if stage.in_session:
            continue
        changes = explanation.report.changes if explanation.report else ()
        lines.extend(f"  changed as it ran: {change.what}" for change in changes if change.stage == stage.stage)
        if explanation.report is not None and stage.stage in explanation.report.folded_stages:
            lines.append("  ran in this process, with the result: little was left to read, or no node was left")
        elif stage.stage in by_stage:
            lines.extend(_tasks_done(by_stage[stage.stage], explanation.verbose))
        elif any(change.stage == stage.stage and change.left_out for change in changes):
            lines.append("  not run: another stage did its work")
        elif stage.inputs:
            lines.append("  tasks: planned when its inputs are complete and their sizes known")
        else:
            lines.extend(_tasks_planned(plan_tasks(stage), explanation.verbose))
    return lines


def _reused(phases: Sequence[Phase]) -> list[str]:
    """Return what is not shuffled as DataFusion planned it, since rows lie together already."""
    changed = itertools.pairwise(phases)
    return [line for old, new in changed if new.rule == reuse_shuffles.__name__ for line in told(old.plan, new.plan)]


def _how_rows_come(explanation: Explanation, graph: StageGraph) -> str:
    """Return when rows of the result go to the user, and why not sooner."""
    if explanation.report is not None and explanation.report.folded_stages:
        how = explanation.report.folded_how
        return f"made in this process, together with what was left of the plan, {how}"
    why = why_whole(graph, enabled=explanation.streams)
    if why:
        return f"handed over once all tasks have committed: {why}"
    gather = gather_of(graph.root)
    enough = "" if gather is None or gather.fetch_rows is None else f", until there are {gather.fetch_rows}"
    return f"handed over as tasks commit{enough}"


def _stage_title(stage: Stage, graph: StageGraph, display: Display) -> str:
    if stage is graph.root:
        reason = _why_one_task(stage, display)
        why = f"; {reason}" if reason else ""
        return f"stage {stage.stage} (result, in this process){_reads(stage)}{_written_here(stage)}{why}"
    if stage.in_session:
        size = format_bytes(source_bytes(stage.fragment))
        parts = "1 part" if stage.partitions == 1 else f"{stage.partitions} parts"
        return f"stage {stage.stage} (in-memory table of {size}, stored once by this process) -> {parts}"
    target = f"shuffle by hash into {stage.partitions}" if stage.output == "hash" else "gather"
    if find_sink(stage.fragment) is not None:
        target = "gather of row counts; each task writes files of its own"
    return f"stage {stage.stage} -> {target}; {_parallelism(stage, display)}{_reads(stage)}"


def _written_here(stage: Stage) -> str:
    """Return why the root writes all files itself, if it does."""
    sink = find_sink(stage.fragment)
    if sink is None:
        return ""
    if target_of(sink).single_file:
        return "; one file, written in this process: its rows must come in one stream"
    return "; files written in this process: what is written has a single partition"


def _reads(stage: Stage) -> str:
    return f"; reads stage {', '.join(map(str, stage.inputs))}" if stage.inputs else ""


def _parallelism(stage: Stage, display: Display) -> str:
    words = []
    for variant in stage.variants:
        if variant.kind == "cells":
            (leaf,) = (stage.leaves[i] for i in variant.split)
            assert isinstance(leaf, ScanLeaf)
            size = sum(file.size_bytes for file in leaf.files)
            words.append(f"tasks by cells ({len(leaf.files)} files, {format_bytes(size)})")
        elif stage.combines:
            words.append("puts the shuffle's pieces together: fewer requests than if each task read them all")
        elif variant.kind == "hash":
            words.append(f"tasks by {variant.partitions} shuffle partitions")
        elif variant.kind == "spread":
            words.append(f"tasks by {variant.partitions} parts of an in-memory table")
        else:
            once = why_it_differs(stage.fragment)
            reason = _why_one_task(stage, display) or (f"computed once: {once}" if once else "")
            words.append(f"one task ({reason or _one_partition(stage)})")
        copies = [stage.leaves[i] for i in variant.whole if variant.kind != "single"]
        scans = sum(isinstance(leaf, ScanLeaf) for leaf in copies)
        broadcasts = sum(isinstance(leaf, ExchangeLeaf) for leaf in copies)
        words += [f"{scans} small scans replicated into each"] if scans else []
        words += [f"{broadcasts} build sides broadcast to each"] if broadcasts else []
    return " + ".join(words)


def _why_one_task(stage: Stage, display: Display) -> str:
    """Return which operators ask for one task, and why; empty if none does."""
    return "; ".join(_reason(node, display) for node in one_task_operators(stage.fragment))


def _reason(node: PlanNode, display: Display) -> str:
    if node.kind != UNKNOWN:
        return classify(node).why
    names = [line.split(":", 1)[0].strip() for line in display(node).splitlines()]
    name = next((name for name in names if name != _GATHER), _GATHER)
    return f"{name}, {unknown_name(node)}: {UNKNOWN_OPERATOR.reason}"


def _one_partition(stage: Stage) -> str:
    """Return why a stage is one task for which no operator asks."""
    if any(isinstance(leaf, ExchangeLeaf) for leaf in stage.leaves):
        return "its input was gathered before, and no shuffle stands between"
    size = sum(file.bytes for leaf in stage.leaves if isinstance(leaf, ScanLeaf) for file in leaf.files)
    return f"the plan has a single partition here: it reads {format_bytes(size)}"


def _tasks_planned(specs: Sequence[TaskSpec], verbose: bool) -> list[str]:
    lines = []
    shown = specs if verbose else specs[:MOST_TASKS_SHOWN]
    for spec in shown:
        lines.append(
            f"  task {spec.stage}.{spec.task} on {spec.node_id}: {format_bytes(spec.input_bytes)}, "
            f"{len(spec.cells)} cells ({spec.why})"
        )
        if verbose:
            lines.extend(f"    {cell}" for cell in spec.cells)
    return lines + _more(len(specs) - len(shown))


def _tasks_done(attempts: Sequence[AttemptReport], verbose: bool) -> list[str]:
    """Return a line for every task, of the attempt that counts, and one for each of its others."""
    tasks: dict[int, list[AttemptReport]] = {}
    for attempt in attempts:
        tasks.setdefault(attempt.task, []).append(attempt)
    shown = sorted(tasks)[: None if verbose else MOST_TASKS_SHOWN]
    lines: list[str] = []
    for task in shown:
        lines.extend(_task_done(attempt) for attempt in tasks[task] if attempt.outcome == "committed")
        lines.extend(f"    {_told(attempt)}" for attempt in tasks[task] if attempt.outcome != "committed")
    return lines + _more(len(tasks) - len(shown))


def _task_done(task: AttemptReport) -> str:
    spilled = f", {task.spills} spills of {format_bytes(task.spilled_bytes)}" if task.spills else ""
    attempt = f", attempt {task.attempt}" if task.attempt else ""
    lies = f" {task.lies}" if task.lies else ""
    requests = in_all(task.requests)
    return (
        f"  task {task.stage}.{task.task} on {task.node_id}: {task.rows} rows, "
        f"{format_bytes(task.input_bytes)} in, {format_bytes(task.output_bytes)} out{lies}, "
        f"{task.seconds * 1000:.1f} ms after {task.queued_s * 1000:.1f} ms in the queue, "
        f"{task.cells} cells{_cached(task.cache)}, {requests} requests{spilled}{attempt} ({task.why})"
    )


def _cached(use: CellUse) -> str:
    """Return what the cell cache did for a task; nothing if it had no cells for which there could be one."""
    if not use.hits + use.misses:
        return ""
    fetched = f", {format_bytes(use.fetched_bytes)} fetched into it" if use.fetched_bytes else ""
    return f" ({use.hits} from the cache, {use.misses} not; {format_bytes(use.hit_bytes)} were there{fetched})"


def _told(attempt: AttemptReport) -> str:
    """Return what became of an attempt that does not count."""
    until_s = attempt.ended_s or 0.0
    took_s = attempt.seconds or max(0.0, until_s - (attempt.sent_s or 0.0))
    took = f" after {took_s * 1000:.1f} ms" if took_s else ""
    cause = "" if attempt.error is None else f": {attempt.error.code}: {attempt.error.message}"
    return f"attempt {attempt.attempt} on {attempt.node_id} {attempt.outcome}{took}{cause}"


def _more(hidden: int) -> list[str]:
    return [f"  ... and {hidden} more tasks (EXPLAIN VERBOSE shows all)"] if hidden > 0 else []


def _measured(report: QueryReport) -> list[str]:
    line = f"ran in {report.elapsed_s * 1000:.1f} ms: {report.rows} rows"
    if report.first_row_s is not None:
        line += f", the first after {report.first_row_s * 1000:.1f} ms"
    if report.distributed:
        requests = ", ".join(
            f"{count} {name}" for name, count in sorted(report.requests.items()) if not name.startswith("bytes")
        )
        line += (
            f", {report.tasks} tasks, {format_bytes(report.bytes_through_storage)} through storage, "
            f"requests: {requests or 'none'}"
        )
        if report.dollars:
            line += f" (about ${report.dollars:.6f})"
    cells = report.cache.hits + report.cache.misses
    return [f"{line}, {cells} cells{_cached(report.cache)}" if cells else line]


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.rstrip().splitlines()]
