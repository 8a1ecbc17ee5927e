"""A node's numbered mail: senders create the next number, the node reads the next number.

A number is taken by whoever creates it first. The node deletes what it has read and moves on; a sender whose idea of
the next number is old may then create one below the node's place, which the node finds by sweeping: a listing now and
then.

A mail that was read is never lost, and never given out twice: it is returned whatever happens to the store afterwards,
and known by its token should a delete, or a sender's reply, get lost.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

from apiary_df.errors import ObjectDamaged, StorageError
from apiary_df.protocol import keys
from apiary_df.protocol.messages import Mail, decode, encode
from apiary_df.store import Store

logger = logging.getLogger("apiary_df")

REMEMBERED_TOKENS = 10_000
"""Mails that a node knows again; a sender repeats a create within seconds or not at all."""

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
    data = encode(mail)
    taken = 0
    while not store.create(keys.inbox(node_id, number), data, mail.token):
        taken += 1
        number += 1
        if taken % JUMP_AFTER == 0:
            listed = (keys.number_of_mail(meta.key) for meta in store.list(keys.inbox_prefix(node_id)))
            number = max([number, *(n + 1 for n in listed if n is not None)])
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
        self._tokens: OrderedDict[str, None] = OrderedDict()

    def poll(self) -> list[Mail]:
        """Take all mail from the next number on, until one is not there.

        Raises:
            StorageError: If the store cannot be read.
        """
        mails: list[Mail] = []
        while True:
            key = keys.inbox(self._node_id, self.next_number)
            try:
                data = self._store.get_or_none(key)
            except StorageError:
                if mails:
                    return mails  # the next poll meets the same error, with nothing to lose
                raise
            if data is None:
                return mails
            mails += self._taken(key, data)
            self.next_number += 1

    def sweep(self) -> list[Mail]:
        """Take mail of any number: what a sender with an old idea of the next number has left.

        Raises:
            StorageError: If the store cannot be read.
        """
        mails: list[Mail] = []
        for meta in sorted(self._store.list(keys.inbox_prefix(self._node_id)), key=lambda meta: meta.key):
            number = keys.number_of_mail(meta.key)
            try:
                data = self._store.get_or_none(meta.key)
            except StorageError:
                if mails:
                    return mails
                raise
            if data is None:
                continue
            mails += self._taken(meta.key, data)
            if number is not None:
                self.next_number = max(self.next_number, number + 1)
        return mails

    def _taken(self, key: str, data: bytes) -> list[Mail]:
        try:
            mail = decode(data, Mail, key)
        except ObjectDamaged as error:
            self.damaged += 1
            logger.warning("threw away mail: %s", error)
            mail = None
        try:
            self._store.delete([key])
        except StorageError as error:
            logger.warning("could not delete mail that was read, a sweep will: %s", error)
        if mail is None or mail.token in self._tokens:
            return []
        self._tokens[mail.token] = None
        if len(self._tokens) > REMEMBERED_TOKENS:
            self._tokens.popitem(last=False)
        return [mail]
