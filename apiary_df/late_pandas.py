"""Loading DataFusion without pandas, and telling pyarrow of pandas when somebody may hand it something of pandas'.

DataFusion's Python package makes one value of pyarrow's while it is loaded, for which pyarrow loads pandas where that
is installed: a third of what a node takes to start, and nothing that a node needs. Python functions may need it, so
before one is loaded pyarrow looks for pandas again. What belongs here: these two, which rest on how pyarrow looks.

pyarrow looks once where it can do without pandas, and takes the answer for good; where it cannot, it looks again. As
long as it knows nothing of pandas, a Series is a sequence like any other to it, whose NaNs are no NULLs.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType

_PANDAS = "pandas"


class _NotNow:
    """Finds no pandas."""

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return nothing, so that others look; raise for pandas."""
        if name == _PANDAS:
            raise ModuleNotFoundError(f"{name} is loaded once a Python function may need it", name=name)
        return None


def load_datafusion() -> None:
    """Load DataFusion, but not pandas. For processes of a single thread: others would miss pandas meanwhile."""
    if _PANDAS in sys.modules:
        return
    not_now = _NotNow()
    sys.meta_path.insert(0, not_now)
    try:
        importlib.import_module("datafusion")
    finally:
        sys.meta_path.remove(not_now)


@functools.cache
def tell_pyarrow() -> None:
    """Have pyarrow look for pandas again, which loads it if it is installed. To be called before any foreign code."""
    pyarrow = importlib.import_module("pyarrow")
    with suppress(ImportError):
        # A conversion to pandas cannot do without.
        pyarrow.array([0]).to_pandas()
