"""What a query left in storage, as text for people: what there is, what happened, and one task of it.

What belongs here: values in, what rich prints out. What does not: reading them (:mod:`apiary_df.replay`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from apiary_df.cli.output import printable
from apiary_df.errors import ErrorInfo
from apiary_df.model import ScanFile, TaskSpec
from apiary_df.protocol.messages import CommitRecord
from apiary_df.replay.trace import UNENDED, Found, Trace
from apiary_df.report import AttemptReport
from apiary_df.units import counted, format_bytes

MOST_SHOWN = 12
"""Attempts of a stage, or inputs of a task, that are shown one by one unless all are asked for."""

MOST_NODE_CHARS = 16
"""Characters of a node's id in a chart: what tells two nodes of a machine apart is at the id's end."""

MOST_SQL_CHARS = 400
"""Characters of a query's text; the rest is cut and marked."""

_MIN_BAR = 10

_LOOKS = {
    "committed": ("█", "green"),
    "failed": ("▓", "red"),
    "lost": ("▓", "magenta"),
    "undone": ("▓", "magenta"),
    "superseded": ("▒", "bright_black"),
    "stopped": ("▒", "yellow"),
    "running": ("▒", "cyan"),
    "waiting": ("░", "cyan"),
}
"""Outcome to what a bar is filled with, and its colour. Without colours the outcome is beside it in words."""

_WAITING = ("·", "bright_black")
_STATES = {"done": "green", "failed": "red", "cancelled": "yellow"}


def render_found(storage: str, queries: Sequence[Found]) -> RenderableType:
    """Return the queries that have objects in storage as a table."""
    if not queries:
        return Text(
            f"{storage}: nothing of any query; the settings keep and keep_failed let queries stay when they have ended"
        )
    total_bytes = sum(query.size_bytes for query in queries)
    parts: list[RenderableType] = [
        Text(f"{storage}: {counted(len(queries), 'query', 'queries')}, {format_bytes(total_bytes)}")
    ]
    for query in queries:
        error = "" if query.error is None else f": {printable(query.error.code)}"
        took = "" if query.seconds is None else f", {_seconds(query.seconds)}"
        line = Text.assemble(
            (query.query_id, "bold"),
            f"  {_moment(query.started_at) or 'at a time unknown'}  ",
            (f"{query.state}{error}", _STATES.get(query.state, "yellow")),
            f"{took}, {format_bytes(query.size_bytes)}",
        )
        parts.append(line)
        if query.sql:
            parts.append(_indented(Text(_one_line(query.sql), no_wrap=True, overflow="ellipsis")))
    return Group(*parts)


def render_trace(trace: Trace, *, every: bool = False) -> RenderableType:
    """Return what happened to a query: its end, a chart of its attempts over time, what each did, and why some failed.

    Args:
        trace: What is known of it.
        every: Show all attempts, however many.
    """
    shown = [_some_of(group, every) for group in _by_stage(trace.attempts)]
    parts: list[RenderableType] = [_head(trace), Text()]
    if trace.attempts:
        parts += [_chart(trace, shown), Text(), _numbers(shown), *_causes(trace.attempts)]
    unreadable = trace.unreadable if every else trace.unreadable[:MOST_SHOWN]
    parts += [Text(f"could not be read: {printable(words)}", style="red") for words in unreadable]
    if len(trace.unreadable) > len(unreadable):
        parts.append(Text(f"and {len(trace.unreadable) - len(unreadable)} more (--all shows them)", style="red"))
    return Group(*parts)


def render_task(
    trace: Trace, stage: int, task: int, spec: TaskSpec | None, commit: CommitRecord | None, *, every: bool = False
) -> RenderableType:
    """Return what one task reads, and what became of its attempts.

    Args:
        trace: What is known of the query.
        stage: Stage number.
        task: Task number.
        spec: What it reads; None if nothing tells.
        commit: Its commit record, if there is one.
        every: Show all of its inputs, however many.
    """
    attempts = [attempt for attempt in trace.attempts if (attempt.stage, attempt.task) == (stage, task)]
    parts: list[RenderableType] = [Text(f"task {stage}.{task} of query {trace.query_id}", style="bold")]
    if spec is None:
        parts.append(Text("what it reads was not kept", style="yellow"))
    else:
        parts.append(Text(f"reads {format_bytes(spec.input_bytes)} on {spec.node_id}: {printable(spec.why)}"))
        parts += _inputs(spec, every=every)
    if commit is not None:
        partitions = len({segment.partition for segment in commit.partial.segments})
        parts.append(
            Text(
                f"committed attempt {commit.attempt} from {commit.node_id}: {commit.partial.rows:,} rows in "
                f"{counted(partitions, 'partition')}, {format_bytes(commit.partial.length)}"
            )
        )
    if attempts:
        parts += [Text(), _chart(trace, [_Shown(attempts=tuple(attempts))]), Text()]
        parts += [_numbers([_Shown(attempts=tuple(attempts))], whole=True), *_causes(attempts)]
    return Group(*parts)


