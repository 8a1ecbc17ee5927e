"""Rows joined where they are made, with all of a side that came out small: the same rows, of which fewer move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datafusion
import pyarrow as pa
import pytest

from apiary_df.adapt.broadcasts import BroadcastOptions
from apiary_df.adapt.key_filters import KeyFilterOptions
from apiary_df.demo import TPCH_ORDER_COLUMNS, TPCH_TABLES, tpch_queries
from apiary_df.plan.rules import RewriteOptions
from apiary_df.planning import RunsOnSwarm
from apiary_df.tasks import TaskOptions
from plan.checks import check_rows, check_sample
from plan.joined_tables import join_of_type, register_few_and_many, shuffling
from plan.local_swarm import LocalSwarm, Ran, node
from plan.sample_queries import SAMPLES, SHUFFLED, Sample

ALWAYS = BroadcastOptions(most_bytes=1 << 40, from_bytes=0, least_gain=0, most_waited=float("inf"))
"""Wherever it is right at all."""

NEVER = BroadcastOptions(most_bytes=0, from_bytes=0)
KEYS = KeyFilterOptions(
    most_bytes=1 << 40, from_bytes=0, least_gain=0, most_kept=float("inf"), most_waited=float("inf"), any_stage=True
)
NO_KEYS = KeyFilterOptions(most_bytes=0, from_bytes=0)


def swarm(
    session: datafusion.SessionContext,
    scratch: Path,
    broadcasts: BroadcastOptions = ALWAYS,
    key_filters: KeyFilterOptions = NO_KEYS,
) -> LocalSwarm:
    return LocalSwarm(
        session=session,
        rewrite=RewriteOptions(partitions=3, small_bytes=0),
        nodes=[node(name, target_cell_size=1) for name in "ab"],
        scratch=scratch,
        options=TaskOptions(min_cell_bytes=1),
        key_filters=key_filters,
        broadcasts=broadcasts,
    )


@pytest.fixture
def shuffled_tpch(tpch_folder: Path) -> datafusion.SessionContext:
    ctx = shuffling()
    for name in TPCH_TABLES:
        ctx.register_parquet(name, str(tpch_folder / name))
    return ctx


def left_out(ran: Ran) -> int:
    """Return how many stages were not run, since another one did their work."""
    assert isinstance(ran.planned, RunsOnSwarm)
    return len(ran.planned.graph.stages) - len(ran.tasks)


@pytest.mark.parametrize("keys", [NO_KEYS, KEYS], ids=["alone", "with keys"])
@pytest.mark.parametrize("number", tpch_queries())
def test_tpch_joined_where_rows_are_made_equals_datafusion(
    number: int, keys: KeyFilterOptions, shuffled_tpch: datafusion.SessionContext, tmp_path: Path
) -> None:
    sql = tpch_queries()[number]
    ran = swarm(shuffled_tpch, tmp_path, key_filters=keys).run(sql)
    check_rows(shuffled_tpch.sql(sql).to_arrow_table(), ran.table, TPCH_ORDER_COLUMNS[number])
    if number in {3, 5, 7, 8, 9, 10}:
        assert left_out(ran)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_sample_joined_where_rows_are_made_equals_datafusion(
    sample: Sample, samples_under: Callable[[Sample], datafusion.SessionContext], tmp_path: Path
) -> None:
    ctx = samples_under(replace(sample, settings=(*sample.settings, *SHUFFLED.items())))
    check_sample(ctx, sample, swarm(ctx, tmp_path).run(sample.sql).table)


def test_a_folded_rest_does_what_joined_stages_had_not(
    shuffled_tpch: datafusion.SessionContext, tmp_path: Path
) -> None:
    sql = tpch_queries()[5]
    expected = shuffled_tpch.sql(sql).to_arrow_table()
    for complete in range(1, 6):
        ran = swarm(shuffled_tpch, tmp_path).run(sql, fold_after=complete)
        check_rows(expected, ran.table, TPCH_ORDER_COLUMNS[5])


# -- where it is right -----------------------------------------------------------------------------------------------

TYPES = {
    "JOIN": True,
    "RIGHT JOIN": True,
    "RIGHT SEMI JOIN": True,
    "RIGHT ANTI JOIN": True,
    "LEFT JOIN": False,
    "FULL JOIN": False,
    "LEFT SEMI JOIN": False,
    "LEFT ANTI JOIN": False,
}
"""Join types, and whether their second side may be shared out while all of the first is in each task."""


@pytest.fixture
def joined(tmp_path: Path) -> datafusion.SessionContext:
    # Else sides are swapped by their sizes, and the type with them.
    ctx = shuffling(**{"datafusion.optimizer.join_reordering": "false"})
    return register_few_and_many(ctx, pa.array([1, 2, None, 3, 3, 7, 8, None], pa.int64()), tmp_path)


@pytest.mark.parametrize("kind", TYPES)
def test_only_joins_without_rows_of_the_small_side_alone(
    kind: str, joined: datafusion.SessionContext, tmp_path: Path
) -> None:
    ran = swarm(joined, tmp_path).run(join_of_type(kind))
    check_rows(joined.sql(join_of_type(kind)).to_arrow_table(), ran.table, ())
    assert bool(left_out(ran)) == TYPES[kind]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT m.k, count(DISTINCT m.n), sum(f.n) FROM few f JOIN many m ON f.k = m.k GROUP BY m.k",
        "SELECT m.k, row_number() OVER (PARTITION BY m.k ORDER BY m.n, f.n) FROM few f JOIN many m ON f.k = m.k",
        "SELECT k FROM many WHERE k NOT IN (SELECT k FROM few WHERE n < 2)",
        "SELECT f.n, g.n, m.n FROM few f JOIN many m ON f.k = m.k JOIN few g ON m.k = g.k",
        "SELECT f.n, m.n FROM few f JOIN (SELECT k, sum(n) AS n FROM many GROUP BY k) m ON f.k = m.k",
        "SELECT f.n, m.n FROM few f JOIN (SELECT * FROM many UNION ALL SELECT * FROM few) m ON f.k = m.k",
        "SELECT f.n, m.n FROM few f JOIN many m ON f.k = m.k ORDER BY 2, 1 LIMIT 3",
    ],
)
def test_what_stands_around_such_a_join_gives_the_same(
    sql: str, joined: datafusion.SessionContext, tmp_path: Path
) -> None:
    check_rows(joined.sql(sql).to_arrow_table(), swarm(joined, tmp_path).run(sql).table, ())


def test_a_stage_less_writes_less(joined: datafusion.SessionContext, tmp_path: Path) -> None:
    def written(ran: Ran) -> int:
        return sum(ref.rows for refs in ran.partials.values() for ref in refs)

    without, with_ = (swarm(joined, tmp_path, options).run(join_of_type("JOIN")) for options in (NEVER, ALWAYS))
    assert not without.changes
    assert "joined where they are made" in next(iter(with_.changes.values()))
    assert written(with_) < written(without)
    assert len(with_.tasks) == len(without.tasks) - 1


@pytest.mark.parametrize(
    "options",
    [
        replace(ALWAYS, most_bytes=1),
        replace(ALWAYS, from_bytes=1 << 40),
        replace(ALWAYS, least_gain=1e9),
        replace(ALWAYS, most_partials=0),
        replace(ALWAYS, most_waited=0.0),
    ],
)
def test_a_side_that_is_large_or_far_off_is_not_read_whole(
    options: BroadcastOptions, joined: datafusion.SessionContext, tmp_path: Path
) -> None:
    assert not left_out(swarm(joined, tmp_path, options).run(join_of_type("JOIN")))
