"""The Python functions that a plan carries: which they are, and the pickles that they travel as.

DataFusion's bindings put a Python function into a plan as a tagged pickle: a magic word, the version of this framing,
the Python version that pickled it, and the pickle, whose first item is the function's name. An expression may hide
such a function anywhere (in a join's filter, a sort key, a scan's predicate), so the operators' bytes are searched for
the tag instead of naming every message that holds expressions: what has no tag has no Python function. Pickles are
only read here, as data; nothing in this module loads one.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from apiary_df.plan.tree import PlanNode

KINDS = {b"F": "scalar", b"A": "aggregate", b"W": "window"}
"""Letter in the magic word to the kind of function."""

_TAG = re.compile(rb"DFPYUD([FAW])\x01(.)(.)(?=\x80)", re.DOTALL)
"""Magic word, version 1 of the framing, major and minor version of Python; the pickle begins behind it."""

_NAME_WITHIN_OPS = 8
"""The name comes this early in the pickle (after protocol, frame and mark); what has none there is no function."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PythonFunction:
    """A Python function within a plan.

    Attributes:
        name: The name under which it was registered.
        kind: ``scalar``, ``aggregate`` or ``window``.
        python: Version of Python that pickled it, as ``3.11``: no other minor version can load it.
        pickled: The pickle, with whatever follows it in the plan.
    """

    name: str
    kind: str
    python: str
    pickled: bytes = field(default=b"", repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"


def python_functions(plans: Iterable[PlanNode]) -> tuple[PythonFunction, ...]:
    """Return the Python functions that plans carry, each once, by name.

    Rows of an in-memory table that look like a tagged pickle are taken for one; who must know for sure compares the
    plan with its encoding without pickles.
    """
    found = {function for plan in plans for node in plan.walk() for function in _functions_in(node.body)}
    return tuple(sorted(found))


def names_of(functions: Iterable[PythonFunction]) -> str:
    """Return functions as text for a message: ``twice (scalar), total (aggregate)``."""
    return ", ".join(map(str, functions))


def _functions_in(body: bytes) -> Iterator[PythonFunction]:
    for match in _TAG.finditer(body):
        pickled = body[match.end() :]
        name = _name_in(pickled)
        if name is not None:
            letter, major, minor = match.groups()
            yield PythonFunction(name=name, kind=KINDS[letter], python=f"{major[0]}.{minor[0]}", pickled=pickled)


def _name_in(pickled: bytes) -> str | None:
    """Return the first string of a pickle, if it has one near its beginning."""
    try:
        for _, (_, value, _) in zip(range(_NAME_WITHIN_OPS), pickletools.genops(pickled), strict=False):
            if isinstance(value, str):
                return value
    except ValueError:
        # No pickle, but bytes that look like the beginning of one.
        return None
    return None