# -- the head -------------------------------------------------------------------------------------------------------


def _head(trace: Trace) -> RenderableType:
    found = trace.found
    took = "" if found.seconds is None else f" after {_seconds(found.seconds)}"
    lines = [Text.assemble(f"query {found.query_id}: ", (f"{found.state}{took}", _STATES.get(found.state, "yellow")))]
    if found.state == UNENDED:
        lines.append(Text("it still runs, or its coordinator died; what follows is what its objects tell"))
    if found.error is not None:
        lines.append(_error(found.error))
    if found.sql:
        lines.append(Text(_one_line(found.sql)))
    by = f" by {trace.coordinator}" if trace.coordinator else ""
    if found.started_at or by:
        lines.append(Text(f"started {_moment(found.started_at) or 'at a time unknown'}{by}"))
    if trace.reason:
        lines.append(Text(f"distributed: {printable(trace.reason)}"))
    lines.append(Text(_counts(trace)))
    return Group(lines[0], _indented(Group(*lines[1:])))


def _counts(trace: Trace) -> str:
    attempts = trace.attempts
    outcomes = Counter(attempt.outcome for attempt in attempts)
    told = ", ".join(f"{count} {printable(name)}" for name, count in outcomes.items())
    nodes = len({attempt.node_id for attempt in attempts if not attempt.here})
    tasks = len({(attempt.stage, attempt.task) for attempt in attempts})
    stages = len({attempt.stage for attempt in attempts})
    facts = [
        f"{counted(len(attempts), 'attempt')}{f' ({told})' if told else ''} at {counted(tasks, 'task')} of "
        f"{counted(stages, 'stage')}, on {counted(nodes, 'node')}"
    ]
    if trace.rows is not None:
        facts.append(f"{counted(trace.rows, 'row')} handed over")
    if trace.omitted:
        facts.append(f"{trace.omitted:,} more attempts were committed, and not kept")
    if trace.folded:
        facts.append(f"stages {', '.join(map(str, trace.folded))} ran in the session")
    facts.append(f"{trace.found.objects} objects of {format_bytes(trace.found.size_bytes)} are left")
    return "; ".join(facts)


def _error(error: ErrorInfo) -> Text:
    return Text(f"{printable(error.code)}: {printable(error.message)}", style="red")


# -- which attempts -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """Attempts of a stage that are shown, and how many are not."""

    attempts: tuple[AttemptReport, ...]
    hidden: int = 0


def _by_stage(attempts: Sequence[AttemptReport]) -> Iterator[list[AttemptReport]]:
    for stage in sorted({attempt.stage for attempt in attempts}):
        yield [attempt for attempt in attempts if attempt.stage == stage]


def _some_of(attempts: Sequence[AttemptReport], every: bool) -> _Shown:
    """Choose what is worth a line: what went wrong, then what took longest."""
    if every or len(attempts) <= MOST_SHOWN:
        return _Shown(attempts=tuple(attempts))
    worth = sorted(attempts, key=lambda attempt: (attempt.outcome == "committed", -attempt.seconds))
    kept = worth[:MOST_SHOWN]
    return _Shown(attempts=tuple(sorted(kept, key=lambda a: (a.task, a.attempt))), hidden=len(attempts) - len(kept))


def _name(attempt: AttemptReport) -> str:
    return f"{attempt.stage}.{attempt.task}" + (f" #{attempt.attempt}" if attempt.attempt else "")


def _node(attempt: AttemptReport) -> str:
    node_id = printable(attempt.node_id)
    if attempt.here:
        return "session"
    return node_id if len(node_id) <= MOST_NODE_CHARS else f"…{node_id[1 - MOST_NODE_CHARS :]}"


# -- the chart ------------------------------------------------------------------------------------------------------


def _chart(trace: Trace, groups: Sequence[_Shown]) -> RenderableType:
    moments = [moment for a in trace.attempts for moment in (a.sent_s, a.started_s, a.ended_s) if moment is not None]
    span_s = max([trace.found.seconds or 0.0, *moments]) or 1.0
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    for group in groups:
        for attempt in group.attempts:
            style = _LOOKS.get(attempt.outcome, ("▒", ""))[1]
            marked = " spec." if attempt.speculative else ""
            table.add_row(
                Text(_name(attempt)),
                Text(_node(attempt)),
                _Bar(attempt, span_s),
                Text(f"{printable(attempt.outcome)}{marked}", style=style),
                _seconds(attempt.seconds) if attempt.seconds else "",
            )
        if group.hidden:
            table.add_row("", "", Text(f"and {group.hidden} more (--all shows them)", style="bright_black"), "", "")
    if moments:
        table.add_row("", "", _Axis(span_s), "", "")
    return table


