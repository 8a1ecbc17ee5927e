"""Mail from a query to nodes: the attempts that they are to make, and those that nobody wants any more.

What belongs here: one query's mail, and that it is counted in what its nodes have to do. Which task goes where is the
schedule's business; what mail looks like is the protocol's.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from apiary_df.errors import StorageError
from apiary_df.history import History
from apiary_df.host import Host, together
from apiary_df.protocol.storage import at_once
from apiary_df.query_objects import QueryObjects, parcels
from apiary_df.schedule import Command, SendTasks, StopTasks
from apiary_df.view import GivenWork, SwarmView

logger = logging.getLogger("apiary_df")


class Mailing:
    """The mail of one query.

    Args:
        query_id: The query.
        objects: What it has in storage.
        view: The swarm, which counts mail to a node whatever query it is of.
        given: Takes what was sent.
        history: Likewise.
        remaining_s: Says how long the query may still run; None if it has no deadline.
        host: The machine.
    """

    def __init__(
        self,
        query_id: str,
        objects: QueryObjects,
        *,
        view: SwarmView,
        given: GivenWork,
        history: History,
        remaining_s: Callable[[], float | None],
        host: Host,
    ) -> None:
        self._query_id = query_id
        self._objects = objects
        self._view = view
        self._given = given
        self._history = history
        self._remaining_s = remaining_s
        self._host = host

    def leading(self, commands: deque[Command]) -> Iterator[SendTasks]:
        """Take the commands to send mail to nodes that come next; what is for the session itself is none."""
        while commands:
            command = commands[0]
            if not isinstance(command, SendTasks) or command.node_id == self._view.node_id:
                return
            commands.popleft()
            yield command

    def send(self, commands: Sequence[SendTasks]) -> None:
        """Send mail to nodes, and write what it encloses for others to read; several at a time where each takes long.

        Raises:
            StorageError: If something cannot be written.
        """
        calls: list[Callable[[], None]] = [functools.partial(self._send, command) for command in commands]
        together(self._host, calls + self._objects.unwritten(), at_once(self._view.store))

    def _send(self, command: SendTasks) -> None:
        for tasks in parcels(command.tasks):
            number = self._objects.send(
                command.node_id,
                self._view.next_mail(command.node_id),
                tasks,
                incarnation=self._view.incarnation_of(command.node_id),
                remaining_s=self._remaining_s(),
            )
            sent = [task.key(self._query_id) for task in tasks]
            self._given.sent(command.node_id, number, sent)
            for key, task in zip(sent, tasks, strict=True):
                self._history.sent(key, task.spec.why)

    def stop(self, command: StopTasks) -> None:
        """Spare a node work that nobody wants any more; if it cannot be told, it does the work in vain."""
        try:
            number = self._objects.send(
                command.node_id,
                self._view.next_mail(command.node_id),
                stopped=command.keys,
                incarnation=self._view.incarnation_of(command.node_id),
            )
        except StorageError as error:
            logger.warning("could not stop attempts on node %s: %s", command.node_id, error)
        else:
            self._view.mail_sent(command.node_id, number, 0)
