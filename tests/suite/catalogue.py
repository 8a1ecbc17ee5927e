"""Which suites there are."""

from __future__ import annotations

from collections.abc import Mapping

from .clickbench import CLICKBENCH
from .model import Suite
from .own import OWN
from .ssb import SSB
from .tpch import TPCH

SUITES: Mapping[str, Suite] = {suite.name: suite for suite in (TPCH, SSB, CLICKBENCH, OWN)}
"""Name to suite, in the order in which all of them run."""
