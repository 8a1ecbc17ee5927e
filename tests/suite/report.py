"""What the outcomes of suites add up to, as a table and as JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from .harness import Outcome

LEAST_SHARE = 0.95
"""Share of the runs whose scans have several cells that must have had several tasks at once."""

MADE = re.compile(r"<!-- made: measured -->\n(.*?)<!-- end -->", re.DOTALL)
"""The part of a page that a run writes."""


def made_part(text: str) -> str:
    """Return a page's made part with this text in it."""
    return f"<!-- made: measured -->\n{text}<!-- end -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts over one suite, a query at a partition count being one run.

    Attributes:
        suite: Name of the suite.
        queries: Different queries.
        runs: Runs.
        right: Runs without any fault.
        divisible: Runs of more than one bee with a scan of several cells: those that could use several tasks.
        divided: Those of them that had several tasks in a stage.
        alone: The rest of them: (label, reason).
        plain_s: Seconds that plain DataFusion took for all runs.
        swarm_s: Seconds that the swarms took.
    """

    suite: str
    queries: int
    runs: int
    right: int
    divisible: int
    divided: int
    alone: tuple[tuple[str, str], ...]
    plain_s: float
    swarm_s: float

    @property
    def share(self) -> float:
        """Share of the divisible runs that were divided; 1 if there are none."""
        return self.divided / self.divisible if self.divisible else 1.0


def summarise(outcomes: Iterable[Outcome]) -> list[Summary]:
    """Return a summary for each suite, in the order in which they come."""
    by_suite: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_suite.setdefault(outcome.suite, []).append(outcome)
    return [_summary(suite, members) for suite, members in by_suite.items()]


def _summary(suite: str, outcomes: Sequence[Outcome]) -> Summary:
    divisible = [o for o in outcomes if o.divisible and o.partitions > 1]
    alone = tuple((o.label, o.reason if not o.distributed else "one task a stage") for o in divisible if o.widest < 2)
    return Summary(
        suite=suite,
        queries=len({o.query for o in outcomes}),
        runs=len(outcomes),
        right=sum(not o.faults for o in outcomes),
        divisible=len(divisible),
        divided=len(divisible) - len(alone),
        alone=alone,
        plain_s=sum(o.plain_s for o in outcomes),
        swarm_s=sum(o.swarm_s for o in outcomes),
    )


def as_table(summaries: Sequence[Summary]) -> Table:
    """Return the summaries for a terminal."""
    table = Table(title="Suites: distributed answers against plain DataFusion's")
    for name in ("suite", "queries", "runs", "right", "scan several cells", "in several tasks", "share"):
        table.add_column(name, justify="left" if name == "suite" else "right")
    for s in summaries:
        counts = (s.queries, s.runs, s.right, s.divisible, s.divided)
        table.add_row(s.suite, *map(str, counts), f"{s.share:.1%}")
    return table


def as_markdown(summaries: Sequence[Summary]) -> str:
    """Return the summaries for a page: a table, and why some runs that scan several cells had one task at a time."""
    head = ("suite", "queries", "runs", "right", "scan several cells, several bees", "in several tasks", "share")
    lines = [head, tuple("---" for _ in head)]
    for s in summaries:
        counts = (s.queries, s.runs, s.right, s.divisible, s.divided)
        lines.append((f"`{s.suite}`", *map(str, counts), f"{s.share:.1%}"))
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    reasons = Counter((s.suite, reason.split(":")[0]) for s in summaries for _, reason in s.alone)
    return (
        table
        + ("\n" if reasons else "")
        + "".join(f"- `{suite}`, {count} runs: {reason}\n" for (suite, reason), count in reasons.items())
    )


def as_json(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return summaries and outcomes as a document."""
    summaries = [{**asdict(s), "share": s.share} for s in summarise(outcomes)]
    return {"suites": summaries, "runs": [asdict(outcome) for outcome in outcomes]}