class _Bar:
    """An attempt over time: how long it waited, and how long it ran."""

    def __init__(self, attempt: AttemptReport, span_s: float) -> None:
        self._attempt = attempt
        self._span_s = span_s

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(_MIN_BAR, options.max_width)

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        attempt = self._attempt
        if attempt.sent_s is None and attempt.started_s is None:
            yield Segment(" " * width)
            return
        end_s = self._span_s if attempt.ended_s is None else attempt.ended_s
        start_s = attempt.started_s
        sent_s = attempt.sent_s if attempt.sent_s is not None else start_s
        # An attempt that told nothing may have run all the time.
        run_s = start_s if start_s is not None else sent_s
        sent, run, end = (self._column(moment, width) for moment in (sent_s or 0.0, run_s or 0.0, end_s))
        run = min(run, width - 1)
        sent, end = min(sent, run), max(end, run + 1)
        fill, colour = _LOOKS.get(attempt.outcome, ("▒", ""))
        yield Segment(" " * sent)
        yield Segment(_WAITING[0] * (run - sent), Style.parse(_WAITING[1]))
        yield Segment(fill * (end - run), Style.parse(colour))
        yield Segment(" " * (width - end))

    def _column(self, moment_s: float, width: int) -> int:
        return round(max(0.0, min(1.0, moment_s / self._span_s)) * width)


class _Axis:
    """The time that bars span."""

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(_MIN_BAR, options.max_width)

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        last = _seconds(self._span_s)
        yield Segment(("0 s" + last.rjust(options.max_width - 3))[: options.max_width], Style.parse("bright_black"))


# -- the numbers ----------------------------------------------------------------------------------------------------


def _numbers(groups: Sequence[_Shown], *, whole: bool = False) -> RenderableType:
    """Return what attempts did as a table; ``whole`` adds why they went where they went."""
    attempts = [attempt for group in groups for attempt in group.attempts]
    columns: dict[str, Callable[[AttemptReport], str]] = {
        "task": _name,
        "sent": lambda a: "" if a.sent_s is None else _seconds(a.sent_s),
        "queued": lambda a: _seconds(a.queued_s) if a.outcome == "committed" and not a.here else "",
        "ran": lambda a: _seconds(a.seconds) if a.started_s is not None else "",
        "in": lambda a: format_bytes(a.input_bytes),
        "rows": lambda a: f"{a.rows:,}" if a.outcome == "committed" else "",
        "out": lambda a: format_bytes(a.output_bytes) if a.outcome == "committed" and not a.here else "",
        "spilled": lambda a: format_bytes(a.spilled_bytes) if a.spills else "",
        "slots": lambda a: str(a.slots) if a.slots > 1 else "",
        "epoch": lambda a: str(a.epoch) if a.epoch else "",
        "why": lambda a: printable(a.why) if whole else "",
    }
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    shown = {title: show for title, show in columns.items() if any(show(attempt) for attempt in attempts)}
    for title in shown:
        table.add_column(
            title, justify="left" if title in {"task", "why"} else "right", no_wrap=title != "why", overflow="fold"
        )
    for attempt in attempts:
        table.add_row(*(Text(show(attempt)) for show in shown.values()))
    return table


def _causes(attempts: Sequence[AttemptReport]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for attempt in attempts:
        if attempt.error is not None:
            took = f" after {_seconds(attempt.seconds)}" if attempt.seconds else ""
            what = f"{_name(attempt)} on {printable(attempt.node_id)}: {printable(attempt.outcome)}{took}"
            lines += [Text(what), _indented(_error(attempt.error))]
    return lines


def _inputs(spec: TaskSpec, *, every: bool) -> Iterator[RenderableType]:
    lines = [f"leaf {scan.leaf}: {cell}" for scan in spec.scans for cell in _cells(scan.files)]
    for exchange in spec.exchanges:
        for ref in exchange.segments:
            segment = ref.segment
            lines.append(
                f"leaf {exchange.leaf}: partition {segment.partition} of {ref.key}, {segment.rows:,} rows, "
                f"{format_bytes(segment.length)}"
            )
    shown = lines if every else lines[:MOST_SHOWN]
    for line in shown:
        yield _indented(Text(printable(line)))
    if len(lines) > len(shown):
        more = len(lines) - len(shown)
        yield _indented(Text(f"and {more} more (--all shows them)", style="bright_black"))


def _cells(files: Sequence[ScanFile]) -> Iterator[str]:
    for file in files:
        span = "" if file.range_start is None else f" bytes {file.range_start:,} to {file.range_end or 0:,}"
        yield f"{file.path}{span} ({format_bytes(file.bytes)})"


# -- words ----------------------------------------------------------------------------------------------------------


def _indented(what: RenderableType) -> RenderableType:
    return Padding(what, (0, 0, 0, 2), expand=False)


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"


def _moment(text: str) -> str:
    """Return a time of day as a person writes it, to the second."""
    return printable(text).replace("T", " ", 1)[: len("2026-01-02 03:04:05")]


def _one_line(sql: str) -> str:
    text = printable(" ".join(sql.split()))
    return text if len(text) <= MOST_SQL_CHARS else f"{text[: MOST_SQL_CHARS - 1]}…"
