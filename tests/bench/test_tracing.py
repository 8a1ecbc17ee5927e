"""What the latency benchmark traces is there, under the names by which it is wrapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from apiary_df.store import Store, open_store
from benchmarks.tracing import NODE, SESSION, Recorder, read_spans


@pytest.mark.parametrize("names", [SESSION, NODE], ids=["session", "node"])
def test_all_that_is_traced_is_there_and_is_what_it_was_afterwards(
    tmp_path: Path, names: Mapping[str, Sequence[str]]
) -> None:
    before = Store.get
    unwrap = Recorder(tmp_path / "spans").wrap(names)
    traced = Store.get
    unwrap()
    assert traced is not before
    assert Store.get is before


def test_a_traced_call_is_a_span_with_its_key(tmp_path: Path) -> None:
    store = open_store((tmp_path / "root").as_uri())
    unwrap = Recorder(tmp_path / "spans").wrap({"apiary_df.store": ("Store.put",)})
    try:
        store.put("a/b", b"rows")
    finally:
        unwrap()
    (span,) = read_spans(tmp_path / "spans")
    assert span.name == "Store.put a/b"
    assert span.end_s >= span.start_s
