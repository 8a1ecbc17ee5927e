"""A proxy before an S3 service that makes requests fail as networks and services do, where a test says so."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from apiary_df.store import StoreOptions

What: TypeAlias = Literal["500", "slow down", "reset", "stall", "lost reply", "cut short", "bit flipped"]
"""How a request goes wrong: answered 500 or 503; its connection reset, or without an answer until the client gives up,
both before it reaches the service; reset once it has had its effect; its answer's body half there, or damaged."""

STALL_S = 30.0
"""Longest that a stalled request is held: longer than any client here waits."""

HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "content-length", "keep-alive"})


@dataclass(slots=True, kw_only=True)
class Trouble:
    """Requests that go wrong.

    Attributes:
        what: How.
        method: HTTP method.
        path: Expression that is looked for in path and query.
        nth: The first that is struck of those that fit, from 1.
        times: How many are struck from there on; None is all.
        seen: How many requests fitted so far.
        struck: How many were struck so far.
    """

    what: What
    method: str
    path: str = ""
    nth: int = 1
    times: int | None = 1
    seen: int = 0
    struck: int = 0

    def strikes(self, method: str, path: str) -> bool:
        """Count a request, and tell whether it goes wrong."""
        if method != self.method or not re.search(self.path, path):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.times is not None and self.struck >= self.times):
            return False
        self.struck += 1
        return True


@dataclass(slots=True, kw_only=True)
class Proxy:
    """A running proxy.

    Attributes:
        options: Options that reach the service through it.
        troubles: What goes wrong; tests may add to it.
        requests: Method and path of all requests so far.
    """

    options: StoreOptions
    troubles: list[Trouble] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def trouble(self, method: str, path: str) -> What | None:
        """Note a request, and return how it goes wrong; None if it does not."""
        with self.lock:
            self.requests.append((method, path))
            return next((trouble.what for trouble in self.troubles if trouble.strikes(method, path)), None)


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    target: str
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        what = self.proxy.trouble(self.command, self.path)
        if what == "stall":
            self.proxy.over.wait(STALL_S)
        if what in ("stall", "reset"):
            self._reset()
        elif what in ("500", "slow down"):
            code, word = (500, "InternalError") if what == "500" else (503, "SlowDown")
            self._answer(code, [], f"<Error><Code>{word}</Code></Error>".encode())
        else:
            self._forward(body, what)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass  # noqa: N815 - names that http.server calls

    def _forward(self, body: bytes, what: What | None) -> None:
        connection = http.client.HTTPConnection(self.target, timeout=STALL_S)
        try:
            connection.request(self.command, self.path, body=body, headers=dict(self.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        if what == "lost reply":
            self._reset()
        elif what == "bit flipped" and content:
            place = len(content) // 2
            content = content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]
            self._answer(answer.status, headers, content)
        elif what == "cut short":
            self._answer(answer.status, headers, content, sent=len(content) // 2)
            self._reset()
        elif self.command == "HEAD":
            self._answer(answer.status, [*headers, ("content-length", answer.getheader("content-length") or "0")], None)
        else:
            self._answer(answer.status, headers, content)

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes | None, sent: int | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if content is not None:
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write((content or b"")[:sent])
        self.wfile.flush()

    def _reset(self) -> None:
        """Close the connection the hard way: the other end sees a reset, not an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RD)

    def log_message(self, format: str, *args: object) -> None:
        return


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def shutdown_request(self, request: object) -> None:
        """Close without the polite shutdown, which would turn a reset into an end."""
        self.close_request(request)  # type: ignore[arg-type]

    def handle_error(self, request: object, client_address: object) -> None:
        return


@contextmanager
def proxy_before(options: StoreOptions) -> Iterator[Proxy]:
    """Run a proxy before the service that options reach."""
    assert options.endpoint is not None
    handler = type("Handler", (_Handler,), {"target": urlsplit(options.endpoint).netloc})
    server = _Server(("127.0.0.1", 0), handler)
    proxy = Proxy(options=replace(options, endpoint=f"http://127.0.0.1:{server.server_port}"))
    handler.proxy = proxy  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
