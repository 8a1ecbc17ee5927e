"""Each query of the suites at some of the partition counts; ``python -m tests.suite`` runs each at all of them."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

import pytest

from .catalogue import SUITES
from .harness import PARTITIONS, Bench
from .model import Query, Suite
from .tables import FILES, ROW_GROUPS
from .tpch import TPCH

COUNTS_A_QUERY = {"tpch": 2, "ssb": 2}
"""At how many partition counts each query of a suite runs here; 1 for suites that are not named."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Swarms and tables that all queries share."""
    with Bench(tmp_path_factory.mktemp("suites")) as bench:
        yield bench


def counts_for(suite: Suite, query: Query) -> list[int]:
    """Return the partition counts that a query runs at: by its name, so that each count gets its part of them."""
    first = crc32(f"{suite.name}/{query.name}".encode())
    return [PARTITIONS[(first + i) % len(PARTITIONS)] for i in range(COUNTS_A_QUERY.get(suite.name, 1))]


RUNS = sorted(
    (
        (suite, query, count)
        for suite in SUITES.values()
        for query in suite.queries
        for count in counts_for(suite, query)
    ),
    key=lambda run: run[2],
)


@pytest.mark.parametrize(("suite", "query", "count"), RUNS, ids=[f"{s.name}-{q.name}-{n}" for s, q, n in RUNS])
def test_swarm_answers_as_plain_datafusion(suite: Suite, query: Query, count: int, bench: Bench) -> None:
    outcome = bench.run(suite, query, count)
    assert not outcome.faults, "\n".join(outcome.faults)


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_all_partition_counts_occur(suite: Suite) -> None:
    assert {count for query in suite.queries for count in counts_for(suite, query)} == set(PARTITIONS)


def test_files_are_cut_into_smaller_cells(bench: Bench) -> None:
    scan_of_one_table = next(query for query in TPCH.queries if query.name == "q06")
    outcome = bench.run(TPCH, scan_of_one_table, 16)
    # Neighbouring row groups of one task count as one, so there are not quite as many as row groups.
    assert FILES < outcome.cells <= FILES * ROW_GROUPS
    assert outcome.widest == 16
