"""Engines of a session's own: kept from one query to the next, never shared, and gone with what they hold."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from apiary_df.config import Settings
from apiary_df.errors import ConfigError
from apiary_df.store import open_store
from apiary_df.worker.workbench import SPARE_ENGINES, Workbenches


@pytest.fixture
def benches(tmp_path: Path) -> Workbenches:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Workbenches(open_store((tmp_path / "root").as_uri()), Settings(scratch_dir=str(scratch)), None)


def folders(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "scratch").iterdir())


def test_the_next_query_has_the_same_engine_and_an_empty_folder(benches: Workbenches, tmp_path: Path) -> None:
    with benches.lend({}) as (first, bench):
        bench.scratch.mkdir()
        (bench.scratch / "rows").write_bytes(b"1")
    with benches.lend({}) as (second, again):
        assert second is first
        assert not again.scratch.exists()
    assert len(folders(tmp_path)) == 1


def test_two_at_a_time_have_engines_of_their_own(benches: Workbenches) -> None:
    with benches.lend({}) as (first, one), benches.lend({}) as (second, other):
        assert first is not second
        assert one.scratch != other.scratch


def test_other_settings_are_another_engine(benches: Workbenches) -> None:
    with benches.lend({}) as (plain, _):
        pass
    with benches.lend({"datafusion.execution.batch_size": "16"}) as (small, _):
        assert small is not plain
        assert small.batch_rows == 16
    with benches.lend({}, allow_udfs=False) as (careful, _):
        assert careful is not plain


def test_an_engine_in_which_something_failed_is_not_used_again(benches: Workbenches, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows"), benches.lend({}) as (failed, _):
        raise ValueError("rows")
    assert folders(tmp_path) == []
    with benches.lend({}) as (engine, _):
        assert engine is not failed


def test_only_some_are_kept(benches: Workbenches, tmp_path: Path) -> None:
    sizes = [str(size) for size in range(16, 16 + 2 * SPARE_ENGINES)]
    for size in sizes:
        with benches.lend({"datafusion.execution.batch_size": size}):
            pass
    assert len(folders(tmp_path)) == SPARE_ENGINES


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_nothing_is_left(tmp_path: Path, how: str) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    benches = Workbenches(open_store((tmp_path / "root").as_uri()), Settings(scratch_dir=str(scratch)), None)
    with benches.lend({}), benches.scratch() as folder:
        assert folder.is_dir()
    assert len(folders(tmp_path)) == 1
    if how == "closed":
        benches.close()
        benches.close()
    else:
        del benches
        gc.collect()
    assert folders(tmp_path) == []


def test_without_a_place_it_says_which_setting(tmp_path: Path) -> None:
    benches = Workbenches(
        open_store((tmp_path / "root").as_uri()), Settings(scratch_dir=str(tmp_path / "absent")), None
    )
    with pytest.raises(ConfigError, match="scratch_dir="), benches.lend({}):
        pass


def test_an_unknown_option_leaves_no_folder(benches: Workbenches, tmp_path: Path) -> None:
    with pytest.raises(ConfigError), benches.lend({"datafusion.no.such": "1"}):
        pass
    assert folders(tmp_path) == []
