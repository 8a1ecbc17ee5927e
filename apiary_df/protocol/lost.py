"""Reading partials that other tasks made, and saying whose they were if they cannot be read.

What belongs here: telling a lost partial from other trouble with the store. What is done about it is the schedule's
business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from apiary_df.errors import ObjectDamaged, ObjectMissing, PartialLost
from apiary_df.protocol import keys

_Read = TypeVar("_Read")


def read_or_lost(key: str, read: Callable[[], _Read]) -> _Read:
    """Return what a reader of a partial returns; one that finds it damaged reads again, once.

    What was damaged on the way is whole the second time; what lies damaged in storage is not.

    Args:
        key: The partial.
        read: Reads it.

    Raises:
        PartialLost: If it is not there, or damaged both times; names the task and the attempt that made it.
        StorageError: Whatever else the store says.
    """
    try:
        try:
            return read()
        except ObjectDamaged:
            return read()
    except (ObjectMissing, ObjectDamaged) as error:
        raise lost(key, error) from error


def lost(key: str, cause: ObjectMissing | ObjectDamaged) -> PartialLost:
    """Return the error for a partial that cannot be read; it names the task and the attempt that made it.

    Args:
        key: The partial.
        cause: What came of reading it.
    """
    made = keys.parse_query_key(key)
    by = {} if made is None else {"stage": made.stage, "task": made.task, "attempt": made.attempt}
    return PartialLost(f"a committed partial was lost: {cause.message}", key=key, **by)
