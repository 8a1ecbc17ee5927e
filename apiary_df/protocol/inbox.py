"""A node's numbered mail: senders create the next number, the node reads the next number.

A number is taken by whoever creates it first. The node deletes what it has read and moves on; a sender whose idea of
the next number is old may then create one below the node's place, which the node finds by sweeping: a listing now and
then.
"""

from __future__ import annotations

import logging

from apiary_df.errors import ObjectDamaged
from apiary_df.protocol import keys
from apiary_df.protocol.messages import Mail, decode, encode
from apiary_df.store import Store

logger = logging.getLogger("apiary_df")


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
    data = encode(mail)
    while not store.create(keys.inbox(node_id, number), data, mail.token):
        number += 1
    return number


class Inbox:
    """The receiving end of a node's mail.

    Args:
        store: The swarm's root.
        node_id: Whose mail.

    Attributes:
        next_number: Number of the mail that is read next.
        damaged: How many mails could not be read and were thrown away.
    """

    def __init__(self, store: Store, node_id: str) -> None:
        self._store = store
        self._node_id = node_id
        self.next_number = 0
        self.damaged = 0

    def poll(self) -> list[Mail]:
        """Take all mail from the next number on, until one is not there.

        Raises:
            StorageError: If the store cannot be read.
        """
        mails: list[Mail] = []
        while (data := self._store.get_or_none(keys.inbox(self._node_id, self.next_number))) is not None:
            mails += self._taken(keys.inbox(self._node_id, self.next_number), data)
            self.next_number += 1
        return mails

    def sweep(self) -> list[Mail]:
        """Take mail of any number: what a sender with an old idea of the next number has left.

        Raises:
            StorageError: If the store cannot be read.
        """
        mails: list[Mail] = []
        for meta in sorted(self._store.list(keys.inbox_prefix(self._node_id)), key=lambda meta: meta.key):
            number = keys.number_of_mail(meta.key)
            data = self._store.get_or_none(meta.key)
            if data is None:
                continue
            mails += self._taken(meta.key, data)
            if number is not None:
                self.next_number = max(self.next_number, number + 1)
        return mails

    def _taken(self, key: str, data: bytes) -> list[Mail]:
        self._store.delete([key])
        try:
            return [decode(data, Mail, key)]
        except ObjectDamaged as error:
            self.damaged += 1
            logger.warning("threw away mail: %s", error)
            return []
