"""Small data that is made once a session: a few awkward tables, and TPC-H in several files of several row groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datafusion
import pyarrow.parquet as pq
import pytest

from apiary_df.demo import TPCH_TABLES
from apiary_df.demo.data import generate_tpch, tpch_paths
from plan.sample_queries import Sample
from plan.sample_tables import register_samples, write_samples

TPCH_SCALE = 0.01
TPCH_FILES = 3
TPCH_ROW_GROUPS = 5


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the awkward tables."""
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder)
    return folder


@pytest.fixture(scope="session")
def samples_under(sample_folder: Path) -> Callable[[Sample], datafusion.SessionContext]:
    """Returns a plain session with the awkward tables under a sample's settings; tests read only."""
    sessions: dict[tuple[tuple[str, str], ...], datafusion.SessionContext] = {}

    def session_for(sample: Sample) -> datafusion.SessionContext:
        if sample.settings not in sessions:
            ctx = datafusion.SessionContext(datafusion.SessionConfig(dict(sample.settings)))
            register_samples(ctx, sample_folder)
            sessions[sample.settings] = ctx
        return sessions[sample.settings]

    return session_for


@pytest.fixture(scope="session")
def samples(samples_under: Callable[[Sample], datafusion.SessionContext]) -> datafusion.SessionContext:
    """The awkward tables under the default settings; tests read only."""
    return samples_under(Sample(name="", sql=""))


@pytest.fixture(scope="session")
def tpch_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TPC-H in folders of Parquet files with small row groups; the two tiny tables are one file each."""
    raw = tmp_path_factory.mktemp("tpch-raw")
    folder = tmp_path_factory.mktemp("tpch")
    generate_tpch(raw, TPCH_SCALE)
    for name, path in tpch_paths(raw).items():
        table = pq.read_table(path)
        files = 1 if table.num_rows < 100 else TPCH_FILES
        step = -(-table.num_rows // files)
        (folder / name).mkdir()
        for number in range(files):
            part = table.slice(number * step, step)
            pq.write_table(
                part, folder / name / f"{number}.parquet", row_group_size=max(10, part.num_rows // TPCH_ROW_GROUPS)
            )
    return folder


@pytest.fixture(scope="session")
def tpch(tpch_folder: Path) -> datafusion.SessionContext:
    """A plain session with the TPC-H tables; tests read only."""
    ctx = datafusion.SessionContext()
    for name in TPCH_TABLES:
        ctx.register_parquet(name, str(tpch_folder / name))
    return ctx
