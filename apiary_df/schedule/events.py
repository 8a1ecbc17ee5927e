"""What happens to a query (events), and what is to be done about it (commands): the schedule's only words.

The coordinator turns what it sees into events, and carries commands out. Nothing here decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from apiary_df.errors import ApiaryError
from apiary_df.model import NodeState, PartialRef, TaskKey, TaskSpec
from apiary_df.plan.stages import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSight:
    """A node that lives, as the session sees it now.

    Attributes:
        node_id: The node.
        incarnation: Differs from one life of the node to the next.
        state: Alive or suspect; dead ones are not shown.
        usable: Whether it may be given tasks of this query.
        bees_total: Its execution slots.
        idle_bees: Those that are free, as far as the session knows.
        memory_per_bee: Budget of one, in bytes.
    """

    node_id: str
    incarnation: str = ""
    state: NodeState = NodeState.ALIVE
    usable: bool = True
    bees_total: int = 1
    idle_bees: int = 1
    memory_per_bee: int = 0


# -- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The coordinator is ready to plan stages; `deadline_s` is when the query must have ended, None if never."""

    deadline_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesSeen:
    """What the newest heartbeats say: all nodes that live. One that is not among them is lost, with what it had."""

    nodes: tuple[NodeSight, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlanned:
    """The tasks of a stage are known."""

    stage: int
    specs: tuple[TaskSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageHeld:
    """A stage that was to be planned waits until another one is complete, since it may have less to do then."""

    stage: int
    until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageChanged:
    """A stage that is not planned yet is to be run in another way, or not at all."""

    stage: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCommitted:
    """A commit record was seen; the first of any attempt counts."""

    key: TaskKey
    partial: PartialRef


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskErred:
    """An attempt failed; `seconds` is how long it took, if its node told."""

    key: TaskKey
    node_id: str
    error: ApiaryError
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskForgotten:
    """A node that lives knows nothing of an attempt that it was sent: that will never end."""

    key: TaskKey


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDamaged:
    """A task's commit record cannot be read: what it committed is as good as lost."""

    stage: int
    task: int
    epoch: int
    error: ApiaryError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed: what waited for its next attempt is sent, what is late gets a second attempt elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllNodesLost:
    """No node is left that could take a task: the root does all that is left, here, if it `can_finish`."""

    can_finish: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RestIsSmall:
    """What is left is too little to be worth stages: the root does it all. Legal while no task is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver:
    """The first rows of a task go to the user, ahead of other tasks': it must never be done again."""

    stage: int
    task: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnoughRows:
    """As many rows as the query wants have been handed over; what is still open is not wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFinished:
    """The result has been handed over whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootErred:
    """The root stage raised; `untouched` if nobody has seen a row or a file of what raised yet."""

    error: ApiaryError
    untouched: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut:
    """The query's deadline passed."""

    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The user does not want the result any more."""


Event = (
    Started
    | NodesSeen
    | StagePlanned
    | StageHeld
    | StageChanged
    | TaskCommitted
    | TaskErred
    | TaskForgotten
    | RecordDamaged
    | Tick
    | AllNodesLost
    | RestIsSmall
    | HandedOver
    | EnoughRows
    | RootFinished
    | RootErred
    | TimedOut
    | Cancelled
)


# -- commands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStage:
    """Plan the tasks of a stage whose inputs are complete."""

    stage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """One attempt to be made.

    Attributes:
        spec: The task.
        attempt: Number of the attempt; never used twice for a task.
        epoch: Which life of the task its commit is for.
        slots: How many bees' shares of memory it may hold, >= 1.
    """

    spec: TaskSpec
    attempt: int
    epoch: int = 0
    slots: int = 1

    def key(self, query_id: str) -> TaskKey:
        """Return which attempt of a query it is."""
        return TaskKey(query_id=query_id, stage=self.spec.stage, task=self.spec.task, attempt=self.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendTasks:
    """Send attempts to one node."""

    node_id: str
    tasks: tuple[Dispatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTasks:
    """Tell a node that some attempts are not wanted any more: others were faster, or their inputs changed."""

    node_id: str
    keys: tuple[TaskKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRoot:
    """Run the root stage here, or what is left of it: all of its inputs are complete, or nobody else makes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The query is over; ``error`` is what to raise, None after success."""

    error: ApiaryError | None


Command = PlanStage | SendTasks | StopTasks | RunRoot | Stop
