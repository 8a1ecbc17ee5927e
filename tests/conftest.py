"""Fixtures that several test folders share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from chaos.places import BUCKET, s3_service
from hypothesis import HealthCheck, settings
from swarm.helpers import PATIENT

from apiary_df.store import StoreOptions

# How long an example takes says how busy the machine is: speed is for benchmarks.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def own_cell_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests, and the nodes that they start, off the cell cache of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Let sessions, commands and nodes that have no settings of their own bear with a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in PATIENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[StoreOptions]:
    """Options that reach an S3 service over HTTP, with the bucket ``s3_bucket`` in it."""
    with s3_service() as options:
        yield options


@pytest.fixture(scope="session")
def s3_bucket(s3_endpoint: StoreOptions) -> str:
    """Name of the bucket behind ``s3_endpoint``."""
    return BUCKET


@pytest.fixture
def s3_url(s3_bucket: str) -> str:
    """A prefix of that bucket that no other test uses."""
    return f"s3://{s3_bucket}/{uuid.uuid4().hex}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes golden texts anew instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="write the texts in tests/golden anew")
