"""Queries of a few stages without plans, and short words for what happens to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apiary_df.errors import ApiaryError, PartialLost, StorageTransient
from apiary_df.model import PartialRef, ScanFile, ScanInput, TaskKey, TaskSpec
from apiary_df.plan.stages import ExchangeLeaf, Stage, StageGraph
from apiary_df.plan.tree import PlanNode
from apiary_df.schedule import (
    Command,
    Event,
    NodeSight,
    NodesSeen,
    QueryState,
    Schedule,
    SendTasks,
    StagePlanned,
    Started,
    TaskCommitted,
    TaskErred,
)

QUERY = "q"
OVER = (QueryState.DONE, QueryState.FAILED, QueryState.CANCELLED)


def graph(*inputs: Sequence[int]) -> StageGraph:
    """Return stages that read the given others; the last is the root."""
    return StageGraph(
        stages=tuple(
            Stage(
                stage=number,
                fragment=PlanNode("placeholder_row", b""),
                output="result" if number == len(inputs) - 1 else "hash",
                partitions=1,
                leaves=tuple(ExchangeLeaf(stage=stage, ordered=False) for stage in read),
                variants=(),
                unions=0,
                schema=None,
            )
            for number, read in enumerate(inputs)
        )
    )


CHAIN = graph((), (0,))
DIAMOND = graph((), (), (0, 1), (2, 1))
LINE = graph((), (0,), (1,), (2,))


def spec(stage: int, task: int, node_id: str = "a") -> TaskSpec:
    cell = ScanInput(leaf=0, files=(ScanFile(path=f"data/{task}.parquet", size_bytes=1),))
    return TaskSpec(stage=stage, task=task, node_id=node_id, output_partitions=1, scans=(cell,))


def specs(stage: int, count: int, nodes: Sequence[str] = "ab") -> tuple[TaskSpec, ...]:
    return tuple(spec(stage, task, nodes[task % len(nodes)]) for task in range(count))


def key(stage: int, task: int, attempt: int = 0) -> TaskKey:
    return TaskKey(query_id=QUERY, stage=stage, task=task, attempt=attempt)


def partial(of: TaskKey) -> PartialRef:
    return PartialRef(key=str(of), length=1, footer_offset=0, footer_checksum="", segments=())


def committed(stage: int, task: int, attempt: int = 0) -> TaskCommitted:
    of = key(stage, task, attempt)
    return TaskCommitted(key=of, partial=partial(of))


def transient() -> StorageTransient:
    return StorageTransient("put _queries/q: 503; retried")


def tell(schedule: Schedule, event: Event, now_s: float = 0.0) -> tuple[Command, ...]:
    """Let a schedule take an event."""
    return schedule.handle(event, now_s)


def seen(*node_ids: str, **changes: Any) -> NodesSeen:
    """Return what heartbeats say if these nodes live, with two bees each."""
    facts = {"bees_total": 2, "idle_bees": 2, **changes}
    return NodesSeen(nodes=tuple(NodeSight(node_id=node_id, **facts) for node_id in node_ids))


def running(tasks: int = 2, *, max_attempts: int = 4) -> Schedule:
    """Return a schedule whose only stage is planned and sent."""
    schedule = Schedule(QUERY, CHAIN, max_attempts=max_attempts)
    tell(schedule, Started())
    tell(schedule, StagePlanned(stage=0, specs=specs(0, tasks)))
    return schedule


def erred(stage: int, task: int, attempt: int, error: ApiaryError, node_id: str = "a") -> TaskErred:
    return TaskErred(key=key(stage, task, attempt), node_id=node_id, error=error)


def sent_to(commands: Sequence[Command]) -> list[str]:
    """Return the nodes that commands send tasks to, once a task."""
    return [command.node_id for command in commands if isinstance(command, SendTasks) for _ in command.tasks]


def sent(commands: Sequence[Command]) -> list[tuple[int, int, int]]:
    """Return stage, task and attempt of all that commands send."""
    return [
        (task.spec.stage, task.spec.task, task.attempt)
        for command in commands
        if isinstance(command, SendTasks)
        for task in command.tasks
    ]


def lost(of: TaskKey) -> PartialLost:
    return PartialLost(f"{of} is gone", key=str(of), stage=of.stage, task=of.task, attempt=of.attempt)


def facts(schedule: Schedule) -> object:
    """Return all that can be asked of a schedule."""
    return (
        schedule.state,
        schedule.partials(),
        schedule.pending(),
        [schedule.specs(stage) for stage in range(4)],
        schedule.all_attempts(),
        schedule.open_tasks(),
        [schedule.wants(stage) for stage in range(4)],
        schedule.is_alone(),
        schedule.graph,
        dict(schedule.held),
    )
