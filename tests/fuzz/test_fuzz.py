"""A few hundred random queries against each oracle. ``make fuzz`` runs many more, APIARY_FUZZ_SEED varies these."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from sqlglot import exp

from .campaign import run_campaign
from .lab import Lab, Setting, draw_setting
from .oracles import ORACLES, Verdict, judge_by_plain
from .queries import Queries, Query
from .tables import Column, Kind, Table, draw_tables

SEED = os.environ.get("APIARY_FUZZ_SEED", "1")
"""What the queries are drawn from: always the same unless asked otherwise."""

LEAST_DISTRIBUTED = 0.95
"""Share of the queries with several files to read that must be distributed: with fewer, little would be compared."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.mark.parametrize(("oracle", "queries"), [("plain", 150), ("tlp", 20), ("duckdb", 50)])
def test_random_queries_are_answered_rightly(oracle: str, queries: int, lab: Lab) -> None:
    print(f"APIARY_FUZZ_SEED={SEED}")
    tally = run_campaign(lab, ORACLES[oracle], seed=SEED, queries=queries)
    assert not tally.differences, "\n\n".join(tally.differences)
    # An answer that two engines refuse, or that is empty, shows nothing.
    assert tally.verdicts[Verdict.SAME] >= 0.9 * queries, list(tally.lines())
    assert tally.empty <= 0.6 * queries, list(tally.lines())
    assert tally.share_distributed >= LEAST_DISTRIBUTED, list(tally.lines())


@seed(SEED)
@settings(
    max_examples=12,
    database=None,
    deadline=None,
    # Reducing is our own business (tests.fuzz.reduce): it takes SQL apart, not the choices behind it.
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
@given(random=st.randoms(use_true_random=False))
def test_queries_that_hypothesis_draws_are_answered_rightly(lab: Lab, random: Random) -> None:
    setting = draw_setting(random, draw_tables, bees=(1, 2, 3))
    lab.prepare(setting)
    queries = Queries(random, setting.tables)
    for _ in range(2):
        judged = judge_by_plain(lab, queries.query())
        assert judged.verdict is not Verdict.DIFFERENT, f"{setting.describe()}\n{judged.detail}\n{judged.texts}"


def test_a_wrong_answer_is_noticed(lab: Lab) -> None:
    column = Column(name="c", kind=Kind.INT, type=pa.int64())
    parts = tuple(pa.table({"c": [number, number]}) for number in range(3))
    table = Table(name="t0", columns=(column,), format="parquet", parts=parts, group_rows=1)
    lab.prepare(Setting(tables=(table,), bees=2, options={}))
    query = Query(tree=exp.select("c").from_("t0"))
    assert judge_by_plain(lab, query).verdict is Verdict.SAME
    lab.swarm.deregister_table("t0")
    lab.swarm.register_record_batches("t0", [parts[0].to_batches()])
    assert judge_by_plain(lab, query).verdict is Verdict.DIFFERENT
