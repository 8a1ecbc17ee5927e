"""Many queries in a row: drawn from a seed, judged, counted; differences reduced and written down."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from .dialect import to_sql
from .lab import Lab, Setting, draw_setting
from .oracles import Judged, Oracle, Verdict, judge_by_duckdb, judge_by_plain
from .queries import Partitioned, Query
from .reduce import reduce
from .reproduce import write_script

QUERIES_A_SETTING = 25
"""Queries over one set of tables: registering them costs about as much as two queries."""

REDUCE_S = 60.0
"""How long a difference is reduced, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One query of a campaign, by which it can be drawn again."""

    oracle: str
    seed: str
    setting: int
    query: int

    def __str__(self) -> str:
        return f"{self.oracle}:{self.seed}:{self.setting}:{self.query}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read what ``str()`` gave."""
        oracle, seed, setting, query = text.split(":")
        return cls(oracle=oracle, seed=seed, setting=int(setting), query=int(query))


@dataclass(slots=True, kw_only=True)
class Tally:
    """What came of the queries so far.

    Attributes:
        verdicts: How many of each verdict.
        asked: Queries that the swarm answered; a query with its partitions is four.
        distributed: How many of them ran in more than this process.
        left_here: Why queries that read several files were not distributed.
        empty: Answers without rows.
        notes: Kinds of what is neither the same nor a difference, with how often each occurred.
        first: The first case of each of these.
        differences: One text a difference.
    """

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    asked: int = 0
    distributed: int = 0
    left_here: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    @property
    def share_distributed(self) -> float:
        """Of the queries with more than one file to read, the share that was distributed."""
        return self.distributed / max(self.distributed + self.left_here.total(), 1)

    def add(self, case: Case, judged: Judged) -> None:
        """Count a judgement."""
        self.verdicts[judged.verdict] += 1
        self.asked += len(judged.distributed)
        self.distributed += sum(judged.distributed)
        self.left_here.update(reason[:90] for reason in judged.left_here)
        self.empty += judged.verdict is Verdict.SAME and not judged.rows
        if judged.verdict is not Verdict.SAME:
            note = f"{judged.verdict.value}: {_kind_of(judged.detail)}"
            self.notes[note] += 1
            self.first.setdefault(note, str(case))

    def lines(self) -> Iterator[str]:
        """Say it in lines for a person."""
        yield ", ".join(f"{verdict.value} {count:,}" for verdict, count in self.verdicts.items())
        yield f"answers without rows: {self.empty:,}"
        yield (
            f"distributed: {self.distributed:,} of {self.asked:,}; "
            f"{100 * self.share_distributed:.1f} % of those with more than one file to read"
        )
        for reason, count in self.left_here.most_common(8):
            yield f"  {count:,} read several files and ran here: {reason}"
        for note, count in self.notes.most_common(30):
            yield f"  {count:,} {note} (first: {self.first[note]})"


def run_campaign(
    lab: Lab,
    oracle: Oracle,
    *,
    seed: str,
    queries: int,
    first_setting: int = 0,
    until_s: float = float("inf"),
    reports: Path | None = None,
    progress: Callable[[str], None] = lambda _text: None,
) -> Tally:
    """Draw and judge so many queries.

    Args:
        lab: Where they run.
        oracle: Who judges.
        seed: What they are drawn from.
        queries: How many.
        first_setting: Number of the first set of tables: a campaign that was broken off goes on from there.
        until_s: When to stop at the latest, on the monotonic clock.
        reports: Folder for scripts that reproduce differences; None: none is reduced or written.
        progress: Told every now and then how far it is, and at once of a difference.
    """
    tally = Tally()
    told_s = time.monotonic()
    for number in range(queries):
        case = Case(
            oracle=oracle.name,
            seed=seed,
            setting=first_setting + number // QUERIES_A_SETTING,
            query=number % QUERIES_A_SETTING,
        )
        if time.monotonic() > until_s:
            break
        if case.query == 0:
            setting = draw_setting(Random(f"{case.oracle}:{seed}:{case.setting}"), oracle.tables)
            lab.prepare(setting)
        query, judged = oracle.judge(lab, Random(str(case)), setting.tables)
        tally.add(case, judged)
        if judged.verdict is Verdict.DIFFERENT:
            text = describe(lab, case, setting, query, judged, reports=reports)
            tally.differences.append(text)
            progress(text)
            lab.prepare(setting)
        elif judged.verdict is Verdict.PLAIN_BUG:
            progress(f"{case}: {judged.verdict.value}\n{judged.detail}\n{';'.join(judged.texts)}\n")
        if time.monotonic() - told_s > 15:
            told_s = time.monotonic()
            progress(f"{oracle.name}: {number + 1:,} of {queries:,}, {len(tally.differences)} differences")
    return tally


def describe(
    lab: Lab, case: Case, setting: Setting, query: Query | Partitioned, judged: Judged, *, reports: Path | None
) -> str:
    """Say what is different, with a query and tables as small as can be found, and write a script that shows it."""
    lines = [f"== {case}: {judged.verdict.value}", setting.describe(), judged.detail, *judged.texts]
    if reports is not None and isinstance(query, Query):
        judge = judge_by_duckdb if case.oracle == "duckdb" else judge_by_plain

        def shows(smaller: Query) -> bool:
            return judge(lab, smaller).verdict is Verdict.DIFFERENT

        setting, query = reduce(lab, setting, query, shows, seconds=REDUCE_S)
        judged = judge(lab, query)
        lines += ["-- reduced:", setting.describe(), judged.detail, to_sql(query.tree)]
        path = reports / f"{str(case).replace(':', '_')}.py"
        write_script(path, setting, to_sql(query.tree), judged.detail)
        lines.append(f"-- reproduce with: python {path}")
    return "\n".join(lines)


def _kind_of(detail: str) -> str:
    return " ".join(detail.split())[:140]
