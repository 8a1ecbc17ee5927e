"""What is removed from a root is old, is ours, and is not kept on purpose: for all listings and ages."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiary_df.collect import Group, Kind, Limits, Stillness, grouped, judge, judge_mail
from apiary_df.protocol import keys
from apiary_df.store_options import ObjectMeta

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
LIMITS = Limits(grace_s=60.0, node_gc_s=3600.0)

ids = st.sampled_from(["q1", "q2", "q019a2b3c4d5-1f2e3d4c", "other"])
in_query = st.sampled_from(
    ["manifest.json", "lease.json", "cancel", "outcome.json", "stage_0.plan", "commit_0_1.json", "notes.txt", "sub/x"]
)
all_keys = st.one_of(
    st.builds(lambda query, name: f"_queries/{query}/{name}", ids, in_query),
    st.builds(keys.heartbeat, ids),
    st.builds(keys.inbox, ids, st.integers(0, 3)),
    st.builds(keys.write, ids),
    st.builds("_probe/{:016x}".format, st.integers(0, 3)),
    st.sampled_from(["_queries/README", "_swarm/nodes/README.md", "_probe/mine", "_queries/Upper/manifest.json"]),
)
listings = st.dictionaries(all_keys, st.floats(0, 10_000), max_size=20)


def meta(key: str, age_s: float = 0.0, size_bytes: int = 1) -> ObjectMeta:
    return ObjectMeta(key=key, size_bytes=size_bytes, last_modified=NOW - timedelta(seconds=age_s), e_tag=None)


def age_of(group: Group) -> float:
    return NOW.timestamp() - group.last_modified_ts


@given(listings, st.sets(ids), st.booleans())
def test_nothing_young_nothing_foreign_nothing_kept_is_removed(
    listed: dict[str, float], writes: set[str], kept: bool
) -> None:
    limits = Limits(grace_s=60.0, node_gc_s=3600.0, kept=kept)
    for group in grouped(meta(key, age) for key, age in listed.items()):
        verdict = judge(group, age_of(group), limits, writes=writes)
        if not verdict.remove:
            assert verdict.why
            continue
        ages = {found.key: listed[found.key] for found in group.objects}
        assert group.kind is not Kind.FOREIGN
        if group.kind is Kind.NODE:
            beat = keys.heartbeat(group.name)
            assert ages.get(beat, min(ages.values())) >= 3600 - 1e-3
        else:
            assert min(ages.values()) >= 60 - 1e-3
        if group.kind is Kind.QUERY:
            assert kept or keys.outcome(group.name) not in ages
            assert group.name not in writes or keys.outcome(group.name) in ages


@given(listings)
def test_every_object_is_in_one_group_but_for_notes_of_writes(listed: dict[str, float]) -> None:
    found = [item.key for group in grouped(meta(key, age) for key, age in listed.items()) for item in group.objects]
    assert sorted(found) == sorted(key for key in listed if keys.query_of_write(key) is None)


@given(listings)
def test_what_is_old_and_ours_goes(listed: dict[str, float]) -> None:
    for group in grouped(meta(key, age) for key, age in listed.items()):
        verdict = judge(group, 1e6, LIMITS)
        is_kept = group.kind is Kind.QUERY and keys.outcome(group.name) in {item.key for item in group.objects}
        assert verdict.remove == (group.kind is not Kind.FOREIGN and not is_kept)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["manifest.json", "lease.json", "stage_0.plan"], "lease is not renewed"),
        (["stage_0.plan"], "never announced"),
        (["partial_0_0_0.arrow"], "written after its end"),
        (["manifest.json", "cancel"], "has ended"),
    ],
)
def test_reason_says_what_became_of_the_query(names: list[str], why: str) -> None:
    (group,) = grouped(meta(f"_queries/q1/{name}") for name in names)
    assert why in judge(group, 60.0, LIMITS).why


def test_kinds_of_objects_of_another_version_go_with_their_query_and_alone_are_foreign() -> None:
    with_manifest = grouped([meta("_queries/q1/manifest.json"), meta("_queries/q1/future_7.bin")])
    assert [(group.kind, len(group.objects)) for group in with_manifest] == [(Kind.QUERY, 2)]
    assert [group.kind for group in grouped([meta("_queries/q1/future_7.bin")])] == [Kind.FOREIGN]


def test_node_that_lives_keeps_its_old_mail_but_not_that_of_queries_that_are_gone() -> None:
    (group,) = grouped([meta(keys.heartbeat("n1"), 1), meta(keys.inbox("n1", 0), 100), meta(keys.inbox("n1", 1), 100)])
    assert not judge(group, age_of(group), LIMITS).remove
    ages = {item.key: NOW.timestamp() - item.last_modified.timestamp() for item in group.objects}
    of = {keys.inbox("n1", 0): "gone", keys.inbox("n1", 1): "there"}
    assert [verdict.group.name for verdict in judge_mail(group, ages, of, {"there"}, 60.0)] == [keys.inbox("n1", 0)]
    assert judge_mail(group, ages, of, {"there"}, 101.0) == ()


class TestStillness:
    def test_only_time_without_change_counts(self) -> None:
        watch: Stillness[str] = Stillness(most_gap_s=10)
        assert watch.look("a", 1, 100.0) == 0
        assert watch.look("a", 1, 105.0) == 5
        assert watch.look("a", 2, 106.0) == 0
        assert watch.look("a", 2, 109.0) == 3

    def test_observer_that_was_stopped_has_not_seen_what_it_slept_through(self) -> None:
        watch: Stillness[str] = Stillness(most_gap_s=10)
        watch.look("a", 1, 100.0)
        assert watch.look("a", 1, 4_000.0) == 10

    def test_what_is_forgotten_begins_anew(self) -> None:
        watch: Stillness[str] = Stillness(most_gap_s=10)
        watch.look("a", 1, 0.0)
        watch.forget_others({"b"})
        assert watch.look("a", 1, 5.0) == 0

    @given(st.lists(st.tuples(st.floats(0, 50), st.integers(0, 2)), min_size=1))
    def test_it_never_claims_more_than_the_time_since_the_last_change(self, steps: list[tuple[float, int]]) -> None:
        watch: Stillness[str] = Stillness(most_gap_s=20)
        now_s = changed_s = 0.0
        before: int | None = None
        for gap_s, mark in steps:
            now_s += gap_s
            if mark != before:
                changed_s, before = now_s, mark
            assert watch.look("a", mark, now_s) <= now_s - changed_s + 1e-6
