"""Which events are legal in which state of a query, what answers them, and where that may lead: one table.

The diagram and the table of events in the documentation are drawn from it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from apiary_df.schedule.events import (
    AllNodesLost,
    Cancelled,
    EnoughRows,
    Event,
    HandedOver,
    NodesSeen,
    RecordDamaged,
    RestIsSmall,
    RootErred,
    RootFinished,
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


class QueryState(enum.Enum):
    """Where a query stands."""

    RUNNING = "running"
    FINISHING = "finishing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a state does about an event.

    Attributes:
        method: The method of :class:`~apiary_df.schedule.machine.Schedule` that answers.
        to: The states that it may lead to.
    """

    method: str
    to: tuple[QueryState, ...]


def _answers(rows: Mapping[type[Event], tuple[str, Sequence[QueryState]]]) -> dict[type[Event], Answer]:
    return {event: Answer(method, tuple(to)) for event, (method, to) in rows.items()}


_RUNNING, _FINISHING, _DONE, _FAILED, _CANCELLED = QueryState

LATE_NEWS = "_on_late_news"
"""The method that answers news which come after the fact: it does nothing."""

_NEWS = (NodesSeen, TaskCommitted, TaskErred, TaskForgotten, RecordDamaged, Tick)
_ENDINGS = (HandedOver, EnoughRows, RootFinished, RootErred, TimedOut, Cancelled)

TRANSITIONS: Mapping[QueryState, Mapping[type[Event], Answer]] = {
    _RUNNING: _answers(
        {
            Started: ("_on_started", [_RUNNING, _FINISHING]),
            NodesSeen: ("_on_nodes_seen", [_RUNNING, _FAILED]),
            StagePlanned: ("_on_stage_planned", [_RUNNING]),
            StageHeld: ("_on_stage_held", [_RUNNING]),
            StageChanged: ("_on_stage_changed", [_RUNNING]),
            TaskCommitted: ("_on_task_committed", [_RUNNING, _FINISHING]),
            TaskErred: ("_on_task_erred", [_RUNNING, _FAILED]),
            TaskForgotten: ("_on_task_forgotten", [_RUNNING, _FAILED]),
            RecordDamaged: ("_on_record_damaged", [_RUNNING, _FAILED]),
            Tick: ("_on_tick", [_RUNNING, _FAILED]),
            AllNodesLost: ("_on_all_nodes_lost", [_FINISHING, _FAILED]),
            RestIsSmall: ("_on_rest_is_small", [_FINISHING]),
            HandedOver: ("_on_handed_over", [_RUNNING]),
            EnoughRows: ("_on_enough_rows", [_DONE]),
            RootErred: ("_on_root_erred", [_RUNNING, _FAILED]),
            TimedOut: ("_on_timed_out", [_FAILED]),
            Cancelled: ("_on_cancelled", [_CANCELLED]),
        }
    ),
    _FINISHING: _answers(
        {
            **{event: (LATE_NEWS, [_FINISHING]) for event in _NEWS},
            HandedOver: ("_on_handed_over", [_FINISHING]),
            EnoughRows: ("_on_enough_rows", [_DONE]),
            RootFinished: ("_on_root_finished", [_DONE]),
            RootErred: ("_on_root_erred", [_RUNNING, _FAILED]),
            TimedOut: ("_on_timed_out", [_FAILED]),
            Cancelled: ("_on_cancelled", [_CANCELLED]),
        }
    ),
    **{
        state: _answers({event: (LATE_NEWS, [state]) for event in (*_NEWS, *_ENDINGS)})
        for state in (_DONE, _FAILED, _CANCELLED)
    },
}
"""State to the events that are legal in it, with what is done about each."""
