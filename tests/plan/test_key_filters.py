"""Keys of a finished side of a join, handed to stages that make rows of the other side: the same rows, fewer moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datafusion
import pyarrow as pa
import pytest

from apiary_df.adapt.dependencies import scanned_bytes
from apiary_df.adapt.key_filters import Filtered, Hold, KeyFilterOptions, Readers, hold_or_filter, key_filters
from apiary_df.demo import TPCH_ORDER_COLUMNS, tpch_queries
from apiary_df.model import PartialRef, Segment
from apiary_df.plan.rules import RewriteOptions
from apiary_df.plan.stages import ExchangeLeaf, ScanLeaf, Stage, StageGraph
from apiary_df.planning import RunsOnSwarm
from apiary_df.tasks import TaskOptions
from plan.checks import check_rows, check_sample
from plan.joined_tables import JOIN_TYPES, join_of_type, register_few_and_many, shuffling
from plan.local_swarm import LocalSwarm, Ran, node
from plan.sample_queries import SAMPLES, Sample

ALWAYS = KeyFilterOptions(
    most_bytes=1 << 40,
    from_bytes=0,
    least_gain=0,
    most_kept=float("inf"),
    most_waited=float("inf"),
    any_stage=True,
)
"""Wherever it is right at all."""

NOBODY = Readers(bees=0, bee_bytes=0)

FILTERED_TPCH = {17, 18, 20, 21}
"""TPC-H queries in which a stage that leaves rows out is worth waiting for."""


def swarm(session: datafusion.SessionContext, scratch: Path, options: KeyFilterOptions = ALWAYS) -> LocalSwarm:
    return LocalSwarm(
        session=session,
        rewrite=RewriteOptions(partitions=3, small_bytes=0),
        nodes=[node(name, target_cell_size=1) for name in "ab"],
        scratch=scratch,
        options=TaskOptions(min_cell_bytes=1),
        key_filters=options,
    )


@pytest.mark.parametrize("number", tpch_queries())
def test_tpch_with_keys_handed_on_wherever_they_may_be_equals_datafusion(
    number: int, tpch: datafusion.SessionContext, tmp_path: Path
) -> None:
    sql = tpch_queries()[number]
    ran = swarm(tpch, tmp_path).run(sql)
    check_rows(tpch.sql(sql).to_arrow_table(), ran.table, TPCH_ORDER_COLUMNS[number])
    if number in FILTERED_TPCH:
        assert ran.changes


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_sample_with_keys_handed_on_wherever_they_may_be_equals_datafusion(
    sample: Sample, samples_under: Callable[[Sample], datafusion.SessionContext], tmp_path: Path
) -> None:
    ctx = samples_under(sample)
    check_sample(ctx, sample, swarm(ctx, tmp_path).run(sample.sql).table)


def test_a_folded_rest_reads_what_filtered_stages_committed(tpch: datafusion.SessionContext, tmp_path: Path) -> None:
    sql = tpch_queries()[17]
    expected = tpch.sql(sql).to_arrow_table()
    for complete in range(1, 4):
        check_rows(expected, swarm(tpch, tmp_path).run(sql, fold_after=complete).table, TPCH_ORDER_COLUMNS[17])


# -- what is compared as the join compares it ------------------------------------------------------------------------

KEYS = {
    "numbers": pa.array([1, 2, None, 3, 3, 7, 8, None], pa.int64()),
    "floats": pa.array([1.0, float("nan"), None, 0.0, -0.0, 2.5, float("inf"), 1.0]),
    "decimals": pa.array([1, 2, None, 3, 3, 7, 8, 1], pa.decimal128(12, 2)),
    "texts": pa.array(["a", "", None, "b", "b", "c", "é", "a"]),
    "bytes": pa.array([b"a", b"", None, b"b", b"b", b"c", b"\xff", b"a"]),
    "dates": pa.array([1, 2, None, 3, 3, 7, 8, 1], pa.date32()),
    "moments": pa.array([1, 2, None, 3, 3, 7, 8, 1], pa.timestamp("us", "UTC")),
    "truths": pa.array([True, False, None, True, True, True, True, None]),
}
"""Join keys of one type each, with what may compare in its own way among them."""


def joined(keys: pa.Array, folder: Path) -> datafusion.SessionContext:
    return register_few_and_many(shuffling(), keys, folder)


@pytest.mark.parametrize("kind", JOIN_TYPES)
@pytest.mark.parametrize("keys", KEYS)
def test_join_of_shuffled_sides_keeps_its_rows(keys: str, kind: str, tmp_path: Path) -> None:
    ctx = joined(KEYS[keys], tmp_path)
    sql = join_of_type(kind, "(SELECT k, count(*) AS c, sum(n) AS s FROM many GROUP BY k)")
    ran = swarm(ctx, tmp_path).run(sql)
    check_rows(ctx.sql(sql).to_arrow_table(), ran.table, ())


def test_rows_of_a_side_that_the_join_hands_on_without_a_partner_stay(tmp_path: Path) -> None:
    ctx = joined(KEYS["numbers"], tmp_path)
    selective = replace(ALWAYS, any_stage=False)

    def filtered(kind: str) -> bool:
        sql = join_of_type(kind, "(SELECT k, sum(n) FROM many GROUP BY k)")
        return bool(swarm(ctx, tmp_path, selective).run(sql).changes)

    assert filtered("JOIN")
    assert filtered("LEFT JOIN")
    assert not filtered("RIGHT JOIN")
    assert not filtered("FULL JOIN")


def test_not_in_hands_on_nothing(tmp_path: Path) -> None:
    ctx = joined(KEYS["numbers"], tmp_path)
    sql = "SELECT k FROM many WHERE k NOT IN (SELECT k FROM few WHERE n < 2)"
    planned = swarm(ctx, tmp_path).plan(sql)
    assert isinstance(planned, RunsOnSwarm)
    assert not key_filters(planned.graph, ALWAYS)


# -- what it leaves out -----------------------------------------------------------------------------------------------


def partial_rows(ran: Ran) -> int:
    return sum(partial.rows for partials in ran.partials.values() for partial in partials)


@pytest.mark.parametrize("number", [17, 20, 21])
def test_fewer_rows_change_hands(number: int, tpch: datafusion.SessionContext, tmp_path: Path) -> None:
    sql = tpch_queries()[number]
    off = KeyFilterOptions(most_bytes=0, from_bytes=0)
    selective = replace(ALWAYS, any_stage=False, most_kept=0.3)
    assert partial_rows(swarm(tpch, tmp_path, selective).run(sql)) * 2 < partial_rows(
        swarm(tpch, tmp_path, off).run(sql)
    )


def test_keys_are_not_waited_for_if_they_are_a_long_way_off(tpch: datafusion.SessionContext, tmp_path: Path) -> None:
    never = replace(ALWAYS, any_stage=False, most_waited=0.0)
    assert not swarm(tpch, tmp_path, never).run(tpch_queries()[17]).changes


def test_many_keys_are_not_handed_on(tmp_path: Path) -> None:
    ctx = joined(KEYS["numbers"], tmp_path)
    sql = join_of_type("JOIN")
    assert swarm(ctx, tmp_path, ALWAYS).run(sql).changes
    above = replace(ALWAYS, most_bytes=1)
    assert swarm(ctx, tmp_path, above).run(sql).changes
    assert not swarm(ctx, tmp_path, replace(above, bee_share=0.0)).run(sql).changes
    assert not swarm(ctx, tmp_path, replace(ALWAYS, most_partials=0)).run(sql).changes
    assert not swarm(ctx, tmp_path, replace(ALWAYS, most_kept=0.0)).run(sql).changes
    assert not swarm(ctx, tmp_path, replace(ALWAYS, from_bytes=1 << 40)).run(sql).changes


def test_above_the_limit_the_copies_of_all_bees_count(tmp_path: Path) -> None:
    ctx = joined(KEYS["numbers"], tmp_path)
    sql = "SELECT * FROM (SELECT * FROM few WHERE n < 2) f JOIN many m ON f.k = m.k"
    planned = swarm(ctx, tmp_path).plan(sql)
    assert isinstance(planned, RunsOnSwarm)
    graph = planned.graph
    filter_ = key_filters(graph, ALWAYS)[0]
    target, source = graph.stages[filter_.target.stage], filter_.source.stage
    segment = Segment(partition=0, offset=0, length=scanned_bytes(target) // 20, rows=1, checksum="")
    partial = PartialRef(key="p", length=segment.length, footer_offset=0, footer_checksum="", segments=(segment,))
    options = replace(ALWAYS, most_bytes=1, least_gain=4)

    def decided(bees: int, bee_bytes: int = 1 << 40) -> object:
        readers = Readers(bees=bees, bee_bytes=bee_bytes)
        partials = {source: (partial,)}
        return hold_or_filter(
            graph, target, filters=(filter_,), partials=partials, held={}, options=options, readers=readers
        )

    assert isinstance(decided(bees=5), Filtered)
    assert decided(bees=6) is None
    assert decided(bees=1, bee_bytes=segment.length) is None


def test_nothing_waits_for_a_stage_that_was_changed_to_read_it(tpch: datafusion.SessionContext, tmp_path: Path) -> None:
    planned = swarm(tpch, tmp_path).plan(tpch_queries()[17])
    assert isinstance(planned, RunsOnSwarm)
    graph = planned.graph
    filters = key_filters(graph, ALWAYS)
    held = {}
    for stage in (s for s in graph.stages[:-1] if not s.inputs):
        decided = hold_or_filter(graph, stage, filters=filters, partials={}, held={}, options=ALWAYS, readers=NOBODY)
        if isinstance(decided, Hold):
            held[stage.stage] = decided.until
    assert held
    for number, until in held.items():
        # As after the loss of what both had read: the other one's keys had come from here.
        reader = graph.stages[until]
        changed = graph.with_stage(replace(reader, leaves=(*reader.leaves, ExchangeLeaf(stage=number, ordered=False))))
        again = hold_or_filter(
            changed, graph.stages[number], filters=filters, partials={}, held={}, options=ALWAYS, readers=NOBODY
        )
        assert not isinstance(again, Hold) or again.until != until


# -- whose keys are waited for -----------------------------------------------------------------------------------------


def of_parts(tpch: datafusion.SessionContext, scratch: Path) -> tuple[StageGraph, int, int]:
    """Return TPC-H Q2's stages, and which makes the least cost of each part, and which finds the parts asked for."""
    planned = swarm(tpch, scratch).plan(tpch_queries()[2])
    assert isinstance(planned, RunsOnSwarm)
    shuffled = [stage.stage for stage in planned.graph.stages if stage.output == "hash"]
    groups, parts = sorted(shuffled, key=lambda number: "p_mfgr" in str(planned.graph.stages[number].schema))
    return planned.graph, groups, parts


