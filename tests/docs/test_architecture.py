"""docs/architecture.md and docs/decisions.md say what the code does. Run this file to write their made parts anew."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apiary_df.config import RULES as SETTINGS
from apiary_df.config import Settings, StoreKind
from apiary_df.errors import (
    ApiaryError,
    ExecutionFailed,
    FunctionsRefused,
    ObjectDamaged,
    PartialLost,
    StorageTransient,
    all_error_classes,
)
from apiary_df.model import PartialRef, TaskKey, TaskSpec
from apiary_df.plan.classes import TABLE, Placement
from apiary_df.plan.rules import RULES
from apiary_df.plan.stages import ExchangeLeaf, Stage, StageGraph, Variant
from apiary_df.plan.tree import PlanNode
from apiary_df.planning import TWIN_OPTIONS
from apiary_df.protocol import keys
from apiary_df.schedule import (
    LATE_NEWS,
    TRANSITIONS,
    AllNodesLost,
    Answer,
    Cancelled,
    EnoughRows,
    Event,
    HandedOver,
    NodeSight,
    NodesSeen,
    QueryState,
    RecordDamaged,
    RestIsSmall,
    RootErred,
    RootFinished,
    Schedule,
    StageChanged,
    StageHeld,
    StagePlanned,
    Started,
    TaskCommitted,
    TaskErred,
    TaskForgotten,
    Tick,
    TimedOut,
)
from apiary_df.worker.engine import ENGINE_OPTIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
DECISIONS = ROOT / "docs" / "decisions.md"
PAGES = (PAGE, DECISIONS)
MADE = re.compile(r"<!-- made: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)
MOST_LINES = 600

ENDED = (QueryState.DONE, QueryState.FAILED, QueryState.CANCELLED)


def first_line(thing: object) -> str:
    doc = inspect.getdoc(thing)
    assert doc is not None, f"{thing} has no docstring"
    return " ".join(doc.split("\n\n")[0].split()).replace("``", "`")


def table(*rows: tuple[str, ...]) -> str:
    head, *body = rows
    lines = [head, tuple("---" for _ in head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# -- the parts that are made from the code --------------------------------------------------------------------------


def rules() -> str:
    return "".join(f"{n}. `{rule.__name__}`. {first_line(rule)}\n" for n, rule in enumerate(RULES, 1))


def operators() -> str:
    rows: list[tuple[str, ...]] = [("where it may run", "operators")]
    for placement in Placement:
        found = dict.fromkeys(f"`{row.operator}`" for row in TABLE if row.placement is placement)
        rows.append((placement.value, ", ".join(found)))
    return table(*rows)


def layout() -> str:
    assert keys.__doc__ is not None
    block = keys.__doc__.split("::\n\n")[1].split("\n\n")[0]
    return f"```text\n{inspect.cleandoc(block)}\n```\n"


def errors() -> str:
    base = next(all_error_classes())
    rows = [("family", "what it is about", "errors, with their codes")]
    for family in base.__subclasses__():
        members = [_named(cls) for cls in _below(family)]
        rows.append((_named(family), first_line(family), ", ".join(members)))
    return table(*rows)


def _named(cls: type[ApiaryError]) -> str:
    again = ", tried again" if cls.retryable else ""
    return f"`{cls.__name__}` (`{cls.code}`{again})"


def _below(cls: type[ApiaryError]) -> Iterator[type[ApiaryError]]:
    for child in cls.__subclasses__():
        yield child
        yield from _below(child)


def profiles() -> str:
    kinds: tuple[StoreKind, ...] = ("folder", "memory", "bucket")
    found = [Settings().profile_for(kind) for kind in kinds]
    names = (
        "heartbeat_s",
        "suspect_after_s",
        "dead_after_s",
        "gc_grace_s",
        "poll_max_s",
        "poll_idle_s",
        "compression",
        "attached_partial_bytes",
    )
    return table(("setting", *kinds), *((f"`{n}`", *(str(getattr(p, n)) for p in found)) for n in names))


def events() -> str:
    answers = {state: TRANSITIONS[state] for state in QueryState}
    assert all(answers[state].keys() == answers[QueryState.DONE].keys() for state in ENDED)
    order = list(dict.fromkeys(event for state in QueryState for event in answers[state]))
    rows: list[tuple[str, ...]] = [("event", "what it tells", "RUNNING", "FINISHING", "DONE, FAILED, CANCELLED")]
    for event in order:
        words = [_answer(answers[state].get(event)) for state in (QueryState.RUNNING, QueryState.FINISHING, ENDED[0])]
        rows.append((f"`{event.__name__}`", first_line(event), *words))
    return table(*rows)


def _answer(answer: Answer | None) -> str:
    if answer is None:
        return "illegal"
    return "ignored" if answer.method == LATE_NEWS else "taken"


def diagram() -> str:
    arrows: dict[tuple[QueryState, QueryState], list[str]] = {}
    for before, event, after in arrows_of_the_table():
        arrows.setdefault((before, after), []).append(event)
    lines = ["stateDiagram-v2", "    [*] --> RUNNING"]
    lines += [f"    {before.name} --> {after.name}: {', '.join(names)}" for (before, after), names in arrows.items()]
    lines += [f"    {state.name} --> [*]" for state in ENDED]
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


def arrows_of_the_table() -> list[tuple[QueryState, str, QueryState]]:
    """Return (state before, event, state after) for all that the table allows, but for news that is ignored."""
    return [
        (before, event.__name__, after)
        for before in QueryState
        for event, answer in TRANSITIONS[before].items()
        if answer.method != LATE_NEWS
        for after in answer.to
    ]


PARTS: dict[str, Callable[[], str]] = {
    "rules": rules,
    "operators": operators,
    "keys": layout,
    "errors": errors,
    "profiles": profiles,
    "events": events,
    "diagram": diagram,
}


def made() -> dict[str, str]:
    return {name: make() for name, make in PARTS.items()}


def with_made_parts(page: str) -> str:
    parts = made()
    return MADE.sub(lambda m: f"<!-- made: {m[1]} -->\n{parts[m[1]]}<!-- end -->", page)


# -- what a schedule does, seen on the smallest query ---------------------------------------------------------------


def observed() -> set[tuple[QueryState, str, QueryState]]:
    """Feed events to schedules, and return (state before, event, state after) of each that was taken."""
    seen = set()
    for steps in _lives():
        schedule = Schedule("q", _stages(), max_attempts=3, retry_after_s=1.0, hand_over=0)
        now_s = 0.0
        for event in steps:
            before = schedule.state
            now_s += 60.0 if isinstance(event, Tick) else 0.0
            schedule.handle(event, now_s)
            seen.add((before, type(event).__name__, schedule.state))
    return seen


def _lives() -> list[list[Event]]:
    specs = tuple(TaskSpec(stage=0, task=task, node_id="a", output_partitions=1) for task in (0, 1))
    begin: list[Event] = [Started(), StagePlanned(stage=0, specs=specs)]
    finishing: list[Event] = [*begin, _committed(0), _committed(1)]
    here, gone, again = _seen("a", "b"), _seen(), _seen("b")
    damaged = [RecordDamaged(stage=0, task=0, epoch=n, error=ObjectDamaged("cut off")) for n in (0, 1, 2)]
    lost = RootErred(error=PartialLost("gone", stage=0, task=0, attempt=0), untouched=True)
    refused = _erred(0, FunctionsRefused("not here"))
    return [
        [*begin, _erred(0, StorageTransient("503")), Tick(), _committed(0, attempt=1), _committed(1), RootFinished()],
        [*begin, _erred(0, ExecutionFailed("overflow"))],
        [*begin, here, again, *(_seen(f"c{n}") for n in range(8))],
        [
            *begin,
            here,
            refused,
            _erred(0, StorageTransient("503"), 1),
            _seen("a"),
            Tick(),
        ],
        [*begin, *(TaskForgotten(key=_key(0, n)) for n in range(9))],
        [*begin, gone, AllNodesLost()],
        [*begin, gone, AllNodesLost(can_finish=False)],
        [*begin, *damaged],
        [Started(), RestIsSmall(), RootErred(error=ExecutionFailed("overflow"))],
        [*finishing, lost],
        [*begin, _committed(0), lost],
        [*begin, _committed(0), RootErred(error=ExecutionFailed("overflow"))],
        [*begin, _committed(0), HandedOver(stage=0, task=0), EnoughRows()],
        [*finishing, HandedOver(stage=0, task=0), EnoughRows()],
        [*begin, TimedOut(timeout_s=1.0)],
        [*begin, Cancelled()],
        [Started(), StageChanged(stage=_stages().stages[0]), StageHeld(stage=0, until=1)],
        [*finishing, TimedOut(timeout_s=1.0)],
        [*finishing, Cancelled()],
    ]


def _seen(*node_ids: str) -> Event:
    return NodesSeen(nodes=tuple(NodeSight(node_id=node_id) for node_id in node_ids))


def _stages() -> StageGraph:
    stages = [
        Stage(
            stage=number,
            fragment=PlanNode("empty", b""),
            output=output,
            partitions=1,
            leaves=leaves,
            variants=(Variant(kind="single"),),
            unions=0,
            schema=None,
        )
        for number, output, leaves in (
            (0, "gather", ()),
            (1, "gather", ()),
            (2, "result", (ExchangeLeaf(stage=0, ordered=False),)),
        )
    ]
    return StageGraph(stages=tuple(stages))


def _key(task: int, attempt: int) -> TaskKey:
    return TaskKey(query_id="q", stage=0, task=task, attempt=attempt)


def _committed(task: int, attempt: int = 0) -> Event:
    partial = PartialRef(key="k", length=0, footer_offset=0, footer_checksum="", segments=())
    return TaskCommitted(key=_key(task, attempt), partial=partial)


def _erred(task: int, error: ApiaryError, attempt: int = 0) -> Event:
    return TaskErred(key=_key(task, attempt), node_id="a", error=error)


# -- the pages against the code -------------------------------------------------------------------------------------


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def section(title: str) -> str:
    found = re.search(rf"^##+ {re.escape(title)}\n(.*?)(?=^##+ |\Z)", text_of(PAGE), re.DOTALL | re.MULTILINE)
    assert found is not None, f"the page has no section {title!r}"
    return found[1]


def rows_of(title: str) -> list[list[str]]:
    """Return the cells of the only hand-written table of a section, without its head."""
    lines = re.findall(r"^\| (.*) \|$", MADE.sub("", section(title)), re.MULTILINE)
    return [re.split(r" \| ", line) for line in lines[2:]]


def resolve(dotted: str) -> Any:
    """Import what a dotted name names; raises if there is nothing of that name."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            thing = getattr(thing, name)
        return thing
    raise ModuleNotFoundError(dotted)


