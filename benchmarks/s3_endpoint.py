"""An S3 service with the latency of a bucket: moto behind a layer that waits and counts. A process of its own.

    python -m benchmarks.s3_endpoint --port 5001 --latency-ms 30 --ms-per-mib 20

Each request to a bucket waits for its first byte and for each MiB that it carries, and is counted, with its bytes,
under the first segment of its key. What is counted is what arrived here, so it holds for every client, DataFusion's own
among them. Requests below ``/_apiary/`` are about the service itself, wait for nothing and are not counted:
``GET /_apiary/counts`` tells the counts, ``POST /_apiary/reset`` begins them anew, ``POST
/_apiary/latency?ms=..&ms_per_mib=..`` sets the waits.

The waits are defaults of the measured latencies of object stores; the service's own time, that of Python, comes on top.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeAlias
from urllib.parse import parse_qs

import typer

OWN_PREFIX = "/_apiary/"
"""Begins the paths that are about the service itself."""

MIB = 1 << 20

StartResponse: TypeAlias = Callable[..., Any]
Application: TypeAlias = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class Counted:
    """A WSGI application in front of another that is an S3 service.

    Args:
        inner: The service.
        latency_s: Wait of each request, in seconds.
        s_per_mib: Wait for each MiB that it carries, in seconds.
    """

    def __init__(self, inner: Application, latency_s: float = 0.0, s_per_mib: float = 0.0) -> None:
        self._inner = inner
        self._latency_s = latency_s
        self._s_per_mib = s_per_mib
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        path = environ.get("PATH_INFO", "")
        if path.startswith(OWN_PREFIX):
            return self._own(path.removeprefix(OWN_PREFIX), environ, start_response)
        body = b"".join(self._inner(environ, start_response))
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        sent, received = len(body), int(environ.get("CONTENT_LENGTH") or 0)
        with self._lock:
            counts = self._counts.setdefault(area_of(path, query), Counter())
            counts[kind_of(method, path, query)] += 1
            counts["bytes_out"] += sent
            counts["bytes_in"] += received
            wait_s = self._latency_s + self._s_per_mib * max(sent, received) / MIB
        time.sleep(wait_s)
        return [body]

    def _own(self, asked: str, environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        with self._lock:
            if asked == "reset":
                self._counts.clear()
            elif asked == "latency":
                given = parse_qs(environ.get("QUERY_STRING", ""))
                self._latency_s = float(given["ms"][0]) / 1000
                self._s_per_mib = float(given["ms_per_mib"][0]) / 1000
            body = json.dumps(self._counts).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


def area_of(path: str, query: str = "") -> str:
    """Return the first segment of a request's key; of a listing, that of its prefix; empty for a bucket's own."""
    key = path.lstrip("/").partition("/")[2]
    prefix = parse_qs(query).get("prefix", [""])[0]
    return (key or prefix).partition("/")[0]


def kind_of(method: str, path: str, query: str) -> str:
    """Return what a request is billed as: ``get``, ``head``, ``list``, ``put`` or ``delete``."""
    named = bool(path.lstrip("/").partition("/")[2])
    if method == "GET":
        return "get" if named else "list"
    if method == "POST":
        return "delete" if "delete" in parse_qs(query, keep_blank_values=True) else "put"
    return method.lower()


def main(
    port: Annotated[int, typer.Option(help="Port on this machine; 0 is one that is free.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    latency_ms: Annotated[float, typer.Option(min=0, help="Wait of each request.")] = 0.0,
    ms_per_mib: Annotated[float, typer.Option(min=0, help="Wait for each MiB that it carries.")] = 0.0,
) -> None:
    """Say on which port, and serve until the process is ended."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    service = Counted(DomainDispatcherApplication(create_backend_app), latency_ms / 1000, ms_per_mib / 1000)
    server = make_server(host, port, service, threaded=True, request_handler=MotoRequestHandler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    typer.run(main)
