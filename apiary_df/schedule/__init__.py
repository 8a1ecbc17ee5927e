"""The schedule of a query: a pure state machine, its events and commands, and the policies that it asks.

What belongs here: which stage, which task, which node, again or not, and why a query ends. It knows no clock, store or
thread; :mod:`apiary_df.coordinator` brings what happened and carries out what is said.
"""

from apiary_df.schedule.attempts import Attempt, OpenTask, Outcome
from apiary_df.schedule.events import (
    AllNodesLost,
    Cancelled,
    Command,
    Dispatch,
    Event,
    NodeSight,
    NodesSeen,
    PlanStage,
    RecordDamaged,
    RestIsSmall,
    RootErred,
    RootFinished,
    RunRoot,
    SendTasks,
    StageChanged,
    StageHeld,
    StagePlanned,
    Started,
    Stop,
    StopTasks,
    TaskCommitted,
    TaskErred,
    TaskForgotten,
    Tick,
    TimedOut,
)
from apiary_df.schedule.machine import LOSSES_FOR_AN_ATTEMPT, MAX_ATTEMPTS, Schedule
from apiary_df.schedule.speculation import Policy
from apiary_df.schedule.table import LATE_NEWS, TRANSITIONS, Answer, QueryState

__all__ = [
    "LATE_NEWS",
    "LOSSES_FOR_AN_ATTEMPT",
    "MAX_ATTEMPTS",
    "TRANSITIONS",
    "AllNodesLost",
    "Answer",
    "Attempt",
    "Cancelled",
    "Command",
    "Dispatch",
    "Event",
    "NodeSight",
    "NodesSeen",
    "OpenTask",
    "Outcome",
    "PlanStage",
    "Policy",
    "QueryState",
    "RecordDamaged",
    "RestIsSmall",
    "RootErred",
    "RootFinished",
    "RunRoot",
    "Schedule",
    "SendTasks",
    "StageChanged",
    "StageHeld",
    "StagePlanned",
    "Started",
    "Stop",
    "StopTasks",
    "TaskCommitted",
    "TaskErred",
    "TaskForgotten",
    "Tick",
    "TimedOut",
]