def pyproject() -> Any:
    return tomllib.loads(text_of(ROOT / "pyproject.toml"))


def sources() -> dict[str, str]:
    return {str(path.relative_to(ROOT)): text_of(path) for path in sorted((ROOT / "apiary_df").rglob("*.py"))}


@pytest.mark.parametrize("name", PARTS)
def test_the_page_shows_what_the_code_says(name: str) -> None:
    shown = dict(MADE.findall(text_of(PAGE)))
    assert shown.get(name) == PARTS[name](), f"write the made parts anew: python tests/docs/{Path(__file__).name}"


def test_the_page_has_no_part_that_nobody_makes() -> None:
    assert {name for name, _ in MADE.findall(text_of(PAGE))} == set(PARTS)


def test_every_arrow_of_the_diagram_is_one_that_a_query_can_take() -> None:
    # A query without inputs goes to its root at once.
    start = (QueryState.RUNNING, "Started", QueryState.FINISHING)
    assert observed() | {start} == set(arrows_of_the_table())


def test_rooms_are_those_of_the_import_contract_in_its_order() -> None:
    (contract,) = (c for c in pyproject()["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    assert [row[0].strip("`") for row in rows_of("Rooms")] == contract["layers"]


def test_every_module_is_in_a_room() -> None:
    rooms = {row[0].strip("`") for row in rows_of("Rooms")}
    modules = {path.stem if path.suffix else path.name for path in (ROOT / "apiary_df").glob("[a-z]*")}
    # The shipped test tools are outside of the order: nothing imports them.
    assert modules - {"py"} - rooms <= {"testing"}


def test_pure_rooms_are_those_of_the_contract() -> None:
    (contract,) = (c for c in pyproject()["tool"]["importlinter"]["contracts"] if "no I/O" in c["name"])
    named = re.search(r"rooms that decide\s+\(([^)]*)\)", section("Rooms"))
    assert named is not None
    assert [f"apiary_df.{room}" for room in re.findall(r"`(\w+)`", named[1])] == contract["source_modules"]


def test_options_of_the_twin_are_shown() -> None:
    shown = {row[0].strip("`"): row[1].strip("`") for row in rows_of("The twin session")}
    assert shown == dict(TWIN_OPTIONS)


def test_options_of_every_engine_are_among_the_twins() -> None:
    assert ENGINE_OPTIONS.items() <= TWIN_OPTIONS.items()


@pytest.mark.parametrize("row", rows_of("Numbers") if PAGE.exists() else [], ids=lambda row: row[0].strip("`"))
def test_numbers_are_the_codes(row: list[str]) -> None:
    assert f"{resolve('apiary_df.' + row[0].strip('`')):,}" == row[1]


@pytest.mark.parametrize(
    "reason", [r[0] for r in rows_of("What runs in this process, and why")] if PAGE.exists() else []
)
def test_reasons_for_staying_here_are_the_codes(reason: str) -> None:
    rooms = (
        "session_swarm.py",
        "planning.py",
        "plan/classes.py",
        "plan/loss.py",
        "plan/rules/spell_out_partition_order.py",
        "plan/schema.py",
        "plan/stages.py",
        "planner/query.py",
    )
    assert any(reason.strip("`") in sources()[f"apiary_df/{room}"] for room in rooms)


def test_settings_that_nothing_reads_are_listed_as_not_there_yet() -> None:
    code = "\n".join(text for path, text in sources().items() if path != "apiary_df/config.py")
    unread = [name for name in SETTINGS if not re.search(rf"\.{name}\b", code)]
    missing = section("What is not there yet")
    listed = re.search(r"^- \*\*Settings without effect.*?(?=^- |\Z)", missing, re.DOTALL | re.MULTILINE)
    assert re.findall(r"`(\w+)`", listed[0] if listed else "") == unread


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text_of(page))
    assert named
    missing = [f"{path}::{test}" for path, test in named if not _has_test(ROOT / path, test)]
    assert not missing


def _has_test(path: Path, test: str) -> bool:
    return path.is_file() and (not test or f"def {test}(" in text_of(path))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_that_a_page_gives_can_be_imported(page: Path) -> None:
    for dotted in sorted(set(re.findall(r"`(apiary_df(?:\.\w+)+)(?:\(\))?`", text_of(page)))):
        resolve(dotted)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = text_of(page)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        there = page if not target else (page.parent / target).resolve()
        assert there.exists(), target
        titles = re.findall(r"^#+ (.*)$", text_of(there), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_stays_short_enough_to_be_read(page: Path) -> None:
    assert len(text_of(page).splitlines()) < MOST_LINES


def test_every_decision_says_what_why_and_how_two_others_do_it() -> None:
    for decision in re.split(r"^## ", text_of(DECISIONS), flags=re.MULTILINE)[1:]:
        title = decision.splitlines()[0]
        assert re.findall(r"^\*\*(\w+)\.\*\*", decision, re.MULTILINE) == ["Open", "Chosen", "Why", "Elsewhere"], title
        others = decision.split("**Elsewhere.**")[1]
        assert len(re.findall(r"^- \*[^*]+\*[^:]*:", others, re.MULTILINE)) >= 2, title


if __name__ == "__main__":
    PAGE.write_text(with_made_parts(text_of(PAGE)), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")
