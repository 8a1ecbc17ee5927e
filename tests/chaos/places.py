"""Where swarms live: a folder, or a bucket of an S3 service that is started here or named by the environment."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from apiary_df.protocol import keys
from apiary_df.store import Store, open_store
from apiary_df.store_options import StoreOptions

S3_ENDPOINT_VARIABLE = "APIARY_TEST_S3_ENDPOINT"
"""Set it to use another S3 service; credentials then come from the AWS_* variables."""

BUCKET = "apiary-test"

_SERVER = """
import threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
threading.Event().wait()
"""
"""A service that says which port it listens on: one that was looked for before it starts may be another's by then."""


@contextmanager
def a_place(kind: str, folder: Path) -> Iterator[tuple[Store, StoreOptions | None]]:
    """Give a place that nobody else uses.

    Args:
        kind: ``folder`` or ``s3``.
        folder: Where a folder is made.

    Yields:
        The place as a store, and how it is reached.
    """
    if kind == "folder":
        yield open_store((folder / "place").as_uri()), None
        return
    with s3_service() as options:
        yield open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}", options), options


@contextmanager
def s3_service() -> Iterator[StoreOptions]:
    """Give options that reach an S3 service over HTTP with the bucket :data:`BUCKET` in it.

    If the environment names none, one is run in a process of its own: in this one it would share the interpreter's lock
    with sessions.
    """
    outside = os.environ.get(S3_ENDPOINT_VARIABLE)
    if outside:
        there = StoreOptions(endpoint=outside, region="us-east-1", allow_http=True)
        options = there.over(StoreOptions.from_env(os.environ))
        _create_bucket(options)
        yield options
        return
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"the S3 service ended before it listened (exit code {process.wait()})")
        options = StoreOptions(
            endpoint=f"http://127.0.0.1:{port}",
            region="us-east-1",
            access_key_id="test-key-id",
            secret_access_key="test-secret-key",
            allow_http=True,
        )
        _create_bucket(options)
        yield options
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _create_bucket(options: StoreOptions) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=options.endpoint,
        region_name=options.region,
        aws_access_key_id=options.access_key_id,
        aws_secret_access_key=options.secret_access_key,
        aws_session_token=options.session_token,
    )
    if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=BUCKET)
    client.close()


def stray_objects(root: Store, nodes: Collection[str] = ()) -> list[str]:
    """Return what lies below a root and should not: objects of queries, mail, temporary files, heartbeats of the dead.

    Args:
        root: The root.
        nodes: Names of the nodes that may have heartbeats.
    """
    alive = {keys.heartbeat(name) for name in nodes}
    strays = [meta.key for meta in root.list("") if meta.key not in alive]
    folder = root.local_path("x")
    if folder is not None and folder.parent.is_dir():
        known = {meta.key for meta in root.list("")}
        files = (path.relative_to(folder.parent).as_posix() for path in folder.parent.rglob("*") if path.is_file())
        strays += [name for name in files if name not in known]
    return sorted(set(strays))
