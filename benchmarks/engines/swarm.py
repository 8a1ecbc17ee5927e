"""apiary_df: a session in the host's process, and so many node processes of one bee each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import apiary_df
from benchmarks.engines.adapter import Setup
from benchmarks.engines.single import Single

_TOLD = ("distributed", "reason", "stages", "tasks", "bytes_through_storage", "requests", "dollars")
"""What of a report is kept; the rest is about single tasks."""

START_TIMEOUT_S = 300.0
"""On a busy machine nodes take longer to come up than a user would wait."""


class Swarm(Single):
    """The swarm; its options are those of :class:`apiary_df.config.Settings`."""

    def _open(self, setup: Setup) -> apiary_df.SessionContext:
        self._swarm = apiary_df.SessionContext(
            storage=setup.root,
            nodes=setup.workers,
            progress=False,
            **{"node_start_timeout_s": START_TIMEOUT_S, **_typed(setup.options)},
        )
        return self._swarm

    def report(self) -> dict[str, Any] | None:
        """Return what the session's last report says of the query as a whole."""
        report = self._swarm.last_query
        return None if report is None else {name: getattr(report, name) for name in _TOLD}

    def close(self) -> None:
        """Close the session, which ends the nodes."""
        self._swarm.close()


def _typed(options: Mapping[str, str]) -> dict[str, Any]:
    """Return options as the types of their settings: what is typed on a command line is text."""
    return {name: _value(text) for name, text in options.items()}


def _value(text: str) -> object:
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
