"""Where tables and the swarm's root lie: a folder, or an S3 service on this machine, with or without latency."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import s3

PLAIN_NAMES = "plain"
"""Begins the names under which tables without string views and decimals are uploaded."""


class Storage(str, enum.Enum):
    """What ``--storage`` takes."""

    FOLDER = "folder"
    S3 = "s3"
    S3_LATENCY = "s3-latency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Tables where engines find them.

    Attributes:
        tables: Table name to path or URL.
        plain: The same of the tables for engines that read neither string views nor decimals.
        root: The swarm's root; None: a temporary folder of its own.
        endpoint: The service; None on a folder.
    """

    tables: Mapping[str, str]
    plain: Mapping[str, str]
    root: str | None = None
    endpoint: s3.Endpoint | None = None


@contextmanager
def placed(storage: Storage, tables: Mapping[str, Path], plain: Mapping[str, Path]) -> Iterator[Place]:
    """Put tables where ``storage`` says for as long as the ``with`` lasts.

    Args:
        storage: Where.
        tables: Table name to Parquet file or folder.
        plain: The same of tables for engines that read less; empty if no such engine runs.
    """
    if storage is Storage.FOLDER:
        yield Place(tables=_local(tables), plain=_local(plain))
        return
    with s3.s3_server() as endpoint:
        urls, plain_urls = s3.upload(tables), s3.upload(plain, PLAIN_NAMES)
        if storage is Storage.S3_LATENCY:
            # Only now: uploading is not what is measured.
            endpoint.set_latency(s3.FIRST_BYTE_MS, s3.MS_PER_MIB)
        endpoint.reset()
        yield Place(tables=urls, plain=plain_urls, root=s3.SWARM_URL, endpoint=endpoint)


def _local(tables: Mapping[str, Path]) -> dict[str, str]:
    return {name: f"{path}/" if path.is_dir() else str(path) for name, path in tables.items()}
