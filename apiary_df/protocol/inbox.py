"""A node's numbered mail: senders create the next number, the node reads the next number.

A number is taken by whoever creates it first. The node deletes what it has read and moves on; a sender whose idea of
the next number is old may then create one below the node's place, which the node finds by sweeping: a listing now and
then.

A mail that was read is never lost, and never given out twice: it is returned whatever happens to the store afterwards,
and known by its token should a delete, or a sender's reply, get lost, or should somebody put it back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from apiary_df.errors import ObjectRefused, StorageError
from apiary_df.protocol import keys
from apiary_df.protocol.messages import Mail
from apiary_df.protocol.seal import REPLAYED, refused
from apiary_df.protocol.storage import create_message, note_refusal, read_message
from apiary_df.store import Store

logger = logging.getLogger("apiary_df")

REMEMBERED_NUMBERS = 10_000
"""How far below its next number a node takes mail, and knows again what it has taken.

Mail from further below is refused: a sender cannot have so old an idea of the next number, and whoever puts old mail
back must not have it carried out again. Should it be honest after all, its sender hears that the node knows nothing of
the tasks, and sends them again.
"""

IDLE_BEATS = 12
"""Heartbeats between two listings of an inbox to which nobody sends any more."""

JUMP_AFTER = 8
"""Taken numbers in a row after which a sender lists the inbox instead of trying the next one."""


def send(store: Store, node_id: str, number: int, mail: Mail) -> int:
    """Put mail into a node's inbox.

    Args:
        store: The swarm's root.
        node_id: To whom.
        number: First number to try; where it is taken, the next ones are tried.
        mail: What to send.

    Returns:
        The number that it got.

    Raises:
        StorageTransient: If the store failed, still after the retries.
        StorageError: If the store refused.
    """
    taken = 0
    while not create_message(store, keys.inbox(node_id, number), mail, mail.token):
        taken += 1
        number += 1
        if taken % JUMP_AFTER == 0:
            listed = (keys.number_of_mail(meta.key) for meta in store.list(keys.inbox_prefix(node_id)))
            reach = range(number, number + REMEMBERED_NUMBERS)
            number = max([number, *(n + 1 for n in listed if n is not None and n in reach)])
    return number


class SweepPace:
    """When to list an inbox: now and then, and often for as long as senders have old ideas of the next number.

    While a single session sends, listings find nothing and are rare. Several sessions at a time do not know
    of each other's mail before the next heartbeat, and most of theirs has a number that is too low. While nobody sends,
    all have long read the next number in a heartbeat, so listings become rarer still.

    Args:
        least_s: Shortest time between two listings, in seconds.
        most_s: Longest one while mail comes: a heartbeat.
        now_s: The clock.
    """

    def __init__(self, *, least_s: float, most_s: float, now_s: float) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._wait_s = most_s
        self._due_s = now_s + most_s

    def mail_came(self, now_s: float) -> None:
        """Note that there was mail: somebody sends."""
        self._wait_s = min(self._wait_s, self._most_s)
        self._due_s = min(self._due_s, now_s + self._wait_s)

    def is_due(self, now_s: float) -> bool:
        """Whether it is time for a listing."""
        return now_s >= self._due_s

    def swept(self, now_s: float, *, found: bool) -> None:
        """Note a listing, and whether it found mail."""
        self._wait_s = self._least_s if found else min(2 * self._wait_s, IDLE_BEATS * self._most_s)
        self._due_s = now_s + self._wait_s


class Inbox:
    """The receiving end of a node's mail.

    Args:
        store: The swarm's root.
        node_id: Whose mail.
        incarnation: Which life of the node; mail for another one is refused.

    Attributes:
        next_number: Number of the mail that is read next.
    """

    def __init__(self, store: Store, node_id: str, incarnation: str = "") -> None:
        self._store = store
        self._incarnation = incarnation
        self._node_id = node_id
        self.next_number = 0
        self._tokens: dict[str, int] = {}
        self._undeleted: set[str] = set()

    def poll(self) -> Iterator[Mail]:
        """Yield all mail from the next number on, until one is not there; each is deleted once it has been taken.

        Raises:
            StorageError: If the store cannot be read; what was yielded before is taken.
        """
        while (taken := self._read(keys.inbox(self._node_id, self.next_number))) is not None:
            yield from taken
            # Past a refused one as well: it is gone, but its number was taken when senders chose theirs.
            self.next_number += 1

    def sweep(self) -> Iterator[Mail]:
        """Yield mail of any number, as :meth:`poll`: what a sender with an old idea of the next number has left.

        Raises:
            StorageError: If the store cannot be read; what was yielded before is taken.
        """
        for meta in sorted(self._store.list(keys.inbox_prefix(self._node_id)), key=lambda meta: meta.key):
            taken = self._read(meta.key)
            number = keys.number_of_mail(meta.key)
            for mail in taken or ():
                yield mail
                self.next_number = max(self.next_number, (number or 0) + 1)

    def _read(self, key: str) -> Iterator[Mail] | None:
        """Read a mail; None if it is not there, else what yields it if it is to be acted upon, and deletes it then."""
        mail: Mail | None = None
        try:
            mail = read_message(self._store, key, Mail)
            if mail is None:
                return None
            self._check_new(key, mail)
        except ObjectRefused:
            mail = None
        return self._take(key, mail)

    def _take(self, key: str, mail: Mail | None) -> Iterator[Mail]:
        token = "" if mail is None else mail.token
        self._undeleted.add(token)
        if mail is not None and token not in self._tokens:
            self._remember(token, keys.number_of_mail(key) or 0)
            # Before it is deleted: whoever waits for the work does not wait for that.
            yield mail
        try:
            self._store.delete([key])
            self._undeleted.discard(token)
        except StorageError as error:
            logger.warning("could not delete mail that was read, a sweep will: %s", error)

    def _remember(self, token: str, number: int) -> None:
        self._tokens[token] = number
        if len(self._tokens) > 2 * REMEMBERED_NUMBERS:
            oldest = max(self.next_number, number) - REMEMBERED_NUMBERS
            self._tokens = {token: known for token, known in self._tokens.items() if known >= oldest}

    def _check_new(self, key: str, mail: Mail) -> None:
        """Refuse mail that may have been read before; what a delete may have left behind is no reason to count it."""
        words = ""
        if mail.incarnation != self._incarnation:
            words = "is mail for another life of this node"
        elif (keys.number_of_mail(key) or 0) < self.next_number - REMEMBERED_NUMBERS:
            words = f"is mail from long ago: the next one has number {self.next_number}"
        elif mail.token in self._tokens and mail.token not in self._undeleted:
            words = "is mail that was read and deleted before"
        if words:
            error = refused(key, REPLAYED, words)
            note_refusal(self._store, error, mail.token)
            raise error
