"""An S3 service on this machine for the benchmarks: :mod:`benchmarks.s3_endpoint` in a process of its own.

In a process of its own, so that it takes no time from the interpreter that is measured. Its latency is what it is
told to add to that of a local socket and of Python; it shows that everything works over HTTP, and counts requests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from apiary_df.store import open_store

BUCKET = "bench"
SWARM_URL = f"s3://{BUCKET}/swarm"

_HOST = "127.0.0.1"
_STOP_TIMEOUT_S = 5.0


FIRST_BYTE_MS = 30.0
"""What a bucket takes to its first byte, in milliseconds (Durner et al., PVLDB 16(11))."""

MS_PER_MIB = 20.0
"""What each MiB of one stream takes on top, in milliseconds (the same)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The running service.

    Attributes:
        url: Its URL.
    """

    url: str

    def counts(self) -> dict[str, dict[str, int]]:
        """Return requests by kind, and bytes, since the last reset, by the first segment of keys."""
        counts: dict[str, dict[str, int]] = self._ask("counts")
        return counts

    def reset(self) -> None:
        """Begin to count anew."""
        self._ask("reset", method="POST")

    def set_latency(self, first_byte_ms: float, ms_per_mib: float) -> None:
        """Have each request wait from now on, in milliseconds."""
        self._ask(f"latency?ms={first_byte_ms}&ms_per_mib={ms_per_mib}", method="POST")

    def _ask(self, path: str, method: str = "GET") -> dict[str, dict[str, int]]:
        request = urllib.request.Request(f"{self.url}/_apiary/{path}", method=method)
        with urllib.request.urlopen(request) as response:
            answer: dict[str, dict[str, int]] = json.load(response)
            return answer


@contextmanager
def s3_server(*, first_byte_ms: float = 0.0, ms_per_mib: float = 0.0) -> Iterator[Endpoint]:
    """Run the service with an empty bucket; the AWS_* variables of this process and its children name it meanwhile.

    Args:
        first_byte_ms: Wait of each request.
        ms_per_mib: Wait for each MiB that it carries.
    """
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks.s3_endpoint", "--host", _HOST, "--port", "0"),
            *("--latency-ms", str(first_byte_ms), "--ms-per-mib", str(ms_per_mib)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        variables = {
            "AWS_ENDPOINT_URL": f"http://{_HOST}:{_port_of(server)}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "benchmark-key-id",
            "AWS_SECRET_ACCESS_KEY": "benchmark-secret-key",
        }
        with _environment(variables):
            _create_bucket(variables["AWS_ENDPOINT_URL"])
            yield Endpoint(url=variables["AWS_ENDPOINT_URL"])
    finally:
        server.terminate()
        try:
            server.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        if server.stdout is not None:
            server.stdout.close()


def upload(tables: Mapping[str, Path], folder: str = "tables") -> dict[str, str]:
    """Put Parquet files, or folders of them, into the bucket and return their URLs, a folder's with a slash."""
    store = open_store(f"s3://{BUCKET}/{folder}")
    urls = {}
    for name, path in tables.items():
        if path.is_dir():
            for file in sorted(path.glob("*.parquet")):
                store.put(f"{name}/{file.name}", file)
            urls[name] = f"s3://{BUCKET}/{folder}/{name}/"
        else:
            store.put(path.name, path)
            urls[name] = f"s3://{BUCKET}/{folder}/{path.name}"
    return urls


def _create_bucket(endpoint: str) -> None:
    import boto3  # comes with moto

    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=BUCKET)
    client.close()


def _port_of(server: subprocess.Popen[bytes]) -> int:
    """Return the port that a server says it listens on; one that was looked for before it may be another's by then."""
    said = server.stdout.readline() if server.stdout is not None else b""
    if not said:
        raise SystemExit(
            f"the moto server ended before it listened (exit code {server.wait()}); is moto[server] installed? "
            "pip install 'apiary-df[dev]'"
        )
    return int(said)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    # AWS_SESSION_TOKEN of the user's own account must not join these keys.
    names = [*variables, "AWS_SESSION_TOKEN"]
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