def made(rows: int) -> PartialRef:
    segment = Segment(partition=0, offset=0, length=1, rows=rows, checksum="")
    return PartialRef(key="p", length=1, footer_offset=0, footer_checksum="", segments=(segment,))


SOON = replace(ALWAYS, any_stage=False, most_kept=0.3)
"""As by default, for tables of any size."""


def test_keys_that_a_filter_of_their_own_left_go_first(tpch: datafusion.SessionContext, tmp_path: Path) -> None:
    graph, groups, parts = of_parts(tpch, tmp_path)
    filters = key_filters(graph, SOON)
    assert {(f.source.stage, f.target.stage, f.source.filtered) for f in filters} >= {
        (groups, parts, False),
        (parts, groups, True),
    }
    before = dict.fromkeys(graph.stages[groups].inputs + graph.stages[parts].inputs, (made(1 << 40),))
    for order in ((groups, parts), (parts, groups)):
        held: dict[int, int] = {}
        for number in order:
            decided = hold_or_filter(
                graph, graph.stages[number], filters=filters, partials=before, held=held, options=SOON, readers=NOBODY
            )
            if isinstance(decided, Hold):
                held[number] = decided.until
        assert held == {groups: parts}


def test_keys_are_few_or_many_of_the_smallest_table_that_has_them(
    tpch: datafusion.SessionContext, tmp_path: Path
) -> None:
    graph, groups, parts = of_parts(tpch, tmp_path)
    (of_groups,) = (f for f in key_filters(graph, SOON) if (f.source.stage, f.target.stage) == (groups, parts))
    rows = tpch.table("part").count()
    assert of_groups.source.table_rows == tpch.table("partsupp").count() > rows
    assert of_groups.table_rows == rows

    def decided(kept: int) -> object:
        stage = graph.stages[parts]
        partials = {**dict.fromkeys(stage.inputs, ()), groups: (made(kept),)}
        return hold_or_filter(
            graph, stage, filters=(of_groups,), partials=partials, held={}, options=SOON, readers=NOBODY
        )

    assert isinstance(decided(rows * 3 // 10), Filtered)
    assert decided(rows * 4 // 10) is None


def scanned(stage: Stage) -> list[str]:
    return [file.path for leaf in stage.leaves if isinstance(leaf, ScanLeaf) for file in leaf.files]


def test_a_stage_that_has_far_less_to_read_goes_first(tpch: datafusion.SessionContext, tmp_path: Path) -> None:
    planned = swarm(tpch, tmp_path).plan(tpch_queries()[20])
    assert isinstance(planned, RunsOnSwarm)
    graph = planned.graph
    filters = key_filters(graph, SOON)
    # What was shipped in a year is left by a filter of its own, suppliers of a country by a join.
    (items,) = (stage for stage in graph.stages if any("lineitem" in path for path in scanned(stage)))
    others = {f.source.stage for f in filters if f.target.stage == items.stage and not f.source.filtered}
    assert others & {f.target.stage for f in filters if f.source.stage == items.stage and f.source.filtered}
    decided = hold_or_filter(
        graph, items, filters=filters, partials={}, held={}, options=replace(SOON, most_waited=4), readers=NOBODY
    )
    assert isinstance(decided, Hold)
    assert decided.until in others
