"""How often storage is looked at: often after news, rarely when nothing has come for long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiary_df.config import Settings, StoreKind
from apiary_df.pace import SHARE, Pace

HOUR_S = 3600.0


def looks(pace: Pace, from_s: float, until_s: float, request_s: float = 0.0) -> list[float]:
    """Return when an observer looks that finds nothing."""
    found = []
    now_s = from_s
    while now_s < until_s:
        found.append(now_s)
        now_s += request_s + pace.wait_s(now_s + request_s)
    return found


def paced(kind: StoreKind, **given: float) -> Pace:
    return Pace(Settings(**given).for_store(kind), 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "most_an_hour"), [("bucket", 1_800), ("folder", 72_000), ("memory", 72_000)])
def test_looks_of_an_idle_hour_are_bounded(kind: StoreKind, most_an_hour: int) -> None:
    pace = paced(kind)
    begun_s = 600.0  # with nothing to do for ten minutes
    assert len(looks(pace, begun_s, begun_s + HOUR_S)) <= most_an_hour + 1


def test_the_first_minute_without_news_on_a_bucket_is_looked_through_at_its_ceiling() -> None:
    pace = paced("bucket")
    assert max(pace.wait_s(s) for s in range(60)) == 0.25
    assert pace.wait_s(120.0) == 0.5
    assert pace.wait_s(480.0) == pace.wait_s(HOUR_S) == 2.0


def test_news_makes_looks_frequent_again() -> None:
    pace = paced("bucket")
    assert pace.wait_s(1000.0) == 2.0
    pace.news(1000.0)
    assert pace.wait_s(1000.0) == 0.001


@given(st.floats(0.0, 1e5), st.sampled_from(("folder", "memory", "bucket")))
def test_a_wait_is_within_its_bounds_and_a_small_part_of_the_time_without_news(still_s: float, kind: StoreKind) -> None:
    settings = Settings().for_store(kind)
    wait_s = Pace(settings, 0.0).wait_s(still_s)
    assert settings.poll_min_s <= wait_s <= (settings.poll_idle_s or 0.0)
    assert wait_s <= max(settings.poll_min_s, still_s * SHARE)


def test_what_takes_long_is_looked_for_no_more_than_a_few_dozen_times() -> None:
    # On a bucket, where each look takes a request's time.
    assert len(looks(paced("bucket"), 0.0, 10.0, request_s=0.03)) < 60


def test_a_longest_wait_below_the_usual_one_holds() -> None:
    assert paced("bucket", poll_idle_s=0.1).wait_s(1000.0) == 0.1
