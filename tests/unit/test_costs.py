"""The model of what requests cost, against the figures that it is to reproduce."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiary_df.config import Settings
from apiary_df.costs import (
    IN_FLIGHT,
    MOST_GROUPS,
    Latencies,
    Prices,
    ShufflePlanning,
    combined,
    direct,
    dollars,
    in_all,
)
from apiary_df.units import MIB

PRICES, LATENCIES = Prices(), Latencies()
SIZES = st.integers(1, 300)


def test_defaults_of_the_model_are_those_of_the_settings() -> None:
    assert Prices.of(Settings()) == PRICES
    assert Latencies.of(Settings()) == LATENCIES


def test_each_kind_of_request_has_its_price() -> None:
    assert dollars({"put": 1000}, PRICES) == pytest.approx(0.005)
    assert dollars({"list": 1000, "get": 1000, "head": 1000}, PRICES) == pytest.approx(0.0058)
    assert dollars({"delete": 1000, "bytes_in": 10**9, "hedged": 7}, PRICES) == 0


def test_bytes_and_second_requests_are_no_requests_of_their_own() -> None:
    assert in_all({"get": 3, "put": 1, "bytes_in": 100, "bytes_out": 5, "hedged": 1}) == 4


def test_time_of_a_read_grows_with_its_bytes() -> None:
    assert LATENCIES.expected_s(0) == pytest.approx(0.03)
    assert LATENCIES.expected_s(10 * MIB) == pytest.approx(0.23)


def test_a_shuffle_of_256_by_256_is_within_its_price() -> None:
    cost = direct(256, 256, 1 << 30, PRICES, LATENCIES)
    assert (cost.puts, cost.gets, cost.combiners) == (512, 65_536, 0)
    assert cost.dollars <= 0.06


def test_starlings_figures_come_out() -> None:
    assert direct(512, 128, 1, PRICES, LATENCIES).dollars == pytest.approx(0.031, abs=0.001)
    assert direct(5120, 1280, 1, PRICES, LATENCIES).dollars == pytest.approx(2.67, abs=0.01)
    assert combined(5120, 1280, 1, PRICES, LATENCIES).dollars < 0.1


@given(producers=SIZES, consumers=SIZES)
def test_a_combining_stage_reads_every_group_once(producers: int, consumers: int) -> None:
    cost = combined(producers, consumers, MIB, PRICES, LATENCIES)
    assert 1 <= cost.producer_groups <= producers
    assert 1 <= cost.partition_groups <= consumers
    assert cost.gets == cost.partition_groups * producers + cost.producer_groups * consumers
    assert cost.puts == 2 * (producers + cost.combiners)


@given(producers=st.integers(1, IN_FLIGHT), consumers=SIZES, size_bytes=st.integers(0, 1 << 40))
def test_a_combining_stage_always_takes_longer_than_an_exchange_within_one_round(
    producers: int, consumers: int, size_bytes: int
) -> None:
    plain = direct(producers, consumers, size_bytes, PRICES, LATENCIES)
    assert combined(producers, consumers, size_bytes, PRICES, LATENCIES).seconds > plain.seconds


@given(producers=SIZES, consumers=SIZES, bees=st.integers(1, 1000))
def test_a_combining_stage_has_work_for_all_bees_if_there_is_so_much(producers: int, consumers: int, bees: int) -> None:
    shape = ShufflePlanning(bees=bees).shape(producers, consumers, MIB)
    assert shape.combiners >= min(bees, min(producers, MOST_GROUPS) * min(consumers, MOST_GROUPS))


def test_a_shuffle_is_combined_from_the_saving_on_that_is_asked_for() -> None:
    plenty = 1 << 40
    by_default = ShufflePlanning.of(Settings(), bees=512)
    assert not by_default.combines(256, 256, plenty)
    assert by_default.combines(512, 512, plenty)
    assert not ShufflePlanning(from_dollars=1, bees=512).combines(512, 512, plenty)
    assert ShufflePlanning(from_dollars=0.0005, bees=64).combines(64, 64, plenty)


def test_partitions_too_small_for_tasks_of_their_own_cost_nothing_to_begin_with() -> None:
    planning = ShufflePlanning.of(Settings(), bees=512)
    assert not planning.combines(512, 512, 100 * planning.task_bytes)
    assert planning.combines(512, 512, 512 * planning.task_bytes)
