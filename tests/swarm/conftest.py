"""A swarm of two node processes on a folder, and TPC-H at a small scale, shared by most tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import datafusion
import pytest

from apiary_df import LocalSwarm, SessionContext, Settings
from apiary_df.demo.data import generate_tpch, tpch_paths
from swarm import python_functions, surface
from swarm.helpers import CALM, FORCED, START_S

TPCH_SCALE = 0.01
TPCH_PARTS = 3

Open = Callable[..., SessionContext]


@contextmanager
def opening(swarm: LocalSwarm, tables: dict[str, Path], **settings: Any) -> Iterator[Open]:
    """Give what opens sessions on a swarm, which distribute whatever can be, with some tables; closes them at the end.

    Args:
        swarm: The swarm.
        tables: Folders of Parquet files, by the table's name.
        **settings: Settings of all of the sessions.
    """
    with ExitStack() as opened:

        def open_session(**overrides: Any) -> SessionContext:
            ctx = SessionContext(storage=swarm.storage, **{**FORCED, **settings, **overrides})
            register(opened.enter_context(ctx), tables)
            return ctx

        yield open_session


@pytest.fixture(scope="session")
def tpch_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """TPC-H tables as folders of Parquet files."""
    folder = tmp_path_factory.mktemp("tpch-swarm")
    generate_tpch(folder, TPCH_SCALE, TPCH_PARTS)
    return tpch_paths(folder)


@pytest.fixture(scope="session")
def plain(tpch_files: dict[str, Path]) -> datafusion.SessionContext:
    """Plain DataFusion with the TPC-H tables; tests read only."""
    ctx = datafusion.SessionContext()
    register(ctx, tpch_files)
    return ctx


@pytest.fixture(scope="session")
def swarm() -> Iterator[LocalSwarm]:
    """Two node processes of one bee on a folder. Tests leave them as they are."""
    with LocalSwarm(2, settings=Settings(heartbeat_s=0.2, node_start_timeout_s=START_S, **CALM)) as swarm:
        yield swarm


@pytest.fixture(scope="session")
def shared(swarm: LocalSwarm, tpch_files: dict[str, Path]) -> Iterator[SessionContext]:
    """A session on that swarm with the TPC-H tables, which distributes whatever can be; tests read only."""
    with SessionContext(storage=swarm.storage, **FORCED) as ctx:
        register(ctx, tpch_files)
        yield ctx


@pytest.fixture(scope="session")
def surface_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small tables of many types as folders of Parquet files."""
    return surface.write_tables(tmp_path_factory.mktemp("surface"))


@pytest.fixture(scope="module")
def both(
    swarm: LocalSwarm, surface_files: dict[str, Path]
) -> Iterator[tuple[SessionContext, datafusion.SessionContext]]:
    """A session on the shared swarm and a plain one, of the module's own, with the small tables."""
    with surface.open_both(swarm.storage, surface_files) as sessions:
        yield sessions


@pytest.fixture
def joined(swarm: LocalSwarm, tpch_files: dict[str, Path]) -> Iterator[Open]:
    """Opens sessions of the test's own on the shared swarm."""
    with opening(swarm, tpch_files) as open_session:
        yield open_session


@pytest.fixture
def own_swarm(tpch_files: dict[str, Path]) -> Iterator[Callable[..., tuple[LocalSwarm, SessionContext]]]:
    """Starts nodes of the test's own, which it may stop and kill, and a session on them."""
    swarms: list[LocalSwarm] = []
    sessions: list[SessionContext] = []

    def start(nodes: int, **overrides: Any) -> tuple[LocalSwarm, SessionContext]:
        settings = Settings().with_overrides(**{**FORCED, **overrides})
        swarms.append(LocalSwarm(nodes, settings=settings))
        sessions.append(SessionContext(storage=swarms[-1].storage, settings=settings))
        register(sessions[-1], tpch_files)
        return swarms[-1], sessions[-1]

    yield start
    for ctx in sessions:
        ctx.close()
    for swarm in swarms:
        swarm.close()


def register(ctx: datafusion.SessionContext, tables: dict[str, Path]) -> None:
    """Register the TPC-H tables."""
    for name, path in tables.items():
        ctx.register_parquet(name, str(path))


@pytest.fixture(scope="session")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table that Python functions are tested on."""
    folder = tmp_path_factory.mktemp("facts")
    python_functions.write_facts(folder)
    return folder


@pytest.fixture(scope="session")
def oracle(facts: Path) -> datafusion.SessionContext:
    """Plain DataFusion with the table and all functions."""
    ctx = datafusion.SessionContext()
    python_functions.register(ctx, facts)
    return ctx
