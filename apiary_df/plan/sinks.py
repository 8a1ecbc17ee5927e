"""Operators that write files: where they write, sending them elsewhere, and adding up what they wrote.

What belongs here reads and changes the sinks of a plan tree. How files are staged, published and taken back is
:mod:`apiary_df.writes` and :mod:`apiary_df.publish`.
"""

from __future__ import annotations

from dataclasses import dataclass

from apiary_df.errors import PlanError
from apiary_df.plan import codec
from apiary_df.plan.tree import PlanNode, transform_up

SINKS = frozenset({"parquet_sink", "csv_sink", "json_sink"})
"""Kinds of operators that write files; each gives one row, the number of rows that it wrote."""

COUNT_COLUMN = "count"
"""The one column of a sink's result."""

STAGED_EXTENSION = "staged"
"""Extension of files that do not count yet: no table's, so that no listing of a table takes them for its own."""

_AUTOMATIC, _SINGLE_FILE, _DIRECTORY = range(3)
"""DataFusion's modes of reading a sink's path: by its looks, as a file, as a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkTarget:
    """Where a sink was planned to write.

    Attributes:
        url: What DataFusion made of the statement's path: a percent-encoded URL.
        extension: Extension of the files that it makes, without a dot.
        single_file: It writes one file at exactly that place, also if there are no rows; else any number into a folder.
    """

    url: str
    extension: str
    single_file: bool


def find_sink(plan: PlanNode) -> PlanNode | None:
    """Return the sink of a plan; None if it writes no files."""
    return next((node for node in plan.walk() if node.kind in SINKS), None)


def target_of(sink: PlanNode) -> SinkTarget:
    """Return where a sink writes.

    Raises:
        PlanError: If it has not exactly one path.
    """
    config = codec.fields_of(sink).sink.config
    if len(config.table_paths) != 1:
        raise PlanError(f"a {sink.kind} of {len(config.table_paths)} paths cannot be run: it must have one")
    url = codec.text(config.table_paths[0])
    # A partitioned write makes folders, whatever its path looks like.
    single = not config.table_partition_cols and _is_file(url, config.file_output_mode)
    return SinkTarget(url=url, extension=codec.text(config.file_extension), single_file=single)


def _is_file(url: str, mode: int) -> bool:
    if mode != _AUTOMATIC:
        return mode == _SINGLE_FILE
    name = url.rsplit("/", 1)[-1]
    return "." in name and not name.endswith(".")


def as_single_file(plan: PlanNode) -> PlanNode:
    """Return a plan whose sink writes one file, whatever its path looks like."""
    return transform_up(plan, lambda node: _changed(node, mode=_SINGLE_FILE) if node.kind in SINKS else node)


def redirected(plan: PlanNode, url: str, *, single_file: bool) -> PlanNode:
    """Return a plan whose sink writes staged files elsewhere.

    Args:
        plan: Any plan; without a sink it stays as it is.
        url: The file, or the folder.
        single_file: Whether the sink is to write one file, at exactly this place.
    """
    mode = _SINGLE_FILE if single_file else _DIRECTORY

    def change(node: PlanNode) -> PlanNode:
        return _changed(node, url=url, extension=STAGED_EXTENSION, mode=mode) if node.kind in SINKS else node

    return transform_up(plan, change)


def _changed(sink: PlanNode, *, mode: int, url: str | None = None, extension: str | None = None) -> PlanNode:
    writer = codec.fields_of(sink).sink
    writer.config.file_output_mode = mode
    if url is not None:
        writer.config.table_paths[:] = [url]
    if extension is not None:
        writer.config.file_extension = extension
    return codec.replace(sink, sink=writer)


def can_be_shared_out(sink: PlanNode) -> bool:
    """Whether tasks may each write files of their own for a sink: its folder takes any number of files.

    The rows come to it through a gather, which must not limit them: a limit holds once, over all tasks.
    """
    (below,) = sink.children
    if below.kind not in {"coalesce_partitions", "sort_preserving_merge"} or target_of(sink).single_file:
        return False
    fields = codec.fields_of(below)
    return not (fields.HasField("fetch") and fields.fetch >= 0)
